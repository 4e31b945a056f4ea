"""The port of the page: which one is meant, and whether the page can listen there."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from typing import Final

from kfexplore.errors import KfError

VARIABLE: Final = "GRADIO_SERVER_PORT"
"""Of the environment."""
DEFAULT: Final = 7860
VALID: Final = f"a free port, from 1 to 65535, by --port or {VARIABLE}"


def chosen_port(port: int | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """The port that was asked for, or else that of the environment, or else 7860.

    It is asked for before Gradio is imported, which reads the variable too and raises where it is no number.

    Raises:
        KfError: the environment has no whole number.
    """
    named = environment.get(VARIABLE, str(DEFAULT))
    try:
        usual = int(named)
    except ValueError:
        raise KfError(f"{VARIABLE} is {named!r}.", VALID, f"{VARIABLE}=8001 python app.py") from None
    return usual if port is None else port


def check_port(host: str, port: int) -> None:
    """Sees to it that the page can listen.

    Raises:
        KfError: the port is no port or in use, or the host is no address of this machine.
    """
    address, why = host.removeprefix("[").removesuffix("]"), ""
    if not 1 <= port <= 65535:
        why = "is none"
    for each in () if why else dict.fromkeys((address, "127.0.0.1")):  # Gradio wants it on both
        try:
            with socket.create_server((each, port), family=socket.AF_INET6 if ":" in each else socket.AF_INET):
                pass
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"of {each} cannot be listened on ({error})"
            break
    if why:
        raise KfError(f"Port {port} {why}.", VALID, "kfexplore app --port 8001")
