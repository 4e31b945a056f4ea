"""What the sliders of a page ask, checked: a request may have been made by hand, and hold anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kfexplore.config import check_temperature
from kfexplore.errors import KfError
from kfexplore.noise import checked
from kfexplore.results import Floats
from kfexplore.ui.components import whole
from kfexplore.ui.limits import ServerLimits


@dataclass(frozen=True)
class Question:
    """Of a pair after a prompt. A value of the wrong kind is told when it is needed."""

    pair: str
    prompt: str
    given: object
    """The noise, as it came."""
    k: int | None
    """Slots; None: as many as the pair has."""
    slots: tuple[int, ...] | None
    """Those that move; None: none is named."""
    resolution: int
    """Steps."""
    yields: bool
    """Whether those who do not say so go first."""
    temperature: float
    """Of both maps."""
    fits: bool
    """Whether noise, given for a pair of another K, is cut or filled up with 1/2 to as many values as this pair has
    slots."""

    def noise(self, slots: int) -> Floats:
        """The noise (k,); the middle of [0, 1) where none is given.

        Raises:
            KfError: k beyond `slots`; noise that is no list of numbers in [0, 1), or not k of them where k is named.
        """
        k = slots if self.k is None else self.k
        if not 1 <= k <= slots:
            raise KfError(f"K is {k}.", f"1 to {slots}, the most slots of this pair")
        if self.given is None:
            return np.full(k, 0.5)
        u = checked(self.given, self.k)
        if self.fits and u.ndim == 1:
            u = np.concatenate([u, np.full(slots, 0.5)])[:slots]
        if u.ndim != 1 or not 1 <= len(u) <= slots:
            raise KfError(f"The noise has the shape {u.shape}.", f"a list of 1 to {slots} numbers, one per slot")
        return u

    @property
    def square(self) -> tuple[int, int]:
        """The two slots of a grid.

        Raises:
            KfError: there are not two.
        """
        if self.slots is None or len(self.slots) != 2:
            raise KfError(f"The slots of a grid are {self.slots}.", "two slots, the earlier one first")
        return self.slots[0], self.slots[1]


def read(request: object, limits: ServerLimits, most: str) -> Question:
    """The question in a request.

    Args:
        request: As it came.
        limits: What may be asked.
        most: The limit of its steps, which are as many where none are named.

    Raises:
        KfError: no object, no prompt, or numbers or a temperature that are none or beyond the limits.
    """
    if not isinstance(request, dict):
        raise KfError("The question is not an object.", "pair, prompt, u, ...")
    k, slots, resolution = (request.get(name) for name in ("k", "slots", "resolution"))
    if slots is not None and not (isinstance(slots, list) and 1 <= len(slots) <= limits.slots):
        raise KfError(f"The slots that move are {slots!r}.", f"a list of 1 to {limits.slots} slots, from 0")
    moving = None if slots is None else tuple(whole("A slot", slot) for slot in slots)
    if moving and len(set(moving)) < len(moving):
        raise KfError(f"The slots that move are {slots!r}.", "each slot once")
    return Question(
        str(request.get("pair")),
        limits.check_prompt(request.get("prompt") or ""),
        request.get("u"),
        None if k is None else whole("K", k, least=1),
        moving,
        limits.check(
            "steps", getattr(limits, most) if resolution is None else whole("The resolution", resolution), most
        ),
        bool(request.get("yields")),
        check_temperature(1.0 if request.get("temperature") is None else request["temperature"]),
        bool(request.get("fits")),
    )
