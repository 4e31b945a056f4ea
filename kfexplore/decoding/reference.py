"""The slow twins of all decoders: one sample at a time, no cache, every pass over the whole row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

from kfexplore.config import DecodeConfig
from kfexplore.decoders import DECODERS
from kfexplore.decoding.cdf import cdf, invert
from kfexplore.decoding.generate import Networks, needed_noise, slots
from kfexplore.models import KVCache
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
    # All exact decoders are ways to one text.
    twin = _exact if DECODERS[config.decoder].exact else TWINS[config.decoder]
    written = []
    for n, prompt in enumerate(prompts):
        u = torch.from_numpy(np.ascontiguousarray(noise[n, : needed_noise(config, networks, new_tokens)]))
        u = u.view(-1, new_tokens) if config.draws_anew else u
        ranks = np.zeros(new_tokens) if order is None else order[n]
        written.append(twin(config, networks, prompt, u, ranks)[:new_tokens])
    return np.array(written)


def _exact(config: DecodeConfig, networks: Networks, prompt: list[int], noise: Tensor, _: Floats) -> list[int]:
    assert networks.teacher is not None
    row = list(prompt)
    for u in noise:
        logits = networks.teacher(torch.tensor([row]))[0, -1]
        row.append(int(invert(cdf(logits / config.tau), u[None])))
    return row[len(prompt) :]


def _pflm(config: DecodeConfig, networks: Networks, prompt: list[int], noise: Tensor, _: Floats) -> list[int]:
    assert networks.student is not None
    row, counts = list(prompt), torch.zeros(networks.student.config.vocab_size)
    for u in noise.split(slots(config, networks)):
        logits = networks.student(torch.tensor([row]), u[None], KVCache(), config.tau, also=1)[0]
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


def _mdlm(config: DecodeConfig, networks: Networks, prompt: list[int], noise: Tensor, ranks: Floats) -> list[int]:
    assert networks.masked is not None
    mask_id = networks.masked.config.mask_id
    new = [mask_id] * noise.shape[-1]
    for step in range(-(-len(new) // slots(config, networks))):
        u = noise[step] if config.draws_anew else noise
        laws = networks.masked(torch.tensor([[*prompt, *new]]))[0, len(prompt) :].double().softmax(dim=-1)
        still = [p for p, token in enumerate(new) if token == mask_id]
        drawn = {p: int(invert(laws[p].cumsum(0), u[p : p + 1])) for p in still}
        by_rank = sorted(still, key=lambda p: -float(laws[p, drawn[p]]) if config.draws_anew else float(ranks[p]))
        for p in by_rank[: slots(config, networks)]:
            new[p] = drawn[p]
    return new


TWINS: Final[dict[str, Callable[[DecodeConfig, Networks, list[int], Tensor, Floats], list[int]]]] = {
    "pflm": _pflm,
    "mdlm": _mdlm,
}
"""Of each decoder that is not exact: tokens of one sample after its prompt; noise (P,) and ranks (P,) are its own."""
