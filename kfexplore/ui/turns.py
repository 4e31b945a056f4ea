"""Turns at what one page after the other must do: given in the order of asking, to a bounded number who wait."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from kfexplore.bench.throughput import Cancelled
from kfexplore.errors import KfError

ASKED_EVERY: Final = 0.05
"""Seconds between two looks at whether one that waits was called off."""


class Busy(KfError):
    """Too many wait already; the same question may be asked again a little later."""

    def __init__(self) -> None:
        super().__init__("The server is busy.", "the same again in a moment")


class Stop:
    """Whether work is to end: it was called off, or its time is over. Work asks it at every step.

    Args:
        seconds: From the `begin` of the work to its end.
        clock: Seconds.
    """

    def __init__(self, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._until = math.inf
        self._set = threading.Event()

    def begin(self) -> None:
        """The time runs from now on."""
        self._until = self._clock() + self.seconds

    def set(self) -> None:
        """Calls the work off, or says that it has ended; from now on it cannot be late any more."""
        if not self.is_late:
            self._until = math.inf
        self._set.set()

    def __call__(self) -> bool:
        return self._set.is_set() or self.is_late

    @property
    def is_late(self) -> bool:
        """Whether the time is over."""
        return self._clock() >= self._until


class Turns:
    """A lock that is given in the order of asking.

    Args:
        waiting: Most who wait before one is sent away; None: any number. Who can be called off is never sent away: it
            has a place in the queue of the page.
    """

    def __init__(self, waiting: int | None = None) -> None:
        self._waiting = waiting
        self._line: deque[object] = deque()  # whoever has it, then those who wait
        self._moved = threading.Condition()

    @contextmanager
    def held(self, stopped: Callable[[], bool] | None = None) -> Iterator[None]:
        """Holds it.

        Args:
            stopped: Asked before and while it waits.

        Raises:
            Busy: too many wait.
            Cancelled: `stopped` said so.
        """
        if stopped and stopped():
            raise Cancelled
        mine = object()
        with self._moved:
            if stopped is None and self._waiting is not None and len(self._line) > self._waiting:
                raise Busy
            self._line.append(mine)
            try:
                while self._line[0] is not mine:
                    self._moved.wait(ASKED_EVERY if stopped else None)
                    if stopped and self._line[0] is not mine and stopped():
                        raise Cancelled
            except BaseException:
                self._leave(mine)
                raise
        try:
            yield
        finally:
            with self._moved:
                self._leave(mine)

    def _leave(self, mine: object) -> None:
        self._line.remove(mine)
        self._moved.notify_all()


@contextmanager
def held(turns: Sequence[Turns], stopped: Callable[[], bool] | None = None) -> Iterator[None]:
    """Holds several, one after the other."""
    with ExitStack() as stack:
        for each in turns:
            stack.enter_context(each.held(stopped))
        yield
