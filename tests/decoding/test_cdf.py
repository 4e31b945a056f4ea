"""The inverse CDF: token-id order, F(v - 1) < u <= F(v), and never a token of probability zero."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kfexplore.decoding.cdf import cdf, inverse_cdf, invert

BELOW_ONE = math.nextafter(1.0, 0.0)
STEPS = torch.tensor([0.0, 0.0, 0.25, 0.5, 0.5, 1.0, 1.0], dtype=torch.float64)
"""F of a distribution with probability on tokens 2, 3 and 5 only; every value is exact in binary."""


def law(*probabilities: float) -> Tensor:
    """Logits of a distribution; 0 becomes minus infinity."""
    return torch.tensor(probabilities, dtype=torch.float64).log().float()


def chosen(cumulative: Tensor, *u: float) -> list[int]:
    return invert(cumulative, torch.tensor(u, dtype=torch.float64)).tolist()


def test_zero_chooses_the_first_token_of_positive_probability() -> None:
    assert chosen(STEPS, 0.0) == [2]
    assert inverse_cdf(law(0, 0, 0.25, 0.75), torch.tensor(0.0)) == 2


def test_an_edge_belongs_to_the_token_that_ends_there() -> None:
    assert chosen(STEPS, 0.25, 0.5) == [2, 3]


def test_just_above_an_edge_is_the_next_token_that_has_a_cell() -> None:
    assert chosen(STEPS, math.nextafter(0.25, 1), math.nextafter(0.5, 1), 5e-324) == [3, 5, 2]


def test_just_under_one_is_the_last_token_that_has_a_cell() -> None:
    assert chosen(STEPS, BELOW_ONE) == [5]


def test_noise_that_float32_rounded_to_one_is_the_last_token_that_has_a_cell() -> None:
    rounded = torch.tensor(BELOW_ONE).float()
    assert rounded == 1
    assert invert(STEPS, rounded[None]).tolist() == [5]
    assert inverse_cdf(law(0.5, 0.5, 0), rounded) == 1


def test_noise_above_a_total_that_rounding_left_under_one_is_not_the_mask() -> None:
    short = torch.tensor([0.5, 1 - 1e-9, 1 - 1e-9], dtype=torch.float64)
    assert chosen(short, 1 - 1e-12, BELOW_ONE, 1.0) == [1, 1, 1]


@pytest.mark.parametrize("mask_logit", [-1000.0, -1e6, -math.inf])
@pytest.mark.parametrize("mask_at", [0, 3])
def test_the_mask_is_never_chosen(mask_logit: float, mask_at: int) -> None:
    logits = torch.tensor([0.1, -2.0, 1.3, 0.4])
    logits[mask_at] = mask_logit
    u = torch.tensor([0.0, 2.0**-24, 0.3, 0.9, BELOW_ONE, 1.0], dtype=torch.float64)
    assert mask_at not in invert(cdf(logits), u).tolist()


def test_frequencies_over_a_fine_grid_of_noise_are_the_probabilities() -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(0)) * 2
    logits[17] = -math.inf
    size = 1 << 14
    u = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    shares = torch.bincount(invert(cdf(logits), u), minlength=30) / size
    torch.testing.assert_close(shares.double(), logits.double().softmax(0), rtol=0, atol=1.01 / size)


def test_running_sum_is_in_double_precision() -> None:
    logits = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    exact = np.exp(logits.numpy().astype(np.longdouble))
    expected = np.cumsum(exact / exact.sum())
    assert np.abs(cdf(logits).numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_each_row_of_a_batch_is_inverted_on_its_own(shape: tuple[int, ...]) -> None:
    drawn = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, 8, generator=drawn)
    u = torch.rand(shape, generator=drawn, dtype=torch.float64)
    tokens = inverse_cdf(logits, u)
    alone = [inverse_cdf(row, v) for row, v in zip(logits.view(-1, 8), u.view(-1), strict=True)]
    assert tokens.shape == shape
    assert tokens.flatten().tolist() == [int(token) for token in alone]


def test_many_values_a_row_are_inverted_at_once() -> None:
    cumulative = cdf(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    u = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = [np.searchsorted(f, v).tolist() for f, v in zip(cumulative.numpy(), u.numpy(), strict=True)]
    assert invert(cumulative, u).tolist() == expected


LOGIT = st.one_of(st.floats(-40, 40, width=32), st.just(-math.inf), st.just(-1000.0))
NOISE = st.one_of(st.floats(0, 1), st.integers(0, 2**24 - 1).map(lambda n: n * 2.0**-24))


ROW = st.lists(LOGIT, min_size=1, max_size=12).filter(lambda row: max(row) > -1000)


@settings(max_examples=120)
@given(ROW, NOISE, st.integers(0, 12))
def test_noise_lies_in_the_cell_of_the_token_it_chooses(row: list[float], u: float, edge: int) -> None:
    logits = torch.tensor(row)
    f = [0.0, *cdf(logits).tolist()]
    for noise in (u, min(f[min(edge, len(row))], 1.0)):  # also exactly on an edge of this distribution
        v = int(inverse_cdf(logits, torch.tensor(noise, dtype=torch.float64)))
        assert logits.double().softmax(0)[v] > 0
        assert f[v] < f[v + 1]
        assert f[v] < noise or f[v] == 0
        assert noise <= f[v + 1] or f[v + 1] == f[-1]


@settings(max_examples=120)
@given(ROW, NOISE)
def test_the_token_is_that_of_numpy(row: list[float], u: float) -> None:
    logits = np.array(row, dtype=np.float32).astype(np.float64)
    law = np.exp(logits - logits.max())
    law /= law.sum()
    f = np.cumsum(law)
    having = np.flatnonzero(law)
    expected = int(np.clip(np.searchsorted(f, u), having[0], having[-1]))
    token = int(inverse_cdf(torch.tensor(row), torch.tensor(u, dtype=torch.float64)))
    assert law[token] > 0
    # The two sums round differently, so that next to an edge either side may be right.
    assert token == expected or np.abs(f - u).min() < 1e-12
