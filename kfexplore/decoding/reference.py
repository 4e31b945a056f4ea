"""The slow twins of all decoders: one sample at a time, no cache, every pass over the whole row."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kfexplore.config import DecodeConfig
from kfexplore.decoding.cdf import cdf, invert
from kfexplore.decoding.generate import Networks, slots
from kfexplore.models import AnyTeacher, KVCache, MaskedModel, Student
from kfexplore.results import Floats, Ints


@torch.inference_mode()
def reference(
    config: DecodeConfig,
    networks: Networks,
    prompts: list[list[int]],
    noise: Floats,
    new_tokens: int,
    order: Floats | None = None,
) -> Ints:
    """What `generate` writes, (B, new_tokens); the arguments are the same."""
    written = []
    for n, prompt in enumerate(prompts):
        u = torch.from_numpy(np.ascontiguousarray(noise[n]))
        if config.decoder == "pflm":
            assert networks.student is not None
            tokens = _pflm(networks.student, prompt, u, slots(config, networks), config)
        elif config.decoder == "mdlm":
            assert networks.masked is not None
            ranks = None if order is None or config.order == "confident" else order[n]
            tokens = _mdlm(networks.masked, prompt, u[:new_tokens], config.k or 1, ranks)
        else:  # verified and jacobi are ways to the same text
            assert networks.teacher is not None
            tokens = _ar(networks.teacher, prompt, u[:new_tokens], config.tau)
        written.append(tokens[:new_tokens])
    return np.array(written)


def _ar(teacher: AnyTeacher, prompt: list[int], noise: Tensor, tau: float) -> list[int]:
    row = list(prompt)
    for u in noise:
        logits = teacher(torch.tensor([row]))[0, -1]
        row.append(int(invert(cdf(logits / tau), u[None])))
    return row[len(prompt) :]


def _pflm(student: Student, prompt: list[int], noise: Tensor, k: int, config: DecodeConfig) -> list[int]:
    row, counts = list(prompt), torch.zeros(student.config.vocab_size)
    for u in noise.split(k):
        logits = student(torch.tensor([row]), u[None], KVCache(), config.tau, also=1)[0]
        for j, slot in enumerate(logits[1:]):
            if config.exact_first and j == 0:
                token = int(invert(cdf(logits[0] / config.tau), u[:1]))
            elif config.dither is not None:
                token = int(invert(cdf(slot), torch.frac(u[j : j + 1] * 2.0**config.dither)))
            else:
                token = int((slot - config.penalty * counts).argmax())
            row.append(token)
            counts[token] += 1
    return row[len(prompt) :]


def _mdlm(masked: MaskedModel, prompt: list[int], noise: Tensor, k: int, ranks: Floats | None) -> list[int]:
    mask_id = masked.config.mask_id
    new = [mask_id] * len(noise)
    while mask_id in new:
        laws = masked(torch.tensor([[*prompt, *new]]))[0, len(prompt) :].double().softmax(dim=-1)
        still = [p for p, token in enumerate(new) if token == mask_id]
        drawn = {p: int(invert(laws[p].cumsum(0), noise[p : p + 1])) for p in still}
        by_rank = sorted(still, key=lambda p: -float(laws[p, drawn[p]]) if ranks is None else float(ranks[p]))
        for p in by_rank[:k]:
            new[p] = drawn[p]
    return new
