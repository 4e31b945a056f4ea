"""Agreement on text: right for students whose agreement is known, and the same as that of the pair's own blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.distillation import blind
from kfexplore import noise
from kfexplore.errors import KfError
from kfexplore.evaluate import agreement as module
from kfexplore.evaluate.agreement import agreement, binned, text_ids
from kfexplore.pair import Pair
from kfexplore.training.targets import exact_targets

from .synthetic import TEXT


def answer_with(pair: Pair, monkeypatch: pytest.MonkeyPatch, tokens: Any) -> None:
    """Makes the student put all its weight on tokens(ids, noise, ends)."""

    def logits(ids: Tensor, u: Tensor, ends: Tensor, _: float = 1.0) -> Tensor:
        chosen = tokens(ids, u, ends)
        return 100.0 * torch.nn.functional.one_hot(chosen, pair.teacher.config.vocab_size).float()

    monkeypatch.setattr(pair.student, "group_logits", logits)


def test_an_exact_student_agrees_always(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(pair, monkeypatch, lambda ids, u, ends: exact_targets(pair.teacher, ids, u, ends))
    measured = agreement(pair, [TEXT], windows=3, groups=5)
    assert measured.agreement_by_slot == [1.0] * 4
    limit = pytest.approx(1 - 0.025 ** (1 / 3))  # no miss in three windows
    assert measured.agreement_by_slot_interval == [limit] * 4
    assert (measured.agreement_block, measured.agreement_block_interval) == (1.0, limit)
    assert measured.student_nll_by_slot == pytest.approx([0.0] * 4)


def test_a_constant_student_agrees_as_often_as_noise_falls_into_its_cell(
    fixed_law: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = fixed_law
    answer_with(pair, monkeypatch, lambda _, u, __: torch.full(u.shape, 40))
    measured = agreement(pair, [TEXT], windows=4, groups=6, seed=3)
    u = noise.uniform(3, range(24), 0, 4)
    hits = (u > 0.2) & (u <= 0.5)
    assert measured.agreement_by_slot == pytest.approx(hits.mean(axis=0))
    assert measured.agreement_block == pytest.approx(hits.all(axis=1).mean())
    assert measured.agreement_by_length == pytest.approx([hits[:, :k].all(axis=1).mean() for k in range(1, 5)])
    spread = hits.reshape(4, 6, 4).mean(axis=1).std(axis=0, ddof=1)
    assert measured.agreement_by_slot_interval == pytest.approx(3.18245 * spread / 2, rel=1e-4)  # t, 4 windows
    assert measured.student_nll_by_slot == pytest.approx(100.0 * (1 - hits.mean(axis=0)), abs=1e-3)


def test_a_noise_blind_student_names_the_most_likely_token(fixed_law: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    share, nats = blind(fixed_law, [TEXT], windows=3, groups=5)
    law = np.array([0.2, 0.3, 0.5])
    assert (share, nats) == pytest.approx((0.5, -(law * np.log(law)).sum()))
    answer_with(fixed_law, monkeypatch, lambda _, u, __: torch.full(u.shape, 70))
    measured = agreement(fixed_law, [TEXT], windows=4, groups=200)
    assert measured.agreement_by_slot[0] == pytest.approx(share, abs=0.15)


def test_the_noise_blind_are_measured_after_the_prefixes_of_the_agreement(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.teacher.output_layer.linear.weight.mul_(6)  # distributions that differ from place to place
    laws: list[Tensor] = []

    def spied(ids: Tensor, u: Tensor, ends: Tensor) -> Tensor:
        laws.extend(pair.teacher.log_probs(ids[:, :end])[0, -1].double() for end in ends[0].tolist())
        return torch.zeros_like(u).long()

    answer_with(pair, monkeypatch, spied)
    agreement(pair, [TEXT], windows=3, groups=7, seed=4)
    share, nats = blind(pair, [TEXT], windows=3, groups=7, seed=4)
    assert share == pytest.approx(np.mean([float(law.exp().max()) for law in laws]))
    assert nats == pytest.approx(np.mean([-float((law.exp() * law).sum()) for law in laws]), rel=1e-4)


def test_loss_of_the_teacher_is_read_at_the_next_token(pair: Pair) -> None:
    whole = torch.from_numpy(text_ids(pair, [TEXT])[0])
    losses = []
    for ids in (whole[: pair.room], whole[-pair.room :]):
        law = pair.teacher.log_probs(ids[None])[0]
        losses += [-float(law[at, ids[at + 1]]) for at in range(len(ids) - 1)]
    assert agreement(pair, [TEXT], windows=2, groups=2).teacher_nll == pytest.approx(np.mean(losses), abs=1e-5)


def test_fractions_are_those_of_the_pairs_own_blocks(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def spied(network: Any, ids: Tensor, u: Tensor, ends: Tensor, _: float) -> Tensor:
        asked.append((ids, u, ends))
        return exact_targets(network, ids, u, ends)

    monkeypatch.setattr(module, "exact_targets", spied)
    measured = agreement(pair, [TEXT], windows=3, groups=20, seed=0)
    blocks = []
    for ids, u, ends in asked:
        assert len(set(ends[0].tolist())) == 20  # prefixes of a window are drawn without replacement
        assert ends.min() >= 8
        blocks += [pair.block(ids[:, :end], u[:, g]) for g, end in enumerate(ends[0].tolist())]
    same = np.concatenate([block.teacher == block.student for block in blocks])
    assert same.any()
    assert len(same) == measured.blocks == 60
    assert measured.agreement_by_slot == pytest.approx(same.mean(axis=0))
    assert measured.agreement_block == pytest.approx(same.all(axis=1).mean())


def test_windows_are_parts_of_the_text_and_no_more_than_fit(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    answer_with(pair, monkeypatch, lambda ids, u, _: seen.append(ids[0].tolist()) or torch.zeros_like(u).long())
    measured = agreement(pair, [TEXT], windows=1000, groups=2)
    whole = text_ids(pair, [TEXT])[0].tolist()
    assert measured.windows == len(seen) == len(whole) // pair.room
    assert (seen[0], seen[-1]) == (whole[: pair.room], whole[-pair.room :])
    assert (measured.tokens, measured.context) == (len(whole), pair.room)


def test_the_same_seed_measures_the_same_and_another_does_not(pair: Pair) -> None:
    one, again, other = (agreement(pair, [TEXT], windows=3, groups=8, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one.student_nll_by_slot != other.student_nll_by_slot


def test_a_text_shorter_than_a_context_is_refused(pair: Pair) -> None:
    with pytest.raises(KfError, match="64 windows of 36 tokens were requested; the text has 3"):
        agreement(pair, ["go"])


def test_one_window_has_no_interval_and_is_refused(pair: Pair) -> None:
    with pytest.raises(KfError, match="1 windows"):
        agreement(pair, [TEXT], windows=1)


def test_a_pair_without_a_tokenizer_is_refused(pair: Pair) -> None:
    with pytest.raises(KfError, match="no tokenizer"):
        agreement(Pair(pair.teacher, pair.student), [TEXT])


def test_bins_have_hand_counted_fractions() -> None:
    values = np.array([[0.5, 1.0, 1.5], [2.0, 3.0, 0.0]])  # inner edges belong above, the last edge below
    hits = np.array([[True, True, False], [False, True, False]])
    first, second, third = binned(values, hits, np.array([0.0, 1.0, 2.0, 3.0]))
    assert [(b.low, b.high, b.blocks) for b in (first, second, third)] == [(0, 1, 2), (1, 2, 2), (2, 3, 2)]
    assert [b.share.value for b in (first, second, third)] == [0.5, 0.5, 0.5]
    # by hand: hits 1 of 1 and 0 of 1; the windows differ twice as much as chance, so one trial is left of two
    assert (first.share.low, first.share.high) == pytest.approx((0.0015, 0.9985), abs=1e-3)
    assert [b.blocks for b in binned(values, hits, np.array([-1.0, 0.0, 4.0]))] == [6]  # an empty bin is left out


def test_bins_of_entropy_are_those_before_the_block(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.teacher.output_layer.linear.weight.mul_(6)  # distributions that differ from place to place
    asked: list[tuple[Tensor, Tensor]] = []
    answer_with(pair, monkeypatch, lambda ids, u, ends: asked.append((ids, ends)) or torch.zeros_like(u).long())
    measured = agreement(pair, [TEXT], windows=3, groups=7)
    found = []
    for ids, ends in asked:
        for end in ends[0].tolist():
            law = pair.teacher.log_probs(ids[:, :end])[0, -1].double()
            found.append(float(-(law.exp() * law).sum()))
    counts = np.histogram(found, bins=np.arange(8))[0]
    assert (counts > 0).sum() > 2
    assert {int(b.low): b.blocks for b in measured.block_by_entropy} == {i: n for i, n in enumerate(counts) if n}
    for bins in measured.agreement_by_entropy:
        assert [b.blocks for b in bins] == [b.blocks for b in measured.block_by_entropy]


def test_fractions_of_bins_add_up_to_the_fraction_of_the_slot(pair: Pair) -> None:
    measured = agreement(pair, [TEXT], windows=3, groups=20)
    for rows in (measured.agreement_by_entropy, measured.agreement_by_margin):
        for bins, share in zip(rows, measured.agreement_by_slot, strict=True):
            assert sum(b.blocks for b in bins) == measured.blocks
            assert sum(b.blocks * b.share.value for b in bins) / measured.blocks == pytest.approx(share)
    assert [b.blocks for b in measured.agreement_by_margin[0]] == [12] * 5


def test_margin_is_the_distance_of_the_two_largest_logits(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    # The student is exact where its margin is 2, and where it is 1 names a token that the teacher never chooses.
    def logits(ids: Tensor, u: Tensor, ends: Tensor, _: float = 1.0) -> Tensor:
        exact = exact_targets(pair.teacher, ids, u, ends)
        sure = (u < 0.4).float()[..., None]
        chosen = torch.where(u < 0.4, exact, pair.teacher.config.mask_id)
        return 3 + (1 + sure) * torch.nn.functional.one_hot(chosen, pair.teacher.config.vocab_size)

    monkeypatch.setattr(pair.student, "group_logits", logits)
    for bins in agreement(pair, [TEXT], windows=3, groups=20).agreement_by_margin:
        assert {(b.low, b.share.value) for b in bins} == {(1.0, 0.0), (2.0, 1.0)}
