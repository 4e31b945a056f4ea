"""A race of decoders for the page: one at a time, apart from other heavy work, and it can be stopped at any step."""

from __future__ import annotations

import csv
import io
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from kfexplore.bench.setting import Load, measure_peaks, own_threads
from kfexplore.bench.throughput import (
    Clock,
    Progress,
    RaceSettings,
    gains_at_limit,
    race,
    setting,
    throughput_document,
)
from kfexplore.cancel import Cancelled, CancelToken
from kfexplore.checkpoints.tokenizers import end_of_text
from kfexplore.decoders import DECODERS
from kfexplore.decoding.generate import Networks
from kfexplore.errors import KfError
from kfexplore.pair import Pair
from kfexplore.results import DevicePeaks, Gain, TimingRow
from kfexplore.ui.jobs import Turns, held
from kfexplore.ui.limits import ServerLimits

Stage = Literal["waiting", "measuring", "racing", "done", "stopped"]
Seconds = dict[tuple[str, int], tuple[int, float]]
"""Of a decoder and K: the batch it was timed at last, and how long a run took."""
News = tuple[tuple[Stage, list[TimingRow], Progress, DevicePeaks | None, Load, Seconds, dict[str, Any]], bool]
"""Of a race: how far it is, its rows, the device's limits, what it hangs on; and whether its time is over."""


@dataclass(frozen=True)
class RaceConfig:
    """What a page asks to be timed."""

    pair: str
    prompt: str
    decoders: tuple[str, ...]
    batches: tuple[int, ...]
    ks: tuple[int, ...]
    new_tokens: int
    repeats: int

    def check(self, limits: ServerLimits) -> None:
        """Raises KfError where a page may not ask for so much."""
        offered = batches_offered(limits)
        if not all(batch in offered for batch in self.batches):
            raise KfError(f"The batches are {_listed(self.batches)}.", f"of {_listed(offered)} on this page")
        limits.check("new tokens", self.new_tokens, "race_tokens")
        limits.check("repeats", self.repeats, "race_repeats")
        for k in self.ks:
            limits.check("tokens a pass, K,", k, "slots")


def batches_offered(limits: ServerLimits) -> tuple[int, ...]:
    """Powers of two."""
    return tuple(2**n for n in range(limits.race_batch.bit_length()))


