"""Requests and replies of the scrub widget, then the answers of the API. Requests are checked, because they may be
written by hand.

The widget's replies carry arrays as base64 little-endian strings, because large lists in JSON are slow on both sides:
tokens as uint16, margins and edges as float32. Below, K is the number of slots and R that of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from kfexplore.config import check_temperature
from kfexplore.errors import KfError
from kfexplore.noise import checked
from kfexplore.results import Floats
from kfexplore.ui.components import whole
from kfexplore.ui.limits import ServerLimits

Json = dict[str, Any]


class Request(TypedDict, total=False):
    """A request of the widget; any part may be missing or invalid."""

    seq: int
    """Returned with the reply."""
    pair: str
    prompt: str
    u: list[float] | None
    """Noise values; None: 1/2 everywhere."""
    k: int | None
    """Slots; None: those of the pair."""
    slots: list[int] | None
    """Sliders whose rows are requested, without anything else; None: all, with everything that the widget shows. For a
    grid: its two slots, the earlier one first."""
    resolution: int | None
    """Steps; None: as many as are allowed."""
    temperature: float | None
    """Temperature of both maps; None: 1."""
    yields: bool
    """Whether requests that do not yield go first."""
    fits: bool
    """Whether noise for a pair of another K is cut, or padded with 1/2, to the slots of this pair."""


class Failure(TypedDict):
    """The reply to a request that cannot be answered."""

    ok: Literal[False]
    seq: int | None
    busy: bool
    """Whether the same request may succeed a little later."""
    failed: str
    valid: str
    run: str
    is_command: bool
    """Whether `run` is a command."""


class _Point(TypedDict):
    teacher: list[int]
    edge: list[float]
    student: NotRequired[list[int]]
    margin: NotRequired[list[float]]


class PointReply(_Point):
    """Both maps for one noise; without a student, only the exact one."""

    ok: Literal[True]
    seq: int | None
    u: list[float]
    texts: dict[str, str]
    """Text of each token that occurs, by its id."""


class RowsReply(TypedDict):
    """The tokens of every slot as some sliders move, one at a time: arrays of (sliders, R / every, K)."""

    ok: Literal[True]
    seq: int | None
    pair: str
    prompt: str
    temperature: float
    slots: list[int]
    k: int
    u: list[float]
    resolution: int
    every: int
    """Number of a slider's steps per evaluated step, which is the middle one of them."""
    teacher: str
    edge: str
    student: NotRequired[str]
    margin: NotRequired[str]
    texts: dict[str, str]


class TablesReply(RowsReply):
    """The rows of all sliders, and what else the widget shows."""

    prompt_tokens: list[list[Any]]
    """Id and text of each token of the prompt."""
    note: str
    k_max: int
    trained: dict[str, Any] | None
    """Temperatures that the student was trained with, `low` to `high`, and a `note` for others."""
    point: _Point
    device: str
    dtype: str
    stored: bool
    seconds: float


class GridReply(TypedDict):
    """Both maps over two sliders: arrays of (R, R, 2)."""

    ok: Literal[True]
    seq: int | None
    slots: list[int]
    resolution: int
    u: list[float]
    teacher: str
    student: NotRequired[str]
    agreement: NotRequired[float]
    texts: dict[str, str]


