"""What many clients saw, counted: times, answers that were busy, lost or wrong, and the memory of the server."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

TOLD: Final = 20
"""Errors that are told in words."""
FLAT: Final = 0.05
"""Share by which memory that is flat may differ."""
POINTS: Final = 120
"""Samples of memory that are kept."""


@dataclass
class Tally:
    """Written to by all clients of one event loop."""

    clock: Callable[[], float] = time.perf_counter
    is_down: bool = False
    """Whether the server was killed and does not answer again yet: what gets lost then is no error."""
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds, by what was done."""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By what was done, and busy, lost or error."""
    told: list[str] = field(default_factory=list)
    """The first errors."""
    good: dict[str, float] = field(default_factory=dict)
    """When each client had its first good answer since this was last emptied."""

    def took(self, what: str, seconds: float) -> None:
        """It was done, and took so long."""
        self.times[what].append(seconds)

    def well(self, client: str) -> None:
        """A client had a good answer."""
        self.good.setdefault(client, self.clock())

    def busy(self, what: str) -> None:
        """The server said that it is busy; it will be asked again."""
        self.counts[what, "busy"] += 1

    def lost(self, what: str, why: str) -> None:
        """No answer came, which is an error but while the server is known to be down."""
        if self.is_down:
            self.counts[what, "lost"] += 1
        else:
            self.wrong(what, why)

    def wrong(self, what: str, why: str) -> None:
        """An error."""
        self.counts[what, "error"] += 1
        if len(self.told) < TOLD:
            self.told.append(f"{what}: {why}")

    @property
    def errors(self) -> int:
        """Of all kinds."""
        return sum(count for (_, how), count in self.counts.items() if how == "error")

    def row(self, what: str, clients: int) -> dict[str, Any]:
        """All that is known of one kind of thing done; milliseconds."""
        return {
            "what": what,
            "clients": clients,
            "count": len(self.times[what]),
            **spread(self.times[what]),
            **{how: self.counts[what, how] for how in ("busy", "lost", "error")},
        }


def spread(seconds: Sequence[float]) -> dict[str, float | None]:
    """Percentiles and the worst, in milliseconds; None of nothing."""
    names = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "worst_ms": 100}
    if not seconds:
        return dict.fromkeys(names)
    return {name: round(1000 * float(np.percentile(seconds, share)), 3) for name, share in names.items()}


@dataclass(frozen=True)
class Memory:
    """Samples of a server's resident memory: seconds since the clients began, and bytes."""

    samples: Sequence[tuple[float, int]]
    seconds: float
    """That the clients ran."""

    @property
    def growth(self) -> float | None:
        """Median of the last quarter of the time over that of the third, less one; None where a quarter has none."""
        third, last = (
            [held for at, held in self.samples if start <= at / self.seconds < start + 0.25] for start in (0.5, 0.75)
        )
        return statistics.median(last) / statistics.median(third) - 1 if third and last else None

    @property
    def is_flat(self) -> bool | None:
        """Whether it neither grew nor shrank by more than `FLAT`; None where that is not known."""
        return None if self.growth is None else abs(self.growth) <= FLAT

    def as_json(self) -> dict[str, Any]:
        """Plain values, of at most `POINTS` samples, evenly thinned."""
        kept = self.samples[:: max(1, math.ceil(len(self.samples) / POINTS))]
        return {
            "growth": self.growth,
            "is": "resident bytes: median of the last quarter of the run over the median of the third, less one",
            "samples": [[round(at, 1), held] for at, held in kept],
        }
