"""Throughput of the decoders, timed fairly: every decoder decoded well, only decoding inside the clock."""

from __future__ import annotations

import dataclasses
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kfexplore import noise
from kfexplore.bench.roofline import decode_cost, gains
from kfexplore.bench.setting import Load, environment, measure_limits, own_threads, synchronise
from kfexplore.config import DecodeConfig
from kfexplore.decoders import DECODERS, find_decoder
from kfexplore.decoding.generate import Networks, decode, keyed_noise, keyed_order, slots
from kfexplore.decoding.rows import Sheet, Step
from kfexplore.errors import KfError
from kfexplore.models import AnyModel
from kfexplore.results import Gain, Limits, Spread, TimingRow

Clock = Callable[[], float]
CURVE_BATCHES = tuple(2**n for n in range(11))
CURVE_KS = (1, 2, 4, 8)
"""Where the roofline's gain is drawn; far enough for it to end on any device."""


@dataclass(frozen=True)
class RaceSettings:
    """Which decoders are timed, and on what."""

    decoders: tuple[str, ...] = ("ar", "pflm")
    batches: tuple[int, ...] = (1, 4, 16)
    ks: tuple[int, ...] = (4,)
    """Tokens, or guesses, a pass, for all decoders that take it."""
    prompt: int = 32
    """Tokens of each prompt, where none is given."""
    new_tokens: int = 64
    repeats: int = 5
    seed: int = 0
    """Keys the noise, and the prompts where none is given."""

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
        """(batch, decoder, k) in the order in which they are timed: at every batch ar first, the others against it."""
        order = sorted(self.decoders, key=list(DECODERS).index)
        return [
            (batch, name, k)
            for batch in self.batches
            for name in dict.fromkeys(order)
            for k in (dict.fromkeys(self.ks) if DECODERS[name].takes_k else (1,))
        ]


@dataclass(frozen=True)
class Progress:
    """How far a race is: after each run, and with each row as it comes in."""

    done: int
    """Runs, warm-ups included."""
    total: int
    row: TimingRow | None = None


class Cancelled(Exception):
    """The race was called off between two steps."""


