"""ZeroGPU: on such a Space a GPU is lent for a question, to a process that is forked for it and lives on a while.

Small models stay on the CPU: they answer sooner there than a GPU is found, and cost a visitor nothing.
"""

from __future__ import annotations

import dataclasses
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import cache, cached_property, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import gradio as gr
import torch
from gradio.context import LocalContext

from kfexplore.errors import KfError
from kfexplore.laws.study import StudySteps
from kfexplore.pair import Pair
from kfexplore.results import ContextStudy
from kfexplore.ui import racing, writing
from kfexplore.ui.jobs import Busy, Turns, is_small
from kfexplore.ui.limits import DEFAULTS, ServerLimits
from kfexplore.ui.protocol import Question
from kfexplore.ui.racing import RaceConfig, Racing
from kfexplore.ui.service import Json, Service
from kfexplore.ui.writing import WriteConfig, Writing

LONGEST: Final = 60
"""Seconds of a text, a study or a race, once it runs: a visitor has a few minutes a day."""
SLIDER_SECONDS: Final = 20
"""For rows and squares."""
STARTING: Final = 10
"""Seconds until models are on the GPU, beside those of the work."""

RACES: Final = 4
"""That the page lets in at once; of them, those that no GPU is lent for have one turn."""

Work = Callable[..., Iterator[Any]]


def is_zero() -> bool:
    """Whether this is a ZeroGPU Space, as the package `spaces` itself finds it out."""
    return find_spec("spaces") is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def gpu(work: Work, seconds: Callable[..., int]) -> Work:
    """The generator function, with a GPU as long as it runs.

    It runs in a forked process. What goes in and comes out is pickled, so it is plain values: a prompt and settings,
    never a model, a lock or an object that has one. What it finds in this process, it finds as it was at the fork,
    locks that others held included, and what it changes stays there. A user error comes through, as without a GPU.

    Args:
        work: What asks models.
        seconds: Of the same arguments, the longest that it may take; the shorter, the sooner a GPU is found.
    """

    def told(*given: Any) -> Iterator[Any]:
        try:
            yield from work(*given)
        except KfError as error:
            yield error  # any other way, nothing but the name of its class arrives

    lent: Work = import_module("spaces").GPU(told, duration=seconds)

    def asked(*given: Any) -> Iterator[Any]:
        try:
            for answer in lent(*given):
                if isinstance(answer, KfError):
                    raise answer
                yield answer
        except KfError:
            raise
        except gr.Error as error:
            why = re.sub(r"<[^>]*>", "", str(error.message))
            raise KfError(f"No answer from a GPU: {why}", "the same again later, or signed in to the hub") from None
        except Exception:  # of the package, or of the service that it asks
            traceback.print_exc()
            raise KfError("No answer from a GPU.", "the same again later") from None

    return asked


class LentService(Service):
    """A Service whose pairs are on the CPU, and which has a GPU lent for what large models are asked by a visitor.

    Points are answered here, and so is what no visitor asks for, as the first screen.

    Args:
        loaders: As of Service; pairs are loaded onto the CPU, and once: a forked process finds those loaded before it.
        limits: As of Service; nothing runs longer than `LONGEST`, and no pair is let go.
        other: As of Service, and once likewise.
        clock: Seconds.
        device: Where the forked process has its models.
    """

    races_at_once = RACES

    def __init__(
        self,
        loaders: dict[str, Callable[[], Pair]],
        limits: ServerLimits = DEFAULTS,
        other: Callable[[str], Pair] | None = None,
        clock: Callable[[], float] = time.monotonic,
        device: str = "cuda",
    ) -> None:
        limits = dataclasses.replace(limits, run_seconds=min(limits.run_seconds, LONGEST))
        once = {name: cache(load) for name, load in loaders.items()}
        super().__init__(once, limits, cache(other) if other else None, clock)
        self._device = device
        self._lent = gpu(self._answers, self._seconds)
        self._places = threading.BoundedSemaphore(limits.questions)

    def writing(self, config: WriteConfig, cuts: bool = False) -> Writing:
        """As of Service."""
        made = super().writing(config, cuts)
        made.elsewhere = partial(self._lent, "texts") if self._is_lent(config.pair) else None
        return made

    def racing(self, config: RaceConfig) -> Racing:
        """As of Service; on a GPU of its own it waits for no other work."""
        made = super().racing(config)
        made.elsewhere = partial(self._lent, "race") if self._is_lent(config.pair) else None
        return made

    def _tables(self, asked: Question) -> Json:
        return self._once("rows", asked) if self._is_lent(asked.pair) else super()._tables(asked)

    def _grid(self, asked: Question) -> Json:
        return self._once("square", asked) if self._is_lent(asked.pair) else super()._grid(asked)

    def _study_line(self, name: str) -> Turns:
        return Turns() if self._is_lent(name) else super()._study_line(name)

    def _study_steps(self, name: str, ids: list[int], k: int, blocks: int, seed: int, temperature: float) -> StudySteps:
        ask = self._lent_study if self._is_lent(name) else super()._study_steps
        return ask(name, ids, k, blocks, seed, temperature)

    def _lent_study(self, *asked: Any) -> StudySteps:
        yield 0.0, "a GPU that is asked for"
        for told in self._lent("laws", *asked):
            if isinstance(told, ContextStudy):
                found = told
            else:
                yield told
        return found

    def _once(self, what: str, asked: Question) -> Json:
        if not self._places.acquire(blocking=False):
            raise Busy
        try:
            [answer] = self._lent(what, asked)
        finally:
            self._places.release()
        found: Json = answer
        return found

    def _is_lent(self, name: str) -> bool:
        return LocalContext.request.get(None) is not None and not is_small(self.pair(name))

    def _seconds(self, what: str, *_: Any) -> int:
        return STARTING + (SLIDER_SECONDS if what in ("rows", "square") else self.limits.run_seconds)

    def _answers(self, what: str, *given: Any) -> Iterator[Any]:
        """In the forked process."""
        yield from getattr(self._borrower, what)(*given)

    @cached_property
    def _borrower(self) -> _Borrower:
        """Of the forked process alone, with locks and contexts of its own, as long as that lives."""
        torch.set_num_threads(1)  # a fork has none of the threads that others would wait for
        here = {name: partial(_moved, load, self._device) for name, load in self.loaders.items()}
        other = self._other
        moved_other = None if other is None else lambda name: _moved(partial(other, name), self._device)
        return _Borrower(here, self.limits, moved_other, self._clock)


class _Borrower(Service):
    """Has the GPU, and gives plain values."""

    def rows(self, asked: Question) -> Iterator[Json]:
        yield self._tables(asked)

    def square(self, asked: Question) -> Iterator[Json]:
        yield self._grid(asked)

    def laws(self, *asked: Any) -> Iterator[tuple[float, str] | ContextStudy]:
        yield (yield from self._study_steps(*asked))

    def texts(self, config: WriteConfig) -> Iterator[writing.News]:
        made = self.writing(config)
        for _ in made.steps():
            yield made.news
        yield made.news

    def race(self, config: RaceConfig) -> Iterator[racing.News]:
        made = self.racing(config)
        for _ in made.steps():
            yield made.news
        yield made.news


def _moved(load: Callable[[], Pair], device: str) -> Pair:
    pair = load()
    models = {name: getattr(pair, name) for name in ("teacher", "student", "masked")}
    return dataclasses.replace(pair, **{name: model.to(device) for name, model in models.items() if model is not None})
