"""From logits to tokens: the argmax, the published sampler's penalty, and draws that keep the map deterministic.

Floating point results depend slightly on the batch. Every readout therefore also reports near ties, which are rechecked
by a pass over that row alone, whose shape is always the same.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from kfexplore.decoding.cdf import cdf, choose


class NearTie(NamedTuple):
    """Distances below which a choice is a near tie.

    Measured differences between batches reach 4e-6 in u and 1.3e-5 in a logit margin (fp32, CPU; docs/LOG.md,
    "Batch-invariant maps").
    """

    edge: float
    """Distance of u from the edge of its cell, at temperature 1. Also used for differences of probabilities."""
    margin: float
    """Gap between the two largest logits, in nats."""

    def edge_at(self, temperature: float) -> float:
        """`edge` at a temperature: below 1 it grows as 1 / temperature, as differences of logits do."""
        return self.edge / min(1.0, temperature)


MAPS: Final = NearTie(5e-5, 1e-3)
"""For `maps/context.py`: well above the measured differences, since a recheck is cheap with a prefilled context."""
SAMPLERS: Final = NearTie(1e-5, 1e-4)
"""For `laws/samplers.py`: smaller, since a study draws up to 2^17 rows and every recheck is one more pass."""
DECODING: Final = NearTie(5e-6, 1e-4)
"""For all decoders: passes of different shapes differ by only about 1e-6 in u, and a recheck reads a whole row."""


def draw(logits: Tensor, u: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Inverse CDF of softmax(logits / temperature): logits (B, t, V), u (B, t) -> tokens and near ties (B, t)."""
    tokens, edge = choose(cdf(logits, temperature), u[..., None])
    return tokens[..., 0], edge[..., 0] < DECODING.edge_at(temperature)


def argmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The learned map: logits (B, k, V) -> tokens and near ties (B, k)."""
    best = logits.max(dim=-1, keepdim=True)
    second = logits.scatter(-1, best.indices, -torch.inf).amax(dim=-1)
    return best.indices[..., 0], best.values[..., 0] - second < DECODING.margin


def penalised_argmax(logits: Tensor, counts: Tensor, penalty: float) -> tuple[Tensor, Tensor, Tensor]:
    """The published sampler: slot by slot, the argmax of logits (B, k, V) - penalty x counts (B, V).

    Returns:
        Tokens and near ties (B, k), and the counts with these tokens.
    """
    counts, chosen, near_ties = counts.clone(), [], []
    for slot in logits.split(1, dim=1):
        token, near_tie = argmax(slot - penalty * counts[:, None])
        counts.scatter_add_(1, token, torch.ones_like(token, dtype=counts.dtype))
        chosen.append(token)
        near_ties.append(near_tie)
    return torch.cat(chosen, dim=1), torch.cat(near_ties, dim=1), counts


def dithered(logits: Tensor, u: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Tokens by inverse CDF of the student's own distribution, under the low bits of its noise.

    If the student has resolved u, its distribution is concentrated and the token stays the same. If it has not, the
    bits of u that it did not use draw from its distribution, whereas the argmax would always give the mode.

    Args:
        logits: (B, k, V) of the slots.
        u: (B, k) noise in [0, 1), a multiple of 2^-24.
        bits: m, 1 .. 10; the draw uses frac(2^m u), which is exact in float64.

    Returns:
        Tokens and near ties (B, k).
    """
    return draw(logits, torch.frac(u.double() * 2.0**bits))
