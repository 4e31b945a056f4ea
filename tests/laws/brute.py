"""Distributions of small models by enumeration: every block of k tokens over seven rows, each scored alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers import masked, student, teacher

from kfexplore.models import MaskedModel, Teacher
from kfexplore.pair import Pair

FULL = pytest.mark.full("kfexplore/laws", "kfexplore/maps", "kfexplore/decoding", "kfexplore/models")
ROWS = 7
MASK = ROWS - 1
IDS = [3, 1, 4, 1, 5]


def tiny(with_masked: bool = False, seed: int = 4, peaky: float = 1.0) -> Pair:
    """A pair of seven rows whose tokens depend on each other."""
    other = masked(seed + 2, peaky, vocab_size=ROWS) if with_masked else None
    return Pair(teacher(seed, peaky, vocab_size=ROWS), student(seed + 1, vocab_size=ROWS), other)


@torch.inference_mode()
def block_law(model: Teacher, ids: list[int], k: int, temperature: float = 1.0) -> np.ndarray:
    """(V,) * k probabilities, from softmax(logits / temperature)."""
    blocks = list(itertools.product(range(ROWS), repeat=k))
    rows = torch.tensor([[*ids, *block] for block in blocks])
    found = (model.log_probs(rows)[:, len(ids) - 1 : -1].double() / temperature).log_softmax(dim=-1)
    found = found.gather(2, rows[:, len(ids) :, None])[..., 0].sum(dim=1).exp()
    return found.numpy().reshape((ROWS,) * k)


@torch.inference_mode()
def slot_laws(model: MaskedModel, ids: list[int], block: tuple[int, ...]) -> np.ndarray:
    """(k, V) distributions of the masked model, for one partly masked block alone."""
    return model.log_probs(torch.tensor([[*ids, *block]]))[0, len(ids) :].double().exp().numpy()


def product(law: np.ndarray) -> np.ndarray:
    """The distribution of the same shape with independent slots."""
    k = law.ndim
    margins = [law.sum(axis=tuple(i for i in range(k) if i != j)) for j in range(k)]
    whole = margins[0]
    for margin in margins[1:]:
        whole = np.multiply.outer(whole, margin)
    return whole


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q), nats."""
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())


def same_law(blocks: np.ndarray, law: np.ndarray) -> float:
    """p-value of blocks (N, k) against a distribution (V,) * k: cells expected five times, the rest in one."""
    from scipy.stats import chisquare

    counts = np.zeros(law.shape)
    np.add.at(counts, tuple(blocks.T), 1)
    assert counts[law == 0].sum() == 0
    expected = len(blocks) * law / law.sum()
    often = expected >= 5
    cells = [*zip(counts[often], expected[often], strict=True), (counts[~often].sum(), expected[~often].sum())]
    seen, awaited = np.array([cell for cell in cells if cell[1] > 0]).T
    return float(chisquare(seen, awaited).pvalue)
