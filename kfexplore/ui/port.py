"""The port of the page: which one is meant, and whether the page can listen there."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kfexplore.errors import KfError

VARIABLE: Final = "GRADIO_SERVER_PORT"
"""Of the environment."""
DEFAULT: Final = 7860
VALID: Final = f"a free port, from 1 to 65535, by --port or {VARIABLE}"


def free_port(host: str, port: int | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """The port that was asked for, or else that of the environment, or else 7860: one that the page can listen on.

    It is asked for before Gradio is imported, which reads the variable too and raises where it is no number.

    Raises:
        KfError: the environment has no whole number; the port is no port or in use; the host is no address of this
            machine.
    """
    named = environment.get(VARIABLE, str(DEFAULT))
    try:
        usual = int(named)
    except ValueError:
        raise KfError(f"{VARIABLE} is {named!r}.", VALID, f"{VARIABLE}=8001 python app.py") from None
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
    again = f"{VARIABLE}=8001 python app.py" if by_script else "kfexplore app --port 8001"
    return KfError(f"Port {port} {why}.", VALID, again)
