"""The blocks of a causal model for decoding on a CPU: the same arithmetic in as few operations as PyTorch allows.

At the bundled pair's size, the plain modules spend more time between matrix products than in them. Here all tokens form
one matrix, residual sums and GELU are fused with the products, and queries and keys are rotated in place: their
dimensions are reordered so that the halves of a pair are adjacent and a rotation is one complex product. Scores are
sums over dimensions, so their order has no effect. The slow twin is `Backbone.run_blocks`.
"""

from __future__ import annotations

import weakref
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from kfexplore.models.layers import Backbone, Block
from kfexplore.models.onednn_linear import SMALL, Linear, multiply, pack, version
from kfexplore.models.static_cache import StaticCache


def cpu_blocks(network: Backbone, allow_bf16: bool = False) -> CpuBlocks | None:
    """The blocks of a network; None unless it is in float32 on a CPU with oneDNN. Cached until its weights change.

    Args:
        network: A model of the published layout.
        allow_bf16: Use bf16 products if the CPU has instructions for them: for guesses that are checked, never a map.
    """
    weight = network.vocab_embed.embedding
    if network.device.type != "cpu" or weight.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return None
    bf16 = allow_bf16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    state = [version(parameter) for parameter in network.blocks.parameters()]
    prepared = _prepared.setdefault(network, {})
    if bf16 not in prepared or prepared[bf16][0] != state:
        prepared[bf16] = state, CpuBlocks(network, torch.bfloat16 if bf16 else torch.float32)
    return prepared[bf16][1]


class CpuBlocks:
    """All blocks of a network, called with embedded tokens and the static cache that was placed for them."""

    def __init__(self, network: Backbone, dtype: torch.dtype) -> None:
        self.heads = network.config.heads
        self.inv_freq = network.rotary_emb.inv_freq
        self.blocks = [_CpuBlock(cast(Block, block), dtype) for block in network.blocks]
        self._turns = torch.empty(0)

    def __call__(self, x: Tensor, cache: StaticCache, read: int) -> Tensor:
        """x (B, t, H) -> hidden states of the last tokens (B, read, H).

        The last block skips attention and MLP for the tokens before them.
        """
        batch, count, width = x.shape
        mask, first = cache.mask, 0
        if len(self._turns) < cache.capacity:
            angles = torch.arange(cache.capacity)[:, None].float() * self.inv_freq.float()
            self._turns = torch.polar(torch.ones_like(angles), angles)
        turns = cache.at(self._turns)[:, :, None, None]
        rows, shape = x.reshape(-1, width), (batch, count, 3, self.heads, width // self.heads)
        for layer, block in enumerate(self.blocks):
            qkv = block.qkv(torch.layer_norm(rows, (width,), block.norm1)).view(shape)
            pairs = torch.view_as_complex(qkv.view(*shape[:4], -1, 2)[:, :, :2])
            pairs.mul_(turns)
            k, v = cache.store(layer, qkv[:, :, 1:]).transpose(1, 3).unbind(2)
            if layer == len(self.blocks) - 1 and read < count:
                first = count - read
                mask = mask if mask is None else mask[:, :, first:]
                rows = rows.view(x.shape)[:, first:].reshape(-1, width)
            heads = F.scaled_dot_product_attention(qkv[:, first:, 0].transpose(1, 2), k, v, attn_mask=mask)
            rows = block.out(heads.transpose(1, 2).reshape(-1, width), add=rows)
            rows = block.down(block.up(torch.layer_norm(rows, (width,), block.norm2), gelu=True), add=rows)
        return rows.view(batch, count - first, width)


class _CpuBlock:
    """Packed weights of one block."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        self.norm1, self.norm2 = block.norm1.weight.detach(), block.norm2.weight.detach()
        width = block.attn_qkv.in_features
        halves = block.attn_qkv.weight.detach().view(3, block.heads, 2, -1, width)
        paired = halves.transpose(2, 3).clone()
        paired[2] = halves[2].reshape(paired[2].shape)
        self.qkv = _Product(paired.reshape(3 * width, width), None, dtype)
        self.out = _Product(block.attn_out.weight.detach(), None, dtype)
        up, down = cast(Linear, block.mlp["0"]), cast(Linear, block.mlp["2"])
        self.up = _Product(up.weight.detach(), up.bias, dtype)
        self.down = _Product(down.weight.detach(), down.bias, dtype)


class _Product:
    """x W' + b for rows x (n, in) float32; a single row uses small weights unpacked."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.packed, self.bias = pack(weight.to(dtype)), None if bias is None else bias.detach().to(dtype)
        self.plain = weight.t() if weight.numel() < SMALL and dtype == torch.float32 else None

    def __call__(self, x: Tensor, gelu: bool = False, add: Tensor | None = None) -> Tensor:
        if self.dtype != torch.float32:
            out = multiply(x.to(self.dtype), self.packed, self.bias, gelu).float()
            return out if add is None else add + out
        if self.plain is None or len(x) > 1:
            return multiply(x, self.packed, self.bias, gelu, add)
        if add is not None and self.bias is not None:
            add = add + self.bias
        base = self.bias if add is None else add
        out = torch.mm(x, self.plain) if base is None else torch.addmm(base, x, self.plain)
        return F.gelu(out, approximate="tanh") if gelu else out


_prepared: weakref.WeakKeyDictionary[Backbone, dict[bool, tuple[list[tuple[int, int]], CpuBlocks]]]
_prepared = weakref.WeakKeyDictionary()
