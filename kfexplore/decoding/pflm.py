"""Push-forward decoding: the learned map, K tokens a pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kfexplore.config import DecodeConfig
from kfexplore.decoding.passes import Passes, Tensors
from kfexplore.decoding.readout import argmax, dithered, draw, penalised_argmax
from kfexplore.decoding.rows import PREFILLED, Step
from kfexplore.decoding.work import DecodeBatch
from kfexplore.models import KVCache


@torch.inference_mode()
def pflm_steps(work: DecodeBatch) -> Iterator[Step]:
    """k tokens a step, read from its slots by argmax unless the config says otherwise; slot j of step s: noise s k + j.

    Each pass feeds the tokens of the one before (the first: the last of the prompt) and k fresh noise slots; the slots'
    keys are overwritten by the tokens that they became.
    """
    (student,), rows, noise, k, config = work.models, work.rows, work.noise, work.k, work.config
    passes = Passes(student, rows, k, work.use_cuda_graphs)
    also = int(config.exact_first)
    counts = torch.zeros(len(rows), student.config.vocab_size if config.penalty else 0, device=student.device)

    def run(tokens: Tensor, u: Tensor, counts: Tensor) -> Tensors:
        return read(config, student(tokens, u, passes.cache, config.tau, also=also), u, counts)

    yield PREFILLED
    tokens, fed = None, 1
    for position in range(0, noise.shape[1] - k + 1, k):
        u, before = noise[:, position : position + k], counts.clone() if passes.use_cuda_graphs else counts
        tokens, doubts, counts = passes(config, run, fed, k, (u, counts), tokens)
        if work.settle:
            for row in doubts.any(dim=1).nonzero()[:, 0].tolist():
                one = slice(row, row + 1)
                alone = student(rows.text(row), u[one], KVCache(), config.tau, also=also)
                tokens[one], _, counts[one] = read(config, alone, u[one], before[one])
        rows.append(tokens)
        fed = k
        yield Step(tokens.clone() if passes.use_cuda_graphs else tokens)


def read(config: DecodeConfig, logits: Tensor, u: Tensor, counts: Tensor) -> Tensors:
    """Tokens and doubts (B, k), and the counts after them.

    Args:
        config: penalty, dither or exact_first, or none of them: the argmax.
        logits: (B, k, V), with `exact_first` (B, 1 + k, V), the next-token law first.
        u: (B, k).
        counts: (B, V) of the tokens so far; (B, 0) without a penalty.
    """
    own = logits[:, -u.shape[1] :]
    if config.penalty:
        return penalised_argmax(own, counts, config.penalty)
    tokens, doubts = argmax(own) if config.dither is None else dithered(own, u, config.dither)
    if config.exact_first:
        first, unsure = draw(logits[:, :1], u[:, :1], config.tau)
        tokens, doubts = (torch.cat([a, b[:, 1:]], dim=1) for a, b in ((first, tokens), (unsure, doubts)))
    return tokens, doubts, counts
