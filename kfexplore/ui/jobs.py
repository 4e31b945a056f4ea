"""Work and its turns: workers that give turns by priority and time of asking, and the one lifecycle of a job."""

from __future__ import annotations

import itertools
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

import torch

from kfexplore.cancel import Cancelled, CancelToken
from kfexplore.errors import KfError
from kfexplore.pair import Pair
from kfexplore.ui.clients import CLIENT, crowd, next_round

CHECK_EVERY: Final = 0.05
"""Seconds between two checks whether waiting work was cancelled."""
RECENT: Final = 5.0
"""Seconds for which the length of a queue is remembered."""
LEAD: Final = 8
"""Interactive turns in a row after which background work gets one."""
SMALL: Final = 32_000_000
"""Weights of a teacher's blocks below which one thread is enough."""

Snapshot = TypeVar("Snapshot")
State = Literal["waiting", "running", "done", "cancelled", "late", "failed"]


class Busy(KfError):
    """The queue is full; the same request may succeed a little later."""

    def __init__(self) -> None:
        super().__init__("The server is busy.", "the same again in a moment")


class Priority(IntEnum):
    """What runs first; see `Worker`."""

    INTERACTIVE = 0
    """A user waits for it while moving a slider."""
    BACKGROUND = 1


@dataclass(order=True)
class _Waiting:
    priority: Priority
    round: int
    number: int
    """The lowest priority, round and number go first."""
    client: Hashable = field(compare=False)
    is_fixed: bool = field(compare=False)
    """Whether it can be cancelled, and so has a place in the page's queue, which is bounded itself."""


