"""The masked diffusion model (MDLM): a bidirectional backbone that fills mask tokens, each from its own marginal."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kfexplore.config import ModelConfig
from kfexplore.models.layers import Backbone

SIGMA_FEATURES = 256


class SigmaMap(nn.Module):
    """Noise level sigma (B,) to conditioning (B, C); f_i = 10000^(-i / 128), cos then sin of sigma f_i."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(SIGMA_FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma: Tensor) -> Tensor:
        half = SIGMA_FEATURES // 2
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, device=sigma.device) / half)
        angles = sigma[:, None].float() * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(next(self.parameters()).dtype))


class MaskedModel(Backbone):
    """Bidirectional, conditioned on sigma = 0 at inference."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.sigma_map = SigmaMap(config.cond_width)

    def forward(self, ids: Tensor, read: int | None = None) -> Tensor:
        """Logits float32 for partly masked ids (B, N), the mask token's at -1e6: (B, N, V), or the last `read` of N."""
        hidden = self.hidden(ids)
        return self.read(hidden if read is None else hidden[:, -read:])

    def hidden(self, ids: Tensor) -> Tensor:
        """Hidden states (B, N, H) of partly masked ids (B, N)."""
        return self.run_blocks(self.vocab_embed(ids), None, cond=self._condition(len(ids)))

    def read(self, hidden: Tensor) -> Tensor:
        """Logits float32 (B, T, V) of hidden states (B, T, H), the mask token's at -1e6."""
        logits = self.output_layer(hidden, self._condition(len(hidden)))
        logits[..., self.config.mask_id] = -1e6
        return logits

    def _condition(self, batch: int) -> Tensor:
        """(B, C) at sigma = 0."""
        return nn.functional.silu(self.sigma_map(torch.zeros(batch, device=self.device)))

    def log_probs(self, ids: Tensor) -> Tensor:
        """Natural-log marginals at every position: ids (B, N) int64 -> (B, N, V) float32.

        Only masked positions are meant to be read; the others are as the network gives them.
        """
        return self(ids).log_softmax(dim=-1)
