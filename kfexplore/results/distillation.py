"""How a student learns the map: points of a run, legs of a long one, versions of a pair."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A student after so many steps."""

    step: int
    losses: list[float]
    """(K,) on the exact tokens, nats a slot; 0 would be the exact map."""
    agreement: list[float]
    """(K,) share of noise vectors on which the slot is exact."""


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
