"""The client of each request, and fair shares: of places, of rounds, and of a worker's time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from ipaddress import IPv6Address, ip_address, ip_network
from threading import Event
from typing import Final

CLIENT: Final[ContextVar[Hashable]] = ContextVar("client", default=None)
"""Of the request that is being answered; None: unknown."""
REFUSED: Final[ContextVar[Event]] = ContextVar("refused")
"""Set when the work of the request that is being answered is refused because too many wait."""
CREDIT: Final = 2.0
"""Seconds of a worker's time that a client may have ahead of its share: about those of a few minutes on a page."""
MOST_WAITING: Final = 64
"""Requests of a client that wait for its others."""
REFUSED_SECONDS: Final = 1.0
"""Seconds for which a refused request keeps its place, so that asking again at once gains nothing."""


class TooMany(Exception):
    """A client has too many requests that wait."""


class Places:
    """Requests of each client that are answered at once; more wait, in the order in which they came.

    Args:
        each: Places of a client.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._taken: dict[Hashable, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def place(self, client: Hashable) -> AsyncIterator[None]:
        """Waits for a place and holds it, for some time longer if `REFUSED` is set meanwhile.

        Raises:
            TooMany: of the client's requests wait.
        """
        places, count = self._taken.get(client) or (asyncio.Semaphore(self._each), 0)
        if count >= self._each + MOST_WAITING:
            raise TooMany
        self._taken[client] = places, count + 1
        try:
            async with places:
                refused = Event()
                REFUSED.set(refused)
                yield
                if refused.is_set():
                    await asyncio.sleep(REFUSED_SECONDS)
        finally:
            count = self._taken[client][1] - 1
            if count:
                self._taken[client] = places, count
            else:
                del self._taken[client]


class FairShares:
    """Equal shares of a worker's time for all clients that wait: start-time fair queueing (Goyal et al., 1996).

    Work begins in the order of its tags, in seconds of virtual time. A client that has had more than its share waits
    for the others; one that has had less may have `CREDIT` seconds at once.
    """

    def __init__(self) -> None:
        self.now = 0.0
        """The largest tag that has begun."""
        self._next: dict[Hashable, float] = {}
        """The tag of each client's next work, where that is later than the earliest."""

    @property
    def earliest(self) -> float:
        """The tag of a client that has had nothing for a while."""
        return self.now - CREDIT

    def tag(self, client: Hashable, seconds: float) -> float:
        """The tag of new work: the earliest, or after the client's work before.

        Args:
            client: Whose work it is; None: unknown, and so without work before.
            seconds: How long it is expected to take.
        """
        tag = max(self.earliest, self._next.get(client, self.earliest))
        if client is not None:
            self._next[client] = tag + seconds
        return tag

    def correct(self, client: Hashable, seconds: float) -> None:
        """Moves the client's next work back by seconds that its last took more than expected; negative: forward."""
        if client is not None:
            self._next[client] = self._next.get(client, self.earliest) + seconds

    def begin(self, tag: float, is_last: bool) -> None:
        """Work with that tag begins. If no other work waits, what each client has had is forgotten."""
        self.now = max(self.now, tag)
        self._next = {} if is_last else {each: tag for each, tag in self._next.items() if tag > self.earliest}


def client_of(host: str | None, session: object) -> Hashable:
    """The client of a request: its address if that identifies a visitor, else its session, which the client chooses.

    A private address may be that of a proxy in front of all visitors. A public one is the visitor's own, or the one
    that a trusted proxy reports (FORWARDED_ALLOW_IPS). All IPv6 addresses of a /64 network count as one.

    Args:
        host: Address of the other end.
        session: Hash of a session, as it came.

    Returns:
        The client; None: unknown.
    """
    try:
        address = ip_address(host or "")
    except ValueError:
        address = None
    if address is not None and address.is_global:
        return str(ip_network((address, 64), strict=False) if isinstance(address, IPv6Address) else address)
    return session if isinstance(session, str) else None


def next_round(client: Hashable, now: int, waiting: Iterable[tuple[Hashable, int]]) -> int:
    """The round in which a newcomer has its turn: the next one in which its client has none.

    Args:
        client: Of the newcomer.
        now: The round that runs.
        waiting: Clients that wait, each with its round.
    """
    return 1 + max([now, *(its for other, its in waiting if client is not None and other == client)])


def crowd(client: Hashable, waiting: Iterable[Hashable]) -> Hashable:
    """The client whose last place a newcomer gets where all are taken; None: the newcomer gets none."""
    counts = Counter(other for other in waiting if other is not None)
    most, count = max(counts.items(), key=lambda item: item[1], default=(None, 0))
    return most if count > counts[client] + 1 else None
