"""The training pass of many noise groups as one FlexAttention call: blocks of keys that nobody may see are skipped.

The kernel's cost grows with the keys that are seen, O(k) in the slots of a group, and it holds no matrix of scores.
`attend` uses it on CUDA devices for groups of rows over shared prefixes; elsewhere FlexAttention has no gradient. The
slow twin is `attend_reference`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

if TYPE_CHECKING:
    from kfexplore.models.attention import Segment


def attend_groups(q: Tensor, prefix: Segment, own: Segment, compiled: bool = True) -> Tensor:
    """Softmax attention of groups over a shared prefix each sees the start of, and over their own keys.

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
    kernel: Any = _kernel() if compiled else flex_attention
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

    make: Any = _masker() if q.is_cuda else create_block_mask
    mask: BlockMask = make(seen, contexts, None, groups * queries, length + groups * count, device=str(q.device))
    return mask


@functools.cache
def _masker() -> Any:
    return torch.compile(create_block_mask)  # as it is, it holds the whole mask of queries by keys


@functools.cache
def _kernel() -> Any:
    return torch.compile(flex_attention, dynamic=False)
