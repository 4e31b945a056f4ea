"""Push-forward decoding: the learned map, k tokens per pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kfexplore.config import DecodeConfig
from kfexplore.decoding.buffers import PREFILLED, DecodeBatch, Step
from kfexplore.decoding.cdf import cdf, invert
from kfexplore.decoding.passes import Passes, Tensors
from kfexplore.decoding.readout import argmax, dithered, draw, penalised_argmax
from kfexplore.models import KVCache


@torch.inference_mode()
def steps(batch: DecodeBatch) -> Iterator[Step]:
    """k tokens per step, by argmax unless the config says otherwise; slot j of step s reads noise s k + j.

    Each pass feeds the tokens of the previous pass (the first pass: the last prompt token) and k fresh noise slots; the
    keys of the chosen tokens then overwrite those of the slots.
    """
    (student,), sequences, noise, k, config = batch.models, batch.sequences, batch.noise, batch.k, batch.config
    passes = Passes(student, sequences, k, batch.use_cuda_graphs)
    also = int(config.exact_first)
    counted = student.config.vocab_size if config.frequency_penalty else 0
    counts = torch.zeros(len(sequences), counted, device=student.device)

    def run(tokens: Tensor, u: Tensor, counts: Tensor) -> Tensors:
        return read(config, student(tokens, u, passes.cache, config.temperature, also=also), u, counts)

    yield PREFILLED
    tokens, fed = None, 1
    for position in range(0, noise.shape[1] - k + 1, k):
        u, before = noise[:, position : position + k], counts.clone() if passes.use_cuda_graphs else counts
        tokens, near_tie, counts = passes(config, run, fed, k, (u, counts), tokens)
        if batch.recheck:
            for row in near_tie.any(dim=1).nonzero()[:, 0].tolist():
                one = slice(row, row + 1)
                fitting = u[one, : student.config.context - sequences.ends[row]]  # the rest of a last block is dropped
                alone = student(sequences.row(row), fitting, KVCache(), config.temperature, also=also)
                tokens[one, : fitting.shape[1]], _, counts[one] = read(config, alone, fitting, before[one])
        sequences.append(tokens)
        fed = k
        yield Step(tokens.clone() if passes.use_cuda_graphs else tokens)


def read(config: DecodeConfig, logits: Tensor, u: Tensor, counts: Tensor) -> Tensors:
    """Tokens and whether each is a near tie, (B, k), and the updated counts.

    Args:
        config: frequency_penalty, dither or exact_first; without them, the argmax.
        logits: (B, k, V), with `exact_first` (B, 1 + k, V), the next-token logits first.
        u: (B, k).
        counts: (B, V) of the tokens so far; (B, 0) without a frequency penalty.
    """
    own = logits[:, -u.shape[1] :]
    if config.frequency_penalty:
        return penalised_argmax(own, counts, config.frequency_penalty)
    tokens, near_tie = argmax(own) if config.dither is None else dithered(own, u, config.dither)
    if config.exact_first:
        first, first_near = draw(logits[:, :1], u[:, :1], config.temperature)
        tokens, near_tie = (torch.cat([a, b[:, 1:]], dim=1) for a, b in ((first, tokens), (first_near, near_tie)))
    return tokens, near_tie, counts


def reference(batch: DecodeBatch) -> list[int]:
    """The slow twin."""
    (student,), config, noise = batch.models, batch.config, batch.noise[0]
    row, counts = batch.sequences.row(0)[0].tolist(), torch.zeros(student.config.vocab_size)
    prompt = len(row)
    for u in noise[: student.config.context - prompt].split(batch.k):
        logits = student(torch.tensor([row]), u[None], KVCache(), config.temperature, also=1)[0]
        for j, slot in enumerate(logits[1:]):
            if config.exact_first and j == 0:
                token = int(invert(cdf(logits[0] / config.temperature), u[:1]))
            elif config.dither is not None:
                token = int(invert(cdf(slot), torch.frac(u[j : j + 1] * 2.0**config.dither)))
            else:
                token = int((slot - config.frequency_penalty * counts).argmax())
            row.append(token)
            counts[token] += 1
    return row[prompt:]
