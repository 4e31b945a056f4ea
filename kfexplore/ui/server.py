"""The server around the page: the port it listens on, the proxies around it, and its memory.

Gradio is not imported here, because the port is checked before.
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
"""Of the environment."""
DEFAULT_PORT: Final = 7860
VALID: Final = f"a free port, from 1 to 65535, by --port or {PORT_VARIABLE}"
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
ROOT_VARIABLE: Final = "GRADIO_ROOT_PATH"
"""Of the environment: the prefix under which a proxy shows the page, or its whole address."""
OWN = {"config", "theme.css", "robots.txt", "favicon.ico", "manifest.json", "pwa_icon"}
OWN |= {"assets", "static", "svelte", "gradio_api"}
"""First parts of Gradio's paths, which a prefix would be taken for."""
PLOTLY: Final = "kf/plotly.min.js"
"""Where the page finds Plotly's script, the one file that it takes from outside Gradio's own."""
SILENT_SECONDS: Final = 20.0
"""Seconds after which a connection without a request, or with the beginning of one, is closed."""
M_ARENA_MAX: Final = -8
"""Of glibc's malloc.h."""


def free_port(host: str, port: int | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """The port that was asked for, or else that of the environment, or else 7860: one that the page can listen on.

    Called before Gradio is imported: that reads the variable too, and raises if it is not a number.

    Raises:
        KfError: the environment has no whole number; the port is no port or in use; the host is no address of this
            machine.
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
    for each in dict.fromkeys((address, "127.0.0.1")):  # Gradio wants it on both
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
    """Has the C library keep freed memory in a few places instead of one or more a thread.

    The server has some forty threads, each of which asks the models now and then: what they free would stay with each.

    Returns:
        Whether it did (glibc; elsewhere nothing needs it, or nothing is known to help).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and mallopt(M_ARENA_MAX, count) == 1


def close_silent(connections: Iterable[Any], silent: Mapping[Any, float]) -> dict[Any, float]:
    """Closes connections of uvicorn that have had no whole request to answer for `SILENT_SECONDS`.

    Args:
        connections: All of them.
        silent: What the last call returned.

    Returns:
        Those without a request, and since when.
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
    """Has Gradio print a line where it would print the whole traceback of a request, which anyone can cause."""
    one_line = SimpleNamespace(print_exc=lambda: log_failure("A request", sys.exc_info()[1] or Exception()))
    for module in ("gradio.queueing", "gradio.routes", "gradio.route_utils"):
        import_module(module).traceback = one_line  # type: ignore[attr-defined]


def exempt_loopback(host: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Has requests to this machine pass by the proxies of the environment: Gradio asks its own address on start-up.

    Args:
        host: Address that the page listens on.
        environment: Gets a longer `no_proxy`.

    Raises:
        KfError: a proxy that no request can be made with, such as a SOCKS proxy without its package.
    """
    named = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [each.strip().strip("[]") for each in (*named.split(","), *LOOPBACK, host)]  # httpx takes no [::1]
    value = ",".join(filter(None, dict.fromkeys(hosts)))
    environment.update({"no_proxy": value, "NO_PROXY": value})  # the first is read where both are there
    try:
        httpx.Client().close()
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise KfError(
            f"The proxy set in the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY) cannot be used: {error}",
            "an http:// proxy, or none",
            "unset ALL_PROXY; or, for a SOCKS proxy, pip install 'httpx[socks]'",
        ) from error


def root_path(text: str) -> str:
    """The prefix of a proxy as Gradio wants it: "" for none, "/demo", or a whole address without a slash at its end.

    Raises:
        KfError: the prefix begins as Gradio's own paths do, so that a path could mean two things.
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
