"""Agreement on text: right for students whose agreement is known, and the same as that of the pair's own blocks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import student, teacher
from torch import Tensor

from kfexplore import noise
from kfexplore.errors import KfError
from kfexplore.evaluate import agreement as module
from kfexplore.evaluate.agreement import agreement, read_text
from kfexplore.pair import Pair
from kfexplore.training.data import train_tokenizer
from kfexplore.training.targets import exact_targets

TEXT = "The old owl said: go home! Rain fell on the old house, and the rain went on. " * 4


@pytest.fixture
def pair() -> Pair:
    tokenizer = train_tokenizer([TEXT], 265)
    rows = tokenizer.get_vocab_size() + 1
    networks = (teacher(1, vocab_size=rows, context=40), student(11, vocab_size=rows, context=40))
    return Pair(*networks, tokenizer=tokenizer)


def answer_with(pair: Pair, monkeypatch: pytest.MonkeyPatch, tokens: Any) -> None:
    """Makes the student put all its weight on tokens(ids, noise, ends)."""

    def logits(ids: Tensor, u: Tensor, ends: Tensor) -> Tensor:
        chosen = tokens(ids, u, ends)
        return 100.0 * torch.nn.functional.one_hot(chosen, pair.teacher.config.vocab_size).float()

    monkeypatch.setattr(pair.student, "group_logits", logits)


def test_an_exact_student_agrees_always(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(pair, monkeypatch, lambda ids, u, ends: exact_targets(pair.teacher, ids, u, ends))
    measured = agreement(pair, [TEXT], windows=3, groups=5)
    assert measured.agreement_by_slot == [1.0] * 4
    assert measured.agreement_by_slot_interval == [0.0] * 4
    assert (measured.agreement_block, measured.agreement_block_interval) == (1.0, 0.0)
    assert measured.student_nll_by_slot == pytest.approx([0.0] * 4)


def test_a_constant_student_agrees_as_often_as_noise_falls_into_its_cell(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A teacher whose law never changes: token 40 owns (0.2, 0.5], token 70 (0.5, 1].
    head = pair.teacher.output_layer.linear
    head.weight.zero_()
    head.bias.fill_(-100.0)
    head.bias[[30, 40, 70]] = torch.tensor([0.2, 0.3, 0.5]).log()
    answer_with(pair, monkeypatch, lambda _, u, __: torch.full(u.shape, 40))
    measured = agreement(pair, [TEXT], windows=4, groups=6, seed=3)
    u = noise.uniform(3, range(24), 0, 4)
    hits = (u > 0.2) & (u <= 0.5)
    assert measured.agreement_by_slot == pytest.approx(hits.mean(axis=0))
    assert measured.agreement_block == pytest.approx(hits.all(axis=1).mean())
    spread = hits.reshape(4, 6, 4).mean(axis=1).std(axis=0, ddof=1)
    assert measured.agreement_by_slot_interval == pytest.approx(1.96 * spread / 2)
    assert measured.student_nll_by_slot == pytest.approx(100.0 * (1 - hits.mean(axis=0)), abs=1e-3)


def test_loss_of_the_teacher_is_that_of_the_text(pair: Pair) -> None:
    head = pair.teacher.output_layer.linear
    head.weight.zero_()
    head.bias.zero_()
    measured = agreement(pair, [TEXT], windows=2, groups=2)
    assert measured.teacher_nll == pytest.approx(np.log(pair.teacher.config.vocab_size - 1), abs=1e-5)


def test_loss_of_the_teacher_is_read_at_the_next_token(pair: Pair) -> None:
    whole = torch.tensor(pair.tokenizer.encode(TEXT).ids)
    losses = []
    for ids in (whole[: pair.room], whole[-pair.room :]):
        law = pair.teacher.log_probs(ids[None])[0]
        losses += [-float(law[at, ids[at + 1]]) for at in range(len(ids) - 1)]
    assert agreement(pair, [TEXT], windows=2, groups=2).teacher_nll == pytest.approx(np.mean(losses), abs=1e-5)


def test_shares_are_those_of_the_pairs_own_blocks(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def spied(network: Any, ids: Tensor, u: Tensor, ends: Tensor) -> Tensor:
        asked.append((ids, u, ends))
        return exact_targets(network, ids, u, ends)

    monkeypatch.setattr(module, "exact_targets", spied)
    measured = agreement(pair, [TEXT], windows=3, groups=20, seed=4)
    blocks = []
    for ids, u, ends in asked:
        assert len(set(ends[0].tolist())) == 20  # prefixes of a stretch are drawn without replacement
        assert ends.min() >= 8
        blocks += [pair.block(ids[:, :end], u[:, g]) for g, end in enumerate(ends[0].tolist())]
    same = np.concatenate([block.teacher == block.student for block in blocks])
    assert same.any()
    assert len(same) == measured.blocks == 60
    assert measured.agreement_by_slot == pytest.approx(same.mean(axis=0))
    assert measured.agreement_block == pytest.approx(same.all(axis=1).mean())


def test_stretches_are_parts_of_the_text_and_no_more_than_fit(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    answer_with(pair, monkeypatch, lambda ids, u, _: seen.append(ids[0].tolist()) or torch.zeros_like(u).long())
    measured = agreement(pair, [TEXT], windows=1000, groups=2)
    whole = pair.tokenizer.encode(TEXT).ids
    assert measured.windows == len(seen) == len(whole) // pair.room
    assert (seen[0], seen[-1]) == (whole[: pair.room], whole[-pair.room :])
    assert (measured.tokens, measured.context) == (len(whole), pair.room)


def test_the_same_seed_measures_the_same_and_another_does_not(pair: Pair) -> None:
    one, again, other = (agreement(pair, [TEXT], windows=3, groups=8, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one.student_nll_by_slot != other.student_nll_by_slot
    assert set(one.as_json()) == {field.name for field in dataclasses.fields(one)}


def test_a_text_shorter_than_a_context_is_refused(pair: Pair) -> None:
    with pytest.raises(KfError, match="64 windows of 36 tokens were asked for, the text has 2"):
        agreement(pair, ["go"])


def test_one_window_has_no_interval_and_is_refused(pair: Pair) -> None:
    with pytest.raises(KfError, match="1 windows"):
        agreement(pair, [TEXT], windows=1)


def test_a_pair_without_a_tokenizer_is_refused(pair: Pair) -> None:
    with pytest.raises(KfError, match="no tokenizer"):
        agreement(Pair(pair.teacher, pair.student), [TEXT])


def test_texts_of_a_folder_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(f"text of {name} —", encoding="utf-8")
    assert read_text(tmp_path) == ["text of a.txt —", "text of b.txt —"]
    assert read_text(tmp_path / "c.md") == ["text of c.md —"]


def test_missing_and_unreadable_texts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "empty").mkdir()
    for path, message in (("none.txt", "no text"), ("empty", "no text"), ("latin.txt", "not UTF-8")):
        with pytest.raises(KfError, match=message):
            read_text(tmp_path / path)
