"""What is kept while there is room and somebody uses it: a bounded LRU cache, and Gradio's sessions."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LRUCache(Generic[Key, Value]):
    """Bounded LRU cache with idle expiry; the newest value stays whatever its size.

    Values expire when any is put or got, so nothing needs to run beside. Values may have owners: then the owner with
    the most values loses its least recently used one.

    Args:
        most: Values.
        seconds: After which an unused value goes.
        most_bytes: Of all values.
        size: Bytes of one.
        pinned: A key whose value never goes.
        clock: Seconds.
    """

    def __init__(
        self,
        most: int,
        seconds: float,
        most_bytes: float = math.inf,
        size: Callable[[Value], int] = lambda _: 0,
        pinned: Key | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._seconds, self._most_bytes = most, seconds, most_bytes
        self._size, self._pinned, self._clock = size, pinned, clock
        self._values: OrderedDict[Key, tuple[Value, float, Hashable]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """The value, now the most recently used; None where there is none."""
        with self._lock:
            self._expire()
            if key not in self._values:
                return None
            value, _, owner = self._values.pop(key)
            self._values[key] = value, self._clock(), owner
            return value

    def put(self, key: Key, value: Value, owner: Hashable = None) -> Value:
        """Keeps a value in place of the key's former one; returns it."""
        with self._lock:
            self._expire()
            self._values.pop(key, None)
            self._values[key] = value, self._clock(), owner
            while self._is_full():
                owners = {each: kept[2] for each, kept in self._values.items() if each not in (key, self._pinned)}
                counts = Counter(owners.values())
                if not counts:
                    break
                del self._values[max(owners, key=lambda each: counts[owners[each]])]
        return value

    def once(
        self, key: Key, turn: AbstractContextManager[None], make: Callable[[], Value], owner: Hashable = None
    ) -> Value:
        """The value; where there is none, one caller makes it in a turn, and others wait for theirs."""
        if (value := self.get(key)) is None:
            with turn:
                if (value := self.get(key)) is None:
                    value = self.put(key, make(), owner)
        return value

    def __len__(self) -> int:
        return len(self._values)

    def _is_full(self) -> bool:
        held = sum(self._size(value) for value, _, _ in self._values.values())
        return len(self._values) > self._most or held > self._most_bytes

    def _expire(self) -> None:
        since = self._clock() - self._seconds
        for key in [key for key, (_, used, _) in self._values.items() if used < since and key != self._pinned]:
            del self._values[key]


class Sessions(OrderedDict[str, Any]):
    """Sessions by hash, for Gradio's `StateHolder`, which drops the first one where there are too many.

    A session with a running or waiting event is never dropped. If all others have one, the new session is dropped and
    its event fails.

    Args:
        events: Those in Gradio's queue, each with a `session_hash`, until they have run.
    """

    def __init__(self, events: Mapping[str, Any]) -> None:
        super().__init__()
        self._events = events

    def popitem(self, last: bool = True) -> tuple[str, Any]:
        """Takes out a session and its hash; `last` is as for `OrderedDict`."""
        busy = {event.session_hash for event in list(self._events.values())}
        idle = None if last else next((key for key in self if key not in busy), None)
        return super().popitem() if idle is None else (idle, self.pop(idle))
