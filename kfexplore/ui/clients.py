"""Identifies the client of each request, and divides places, rounds and a worker's time fairly among clients."""

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
"""Client of the current request; None: unknown."""
REFUSED: Final[ContextVar[Event]] = ContextVar("refused")
"""Event that is set when the current request's work is refused because too many requests wait."""
CREDIT: Final = 2.0
"""Seconds of a worker's time that a client may use ahead of its share: about as many as a few minutes on a page use."""
MOST_KNOWN: Final = 4096
"""Clients whose use of a worker is remembered."""
MOST_WAITING: Final = 64
"""Requests of a client that may wait for its other requests."""
REFUSED_SECONDS: Final = 1.0
"""Seconds for which a refused request keeps its place, so that an immediate retry gains nothing."""


class TooMany(Exception):
    """A client has too many waiting requests."""


class Places:
    """Limits each client's concurrent requests; further ones wait in order of arrival.

    Args:
        each: Places per client.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._taken: dict[Hashable, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def place(self, client: Hashable) -> AsyncIterator[None]:
        """Waits for a place and holds it, `REFUSED_SECONDS` longer if `REFUSED` is set meanwhile.

        Raises:
            TooMany: too many of the client's requests wait.
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

    Work starts in the order of its tags, in seconds of virtual time. A client that has used more than its share waits
    for the others; one that has used less may use `CREDIT` seconds at once.
    """

    def __init__(self) -> None:
        self.now = 0.0
        """Largest tag of work that has started."""
        self._next: dict[Hashable, float] = {}
        """Tag of each client's next work, if later than `earliest`."""

    @property
    def earliest(self) -> float:
        """Tag for a client without recent work."""
        return self.now - CREDIT

    def tag(self, client: Hashable, seconds: float) -> float:
        """The tag of new work: `earliest`, or the end of the client's previous work if that is later.

        Args:
            client: Client of the work; None: unknown, treated as having no previous work.
            seconds: How long it is expected to take.
        """
        tag = max(self.earliest, self._next.get(client, self.earliest))
        if client is not None:
            self._next[client] = tag + seconds
        return tag

    def correct(self, client: Hashable, seconds: float) -> None:
        """Delays the client's next work by the seconds that its last took beyond expectation; negative: advances it."""
        if client is not None:
            self._next[client] = self._next.get(client, self.earliest) + seconds

    def begin(self, tag: float, is_last: bool) -> None:
        """Records the start of work with that tag; if no other work waits (`is_last`), past use is forgotten.

        So it is beyond `MOST_KNOWN` clients: sessions cost a client nothing.
        """
        self.now = max(self.now, tag)
        known = {each: tag for each, tag in self._next.items() if tag > self.earliest}
        self._next = {} if is_last or len(known) > MOST_KNOWN else known


def client_of(host: str | None, session: object) -> Hashable:
    """The client of a request: its address if that identifies a visitor, else its session, which the client chooses.

    A private address may be that of a proxy in front of all visitors. A public one is the visitor's own, or the one
    that a trusted proxy reports (FORWARDED_ALLOW_IPS). All IPv6 addresses of a /64 network count as one.

    Args:
        host: Remote address.
        session: Session hash from the request, unchecked.

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
    """The round of a new event: the next one after the current round and those of its client's waiting events.

    Args:
        client: Client of the new event.
        now: The current round.
        waiting: Waiting clients, each with its round.
    """
    return 1 + max([now, *(its for other, its in waiting if client is not None and other == client)])


def crowd(client: Hashable, waiting: Iterable[Hashable]) -> Hashable:
    """The client that loses its last place to a new event if all are taken; None: the new event is refused."""
    counts = Counter(other for other in waiting if other is not None)
    most, count = max(counts.items(), key=lambda item: item[1], default=(None, 0))
    return most if count > counts[client] + 1 else None
