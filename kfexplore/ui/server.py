"""The server around the page: its port, proxies, connections, memory and log.

This module does not import Gradio, because the port is checked before that.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, MutableMapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from kfexplore.checkpoints.files import shown
from kfexplore.errors import KfError

PORT_VARIABLE: Final = "GRADIO_SERVER_PORT"
"""Environment variable."""
DEFAULT_PORT: Final = 7860
VALID: Final = f"a free port, from 1 to 65535, by --port or {PORT_VARIABLE}"
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
ROOT_VARIABLE: Final = "GRADIO_ROOT_PATH"
"""Environment variable: the prefix under which a proxy serves the page, or its full URL."""
OWN = {"config", "theme.css", "robots.txt", "favicon.ico", "manifest.json", "pwa_icon"}
OWN |= {"assets", "static", "svelte", "gradio_api"}
"""First parts of Gradio's paths; a prefix must not be one of them."""
PLOTLY: Final = "kf/plotly.min.js"
"""Path of Plotly's script, relative to the page."""
SILENT_SECONDS: Final = 20.0
"""Seconds after which a connection without a complete request is closed."""
M_ARENA_MAX: Final = -8
"""Option of mallopt, from glibc's malloc.h."""


def free_port(host: str, port: int | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """The requested port, else that of the environment, else 7860, checked to be free.

    Call this before importing Gradio, which reads the variable too and raises if it is not a number.

    Raises:
        KfError: the environment's value is not a whole number; the port is invalid or in use; the host is not an
            address of this machine.
    """
    named = environment.get(PORT_VARIABLE, str(DEFAULT_PORT))
    try:
        usual = int(named)
    except ValueError:
        raise KfError(f"{PORT_VARIABLE} is {named!r}.", VALID, f"{PORT_VARIABLE}=8001 python app.py") from None
    chosen = usual if port is None else port
    if not 1 <= chosen <= 65535:
        raise _refused(chosen, "does not exist")
    address = host.removeprefix("[").removesuffix("]")
    for each in dict.fromkeys((address, "127.0.0.1")):  # Gradio needs it on both
        try:
            with socket.create_server((each, chosen), family=socket.AF_INET6 if ":" in each else socket.AF_INET):
                pass
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"of {each} cannot be listened on ({error})"
            raise _refused(chosen, why) from error
    return chosen


def _refused(port: int, why: str) -> KfError:
    by_script = Path(sys.argv[0]).name == "app.py"  # which takes no options
    again = f"{PORT_VARIABLE}=8001 python app.py" if by_script else "kfexplore app --port 8001"
    return KfError(f"Port {port} {why}.", VALID, again)


def few_arenas(count: int = 2) -> bool:
    """Limits glibc's malloc to a few arenas, instead of one or more per thread.

    Each of the server's many threads runs the models now and then; what it frees would stay in its own arena.

    Returns:
        Whether it was set (glibc only).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and mallopt(M_ARENA_MAX, count) == 1


def close_silent(connections: Iterable[Any], silent: Mapping[Any, float]) -> dict[Any, float]:
    """Closes uvicorn connections that have had no complete request to answer for `SILENT_SECONDS`.

    Args:
        connections: All open connections.
        silent: Result of the previous call.

    Returns:
        Connections without a request -> since when.
    """
    now, found = time.monotonic(), {}
    for each in list(connections):
        if each.cycle is None or each.cycle.response_complete:
            found[each] = silent.get(each, now)
            if now - found[each] > SILENT_SECONDS:
                each.transport.close()
    return found


def log_failure(what: str, error: BaseException) -> None:
    """Prints one line about a failed request, whether the server or the client is at fault."""
    places = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(places[-1].filename).name}:{places[-1].lineno})" if places else ""
    print(f"kfexplore: {what} failed: {type(error).__name__}: {shown(error, 200)}{where}", file=sys.stderr)


def log_in_lines() -> None:
    """Makes Gradio print one line instead of a traceback for failed requests, which anyone can cause."""
    one_line = SimpleNamespace(print_exc=lambda: log_failure("A request", sys.exc_info()[1] or Exception()))
    for module in ("gradio.queueing", "gradio.routes", "gradio.route_utils"):
        import_module(module).traceback = one_line  # type: ignore[attr-defined]


def exempt_loopback(host: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Exempts requests to this machine from the environment's proxies, because Gradio requests its own URL at start.

    Args:
        host: Address that the page listens on.
        environment: Its `no_proxy` is extended.

    Raises:
        KfError: a proxy cannot be used, such as a SOCKS proxy without its package.
    """
    named = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [each.strip().strip("[]") for each in (*named.split(","), *LOOPBACK, host)]  # httpx takes no [::1]
    value = ",".join(filter(None, dict.fromkeys(hosts)))
    environment.update({"no_proxy": value, "NO_PROXY": value})  # if both are set, the first is read
    try:
        httpx.Client().close()
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise KfError(
            f"The proxy set in the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY) cannot be used: {error}",
            "an http:// proxy, or none",
            "unset ALL_PROXY; or, for a SOCKS proxy, pip install 'httpx[socks]'",
        ) from error


def root_path(text: str) -> str:
    """The prefix of a proxy in Gradio's form: "" for none, "/demo", or a full URL without a trailing slash.

    Raises:
        KfError: the prefix begins like one of Gradio's own paths, which would be ambiguous.
    """
    text = text.strip().rstrip("/")
    whole = text.startswith(("http://", "https://"))
    found = text if whole or not text else "/" + text.lstrip("/")
    first = urlsplit(found).path.split("/")[1:2]
    if OWN.intersection(first):
        raise KfError(
            f"{ROOT_VARIABLE} is {text!r}, which is one of the page's own paths.", "another prefix, such as /demo"
        )
    return found
