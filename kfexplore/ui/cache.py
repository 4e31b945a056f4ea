"""Things that are dear to make, kept while there is room and somebody uses them."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LRUCache(Generic[Key, Value]):
    """Values by key, of which the least recently used go first: where there are too many, or when nobody uses them.

    The newest stays whatever its size. Values go when any is put or got, so that nothing needs to run beside.

    Args:
        most: Values.
        seconds: After which one that was not used goes.
        most_bytes: Of all values.
        size: Bytes of one.
        dropped: Told of each value that goes.
        pinned: A key whose value never goes.
        clock: Seconds.
    """

    def __init__(
        self,
        most: int,
        seconds: float,
        most_bytes: float = math.inf,
        size: Callable[[Value], int] = lambda _: 0,
        dropped: Callable[[Value], None] = lambda _: None,
        pinned: Key | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._seconds, self._most_bytes = most, seconds, most_bytes
        self._size, self._dropped, self._pinned, self._clock = size, dropped, pinned, clock
        self._values: OrderedDict[Key, tuple[Value, float]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """The value, now the most recently used; None where there is none."""
        gone = self._expired()
        with self._lock:
            found = self._values.get(key)
            if found is not None:
                self._values[key] = found[0], self._clock()
                self._values.move_to_end(key)
        self._tell(gone)
        return found[0] if found is not None else None

    def put(self, key: Key, value: Value) -> Value:
        """Keeps a value in place of the key's former one; returns it."""
        gone = self._expired()
        with self._lock:
            if key in self._values:
                gone.append(self._values.pop(key)[0])
            self._values[key] = value, self._clock()
            for other in self._oldest():
                if other == key or not self._is_over():
                    break
                gone.append(self._values.pop(other)[0])
        self._tell(gone)
        return value

    def pop(self, key: Key) -> None:
        """Lets a value go, if there is one."""
        with self._lock:
            gone = [self._values.pop(key)[0]] if key in self._values else []
        self._tell(gone)

    def __len__(self) -> int:
        return len(self._values)

    def _expired(self) -> list[Value]:
        """Takes out what nobody used for long."""
        with self._lock:
            since = self._clock() - self._seconds
            old = [key for key in self._oldest() if self._values[key][1] < since]
            return [self._values.pop(key)[0] for key in old]

    def _oldest(self) -> Iterator[Key]:
        """Keys that may go, the least recently used first."""
        return iter([key for key in self._values if key != self._pinned])

    def _is_over(self) -> bool:
        held = sum(self._size(value) for value, _ in self._values.values())
        return len(self._values) > self._most or held > self._most_bytes

    def _tell(self, gone: list[Value]) -> None:
        for value in gone:
            self._dropped(value)
