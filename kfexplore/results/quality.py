"""Estimates with intervals, and what `kfexplore eval` measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

PUBLISHED_AGREEMENT: Final = (59.1, 32.7, 19.7, 15.5, 5.2)
"""Per cent of exact tokens of the published LM1B pair in slots 1 to 4 and of its blocks of 4, as an independent
replication found them."""


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
    teacher_entropy: float = math.nan
    """Mean entropy of the teacher's next-token distribution after the prefixes, nats per token."""
    agreement_by_length: list[float] = field(default_factory=list)
    """(K,) fraction of blocks whose first k tokens are all exact, k = 1 .. K; empty in older documents."""
    agreement_by_length_interval: list[float] = field(default_factory=list)
    """(K,) half widths of the 95 % intervals."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Agreement:
        """From a document of `kfexplore eval`, whose other values are left out."""
        own = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        own["block_by_entropy"] = _bins(own["block_by_entropy"])
        for name in ("agreement_by_entropy", "agreement_by_margin"):
            own[name] = [_bins(bins) for bins in own[name]]
        return cls(**own)


def _bins(values: Sequence[Mapping[str, Any]]) -> list[Bin]:
    return [Bin(**{**value, "share": Estimate(**value["share"])}) for value in values]


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
class Judged:
    """Forced choices of a judge between two samples after each of some prefixes, each pair shown in both orders."""

    wins: int
    """Prefixes on which the sample is preferred in both orders."""
    losses: int
    """Those on which the other one is."""
    inconsistent: int
    """Those on which the answer follows the place: the first shown twice, or the second twice."""
    win_rate: Estimate
    """Wins, and half of the inconsistent ones, over all prefixes."""
    first_shown: Estimate
    """Position bias: share of answers that name the sample shown first; 1/2 is none."""


@dataclass(frozen=True)
class SampleQuality:
    """What one decoder writes after held-out prefixes; all but the ratio and the last five are means over samples."""

    decoder: str
    """Its name, for tables and figures."""
    k: int
    """Tokens a pass; 1 for the teacher (AR)."""
    penalty: float
    """Frequency penalty; 0 for none."""
    dither: int | None
    """Bits; None for the argmax."""
    tau: float
    """Temperature; 1 for the teacher's own law."""
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
    """Share of prefixes on which a judge prefers the sample to the teacher's; see `Judged`."""
    judged_first: float | None = None
    """Share of answers that name the sample shown first: far from 1/2, the judge judges the place."""
    judged_inconsistent: float | None = None
    """Share of prefixes on which its answer follows the place, which count as half a win."""


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
