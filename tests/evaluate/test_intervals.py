"""Intervals on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from kfexplore.evaluate.intervals import clustered_fraction, fraction, mean, none, ratio, t, wilson
from kfexplore.results import Estimate


def check(found: Estimate, value: float, low: float, high: float) -> None:
    assert (found.value, found.low, found.high) == pytest.approx((value, low, high), abs=1e-4)


def test_mean_of_two_values_has_a_standard_error_of_one() -> None:
    # Student's t with one degree of freedom: 12.7062 standard errors, not 1.96
    check(mean(np.array([1.0, 3.0])), 2, 2 - 12.70620, 2 + 12.70620)


def test_ratio_of_pairs_has_the_spread_of_what_the_ratio_leaves() -> None:
    # 6 / 4; left over are 0.5 and -0.5: standard error sqrt(0.5) / sqrt(2) / 2 = 0.25
    check(ratio(np.array([2.0, 4.0]), np.array([1.0, 3.0])), 1.5, 1.5 - 3.17655, 1.5 + 3.17655)


@pytest.mark.parametrize("units", [2, 6])
def test_means_of_few_units_are_covered_as_often_as_promised(units: int) -> None:
    """With a normal quantile it is 70 % for two units and 89 % for six."""
    runs = 1500
    found = [mean(row) for row in np.random.default_rng(units).normal(size=(runs, units))]
    covered = sum(each.low <= 0 <= each.high for each in found)
    assert binom.ppf(1e-3, runs, 0.95) <= covered <= binom.ppf(1 - 1e-3, runs, 0.95)


def test_wilson_intervals_are_the_known_ones() -> None:
    check(wilson(0.5, 4), 0.5, 0.15004, 0.84996)
    check(wilson(0.0, 10), 0.0, 0.0, 0.27753)
    check(wilson(1.0, 10), 1.0, 0.72247, 1.0)
    check(wilson(0.5, 1024), 0.5, 0.46943, 0.53057)  # 3.1 points at n = 1024


def test_fraction_over_windows_that_agree_is_that_of_single_trials() -> None:
    assert clustered_fraction(np.array([2, 2]), np.array([4, 4])) == wilson(0.5, 8, t(2))


def test_fraction_over_windows_that_differ_has_fewer_independent_trials() -> None:
    # between windows 2 * (2^2 + 2^2) / 8^2 = 0.25, eight times the binomial 0.25 / 8: one trial is left
    assert clustered_fraction(np.array([4, 0]), np.array([4, 4])) == wilson(0.5, 1, t(2))


def test_fraction_without_a_hit_has_as_many_trials_as_windows() -> None:
    """What lies in one window may be dependent: 1,000 blocks in 10 windows are 10 trials, not 1,000."""
    limit = 1 - 0.025 ** (1 / 10)
    check(clustered_fraction(np.zeros(10), np.full(10, 100)), 0, 0, limit)
    check(clustered_fraction(np.full(10, 100), np.full(10, 100)), 1, 1 - limit, 1)
    check(clustered_fraction(np.zeros(12), np.array([100] * 10 + [0, 0])), 0, 0, limit)  # empty windows are no trials
    assert wilson(0, 1000).high < 0.004 < 0.3 < limit


def test_fraction_of_rare_clustered_hits_is_covered() -> None:
    """A window in ten is all hits, the others have none: of 20 windows, one sample in eight has no hit at all."""
    rng, runs, windows = np.random.default_rng(0), 4000, 20
    hits = 50 * (rng.random((runs, windows)) < 0.1)
    none = [clustered_fraction(row, np.full(windows, 50)) for row in hits if not row.any()]
    assert len(none) > 300
    assert all(each.high > 0.1 for each in none)
    assert wilson(0, 50 * windows).high < 0.1  # the earlier limit


def test_fractions_without_a_hit_are_not_certain() -> None:
    check(fraction(np.zeros(64)), 0, 0, none(64))
    check(fraction(np.ones(64)), 1, 1 - none(64), 1)
    assert none(64) == pytest.approx(3.69 / 64, rel=0.04)
    assert fraction(np.array([0.0, 0.5])) == mean(np.array([0.0, 0.5]))
    # the chance of seeing nothing in 10 units, of which each has something with that probability, is 2.5 %
    assert (1 - none(10)) ** 10 == pytest.approx(0.025)


def test_fraction_in_one_window_alone_says_nothing() -> None:
    check(clustered_fraction(np.array([1, 0]), np.array([2, 0])), 0.5, 0, 1)
