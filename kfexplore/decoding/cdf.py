"""The inverse CDF in token-id order: the rule by which noise chooses a token (paper, eq. 2).

F is the running sum of softmax(logits) in float64, tokens in the order of their ids. Noise u chooses the first token v
with F(v) >= u, so token v owns the cell (F(v-1), F(v)], and the first token of positive probability owns 0 as well. A
token of probability zero is never chosen, whatever the rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor


def distribution(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """softmax(logits / temperature), (..., V) float64; at 1 the logits stay as they are."""
    return (logits if temperature == 1.0 else logits / temperature).double().softmax(dim=-1)


def cdf(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Running sum over token ids: logits (..., V) in fp32 -> F (..., V) float64, last entry 1 up to rounding."""
    return distribution(logits, temperature).cumsum(dim=-1)


def invert(cumulative: Tensor, u: Tensor) -> Tensor:
    """Tokens that noise chooses: F (..., V) float64 and u (..., n) in [0, 1] -> (..., n) int64."""
    chosen = torch.searchsorted(cumulative, u.double().contiguous(), right=False)
    # Two places where F(v) >= u alone would name a token of probability zero: u = 0, and u above a total that
    # rounding left under 1. The first and last steps of F bound the tokens that own a cell.
    zero = torch.zeros_like(cumulative[..., :1])
    first = torch.searchsorted(cumulative, zero, right=True)
    last = torch.searchsorted(cumulative, cumulative[..., -1:].contiguous(), right=False)
    return torch.minimum(torch.maximum(chosen, first), last)


def choose(cumulative: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """As `invert`, with the distance (..., n) float64 of u from the nearer edge of its token's cell."""
    tokens = invert(cumulative, u)
    below = cumulative.gather(-1, (tokens - 1).clamp_min(0)) * (tokens > 0)
    return tokens, torch.minimum(u - below, cumulative.gather(-1, tokens) - u).clamp_min(0.0)


def inverse_cdf(logits: Tensor, u: Tensor) -> Tensor:
    """One token per row: logits (..., V), u (...) -> (...) int64."""
    return invert(cdf(logits), u[..., None])[..., 0]
