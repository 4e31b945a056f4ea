"""What the page asks of the models: pairs loaded once, contexts held, tables and points as JSON.

Replies carry arrays as base64 little-endian strings: large lists in JSON are slow on both sides.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch

from kfexplore.bench.setting import Load, measure_peaks, own_threads
from kfexplore.cancel import Cancelled, CancelToken
from kfexplore.checkpoints.hub import Unreachable, hub_name
from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import KfError
from kfexplore.figures.payload import grid_payload, point_payload, scrub_payload, sweeps_payload, token_texts
from kfexplore.laws.study import Report, StudySteps, finished, silent, study_steps
from kfexplore.maps import PrefilledContext, block, grid, sweeps
from kfexplore.maps.context import REMEMBERED
from kfexplore.pair import Pair
from kfexplore.results import ContextStudy, DevicePeaks
from kfexplore.ui.cache import LRUCache
from kfexplore.ui.jobs import Busy, Turns, few_threads
from kfexplore.ui.limits import DEFAULTS, ServerLimits
from kfexplore.ui.protocol import Question, read
from kfexplore.ui.racing import RaceConfig, Racing
from kfexplore.ui.writing import WriteConfig, Writing

Json = dict[str, Any]

FINENESS: Final = ((3, 512), (5, 128), (math.inf, 32))
"""Most steps of a slider's row by how long the line of questions has been lately, the first that it is within."""
MEASUREMENTS: Final = 3
"""Most measurements of a device's limits, one a race, while others are at work."""
HUB_RESTS: Final = 60.0
"""Seconds after which a pair is asked for again of a hub that could not be reached."""


@dataclass(frozen=True)
class _Context:
    """A prompt that the models have read."""

    held: PrefilledContext
    cut: int
    """Tokens that did not fit."""

    @property
    def nbytes(self) -> int:
        """About: keys and values of the prompt, and all laws that may be remembered."""
        models = [model.config for model in (self.held.teacher, self.held.student) if model is not None]
        keys = sum(2 * 4 * model.depth * model.width for model in models) * len(self.held.ids)
        return keys + REMEMBERED * 8 * models[0].vocab_size


@dataclass(frozen=True)
class _Ready:
    """A pair in memory, with the prompts that it holds ready."""

    pair: Pair
    contexts: LRUCache[str, _Context]
    turn: Turns


