"""What a message quotes from a file: short, on one line, and nothing that a terminal would obey."""

from __future__ import annotations

from collections.abc import Iterable


def shown(text: object, most: int = 80) -> str:
    """A text as a message may quote it: its first `most` characters, those that cannot be printed escaped."""
    whole = str(text)
    cut = whole if len(whole) <= most else whole[: most - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def shortened(names: Iterable[str], most: int = 8) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(map(shown, listed[:most])) + rest
