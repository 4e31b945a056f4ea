"""Tokens for given noise: blocks, sweeps, grids; and the output of decoders, as tokens and as texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from kfexplore.errors import KfError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
PartT = TypeVar("PartT")
Stage = Literal["waiting", "writing", "done", "stopped"]


def steps(resolution: int) -> Floats:
    """The R noise values of a slider, (r + 1/2) / R: the middle of each step, exact in binary for R = 2^n."""
    return (np.arange(resolution) + 0.5) / resolution


def needed_student(part: PartT | None) -> PartT:
    """The student, or its part of a result; raises KfError if the pair has no student."""
    if part is None:
        raise KfError(
            "This pair has no student.",
            "a pair with a student; exact maps, distributions and AR need the teacher alone",
            "use a bundled pair, or name a student beside the teacher (--student FILE)",
        )
    return part


class Learned(NamedTuple):
    """Output of the learned map, in the shape of the exact tokens."""

    tokens: Ints  # tokens of the learned map
    margins: Floats  # the student's largest logit minus its second largest, nats

    def take(self, where: Any) -> Learned:
        """Both arrays at a NumPy index."""
        return Learned(self.tokens[where], self.margins[where])


class _Compared:
    """Output of both maps; without a student, of the exact map only."""

    exact: Ints
    of_student: Learned | None

    @property
    def has_student(self) -> bool:
        """Whether there is a learned part."""
        return self.of_student is not None

    @property
    def learned(self) -> Ints:
        """Tokens of the learned map. Raises KfError without a student."""
        return needed_student(self.of_student).tokens

    @property
    def margins(self) -> Floats:
        """The student's logit margins, nats. Raises KfError without a student."""
        return needed_student(self.of_student).margins

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
    edges: Floats  # (B, K) distance of u from the nearer edge of its exact cell, in units of u
    of_student: Learned | None = None  # (B, K) `learned` tokens and their `margins`; None: there is no student

    def take(self, rows: slice | Ints) -> Block:
        """Some of the rows, in the order given."""
        of_student = self.of_student.take(rows) if self.of_student else None
        return Block(self.u[rows], self.exact[rows], self.edges[rows], of_student)

    @staticmethod
    def join(parts: Sequence[Block]) -> Block:
        """Concatenates the rows of several blocks of one pair."""
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
    """Tokens of all slots as the noise of one slot goes from 0 to 1 in R steps and the other noise is fixed."""

    slot: int  # whose noise moves, from 0
    u: Floats  # (K,) the fixed noise; the entry of `slot` is its slider's current value
    block: Block  # R rows, one per step


@dataclass(frozen=True)
class Grid(_Compared):
    """Tokens of two slots as their noise takes R x R values and the other noise is fixed.

    In the exact map of neighbouring slots, the area of the region of a pair of tokens is the pair's probability, given
    the exact tokens before it.
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
    """Generated tokens, with the number of passes and the time."""

    tokens: Ints  # (B, n) new tokens, without the context
    lengths: Ints  # (B,) new tokens up to the end of each text, including that token; n if it does not end
    nfe: int  # forward passes over the batch (number of function evaluations), without prefill
    kept: Ints  # (steps, B) tokens that each row gained per step, before the last are cut to n
    seconds: float  # wall-clock time of decoding, without prefill


@dataclass(frozen=True)
class Line:
    """One sample: the tokens after the prompt, up to the end of the text."""

    tokens: list[int]  # ids; 0 if not yet written
    steps: list[int]  # the step that wrote each token, from 1; 0: none yet (a masked model fills in any order)
    pieces: list[str]  # each token's part of the text; "" for one whose character a later token completes
    ended: bool = False  # whether the last token is the end of the text
    surprise: list[float] | None = None  # surprisal of each token under the teacher, nats; None: not requested
    shared: int | None = None  # first tokens that the exact map also gives for this noise; None: nothing to compare
    diverged: bool = False  # whether a differing token follows them
    links: list[tuple[int, str]] = field(default_factory=list)
    """First token of each block, and the query of a link to its context and noise; "" if the context's text is encoded
    to other tokens."""


@dataclass(frozen=True)
class Written:
    """The texts that one decoder has written so far, and their cost."""

    decoder: str
    lines: list[Line]  # one per sample
    k: int  # tokens, or guesses, per pass
    seed: int  # of its noise
    nfe: int  # forward passes over the batch, without prefill
    seconds: float  # wall-clock time of its own steps only
    stage: Stage

    @property
    def tokens(self) -> int:
        """Tokens of all lines."""
        return sum(step > 0 for line in self.lines for step in line.steps)

    @property
    def loss(self) -> float | None:
        """Mean surprisal of all tokens at temperature 1, nats per token; None: unknown."""
        nats = [nats for line in self.lines for nats in line.surprise or ()]
        return sum(nats) / len(nats) if nats else None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        for line in values["lines"]:
            del line["links"]
            line["text"] = "".join(line["pieces"])
        speed = self.tokens / self.seconds if self.seconds else None
        return {**values, "tokens": self.tokens, "tokens_per_second": speed, "nats_per_token": self.loss}
