"""Where the learned map parts from the exact one, and what tells why."""

from __future__ import annotations

from dataclasses import dataclass

from kfexplore.results.maps import Floats, Ints
from kfexplore.results.quality import Bin, Estimate


@dataclass(frozen=True)
class Sample:
    """Both maps under one noise, M noise vectors after each of C contexts, and what was known of each slot."""

    u: Floats
    """(C, M, K) noise."""
    teacher: Ints
    """(C, M, K) exact tokens."""
    student: Ints
    """(C, M, K) learned tokens."""
    margin: Floats
    """(C, M, K) student's largest logit less its second largest, nats."""
    edge: Floats
    """(C, M, K) distance of u from the nearer edge of its exact cell, units of u."""
    width: Floats
    """(C, M, K) width of that cell: the probability of the exact token, given the exact tokens before it."""
    entropy: Floats
    """(C, M, K) entropy of the law that the cell is of, nats."""
    frequency: Floats
    """(C, M, K) how often the teacher writes the exact token: mean of its probability over the laws of all slots."""


@dataclass(frozen=True)
class SlotAgreement:
    """How often one slot's learned token is exact."""

    slot: int
    """From 0."""
    all: Estimate
    after_exact: Estimate | None
    """Where all slots before it are exact; None for the first."""
    after_wrong: Estimate | None
    """Where one before it is not."""


@dataclass(frozen=True)
class AgreementBy:
    """Share of exact tokens by fifths of a quantity, taken over all slots together."""

    quantity: str
    """With its unit."""
    slots: list[list[Bin]]
    """(K, up to 5) of each slot."""
    all: list[Bin]
    """(up to 5) of all slots together."""


@dataclass(frozen=True)
class Areas:
    """Pairs of tokens: the share of the square that each map gives them, beside the teacher's probability."""

    tokens: Ints
    """(P, 2) all pairs that have a cell in one of the maps, likeliest first."""
    probability: Floats
    """(P,) of each pair under the teacher."""
    exact: Floats
    """(P,) area in the exact map."""
    learned: Floats
    """(P,) area in the learned map."""
    points: int
    """N of the square at which the maps are asked: areas are multiples of 1 / N."""
    tv_exact: float
    """Total variation distance of the exact areas from the law: what N points leave open."""
    tv_learned: float
    """Of the learned areas."""


@dataclass(frozen=True)
class Resolution:
    """How finely the student can tell noise apart."""

    apart: Floats
    """(D,) distances of two noise values, units of u."""
    encoded: Floats
    """(D,) mean distance of their encodings, over that of two independent noise values."""
    by_width: list[Bin]
    """Share of exact tokens of slot 1 by the width of the exact cell."""
    shifts: Floats
    """(n,) how far each border of the exact map of slot 1 is moved in the learned one, units of u: F'(v) - F(v), where
    F' is the share of the slider on which the student's token is v or one before it."""


@dataclass(frozen=True)
class Reach:
    """How far one slot's noise reaches: (K, K) shares, row i the slot whose noise is drawn anew, column j the slot
    whose token then differs; the other noise is held, mean over contexts and noise."""

    exact: Floats
    learned: Floats
