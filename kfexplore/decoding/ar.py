"""Autoregressive decoding: the exact map G*, one token a pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kfexplore.decoding.passes import Passes, Tensors
from kfexplore.decoding.readout import draw
from kfexplore.decoding.rows import BEGUN, Rows, Step
from kfexplore.models import AnyTeacher


@torch.inference_mode()
def ar_steps(
    teacher: AnyTeacher, rows: Rows, noise: Tensor, tau: float = 1.0, settle: bool = True, recorded: bool | None = None
) -> Iterator[Step]:
    """A token a step, as long as there is noise.

    Args:
        teacher: The teacher.
        rows: Prompts.
        noise: (B, P) float64; value p chooses new token p by inverse CDF.
        tau: Temperature: logits are divided by it.
        settle: Decide near choices by the row alone, so that no batch or cache turns a token.
        recorded: See `Passes`.
    """
    passes = Passes(teacher, rows, 1, recorded)

    def run(tokens: Tensor, u: Tensor) -> Tensors:
        return draw(teacher(tokens, passes.cache, read=1), u, tau)

    yield BEGUN
    tokens = None
    for position in range(noise.shape[1]):
        u = noise[:, position : position + 1]
        tokens, doubts = passes(("ar", tau), run, 1, 0, (u,), tokens)
        if settle:
            for row in doubts[:, 0].nonzero()[:, 0].tolist():
                tokens[row] = exact_token(teacher, rows.text(row), u[row], tau)
        rows.append(tokens)
        yield Step(tokens.clone() if passes.recorded else tokens)


def exact_token(teacher: AnyTeacher, ids: Tensor, u: Tensor, tau: float = 1.0) -> Tensor:
    """G* for one noise value (1,) after a whole row of ids (1, N), nothing cached: the token (1,)."""
    return draw(teacher(ids, read=1), u[None], tau)[0][0]