def race(
    networks: Networks,
    settings: RaceSettings,
    limits: Limits,
    size: str,
    prompt: list[int] | None = None,
    eos: int | None = None,
    settle: bool | None = None,
    stopped: Callable[[], bool] = lambda: False,
    clock: Clock = time.perf_counter,
) -> Iterator[Progress]:
    """Times decoder after decoder; a row comes in as soon as it is known.

    Each repeat writes the same tokens anew: prompts are read, then the clock runs until the last token is there. A
    decoder that fails has a row that says why, and the rest go on.

    Args:
        networks: The models.
        settings: What is timed.
        limits: Of the device, for the roofline.
        size: Name of the models.
        prompt: Token ids of every sample's prompt; None: random ones.
        eos: The token that ends a text.
        settle: See `decode`.
        stopped: Asked at every step of a decoder.
        clock: Seconds.

    Raises:
        Cancelled: `stopped` said so.
    """
    fastest: dict[int, tuple[Spread, float]] = {}
    each = settings.repeats + 1
    total = len(settings.races) * each
    for number, (batch, name, k) in enumerate(settings.races):
        length = settings.prompt if prompt is None else len(prompt)
        row = TimingRow(name, batch, k, size, length, settings.new_tokens, settings.repeats)
        row = dataclasses.replace(row, load_average=os.getloadavg()[0])
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            runs = []
            for repeat in range(each):
                if stopped():
                    raise Cancelled
                runs.append(_run(networks, settings, row, prompt, settle, stopped, clock))
                yield Progress(number * each + repeat + 1, total)
            row = _measured(row, networks, runs[1:], limits, eos, settle)
        except (KfError, torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            row = dataclasses.replace(row, error=_reason(error))
        if row.error and torch.cuda.is_available():
            torch.cuda.empty_cache()  # only here: the error itself held what the decoder had taken
        if row.seconds is not None and row.least_ms is not None:
            if name == "ar":
                fastest[batch] = row.seconds, row.least_ms * row.nfe
            elif batch in fastest:
                row = _against(row, *fastest[batch])
        yield Progress((number + 1) * each, total, row)


def bench_throughput(
    networks: Networks,
    settings: RaceSettings,
    size: str,
    prompt: list[int] | None = None,
    eos: int | None = None,
    settle: bool | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """The document of `kfexplore bench throughput`: environment, the device's limits, rows with every setting."""
    network = _any(networks)
    before, start = os.getloadavg()[0], time.monotonic()
    limits = measure_limits(network.device, network.dtype)
    rows = []
    for progress in race(networks, settings, limits, size, prompt, eos, settle):
        report(progress)
        if progress.row is not None:
            rows.append(progress.row)
    load = Load(before, os.getloadavg()[0], time.monotonic() - start, own_threads(network.device))
    return throughput_document(setting(network), limits, load, rows)


def throughput_document(where: dict[str, Any], limits: Limits, load: Load, rows: Sequence[TimingRow]) -> dict[str, Any]:
    """A race, or as much of it as there is, as plain values; `where` is its `setting`."""
    return {
        "bench": "throughput",
        **where,
        **load.as_json(),
        "limits": dataclasses.asdict(limits),
        "rows": [row.as_json() for row in rows],
    }


def bench_roofline(networks: Networks, settings: RaceSettings, size: str) -> dict[str, Any]:
    """The document of `--roofline`: the device's limits, and the gain that they allow by batch and K.

    `gains` are those asked for, `curve` reaches so far that one sees where they end.
    """
    network = _any(networks)
    limits = measure_limits(network.device, network.dtype)
    asked = gains_at_limit(networks, settings, limits, settings.batches, settings.ks)
    batches, ks = (
        {*asked_for, *drawn} for asked_for, drawn in ((settings.batches, CURVE_BATCHES), (settings.ks, CURVE_KS))
    )
    curve = gains_at_limit(networks, settings, limits, sorted(batches), sorted(ks))
    return {
        "bench": "roofline",
        **setting(network),
        "size": size,
        "keys": _keys(settings),
        "limits": dataclasses.asdict(limits),
        "gains": [gain.as_json() for gain in asked],
        "curve": [gain.as_json() for gain in curve],
    }


def gains_at_limit(
    networks: Networks,
    settings: RaceSettings,
    limits: Limits,
    batches: Sequence[int] = CURVE_BATCHES,
    ks: Sequence[int] = CURVE_KS,
) -> list[Gain]:
    """The gain of a push-forward pass if both ran at the limits, for prompts and new tokens as in a race.

    Raises:
        KfError: teacher or student is not there.
    """
    teacher, student = networks.teacher, networks.student
    if teacher is None or student is None:
        raise KfError("The roofline compares two models.", "a pair")
    width = teacher.dtype.itemsize
    return gains(teacher.config, student.config, limits, batches, ks, _keys(settings), width)


def _keys(settings: RaceSettings) -> float:
    return settings.prompt + settings.new_tokens / 2


def _any(networks: Networks) -> AnyModel:
    return next(n for n in (networks.teacher, networks.student, networks.masked) if n is not None)


def setting(network: AnyModel) -> dict[str, Any]:
    """What a race hangs on, its dtype included."""
    return {**environment(network.device), "dtype": str(network.dtype).removeprefix("torch.")}


@dataclass(frozen=True)
class _Run:
    seconds: float
    steps: list[Step]


def _run(
    networks: Networks,
    settings: RaceSettings,
    row: TimingRow,
    prompt: list[int] | None,
    settle: bool | None,
    stopped: Callable[[], bool],
    clock: Clock,
) -> _Run:
    config = DecodeConfig(row.decoder, row.k)
    network = _any(networks)
    samples = range(row.batch)
    ids = noise.generator(settings.seed, "prompt").integers(0, network.config.vocab_size, row.prompt)
    prompts = [list(prompt or ids.tolist())] * row.batch
    values = keyed_noise(settings.seed, samples, config, networks, row.new_tokens)
    order = keyed_order(settings.seed, samples, row.new_tokens)
    steps = decode(config, networks, prompts, values, row.new_tokens, order, settle)
    next(steps)
    synchronise(network.device)
    written, start = [], clock()
    for step in steps:
        written.append(step)
        if stopped():
            raise Cancelled
    synchronise(network.device)
    return _Run(clock() - start, written)


def _measured(
    row: TimingRow, networks: Networks, runs: list[_Run], limits: Limits, eos: int | None, settle: bool | None
) -> TimingRow:
    config, steps = DecodeConfig(row.decoder, row.k), runs[0].steps
    models: dict[str, AnyModel | None] = {
        "teacher": networks.teacher,
        "student": networks.student,
        "masked": networks.masked,
    }
    network = _any(networks)
    sheet = Sheet(row.batch, row.new_tokens, eos)
    for step in steps:
        sheet.write(step)
    passes, seconds = sum(step.passes for step in steps), [run.seconds for run in runs]
    took = Spread(statistics.median(seconds), min(seconds), max(seconds))
    weight, rounds = network.dtype, len(steps) if config.models[1:] else passes
    cost = decode_cost(
        config,
        {name: model.config for name, model in models.items() if model is not None},
        row.batch,
        row.prompt,
        row.new_tokens,
        slots(config, networks),
        rounds=rounds,
        drafts=passes - rounds,
        width=weight.itemsize,
    )
    least, tokens = cost.least_seconds(limits), row.batch * row.new_tokens
    kept = np.array([step.counts for step in steps if step.counts is not None])
    on_cpu = network.device.type == "cpu"
    return dataclasses.replace(
        row,
        nfe=passes,
        seconds=took,
        ms_per_step=1e3 * took.value / passes,
        tokens_per_second=tokens / took.value,
        tokens_after_eos=int((row.new_tokens - sheet.lengths).sum()),
        tokens_per_pass=row.new_tokens / passes,
        kept_per_round=float(kept[kept > 0].mean()) if kept.size else None,
        idle_share=float((kept == 0).mean()) if kept.size else None,
        bytes_per_second=cost.bytes / took.value,
        flops_per_second=cost.flops / took.value,
        least_ms=1e3 * least / passes,
        share_of_roofline=least / took.value,
        peak_memory=_peak_memory(network.device),
        near_choices_settled=(on_cpu and weight == torch.float32) if settle is None else settle,
    )


def _against(row: TimingRow, own: Spread, least_ms: float) -> TimingRow:
    """The row with its speed-up over `ar`, whose seconds and least milliseconds are given."""
    assert row.seconds is not None
    assert row.least_ms is not None
    seconds = row.seconds
    return dataclasses.replace(
        row,
        speedup=Spread(own.value / seconds.value, own.low / seconds.high, own.high / seconds.low),
        roofline_speedup=least_ms / (row.least_ms * row.nfe),
    )


def _peak_memory(place: torch.device) -> int:
    if place.type == "cuda":
        return torch.cuda.max_memory_allocated(place)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _reason(error: BaseException) -> str:
    """Why a decoder has no time, in one sentence; an error that is neither the user's nor memory's is raised again."""
    if isinstance(error, KfError):
        return f"{error.failed} Valid: {error.valid}" if error.valid else error.failed
    words = str(error).lower()
    short = "allocate memory" in words or "out of memory" in words or "alloc_failed" in words
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or short:
        return "Out of memory: a smaller batch, or fewer new tokens."
    raise error
