"""What decoders write after the same prompts under the same noise: loss against variety, and where texts part."""

from __future__ import annotations

from dataclasses import dataclass

from kfexplore.results.quality import Estimate, SampleQuality


@dataclass(frozen=True)
class Frontier:
    """Decoders that differ in one setting."""

    what: str
    """Which decoder, and over which setting: "AR over temperature"."""
    values: list[str]
    """(n,) the setting of each, in words."""
    rows: list[SampleQuality]
    """(n,) in the order of the setting."""


@dataclass(frozen=True)
class AtVariety:
    """A decoder beside the teacher at the temperature that gives samples of the same unigram entropy."""

    row: SampleQuality
    tau: float | None
    """That temperature; None: the teacher has no such variety at any that was tried."""
    loss: float | None
    """The teacher's loss there, nats a token, interpolated."""
    lost: Estimate | None
    """The decoder's loss less that; its interval takes in those of its loss and of its entropy."""


@dataclass(frozen=True)
class Survival:
    """How long a decoder's text stays the teacher's under the same noise."""

    decoder: str
    k: int
    shares: list[Estimate]
    """(n,) share of samples whose first 1 .. n tokens are all the teacher's."""


@dataclass(frozen=True)
class SlotLosses:
    """What the slots of a decoder's blocks cost the teacher beyond its own samples after the same prompts."""

    decoder: str
    k: int
    excess: list[Estimate]
    """(k,) nats a token."""


@dataclass(frozen=True)
class Leading:
    """The blocks of which just so many slots from the first on are exact."""

    slots: int
    share: Estimate
    """Of all blocks."""
    excess: list[Estimate]
    """(K,) by slot: the teacher's loss of the learned token less that of the exact one under the same noise, nats."""
