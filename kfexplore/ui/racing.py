"""A race of decoders for the page: timed without other heavy work running, and cancellable at any step."""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from kfexplore.bench.setting import Load, environment, own_threads
from kfexplore.bench.throughput import (
    CURVE_KS,
    Clock,
    Progress,
    RaceSettings,
    gains_at_limit,
    race,
    throughput_document,
)
from kfexplore.cancel import CancelToken
from kfexplore.checkpoints.tokenizers import end_of_text
from kfexplore.decoders import DECODERS
from kfexplore.decoding.generate import Networks
from kfexplore.errors import KfError
from kfexplore.figures.palette import Theme
from kfexplore.figures.timing import compared_with_ar, speedup_finding
from kfexplore.pair import Pair
from kfexplore.results import DevicePeaks, Gain, TimingRow
from kfexplore.ui.jobs import Job, threads
from kfexplore.ui.limits import ServerLimits

Alone = Callable[[], AbstractContextManager[None]]
"""Waits until no other heavy work runs, and blocks it within the context."""
Measure = Callable[[torch.device, torch.dtype], DevicePeaks]


@dataclass(frozen=True)
class RaceConfig:
    """A user's request for a race."""

    pair: str
    prompt: str
    decoders: tuple[str, ...]
    batches: tuple[int, ...]
    ks: tuple[int, ...]
    new_tokens: int
    repeats: int

    def check(self, limits: ServerLimits) -> None:
        """Raises KfError for more than the page allows."""
        offered = batches_offered(limits)
        if not all(batch in offered for batch in self.batches):
            raise KfError(f"The batches are {_listed(self.batches)}.", f"of {_listed(offered)} on this page")
        limits.check("new tokens", self.new_tokens, "race_tokens")
        limits.check("repeats", self.repeats, "race_repeats")
        for k in self.ks:
            limits.check("tokens per pass, K,", k, "slots")

    def settings(self, pair: Pair, prompt: int) -> RaceSettings:
        """The settings of the race, after a prompt of `prompt` tokens.

        Raises:
            KfError: no decoder, batch or K is chosen, or the tokens do not fit the context.
        """
        settings = RaceSettings(
            self.decoders,
            tuple(sorted(self.batches)),
            tuple(sorted(self.ks)) or (1,),
            prompt,
            self.new_tokens,
            self.repeats,
        )
        if not self.ks and any(DECODERS[name].takes_k for name in self.decoders):
            raise KfError("No K is chosen.", "one or more, or only decoders that write one token per pass")
        room = pair.teacher.config.context - prompt
        if self.new_tokens > room:
            raise KfError(f"{self.new_tokens} new tokens do not fit the context.", f"1 to {room} after this prompt")
        return settings


def batches_offered(limits: ServerLimits) -> tuple[int, ...]:
    """Powers of two up to `race_batch`."""
    return tuple(2**n for n in range(limits.race_batch.bit_length()))


@dataclass(frozen=True)
class Standing:
    """A snapshot of a race."""

    setting: dict[str, Any]
    """Conditions that affect the timing."""
    load: Load
    """Load of the machine, from the first timing to the last."""
    progress: Progress
    rows: tuple[TimingRow, ...] = ()
    peaks: DevicePeaks | None = None
    """The device's peaks, measured first."""
    seconds: Mapping[tuple[str, int], tuple[int, float]] = field(default_factory=dict)
    """For each decoder and K: the batch of its last run, and that run's seconds."""


def before_race(pair: Pair, settings: RaceSettings) -> Standing:
    """The snapshot of a race that has not begun."""
    device = pair.teacher.device
    load = Load(os.getloadavg()[0], 0.0, 0.0, min(threads(pair), own_threads(device)))
    return Standing({**environment(device), "threads": threads(pair)}, load, Progress(0, len(settings.runs)))


