"""Estimates with 95 % intervals: means and ratios over independent units (normal), shares (Wilson)."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from kfexplore.results import Estimate, Floats

Z = float(norm.ppf(0.975))
"""Half width of a 95 % interval in standard errors."""


def mean(values: Floats) -> Estimate:
    """Mean of n >= 2 independent values (n,), normal interval."""
    return _normal(float(values.mean()), float(values.std(ddof=1)) / np.sqrt(len(values)))


def ratio(above: Floats, below: Floats) -> Estimate:
    """Mean of `above` over mean of `below`, both (n,) over the same units; normal, by linearisation (delta method)."""
    value = float(above.mean() / below.mean())
    spread = float((above - value * below).std(ddof=1))
    return _normal(value, spread / np.sqrt(len(above)) / abs(float(below.mean())))


def share(hits: Floats, counts: Floats) -> Estimate:
    """Hits over counts, both (W,) a window, where what lies in one window may hang together.

    Wilson's interval for the number of independent trials that the spread between windows leaves: the count over the
    design effect (variance of the ratio over windows, over the binomial one), taken as at least 1.
    """
    total, windows = float(counts.sum()), len(counts)
    value = float(hits.sum()) / total
    binomial = value * (1 - value) / total
    between = windows / (windows - 1) * float(((hits - value * counts) ** 2).sum()) / total**2
    return wilson(value, total / max(1.0, between / binomial) if binomial else total)


def wilson(value: float, trials: float) -> Estimate:
    """A share in 0 .. 1 of so many independent trials (Wilson, 1927)."""
    spread = Z**2 / trials
    centre = (value + spread / 2) / (1 + spread)
    half = Z * np.sqrt(value * (1 - value) / trials + spread / (4 * trials)) / (1 + spread)
    return Estimate(value, min(value, float(centre - half)), max(value, float(centre + half)))


def _normal(value: float, error: float) -> Estimate:
    return Estimate(value, value - Z * float(error), value + Z * float(error))
