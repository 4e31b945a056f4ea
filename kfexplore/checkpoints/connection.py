"""The hub: whether it answers, told within seconds, and what is said where something cannot be fetched."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

from huggingface_hub import constants, get_session
from huggingface_hub.errors import LocalEntryNotFoundError

from kfexplore.errors import KfError

PATIENCE: Final = 5.0
"""Seconds for an answer of the hub. The libraries try six times, at each of its addresses: for a minute or two."""


class Unreachable(KfError):
    """What was asked for is not here, and the hub cannot be reached."""


@contextmanager
def fetching(failed: str, valid: str, run: str, asks: bool = True) -> Iterator[bool]:
    """Around what fetches something from the hub: whatever that raises becomes a user error.

    Yields whether what is here must do, since the hub does not answer: `local_files_only` of the libraries.

    Args:
        failed: What is so without it; the reason is added.
        valid: As of KfError.
        run: As of KfError.
        asks: Whether it may be on the hub; not where a folder was named.

    Raises:
        Unreachable: there is no connection, and no earlier copy.
        KfError: no such name, no right to it, no room: all mean that it is not here.
    """
    lost = ""
    try:
        if asks:
            check_hub()
    except ConnectionError as error:
        lost = _reason(error)
    try:
        yield bool(lost) or not asks
    except Exception as error:
        if lost or isinstance(error, ConnectionError | LocalEntryNotFoundError):
            lost = lost or _reason(error)
            raise Unreachable(f"{failed}: {hub_name()} could not be reached ({lost})", valid, run) from error
        raise KfError(f"{failed}: {_reason(error)}", valid, run) from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def hub_name() -> str:
    """The host of the hub: huggingface.co, or the mirror that HF_ENDPOINT names."""
    return urlsplit(constants.ENDPOINT).hostname or constants.ENDPOINT


def check_hub(patience: float = PATIENCE) -> None:
    """Raises ConnectionError unless the hub answers, be it with a refusal, within so many seconds."""
    told: list[Exception | None] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=patience)
            told.append(None)
        except Exception as error:
            told.append(error)

    # In a thread: no limit of time holds for finding the addresses, nor for all of them together.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience)
    if not told:
        raise ConnectionError(f"no answer within {patience:g} s")
    if told[0] is not None:
        raise ConnectionError(str(told[0])) from told[0]