def run_race(
    pair: Pair,
    ids: list[int],
    settings: RaceSettings,
    name: str,
    cancel: CancelToken,
    alone: Alone,
    measure: Measure,
    clock: Clock = time.perf_counter,
) -> Iterator[Standing]:
    """Runs a race; yields a snapshot at every change.

    Args:
        pair: The models.
        ids: The prompt's tokens.
        settings: What is timed.
        name: Name of the pair.
        cancel: Checked at every step of a decoder.
        alone: Held while a clock runs, so that other heavy work waits.
        measure: Measures the device's peaks.
        clock: Time in seconds.

    Raises:
        Cancelled: `cancel` returned true.
    """
    teacher = pair.teacher
    now = before_race(pair, settings)
    yield now
    with alone():
        before, begun = os.getloadavg()[0], clock()
        now = replace(now, peaks=measure(teacher.device, teacher.dtype))
    yield now
    networks = Networks(teacher, pair.student, pair.masked)
    eos = end_of_text(pair.tokenizer) if pair.tokenizer is not None else None
    assert now.peaks is not None
    runs = race(networks, settings, now.peaks, name, ids, eos, stopped=cancel, clock=clock)
    while True:
        with alone():
            start = clock()
            progress = next(runs, None)
            seconds = clock() - start
        if progress is None:
            return
        load = Load(before, os.getloadavg()[0], clock() - begun, now.load.own)
        now = replace(now, progress=progress, load=load)
        if progress.row is not None:
            now = replace(now, rows=(*now.rows, progress.row))
        else:
            batch, decoder, k = settings.runs[progress.done - 1]
            now = replace(now, seconds={**now.seconds, (decoder, k): (batch, seconds)})
        yield now


@dataclass(frozen=True)
class Racing:
    """A race that waits, runs or is over."""

    pair: Pair
    ids: list[int]
    """The prompt's tokens."""
    config: RaceConfig
    settings: RaceSettings
    job: Job[Standing]
    note: str
    """Further notes on the prompt."""
    theme: Theme = "light"
    """Theme of the page that shows it."""

    @property
    def now(self) -> Standing:
        """The last snapshot."""
        assert self.job.snapshot is not None
        return self.job.snapshot

    @property
    def is_batch_over(self) -> bool:
        """Whether all rows of the last row's batch are known; they come one right after another."""
        rows = self.now.rows
        return len(rows) == sum(batch in {row.batch for row in rows} for batch, _, _ in self.settings.races)

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds of the remaining runs; None before the first run.

        From another batch, a decoder's time is scaled by the square root of the ratio of batches: between memory-bound
        (constant) and arithmetic-bound (proportional to the batch).
        """
        if not self.now.seconds:
            return None
        left, last = 0.0, list(self.now.seconds.values())[-1]
        for batch, decoder, k in self.settings.runs[self.now.progress.done :]:
            timed, seconds = self.now.seconds.get((decoder, k), last)
            left += seconds * math.sqrt(batch / timed)
        return left

    def gains(self) -> list[Gain]:
        """The gain at the device's peaks, by batch and K; [] before they are known, or without a student."""
        if self.now.peaks is None or self.pair.student is None:
            return []
        networks, ks = Networks(self.pair.teacher, self.pair.student), sorted({*CURVE_KS, *self.settings.ks})
        return gains_at_limit(networks, self.settings, self.now.peaks, ks=ks)

    def document(self) -> dict[str, Any] | None:
        """The document of `kfexplore bench throughput --json`; None before the device's peaks are known."""
        now = self.now
        return None if now.peaks is None else throughput_document(now.setting, now.peaks, now.load, now.rows)


def plain_words(rows: Sequence[TimingRow], decoders: Collection[str]) -> str:
    """Passes and speed compared with AR, at the smallest batch with a speed-up; or why there is none.

    Args:
        rows: The rows so far.
        decoders: All decoders in the race.
    """
    compared = compared_with_ar(rows)
    learned = [row for row in compared if row.decoder == "pflm"] or compared
    if not learned:
        return speedup_finding(rows, decoders)
    row = min(learned, key=lambda each: (each.batch, -each.k))
    ar = next(each for each in rows if each.decoder == "ar" and each.batch == row.batch)
    assert row.speedup is not None
    assert row.ms_per_step is not None
    assert ar.ms_per_step is not None
    speed = f"{row.speedup.value:.1f} times the speed" if row.is_conclusive else "no conclusive difference in speed"
    return (
        f"{DECODERS[row.decoder].label} against AR at batch {row.batch}: {ar.nfe / row.nfe:.1f} times fewer passes, "
        f"{speed}. A pass{f' of {row.k} tokens' if row.decoder == 'pflm' else ''} costs "
        f"{row.ms_per_step / ar.ms_per_step:.1f} AR passes here"
    )


def rows_csv(rows: Sequence[TimingRow]) -> str:
    """The rows as CSV; a spread has three columns, and text that could be a formula is quoted."""
    plain = [{name: _no_formula(value) for name, value in _flat(row).items()} for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(plain[0]) if plain else ["decoder"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return text.getvalue()


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _flat(row: TimingRow) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.as_json().items():
        if name in ("seconds", "speedup"):
            spread = value or {"value": None, "low": None, "high": None}
            flat |= {name: spread["value"], f"{name}_low": spread["low"], f"{name}_high": spread["high"]}
        else:
            flat[name] = value
    return flat


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
