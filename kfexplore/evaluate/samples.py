"""Samples of decoders after the same held-out prefixes and noise: the teacher's loss on them, and their diversity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import entropy
from tqdm import tqdm

from kfexplore.config import DecodeConfig
from kfexplore.decoding.generate import Networks, generate, keyed_noise
from kfexplore.errors import KfError
from kfexplore.evaluate import intervals
from kfexplore.models import AnyTeacher
from kfexplore.pair import Pair
from kfexplore.results import Estimate, Floats, Ints, SampleQuality

ROWS_SCORED_AT_ONCE = 8
FEWEST_NEW = BLEU_ORDER = 4
"""Fewest new tokens of a sample, so that it has a 4-gram; and the longest n-grams of BLEU."""


def name(config: DecodeConfig) -> str:
    """A decoder's name in tables and figures."""
    first = "AR" if config.decoder == "ar" else f"K = {config.k}"
    tau = f", tau {config.temperature:g}" if config.temperature != 1 else ""
    penalty = f", penalty {config.frequency_penalty:g}" if config.frequency_penalty else ""
    dither = f", dither {config.dither} bits" if config.dither is not None else ""
    return first + tau + penalty + dither


def decoders(block: int, penalty: float, dither: int) -> list[DecodeConfig]:
    """The teacher; the argmax at every K; at the largest K also the published penalty and the dithered readout."""
    plain = [DecodeConfig("pflm", k) for k in range(1, block + 1)]
    others = [DecodeConfig("pflm", block, frequency_penalty=penalty)] if penalty else []
    return [DecodeConfig("ar"), *plain, *others, DecodeConfig("pflm", block, dither=dither)]


@dataclass(frozen=True)
class Written:
    """The new tokens of one decoder (S, n) and its forward passes per sample."""

    decoder: DecodeConfig
    tokens: Ints
    nfe: int


def write(
    pair: Pair, prefixes: Ints, new_tokens: int, decoder: DecodeConfig, seed: int = 0, batch: int = 64
) -> Written:
    """Continues prefixes (S, N) under noise keyed by (seed, sample, position), so the batch size has no effect.

    Raises:
        KfError: fewer than four new tokens, more than the context holds, or an invalid readout.
    """
    if new_tokens < FEWEST_NEW:
        raise KfError(f"Samples of {new_tokens} tokens were requested.", f"at least {FEWEST_NEW} new tokens")
    networks = Networks(pair.teacher, pair.student)
    parts, passes = [], 0
    for first in range(0, len(prefixes), batch):
        rows = prefixes[first : first + batch].tolist()
        noise = keyed_noise(seed, range(first, first + len(rows)), decoder, networks, new_tokens)
        decoded = generate(decoder, networks, rows, noise, new_tokens)
        parts.append(decoded.tokens)
        passes = decoded.nfe
    return Written(decoder, np.concatenate(parts), passes)


@torch.inference_mode()
def token_losses(teacher: AnyTeacher, prefixes: Ints, tokens: Ints) -> Floats:
    """Teacher's loss of each new token (S, n) after prefixes (S, N), at temperature 1; (S, n) nats."""
    whole = torch.from_numpy(np.concatenate([prefixes, tokens], axis=1)).to(teacher.device)
    first, found = prefixes.shape[1], []
    for rows in whole.split(ROWS_SCORED_AT_ONCE):
        log_probs = teacher.log_probs(rows)[:, first - 1 : -1]
        found.append(-log_probs.gather(2, rows[:, first:, None])[..., 0].double().cpu().numpy())
    return np.concatenate(found)


def quality(written: list[Written], losses: list[Floats]) -> list[SampleQuality]:
    """Measures samples of the same prefixes, given their `token_losses` (S, n); the teacher's come first.

    Intervals are over samples (an approximation for self-BLEU, whose samples share references); the ratio pairs the
    samples of a prefix.
    """
    means = [each.mean(axis=1) for each in losses]
    return [_measured(each, own, means[0]) for each, own in zip(written, means, strict=True)]


def scored(teacher: AnyTeacher, prefixes: Ints, written: list[Written]) -> list[SampleQuality]:
    """`quality` of samples, with the teacher's losses computed here."""
    return quality(written, [token_losses(teacher, prefixes, each.tokens) for each in written])


def write_all(pair: Pair, prefixes: Ints, new_tokens: int, chosen: list[DecodeConfig], seed: int) -> list[Written]:
    """`write` for several decoders, with a progress bar."""
    return [write(pair, prefixes, new_tokens, d, seed) for d in tqdm(chosen, desc="samples", leave=False, delay=1)]


def _measured(written: Written, losses: Floats, own: Floats) -> SampleQuality:
    tokens, decoder = written.tokens, written.decoder

    def over_samples(statistic: Callable[[Ints], float]) -> Estimate:
        return intervals.fraction(np.array([statistic(row) for row in tokens]))

    return SampleQuality(
        decoder=name(decoder),
        k=decoder.k or 1,
        penalty=decoder.frequency_penalty,
        dither=decoder.dither,
        tau=decoder.temperature,
        nfe=written.nfe,
        teacher_nll=intervals.mean(losses),
        teacher_nll_ratio=intervals.ratio(losses, own),
        entropy=intervals.mean(np.array([unigram_entropy(row) for row in tokens])),
        distinct_1=over_samples(lambda row: distinct(row, 1)),
        distinct_2=over_samples(lambda row: distinct(row, 2)),
        distinct_3=over_samples(lambda row: distinct(row, 3)),
        repeated_4=over_samples(repeated),
        self_bleu=intervals.mean(self_bleu(tokens)),
    )


def unigram_entropy(sample: Ints) -> float:
    """Entropy in nats of the token counts of one sample (L,); ln L if no token repeats."""
    counts = np.unique(sample, return_counts=True)[1]
    return float(entropy(counts))


def distinct(sample: Ints, n: int) -> float:
    """Number of distinct n-grams over number of n-grams of one sample (L,), L >= n."""
    found = _ngrams(sample, n)
    return len(found) / found.total()


def repeated(sample: Ints) -> float:
    """Fraction of the 4-grams of one sample that occurred in it before."""
    return 1.0 - distinct(sample, 4)


def self_bleu(samples: Ints) -> Floats:
    """BLEU-4 of each sample (S, L) against all others as references; (S,) in 0 .. 1.

    Geometric mean of the clipped precisions of 1- to 4-grams; one is added to hits and totals of n >= 2 (Lin and Och,
    2004), so that one order without a hit does not give zero. All samples have equal length: no brevity penalty.
    """
    logs = np.zeros(len(samples))
    for n in range(1, BLEU_ORDER + 1):
        counts = [_ngrams(sample, n) for sample in samples]
        # A count is clipped to the largest one among the others: the largest of all, or the second if it is this one's.
        best: dict[tuple[int, ...], tuple[int, int]] = {}
        for own in counts:
            for gram, count in own.items():
                first, second = best.get(gram, (0, 0))
                best[gram] = (count, first) if count > first else (first, max(second, count))
        for i, own in enumerate(counts):
            hits = sum(min(c, best[g][1] if c == best[g][0] else best[g][0]) for g, c in own.items())
            added = int(n > 1)
            with np.errstate(divide="ignore"):
                logs[i] += np.log((hits + added) / (own.total() + added))
    return np.exp(logs / BLEU_ORDER)


def _ngrams(sample: Ints, n: int) -> Counter[tuple[int, ...]]:
    tokens = sample.tolist()
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
