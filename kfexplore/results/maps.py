"""Tokens under noise: blocks, sweeps, grids, and a decoder's output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kfexplore.errors import KfError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def steps(resolution: int) -> Floats:
    """The R noise values of a slider, (r + 1/2) / R: the middle of each step, exact in binary for R = 2^n."""
    return (np.arange(resolution) + 0.5) / resolution


def no_student() -> KfError:
    """The error for a pair without a student where one is needed."""
    return KfError(
        "This pair has no student.",
        "a pair with a student; exact maps, distributions and AR need the teacher alone",
        "use a bundled pair, or name a student beside the teacher (--student FILE)",
    )


class Learned(NamedTuple):
    """The learned map's part of an answer, shaped like the exact tokens beside it."""

    tokens: Ints  # tokens of the learned map
    margins: Floats  # the student's largest logit minus its second largest, nats

    def take(self, where: Any) -> Learned:
        """Both at a NumPy index."""
        return Learned(self.tokens[where], self.margins[where])


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
        """The student's logit margins, nats. Raises KfError without a student."""
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
    """K tokens per row, exact and learned, under the same noise."""

    u: Floats  # (B, K) noise
    exact: Ints  # (B, K) tokens of the exact map G*
    edges: Floats  # (B, K) distance of u from the nearest edge of its exact cell, in units of u
    of_student: Learned | None = None  # (B, K) `learned` tokens and their `margins`; None: there is no student

    def take(self, rows: slice | Ints) -> Block:
        """Some of the rows, in the order given."""
        of_student = self.of_student.take(rows) if self.of_student else None
        return Block(self.u[rows], self.exact[rows], self.edges[rows], of_student)

    @staticmethod
    def join(parts: Sequence[Block]) -> Block:
        """The rows of several blocks of one pair, one after another."""
        u, exact, edges = (np.concatenate([getattr(p, name) for p in parts]) for name in ("u", "exact", "edges"))
        found = [part.of_student for part in parts if part.of_student]
        return Block(u, exact, edges, Learned(*map(np.concatenate, zip(*found, strict=True))) if found else None)

    @property
    def agreement_by_slot(self) -> Floats:
        """(K,) fraction of rows for which the learned token is exact."""
        return (self.exact == self.learned).mean(axis=0)

    @property
    def agreement_block(self) -> float:
        """Fraction of rows for which all K tokens are exact."""
        return float((self.exact == self.learned).all(axis=1).mean())


@dataclass(frozen=True)
class Sweep:
    """All slots as the noise of one goes from 0 to 1 in R steps, the others fixed."""

    slot: int  # whose noise moves, from 0
    u: Floats  # (K,) the fixed noise; the entry of `slot` is where its slider stood
    block: Block  # R rows, one per step


@dataclass(frozen=True)
class Grid(_Compared):
    """Two slots as their noise moves over R x R steps, the others fixed.

    In the exact map of neighbouring slots, the area of a region that gives one pair of tokens is the pair's
    probability, given the exact tokens before it.
    """

    slots: tuple[int, int]  # i < j, from 0; i runs along the first axis
    u: Floats  # (K,) the fixed noise
    exact: Ints  # (R, R, 2) exact tokens of slots i and j
    of_student: Learned | None = None  # (R, R, 2) `learned` tokens and their `margins`; None: there is no student

    @property
    def agreement(self) -> float:
        """Fraction of the grid for which both tokens are exact."""
        return float((self.exact == self.learned).all(axis=-1).mean())


@dataclass(frozen=True)
class Decoded:
    """Generated tokens, and the passes and time that they took."""

    tokens: Ints  # (B, n) new tokens, without the context
    lengths: Ints  # (B,) new tokens up to the end of each text, that token included; n where it does not end
    nfe: int  # forward passes over the batch (number of function evaluations), without prefill
    kept: Ints  # (steps, B) tokens that each row gained per step, before the last are cut to n
    seconds: float  # wall-clock time of decoding, without prefill
