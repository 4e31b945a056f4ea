"""Published numbers of K-Forcing, and their comparison with ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from kfexplore.results import PUBLISHED_AGREEMENT, Estimate

Source = Literal["paper", "replication"]
Part = Literal["agreement", "quality", "judge", "throughput"]
Verdict = Literal["consistent", "not consistent"]

SOURCES: Final[dict[Source, str]] = {
    "paper": "arXiv 2606.10820 v2, its tables of LM1B and OpenWebText; speed on one H100",
    "replication": "an independent, exploratory replication with the released LM1B checkpoints, on one laptop GPU; its "
    "speed-ups of 2.98 and 3.50 at K = 4 are not in the table, as their batches are not known here",
}
AGREEMENT: Final = "exact tokens"
GEN_PPL: Final = "Gen-PPL"
WIN_RATE: Final = "win rate against AR"
SPEED: Final = "tokens per second"
SPEED_UP: Final = "speed-up over AR"
ENTROPY: Final = "unigram entropy"
DISTINCT: Final = ("distinct-1", "distinct-2", "distinct-3")
FIRST: Final = "first shown preferred"
INCONSISTENT: Final = "decided by the order"
UNITS: Final = {
    AGREEMENT: "%",
    ENTROPY: "nats",
    **dict.fromkeys(DISTINCT, "%"),
    WIN_RATE: "%",
    FIRST: "%",
    INCONSISTENT: "%",
    SPEED: "thousands",
    SPEED_UP: "times",
}
"""Units of all quantities except Gen-PPL, which has none."""
BLOCK: Final = "block of 4"
BATCHES: Final = (4, 16, 128)
_PAPER: Final = (
    # task, decoder, Gen-PPL, win rate; thousands of tokens per second and speed-up at each of BATCHES
    ("lm1b", "AR", 104.8, None, (0.54, 2.03, 15.4), (None, None, None)),
    ("lm1b", "K = 2", 107.2, 50.2, (0.84, 3.48, 24.7), (1.56, 1.71, 1.60)),
    ("lm1b", "K = 3", 117.1, 45.1, (1.27, 4.99, 35.6), (2.35, 2.46, 2.31)),
    ("lm1b", "K = 4", 127.6, 42.9, (1.69, 6.77, 46.5), (3.13, 3.33, 3.02)),
    ("owt", "AR", 42.64, None, (0.53, 1.99, 9.61), (None, None, None)),
    ("owt", "K = 2", 32.82, 46.9, (0.85, 3.36, 11.9), (1.60, 1.69, 1.24)),
    ("owt", "K = 3", 29.67, 42.8, (1.28, 5.03, 17.5), (2.42, 2.53, 1.82)),
    ("owt", "K = 4", 24.97, 39.4, (1.70, 6.91, 22.9), (3.21, 3.47, 2.38)),
)
_REPLICATION: Final = (
    *(
        ("lm1b", AGREEMENT, of, share)
        for of, share in zip(("slot 1", "slot 2", "slot 3", "slot 4", BLOCK), PUBLISHED_AGREEMENT, strict=True)
    ),
    ("lm1b", GEN_PPL, "K = 4", 215.7),
)


def _table() -> dict[Source, dict[tuple[str, str, str, int | None], float]]:
    paper: dict[tuple[str, str, str, int | None], float | None] = {}
    for task, decoder, perplexity, wins, speeds, gains in _PAPER:
        paper |= {(task, GEN_PPL, decoder, None): perplexity, (task, WIN_RATE, decoder, None): wins}
        for batch, speed, gain in zip(BATCHES, speeds, gains, strict=True):
            paper |= {(task, SPEED, decoder, batch): speed, (task, SPEED_UP, decoder, batch): gain}
    return {
        "paper": {key: value for key, value in paper.items() if value is not None},
        "replication": {(task, what, of, None): value for task, what, of, value in _REPLICATION},
    }


PUBLISHED: Final = _table()
"""Every published number by its source, and by task, quantity, decoder (or slot) and batch."""


@dataclass(frozen=True)
class Compared:
    """One number of ours beside the published ones, all in the unit in which those are published."""

    task: str  # lm1b or owt
    part: Part
    quantity: str
    of: str  # the decoder, or the slot
    ours: Estimate  # with its 95 % interval; for a timing, with the extremes of its repeats instead
    batch: int | None = None  # for a timing
    unlike: str | None = None  # why ours does not measure the same thing; None: it does, as far as the sources say

    @property
    def unit(self) -> str:
        """Unit of ours and the published numbers."""
        return UNITS.get(self.quantity, "")

    @property
    def digits(self) -> int:
        """Number of decimals to show."""
        return 1 if self.unit == "%" else 2

    @property
    def published(self) -> dict[Source, float]:
        """The published number by source, the paper first."""
        key = (self.task, self.quantity, self.of, self.batch)
        return {source: table[key] for source, table in PUBLISHED.items() if key in table}

    @property
    def against(self) -> tuple[Source, float] | None:
        """The number for comparison: the paper's, or else the replication's."""
        return next(iter(self.published.items()), None)

    @property
    def difference(self) -> float | None:
        """Ours minus that number."""
        return None if self.against is None else self.ours.value - self.against[1]

    @property
    def verdict(self) -> Verdict | None:
        """Whether that number lies in our interval; None: there is none, or it measures something else.

        Published numbers have no intervals, so a number of ours that is not consistent need not contradict them.
        """
        if self.against is None or self.unlike is not None:
            return None
        return "consistent" if self.ours.low <= self.against[1] <= self.ours.high else "not consistent"

    def as_json(self) -> dict[str, Any]:
        """Plain values in one level, including derived ones."""
        own = {name: getattr(self, name) for name in ("task", "part", "quantity", "of", "batch", "unit")}
        interval = {"ours": self.ours.value, "low": self.ours.low, "high": self.ours.high}
        sources = {source: self.published.get(source) for source in SOURCES}
        derived = {name: getattr(self, name) for name in ("difference", "verdict", "unlike")}
        return {**own, **interval, **sources, **derived}
