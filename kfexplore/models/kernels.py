"""Attention kernels of CUDA devices, and the segments of keys and values they read.

- flash-attn for decoding, if it is installed and the models run in half precision. KFEXPLORE_ATTENTION=torch turns it
  off: PyTorch's own kernels then do the same with a mask, as they do everywhere else.
- FlexAttention for the training pass of many noise groups: blocks of keys that no query sees are skipped, so the cost
  is O(k) in the slots of a group and no score matrix is stored. FlexAttention has a gradient on CUDA only.

The first use for a device, dtype and head size is compared with the plain path (`kfexplore.models.fast_paths`).
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from kfexplore.models.fast_paths import ATTENTION_VARIABLE, FLASH, difference


class Segment:
    """Keys and values (G, h, n, d), and which of them each query sees.

    Args:
        k: Keys.
        v: Values.
        causal: Query i of t sees keys 0 .. n - t + i only (the queries are the last t of the n).
        visible: (B,) row r sees its first `visible[r]` keys only; None: all.
        alone: Query i of t sees key n - t + i only.
        memo: Values shared by all layers of a pass.
        mask: (1 or B, 1, t, n) bool, the keys that each query sees; None: given by the other arguments.
        ends: (1 or B,) int64, the end of each row, if the mask is exactly the causal one up to there.
    """

    def __init__(
        self,
        k: Tensor,
        v: Tensor,
        causal: bool = False,
        visible: Tensor | None = None,
        alone: bool = False,
        memo: dict[str, Any] | None = None,
        mask: Tensor | None = None,
        ends: Tensor | None = None,
    ) -> None:
        self.k, self.v, self.causal, self.visible, self.alone = k, v, causal, visible, alone
        self.mask, self.ends = mask, ends
        self.memo: dict[str, Any] = {} if memo is None else memo

    def hidden(self, queries: int) -> Tensor | None:
        """Keys that a query must not see: a bool mask that broadcasts to (B, 1, t, n), or None."""
        if self.mask is not None:
            return ~self.mask
        n = self.k.shape[2]
        keys = torch.arange(n, device=self.k.device)
        if self.visible is not None:
            return (keys >= self.visible[:, None])[:, None, None, :]
        if (self.causal or self.alone) and queries > 1:
            last = torch.arange(n - queries, n, device=self.k.device)[:, None]
            return (keys != last if self.alone else keys > last)[None, None]
        return None


def flash_usable(q: Tensor) -> bool:
    """Whether flash-attn supports these queries and agrees with PyTorch's own kernels."""
    return _flash_takes(q) and FLASH.works_for(q, lambda: _flash_difference(q))


def _flash_takes(q: Tensor) -> bool:
    return q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and _flash_attn() is not None


def _flash_difference(like: Tensor) -> str:
    """How flash-attn differs from PyTorch's kernels on two short rows, of the dtype and head size of `like`."""
    drawn = torch.arange(3 * 2 * 2 * 8 * like.shape[-1], device=like.device).sin().to(like.dtype)
    q, k, v = drawn.view(3, 2, 2, 8, -1).unbind()
    ends, q = torch.tensor([5, 8], device=like.device), q[:, :, :3]
    last = ends[:, None] - 3 + torch.arange(3, device=like.device)
    mask = (torch.arange(8, device=like.device) <= last[..., None])[:, None]
    return difference([attend_ends(q, k, v, ends)], [F.scaled_dot_product_attention(q, k, v, attn_mask=mask)])


def attend_ends(q: Tensor, k: Tensor, v: Tensor, ends: Tensor) -> Tensor:
    """Causal attention of the last t tokens of rows that end at different positions.

    Args:
        q: (B, h, t, d), at positions ends - t .. ends - 1.
        k: (B, h, n, d) keys at their positions.
        v: (B, h, n, d).
        ends: (1 or B,) int64.

    Returns:
        (B, h, t, d).
    """
    run = _flash_attn()
    assert run is not None
    lengths = ends.to(torch.int32).expand(q.shape[0]).contiguous()
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    out: Tensor = run(q, k, v, cache_seqlens=lengths, causal=True)
    return out.transpose(1, 2)


@functools.cache
def _flash_attn() -> Callable[..., Any] | None:
    if os.environ.get(ATTENTION_VARIABLE, "flash") != "flash":
        return None
    try:
        found: Callable[..., Any] = importlib.import_module("flash_attn").flash_attn_with_kvcache
    except (ImportError, AttributeError):
        return None
    return found


def attend_groups(q: Tensor, prefix: Segment, own: Segment, compiled: bool = True) -> Tensor:
    """Softmax attention of groups over the start of a shared prefix and over their own keys; see `attend_reference`.

    Args:
        q: (B * G, h, t, d), the last t of each group's n tokens.
        prefix: Keys (B, h, N, d), `visible` (B * G,).
        own: Keys (B * G, h, n, d), causal or alone.
        compiled: False runs the kernel's plain definition (a CPU can do that, without gradient).

    Returns:
        (B * G, h, t, d).
    """
    contexts, heads, _, width = prefix.k.shape
    groups = q.shape[0] // contexts

    def fold(x: Tensor) -> Tensor:
        """(B * G, h, m, d) -> (B, h, G * m, d)."""
        return x.unflatten(0, (contexts, groups)).transpose(1, 2).reshape(contexts, heads, -1, width)

    if "mask" not in prefix.memo:
        prefix.memo["mask"] = _mask(q, prefix, own)
    kernel: Any = _compiled_flex() if compiled else flex_attention
    keys = torch.cat([prefix.k, fold(own.k)], dim=2)
    values = torch.cat([prefix.v, fold(own.v)], dim=2)
    out = kernel(fold(q), keys, values, block_mask=prefix.memo["mask"])
    return out.unflatten(2, (groups, -1)).transpose(1, 2).flatten(0, 1)


def _mask(q: Tensor, prefix: Segment, own: Segment) -> BlockMask:
    contexts, length = prefix.k.shape[0], prefix.k.shape[2]
    queries, count = q.shape[2], own.k.shape[2]
    assert prefix.visible is not None
    visible = prefix.visible.view(contexts, -1)
    groups = visible.shape[1]

    def seen(b: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        group, place = query // queries, query % queries + count - queries
        other, at = (key - length) // count, (key - length) % count
        mine = (other == group) & ((at == place) if own.alone else (at <= place))
        return torch.where(key < length, key < visible[b, group], mine)

    make: Any = _compiled_masker() if q.is_cuda else create_block_mask
    mask: BlockMask = make(seen, contexts, None, groups * queries, length + groups * count, device=str(q.device))
    return mask


@functools.cache
def _compiled_masker() -> Any:
    return torch.compile(create_block_mask)  # uncompiled, it allocates the whole mask (queries x keys)


@functools.cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=False)
