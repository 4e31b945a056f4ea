"""Cancelling work: a token that work checks at every step, and the exception that ends it; and giving way to others."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Final

PASSES: Final[ContextVar[Callable[[], AbstractContextManager[None]]]] = ContextVar("passes", default=nullcontext)
"""Entered around each pass of a model. Long work sets it to wait for a turn, so that others get theirs in between."""


class Cancelled(Exception):
    """The work was cancelled between two steps."""


class CancelToken:
    """Whether work must end: it was cancelled, or its time is over. Work checks it at every step.

    Args:
        seconds: Time limit, counted from `begin`.
        clock: Monotonic clock in seconds.
    """

    def __init__(self, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._until = math.inf
        self._set = threading.Event()

    def begin(self) -> None:
        """Starts the clock, unless the work was cancelled before."""
        if not self._set.is_set():
            self._until = self._clock() + self.seconds

    def expire(self) -> None:
        """Marks the time as over; called when another process does the work and reports so."""
        self._until = -math.inf

    def set(self) -> None:
        """Cancels the work, or marks it as ended; it can no longer be late."""
        if not self.is_late:
            self._until = math.inf
        self._set.set()

    def __call__(self) -> bool:
        return self._set.is_set() or self.is_late

    @property
    def is_late(self) -> bool:
        """Whether the time is over."""
        return self._clock() >= self._until