class Worker:
    """Does one thing at a time. Each runs in its caller's own thread.

    Interactive work goes first, but after `LEAD` interactive turns in a row background work gets one turn. Each kind
    runs in rounds with one turn per client, in order of arrival within a round. Clients are those of `clients.CLIENT`;
    a request without one counts as its own client.

    Args:
        waiting: Bound on the waiting requests; None: no bound. If the queue is full, a new request takes over the last
            place of the client that has the most; if none has more, an interactive one takes a background place. Work
            that can be cancelled is always accepted, because it already has a place in the page's queue.
        clock: Seconds.
    """

    def __init__(self, waiting: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._waiting, self._clock = waiting, clock
        self._is_busy, self._rounds, self._ahead = False, dict.fromkeys(Priority, 0), 0
        self._queue: list[_Waiting] = []
        self._numbers = itertools.count()
        self._lengths: deque[tuple[float, int]] = deque()
        self._changed = threading.Condition()

    def recent_length(self) -> int:
        """The most clients that had something running or waiting within the last seconds."""
        with self._changed:
            self._remember()
            return max(length for _, length in self._lengths)

    @contextmanager
    def turn(
        self, priority: Priority = Priority.INTERACTIVE, cancel: Callable[[], bool] | None = None
    ) -> Iterator[None]:
        """Waits for a turn and holds it.

        Raises:
            Busy: too many wait.
            Cancelled: `cancel` returned true before the turn came.
        """
        if cancel and cancel():
            raise Cancelled
        with self._changed:
            mine = self._enter(priority, cancel is not None)
            try:
                while self._is_busy or self._next() is not mine:
                    self._changed.wait(CHECK_EVERY if cancel else None)
                    if cancel and cancel():
                        raise Cancelled
                    if mine not in self._queue:
                        raise Busy
                self._begin(mine)
            finally:
                if mine in self._queue:
                    self._queue.remove(mine)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()

    def _enter(self, priority: Priority, is_fixed: bool) -> _Waiting:
        client = CLIENT.get()
        if not is_fixed and self._waiting is not None and self._is_busy + len(self._queue) > self._waiting:
            self._queue.remove(self._least(client, priority))
            self._changed.notify_all()
        alike = ((each.client, each.round) for each in self._queue if each.priority == priority)
        its = next_round(client, self._rounds[priority], alike)
        mine = _Waiting(priority, its, next(self._numbers), client, is_fixed)
        insort(self._queue, mine)
        self._remember()
        return mine

    def _next(self) -> _Waiting:
        """What has the next turn."""
        passed = (each for each in self._queue if self._ahead >= LEAD and each.priority)
        return next(passed, self._queue[0])

    def _begin(self, mine: _Waiting) -> None:
        self._is_busy, self._rounds[mine.priority] = True, max(self._rounds[mine.priority], mine.round)
        passes = not mine.priority and any(each.priority for each in self._queue)
        self._ahead = self._ahead + 1 if passes else 0

    def _least(self, client: Hashable, priority: Priority) -> _Waiting:
        """What waits and is refused for the sake of a newcomer."""
        others = [each for each in self._queue if not each.is_fixed]
        crowded = crowd(client, (each.client for each in others))
        if crowded is not None:
            return [each for each in others if each.client == crowded][-1]
        later = [each for each in others if each.priority > priority]
        waits = client is not None and any(each.client == client and each.priority == priority for each in others)
        if later and not waits:
            return later[-1]
        raise Busy

    def _remember(self) -> None:
        now = self._clock()
        known = {each.client for each in self._queue} - {None}
        length = self._is_busy + len(known) + sum(each.client is None for each in self._queue)
        self._lengths.append((now, length))
        while self._lengths[0][0] < now - RECENT:
            self._lengths.popleft()


class Job(Generic[Snapshot]):
    """Work from the time it is asked for to its end. One thread runs it; others may look at it and cancel it.

    Args:
        stream: Starts the work, given the token that ends it, and yields snapshots: values that nobody changes later.
        cancel: Ends the work; its time runs once the work does.
        first: The snapshot before the first one.
        is_remote: Whether another process does the work.
    """

    def __init__(
        self,
        stream: Callable[[CancelToken], Iterator[Snapshot]],
        cancel: CancelToken,
        first: Snapshot | None = None,
        is_remote: bool = False,
    ) -> None:
        self.state: State = "waiting"
        self.snapshot = first
        self.cancel, self.is_remote = cancel, is_remote
        self.stream, self._lock = stream, threading.Lock()

    def run(self) -> Generator[Snapshot, None, None]:
        """Runs the work, once. Closing this, or `stop`, leaves the last snapshot: a step under way is thrown away.

        Raises:
            KfError: the work failed.
        """
        with self._lock:
            if not self.is_waiting:
                return
            self.state = "running"
        stream = self.stream(self.cancel)
        try:
            for snapshot in stream:
                with self._lock:
                    if self.is_over:
                        return
                    self.snapshot = snapshot
                yield snapshot
            self._end("done")
        except Cancelled:
            self.stop()
        except Exception:
            self._end("failed")
            raise
        finally:
            self.stop()
            stream.close()  # type: ignore[attr-defined]

    def stop(self) -> None:
        """Cancels the work, unless it is over."""
        self._end("late" if self.cancel.is_late else "cancelled")

    @property
    def is_waiting(self) -> bool:
        """Whether it has not run yet."""
        return self.state == "waiting"

    @property
    def is_over(self) -> bool:
        """Whether there will be no other snapshot."""
        return self.state not in ("waiting", "running")

    def _end(self, state: State) -> None:
        with self._lock:
            self.cancel.set()
            self.state = self.state if self.is_over else state


class Executor(Protocol):
    """Where the models run: in this process, or on a borrowed GPU."""

    races_at_once: int
    """Races that the page's queue lets in; those that run in this process still run one after another."""

    def job(self, task: str, pair: str, *given: Any, first: Any = None) -> Job[Any]:
        """A job that waits: a task of `LocalExecutor` by its name, its pair, and more arguments, all plain values."""

    def ask(self, task: str, pair: str, question: Any) -> Any:
        """The answer to a question of the sliders, as soon as it is its turn.

        Raises:
            Busy: too many wait.
        """


def is_small(pair: Pair) -> bool:
    """Whether a CPU answers fast enough for a slider."""
    return pair.teacher.config.block_weights < SMALL


@contextmanager
def few_threads(pair: Pair) -> Iterator[None]:
    """Runs small models on this thread alone: their passes gain little from a second one, and others need it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if is_small(pair) else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
