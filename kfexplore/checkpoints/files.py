"""Files beside weights: names, paths, reading, quoting in messages, and writing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kfexplore.errors import KfError

HOME_VARIABLE = "KFEXPLORE_HOME"
MAX_VALUES = 2_500_000
"""Approximate limit on values and keys of a JSON object. Each needs up to 100 bytes of memory but only two in the file;
Gemma 3's tokenizer.json has 2.2 million."""
WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
SLOW_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
"""Tokenizer files in transformers folders without a tokenizer.json."""
TRAINING_FILE = "training.json"
"""File beside the models of a pair: a JSON object that says how it was trained, for the model card."""
INFO_FILE = "info.json"
"""File beside the models of a saved pair: its info, except what has a separate file."""
CARD_FILES = ("MODEL_CARD.md", "README.md")
"""Description of a pair, as `kfexplore eval` writes it and as the hub shows it."""


def given(path: str | Path) -> Path:
    """A path from the user, with `~` expanded; it need not exist.

    Raises:
        KfError: it cannot exist: no such user, a name too long, a folder without permission.
    """
    try:
        found = Path(path).expanduser()
        found.exists()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise KfError(f"{shown(path, 200)} cannot be a path here: {reason}.", "a file or a folder") from error
    return found


def by_hand(name: str) -> Path:
    """Folder for files that a user downloads by hand for one name: a pair, a tokenizer or a hub repository.

    It is `$KFEXPLORE_HOME/NAME`, or `~/.cache/kfexplore/NAME`; it need not exist.
    """
    home = os.environ.get(HOME_VARIABLE)
    return (Path(home).expanduser() if home else Path.home() / ".cache" / "kfexplore") / name


def shown(text: object, most: int = 80) -> str:
    """A text for quoting in a message: cut to `most` characters, then unprintable ones and line breaks escaped."""
    whole = str(text)
    cut = whole if len(whole) <= most else whole[: most - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def shortened(names: Iterable[str], most: int = 8) -> str:
    """The first `most` names, and how many more there are."""
    listed = list(names)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(map(shown, listed[:most])) + rest


def unreadable(path: Path) -> KfError:
    """The error for a file or a folder without read permission."""
    return KfError(f"{path} cannot be read: permission denied.", "a readable file", f"ls -l {path}; chmod u+r")


def weight_files(folder: Path) -> list[str]:
    """Names of the checkpoint files in a folder, sorted; [] if there is no such folder."""
    if not folder.is_dir():
        return []
    try:
        return sorted(f.name for f in folder.iterdir() if f.suffix in WEIGHT_SUFFIXES and f.is_file())
    except PermissionError as error:
        raise unreadable(folder) from error


def read_text(path: Path, most: int) -> str:
    """The text of a file of at most `most` bytes, or KfError."""
    if not path.is_file():  # reading a pipe or a device may never end
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


def read_json_object(path: Path, most: int) -> dict[str, Any]:
    """A JSON object from a file of at most `most` bytes, or KfError."""
    text = read_text(path, most)
    try:
        return json_object(text)
    except ValueError as error:
        raise KfError(f"{path} cannot be read: {error}.", "a JSON object, {...}") from error


def json_object(text: str) -> dict[str, Any]:
    """Parses a JSON object.

    Raises:
        ValueError: it is not a JSON object, too deep, larger than `MAX_VALUES`, or has a key twice.
    """
    if sum(map(text.count, "[{,:")) > MAX_VALUES:
        raise ValueError(f"it has more than {MAX_VALUES:,} values")
    try:
        value = json.loads(text, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"it has the key {shown(key)} twice")
        made[key] = value
    return made


def write_whole(path: Path, content: str | Callable[[Path], object]) -> None:
    """Writes a UTF-8 text, or what a function writes, to a temporary file and renames it: `path` is never partial."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
        else:
            content(temporary)
        temporary.chmod(0o644)  # safetensors makes files that only their owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
