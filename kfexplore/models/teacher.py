"""The autoregressive teacher: tokens in, the distribution of the next token out."""

from __future__ import annotations

from torch import Tensor

from kfexplore.models.attention import Cache, KVCache
from kfexplore.models.layers import Backbone

MASK_LOGIT = -1000.0
"""Logit of the mask token, which is never produced (value of the published code)."""


class Teacher(Backbone):
    """Causal language model."""

    def forward(self, ids: Tensor, cache: Cache | None = None, read: int | None = None) -> Tensor:
        """Next-token logits float32 after the last `read` of ids (B, T), all by default: (B, read or T, V).

        The cache, where one is given, comes before ids and keeps them.
        """
        return self.read(self.run_blocks(self.vocab_embed(ids), cache or KVCache(), keep=ids.shape[1], read=read))

    def read(self, hidden: Tensor) -> Tensor:
        """Next-token logits float32 (B, T, V) of hidden states (B, T, H)."""
        logits = self.output_layer(hidden)
        logits[..., self.config.mask_id] = MASK_LOGIT
        return logits

    def log_probs(self, ids: Tensor) -> Tensor:
        """Natural-log distribution of the next token at every position: ids (B, N) int64 -> (B, N, V) float32."""
        return self(ids).log_softmax(dim=-1)