@dataclass(frozen=True)
class Question:
    """A request of valid form; what depends on the pair is checked later."""

    pair: str
    prompt: str
    given: object
    """The noise, unchecked."""
    k: int | None
    slots: tuple[int, ...] | None
    resolution: int
    yields: bool
    temperature: float
    fits: bool

    def noise(self, slots: int) -> Floats:
        """The noise (k,) for a pair with `slots` slots.

        Raises:
            KfError: k beyond `slots`; noise that is not a list of numbers in [0, 1), or not k of them if k is given.
        """
        k = slots if self.k is None else self.k
        if not 1 <= k <= slots:
            raise KfError(f"K is {k}.", f"1 to {slots} for this pair")
        if self.given is None:
            return np.full(k, 0.5)
        u = checked(self.given, self.k)
        if self.fits and u.ndim == 1:
            u = np.concatenate([u, np.full(slots, 0.5)])[:slots]
        if u.ndim != 1 or not 1 <= len(u) <= slots:
            raise KfError(f"The noise has the shape {u.shape}.", f"a list of 1 to {slots} numbers, one per slot")
        return u

    @property
    def axes(self) -> tuple[int, int]:
        """The two slots of a grid.

        Raises:
            KfError: the request does not have two slots.
        """
        if self.slots is None or len(self.slots) != 2:
            raise KfError(f"The slots of a grid are {self.slots}.", "two slots, the earlier one first")
        return self.slots[0], self.slots[1]


def read(request: object, limits: ServerLimits, most: str) -> Question:
    """Checks the form of a request.

    Args:
        request: The parsed JSON.
        limits: Server limits.
        most: Name of the limit on the steps, which is also the default resolution.

    Raises:
        KfError: it is not an object, or has an invalid prompt or numbers outside the limits.
    """
    if not isinstance(request, dict):
        raise KfError("The request is not a JSON object.", "pair, prompt, u, ...")
    k, slots, resolution = (request.get(name) for name in ("k", "slots", "resolution"))
    if slots is not None and not (isinstance(slots, list) and 1 <= len(slots) <= limits.slots):
        raise KfError(f"The slots that move are {slots!r}.", f"a list of 1 to {limits.slots} slots, from 0")
    moving = None if slots is None else tuple(whole("A slot", slot) for slot in slots)
    if moving and len(set(moving)) < len(moving):
        raise KfError(f"The slots that move are {slots!r}.", "each slot once")
    steps = getattr(limits, most) if resolution is None else whole("The resolution", resolution)
    return Question(
        str(request.get("pair")),
        limits.check_prompt(request.get("prompt") or ""),
        request.get("u"),
        None if k is None else whole("K", k, least=1),
        moving,
        limits.check("steps", steps, most),
        bool(request.get("yields")),
        check_temperature(1.0 if request.get("temperature") is None else request["temperature"]),
        bool(request.get("fits")),
    )


class Token(TypedDict):
    """An id of the pair's vocabulary, and its text."""

    id: int
    text: str


class Slot(TypedDict):
    """What a noise value becomes."""

    u: float
    exact: Token
    learned: Token | None
    margin: float | None
    edge: float


class MapAnswer(TypedDict):
    """Both maps at one noise."""

    pair: str
    prompt_tokens: list[int]
    slots: list[Slot]


class Interval(TypedDict):
    """A value and its limits."""

    value: float
    low: float
    high: float


class TotalVariation(TypedDict):
    """A distance, its limits, and how it was found."""

    value: float
    low: float
    high: float | None
    kind: str


class Sampler(TypedDict):
    """Blocks of one sampler against the exact distribution."""

    name: str
    passes: int
    blocks: int
    tv: TotalVariation
    tv_by_chance: float
    p_value: float
    kl: float | None
    impossible: float


class Likely(TypedDict):
    """A block, its exact probability, and its frequency among each sampler's blocks."""

    tokens: list[Token]
    probability: float
    shares: dict[str, float]


class LawsAnswer(TypedDict):
    """The distribution after a prompt, and samplers against it."""

    pair: str
    prompt_tokens: list[int]
    k: int
    temperature: float
    total_correlation: Interval
    entropy: float
    irreducible_tv: Interval
    samplers: list[Sampler]
    likely: list[Likely]
    notes: list[str]


class WrittenToken(Token):
    """A token of a text, and the step that wrote it, from 1."""

    step: int


class GenerateAnswer(TypedDict):
    """One text."""

    pair: str
    prompt_tokens: list[int]
    decoder: str
    k: int
    text: str
    tokens: list[WrittenToken]
    passes: int
    seconds: float
    ended: bool
    complete: bool
