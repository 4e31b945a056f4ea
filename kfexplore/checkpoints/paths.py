"""Where checkpoint files lie that are not in the repository."""

from __future__ import annotations

import os
from pathlib import Path

from kfexplore.checkpoints.quoting import shown
from kfexplore.errors import KfError

HOME_VARIABLE = "KFEXPLORE_HOME"


def given(path: str | Path) -> Path:
    """A path that a user gave, with `~` expanded; there need not be anything.

    Raises:
        KfError: nothing can be there: no such user, a name too long, a folder that may not be entered.
    """
    try:
        found = Path(path).expanduser()
        found.exists()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise KfError(f"{shown(path, 200)} cannot be a path here: {reason}.", "a file or a folder") from error
    return found


def unreadable(path: Path) -> KfError:
    """The error for a file or a folder that is there and that this user may not read."""
    return KfError(f"{path} cannot be read: permission denied.", "a file that you may read", f"ls -l {path}; chmod u+r")


def by_hand(name: str) -> Path:
    """The folder for files of one name (a pair, a tokenizer, a hub repository) that a user put there by hand.

    It is `$KFEXPLORE_HOME/NAME`, or `~/.cache/kfexplore/NAME`; it need not exist.
    """
    home = os.environ.get(HOME_VARIABLE)
    return (Path(home).expanduser() if home else Path.home() / ".cache" / "kfexplore") / name
