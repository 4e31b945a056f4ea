"""Tokens under noise: blocks, sweeps, grids, and what a decoder wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from kfexplore.errors import KfError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Which = Literal["exact", "learned"]


def steps(resolution: int) -> Floats:
    """The R noise values of a slider, (r + 1/2) / R: the middle of each step, exact in binary for R = 2^n."""
    return (np.arange(resolution) + 0.5) / resolution


def no_student() -> KfError:
    """What is raised where a pair without a student is asked for what a student alone can tell."""
    return KfError(
        "This pair has no student.",
        "a pair with a student; exact maps, laws and AR need the teacher alone",
        "use a bundled pair, or name a student beside the teacher (--student FILE)",
    )


class Learned(NamedTuple):
    """The learned map's part of an answer, shaped like the exact tokens beside it."""

    tokens: Ints
    """Tokens of the learned map."""
    margins: Floats
    """Student's largest logit less its second largest, in nats."""

    def take(self, where: Any) -> Learned:
        """Both at a NumPy index."""
        return Learned(self.tokens[where], self.margins[where])

    @staticmethod
    def join(parts: Sequence[Learned | None]) -> Learned | None:
        """The rows of several, one after another; None if there are none."""
        there = [part for part in parts if part is not None]
        if not there:
            return None
        return Learned(np.concatenate([p.tokens for p in there]), np.concatenate([p.margins for p in there]))


class _Compared:
    """An answer of both maps; without a student there is no learned part."""

    exact: Ints
    of_student: Learned | None

    @property
    def has_student(self) -> bool:
        """Whether there is a learned part."""
        return self.of_student is not None

    @property
    def learned(self) -> Ints:
        """Tokens of the learned map. Raises KfError without a student."""
        if self.of_student is None:
            raise no_student()
        return self.of_student.tokens

    @property
    def margins(self) -> Floats:
        """The student's logit margins, in nats. Raises KfError without a student."""
        if self.of_student is None:
            raise no_student()
        return self.of_student.margins

    @property
    def teacher(self) -> Ints:
        """Alias of `exact`."""
        return self.exact

    @property
    def student(self) -> Ints:
        """Alias of `learned`."""
        return self.learned


@dataclass(frozen=True)
class Block(_Compared):
    """K tokens a row, exact and learned, under the same noise."""

    u: Floats
    """(B, K) noise."""
    exact: Ints
    """(B, K) tokens of the exact map G*."""
    edges: Floats
    """(B, K) distance of u from the nearest edge of its exact cell, in units of u."""
    of_student: Learned | None = None
    """(B, K) `learned` tokens and their `margins`; None: there is no student."""

    def take(self, rows: slice | Ints) -> Block:
        """Some of the rows, in the order given."""
        of_student = self.of_student.take(rows) if self.of_student else None
        return Block(self.u[rows], self.exact[rows], self.edges[rows], of_student)

    @staticmethod
    def join(parts: Sequence[Block]) -> Block:
        """The rows of several blocks of one pair, one after another."""
        u, exact, edges = (np.concatenate([getattr(p, name) for p in parts]) for name in ("u", "exact", "edges"))
        return Block(u, exact, edges, Learned.join([part.of_student for part in parts]))

    @property
    def agreement_by_slot(self) -> Floats:
        """(K,) fraction of rows on which the learned token is exact."""
        return (self.exact == self.learned).mean(axis=0)

    @property
    def agreement_block(self) -> float:
        """Fraction of rows on which all K tokens are exact."""
        return float((self.exact == self.learned).all(axis=1).mean())


@dataclass(frozen=True)
class Band:
    """A stretch [start, stop) of a slider on which one token is chosen."""

    token: int
    start: float
    stop: float


@dataclass(frozen=True)
class Sweep:
    """One slot's noise moved over R steps, the others fixed."""

    slot: int
    """The slot moved, from 0."""
    u: Floats
    """(K,) the noise that is fixed (the entry of `slot` is where the slider stood)."""
    block: Block
    """R rows, one a step."""

    def bands(self, which: Which, slot: int | None = None) -> list[Band]:
        """The bands of one slot's token (by default the slot that moves), left to right, over [0, 1)."""
        tokens = getattr(self.block, which)[:, self.slot if slot is None else slot]
        starts = np.flatnonzero(np.diff(tokens, prepend=-1))
        stops = np.append(starts[1:], len(tokens))
        return [Band(int(tokens[a]), a / len(tokens), b / len(tokens)) for a, b in zip(starts, stops, strict=True)]


@dataclass(frozen=True)
class Region:
    """All noise of a section that gives one pair of tokens, and its share of the section.

    In the exact map of slots j and j + 1 the area is the pair's probability, given the exact tokens before them; where
    a slot lies between the two, its noise is held and the area is no probability of the pair.
    """

    tokens: tuple[int, ...]
    area: float


@dataclass(frozen=True)
class Grid(_Compared):
    """Two slots' noise moved over R x R steps, the others fixed."""

    slots: tuple[int, int]
    """The two slots i < j, from 0; i runs along the first axis."""
    u: Floats
    """(K,) the noise that is fixed."""
    exact: Ints
    """(R, R, 2) exact tokens of slots i and j."""
    of_student: Learned | None = None
    """(R, R, 2) `learned` tokens of slots i and j and their `margins`; None: there is no student."""

    @property
    def agreement(self) -> float:
        """Fraction of the grid on which both tokens are exact."""
        return float((self.exact == self.learned).all(axis=-1).mean())

    def regions(self, which: Which) -> list[Region]:
        """Token pairs and the share of the square that gives them, largest first."""
        pairs = getattr(self, which).reshape(-1, 2)
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [Region(tuple(map(int, found[i])), counts[i] / len(pairs)) for i in order]


@dataclass(frozen=True)
class Decoded:
    """Generated tokens and what they cost."""

    tokens: Ints
    """(B, n) new tokens, the context left out."""
    lengths: Ints
    """(B,) new tokens of each sample up to the end of its text, that token included; n where it does not end."""
    nfe: int
    """Forward passes over the batch (number of function evaluations); reading the prompts is not among them."""
    kept: Ints
    """(steps, B) tokens that each row gained in each step, before the last are cut to n."""
    seconds: float
    """Wall-clock time of decoding alone, without reading the prompts."""
