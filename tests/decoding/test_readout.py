"""Readouts by hand: the frequency penalty and the dithered argmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kfexplore import noise
from kfexplore.config import MOST_DITHER_BITS, DecodeConfig
from kfexplore.decoding.buffers import Step, TokenBuffer, text_lengths
from kfexplore.decoding.readout import argmax, dithered, draw, penalised_argmax
from kfexplore.errors import KfError


def test_penalty_counts_grow_within_the_block() -> None:
    logits = torch.tensor([2.0, 1.8, 1.6, 0.0]).expand(1, 4, 4)
    before = torch.zeros(1, 4)
    # by hand, penalty 0.5: 2.0 wins; then 1.5 < 1.8; then 1.5, 1.3 < 1.6; then 1.5 > 1.3 > 1.1
    tokens, _, counts = penalised_argmax(logits, before, 0.5)
    assert tokens.tolist() == [[0, 1, 2, 0]]
    assert counts.tolist() == [[2, 1, 1, 0]]
    assert before.tolist() == [[0, 0, 0, 0]]


def test_penalty_counts_of_a_row_are_its_own() -> None:
    logits = torch.tensor([[[2.0, 1.8, 0.0]], [[0.0, 1.8, 2.0]]])
    counts = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert penalised_argmax(logits, counts, 0.5)[0].tolist() == [[1], [2]]


def test_near_ties_are_seen() -> None:
    logits = torch.tensor([[[1.0, 1.0 + 1e-5, 0.0], [1.0, 2.0, 0.0]]])
    tokens, near_tie = argmax(logits)
    assert tokens.tolist() == [[1, 1]]
    assert near_tie.tolist() == [[True, False]]
    even = torch.zeros(1, 3, 4)
    u = torch.tensor([[0.5 + 1e-6, 0.5 - 1e-6, 0.6]], dtype=torch.float64)
    tokens, near_tie = draw(even, u)
    assert tokens.tolist() == [[2, 1, 2]]
    assert near_tie.tolist() == [[True, True, False]]
    farther = torch.tensor([[0.5 + 2e-5]], dtype=torch.float64)  # below temperature 1 rounding counts for more
    assert [draw(even[:, :1], farther, temperature)[1].item() for temperature in (1.0, 0.1)] == [False, True]


def test_dither_draws_by_the_bits_below_the_first() -> None:
    # u = 0.8125 is .1101 in binary: without its first bit .101 = 0.625, without two .01 = 0.25, without three 0.5
    logits = torch.tensor([0.3, 0.3, 0.4]).log().expand(1, 1, 3)
    u = torch.tensor([[0.8125]], dtype=torch.float64)
    assert [dithered(logits, u, bits)[0].item() for bits in (1, 2, 3, 4)] == [2, 0, 1, 0]


def test_dither_changes_nothing_for_a_student_that_knows_its_noise() -> None:
    u = torch.from_numpy(noise.uniform(2, range(500), 0, 4))
    exact = (u * 7).long()  # a map of seven cells, known to the last bit
    sure = 100.0 * torch.nn.functional.one_hot(exact, 7).float()
    assert torch.equal(dithered(sure, u, 6)[0], exact)


def test_dither_gives_a_student_that_ignores_its_noise_the_distribution_of_its_softmax() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    u = torch.from_numpy((np.arange(2**14) + 0.5) / 2**14)[:, None]
    tokens, _ = dithered(logits.expand(len(u), 1, 4), u, 6)
    shares = torch.bincount(tokens.flatten(), minlength=4) / len(u)
    # 64 rounds of 256 steps each: a cell's edge is off by less than a step
    assert shares.tolist() == pytest.approx(logits.softmax(0).tolist(), abs=1 / 256)
    # within a cell that the student would have had to know, the distribution is the same: the draw is independent of it
    first = torch.bincount(tokens[: len(u) // 64].flatten(), minlength=4) / (len(u) // 64)
    assert first.tolist() == pytest.approx(logits.softmax(0).tolist(), abs=1 / 256)


def test_the_most_bits_leave_enough_to_draw_with() -> None:
    """A noise value has 24 bits: what a dither leaves is a grid; a distribution on it must stay the same."""
    law = torch.from_numpy(np.random.default_rng(0).dirichlet(np.full(256, 0.05)))

    def grid_tv(bits: int) -> float:
        u = torch.arange(2 ** (24 - bits), dtype=torch.float64)[:, None] * 2.0**-24
        tokens, _ = draw(law.log().expand(len(u), 1, -1), torch.frac(u * 2.0**bits))
        return float((torch.bincount(tokens[:, 0], minlength=256) / len(u) - law).abs().sum()) / 2

    assert grid_tv(16) > 0.03
    assert grid_tv(MOST_DITHER_BITS) < 0.003
    with pytest.raises(KfError, match=f"dither is {MOST_DITHER_BITS + 1} bits"):
        DecodeConfig("pflm", dither=MOST_DITHER_BITS + 1)


def test_dither_reads_the_noise_of_its_own_slot_and_row() -> None:
    logits = torch.zeros(2, 2, 4)
    u = torch.tensor([[0.0, 1 / 8], [2 / 8, 3 / 8]], dtype=torch.float64) + 1 / 16
    assert dithered(logits, u, 1)[0].tolist() == [[0, 1], [2, 3]]


def test_a_text_ends_at_its_first_end_and_holds_it() -> None:
    tokens = np.array([[5, 0, 7, 0], [0, 1, 2, 3], [4, 5, 6, 0], [4, 5, 6, 7]])
    assert text_lengths(tokens, 0).tolist() == [2, 1, 4, 4]
    assert text_lengths(tokens, None).tolist() == [4, 4, 4, 4]


def test_an_end_behind_a_gap_ends_nothing_yet() -> None:
    sheet = TokenBuffer(1, 4, eos=0)
    sheet.write(Step(torch.tensor([[5, 0]]), places=torch.tensor([[0, 2]])))
    assert sheet.lengths.tolist() == [4]
    sheet.write(Step(torch.tensor([[7]]), places=torch.tensor([[1]])))
    assert sheet.lengths.tolist() == [3]
    assert sheet.done
