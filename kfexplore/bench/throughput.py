"""Throughput of the decoders: each on its fast path, with only decoding inside the clock."""

from __future__ import annotations

import dataclasses
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from kfexplore import noise
from kfexplore.bench.roofline import decode_cost, gains
from kfexplore.bench.setting import Load, environment, measure_peaks, own_threads, synchronise
from kfexplore.cancel import Cancelled
from kfexplore.config import DecodeConfig
from kfexplore.decoders import DECODERS, find_decoder
from kfexplore.decoding.buffers import Step, TokenBuffer
from kfexplore.decoding.generate import Networks, decode, keyed_noise, keyed_order, resolve_k
from kfexplore.errors import KfError
from kfexplore.models import AnyModel
from kfexplore.results import DevicePeaks, Gain, Spread, TimingRow
from kfexplore.results.timing import false_positive_rate

Clock = Callable[[], float]
CURVE_BATCHES = tuple(2**n for n in range(11))
CURVE_KS = (1, 2, 4, 8)
"""Batches and K of the roofline's curve; batches are large enough for it to level off on any device."""


@dataclass(frozen=True)
class RaceSettings:
    """The decoders to time, and their work."""

    decoders: tuple[str, ...] = ("ar", "pflm")
    batches: tuple[int, ...] = (1, 4, 16)
    ks: tuple[int, ...] = (4,)
    """Tokens, or guesses, per pass, for all decoders with a k."""
    prompt: int = 32
    """Tokens per prompt, if no prompt is given."""
    new_tokens: int = 64
    repeats: int = 5
    seed: int = 0
    """Random seed for the noise, and for the prompt if none is given."""

    def __post_init__(self) -> None:
        for decoder in self.decoders:
            find_decoder(decoder)
        if not self.decoders:
            raise KfError("No decoder is chosen.", f"one or more of {', '.join(DECODERS)}")
        for name, values in (("batch", self.batches), ("K", self.ks)):
            if not values:
                raise KfError(f"No {name} is chosen.", "whole numbers of at least 1")
            if min(values) < 1:
                raise KfError(f"{name} is {','.join(map(str, values))}.", "whole numbers of at least 1")
        for name in ("prompt", "new_tokens", "repeats"):
            if getattr(self, name) < 1:
                raise KfError(f"{name} is {getattr(self, name)}.", "at least 1")

    @property
    def races(self) -> list[tuple[int, str, int]]:
        """(batch, decoder, k) in the order of the rows: at every batch, ar comes first as the baseline."""
        order = sorted(self.decoders, key=list(DECODERS).index)
        return [
            (batch, name, k)
            for batch in dict.fromkeys(self.batches)
            for name in dict.fromkeys(order)
            for k in (dict.fromkeys(self.ks) if DECODERS[name].takes_k else (1,))
        ]

    @property
    def runs(self) -> list[tuple[int, str, int]]:
        """(batch, decoder, k) of every run in order: at each batch a round of warm-ups, then the timed rounds."""
        rounds = [[race for race in self.races if race[0] == batch] for batch in dict.fromkeys(self.batches)]
        return [race for each in rounds for race in each * (self.repeats + 1)]


@dataclass(frozen=True)
class Progress:
    """Progress of a race, yielded after each run and with each new row."""

    done: int
    """Finished runs, warm-ups included."""
    total: int
    row: TimingRow | None = None


def race(
    networks: Networks,
    settings: RaceSettings,
    peaks: DevicePeaks,
    size: str,
    prompt: list[int] | None = None,
    eos: int | None = None,
    recheck: bool | None = None,
    stopped: Callable[[], bool] = lambda: False,
    clock: Clock = time.perf_counter,
) -> Iterator[Progress]:
    """Times the decoders in turn, so that a drifting load affects all of them alike; rows of a batch come together.

    At each batch every decoder runs once to warm up, then once per repeat, one decoder after another in each round.
    All runs of a decoder write the same tokens. The clock starts after prefill and stops when the last token is
    written. A decoder that fails gets a row with the reason, and the others continue.

    Args:
        peaks: The device's peaks, for the roofline.
        size: Name of the models.
        prompt: Token ids of every sample's prompt; None: random ones.
        eos: The token that ends a text.
        recheck: See `decode`.
        stopped: Whether to cancel; called at every step of a decoder.
        clock: Time in seconds.

    Raises:
        Cancelled: `stopped` returned true.
    """
    if prompt is None:
        vocab_size = _any(networks).config.vocab_size
        prompt = noise.generator(settings.seed, "prompt").integers(0, vocab_size, settings.prompt).tolist()
    runner = _Runner(networks, settings, peaks, prompt, eos, recheck, stopped, clock)
    done, total, length = 0, len(settings.runs), len(prompt)
    for batch in dict.fromkeys(settings.batches):
        load = os.getloadavg()[0]
        entries = [
            _Series(TimingRow(name, batch, k, size, length, settings.new_tokens, settings.repeats, load_average=load))
            for each, name, k in settings.races
            if each == batch
        ]
        for _ in range(settings.repeats + 1):
            for series in entries:
                if stopped():
                    raise Cancelled
                done += 1
                if series.error is None:
                    runner.time(series)
                    yield Progress(done, total)
        ar: TimingRow | None = None
        for series in entries:
            row = runner.measured(series)
            ar = row if row.decoder == "ar" and not row.error else ar
            yield Progress(done, total, row if ar is None or ar is row else _against(row, ar))


