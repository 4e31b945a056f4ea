"""Runs the models for the page: answers to slider requests as JSON, and jobs for texts, races and studies."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, Final, cast

import torch

from kfexplore.bench.setting import Load, measure_peaks, own_threads
from kfexplore.cancel import PASSES, Cancelled, CancelToken
from kfexplore.errors import KfError
from kfexplore.figures.payload import grid_payload, point_payload, scrub_payload, sweeps_payload, token_texts
from kfexplore.laws.study import study_steps
from kfexplore.maps import block, grid, sweeps
from kfexplore.pair import Pair
from kfexplore.results import ContextStudy, DevicePeaks
from kfexplore.ui.cache import LRUCache
from kfexplore.ui.jobs import Busy, Executor, Job, Priority, Worker, few_threads
from kfexplore.ui.limits import DEFAULTS, ServerLimits
from kfexplore.ui.models import ModelStore, cut_note
from kfexplore.ui.protocol import Failure, GridReply, PointReply, Question, Request, RowsReply, TablesReply, read
from kfexplore.ui.racing import RaceConfig, Racing, Standing, before_race, run_race
from kfexplore.ui.writing import Texts, WriteConfig, Writing, decoder_runs, snapshot, write

FINENESS: Final = ((1, 512), (5, 128), (10, 32), (math.inf, 16))
"""Pairs of a recent number of clients and most steps of a row; the first entry that covers the number applies."""
ROWS_AT_ONCE: Final = 2
"""Rows computed per turn. All in one turn would be an eighth faster, but other requests would wait twice as long."""
MEASUREMENTS: Final = 3
"""Most measurements of a device's peaks, one per race, while other work is running."""

Part = tuple[float, str] | ContextStudy
"""A snapshot of a study: the fraction that is done and what comes next, or the result."""


