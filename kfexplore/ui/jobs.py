"""Work and its turns: workers that give turns by priority and fair shares, and the one lifecycle of a job."""

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
from kfexplore.ui.clients import REFUSED, FairShares
from kfexplore.ui.queueing import client_here

CHECK_EVERY: Final = 0.05
"""Seconds between two checks whether waiting work was cancelled."""
RECENT: Final = 5.0
"""Seconds for which the length of a queue is remembered."""
BACKGROUND_SHARE: Final = 0.2
"""Of a worker's time, for background work while interactive work waits too."""
LEAD: Final = 0.2
"""Seconds of that share that interactive work has first."""
EXPECTED: Final = 0.05
"""Seconds that a turn is expected to take, until it has ended."""
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
    tag: float
    """See `FairShares`."""
    number: int
    """The lowest priority, tag and number go first."""
    client: Hashable = field(compare=False)
    is_fixed: bool = field(compare=False)
    """Whether it can be cancelled, and so has a place in the page's queue, which is bounded itself."""
    changed: threading.Condition = field(compare=False)
    """Notified when it has its turn or is refused: to wake all that wait would hold up what runs."""


class Worker:
    """Does one thing at a time. Each runs in its caller's own thread.

    Interactive work goes first, but background work keeps a share of the time. Within each kind clients get equal
    shares of the time, and those who have had less go first. Clients are those of `client_here`; without one, all
    work with the same `cancel`, and each request without that, counts as a client.

    Args:
        waiting: Bound on the waiting requests; None: no bound. If the queue is full, the request whose client is
            furthest ahead of its share is refused; among equals, background work before interactive work, and the
            last to come. Work that can be cancelled is always accepted, because it already has a place in the page's
            queue.
        clock: Seconds.
    """

    def __init__(self, waiting: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._waiting, self._clock, self._is_busy = waiting, clock, False
        self._shares = {priority: FairShares() for priority in Priority}
        self._owed = -LEAD
        """Seconds of the background's share that interactive work has had beyond its lead."""
        self._queue: list[_Waiting] = []
        self._numbers = itertools.count()
        self._lengths: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()

    def recent_length(self) -> int:
        """The most clients that had something running or waiting within the last seconds."""
        with self._lock:
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
        with self._lock:
            mine = self._enter(priority, cancel)
            try:
                while mine in self._queue and (self._is_busy or self._next() is not mine):
                    mine.changed.wait(CHECK_EVERY if cancel else None)
                    if cancel and cancel():
                        raise Cancelled
                if mine not in self._queue:
                    if refused := REFUSED.get(None):
                        refused.set()
                    raise Busy
                owing = self._begin(mine)
            except BaseException:
                self._shares[priority].correct(mine.client, -EXPECTED)
                raise
            finally:
                if mine in self._queue:
                    self._queue.remove(mine)
                self._wake()
        started = self._clock()
        try:
            yield
        finally:
            with self._lock:
                seconds = self._clock() - started
                self._shares[priority].correct(mine.client, seconds - EXPECTED)
                self._owed += owing * seconds
                self._is_busy = False
                self._wake()

    def _enter(self, priority: Priority, cancel: Callable[[], bool] | None) -> _Waiting:
        client, is_fixed = client_here() or cancel, cancel is not None
        tag, changed = self._shares[priority].tag(client, EXPECTED), threading.Condition(self._lock)
        mine = _Waiting(priority, tag, next(self._numbers), client, is_fixed, changed)
        insort(self._queue, mine)
        if not is_fixed and self._waiting is not None and self._is_busy + len(self._queue) > self._waiting + 1:
            refused = max((each for each in self._queue if not each.is_fixed), key=self._ahead)
            self._queue.remove(refused)
            refused.changed.notify()
        self._remember()
        return mine

    def _ahead(self, each: _Waiting) -> tuple[float, Priority, int]:
        """How far a client is ahead of its share, and what decides between equals; the largest is refused."""
        return each.tag - self._shares[each.priority].now, each.priority, each.number

    def _next(self) -> _Waiting:
        """What has the next turn."""
        first = (each for each in self._queue if self._owed > 0 and each.priority)
        return next(first, self._queue[0])

    def _wake(self) -> None:
        """Wakes what has the next turn."""
        if self._queue and not self._is_busy:
            self._next().changed.notify()

    def _begin(self, mine: _Waiting) -> float:
        """Begins a turn; returns the seconds that each second of it adds to what the background is owed."""
        self._is_busy = True
        alike = [each for each in self._queue if each.priority == mine.priority]
        self._shares[mine.priority].begin(mine.tag, is_last=len(alike) == 1)
        if len(alike) == len(self._queue):
            self._owed = -LEAD
            return 0.0
        return -1.0 if mine.priority else BACKGROUND_SHARE / (1 - BACKGROUND_SHARE)

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


def threads(pair: Pair) -> int:
    """Threads that its models use: small ones one, as their passes gain little from a second, and others need it."""
    return 1 if is_small(pair) else torch.get_num_threads()


@contextmanager
def few_threads(pair: Pair) -> Iterator[None]:
    """Sets the number of `threads` meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads(pair))
    try:
        yield
    finally:
        torch.set_num_threads(before)
