"""Masked diffusion decoding (MDLM): all positions at once, K of them filled in a pass, each from its own marginal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from kfexplore.decoding.cdf import cdf, choose
from kfexplore.decoding.rows import PREFILLED, Step
from kfexplore.decoding.work import DecodeBatch
from kfexplore.errors import KfError
from kfexplore.models import MaskedModel

ENTRIES_AT_ONCE = 2**24
"""Probabilities in float64 held at once."""


@torch.inference_mode()
def mdlm_steps(work: DecodeBatch) -> Iterator[Step]:
    """k positions a step, until all new ones are filled; bidirectional, so nothing is cached.

    Tokens are drawn from their marginals by inverse CDF in float64. In random order a position is drawn once, in the
    pass that fills it, by noise p. In confident order every pass draws a token for each open position, by noise of that
    pass, and keeps the k that are the most likely under their own marginals. With one noise value per position for all
    passes, a rejected token would come again until it is accepted: another sampler, with a higher loss.

    Rows whose prompts differ in length are passed through the network apart: a masked model has no filling that it
    would not see.
    """
    (masked,), rows, noise, k = work.models, work.rows, work.noise, work.k
    batch, new = noise.shape[0], noise.shape[-1]
    mask_id, device = masked.config.mask_id, masked.device
    filled = torch.full((batch, new), mask_id, device=device)
    ranks = np.zeros((batch, new)) if work.order is None else work.order
    order = torch.from_numpy(np.argsort(ranks, axis=1, kind="stable")).to(device)
    alike = [torch.from_numpy(np.flatnonzero(rows.ends == n)).to(device) for n in np.unique(rows.ends)]
    yield PREFILLED
    for first in range(0, new, k):
        size = min(k, new - first)
        u = noise[:, first // k] if work.config.draws_anew else noise
        places = torch.empty(batch, size, dtype=torch.int64, device=device)
        tokens = torch.empty_like(places)
        for group in alike:
            prompts = rows.ids[group, : int(rows.ends[int(group[0])])]
            whole = torch.cat([prompts, filled[group]], dim=1)
            if not work.config.draws_anew:
                where = order[group, first : first + size]
                chosen, _ = _draws(masked, whole, prompts.shape[1] + where, u[group].gather(1, where))
            else:
                still = (filled[group] == mask_id).nonzero()[:, 1].view(len(group), -1)
                drawn, likely = _draws(masked, whole, prompts.shape[1] + still, u[group].gather(1, still))
                best = likely.argsort(dim=1, descending=True, stable=True)[:, :size]
                where, chosen = still.gather(1, best), drawn.gather(1, best)
            places[group], tokens[group] = where, chosen
        filled.scatter_(1, places, tokens)
        yield Step(tokens, places=places)


def _draws(masked: MaskedModel, ids: Tensor, at: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of positions `at` (R, m) of rows ids (R, N) by noise u (R, m), and their probabilities.

    Raises:
        KfError: there are none: weights can be finite and too large.
    """
    hidden = masked.hidden(ids).gather(1, at[..., None].expand(-1, -1, masked.config.width))
    tokens, likely = [], []
    tile = max(1, ENTRIES_AT_ONCE // masked.config.vocab_size)
    for part, values in zip(hidden.flatten(0, 1).split(tile), u.flatten().split(tile), strict=True):
        law = cdf(masked.read(part[None])[0])
        if bool(law[:, -1].isnan().any()):
            raise KfError("The masked model's logits are not finite.", "sound weights")
        token, _ = choose(law, values[:, None])
        below = law.gather(1, (token - 1).clamp_min(0)) * (token > 0)
        tokens.append(token[:, 0])
        likely.append((law.gather(1, token) - below)[:, 0])
    return torch.cat(tokens).view_as(at), torch.cat(likely).view_as(u)
