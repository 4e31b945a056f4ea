"""Estimates with intervals, and the measurements of `kfexplore eval`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

PUBLISHED_AGREEMENT: Final = (59.1, 32.7, 19.7, 15.5, 5.2)
"""Per cent of exact tokens in slots 1 to 4, and of exact blocks of 4, for the published LM1B pair, as measured by an
independent replication."""


@dataclass(frozen=True)
class Estimate:
    """A measured mean, fraction or ratio with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half width of the interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Bin:
    """Agreement among blocks for which a quantity lies in [low, high)."""

    low: float
    high: float
    blocks: int
    share: Estimate  # fraction of them that agree


@dataclass(frozen=True)
class Agreement:
    """How often a student gives the exact token on a text; fractions in 0 .. 1, losses in nats per token.

    Intervals are half widths of 95 % intervals, with stretches of text as the independent units.
    """

    teacher_nll: float  # the teacher's loss on the text itself
    agreement_by_slot: list[float]  # (K,) fraction of blocks whose slot has the exact token
    agreement_by_slot_interval: list[float]  # (K,)
    agreement_block: float  # fraction of blocks with all K tokens exact
    agreement_block_interval: float
    student_nll_by_slot: list[float]  # (K,) on the exact tokens; the ideal is 0, as the noise determines the target
    agreement_by_entropy: list[list[Bin]]  # (K, bins) by the teacher's entropy at the block's start, nats
    block_by_entropy: list[Bin]  # (bins,) of all K tokens, by that entropy
    agreement_by_margin: list[list[Bin]]  # (K, 5) by fifths of the student's margin (largest logit less second largest)
    windows: int  # text windows
    context: int  # tokens per window; a block starts after 8 of them or more
    blocks: int  # noise vectors, each after a random prefix
    seed: int  # of the prefixes and the noise
    tokens: int  # of the whole text, from which the windows are taken evenly spaced
    teacher_entropy: float  # mean over the prefixes, nats per token
    agreement_by_length: list[float]  # (K,) fraction of blocks whose first k tokens are all exact, k = 1 .. K
    agreement_by_length_interval: list[float]  # (K,)


@dataclass(frozen=True)
class SlotLaw:
    """Distance of slot 1's distribution under uniform noise from the teacher's."""

    tv: Estimate  # total variation distance in 0 .. 1, mean over contexts
    tv_exact: float  # of the exact map on the same grid of noise: what the grid adds
    contexts: int
    steps: int  # steps of the midpoint grid over u


@dataclass(frozen=True)
class Judged:
    """Forced choices of a judge between two samples after each prefix, each pair shown in both orders."""

    wins: int  # prefixes on which the sample is preferred in both orders
    losses: int  # those on which the other one is
    inconsistent: int  # those on which it names the first shown twice, or the second twice
    win_rate: Estimate  # wins and half of the inconsistent ones, over all prefixes
    first_shown: Estimate  # position bias: fraction of answers that name the first shown; 1/2 is none


@dataclass(frozen=True)
class SampleQuality:
    """Samples of one decoder after held-out prefixes; all but the ratio and the last five are means over samples."""

    decoder: str  # its name, for tables and figures
    k: int  # tokens per pass; 1 for the teacher (AR)
    penalty: float  # frequency penalty; 0 for none
    dither: int | None  # bits; None for the argmax
    tau: float  # temperature; 1 for the teacher's own distribution
    nfe: int  # forward passes per sample
    teacher_nll: Estimate  # the teacher's loss on the sample, nats per token
    teacher_nll_ratio: Estimate  # to the loss on the teacher's own samples: 1 is the target, less is not better
    entropy: Estimate  # of the sample's own unigram counts, nats
    distinct_1: Estimate  # fraction of distinct tokens in a sample; then of pairs and triples
    distinct_2: Estimate
    distinct_3: Estimate
    repeated_4: Estimate  # fraction of a sample's 4-grams that occurred in it before
    self_bleu: Estimate  # BLEU-4 of a sample against all others, 0 .. 1
    gen_ppl: Estimate | None = None  # perplexity under another model, per token of its tokenizer
    win_rate: Estimate | None = None  # against the teacher's samples; see `Judged`
    judged_first: float | None = None  # fraction of answers that name the first shown
    judged_inconsistent: float | None = None  # fraction of prefixes on which the order decides; half a win each


@dataclass(frozen=True)
class Evaluation:
    """Everything that `kfexplore eval` measures on one text."""

    pair: str
    text: str  # name of the file or folder
    agreement: Agreement
    slot_1: SlotLaw
    samples: list[SampleQuality]  # the teacher (AR) first
    settings: dict[str, Any]
    device: str
    dtype: str
    versions: dict[str, str]
    seconds: float  # wall-clock

    def as_json(self) -> dict[str, Any]:
        """Plain values, with those of the agreement at the top level."""
        values = asdict(self)
        return {"pair": values.pop("pair"), "text": values.pop("text"), **values.pop("agreement"), **values}
