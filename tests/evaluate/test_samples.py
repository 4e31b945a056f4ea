"""Samples: the same in any batch, scored as the teacher scores them, and measured against the teacher's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kfexplore.config import DecodeConfig
from kfexplore.decoding.generate import Networks, generate, keyed_noise
from kfexplore.errors import KfError
from kfexplore.evaluate.samples import (
    Written,
    decoders,
    distinct,
    name,
    repeated,
    scored,
    self_bleu,
    token_losses,
    unigram_entropy,
    write,
)
from kfexplore.pair import Pair

PREFIXES = np.array([[3, 1, 4], [1, 5, 9], [2, 6, 5], [3, 5, 8], [9, 7, 9]])


def test_decoders_are_the_teacher_every_k_and_both_readouts_of_the_largest() -> None:
    names = [name(decoder) for decoder in decoders(3, 0.5, 6)]
    assert names == ["AR", "K = 1", "K = 2", "K = 3", "K = 3, penalty 0.5", "K = 3, dither 6 bits"]
    assert [name(d) for d in decoders(1, 0.0, 4)] == ["AR", "K = 1", "K = 1, dither 4 bits"]
    assert name(DecodeConfig("ar", temperature=0.5)) == "AR, tau 0.5"


@pytest.mark.parametrize(
    "decoder",
    [
        DecodeConfig("ar"),
        DecodeConfig("pflm", 4),
        DecodeConfig("pflm", 4, frequency_penalty=0.5),
        DecodeConfig("pflm", 3, dither=6),
    ],
)
def test_samples_do_not_depend_on_the_batch(pair: Pair, decoder: DecodeConfig) -> None:
    whole, parts = (write(pair, PREFIXES, 8, decoder, seed=3, batch=batch) for batch in (5, 2))
    assert np.array_equal(whole.tokens, parts.tokens)
    assert whole.nfe == parts.nfe == {None: 8, 4: 2, 3: 3}[decoder.k]


@pytest.mark.parametrize("decoder", [DecodeConfig("pflm", 4, frequency_penalty=0.5), DecodeConfig("ar")])
def test_samples_are_the_decoders_own(pair: Pair, decoder: DecodeConfig) -> None:
    networks = Networks(pair.teacher, pair.student)
    noise = keyed_noise(3, range(5), decoder, networks, 8)
    expected = generate(decoder, networks, PREFIXES.tolist(), noise, 8).tokens
    assert np.array_equal(write(pair, PREFIXES, 8, decoder, seed=3).tokens, expected)


def test_loss_is_the_teachers_on_the_new_tokens_alone(pair: Pair) -> None:
    tokens = np.array([[2, 7], [1, 8], [2, 8], [1, 8], [2, 8]])
    expected = []
    for prefix, new in zip(PREFIXES.tolist(), tokens.tolist(), strict=True):
        one = pair.teacher.log_probs(torch.tensor([prefix]))[0, -1, new[0]]
        two = pair.teacher.log_probs(torch.tensor([[*prefix, new[0]]]))[0, -1, new[1]]
        expected.append([-float(one), -float(two)])
    assert token_losses(pair.teacher, PREFIXES, tokens) == pytest.approx(np.array(expected), abs=1e-5)


def test_loss_ratio_is_against_the_first_decoders_samples(fixed_law: Pair) -> None:
    # A distribution of 0.2, 0.3 and 0.5 whatever came before.
    own = Written(DecodeConfig("ar"), np.array([[30, 40, 70, 70], [70, 70, 70, 70]]), 4)
    other = Written(DecodeConfig("pflm", 2), np.array([[70, 70, 70, 70], [70, 70, 70, 70]]), 2)
    first, second = scored(fixed_law.teacher, PREFIXES[:2], [own, other])
    half = np.log(2)
    losses = [(-np.log(0.2) - np.log(0.3) + 2 * half) / 4, half]
    assert first.teacher_nll.value == pytest.approx(np.mean(losses), abs=1e-5)
    assert first.teacher_nll.half == pytest.approx(12.7062 * (losses[0] - losses[1]) / 2, abs=1e-4)  # t, two samples
    assert (first.teacher_nll_ratio.value, first.teacher_nll_ratio.half) == pytest.approx((1, 0))
    assert second.teacher_nll_ratio.value == pytest.approx(half / np.mean(losses), abs=1e-5)
    assert (second.teacher_nll.value, second.teacher_nll.half) == pytest.approx((half, 0), abs=1e-5)
    assert (first.k, second.k, second.nfe, second.decoder) == (1, 2, 2, "K = 2")


def test_diversity_is_counted_within_each_sample(fixed_law: Pair) -> None:
    tokens = np.array([[30, 40, 30, 40, 30, 40], [30, 30, 30, 30, 30, 30]])
    (row,) = scored(fixed_law.teacher, PREFIXES[:2], [Written(DecodeConfig("ar"), tokens, 6)])
    assert row.entropy.value == pytest.approx(np.log(2) / 2)
    assert row.distinct_1.value == pytest.approx((2 / 6 + 1 / 6) / 2)
    assert row.distinct_2.value == pytest.approx((2 / 5 + 1 / 5) / 2)
    assert row.distinct_3.value == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert row.repeated_4.value == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert row.distinct_1.half == pytest.approx(12.7062 * (1 / 6) / 2, abs=1e-4)


def test_samples_without_a_4_gram_are_refused(pair: Pair) -> None:
    with pytest.raises(KfError, match="3 tokens"):
        write(pair, PREFIXES, 3, DecodeConfig("ar"))


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