class LocalExecutor:
    """Runs models in this process. Its methods are the tasks that `Executor` names.

    One worker does everything, one thing at a time: points, rows, grids, prefills, steps of texts, timed runs, and the
    passes of a study. What a study computes between passes runs in parallel, but not while a clock runs.

    Args:
        models: The models.
    """

    races_at_once = 1

    def __init__(self, models: ModelStore) -> None:
        self.models = models
        self.work, self.studies = Worker(models.limits.questions, models.clock), Worker()
        self._peaks: dict[tuple[torch.device, torch.dtype], tuple[DevicePeaks, int]] = {}

    def token(self) -> CancelToken:
        """A token that cancels work after `run_seconds`."""
        return CancelToken(self.models.limits.run_seconds, self.models.clock)

    def job(self, task: str, pair: str, *given: Any, first: Any = None) -> Job[Any]:
        """See `Executor`."""
        return Job(partial(self.run, task, pair, *given), self.token(), first)

    def ask(self, task: str, pair: str, question: Any) -> Any:
        """See `Executor`."""
        return getattr(self, task)(pair, question)

    def run(self, task: str, pair: str, *given: Any) -> Iterator[Any]:
        """The snapshots of a job; starts the time limit of its token, the last argument."""
        given[-1].begin()
        yield from getattr(self, task)(pair, *given)

    @contextmanager
    def turn(self, pair: Pair, priority: Priority, cancel: CancelToken | None = None) -> Iterator[None]:
        """A turn to run a pair's models."""
        with self.work.turn(priority, cancel), few_threads(pair):
            yield

    @contextmanager
    def alone(self, pair: Pair, cancel: CancelToken) -> Iterator[None]:
        """A turn in which nothing else runs."""
        with self.studies.turn(Priority.BACKGROUND, cancel), self.turn(pair, Priority.BACKGROUND, cancel):
            yield

    def tables(self, name: str, question: Question) -> dict[str, Any]:
        """The rows of some sliders, or of all with what else the widget shows."""
        pair = self.models.pair(name)
        most = self.models.slots(pair)
        u = question.noise(most)
        slots = list(question.slots or range(len(u)))
        priority = Priority.BACKGROUND if question.yields else Priority.INTERACTIVE
        with self.turn(pair, priority):
            context = self.models.context(name, question.prompt)
            held, start = context.prefilled, time.perf_counter()
            every = math.gcd(question.resolution, max(1, question.resolution // self._fineness()))
            at = None if question.slots else block(held, u, question.temperature)
            moved = sweeps(held, u, slots[:ROWS_AT_ONCE], question.resolution, every, question.temperature)
            seconds = time.perf_counter() - start
        for first in range(ROWS_AT_ONCE, len(slots), ROWS_AT_ONCE):
            with self.turn(pair, priority):
                start = time.perf_counter()
                some = slots[first : first + ROWS_AT_ONCE]
                moved += sweeps(held, u, some, question.resolution, every, question.temperature)
                seconds += time.perf_counter() - start
        about = {"pair": name, "prompt": question.prompt, "temperature": question.temperature}
        if at is None:
            return {**about, **sweeps_payload(moved, pair.texts, every=every)}
        about |= {"trained": _trained(pair), "note": context.note, "k_max": most, "seconds": seconds}
        about["device"] = pair.teacher.device.type
        return scrub_payload(moved, at, held.ids.tolist(), pair.texts, every, **about)

    def point(self, name: str, question: Question) -> dict[str, Any]:
        """Both maps for one noise."""
        pair = self.models.pair(name)
        u = question.noise(self.models.slots(pair))
        with self.turn(pair, Priority.INTERACTIVE):
            answer = block(self.models.context(name, question.prompt).prefilled, u, question.temperature)
        return {"u": answer.u[0].tolist(), **point_payload(answer), "texts": token_texts(pair.texts, answer)}

    def grid(self, name: str, question: Question) -> dict[str, Any]:
        """Both maps over two sliders."""
        pair = self.models.pair(name)
        u = question.noise(self.models.slots(pair))
        with self.turn(pair, Priority.BACKGROUND):
            fineness = self._fineness()
            resolution = min(question.resolution, fineness, max(32, fineness // 4))
            context = self.models.context(name, question.prompt)
            found = grid(context.prefilled, u, question.axes, resolution, question.temperature)
        return grid_payload(found, pair.texts)

    def texts(self, name: str, ids: list[int], config: WriteConfig, cancel: CancelToken) -> Iterator[Texts]:
        """Runs decoders after a prompt."""
        pair = self.models.pair(name)
        return write(pair, ids, config, cancel, partial(self.turn, pair, Priority.BACKGROUND, cancel))

    def race(self, name: str, ids: list[int], config: RaceConfig, cancel: CancelToken) -> Iterator[Standing]:
        """Runs a race after a prompt."""
        pair = self.models.pair(name)
        alone = partial(self.alone, pair, cancel)
        return run_race(pair, ids, config.settings(pair, len(ids)), name, cancel, alone, self.measured)

    def study(
        self, name: str, ids: list[int], k: int, blocks: int, seed: int, temperature: float, cancel: CancelToken
    ) -> Iterator[Part]:
        """Runs a study after a prompt's tokens."""
        pair = self.models.pair(name)
        steps = study_steps(pair, ids, k, blocks, seed, temperature=temperature)
        between = ExitStack()
        """Holds the turn in `studies`, except during passes."""

        @contextmanager
        def apart() -> Iterator[None]:
            between.close()
            with self.turn(pair, Priority.BACKGROUND, cancel):
                yield
            between.enter_context(self.studies.turn(Priority.BACKGROUND, cancel))

        found = None
        while found is None:
            with between:
                between.enter_context(self.studies.turn(Priority.BACKGROUND, cancel))
                hook = PASSES.set(apart)
                try:
                    part: Part = next(steps)
                except StopIteration as end:
                    part = found = end.value
                finally:
                    PASSES.reset(hook)
            if found is None and cancel():
                raise Cancelled
            yield part

    def _fineness(self) -> int:
        """Most steps of a row, by the recent number of clients whose sliders sent requests."""
        asking = self.work.recent_length()
        return next(steps for most, steps in FINENESS if asking <= most)

    def measured(self, device: torch.device, dtype: torch.dtype) -> DevicePeaks:
        """A device's peak rates: the best of at most `MEASUREMENTS` measurements; an undisturbed one is the last.

        Each takes a second, during which all other work waits.
        """
        where, load = (device, dtype), os.getloadavg()[0]
        known = self._peaks.get(where)
        if known is None or known[1]:
            found = measure_peaks(device, dtype)
            best, left = known or (found, MEASUREMENTS)
            busy = Load(load, load, 0.0, own_threads(device)).busy
            known = self._peaks[where] = best.best(found), left - 1 if busy else 0
        return known[0]


class Service:
    """Answers the page and its API: slider requests as JSON, and jobs of the tabs.

    Args:
        local: Runs models in this process.
        executor: Runs them elsewhere if that is better; None: never.
    """

    def __init__(self, local: LocalExecutor, executor: Executor | None = None) -> None:
        self.models, self.limits, self.local = local.models, local.models.limits, local
        self.executor: Executor = executor or local
        self._studies: LRUCache[tuple[Any, ...], ContextStudy] = LRUCache(
            self.limits.studies,
            self.limits.idle_seconds,
            self.limits.held_bytes,
            lambda study: study.law.given.nbytes,
            clock=self.models.clock,
        )

    def prepare(self, first: Request) -> None:
        """Answers a slider request, which loads its pair, and measures the device, so that no race waits for it."""
        if self.point(first)["ok"]:
            pair = self.models.pair(first["pair"])
            for _ in range(MEASUREMENTS):
                with self.local.alone(pair, self.local.token()):
                    self.local.measured(pair.teacher.device, pair.teacher.dtype)

    def tables(self, request: Request) -> TablesReply | RowsReply | Failure:
        """The tokens of every slot as each slider moves, with the others fixed at `u`."""
        return cast(TablesReply, self._answer(request, partial(self.executor.ask, "tables"), "sweep_steps"))

    def point(self, request: Request) -> PointReply | Failure:
        """Both maps at exactly `u`."""
        return cast(PointReply, self._answer(request, self.local.point, "sweep_steps"))

    def grid(self, request: Request) -> GridReply | Failure:
        """Both maps over two sliders."""
        return cast(GridReply, self._answer(request, partial(self.executor.ask, "grid"), "grid_steps"))

    def writing(self, config: WriteConfig, cuts: bool = False) -> Writing:
        """A job in which decoders continue a prompt.

        Args:
            config: The request.
            cuts: Whether the number of new tokens is reduced to fit the context; otherwise too many are an error.

        Raises:
            KfError: as `decoder_runs`; an invalid pair or prompt, or more than the limits allow.
        """
        pair, ids, cut = self.models.prompt(config.pair, config.prompt)
        self.limits.check("samples", config.samples, "samples")
        self.limits.check("new tokens", config.new_tokens, "new_tokens")
        self.limits.check("tokens per pass, K,", config.k, "slots")
        if cuts:
            fitting = min(config.new_tokens, pair.teacher.config.context - len(ids))
            config = dataclasses.replace(config, new_tokens=fitting)
        first = snapshot(pair, decoder_runs(pair, ids, config))
        turn: Callable[[], AbstractContextManager[None]] = partial(self.local.turn, pair, Priority.BACKGROUND)
        job = self.executor.job("texts", config.pair, ids, config, first=first)
        return Writing(pair, ids, config, job, turn, cut_note(cut))

    def racing(self, config: RaceConfig) -> Racing:
        """A race of decoders after a prompt.

        A prompt that leaves too little room for the new tokens is cut; the number of new tokens is kept.

        Raises:
            KfError: as `RaceConfig.settings`; an invalid pair or prompt, or more than the limits allow.
        """
        config.check(self.limits)
        pair, ids, cut = self.models.prompt(config.pair, config.prompt)
        fitting = max(1, pair.teacher.config.context - config.new_tokens)
        ids, cut = ids[-fitting:], cut + max(0, len(ids) - fitting)
        settings = config.settings(pair, len(ids))
        job = self.executor.job("race", config.pair, ids, config, first=before_race(pair, settings))
        return Racing(pair, ids, config, settings, job, cut_note(cut))

    def study(self, name: str, prompt: str, k: int, blocks: int, seed: int, temperature: float = 1.0) -> Job[Part]:
        """The exact distribution and samplers after a prompt, as a job whose last snapshot is the result.

        Recent results are cached. The job raises KfError as `study_steps`, or for a bad pair, prompt or block count.
        """

        def stream(cancel: CancelToken) -> Iterator[Part]:
            self.limits.check("blocks", blocks, "study_blocks")
            _, ids, _ = self.models.prompt(name, prompt)
            key = (name, prompt, k, blocks, seed, temperature)
            found = self._studies.get(key)
            if found is None:
                job = self.executor.job("study", name, ids, k, blocks, seed, temperature)
                if job.is_remote:
                    yield 0.0, "a GPU that is asked for"
                for part in job.stream(cancel):
                    if isinstance(part, ContextStudy):
                        found = self._studies.put(key, part)
                    else:
                        yield part
                assert found is not None
            yield found

        return Job(stream, self.local.token())

    def _answer(self, request: Request, answer: Callable[[str, Question], dict[str, Any]], most: str) -> dict[str, Any]:
        seq = request.get("seq") if isinstance(request, dict) else None
        seq = seq if type(seq) is int and abs(seq) < 2**53 else None  # it is returned as JSON
        try:
            question = read(request, self.limits, most)
            return {"ok": True, "seq": seq, **answer(question.pair, question)}
        except KfError as error:
            message = {"failed": error.failed, "valid": error.valid, "run": error.run, "is_command": error.is_command}
            return {"ok": False, "busy": isinstance(error, Busy), "seq": seq, **message}


def local_service(
    loaders: Mapping[str, Callable[[], Pair]],
    limits: ServerLimits = DEFAULTS,
    other: Callable[[str], Pair] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Service:
    """A service that runs all models in this process; arguments as for `ModelStore`."""
    return Service(LocalExecutor(ModelStore(loaders, limits, other, clock)))


def _trained(pair: Pair) -> dict[str, Any] | None:
    """The temperatures that a student was trained with, and a note for others."""
    if pair.student is None:
        return None
    low, high = pair.temperatures
    return {"low": low, "high": high, "note": pair.untrained}
