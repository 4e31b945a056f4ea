"""Workers that schedule turns by priority and fair shares, and the lifecycle of a job."""

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
"""Seconds between checks whether waiting work was cancelled."""
RECENT: Final = 5.0
"""Seconds for which the length of a queue is remembered."""
BACKGROUND_SHARE: Final = 0.2
"""Fraction of a worker's time for background work while interactive work waits too."""
LEAD: Final = 0.2
"""Seconds of the background's time that interactive work may use first."""
EXPECTED: Final = 0.05
"""Assumed seconds of a turn, until it has ended."""
SMALL: Final = 32_000_000
"""Number of weights in a teacher's blocks below which one thread is enough."""

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
    """The lowest (priority, tag, number) goes first."""
    client: Hashable = field(compare=False)
    is_fixed: bool = field(compare=False)
    """Whether it can be cancelled, and therefore already has a place in the page's queue, which is bounded."""
    changed: threading.Condition = field(compare=False)
    """Notified when its turn comes or it is refused; waking all waiting threads would slow the running one."""


class Worker:
    """Grants one turn at a time; the work runs in its caller's thread.

    Interactive work goes first, but background work keeps a share of the time. Within each kind, clients get equal
    shares of the time, and those who have had less go first. The client is `client_here`; if unknown, all work with the
    same `cancel` counts as one client, and so does each request without `cancel`.

    Args:
        waiting: Bound on the waiting requests; None: no bound. If the queue is full, the request whose client is
            furthest ahead of its share is refused; among equals, background work before interactive work, and the
            last to come. Work that can be cancelled is always accepted, because it already has a place in the page's
            queue.
        clock: Time in seconds.
    """

    def __init__(self, waiting: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._waiting, self._clock = waiting, clock
        self._running: _Waiting | None = None
        self._shares = {priority: FairShares() for priority in Priority}
        self._owed = -LEAD
        """Seconds of the background's share that interactive work has used beyond `LEAD`."""
        self._queue: list[_Waiting] = []
        self._numbers = itertools.count()
        self._lengths: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()

    def recent_length(self) -> int:
        """The most clients with running or waiting requests within the last `RECENT` seconds; jobs do not count."""
        with self._lock:
            self._remember()
            return max(length for _, length in self._lengths)

    @contextmanager
    def turn(
        self, priority: Priority = Priority.INTERACTIVE, cancel: Callable[[], bool] | None = None
    ) -> Iterator[None]:
        """Waits for a turn and holds it.

        Raises:
            Busy: too many requests wait.
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
                self._running = None
                self._wake()

    @property
    def _is_busy(self) -> bool:
        return self._running is not None

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
        """How far a client is ahead of its share, then the tie-breakers; the largest is refused."""
        return each.tag - self._shares[each.priority].now, each.priority, each.number

    def _next(self) -> _Waiting:
        """The request whose turn is next."""
        first = (each for each in self._queue if self._owed > 0 and each.priority)
        return next(first, self._queue[0])

    def _wake(self) -> None:
        """Wakes the request whose turn is next."""
        if self._queue and not self._is_busy:
            self._next().changed.notify()

    def _begin(self, mine: _Waiting) -> float:
        """Starts a turn; returns the seconds that each second of it adds to `_owed`."""
        self._running = mine
        alike = [each for each in self._queue if each.priority == mine.priority]
        self._shares[mine.priority].begin(mine.tag, is_last=len(alike) == 1)
        if len(alike) == len(self._queue):
            self._owed = -LEAD
            return 0.0
        return -1.0 if mine.priority else BACKGROUND_SHARE / (1 - BACKGROUND_SHARE)

    def _remember(self) -> None:
        now = self._clock()
        clients = [each.client for each in (*self._queue, self._running) if each and not each.is_fixed]
        self._lengths.append((now, len({*clients} - {None}) + clients.count(None)))
        while self._lengths[0][0] < now - RECENT:
            self._lengths.popleft()


class Job(Generic[Snapshot]):
    """A piece of work, from request to end. One thread runs it; others may read its state and cancel it.

    Args:
        stream: Starts the work, given its cancel token, and yields snapshots: values that never change later.
        cancel: Cancels the work; its time limit starts with the work.
        first: The snapshot until the work yields one.
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
        """Runs the work, once. Closing the generator, or `stop`, keeps the last snapshot and discards a step under way.

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
        """Whether the job has not started."""
        return self.state == "waiting"

    @property
    def is_over(self) -> bool:
        """Whether there will be no further snapshot."""
        return self.state not in ("waiting", "running")

    def _end(self, state: State) -> None:
        with self._lock:
            self.cancel.set()
            self.state = self.state if self.is_over else state


class Executor(Protocol):
    """Where the models run: in this process, or on a borrowed GPU."""

    races_at_once: int
    """Races that the page's queue admits at once; those in this process still run one after another."""

    def job(self, task: str, pair: str, *given: Any, first: Any = None) -> Job[Any]:
        """A waiting job: the name of a task of `LocalExecutor`, its pair and further arguments, all plain values."""

    def ask(self, task: str, pair: str, question: Any) -> Any:
        """Waits for its turn, then answers a slider request.

        Raises:
            Busy: too many requests wait.
        """


def is_small(pair: Pair) -> bool:
    """Whether a CPU runs the pair fast enough for a slider."""
    return pair.teacher.config.block_weights < SMALL


def threads(pair: Pair) -> int:
    """Threads for a pair's models: one for small ones, which gain little from a second that other work needs."""
    return 1 if is_small(pair) else torch.get_num_threads()


@contextmanager
def few_threads(pair: Pair) -> Iterator[None]:
    """Sets torch's number of threads to `threads(pair)` within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads(pair))
    try:
        yield
    finally:
        torch.set_num_threads(before)
