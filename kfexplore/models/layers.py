"""The Transformer of teacher, student and masked model (METHOD: pre-norm, rotary, untied head).

Parameter names are those of the published checkpoints; B batch, T tokens, H width, h heads, d head width, V rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import call
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kfexplore.cancel import PASSES
from kfexplore.config import ModelConfig
from kfexplore.models.attention import Cache, KVCache, attend
from kfexplore.models.kernels import Segment
from kfexplore.models.onednn_linear import Linear
from kfexplore.models.static_cache import StaticCache

MASK_LOGIT = -1000.0
"""Logit of the mask token, which is never produced (value of the published code)."""


class Embedding(nn.Module):
    """Token vectors; the parameter is called `embedding` as in the published layout."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(rows, width) * 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.embedding)


class Rotary(nn.Module):
    """Rotary position embedding, base 10000, rotate-half, over the whole head width."""

    inv_freq: Tensor

    def __init__(self, head_width: int) -> None:
        super().__init__()
        exponents = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
        self.register_buffer("inv_freq", 10000.0**-exponents)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines (1 or B, T, 1, 1, d) of positions (1 or B, T), float32."""
        angles = positions[:, :, None, None, None].float() * self.inv_freq.float()
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates each pair (x_i, x_{i + d/2}) of x (B, T, n, h, d) by its angle."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat([second, first], dim=-1), sin).to(x.dtype)


class Block(nn.Module):
    """Pre-norm attention and MLP. With `cond_width`, shift, scale and gate come from the conditioning (adaLN)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.attn_qkv = Linear(width, 3 * width, bias=False)
        self.attn_out = Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.mlp = nn.ModuleDict({"0": Linear(width, 4 * width), "2": Linear(4 * width, width)})
        if config.cond_width:
            self.adaLN_modulation = Linear(config.cond_width, 6 * width)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        layer: int,
        cache: Cache | None,
        cond: Tensor | None,
    ) -> Tensor:
        """x (B, T, H) -> (B, T, H); causal through `cache`, bidirectional without one."""
        if cond is None:
            x = self.attn_out(self._attention(self.norm1(x), angles, layer, cache), add=x)
            return self._mlp(self.norm2(x), add=x)
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(cond)[:, None].chunk(6, dim=-1)
        heads = self._attention(self.norm1(x) * (1 + scale1) + shift1, angles, layer, cache)
        x = x + gate1 * self.attn_out(heads)
        return x + gate2 * self._mlp(self.norm2(x) * (1 + scale2) + shift2)

    def _mlp(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        out: Tensor = self.mlp["2"](self.mlp["0"](x, gelu=True), add=add)
        return out

    def _attention(self, x: Tensor, angles: tuple[Tensor, Tensor], layer: int, cache: Cache | None) -> Tensor:
        batch, count, width = x.shape
        qkv = self.attn_qkv(x).view(batch, count, 3, self.heads, -1)
        turned = rotate(qkv[:, :, :2], *angles)
        q, k, v = (part.transpose(1, 2) for part in (turned[:, :, 0], turned[:, :, 1], qkv[:, :, 2]))
        segments = [Segment(k, v)] if cache is None else cache.extend(layer, k, v)
        return attend(q, segments).transpose(1, 2).reshape(batch, count, width)


class OutputLayer(nn.Module):
    """Final norm and untied head with a learned bias."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(config.width, bias=False)
        self.linear = Linear(config.width, config.vocab_size)
        if config.cond_width:
            self.adaLN_modulation = Linear(config.cond_width, 2 * config.width)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """(B, T, H) -> logits (B, T, V) in float32."""
        x = self.norm_final(x)
        if cond is not None:
            shift, scale = self.adaLN_modulation(cond)[:, None].chunk(2, dim=-1)
            x = x * (1 + scale) + shift
        return self.linear(x).float()


class Network(nn.Module):
    """Common interface for maps, decoders and training: embedded tokens, hidden states over a cache, logits."""

    config: Any
    """`ModelConfig`, or `CausalConfig` for a transformers model."""
    blocks: Any
    """The Transformer blocks, a `nn.ModuleList`."""
    recompute = False
    """Gradient checkpointing: backward recomputes each block's activations. For passes over an empty cache."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with PASSES.get()():
            return super().__call__(*args, **kwargs)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def embed(self, ids: Tensor) -> Tensor:
        """Input vectors (B, T, H) of tokens (B, T)."""
        raise NotImplementedError

    def run_blocks(self, x: Tensor, cache: Cache, keep: int = 0, *, read: int | None = None) -> Tensor:
        """Hidden states of embedded tokens x (B, T, H): (B, read or T, H).

        Args:
            x: Embedded tokens that follow those in `cache`.
            cache: Read and extended.
            keep: How many of the T tokens the cache keeps afterwards.
            read: How many of the last tokens to return; None: all.
        """
        raise NotImplementedError

    def read(self, hidden: Tensor) -> Tensor:
        """Logits float32 (B, T, V) of hidden states (B, T, H)."""
        raise NotImplementedError

    def prefill(self, ids: Tensor) -> KVCache:
        """The cache of contexts ids (B, N); skips the head."""
        cache = KVCache()
        self.fill(ids, cache)
        return cache

    def fill(self, ids: Tensor, cache: Cache) -> None:
        """Adds ids (B, N) to a cache, which keeps them; skips the head."""
        self.run_blocks(self.embed(ids), cache, keep=ids.shape[1])


class Backbone(Network):
    """Embedding, blocks and head of all three kinds of models in the published layout."""

    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_embed = Embedding(config.vocab_size, config.width)
        self.rotary_emb = Rotary(config.width // config.heads)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.output_layer = OutputLayer(config)

    def embed(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.vocab_embed(ids)
        return vectors

    def read(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.output_layer(hidden)
        logits[..., self.config.mask_id] = MASK_LOGIT
        return logits

    def run_blocks(
        self, x: Tensor, cache: Cache | None, keep: int = 0, *, read: int | None = None, cond: Tensor | None = None
    ) -> Tensor:
        """As `Network.run_blocks`; without a cache, attention is bidirectional over x alone.

        `cond` (B, C) is the conditioning of the masked model.
        """
        count = x.shape[1]
        read = count if read is None else read
        if isinstance(cache, StaticCache) and cache.blocks is not None:
            return cache.blocks(x, cache, read)
        angles = self.rotary_emb((cache or KVCache()).positions(count, x.device))
        seen, run = cache, cast(Callable[..., Any], call)
        if self.recompute and torch.is_grad_enabled():
            seen = cache.for_recomputing() if isinstance(cache, KVCache) else cache
            run = partial(checkpoint, use_reentrant=False)
        for layer, block in enumerate(self.blocks):
            x = run(block, x, angles, layer, seen, cond)
        if cache is not None:
            cache.commit(keep)
        return x[:, count - read :]
