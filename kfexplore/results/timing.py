"""Timed decoding, and the shortest possible time by the roofline."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DevicePeaks:
    """A device's peak rates, measured in the run that is compared with them."""

    bytes_per_second: float
    """Rate of a copy between buffers far larger than any cache, counting bytes read and bytes written."""
    flops_per_second: float
    """Rate of a large square matrix product in the models' dtype; a multiplication and an addition are two."""

    def best(self, other: DevicePeaks) -> DevicePeaks:
        """The larger of each rate, since other work on the machine lowers a measurement."""
        return DevicePeaks(
            max(self.bytes_per_second, other.bytes_per_second), max(self.flops_per_second, other.flops_per_second)
        )


@dataclass(frozen=True)
class Cost:
    """Bytes moved and operations of one or several forward passes."""

    bytes: float
    flops: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.flops + other.flops)

    def scaled(self, factor: float) -> Cost:
        """This cost times a factor."""
        return Cost(self.bytes * factor, self.flops * factor)

    def least_seconds(self, peaks: DevicePeaks) -> float:
        """The roofline's time: the longer of the times that memory and arithmetic need."""
        return max(self.bytes / peaks.bytes_per_second, self.flops / peaks.flops_per_second)


@dataclass(frozen=True)
class Gain:
    """Gain of a push-forward pass over an autoregressive one at the roofline."""

    batch: int
    k: int
    ar_ms: float  # least milliseconds of an AR pass
    pflm_ms: float  # least milliseconds of a push-forward pass, k tokens per sample
    bound: str  # what limits the push-forward pass: memory or arithmetic

    @property
    def speedup(self) -> float:
        """Tokens per second over those of AR."""
        return self.k * self.ar_ms / self.pflm_ms

    def as_json(self) -> dict[str, Any]:
        """Plain values, the speed-up among them."""
        return {**asdict(self), "speedup": self.speedup}


@dataclass(frozen=True)
class Spread:
    """Median of some repeats, with the smallest and the largest: extremes, not a confidence interval."""

    value: float
    low: float
    high: float


def false_positive_rate(repeats: int) -> float:
    """Probability that all runs of one of two equally fast decoders are faster than all runs of the other.

    Both have n = `repeats` exchangeable runs, and 2 of the (2n choose n) orders separate them: 10 % with 3 repeats,
    0.8 % with 5.
    """
    return 2 / math.comb(2 * repeats, repeats)


@dataclass(frozen=True)
class TimingRow:
    """One decoder at one batch size, timed; rates and fractions are None if it failed."""

    decoder: str
    batch: int
    k: int  # tokens, or guesses, per pass
    size: str  # name of the pair, or of a published size with random weights
    prompt: int  # tokens of each prompt, read before the clock starts
    new_tokens: int  # tokens of each sample
    repeats: int
    nfe: int = 0  # forward passes over the batch
    seconds: Spread | None = None  # of decoding alone
    ms_per_step: float | None = None  # milliseconds per forward pass, at the median
    tokens_per_second: float | None = None  # new tokens of all samples, at the median
    tokens_after_eos: int = 0  # how many of those come after the end of a text
    speedup: Spread | None = None
    """Tokens per second over those of `ar` at the same batch in the same run; low and high from the extremes of both.
    None for `ar` itself, the baseline."""
    false_positive_rate: float | None = None
    """Probability that this comparison with `ar` is conclusive if both are equally fast: see the function of that name.
    Valid for exchangeable runs: interleaved, under a load that does not depend on them."""
    tokens_per_pass: float | None = None  # tokens that a sample gains per forward pass
    kept_per_round: float | None = None  # verified, jacobi: mean tokens kept per round; 1 to k + 1
    idle_share: float | None = None
    """verified, jacobi: fraction of row-rounds in which a finished row waits for others in its batch."""
    bytes_per_second: float | None = None  # bytes that the passes must move, over the time
    flops_per_second: float | None = None  # operations that they must do, over the time
    least_ms: float | None = None  # the roofline's milliseconds per forward pass on this device
    share_of_roofline: float | None = None  # least time over measured time
    roofline_speedup: float | None = None
    """The roofline's own ratio to `ar`: the speed-up if both ran at the device's limit, from counted bytes and
    operations. A measured ratio exceeds it where `ar` is further from that limit."""
    peak_memory: int | None = None
    """Bytes: allocated on the accelerator; on a CPU, the largest resident set of the process so far."""
    near_choices_settled: bool = False  # whether near ties were rechecked by the single-row pass
    load_average: float | None = None
    """The machine's load average over the previous minute; if it exceeds the threads used, other work was running."""
    error: str | None = None  # why there is no time

    @property
    def is_conclusive(self) -> bool:
        """Whether all repeats are faster than all of `ar`'s, or all are slower; never with one repeat."""
        over = self.speedup
        return over is not None and self.repeats > 1 and not over.low <= 1 <= over.high

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
