"""Tokens under noise: blocks, sweeps, grids, and what a decoder wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Which = Literal["teacher", "student"]


def steps(resolution: int) -> Floats:
    """The R noise values of a slider, (r + 1/2) / R: the middle of each step, exact in binary for R = 2^n."""
    return (np.arange(resolution) + 0.5) / resolution


@dataclass(frozen=True)
class Block:
    """K tokens a row, exact and learned, under the same noise."""

    u: Floats
    """(B, K) noise."""
    teacher: Ints
    """(B, K) tokens of the exact map G*."""
    student: Ints
    """(B, K) tokens of the learned map."""
    edges: Floats
    """(B, K) distance of u from the nearest edge of its exact cell, in units of u."""
    margins: Floats
    """(B, K) student's largest logit less its second largest, in nats."""

    def take(self, rows: slice | Ints) -> Block:
        """Some of the rows, in the order given."""
        return Block(*(getattr(self, f.name)[rows] for f in fields(self)))

    @staticmethod
    def join(parts: Sequence[Block]) -> Block:
        """The rows of several blocks, one after another."""
        return Block(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Block)))

    @property
    def agreement_by_slot(self) -> Floats:
        """(K,) share of rows on which the student gives the exact token."""
        return (self.teacher == self.student).mean(axis=0)

    @property
    def agreement_block(self) -> float:
        """Share of rows on which all K tokens are exact."""
        return float((self.teacher == self.student).all(axis=1).mean())


@dataclass(frozen=True)
class Band:
    """A stretch [start, stop) of a slider on which one token is chosen."""

    token: int
    start: float
    stop: float


@dataclass(frozen=True)
class Sweep:
    """One slot's noise moved over R steps, the others held."""

    slot: int
    """The slot moved, from 0."""
    u: Floats
    """(K,) the noise that is held (the entry of `slot` is where the slider stood)."""
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
class Grid:
    """Two slots' noise moved over R x R steps, the others held: a section of the map."""

    slots: tuple[int, int]
    """The two slots i < j, from 0; i runs along the first axis."""
    u: Floats
    """(K,) the noise that is held."""
    teacher: Ints
    """(R, R, 2) exact tokens of slots i and j."""
    student: Ints
    """(R, R, 2) learned tokens of slots i and j."""
    margins: Floats
    """(R, R, 2) student's logit margins."""

    @property
    def agreement(self) -> float:
        """Share of the square on which both tokens are exact."""
        return float((self.teacher == self.student).all(axis=-1).mean())

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
