"""Hostile clients for the load test: each has a public address, as a proxy on this machine would report it."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

PATIENCE: Final = 60.0
"""Seconds after which a request without an answer is given up."""
PAUSE: Final = 1.0
"""Seconds between two requests that do harm without an answer."""
BODY: Final = b"[" + b"[]," * 80_000 + b"[]]"
"""JSON of many values, as long as a body may be."""
WORK: Final[dict[str, dict[str, Any]]] = {
    "generate": {"decoder": "ar", "new_tokens": 200},
    "laws": {"k": 4, "blocks": 4096},
}
"""Long work of the API, whose answer nobody reads."""


class Hostile:
    """One address with a connection per kind of harm.

    The kinds are sweeps and points without a pause, work that nobody reads, and requests that are wrong or never end.

    Args:
        number: Number of the client, which determines its address.
        url: Address of the app.
        pair: Name of a pair there.
        component: Id of the widget.
        k: Slots of the pair.
    """

    def __init__(self, number: int, url: str, pair: str, component: int, k: int) -> None:
        self.counts: Counter[str] = Counter()
        """Requests by kind and status, or the name of an error."""
        self._number, self._url, self._pair, self._component, self._k = number, url, pair, component, k
        self._headers = {"X-Forwarded-For": f"100.0.{number // 250}.{number % 250 + 1}"}

    def start(self, until: float) -> list[threading.Thread]:
        """Starts the connections; they end after `until`, in seconds since 1970."""
        kinds = (self._sweep, self._point, self._unread, self._broken)
        threads = [threading.Thread(target=self._repeat, args=(kind, until), daemon=True) for kind in kinds]
        for thread in threads:
            thread.start()
        return threads

    def _repeat(self, kind: Callable[[httpx.Client, int], int], until: float) -> None:
        with httpx.Client(base_url=f"{self._url}gradio_api/", headers=self._headers, timeout=PATIENCE) as http:
            for n in range(10**9):
                if time.time() > until:
                    return
                try:
                    how = str(kind(http, n))
                except (httpx.HTTPError, OSError) as error:
                    how = type(error).__name__
                self.counts[f"{kind.__name__[1:]} {how}"] += 1

    def _ask(self, http: httpx.Client, name: str, prompt: str) -> int:
        data = {"seq": 0, "pair": self._pair, "prompt": prompt, "u": [0.5] * self._k}
        body = {"component_id": self._component, "fn_name": name, "data": data}
        answer = http.post("component_server/", json={**body, "session_hash": f"hostile{self._number}{prompt[-1]}"})
        return answer.status_code

    def _sweep(self, http: httpx.Client, n: int) -> int:
        return self._ask(http, "tables", f"Once upon a time {n % 5}")

    def _point(self, http: httpx.Client, n: int) -> int:
        return self._ask(http, "point", f"{self._number} once upon {n}")  # a prompt that is not prefilled yet

    def _unread(self, http: httpx.Client, n: int) -> int:
        time.sleep(PAUSE)
        name = list(WORK)[n % len(WORK)]
        return http.post(f"call/v2/{name}", json={"prompt": "Once upon a time", "seed": n, **WORK[name]}).status_code

    def _broken(self, http: httpx.Client, n: int) -> int:
        time.sleep(PAUSE)
        if n % 2:
            return http.post("queue/join", content=BODY, headers={"Content-Type": "application/json"}).status_code
        where = urlsplit(self._url)
        with socket.create_connection((where.hostname, where.port), PATIENCE) as connection:
            connection.sendall(b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: a\r\n")
            return len(connection.recv(1))  # once the server closes it
