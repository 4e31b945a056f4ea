"""Intervals on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kfexplore.evaluate.intervals import mean, ratio, share, wilson
from kfexplore.results import Estimate


def check(found: Estimate, value: float, low: float, high: float) -> None:
    assert (found.value, found.low, found.high) == pytest.approx((value, low, high), abs=1e-4)


def test_mean_of_two_values_has_a_standard_error_of_one() -> None:
    check(mean(np.array([1.0, 3.0])), 2, 2 - 1.95996, 2 + 1.95996)


def test_ratio_of_pairs_has_the_spread_of_what_the_ratio_leaves() -> None:
    # 6 / 4; left over are 0.5 and -0.5: standard error sqrt(0.5) / sqrt(2) / 2 = 0.25
    check(ratio(np.array([2.0, 4.0]), np.array([1.0, 3.0])), 1.5, 1.5 - 0.48999, 1.5 + 0.48999)


def test_ratio_to_itself_is_one_without_doubt() -> None:
    check(ratio(np.array([2.0, 5.0]), np.array([2.0, 5.0])), 1, 1, 1)


def test_wilson_intervals_are_the_known_ones() -> None:
    check(wilson(0.5, 4), 0.5, 0.15004, 0.84996)
    check(wilson(0.0, 10), 0.0, 0.0, 0.27753)
    check(wilson(1.0, 10), 1.0, 0.72247, 1.0)
    check(wilson(0.5, 1024), 0.5, 0.46943, 0.53057)  # 3.1 points at n = 1024


def test_share_over_windows_that_agree_is_that_of_single_trials() -> None:
    assert share(np.array([2, 2]), np.array([4, 4])) == wilson(0.5, 8)


def test_share_over_windows_that_differ_has_fewer_independent_trials() -> None:
    # between windows 2 * (2^2 + 2^2) / 8^2 = 0.25, eight times the binomial 0.25 / 8: one trial is left
    assert share(np.array([4, 0]), np.array([4, 4])) == wilson(0.5, 1)


def test_share_without_a_hit_is_not_certain() -> None:
    assert share(np.array([0, 0]), np.array([3, 5])) == wilson(0.0, 8)
