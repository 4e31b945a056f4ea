"""What the student learns: the tokens that G* chooses for given noise, at many positions of a text at once."""

from __future__ import annotations

import torch
from torch import Tensor

from kfexplore.decoding.cdf import inverse_cdf
from kfexplore.models import Student, Teacher


@torch.no_grad()
def exact_targets(teacher: Teacher, ids: Tensor, noise: Tensor, ends: Tensor) -> Tensor:
    """The teacher unrolled: each slot is the inverse CDF given the context and the slots before it.

    Args:
        teacher: The model whose G* is learned.
        ids: (B, N) contexts.
        noise: (B, G, k) in [0, 1).
        ends: (B, G) int64, 1 .. N: tokens of the context before each group.

    Returns:
        (B, G, k) int64.
    """
    rows = teacher.prefill(ids).branch(visible=ends.flatten() - 1)
    token = ids.gather(1, ends - 1).flatten()
    chosen = []
    for u in noise.flatten(0, 1).unbind(dim=-1):
        token = inverse_cdf(teacher(token[:, None], rows)[:, 0], u)
        chosen.append(token)
    return torch.stack(chosen, dim=-1).unflatten(0, ends.shape)


@torch.no_grad()
def self_targets(student: Student, ids: Tensor, noise: Tensor, ends: Tensor) -> Tensor:
    """Progressive self-forcing (paper, stage 2): a frozen PFLM(k) makes the targets of a PFLM(2k) in two rounds.

    The first half of the noise gives k tokens; given them, the second half gives k more. Shapes as `exact_targets`.
    """
    first_noise, second_noise = noise.chunk(2, dim=-1)
    cache = student.prefill(ids)
    first = student.group_logits(ids, first_noise, ends, cache=cache).argmax(dim=-1)
    second = student.group_logits(ids, second_noise, ends, given=first, cache=cache).argmax(dim=-1)
    return torch.cat([first, second], dim=-1)
