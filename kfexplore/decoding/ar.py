"""Autoregressive decoding: the exact map G*, one token a pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kfexplore.decoding.passes import Passes, Tensors
from kfexplore.decoding.readout import draw
from kfexplore.decoding.rows import PREFILLED, Step
from kfexplore.decoding.work import DecodeBatch
from kfexplore.models import AnyTeacher


@torch.inference_mode()
def ar_steps(work: DecodeBatch) -> Iterator[Step]:
    """A token a step, chosen by inverse CDF of the teacher's law, its logits divided by tau."""
    (teacher,), rows, tau = work.models, work.rows, work.config.tau
    passes = Passes(teacher, rows, 1, work.use_cuda_graphs)

    def run(tokens: Tensor, u: Tensor) -> Tensors:
        return draw(teacher(tokens, passes.cache, read=1), u, tau)

    yield PREFILLED
    tokens = None
    for position in range(work.noise.shape[1]):
        u = work.noise[:, position : position + 1]
        tokens, doubts = passes(("ar", tau), run, 1, 0, (u,), tokens)
        if work.settle:
            for row in doubts[:, 0].nonzero()[:, 0].tolist():
                tokens[row] = exact_token(teacher, rows.text(row), u[row], tau)
        rows.append(tokens)
        yield Step(tokens.clone() if passes.use_cuda_graphs else tokens)


def exact_token(teacher: AnyTeacher, ids: Tensor, u: Tensor, tau: float = 1.0) -> Tensor:
    """G* for one noise value (1,) after a whole row of ids (1, N), nothing cached: the token (1,)."""
    return draw(teacher(ids, read=1), u[None], tau)[0][0]
