"""ZeroGPU Spaces: a GPU is borrowed per request, by a forked process that lives on for a while.

Small models stay on the CPU: there they answer before a GPU would be found, and do not use up a visitor's quota.
"""

from __future__ import annotations

import dataclasses
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import cache, cached_property, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import gradio as gr
import torch
from gradio.context import LocalContext

from kfexplore.cancel import Cancelled
from kfexplore.errors import KfError
from kfexplore.pair import Pair
from kfexplore.ui.jobs import Busy, Job, Worker, is_small
from kfexplore.ui.limits import DEFAULTS, ServerLimits
from kfexplore.ui.models import ModelStore
from kfexplore.ui.service import LocalExecutor, Service

LONGEST: Final = 60
"""Most seconds of a running text, study or race: a visitor has a few minutes per day."""
QUESTION_SECONDS: Final = 20
"""Most seconds for rows and grids."""
STARTING: Final = 10
"""Seconds to move models to the GPU, in addition to those of the work."""
RACES: Final = 4
"""Races that the page admits at once; those without a borrowed GPU still run one after another."""

Work = Callable[..., Iterator[Any]]


def is_zero() -> bool:
    """Whether this is a ZeroGPU Space, determined as in the package `spaces`."""
    return find_spec("spaces") is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def gpu(work: Work, seconds: Callable[..., int]) -> Work:
    """Wraps a generator function so that it has a GPU while it runs.

    It runs in a forked process. Arguments and results are pickled, so they must be plain values: a prompt and settings,
    never a model, a lock or an object that has one. It sees this process's state as of the fork, including locks that
    other threads held, and its changes are not seen here. `KfError` and `Cancelled` are passed on.

    Args:
        work: Runs the models.
        seconds: Its longest duration for the same arguments; with a shorter one, a GPU is found sooner.
    """

    def caught(*given: Any) -> Iterator[Any]:
        try:
            yield from work(*given)
        except (KfError, Cancelled) as error:
            yield error  # if raised, only the name of its class would arrive

    lent: Work = import_module("spaces").GPU(caught, duration=seconds)

    def asked(*given: Any) -> Iterator[Any]:
        try:
            for answer in lent(*given):
                if isinstance(answer, KfError | Cancelled):
                    raise answer
                yield answer
        except (KfError, Cancelled):
            raise
        except gr.Error as error:
            why = re.sub(r"<[^>]*>", "", str(error.message))
            raise KfError(f"No answer from a GPU: {why}", "the same again later, or signed in to the hub") from None
        except Exception:  # from the package, or from the service that it calls
            traceback.print_exc()
            raise KfError("No answer from a GPU.", "the same again later") from None

    return asked


class ZeroExecutor:
    """Borrows a GPU for visitors' requests to large models; its pairs are on the CPU, and loaded once.

    Points, and work that no visitor requested, such as the first screen, run in this process.

    Args:
        local: Runs models in this process. Forked processes use the loaded pairs, so none may be dropped.
        device: Device of the forked process's models.
    """

    races_at_once = RACES

    def __init__(self, local: LocalExecutor, device: str = "cuda") -> None:
        self._local, self._device = local, device
        self._lent = gpu(self._answers, self._seconds)
        self._places = threading.BoundedSemaphore(local.models.limits.questions)
        self._races = Worker()

    def job(self, task: str, pair: str, *given: Any, first: Any = None) -> Job[Any]:
        """See `Executor`."""
        is_remote = self._is_remote(pair)
        stream = self._elsewhere if is_remote else self._here
        return Job(partial(stream, task, pair, *given), self._local.token(), first, is_remote)

    def ask(self, task: str, pair: str, question: Any) -> Any:
        """See `Executor`."""
        if not self._is_remote(pair):
            return self._local.ask(task, pair, question)
        if not self._places.acquire(blocking=False):
            raise Busy
        try:
            [answer] = self._lent(task, pair, question)
        finally:
            self._places.release()
        return answer

    def _here(self, task: str, *given: Any) -> Iterator[Any]:
        with self._races.turn(cancel=given[-1]) if task == "race" else nullcontext():
            yield from self._local.run(task, *given)

    def _elsewhere(self, task: str, pair: str, *given: Any) -> Iterator[Any]:
        *plain, cancel = given
        try:
            yield from self._lent(task, pair, *plain)
        except Cancelled:  # that process has its own token, which only the time limit can set
            cancel.expire()
            raise

    def _is_remote(self, pair: str) -> bool:
        return LocalContext.request.get(None) is not None and not is_small(self._local.models.pair(pair))

    def _seconds(self, task: str, *_: Any) -> int:
        return STARTING + (QUESTION_SECONDS if task in ("tables", "grid") else self._local.models.limits.run_seconds)

    def _answers(self, task: str, pair: str, *given: Any) -> Iterator[Any]:
        """Runs a task in the forked process."""
        if task in ("tables", "grid"):
            yield self._there.ask(task, pair, *given)
        else:
            yield from self._there.run(task, pair, *given, self._there.token())

    @cached_property
    def _there(self) -> LocalExecutor:
        """The forked process's own executor, with its own locks and contexts, kept while the process lives."""
        torch.set_num_threads(1)  # a fork has none of torch's worker threads, which a larger pool would wait for
        here = self._local.models
        loaders = {name: partial(_moved, load, self._device) for name, load in here.loaders.items()}
        load_other = here.other
        other = None if load_other is None else lambda name: _moved(partial(load_other, name), self._device)
        return LocalExecutor(ModelStore(loaders, here.limits, other, here.clock))


def zero_service(
    loaders: Mapping[str, Callable[[], Pair]],
    limits: ServerLimits = DEFAULTS,
    other: Callable[[str], Pair] | None = None,
    clock: Callable[[], float] = time.monotonic,
    device: str = "cuda",
) -> Service:
    """A service that borrows GPUs; arguments as for `ModelStore` and `ZeroExecutor`. No job runs beyond `LONGEST`."""
    limits = dataclasses.replace(limits, run_seconds=min(limits.run_seconds, LONGEST))
    once = {name: cache(load) for name, load in loaders.items()}
    local = LocalExecutor(ModelStore(once, limits, cache(other) if other else None, clock))
    return Service(local, ZeroExecutor(local, device))


def _moved(load: Callable[[], Pair], device: str) -> Pair:
    pair = load()
    models = {name: getattr(pair, name) for name in ("teacher", "student", "masked")}
    return dataclasses.replace(pair, **{name: model.to(device) for name, model in models.items() if model is not None})
