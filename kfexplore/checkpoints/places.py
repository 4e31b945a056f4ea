"""Where checkpoint files lie that are not in the repository."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "KFEXPLORE_HOME"


def by_hand(name: str) -> Path:
    """The folder for files of one name (a pair, a tokenizer, a hub repository) that a user put there by hand.

    It is `$KFEXPLORE_HOME/NAME`, or `~/.cache/kfexplore/NAME`; it need not exist.
    """
    home = os.environ.get(HOME_VARIABLE)
    return (Path(home).expanduser() if home else Path.home() / ".cache" / "kfexplore") / name
