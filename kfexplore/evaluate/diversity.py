"""How varied samples are, from token ids alone: within each, and across them (self-BLEU)."""

from __future__ import annotations

from collections import Counter

import numpy as np

from kfexplore.results import Floats, Ints

BLEU_ORDER = 4


def unigram_entropy(sample: Ints) -> float:
    """Entropy in nats of the token counts of one sample (L,); ln L where no token comes twice."""
    counts = np.unique(sample, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def distinct(sample: Ints, n: int) -> float:
    """Different n-grams over n-grams of one sample (L,), L >= n."""
    found = _ngrams(sample, n)
    return len(found) / found.total()


def repeated(sample: Ints, n: int = 4) -> float:
    """Share of the n-grams of one sample that stood in it before."""
    return 1.0 - distinct(sample, n)


def self_bleu(samples: Ints) -> Floats:
    """BLEU-4 of each sample (S, L) against all others as references; (S,) in 0 .. 1.

    Clipped precisions of 1- to 4-grams, geometric mean; one is added to hits and totals of n >= 2 (Lin and Och, 2004),
    so that one order without a hit does not make all zero. All are of one length: there is no brevity penalty.
    """
    logs = np.zeros(len(samples))
    for n in range(1, BLEU_ORDER + 1):
        counts = [_ngrams(sample, n) for sample in samples]
        # What clips a count is the largest one among the others: the largest of all, or where that is one's own, the
        # largest but one.
        best: dict[tuple[int, ...], tuple[int, int]] = {}
        for held in counts:
            for gram, count in held.items():
                first, second = best.get(gram, (0, 0))
                best[gram] = (count, first) if count > first else (first, max(second, count))
        for i, held in enumerate(counts):
            hits = sum(min(c, best[g][1] if c == best[g][0] else best[g][0]) for g, c in held.items())
            added = int(n > 1)
            with np.errstate(divide="ignore"):
                logs[i] += np.log((hits + added) / (held.total() + added))
    return np.exp(logs / BLEU_ORDER)


def _ngrams(sample: Ints, n: int) -> Counter[tuple[int, ...]]:
    tokens = sample.tolist()
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
