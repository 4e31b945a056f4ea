"""What the sliders of a page ask, checked: a request may have been made by hand, and hold anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kfexplore.errors import KfError
from kfexplore.noise import checked
from kfexplore.results import Floats
from kfexplore.ui.fields import whole
from kfexplore.ui.limits import PageLimits


@dataclass(frozen=True)
class Question:
    """Of a pair after a prompt. A value of the wrong kind is told when it is needed."""

    pair: str
    prompt: str
    given: object
    """The noise, as it came."""
    k: int | None
    """Slots; None: as many as the pair has."""
    slots: tuple[int, int] | None
    """Of a grid."""
    resolution: int | None
    """Steps; None: the most."""

    def noise(self, slots: int) -> Floats:
        """The noise (k,), its first k values where k is named; the middle of [0, 1) where none is given.

        Raises:
            KfError: k beyond `slots`; noise that is no list of numbers in [0, 1), or too few of them.
        """
        k = slots if self.k is None else self.k
        if not 1 <= k <= slots:
            raise KfError(f"K is {k}.", f"1 to {slots}, the block this student was trained on")
        if self.given is None:
            return np.full(k, 0.5)
        given = self.given[:k] if self.k is not None and isinstance(self.given, list) else self.given
        u = checked(given, None if self.k is None else k)
        if u.ndim != 1 or not 1 <= len(u) <= slots:
            raise KfError(f"The noise has the shape {u.shape}.", f"a list of 1 to {slots} numbers, one a slot")
        return u


def read(request: object, limits: PageLimits) -> Question:
    """The question in a request.

    Raises:
        KfError: no object, no prompt, or numbers that are none or beyond the limits.
    """
    if not isinstance(request, dict):
        raise KfError("The question is not an object.", "pair, prompt, u, ...")
    k, slots, resolution = (request.get(name) for name in ("k", "slots", "resolution"))
    if slots is not None and not (isinstance(slots, list) and len(slots) == 2):
        raise KfError(f"The slots of a grid are {slots!r}.", "two slots, the earlier one first")
    most = "sweep_steps" if slots is None else "grid_steps"
    return Question(
        str(request.get("pair")),
        limits.check_prompt(request.get("prompt") or ""),
        request.get("u"),
        None if k is None else whole("K", k),
        None if slots is None else (whole("A slot", slots[0]), whole("A slot", slots[1])),
        None if resolution is None else limits.check("steps", whole("The resolution", resolution), most),
    )
