"""A bounded LRU cache with idle expiry, and a store for Gradio's sessions."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

from kfexplore.ui.queueing import client_here

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def surplus(owners: Mapping[Key, Hashable]) -> Key:
    """The first key of the owner with the most keys."""
    counts = Counter(owners.values())
    return max(owners, key=lambda key: counts[owners[key]])


class LRUCache(Generic[Key, Value]):
    """Bounded LRU cache with idle expiry; the newest value is kept whatever its size.

    `get` and `put` remove expired values, so no thread is needed. Values may have owners: when the cache is full, the
    owner with the most values loses its least recently used one.

    Args:
        most: Largest number of values.
        seconds: Idle time after which a value expires.
        most_bytes: Largest total size.
        size: Bytes of a value.
        pinned: Key of a value that is never removed.
        clock: Time in seconds.
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
        """The value, marked as the most recently used, or None."""
        with self._lock:
            self._expire()
            if key not in self._values:
                return None
            value, _, owner = self._values.pop(key)
            self._values[key] = value, self._clock(), owner
            return value

    def put(self, key: Key, value: Value, owner: Hashable = None) -> Value:
        """Stores a value, replacing the key's previous one, and returns it."""
        with self._lock:
            self._expire()
            self._values.pop(key, None)
            self._values[key] = value, self._clock(), owner
            while self._is_full():
                owners = {each: kept[2] for each, kept in self._values.items() if each not in (key, self._pinned)}
                if not owners:
                    break
                del self._values[surplus(owners)]
        return value

    def once(
        self, key: Key, turn: AbstractContextManager[None], make: Callable[[], Value], owner: Hashable = None
    ) -> Value:
        """The value; if missing, it is made while holding `turn`, so that concurrent callers make it once."""
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
    """Sessions by hash, for Gradio's `StateHolder`, which drops the first one if there are too many.

    A session with a running or waiting event is never dropped. If all others have one, the new session is dropped and
    its event fails. Otherwise the client with the most idle sessions loses its least recently used one; where the
    client is unknown, each session counts as one.

    Args:
        events: Events in Gradio's queue by id, each with a `session_hash`, until they have run.
    """

    def __init__(self, events: Mapping[str, Any]) -> None:
        super().__init__()
        self._events = events
        self._clients: dict[str, Hashable] = {}

    def __setitem__(self, key: str, session: Any) -> None:
        super().__setitem__(key, session)
        self._clients.setdefault(key, client_here() or key)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        del self._clients[key]

    def popitem(self, last: bool = True) -> tuple[str, Any]:
        """Removes a session, if possible an idle one; returns its hash and itself. `last` is as for `OrderedDict`."""
        busy = {event.session_hash for event in list(self._events.values())}
        idle = {} if last else {key: self._clients[key] for key in self if key not in busy}
        dropped = surplus(idle) if idle else next(reversed(self))
        session = self[dropped]
        del self[dropped]
        return dropped, session
