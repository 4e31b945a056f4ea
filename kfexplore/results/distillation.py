"""How a student learns the map: points of a run, legs of a long one, versions of a pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Blind(NamedTuple):
    """Slot 1 of a student that knows the teacher's law and never reads its noise, on some text."""

    share: float
    """Of noise vectors on which it is exact: the mean of the law's largest probability."""
    nats: float
    """Its loss: the mean entropy of the law."""


@dataclass(frozen=True)
class Progress:
    """A student after so many steps."""

    step: int
    losses: list[float]
    """(K,) on the exact tokens, nats a slot; 0 would be the exact map."""
    agreement: list[float]
    """(K,) share of noise vectors on which the slot is exact."""
    agreement_interval: list[float]
    """(K,) half widths of the 95 % intervals, stretches of text taken as the independent units."""


@dataclass(frozen=True)
class Leg:
    """A stretch of a training run under one setting."""

    name: str
    """What was trained, in words."""
    steps: list[int]
    """(P,) counted over all legs."""
    losses: list[list[float]]
    """(P, K) of the training batches, nats a slot."""


@dataclass(frozen=True)
class Version:
    """A published state of the pair, measured on held-out books."""

    what: str
    """What was new in it."""
    teacher_nll: float
    """Nats a token of the held-out text."""
    agreement_by_slot: list[float]
    agreement_block: float
    interval: list[float] | None
    """(K + 1,) half widths of the 95 % intervals, the block's last; None: not kept."""
