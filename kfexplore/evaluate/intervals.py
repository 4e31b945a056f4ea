"""Estimates with 95 % intervals: means and ratios over independent units (Student's t), fractions (Wilson)."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from kfexplore.results import Estimate, Floats

OUTSIDE = 0.025
"""Probability that a 95 % interval lies above the true value; the same for below."""
Z = float(norm.ppf(1 - OUTSIDE))
"""Half width of a 95 % interval in known standard errors."""


def t(units: int) -> float:
    """Half width of a 95 % interval in standard errors estimated from n >= 2 independent units."""
    return float(student_t.ppf(1 - OUTSIDE, units - 1))


def mean(values: Floats) -> Estimate:
    """Mean of n >= 2 independent values (n,), t interval."""
    return _estimate(float(values.mean()), float(values.std(ddof=1)) / np.sqrt(len(values)), len(values))


def none(units: int) -> float:
    """Upper 97.5 % limit of a fraction that is 0 in all of n independent units: 1 - 0.025^(1 / n), about 3.7 / n.

    The exact binomial limit for the units with a non-zero fraction, each at most 1 (the rule of three over units).
    """
    return float(1 - OUTSIDE ** (1 / units))


def fraction(values: Floats) -> Estimate:
    """Mean of n >= 2 independent fractions (n,) in 0 .. 1, t interval; if all are 0 or all are 1, as in `none`."""
    if values.min() == values.max() and values[0] in (0, 1):
        return _certain(float(values[0]), len(values))
    return mean(values)


def ratio(above: Floats, below: Floats) -> Estimate:
    """Mean of `above` over mean of `below`, both (n,) over the same n >= 2 units; t interval, by the delta method."""
    value = float(above.mean() / below.mean())
    spread = float((above - value * below).std(ddof=1))
    return _estimate(value, spread / np.sqrt(len(above)) / abs(float(below.mean())), len(above))


def clustered_fraction(hits: Floats, counts: Floats) -> Estimate:
    """Hits over counts, both (W,) per window, where trials in one window may be dependent; W >= 2.

    Wilson's interval for the effective number of trials: the count over the design effect (variance of the ratio over
    windows, over the binomial one), which is at least 1. As the design effect is estimated from W windows, the quantile
    is that of t with W - 1 degrees of freedom.

    Without hits or without misses the spread is 0; then each window counts as one trial, see `none`.
    """
    used = counts > 0
    total, windows = float(counts.sum()), int(used.sum())
    value = float(hits.sum()) / total
    if value in (0.0, 1.0):
        return _certain(value, windows)
    if windows == 1:
        return Estimate(value, 0.0, 1.0)
    binomial = value * (1 - value) / total
    between = windows / (windows - 1) * float(((hits - value * counts)[used] ** 2).sum()) / total**2
    return wilson(value, total / max(1.0, between / binomial), t(windows))


def wilson(value: float, trials: float, quantile: float = Z) -> Estimate:
    """A fraction in 0 .. 1 over independent trials (Wilson, 1927)."""
    spread = quantile**2 / trials
    centre = (value + spread / 2) / (1 + spread)
    half = quantile * np.sqrt(value * (1 - value) / trials + spread / (4 * trials)) / (1 + spread)
    return Estimate(value, min(value, float(centre - half)), max(value, float(centre + half)))


def _certain(value: float, units: int) -> Estimate:
    return Estimate(value, max(0.0, value - none(units)), min(1.0, value + none(units)))


def _estimate(value: float, error: float, units: int) -> Estimate:
    return Estimate(value, value - t(units) * float(error), value + t(units) * float(error))
