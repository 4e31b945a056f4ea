"""The student's targets: the tokens of given noise, at many positions of a text at once.

B contexts of N tokens, G groups (noise vectors) per context, k slots. Targets are computed in fp32, outside autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kfexplore.decoding.cdf import cdf, inverse_cdf
from kfexplore.models import KVCache, Student, Teacher


@torch.no_grad()
def exact_targets(teacher: Teacher, ids: Tensor, noise: Tensor, ends: Tensor, tau: float = 1.0) -> Tensor:
    """The exact map G*, the teacher unrolled: each slot is the inverse CDF given the context and the slots before it.

    Args:
        teacher: The model whose G* is learned.
        ids: (B, N) contexts.
        noise: (B, G, k) in [0, 1).
        ends: (B, G) int64, 1 .. N: tokens of the context before each group.
        tau: Temperature that divides the teacher's logits.

    Returns:
        (B, G, k) int64.
    """
    cache = KVCache()
    hidden = teacher.run_blocks(teacher.vocab_embed(ids), cache, keep=ids.shape[1])
    last = hidden.gather(1, (ends - 1)[..., None].expand(-1, -1, hidden.shape[-1])).flatten(0, 1)
    logits = teacher.read(last[:, None])
    rows = cache.branch(visible=ends.flatten())
    chosen: list[Tensor] = []
    for u in noise.flatten(0, 1).unbind(dim=-1):
        if chosen:
            logits = teacher(chosen[-1][:, None], rows)
        chosen.append(inverse_cdf(logits[:, 0] / tau, u))
    return torch.stack(chosen, dim=-1).unflatten(0, ends.shape)


@torch.no_grad()
def self_targets(student: Student, ids: Tensor, noise: Tensor, ends: Tensor, tau: float = 1.0) -> Tensor:
    """Progressive self-forcing (paper, stage 2): a frozen PFLM(k) makes the targets of a PFLM(2k) in two rounds.

    The first half of the noise gives k tokens; given them, the second half gives k more. Shapes as `exact_targets`.
    """
    first_noise, second_noise = noise.chunk(2, dim=-1)
    cache = student.prefill(ids)
    first = student.group_logits(ids, first_noise, ends, tau, cache=cache).argmax(dim=-1)
    second = student.group_logits(ids, second_noise, ends, tau, given=first, cache=cache).argmax(dim=-1)
    return torch.cat([first, second], dim=-1)


@torch.no_grad()
def inverted_noise(
    teacher: Teacher, ids: Tensor, within: Tensor, ends: Tensor, tau: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Noise inversion (paper, ablations A and B): the text itself is the target, and its noise is looked up.

    The noise of token x lies in its cell (F(x - 1), F(x)], where F is the teacher's CDF after the text before it, and
    is uniform in the cell. Noise and token then have the map's joint distribution if the text has the teacher's.

    Args:
        teacher: The model whose cells are used.
        ids: (B, N) texts.
        within: (B, G, k) in [0, 1), place in the cell.
        ends: (B, G) int64, 1 .. N - k: tokens before each group.
        tau: Temperature that divides the teacher's logits.

    Returns:
        Noise (B, G, k) float64 in [0, 1) and tokens (B, G, k) int64.
    """
    cumulative = cdf(teacher(ids)[:, :-1] / tau)  # (B, N - 1, V): F of the token at position 1, 2, ..
    upper = cumulative.gather(2, ids[:, 1:, None])[..., 0]
    lower = cumulative.gather(2, (ids[:, 1:, None] - 1).clamp_min(0))[..., 0] * (ids[:, 1:] > 0)
    places = ends[..., None] + torch.arange(within.shape[-1], device=ids.device)  # (B, G, k)

    def at(values: Tensor, shift: int) -> Tensor:
        return values.gather(1, (places - shift).flatten(1)).view(places.shape)

    noise = at(upper, 1) - within * (at(upper, 1) - at(lower, 1))
    return noise.clamp(0.0, 1.0 - 2.0**-24), at(ids, 0)