class Service:
    """Answers the page: rows, grids, steps of texts and races one at a time, and beside them points and studies.

    Where many ask, rows are in coarser steps. One that a hand waits for goes before one that only shows a track.

    Args:
        loaders: Name of each pair on offer -> how to load it; loaded on first use. The first one is never let go.
        limits: What may be asked.
        other: Loads a pair that is not on offer, by its folder or hub id; None: there is no other.
        clock: Seconds.
    """

    races_at_once: int = 1
    """That the page's queue lets in; of those that run here, each waits for the one before all the same."""

    def __init__(
        self,
        loaders: Mapping[str, Callable[[], Pair]],
        limits: ServerLimits = DEFAULTS,
        other: Callable[[str], Pair] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.loaders, self.limits, self._other, self._clock = dict(loaders), limits, other, clock
        self._pairs: LRUCache[str, _Ready] = LRUCache(
            limits.loaded_pairs, limits.idle_seconds, pinned=next(iter(self.loaders)), clock=clock
        )
        self._studies: LRUCache[tuple[str, str, int, int, int, float], ContextStudy] = LRUCache(
            limits.studies, limits.idle_seconds, limits.held_bytes, lambda held: held.law.given.nbytes, clock=clock
        )
        self._loading = {name: Turns(limits.questions) for name in self.loaders}  # one download keeps no other waiting
        self._loading_other = Turns(limits.questions)
        self._missed: LRUCache[str, tuple[float, KfError]] = LRUCache(limits.questions, HUB_RESTS, clock=clock)
        self._heavy, self._pointing = Turns(limits.questions, clock), Turns(limits.questions)
        self._studying, self._timing = Turns(), Turns()  # who waits is in the page's queue
        self._measured: dict[tuple[torch.device, torch.dtype], tuple[DevicePeaks, int]] = {}

    def offers(self, name: str) -> bool:
        """Whether a pair of that name may be asked for."""
        return name in self.loaders or bool(name and self._other)

    def holds(self, name: str) -> bool:
        """Whether the pair of that name is loaded."""
        return self._pairs.get(name) is not None

    def pair(self, name: str) -> Pair:
        """The pair of that name, loaded if it is not yet.

        Raises:
            KfError: it is not on offer, or cannot be loaded; why, with all paths, is told in the log alone.
        """
        return self._ready(name).pair

    def slots(self, pair: Pair) -> int:
        """The largest K of a pair on this page."""
        return min(pair.k_max, self.limits.slots)

    def tables(self, request: Json) -> Json:
        """What every slot becomes as each slider moves, the others held where `u` says.

        Args:
            request: seq, pair, prompt, k (None: the trained K), u (None: the middle), temperature (None: 1),
                resolution, and slots: the sliders whose rows are wanted, and nothing else (None: all, with what a page
                needs to show them);
                yields: whether others go first; fits: whether `u` is cut or filled up to the pair's slots.
        """
        return self._answer(request, self._tables, "sweep_steps")

    def point(self, request: Json) -> Json:
        """Both maps at exactly `u`; request: seq, pair, prompt, u, temperature (None: 1)."""
        return self._answer(request, self._point, "sweep_steps")

    def grid(self, request: Json) -> Json:
        """A section over two sliders; request: as `point`, with slots (i < j) and resolution."""
        return self._answer(request, self._grid, "grid_steps")

    def study(
        self,
        name: str,
        prompt: str,
        k: int,
        blocks: int,
        seed: int,
        temperature: float = 1.0,
        report: Report = silent,
        stop: CancelToken | None = None,
    ) -> tuple[ContextStudy, Pair, str]:
        """Exact law and samplers after a prompt, the pair, and what was cut; the last few are kept.

        `report` is told how far it is, as by `finished`.

        Raises:
            KfError: as `study_steps`, or of the pair or prompt.
            Cancelled: `stop` said so.
        """
        stop = stop or CancelToken()
        text, blocks = self.limits.check_prompt(prompt), self.limits.check("blocks", blocks, "study_blocks")
        key = (name, text, k, blocks, seed, temperature)
        pair, ids, cut = self._prompt(name, prompt)
        with self._study_line(name).held(stop):
            found = self._studies.get(key)
            if found is None:
                steps = self._study_steps(name, ids, k, blocks, seed, temperature)
                found = self._studies.put(key, _studied(steps, report, stop))
        return found, pair, _cut(cut)

    def writing(self, config: WriteConfig, cuts: bool = False) -> Writing:
        """Decoders set to write after a prompt; each has a state of its own, and nothing is kept here.

        Args:
            config: What is to be written.
            cuts: Whether no more new tokens are written than fit the context; else too many are a mistake.

        Raises:
            KfError: as `Writing`, of the pair or prompt, or more than the limits allow.
        """
        pair, ids, cut = self._prompt(config.pair, config.prompt)
        self.limits.check("samples", config.samples, "samples")
        self.limits.check("new tokens", config.new_tokens, "new_tokens")
        self.limits.check("tokens a pass, K,", config.k, "slots")
        if cuts:
            fitting = min(config.new_tokens, pair.teacher.config.context - len(ids))
            config = dataclasses.replace(config, new_tokens=fitting)
        return Writing(pair, ids, config, _cut(cut), CancelToken(self.limits.run_seconds, self._clock), self._heavy)

    def racing(self, config: RaceConfig) -> Racing:
        """A race of decoders after a prompt; no other overlaps it, and all other work waits while a clock runs.

        A prompt that leaves too little room for the new tokens is cut: what is timed is how many there are.

        Raises:
            KfError: as `Racing`, of the pair or prompt, or more than the limits allow.
        """
        config.check(self.limits)
        pair, ids, cut = self._prompt(config.pair, config.prompt)
        fitting = max(1, pair.teacher.config.context - config.new_tokens)
        ids, cut = ids[-fitting:], cut + max(0, len(ids) - fitting)
        quiet = (self._studying, self._heavy)
        stop = CancelToken(self.limits.run_seconds, self._clock)
        return Racing(pair, ids, config, _cut(cut), stop, self._timing, quiet, self._limits)

    def _limits(self, device: torch.device, dtype: torch.dtype) -> DevicePeaks:
        """What a device can do: the best of some measurements, the last of them when nobody else was at work.

        One takes a second, in which all others wait.
        """
        where, load = (device, dtype), os.getloadavg()[0]
        held = self._measured.get(where)
        if held is None or held[1]:
            found = measure_peaks(device, dtype)
            best, left = held or (found, MEASUREMENTS)
            busy = Load(load, load, 0.0, own_threads(device)).busy
            held = self._measured[where] = best.best(found), left - 1 if busy else 0
        return held[0]

    def _ready(self, name: str) -> _Ready:
        load = self.loaders.get(name) or (partial(self._other, name) if self._other is not None else None)
        if load is None:
            raise KfError(f"There is no pair {name!r}.", ", ".join(self.loaders))
        ready = self._pairs.get(name)
        if ready is not None:
            return ready
        with self._loading.get(name, self._loading_other).held():
            ready = self._pairs.get(name)
            if ready is None:
                limits = self.limits
                contexts: LRUCache[str, _Context] = LRUCache(
                    limits.contexts, limits.idle_seconds, limits.held_bytes, lambda c: c.nbytes, clock=self._clock
                )
                ready = self._pairs.put(
                    name, _Ready(self._loaded_unless_missed(name, load), contexts, Turns(limits.questions))
                )
        return ready

    def _loaded_unless_missed(self, name: str, load: Callable[[], Pair]) -> Pair:
        """The pair; what the hub could not be reached for is not asked of it again at once."""
        until, missed = self._missed.get(name) or (-math.inf, None)
        if missed is not None and self._clock() < until:
            raise KfError(*missed.args)
        try:
            return _loaded(name, load)
        except Unreachable as error:
            self._missed.put(name, (self._clock() + HUB_RESTS, error))
            raise

    def _prompt(self, name: str, prompt: str) -> tuple[Pair, list[int], int]:
        """The pair, the prompt's tokens, and how many were cut."""
        self.limits.check_prompt(prompt)
        pair = self.pair(name)
        return pair, *pair.encode(prompt)

    def _context(self, name: str, prompt: str) -> tuple[Pair, _Context]:
        ready = self._ready(name)
        context = ready.contexts.get(prompt)
        if context is None:
            with ready.turn.held():
                context = ready.contexts.get(prompt)
                if context is None:
                    ids, cut = ready.pair.encode(prompt)
                    with few_threads(ready.pair):
                        context = ready.contexts.put(prompt, _Context(ready.pair.prefill(ids), cut))
        return ready.pair, context

    def _study_line(self, _name: str) -> Turns:
        """Where a study of a pair waits."""
        return self._studying

    def _study_steps(self, name: str, ids: list[int], k: int, blocks: int, seed: int, temperature: float) -> StudySteps:
        """A study that is not kept yet, after a prompt's tokens."""
        return study_steps(self.pair(name), ids, k, blocks, seed, temperature=temperature)

    def _answer(self, request: Json, answered: Callable[[Question], Json], most: str) -> Json:
        seq = request.get("seq") if isinstance(request, dict) else None
        try:
            reply = answered(read(request, self.limits, most))
        except KfError as error:
            told = {"failed": error.failed, "valid": error.valid, "run": error.run, "is_command": error.is_command}
            return {"ok": False, "busy": isinstance(error, Busy), "seq": seq, **told}
        return {"ok": True, "seq": seq, **reply}

    def _tables(self, asked: Question) -> Json:
        pair, context = self._context(asked.pair, asked.prompt)
        most = self.slots(pair)
        u = asked.noise(most)
        slots = list(asked.slots or range(len(u)))
        with self._heavy.held(yields=asked.yields), few_threads(pair):
            start = time.perf_counter()
            every = math.gcd(asked.resolution, max(1, asked.resolution // self._fineness()))
            moved = sweeps(context.held, u, slots, asked.resolution, every, asked.temperature)
            at = None if asked.slots else block(context.held, u, asked.temperature)
            seconds = time.perf_counter() - start
        about = {"pair": asked.pair, "prompt": asked.prompt, "temperature": asked.temperature}
        if at is None:
            return {**about, **sweeps_payload(moved, pair.texts, every=every)}
        return scrub_payload(
            moved,
            at,
            context.held.ids.tolist(),
            pair.texts,
            every,
            **about,
            trained=_trained(pair),
            note=_cut(context.cut),
            k_max=most,
            device=pair.teacher.device.type,
            seconds=seconds,
        )

    def _point(self, asked: Question) -> Json:
        pair, context = self._context(asked.pair, asked.prompt)
        u = asked.noise(self.slots(pair))
        with self._pointing.held(), few_threads(pair):
            answer = block(context.held, u, asked.temperature)
        return {"u": answer.u[0].tolist(), **point_payload(answer), "texts": token_texts(pair.texts, answer)}

    def _grid(self, asked: Question) -> Json:
        pair, context = self._context(asked.pair, asked.prompt)
        u = asked.noise(self.slots(pair))
        with self._heavy.held(yields=True), few_threads(pair):
            most = max(FINENESS[-1][1], self._fineness() // 4)
            square = grid(context.held, u, asked.square, min(asked.resolution, most), asked.temperature)
        return grid_payload(square, pair.texts)

    def _fineness(self) -> int:
        """Steps of a row, by how many have asked lately."""
        asking = self._heavy.longest()
        return next(steps for most, steps in FINENESS if asking <= most)


def _studied(steps: StudySteps, report: Report, stop: CancelToken) -> ContextStudy:
    """What a study finds, unless it is to end before; its time runs from its first step."""

    def told(share: float, what: str) -> None:
        if not share:
            stop.begin()
        if stop():
            raise Cancelled
        report(share, what)

    return finished(steps, told)


def _trained(pair: Pair) -> Json | None:
    """The temperatures that a student was trained with, and what to say where another is used."""
    if pair.student is None:
        return None
    low, high = pair.temperatures
    return {"low": low, "high": high, "note": pair.untrained}


def _cut(tokens: int) -> str:
    return f"The first {tokens} tokens of the prompt were cut to fit the context." if tokens else ""


def _loaded(name: str, load: Callable[[], Pair]) -> Pair:
    """The pair, if its tokens fit the two bytes that they travel in."""
    try:
        pair = load()
    except KfError as error:
        print(f"kfexplore: the pair {name!r} cannot be loaded: {error}", file=sys.stderr)
        if isinstance(error, Unreachable):
            raise Unreachable(
                f"The pair {name!r} is not here, and {hub_name()}, where it is fetched from, could not be reached.",
                f"a connection, and the pair chosen again after a minute; or the pair {DEFAULT_PAIR}, which needs none",
                "read in the log of the app where files can be put by hand",
            ) from None
        raise KfError(
            f"The pair {name!r} cannot be loaded.", "another pair", "read the reason in the log of the app"
        ) from None
    if pair.teacher.config.vocab_size > 2**16:
        raise KfError(f"The pair has {pair.teacher.config.vocab_size} tokens.", f"at most {2**16} on this page")
    return pair