class Racing:
    """One race, as it waits, runs and has run. One thread runs it; others may look at it and stop it.

    Args:
        pair: The models.
        ids: The prompt's tokens.
        config: What is timed.
        note: What else is to be said of the prompt.
        stopped: Ends it; its time runs from its turn.
        turn: Held from the first timing to the last, so that no two races overlap.
        quiet: Held while a clock runs, so that other heavy work waits for its end.
        measure: Finds the device's limits.

    Raises:
        KfError: nothing is chosen, a k beyond the trained one, more tokens than the context holds.
    """

    def __init__(
        self,
        pair: Pair,
        ids: list[int],
        config: RaceConfig,
        note: str,
        stopped: CancelToken,
        turn: Turns,
        quiet: Sequence[Turns],
        measure: Callable[[torch.device, torch.dtype], DevicePeaks] = measure_peaks,
    ) -> None:
        self.settings = RaceSettings(
            config.decoders,
            tuple(sorted(config.batches)),
            tuple(sorted(config.ks)) or (1,),
            len(ids),
            config.new_tokens,
            config.repeats,
        )
        if not config.ks and any(DECODERS[name].takes_k for name in config.decoders):
            raise KfError("No K is chosen.", "one or more, or only decoders that write a token a pass")
        room = pair.teacher.config.context - len(ids)
        if config.new_tokens > room:
            raise KfError(f"{config.new_tokens} new tokens do not fit the context.", f"1 to {room} of them")
        self.pair, self.ids, self.config, self.note = pair, ids, config, note
        self.networks = Networks(pair.teacher, pair.student, pair.masked)
        self.rows: list[TimingRow] = []
        self.progress = Progress(0, len(self.settings.runs))
        self.limits: DevicePeaks | None = None
        self.stage: Stage = "waiting"
        self.elsewhere: Callable[[RaceConfig], Iterator[News]] | None = None
        """Has the race run by another process, and gives its news; None: it runs here. One that was called off ends at
        its next news."""
        self._stopped, self._turn, self._quiet, self._measure = stopped, turn, quiet, measure
        self._load = Load(os.getloadavg()[0], 0.0, 0.0, own_threads(pair.teacher.device))
        self._setting = setting(pair.teacher)
        self._seconds: Seconds = {}
        self._lock = threading.Lock()

    def steps(self, clock: Clock = time.perf_counter) -> Iterator[None]:
        """Waits for its turn and runs; a turn for every change. Closing it, or `stop`, leaves the rows that are there.

        Args:
            clock: Seconds.
        """
        try:
            yield from self._run(clock) if self.elsewhere is None else self._follow(self.elsewhere(self.config))
        except Cancelled:
            pass
        finally:
            self.stop()

    def _run(self, clock: Clock) -> Iterator[None]:
        begun = 0.0
        try:
            with self._turn.held(self._stopped):
                self._stopped.begin()
                self.stage = "measuring"
                yield
                network = self.pair.teacher
                with held(self._quiet, self._stopped):
                    self._load = Load(os.getloadavg()[0], 0.0, 0.0, self._load.own)
                    begun = clock()
                    self.limits = self._measure(network.device, network.dtype)
                self.stage = "racing"
                yield
                yield from self._race(clock)
                self.stage = "done"
        finally:
            self._load = Load(self._load.before, os.getloadavg()[0], clock() - begun, self._load.own)

    def _follow(self, told: Iterator[News]) -> Iterator[None]:
        for news, late in told:
            with self._lock:
                if self._stopped():
                    return
                self.stage, self.rows, self.progress, self.limits, self._load, self._seconds, self._setting = news
                if late:
                    self._stopped.expire()
            yield

    @property
    def news(self) -> News:
        """Everything that changes in a race."""
        now = self.stage, self.rows, self.progress, self.limits, self._load, self._seconds, self._setting
        return now, self._stopped.is_late

    def _race(self, clock: Clock) -> Iterator[None]:
        assert self.limits is not None
        eos = end_of_text(self.pair.tokenizer) if self.pair.tokenizer is not None else None
        runs = race(
            self.networks,
            self.settings,
            self.limits,
            self.config.pair,
            self.ids,
            eos,
            stopped=self._stopped,
            clock=clock,
        )
        while True:
            with held(self._quiet, self._stopped):
                start = clock()
                progress = next(runs, None)
                seconds = clock() - start
            if progress is None:
                return
            if progress.row is None:
                batch, decoder, k = self.settings.runs[progress.done - 1]
                self._seconds[decoder, k] = batch, seconds
            else:
                self.rows.append(progress.row)
            self.progress = progress
            yield

    def stop(self) -> None:
        """Calls it off; a decoder ends at its next step."""
        with self._lock:
            self._stopped.set()
            self.stage = "done" if self.stage == "done" else "stopped"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be timed."""
        return self.stage in ("done", "stopped")

    @property
    def is_late(self) -> bool:
        """Whether it was stopped because its time was over."""
        return self.stage == "stopped" and self._stopped.is_late

    @property
    def seconds_left(self) -> float | None:
        """About how long the rest will take; None before the first run.

        A decoder that was timed at another batch is taken to grow with the root of the batch, between what reading the
        weights does (nothing) and arithmetic (as the batch).
        """
        if not self._seconds:
            return None
        left, last = 0.0, list(self._seconds.values())[-1]
        for batch, decoder, k in self.settings.runs[self.progress.done :]:
            known, seconds = self._seconds.get((decoder, k), last)
            left += seconds * math.sqrt(batch / known)
        return left

    @property
    def load(self) -> Load:
        """Of the machine, from the first timing to the last."""
        return self._load

    def gains(self) -> list[Gain]:
        """The gain at the device's limits, by batch and K; nothing before they are known, or without a student."""
        if self.limits is None or self.networks.student is None:
            return []
        return gains_at_limit(self.networks, self.settings, self.limits)

    def document(self) -> dict[str, Any] | None:
        """As `kfexplore bench throughput --json` has it; None before the device's limits are known."""
        if self.limits is None:
            return None
        return throughput_document(self._setting, self.limits, self._load, self.rows)


def rows_csv(rows: Sequence[TimingRow]) -> str:
    """The rows as a table for a spreadsheet; a spread has three columns."""
    plain = [_flat(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(plain[0]) if plain else ["decoder"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return text.getvalue()


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
