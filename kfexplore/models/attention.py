"""The attention path of every model: queries over a list of key segments, and the cache that lists them.

A *segment* is a stretch of keys and values. If its batch G is a divisor of the batch B of the queries, row r reads the
keys of row r // (B / G), so a thousand noise vectors over one context share one copy of that context's keys. The same
path serves a prompt, a decoding step, a sweep over noise and the training pass (one group of noise slots per position),
whose cost is linear in the number of slots, since groups never attend to each other.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from kfexplore.models.fast_paths import FLEX, difference
from kfexplore.models.kernels import Segment, attend_ends, attend_groups, flash_usable


def attend(q: Tensor, segments: list[Segment], softcap: float | None = None) -> Tensor:
    """Softmax attention of q (B, h, t, d) over the keys of all segments together; (B, h, t, d).

    The slow twin is `attend_reference`. With `softcap` each score s becomes softcap * tanh(s / softcap).
    """
    if softcap is None and len(segments) == 1 and segments[0].k.shape[0] == q.shape[0]:
        only = segments[0]
        if only.ends is not None and flash_usable(q):
            return attend_ends(q, only.k, only.v, only.ends)
        if only.causal and only.k.shape[2] == q.shape[2]:
            return F.scaled_dot_product_attention(q, only.k, only.v, is_causal=True)
        hidden = only.hidden(q.shape[2]) if only.mask is None else None
        mask = only.mask if hidden is None else ~hidden
        return F.scaled_dot_product_attention(q, only.k, only.v, attn_mask=mask)
    groups = softcap is None and len(segments) == 2 and segments[0].visible is not None
    if groups and _flex_takes(q) and FLEX.works_for(q, lambda: _flex_difference(q)):
        return attend_groups(q, segments[0], segments[1])
    q = q * q.shape[-1] ** -0.5
    scores = []
    for s in segments:
        score = _per_group(q, s.k.transpose(2, 3))
        score = score if softcap is None else softcap * (score / softcap).tanh()
        hidden = s.hidden(q.shape[2])
        scores.append(score if hidden is None else score.masked_fill(hidden, float("-inf")))
    weights = torch.cat(scores, dim=-1).softmax(dim=-1).split([s.k.shape[2] for s in segments], dim=-1)
    out = _per_group(weights[0], segments[0].v)
    for w, s in zip(weights[1:], segments[1:], strict=True):
        out = out + _per_group(w, s.v)
    return out


def _flex_takes(q: Tensor) -> bool:
    return q.is_cuda and torch.is_grad_enabled()


def _flex_difference(like: Tensor) -> str:
    """How FlexAttention and its gradient differ from `attend_reference` on four small groups over two prefixes."""
    shapes = ((4, 2, 3, like.shape[-1]), *[(2, 2, 5, like.shape[-1])] * 2, *[(4, 2, 4, like.shape[-1])] * 2)
    seen, results = torch.tensor([1, 5, 3, 2], device=like.device), []
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(like.device.type, enabled=False):
        for attention in (lambda q, parts: attend_groups(q, *parts), attend_reference):
            given = [
                (torch.arange(n, n + math.prod(shape), device=like.device).sin().to(like.dtype)).view(shape)
                for n, shape in enumerate(shapes)
            ]
            q, k, v, own_k, own_v = (each.requires_grad_(True) for each in given)
            out = attention(q, [Segment(k, v, visible=seen), Segment(own_k, own_v, causal=True)])
            results.append([out.detach(), *torch.autograd.grad(out.square().sum(), given)])
    return difference(*results)


def _per_group(rows: Tensor, shared: Tensor) -> Tensor:
    """Matrix products of rows (B, h, t, a) with shared (G, h, a, b), B = G * m, without copying the shared side."""
    batch, heads, t, a = rows.shape
    groups = shared.shape[0]
    if groups == batch:
        return rows @ shared
    folded = rows.view(groups, batch // groups, heads, t, a).transpose(1, 2).reshape(groups, heads, -1, a)
    out = (folded @ shared).view(groups, heads, batch // groups, t, -1)
    return out.transpose(1, 2).reshape(batch, heads, t, -1)


def attend_reference(q: Tensor, segments: list[Segment]) -> Tensor:
    """`attend` without softcap, written plainly: keys are copied to every row, concatenated and masked."""
    batch, t = q.shape[0], q.shape[2]
    k = torch.cat([s.k.repeat_interleave(batch // s.k.shape[0], 0) for s in segments], dim=2)
    v = torch.cat([s.v.repeat_interleave(batch // s.v.shape[0], 0) for s in segments], dim=2)
    masks = []
    for s in segments:
        hidden, shape = s.hidden(t), (batch, 1, t, s.k.shape[2])
        masks.append(torch.zeros(shape, dtype=torch.bool, device=q.device) if hidden is None else hidden.expand(shape))
    scores = (q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5
    return scores.masked_fill(torch.cat(masks, dim=-1), float("-inf")).softmax(dim=-1) @ v


class Cache(Protocol):
    """Interface of a cache, from which a pass reads earlier keys and to which it writes its own."""

    def positions(self, count: int, device: torch.device) -> Tensor:
        """Positions (1 or B, count) of the next tokens."""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> list[Segment]:
        """Adds the pass's keys and values (B, h, t, d); returns all segments that its queries may see."""

    def commit(self, count: int) -> None:
        """Keeps the first `count` tokens of the pass."""


