"""The exception for user errors, and how commands report it."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Final

IN_ASCII: Final = {"≠": "!", "≥": ">", "±": "~", "✕": "x", "…": "."}
"""ASCII replacements for signs in tables, one character each, so that columns stay aligned."""
COMMANDS: Final = ("kfexplore", "git", "make", "pip", "playwright", "python")
"""First words by which `KfError.run` is recognised as a command."""


class KfError(Exception):
    """A user error in three parts: what failed, what would be valid, what to run.

    The command line prints it and exits with 2; the app shows it and keeps its state.

    Args:
        failed: What failed, with the offending value.
        valid: What would have been accepted.
        run: A command (or an action) that fixes it.
    """

    def __init__(self, failed: str, valid: str = "", run: str = "") -> None:
        super().__init__(failed, valid, run)
        self.failed, self.valid, self.run = failed, valid, run

    @property
    def is_command(self) -> bool:
        """Whether `run` is a command rather than an action in words."""
        words = [word for word in self.run.split() if "=" not in word]  # environment variables may come first
        return bool(words) and words[0] in COMMANDS

    def __str__(self) -> str:
        parts = [self.failed]
        if self.valid:
            parts.append(f"Valid: {self.valid}")
        if self.run:
            parts.append(f"{'Run' if self.is_command else 'Try'}: {self.run}")
        return "\n".join(parts)


def reason(error: BaseException) -> str:
    """The first line of a library's error message, or of its repr if the message is empty."""
    return (str(error).strip() or repr(error)).splitlines()[0]


@contextmanager
def reported() -> Iterator[None]:
    """Prints a user error of a command and exits with 2.

    Characters that the output encoding lacks are written in ASCII, so that no text can abort a command.
    """
    codecs.register_error("kfexplore", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="kfexplore")
    try:
        yield
    except KfError as error:
        print(f"kfexplore: {error}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def writing(place: Path, *kinds: type[Exception], run: str = "") -> Iterator[None]:
    """Turns a failed write of a file or folder into a KfError.

    Args:
        place: The file or folder, for the message.
        kinds: Exceptions of a failed write besides OSError.
        run: See `KfError`.
    """
    failures: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except failures as error:
        raise KfError(f"{place} cannot be written: {error}.", "a writable folder with enough space", run) from error


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replaces the signs of `IN_ASCII`, and escapes other characters."""
    if isinstance(error, UnicodeEncodeError) and (sign := IN_ASCII.get(error.object[error.start])):
        return sign, error.start + 1
    return codecs.backslashreplace_errors(error)
