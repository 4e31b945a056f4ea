"""Masked diffusion decoding (MDLM): each pass fills k of the open positions, each from its own marginal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from kfexplore.decoding.buffers import PREFILLED, DecodeBatch, Step
from kfexplore.decoding.cdf import cdf, choose, invert
from kfexplore.errors import KfError
from kfexplore.models import MaskedModel

ENTRIES_AT_ONCE = 2**24
"""Maximum number of float64 probabilities in memory at once."""


@torch.inference_mode()
def steps(batch: DecodeBatch) -> Iterator[Step]:
    """k positions per step, until all new ones are filled; bidirectional, so nothing is cached.

    Tokens are drawn from their marginals by inverse CDF in float64. In random order, position p is drawn once, in the
    pass that fills it, with noise value p. In confident order, every pass draws a token for each open position with
    that pass's noise, and keeps the k most likely under their own marginals. With one noise value per position for all
    passes, a rejected token would be drawn again until it is accepted: a different sampler, with a higher loss.

    Rows whose prompts differ in length take separate passes: a masked model would see any padding.
    """
    (masked,), sequences, noise, k = batch.models, batch.sequences, batch.noise, batch.k
    size, new = noise.shape[0], noise.shape[-1]
    mask_id, device = masked.config.mask_id, masked.device
    filled = torch.full((size, new), mask_id, device=device)
    ranks = np.zeros((size, new)) if batch.order is None else batch.order
    order = torch.from_numpy(np.argsort(ranks, axis=1, kind="stable")).to(device)
    alike = [torch.from_numpy(np.flatnonzero(sequences.ends == n)).to(device) for n in np.unique(sequences.ends)]
    yield PREFILLED
    for first in range(0, new, k):
        filling = min(k, new - first)
        u = noise[:, first // k] if batch.config.draws_anew else noise
        places = torch.empty(size, filling, dtype=torch.int64, device=device)
        tokens = torch.empty_like(places)
        for group in alike:
            prompts = sequences.ids[group, : int(sequences.ends[int(group[0])])]
            whole = torch.cat([prompts, filled[group]], dim=1)
            if not batch.config.draws_anew:
                where = order[group, first : first + filling]
                chosen, _ = _draws(masked, whole, prompts.shape[1] + where, u[group].gather(1, where))
            else:
                still = (filled[group] == mask_id).nonzero()[:, 1].view(len(group), -1)
                drawn, likely = _draws(masked, whole, prompts.shape[1] + still, u[group].gather(1, still))
                best = likely.argsort(dim=1, descending=True, stable=True)[:, :filling]
                where, chosen = still.gather(1, best), drawn.gather(1, best)
            places[group], tokens[group] = where, chosen
        filled.scatter_(1, places, tokens)
        yield Step(tokens, places=places)


def _draws(masked: MaskedModel, ids: Tensor, at: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens at positions `at` (R, m) of rows ids (R, N) for noise u (R, m), and their probabilities.

    Raises:
        KfError: the logits overflow, which weights that are finite but too large can cause.
    """
    hidden = masked.hidden(ids).gather(1, at[..., None].expand(-1, -1, masked.config.width))
    tokens, likely = [], []
    tile = max(1, ENTRIES_AT_ONCE // masked.config.vocab_size)
    for part, values in zip(hidden.flatten(0, 1).split(tile), u.flatten().split(tile), strict=True):
        cumulative = cdf(masked.read(part[None])[0])
        if bool(cumulative[:, -1].isnan().any()):
            raise KfError("The masked model's logits are not finite.", "undamaged weights")
        token, _ = choose(cumulative, values[:, None])
        below = cumulative.gather(1, (token - 1).clamp_min(0)) * (token > 0)
        tokens.append(token[:, 0])
        likely.append((cumulative.gather(1, token) - below)[:, 0])
    return torch.cat(tokens).view_as(at), torch.cat(likely).view_as(u)


def reference(batch: DecodeBatch) -> list[int]:
    """The slow twin."""
    (masked,), noise, prompt = batch.models, batch.noise[0], batch.sequences.row(0)[0].tolist()
    anew, mask_id = batch.config.draws_anew, masked.config.mask_id
    new = [mask_id] * noise.shape[-1]
    ranks = np.zeros(len(new)) if batch.order is None else batch.order[0]
    for step in range(-(-len(new) // batch.k)):
        u = noise[step] if anew else noise
        marginals = masked(torch.tensor([[*prompt, *new]]))[0, len(prompt) :].double().softmax(dim=-1)
        still = [p for p, token in enumerate(new) if token == mask_id]
        drawn = {p: int(invert(marginals[p].cumsum(0), u[p : p + 1])) for p in still}
        for p in sorted(still, key=lambda p: -float(marginals[p, drawn[p]]) if anew else float(ranks[p]))[: batch.k]:
            new[p] = drawn[p]
    return new
