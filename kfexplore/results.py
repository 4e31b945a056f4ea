"""What is computed, as numpy arrays and plain values; drawn by figures/, written by the command line.

R steps of a slider, K slots, B rows; noise u in [0, 1); token ids as int64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

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
    nfe: int
    """Forward passes of the network (number of function evaluations), the one over the prompt included."""
    seconds: float
    """Wall-clock time of decoding alone."""


@dataclass(frozen=True)
class Estimate:
    """A measured mean, share or ratio with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half width of the interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Bin:
    """Share of agreement among the blocks on which a quantity lies in [low, high)."""

    low: float
    high: float
    blocks: int
    share: Estimate


@dataclass(frozen=True)
class Agreement:
    """How often a student gives the exact token on a text; shares in 0 .. 1, losses in nats a token."""

    teacher_nll: float
    """Teacher's loss on the text itself."""
    agreement_by_slot: list[float]
    """(K,) share of blocks whose slot has the exact token."""
    agreement_by_slot_interval: list[float]
    """(K,) half width of the 95 % interval, windows of text taken as the independent units."""
    agreement_block: float
    """Share of blocks with all K tokens exact."""
    agreement_block_interval: float
    """As above."""
    student_nll_by_slot: list[float]
    """(K,) student's loss on the exact tokens; the ideal is 0, as the target is determined by the noise."""
    agreement_by_entropy: list[list[Bin]]
    """(K, bins) a slot's agreement by the entropy, in nats, of the teacher's law at the block's start."""
    block_by_entropy: list[Bin]
    """(bins,) agreement of all K tokens by that entropy."""
    agreement_by_margin: list[list[Bin]]
    """(K, 5) a slot's agreement by fifths of the student's margin there (largest logit less second largest)."""
    windows: int
    """Stretches of text."""
    context: int
    """Tokens a stretch; a block starts after 8 of them or more."""
    blocks: int
    """Noise vectors, one after a random prefix each."""
    seed: int
    """Keys the prefixes and the noise."""
    tokens: int
    """Tokens of the whole text, of which the stretches are taken evenly spaced."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class SlotLaw:
    """Distance of the law that slot 1 pushes uniform noise to from the teacher's exact one."""

    tv: Estimate
    """Total variation distance in 0 .. 1, mean over contexts."""
    tv_exact: float
    """What the exact map itself shows on the same grid of noise: the part that the grid adds."""
    contexts: int
    steps: int
    """Steps of the midpoint grid over u."""


@dataclass(frozen=True)
class SampleQuality:
    """What one decoder writes after held-out prefixes; all but the ratio and the last four are means over samples."""

    decoder: str
    """Its name, for tables and figures."""
    k: int
    """Tokens a pass; 1 for the teacher (AR)."""
    penalty: float
    """Frequency penalty; 0 for none."""
    dither: int | None
    """Bits; None for the argmax."""
    nfe: int
    """Forward passes a sample."""
    teacher_nll: Estimate
    """Teacher's loss on the sample, nats a token."""
    teacher_nll_ratio: Estimate
    """That over the teacher's loss on its own samples of the same prefixes: 1 is the aim, less is no better."""
    entropy: Estimate
    """Of the sample's own unigram counts, nats."""
    distinct_1: Estimate
    """Share of tokens of a sample that are different; so too for pairs and triples."""
    distinct_2: Estimate
    distinct_3: Estimate
    repeated_4: Estimate
    """Share of a sample's 4-grams that stood in it before."""
    self_bleu: Estimate
    """BLEU-4 of a sample against all others, 0 .. 1."""
    gen_ppl: Estimate | None = None
    """Perplexity under another model, a token of its own tokenizer."""
    win_rate: Estimate | None = None
    """Share of prefixes on which a judge prefers the sample to the teacher's."""
    judged_first: float | None = None
    """Share of pairs on which the judge chose the one shown first: far from 1/2, it judges the place."""


@dataclass(frozen=True)
class Evaluation:
    """Everything that `kfexplore eval` measures on one text."""

    pair: str
    text: str
    """Name of the file or folder."""
    agreement: Agreement
    slot_1: SlotLaw
    samples: list[SampleQuality]
    """The teacher's (AR) first."""
    settings: dict[str, Any]
    device: str
    dtype: str
    versions: dict[str, str]
    seconds: float
    """Wall-clock time of it all."""

    def as_json(self) -> dict[str, Any]:
        """Plain values, those of the agreement at the top level."""
        values = asdict(self)
        return {"pair": values.pop("pair"), "text": values.pop("text"), **values.pop("agreement"), **values}
