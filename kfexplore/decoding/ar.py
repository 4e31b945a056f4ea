"""Autoregressive decoding: the exact map G*, one token per pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kfexplore.decoding.buffers import PREFILLED, DecodeBatch, Step
from kfexplore.decoding.cdf import cdf, invert
from kfexplore.decoding.passes import Passes, Tensors
from kfexplore.decoding.readout import draw
from kfexplore.models import AnyTeacher


@torch.inference_mode()
def steps(batch: DecodeBatch) -> Iterator[Step]:
    """One token per step, chosen by inverse CDF of the teacher's distribution at the temperature."""
    (teacher,), sequences, temperature = batch.models, batch.sequences, batch.config.temperature
    passes = Passes(teacher, sequences, 1, batch.use_cuda_graphs)

    def run(tokens: Tensor, u: Tensor) -> Tensors:
        return draw(teacher(tokens, passes.cache, read=1), u, temperature)

    yield PREFILLED
    tokens = None
    for position in range(batch.noise.shape[1]):
        u = batch.noise[:, position : position + 1]
        tokens, near_tie = passes(("ar", temperature), run, 1, 0, (u,), tokens)
        if batch.recheck:
            for row in near_tie[:, 0].nonzero()[:, 0].tolist():
                tokens[row] = exact_token(teacher, sequences.row(row), u[row], temperature)
        sequences.append(tokens)
        yield Step(tokens.clone() if passes.use_cuda_graphs else tokens)


def exact_token(teacher: AnyTeacher, ids: Tensor, u: Tensor, temperature: float = 1.0) -> Tensor:
    """G* for one noise value (1,) after one row of ids (1, N), without a cache: the token (1,)."""
    return draw(teacher(ids, read=1), u[None], temperature)[0][0]


def reference(batch: DecodeBatch) -> list[int]:
    """The slow twin of every exact decoder."""
    (teacher, *_), row = batch.models, batch.sequences.row(0)
    for u in batch.noise[0]:
        token = invert(cdf(teacher(row)[0, -1] / batch.config.temperature), u[None])
        row = torch.cat([row, token[None]], dim=1)
    return row[0, batch.sequences.prompt_lengths[0] :].tolist()
