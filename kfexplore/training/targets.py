"""The student's targets: the tokens for given noise, at many positions of a text at once.

B contexts of N tokens, G groups (noise vectors) per context, k slots. Targets are computed in fp32, outside autocast.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kfexplore.decoding.cdf import cdf, inverse_cdf
from kfexplore.models import AnyStudent, AnyTeacher, KVCache, Network

LOGITS = 2**24
"""Maximum number of logits in memory at once; with a large vocabulary, a training pass has far more."""


def in_chunks(network: Network, of_logits: Callable[..., Tensor], hidden: Tensor, *given: Tensor) -> Tensor:
    """`of_logits(logits, *given)` for hidden states, in chunks of at most `LOGITS` logits, recomputed in backward.

    Args:
        of_logits: Maps logits (m, V) and rows of `given` to (m, ...).
        hidden: (n, H).
        given: (n, ...) each.

    Returns:
        (n, ...).
    """

    def part(hidden: Tensor, *given: Tensor) -> Tensor:
        return of_logits(network.read(hidden[None])[0], *given)

    size = max(1, LOGITS // network.config.vocab_size)
    if len(hidden) <= size:
        return part(hidden, *given)
    parts = zip(*(rows.split(size) for rows in (hidden, *given)), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([part(*rows) for rows in parts])
    return torch.cat([checkpoint(part, *rows, use_reentrant=False) for rows in parts])


@torch.no_grad()
def exact_targets(teacher: AnyTeacher, ids: Tensor, noise: Tensor, ends: Tensor, tau: float = 1.0) -> Tensor:
    """The exact map G*, the teacher unrolled: each slot is the inverse CDF given the context and the slots before it.

    Args:
        ids: (B, N) contexts.
        noise: (B, G, k) in [0, 1).
        ends: (B, G) int64, 1 .. N: tokens of the context before each group.
        tau: Temperature that divides the teacher's logits.

    Returns:
        (B, G, k) int64.
    """
    cache = KVCache()
    hidden = teacher.run_blocks(teacher.embed(ids), cache, keep=ids.shape[1])
    last = hidden.gather(1, (ends - 1)[..., None].expand(-1, -1, hidden.shape[-1])).flatten(0, 1)
    rows = cache.branch(visible=ends.flatten())
    chosen: list[Tensor] = []
    for u in noise.flatten(0, 1).unbind(dim=-1):
        if chosen:
            last = teacher.run_blocks(teacher.embed(chosen[-1][:, None]), rows, keep=1)[:, 0]
        chosen.append(in_chunks(teacher, lambda logits, u: inverse_cdf(logits / tau, u), last, u))
    return torch.stack(chosen, dim=-1).unflatten(0, ends.shape)


@torch.no_grad()
def self_targets(student: AnyStudent, ids: Tensor, noise: Tensor, ends: Tensor, tau: float = 1.0) -> Tensor:
    """Progressive self-forcing (paper, stage 2): a frozen PFLM(k) makes the targets of a PFLM(2k) in two rounds.

    The first half of the noise gives k tokens; given them, the second half gives k more. Shapes as `exact_targets`.
    """
    first_noise, second_noise = noise.chunk(2, dim=-1)
    cache = student.prefill(ids)

    def tokens(noise: Tensor, given: Tensor | None = None) -> Tensor:
        slots = student.group_slots(cache, noise, ends, tau, given).flatten(0, 1)
        return in_chunks(student, lambda logits: logits.argmax(dim=-1), slots).view(noise.shape)

    first = tokens(first_noise)
    second = tokens(second_noise, first)
    return torch.cat([first, second], dim=-1)


@torch.no_grad()
def inverted_noise(
    teacher: AnyTeacher, ids: Tensor, within: Tensor, ends: Tensor, tau: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Noise inversion (paper, ablations A and B): the text itself is the target, and noise is drawn from its cells.

    The noise of token x is uniform in its cell (F(x - 1), F(x)], where F is the teacher's CDF after the text before it.
    If the text has the teacher's distribution, noise and token have the map's joint distribution.

    Args:
        ids: (B, N) texts.
        within: (B, G, k) in [0, 1), relative position in the cell.
        ends: (B, G) int64, 1 .. N - k: tokens before each group.
        tau: Temperature that divides the teacher's logits.

    Returns:
        Noise (B, G, k) float64 in [0, 1) and tokens (B, G, k) int64.
    """
    hidden = teacher.run_blocks(teacher.embed(ids), KVCache())[:, :-1]

    def cell(logits: Tensor, token: Tensor) -> Tensor:
        """F at the preceding ids and at the tokens (m,) themselves, (m, 2)."""
        edges = cdf(logits / tau).gather(1, torch.stack([token - 1, token], dim=1).clamp_min(0))
        return edges * torch.stack([token > 0, token >= 0], dim=1)

    cells = in_chunks(teacher, cell, hidden.flatten(0, 1), ids[:, 1:].flatten())
    lower, upper = cells.view(*hidden.shape[:2], 2).unbind(dim=-1)  # (B, N - 1): of the token at position 1, 2, ..
    places = ends[..., None] + torch.arange(within.shape[-1], device=ids.device)  # (B, G, k)

    def at(values: Tensor, shift: int) -> Tensor:
        return values.gather(1, (places - shift).flatten(1)).view(places.shape)

    noise = at(upper, 1) - within * (at(upper, 1) - at(lower, 1))
    return noise.clamp(0.0, 1.0 - 2.0**-24), at(ids, 0)