class KVCache:
    """Keys and values by layer: those of the kept tokens, then those of the current pass.

    A forward pass writes all its tokens and then keeps the first few (`commit`): the keys of noise slots are read
    within their block and overwritten by the next. `branch` starts rows that share this cache as their prefix.

    Args:
        prefix: The cache whose keys precede those of this one. Its batch G is a divisor of this one's batch.
        visible: (B,) int64, how many tokens of the prefix each row sees; None: all. Positions continue from there.
        alone: Each token of this cache sees the prefix and itself, but no other token of this cache.
    """

    def __init__(self, prefix: KVCache | None = None, visible: Tensor | None = None, alone: bool = False) -> None:
        self.prefix, self.visible, self.alone = prefix, visible, alone
        self.length = 0
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._memo: dict[str, Any] = {}
        self._again = False

    def positions(self, count: int, device: torch.device) -> Tensor:
        """Positions of the next `count` tokens: (1, count), or (B, count) if rows see different prefixes."""
        steps = torch.arange(self.length, self.length + count, device=device)[None]
        if self.visible is not None:
            return self.visible[:, None] + steps
        return steps + (self.prefix.length if self.prefix is not None else 0)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> list[Segment]:
        """Appends keys and values (B, h, t, d) to the kept ones, in new tensors: writing in place breaks the gradient.

        Returns:
            All segments the queries may see.
        """
        if layer == len(self._layers):
            self._layers.append((k, v))
        elif self.length:
            all_k, all_v = self._layers[layer]
            k = torch.cat([all_k[:, :, : self.length], k], dim=2)
            v = torch.cat([all_v[:, :, : self.length], v], dim=2)
        if not self._again:
            self._layers[layer] = (k, v)
        own = Segment(k, v, causal=not self.alone, alone=self.alone)
        return [own] if self.prefix is None else [self.prefix.as_segment(layer, self.visible, self._memo), own]

    def as_segment(self, layer: int, visible: Tensor | None, memo: dict[str, Any]) -> Segment:
        """The kept tokens of one layer as a prefix."""
        k, v = self._layers[layer]
        return Segment(k[:, :, : self.length], v[:, :, : self.length], visible=visible, memo=memo)

    def commit(self, count: int) -> None:
        """Keeps the first `count` tokens of the last forward pass."""
        self.length += count
        self._memo = {}

    def branch(self, visible: Tensor | None = None, alone: bool = False) -> KVCache:
        """An empty cache whose rows (any multiple of this batch) continue this one."""
        if self.prefix is not None:
            raise ValueError("a branch cannot branch again")
        return KVCache(self, visible, alone)

    def for_recomputing(self) -> KVCache:
        """A view of this empty cache for a pass with checkpointing: layers that backward runs again store nothing.

        Keys and values of the pass itself are stored in both.
        """
        seen = copy.copy(self)
        seen._again = True
        return seen

    def select(self, rows: Tensor) -> KVCache:
        """Selects rows (R,) of a branch, in any order, with repetition: copies their tokens, not the shared prefix."""
        if self.prefix is None or self.prefix._layers[0][0].shape[0] != 1:
            raise ValueError("only rows over one shared prefix can be selected")
        chosen = KVCache(self.prefix, None if self.visible is None else self.visible[rows])
        chosen.length = self.length
        chosen._layers = [(k[rows, :, : self.length], v[rows, :, : self.length]) for k, v in self._layers]
        return chosen

    @staticmethod
    def join(parts: list[KVCache]) -> KVCache:
        """Joins the rows of several branches that see all of one prefix into one branch."""
        if any(part.visible is not None or part.prefix is not parts[0].prefix for part in parts):
            raise ValueError("only branches that see the whole of one prefix can be joined")
        whole = KVCache(parts[0].prefix)
        whole.length = parts[0].length
        layers = zip(*(part._layers for part in parts), strict=True)
        whole._layers = [(torch.cat([k for k, _ in rows]), torch.cat([v for _, v in rows])) for rows in layers]
        return whole