def bench_throughput(
    networks: Networks,
    settings: RaceSettings,
    size: str,
    prompt: list[int] | None = None,
    eos: int | None = None,
    recheck: bool | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """The document of `kfexplore bench throughput`: environment, the device's peaks, rows with every setting."""
    network = _any(networks)
    before, start = os.getloadavg()[0], time.monotonic()
    peaks = measure_peaks(network.device, network.dtype)
    rows = []
    for progress in race(networks, settings, peaks, size, prompt, eos, recheck):
        report(progress)
        if progress.row is not None:
            rows.append(progress.row)
    load = Load(before, os.getloadavg()[0], time.monotonic() - start, own_threads(network.device))
    return throughput_document(environment(network.device, network.dtype), peaks, load, rows)


def throughput_document(
    where: dict[str, Any], peaks: DevicePeaks, load: Load, rows: Sequence[TimingRow]
) -> dict[str, Any]:
    """A race, finished or not, as plain values; `where` is its `environment`."""
    return {
        "bench": "throughput",
        **where,
        **load.as_json(),
        "limits": dataclasses.asdict(peaks),
        "rows": [row.as_json() for row in rows],
    }


def bench_roofline(networks: Networks, settings: RaceSettings, size: str) -> dict[str, Any]:
    """The document of `--roofline`: the device's peaks, and the gain that they allow by batch and K.

    `gains` are the requested ones; `curve` extends to where they level off.
    """
    network = _any(networks)
    peaks = measure_peaks(network.device, network.dtype)
    asked = gains_at_limit(networks, settings, peaks, settings.batches, settings.ks)
    batches, ks = {*settings.batches, *CURVE_BATCHES}, {*settings.ks, *CURVE_KS}
    curve = gains_at_limit(networks, settings, peaks, sorted(batches), sorted(ks))
    return {
        "bench": "roofline",
        **environment(network.device, network.dtype),
        "size": size,
        "keys": _keys(settings),
        "limits": dataclasses.asdict(peaks),
        "gains": [gain.as_json() for gain in asked],
        "curve": [gain.as_json() for gain in curve],
    }


def gains_at_limit(
    networks: Networks,
    settings: RaceSettings,
    peaks: DevicePeaks,
    batches: Sequence[int] = CURVE_BATCHES,
    ks: Sequence[int] = CURVE_KS,
) -> list[Gain]:
    """The gain of push-forward over AR if both ran at the device's peaks, at the lengths of a race.

    Raises:
        KfError: teacher or student is missing.
    """
    teacher, student = networks.teacher, networks.student
    if teacher is None or student is None:
        raise KfError("The roofline needs a teacher and a student.", "a pair")
    width = teacher.dtype.itemsize
    return gains(teacher.config, student.config, peaks, batches, ks, _keys(settings), width)


def _keys(settings: RaceSettings) -> float:
    return settings.prompt + settings.new_tokens / 2


def _any(networks: Networks) -> AnyModel:
    return next(n for n in (networks.teacher, networks.student, networks.masked) if n is not None)


@dataclass
class _Series:
    """A decoder in the race at one batch."""

    row: TimingRow
    """The fields that are known before it runs."""
    seconds: list[float] = field(default_factory=list)
    """Time of each run, the warm-up included."""
    steps: list[Step] = field(default_factory=list)
    """Steps of the last run; all write the same tokens."""
    peak_memory: int = 0
    error: str | None = None


@dataclass(frozen=True)
class _Runner:
    """Runs the decoders of a race; fields are the arguments of `race`."""

    networks: Networks
    settings: RaceSettings
    peaks: DevicePeaks
    prompt: list[int]
    eos: int | None
    recheck: bool | None
    stopped: Callable[[], bool]
    clock: Clock

    def time(self, series: _Series) -> None:
        """One run of a decoder; one that fails is not run again."""
        place = _any(self.networks).device
        if place.type == "cuda":
            torch.cuda.reset_peak_memory_stats(place)
        try:
            seconds, series.steps = self._run(series.row)
            series.seconds.append(seconds)
        except (KfError, torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            series.error = _reason(error)
        if series.error and place.type == "cuda":
            torch.cuda.empty_cache()  # not in the handler, where the error keeps the decoder's tensors alive
        series.peak_memory = max(series.peak_memory, _peak_memory(place))

    def _run(self, row: TimingRow) -> tuple[float, list[Step]]:
        """Seconds of decoding, prefill excluded, and the steps."""
        config, seed = DecodeConfig(row.decoder, row.k), self.settings.seed
        network, samples, prompts = _any(self.networks), range(row.batch), [self.prompt] * row.batch
        values = keyed_noise(seed, samples, config, self.networks, row.new_tokens)
        order = keyed_order(seed, samples, row.new_tokens)
        steps = decode(config, self.networks, prompts, values, row.new_tokens, order, self.recheck)
        next(steps)
        synchronise(network.device)
        written, start = [], self.clock()
        for step in steps:
            written.append(step)
            if self.stopped():
                raise Cancelled
        synchronise(network.device)
        return self.clock() - start, written

    def measured(self, series: _Series) -> TimingRow:
        """The row of a decoder after its last run."""
        row, steps = series.row, series.steps
        if series.error is not None:
            return dataclasses.replace(row, error=series.error)
        config, networks, network = DecodeConfig(row.decoder, row.k), self.networks, _any(self.networks)
        buffer = TokenBuffer(row.batch, row.new_tokens, self.eos)
        for step in steps:
            buffer.write(step)
        passes, seconds = sum(step.passes for step in steps), series.seconds[1:]
        took = Spread(statistics.median(seconds), min(seconds), max(seconds))
        rounds = len(steps) if config.models[1:] else passes
        on_cpu, drafts = network.device.type == "cpu", passes - rounds
        kept = np.array([step.counts for step in steps if step.counts is not None])
        # Drafts in a CUDA graph feed the most tokens that a round can add. Others feed only new tokens: at first the
        # prompt's last token.
        catch_up = (1 + float(kept[:-1].max(axis=1).sum())) / drafts if drafts and on_cpu else None
        cost = decode_cost(
            config,
            {kind: model.config for kind, model in vars(networks).items() if model is not None},
            row.batch,
            row.prompt,
            row.new_tokens,
            resolve_k(config, networks),
            rounds=rounds,
            drafts=drafts,
            width=network.dtype.itemsize,
            catch_up=catch_up,
        )
        least, tokens = cost.least_seconds(self.peaks), row.batch * row.new_tokens
        is_fp32_on_cpu = on_cpu and network.dtype == torch.float32
        return dataclasses.replace(
            row,
            nfe=passes,
            seconds=took,
            ms_per_step=1e3 * took.value / passes,
            tokens_per_second=tokens / took.value,
            tokens_after_eos=int((row.new_tokens - buffer.lengths).sum()),
            tokens_per_pass=row.new_tokens / passes,
            kept_per_round=float(kept[kept > 0].mean()) if kept.size else None,
            idle_share=float((kept == 0).mean()) if kept.size else None,
            bytes_per_second=cost.bytes / took.value,
            flops_per_second=cost.flops / took.value,
            least_ms=1e3 * least / passes,
            share_of_roofline=least / took.value,
            peak_memory=series.peak_memory,
            near_choices_settled=is_fp32_on_cpu if self.recheck is None else self.recheck,
        )


def _against(row: TimingRow, ar: TimingRow) -> TimingRow:
    """The row with its speed-up over `ar` at the same batch; unchanged if it has no time."""
    if row.seconds is None or row.least_ms is None:
        return row
    assert ar.seconds is not None
    assert ar.least_ms is not None
    own, seconds = ar.seconds, row.seconds
    return dataclasses.replace(
        row,
        speedup=Spread(own.value / seconds.value, own.low / seconds.high, own.high / seconds.low),
        false_positive_rate=false_positive_rate(row.repeats),
        roofline_speedup=ar.least_ms * ar.nfe / (row.least_ms * row.nfe),
    )


def _peak_memory(place: torch.device) -> int:
    if place.type == "cuda":
        return torch.cuda.max_memory_allocated(place)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _reason(error: BaseException) -> str:
    """Why a decoder has no time; errors other than user errors and out of memory are raised again."""
    if isinstance(error, KfError):
        return f"{error.failed} Valid: {error.valid}" if error.valid else error.failed
    words = str(error).lower()
    short = "allocate memory" in words or "out of memory" in words or "alloc_failed" in words
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or short:
        return "Out of memory: a smaller batch, or fewer new tokens."
    raise error
