"""From logits to tokens: what the published sampler does to the argmax, and ways that keep the map deterministic.

Every readout also says how near it was to another choice, so that what rounding could have turned can be settled by
the one pass whose shape never changes (the row alone, nothing cached).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kfexplore.decoding.cdf import cdf, choose

NEAR_EDGE = 5e-6
"""Distance in u below which a token drawn by inverse CDF is settled (fp32 on a CPU; measured in docs/LOG.md)."""
NEAR_TIE = 1e-4
"""Lead of the largest logit (nats) below which an argmax is settled."""


def draw(logits: Tensor, u: Tensor, tau: float = 1.0) -> tuple[Tensor, Tensor]:
    """Inverse CDF of softmax(logits / tau): logits (B, t, V) and u (B, t) -> tokens and doubts (B, t)."""
    tokens, edge = choose(cdf(logits, tau), u[..., None])
    return tokens[..., 0], edge[..., 0] < NEAR_EDGE


def argmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The map itself: logits (B, k, V) -> tokens and doubts (B, k)."""
    best = logits.max(dim=-1, keepdim=True)
    second = logits.scatter(-1, best.indices, -torch.inf).amax(dim=-1)
    return best.indices[..., 0], best.values[..., 0] - second < NEAR_TIE


def penalised_argmax(logits: Tensor, counts: Tensor, penalty: float) -> tuple[Tensor, Tensor, Tensor]:
    """The published sampler's: slot by slot argmax of logits (B, k, V) - penalty x counts (B, V).

    Returns:
        Tokens and doubts (B, k), and the counts with these tokens.
    """
    counts, chosen, doubts = counts.clone(), [], []
    for slot in logits.split(1, dim=1):
        token, doubt = argmax(slot - penalty * counts[:, None])
        counts.scatter_add_(1, token, torch.ones_like(token, dtype=counts.dtype))
        chosen.append(token)
        doubts.append(doubt)
    return torch.cat(chosen, dim=1), torch.cat(doubts, dim=1), counts


def dithered(logits: Tensor, u: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Tokens by inverse CDF of the student's own distribution, with the low bits of the noise it was given.

    A student that has resolved u is sure, and gives the token it would have given anyway; one that has not spreads its
    distribution, and the bits of u that it did not use draw from it, where the argmax would take the mode each time.

    Args:
        logits: (B, k, V) of the slots.
        u: (B, k) noise in [0, 1), a multiple of 2^-24.
        bits: m, 1 .. 10; the draw uses frac(2^m u), which is exact in float64.

    Returns:
        Tokens and doubts (B, k).
    """
    return draw(logits, torch.frac(u.double() * 2.0**bits))
