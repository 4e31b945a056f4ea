"""A pair answers for each row as for the row alone, and refuses what it cannot read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import written_pair
from shell import SENTENCES
from transformers import PreTrainedTokenizerFast

from kfexplore.errors import KfError
from kfexplore.maps import grid
from kfexplore.pair import Pair, load_pair, pair_from_files

CONTEXTS = [[3, 1, 4], [1, 5, 9], [2, 6, 5]]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return written_pair(SENTENCES, 270, context=24)


def test_rows_in_any_order_with_repeated_contexts_are_the_rows_alone(pair: Pair) -> None:
    which = [0, 2, 1, 0, 0, 2, 1, 1, 0]
    ids, u = [CONTEXTS[n] for n in which], np.random.default_rng(0).random((9, 4))
    together = pair.block(torch.tensor(ids), u)
    for row in range(9):
        single = pair.block([ids[row]], [u[row].tolist()])
        for name in ("u", "teacher", "student"):
            assert np.array_equal(getattr(together, name)[row], getattr(single, name)[0])
        assert together.margins[row] == pytest.approx(single.margins[0], abs=1e-4)
        assert together.edges[row] == pytest.approx(single.edges[0], abs=1e-5)


def test_agreement_is_counted_by_slot_and_by_whole_block(pair: Pair) -> None:
    whole = pair.block([CONTEXTS[0]] * 200, np.random.default_rng(0).random((200, 2)))
    same = whole.exact == whole.learned
    assert whole.agreement_by_slot.tolist() == [same[:, 0].mean(), same[:, 1].mean()]
    assert whole.agreement_block == np.mean([all(row) for row in same])


NOISE = [[0.1, 0.2]]
REFUSED: dict[str, tuple[Any, Any, str]] = {
    "ids without rows": ([3, 1], NOISE, "shape"),
    "noise without rows": ([[3, 1]], [0.1, 0.2], "shape"),
    "another number of rows": ([[3, 1]], NOISE * 2, "shape"),
    "no rows": (np.empty((0, 2), dtype=np.int64), np.empty((0, 2)), "shape"),
    "an empty context": ([[]], NOISE, "empty"),
    "negative id": ([[3, -1]], NOISE, "-1 is not in the vocabulary"),
    "id beyond the vocabulary": ([[3, 10_000]], NOISE, "10000 is not in the vocabulary"),
    "id beyond 64 bits": ([[3, 10**20]], NOISE, "whole numbers"),
    "ids that are not whole": ([[3, 1.5]], NOISE, "whole numbers"),
    "ids that are words": ([["a", "b"]], NOISE, "whole numbers"),
    "a context that leaves no room": ([[1] * 21], NOISE, "21 tokens"),
    "no noise": ([[3, 1]], [[]], "0 noise values"),
    "more noise than slots": ([[3, 1]], [[0.1] * 5], "5 noise values"),
    "noise of 1": ([[3, 1]], [[0.1, 1.0]], "outside"),
    "noise that is no number": ([[3, 1]], [[0.1, float("nan")]], "outside"),
    "ragged ids": ([[3, 1], [2]], NOISE * 2, "whole numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_a_user_error(pair: Pair, case: str) -> None:
    ids, noise, message = REFUSED[case]
    with pytest.raises(KfError, match=message):
        pair.block(ids, noise)


def test_a_teacher_alone_has_the_exact_map_and_says_so_of_the_rest(pair: Pair) -> None:
    alone, u = Pair(pair.teacher), np.random.default_rng(0).random((6, 4))
    ids = [CONTEXTS[n] for n in (0, 1, 0, 2, 1, 0)]
    found, whole = alone.block(ids, u), pair.block(ids, u)
    assert np.array_equal(found.exact, whole.exact)
    assert not found.has_student
    assert found.take(slice(2, 4)).teacher.tolist() == whole.exact[2:4].tolist()
    for asked in (
        lambda: found.learned,
        lambda: found.margins,
        lambda: found.agreement_block,
        lambda: grid(alone.prefill(ids[0]), u[0], (0, 1), 4).agreement,
        alone.need_student,
    ):
        with pytest.raises(KfError, match=r"This pair has no student\.(.|\n)*--student FILE"):
            asked()


def test_a_teacher_alone_has_more_slots_than_its_student_but_not_any_number(pair: Pair) -> None:
    alone = Pair(pair.teacher)
    assert (alone.k_max, alone.room) == (8, 16)
    assert alone.block([[1] * 16], [[0.5] * 8]).teacher.shape == (1, 8)
    with pytest.raises(KfError, match="9 noise values were given"):
        alone.block([[1]], [[0.5] * 9])


def test_a_teacher_alone_with_a_tokenizer_of_transformers_is_saved_and_found_again(pair: Pair, tmp_path: Path) -> None:
    wrapped: Any = PreTrainedTokenizerFast(tokenizer_object=pair.tokenizer)
    alone = Pair(pair.teacher, tokenizer=wrapped)
    assert alone.encode(SENTENCES[0]) == pair.encode(SENTENCES[0])
    alone.save_pretrained(tmp_path)
    assert not (tmp_path / "student").exists()
    for found in (load_pair(tmp_path), pair_from_files(tmp_path / "teacher", None, tmp_path / "tokenizer.json")):
        assert found.student is None
        assert found.block([CONTEXTS[0]], NOISE).teacher.tolist() == pair.block([CONTEXTS[0]], NOISE).teacher.tolist()
    assert pair_from_files(tmp_path / "teacher").info["name"] == "teacher"


def test_the_longest_context_leaves_room_for_a_block(pair: Pair) -> None:
    assert pair.room == 20
    assert pair.block([[1] * 20], [[0.5] * 4]).student.shape == (1, 4)


def test_long_prompt_loses_its_beginning_and_says_how_much(pair: Pair) -> None:
    text = " ".join(SENTENCES)
    whole = pair.tokenizer.encode(text).ids
    ids, cut = pair.encode(text)
    assert len(whole) > pair.room
    assert cut == len(whole) - pair.room
    assert ids == whole[cut:]


def test_empty_prompt_is_refused(pair: Pair) -> None:
    with pytest.raises(KfError, match="empty"):
        pair.encode("")


def test_without_a_tokenizer_there_are_ids_but_no_texts(pair: Pair) -> None:
    bare = Pair(pair.teacher, pair.student)
    assert bare.texts([1, 2]) == []
    with pytest.raises(KfError, match="no tokenizer"):
        bare.encode("The old owl")


def test_a_block_at_a_temperature_follows_the_teacher_divided_by_it(pair: Pair) -> None:
    found = pair.block(CONTEXTS, [[0.3, 0.6, 0.1]] * 3, temperature=0.5)
    for ids, tokens in zip(CONTEXTS, found.exact.tolist(), strict=True):
        for n, u in enumerate([0.3, 0.6, 0.1]):
            law = (pair.teacher(torch.tensor([ids + tokens[:n]]))[0, -1].double() / 0.5).softmax(0).cumsum(0)
            assert tokens[n] == int((law < u).sum())
    assert found.learned.tolist() != pair.block(CONTEXTS, [[0.3, 0.6, 0.1]] * 3).student.tolist()


@pytest.mark.parametrize(
    ("training", "known"),
    [
        (None, (1, 1)),
        ("two days", (1, 1)),
        ({"recipe": "tales-cpu"}, (1, 1)),
        ({"student_temperatures": [0.3, 1.0]}, (0.3, 1)),
        ({"student_temperatures": ["a", 1]}, (1, 1)),
        ({"student_temperatures": [1, 10**400]}, (1, 1)),
        ({"student_temperatures": [float("nan"), 1]}, (1, 1)),
        ({"student_temperatures": [1]}, (1, 1)),
    ],
)
def test_the_temperatures_of_a_student_are_what_its_training_says(
    pair: Pair, training: object, known: tuple[float, float]
) -> None:
    assert Pair(pair.teacher, pair.student, info={"training": training}).temperatures == known
