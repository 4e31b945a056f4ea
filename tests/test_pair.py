"""A pair answers for each row as for the row alone, and refuses what it cannot read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import student, teacher

from kfexplore.errors import KfError
from kfexplore.pair import Pair
from kfexplore.training.data import train_tokenizer

SENTENCES = ["The owl went home.", "The old owl said: go home!", "Rain fell on the old house, and the rain went on."]
CONTEXTS = [[3, 1, 4], [1, 5, 9], [2, 6, 5]]


@pytest.fixture(scope="module")
def pair() -> Pair:
    tokenizer = train_tokenizer(SENTENCES, 270)
    rows = tokenizer.get_vocab_size() + 1
    networks = (teacher(1, 2, vocab_size=rows, context=24), student(11, 2, vocab_size=rows, context=24))
    return Pair(*networks, tokenizer=tokenizer)


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
    same = whole.teacher == whole.student
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


def test_the_longest_context_leaves_room_for_a_block(pair: Pair) -> None:
    assert pair.room == 20
    assert pair.block([[1] * 20], [[0.5] * 4]).student.shape == (1, 4)


def test_short_prompt_is_encoded_whole(pair: Pair) -> None:
    ids, cut = pair.encode("The old owl")
    assert cut == 0
    assert "".join(pair.texts(ids)) == "The old owl"


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
