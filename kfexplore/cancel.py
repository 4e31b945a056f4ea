"""Cancellation: a token that work checks at every step, the exception that ends it, and a hook to let others run."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Final

PASSES: Final[ContextVar[Callable[[], AbstractContextManager[None]]]] = ContextVar("passes", default=nullcontext)
"""Context entered around each forward pass. Long work sets it to wait for its turn, so that others run in between."""


class Cancelled(Exception):
    """The work was cancelled between two steps."""


class CancelToken:
    """Tells work to stop because it was cancelled or its time limit has passed. Work calls it at every step.

    Args:
        seconds: Time limit, counted from `begin`.
        clock: Monotonic clock in seconds.
    """

    def __init__(self, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._until = math.inf
        self._set = threading.Event()

    def begin(self) -> None:
        """Starts the time limit, unless the work is already cancelled."""
        if not self._set.is_set():
            self._until = self._clock() + self.seconds

    def expire(self) -> None:
        """Marks the work as late, when another process runs it and reports that its time limit has passed."""
        self._until = -math.inf

    def set(self) -> None:
        """Cancels the work, or marks it as finished. Unless it is late already, it can no longer become late."""
        if not self.is_late:
            self._until = math.inf
        self._set.set()

    def __call__(self) -> bool:
        return self._set.is_set() or self.is_late

    @property
    def is_late(self) -> bool:
        """Whether the time limit has passed."""
        return self._clock() >= self._until
