"""JSON files beside weights: of a bounded size, and with one value a key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kfexplore.checkpoints.paths import unreadable
from kfexplore.checkpoints.quoting import shown
from kfexplore.errors import KfError


def read_json_object(path: Path, most: int) -> dict[str, Any]:
    """A JSON object from a file of at most `most` bytes, or KfError."""
    text = read_text(path, most)
    try:
        return json_object(text)
    except ValueError as error:
        raise KfError(f"{path} cannot be read: {error}.", "a JSON object, {...}") from error


def read_text(path: Path, most: int) -> str:
    """The text of a file of at most `most` bytes, or KfError."""
    if not path.is_file():  # a pipe or a device would be waited for, or read without end
        raise KfError(f"{path} is not a file.", "a text file")
    try:
        with path.open("rb") as stream:
            data = stream.read(most + 1)
        if len(data) > most:
            raise KfError(f"{path} has more than {most} bytes.", f"at most {most}")
        return data.decode("utf-8")
    except PermissionError as error:
        raise unreadable(path) from error
    except (OSError, ValueError) as error:
        raise KfError(f"{path} cannot be read: {error}.", "a text file in UTF-8") from error


def json_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object that a text is.

    Raises:
        ValueError: it is none, or has a key twice, which every reader takes as it likes.
    """
    try:
        value = json.loads(text, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"it has the key {shown(key)} twice")
        made[key] = value
    return made
