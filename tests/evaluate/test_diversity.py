"""Variety of samples on cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kfexplore.evaluate.samples import distinct, repeated, self_bleu, unigram_entropy


def test_entropy_within_a_sample() -> None:
    assert unigram_entropy(np.array([7, 7, 2, 3])) == pytest.approx(1.5 * np.log(2))
    assert unigram_entropy(np.array([5, 5, 5])) == 0
    assert unigram_entropy(np.arange(9)) == pytest.approx(np.log(9))


def test_distinct_and_repeated_ngrams() -> None:
    sample = np.array([1, 2, 1, 2, 1, 2])
    assert [distinct(sample, n) for n in (1, 2, 3)] == pytest.approx([2 / 6, 2 / 5, 2 / 4])
    assert repeated(sample) == pytest.approx(1 / 3)  # 1212, 2121, 1212
    assert repeated(np.arange(6)) == 0


def test_copies_have_a_self_bleu_of_one_and_strangers_of_nought() -> None:
    assert self_bleu(np.array([[1, 2, 3, 4], [1, 2, 3, 4]])) == pytest.approx([1, 1])
    assert self_bleu(np.array([[1, 2, 3, 4], [5, 6, 7, 8]])) == pytest.approx([0, 0])


def test_self_bleu_by_hand() -> None:
    # 3 of 4; (2 + 1) of (3 + 1); (1 + 1) of (2 + 1); (0 + 1) of (1 + 1)
    one = (3 / 4 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert self_bleu(np.array([[1, 2, 3, 4], [1, 2, 3, 5]])) == pytest.approx([one, one])


def test_counts_are_clipped_by_the_other_samples_not_by_ones_own() -> None:
    # 1111 against 1234 and 1156: 2 of 4; (1 + 1) of (3 + 1); (0 + 1) of (2 + 1); (0 + 1) of (1 + 1)
    found = self_bleu(np.array([[1, 1, 1, 1], [1, 2, 3, 4], [1, 1, 5, 6]]))
    assert found[0] == pytest.approx((2 / 4 * 2 / 4 * 1 / 3 * 1 / 2) ** 0.25)
    # 1234: its 1 is in both others, the rest in none
    assert found[1] == pytest.approx((1 / 4 * 1 / 4 * 1 / 3 * 1 / 2) ** 0.25)
