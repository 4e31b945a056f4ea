"""Turns at what one page after the other must do: given in the order of asking, to a bounded number who wait."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import torch

from kfexplore.cancel import Cancelled
from kfexplore.errors import KfError
from kfexplore.pair import Pair

ASKED_EVERY: Final = 0.05
"""Seconds between two looks at whether one that waits was called off."""
RECENT: Final = 5.0
"""Seconds that a line is remembered for."""
SMALL: Final = 32_000_000
"""Weights of a teacher's blocks below which one thread is enough."""


class Busy(KfError):
    """Too many wait already; the same question may be asked again a little later."""

    def __init__(self) -> None:
        super().__init__("The server is busy.", "the same again in a moment")


@dataclass(eq=False)
class _Place:
    """In a line."""

    yields: bool


class Turns:
    """A lock that is given in the order of asking.

    Args:
        waiting: Most who wait before one is sent away; None: any number. Who can be called off is never sent away: it
            has a place in the queue of the page.
        clock: Seconds.
    """

    def __init__(self, waiting: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._waiting, self._clock = waiting, clock
        self._line: list[_Place] = []  # whoever has it, then those who wait
        self._lengths: deque[tuple[float, int]] = deque()
        self._moved = threading.Condition()

    def longest(self) -> int:
        """The longest that the line was within the last seconds: who had it and those who waited."""
        with self._moved:
            self._remember(len(self._line))
            return max(length for _, length in self._lengths)

    @contextmanager
    def held(self, stopped: Callable[[], bool] | None = None, yields: bool = False) -> Iterator[None]:
        """Holds it.

        Args:
            stopped: Asked before and while it waits.
            yields: Lets everybody go first who does not, also those who come later.

        Raises:
            Busy: too many wait.
            Cancelled: `stopped` said so.
        """
        if stopped and stopped():
            raise Cancelled
        mine = _Place(yields)
        with self._moved:
            self._remember(len(self._line) + 1)
            if stopped is None and self._waiting is not None and len(self._line) > self._waiting:
                raise Busy
            behind = (n for n, other in enumerate(self._line) if n and other.yields and not yields)
            self._line.insert(next(behind, len(self._line)), mine)
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

    def _remember(self, length: int) -> None:
        now = self._clock()
        self._lengths.append((now, length))
        while self._lengths[0][0] < now - RECENT:
            self._lengths.popleft()

    def _leave(self, mine: _Place) -> None:
        self._line.remove(mine)
        self._moved.notify_all()


@contextmanager
def held(turns: Sequence[Turns], stopped: Callable[[], bool] | None = None) -> Iterator[None]:
    """Holds several, one after the other; lets others go first in each."""
    with ExitStack() as stack:
        for each in turns:
            stack.enter_context(each.held(stopped, yields=True))
        yield


def is_small(pair: Pair) -> bool:
    """Whether a CPU answers fast enough for a slider."""
    return pair.teacher.config.block_weights < SMALL


@contextmanager
def few_threads(pair: Pair) -> Iterator[None]:
    """Within it this thread works alone, if the models are small; others keep what they have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if is_small(pair) else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
