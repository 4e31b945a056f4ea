"""A prefilled context and both maps after it: noise vectors in, exact and learned tokens out.

Both maps are evaluated slot by slot over a tree. Slot j of the exact map depends on the context and the tokens before
it, so each distinct token prefix is evaluated once; slot j of the learned map depends on the noise up to j, so each
distinct noise prefix is evaluated once (causality), and all slots up to the next branching in one pass. A sweep or a
grid is then just a list of noise vectors.

A map must not depend on the batch in which it is computed, yet floating point does, by some 1e-5 in a logit. Near ties
are rechecked by a pass over a single noise vector, whose shape is always the same.

Neither prefill depends on the temperature, so one context serves all temperatures: the exact map divides the teacher's
logits by it, and the student reads it together with the noise.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

from kfexplore.decoding.cdf import cdf, choose
from kfexplore.decoding.readout import MAPS, NearTie
from kfexplore.models import AnyStudent, AnyTeacher, KVCache
from kfexplore.results import Floats, Ints, Learned

TILE = 1024
"""Maximum number of tokens or noise slots evaluated at once."""
TILE_ENTRIES = 2**24
"""Maximum number of float64 probabilities in memory at once."""
TILE_LOGITS = 2**26
"""Maximum number of student logits in memory at once."""
REMEMBERED = 64
"""Single prefixes whose logits are kept; the least recently used is dropped first."""
EXACT_SLOTS = 8
"""Largest block without a student; the exact map itself has no limit."""

Tokens = tuple[int, ...]


def block_limit(student: AnyStudent | None) -> int:
    """The largest k: the student's trained block, or `EXACT_SLOTS` without a student."""
    return EXACT_SLOTS if student is None else student.config.block


class PrefilledContext:
    """Keys and values of one context under teacher and student, read by any number of noise vectors.

    Args:
        teacher: The teacher.
        student: The student, with the same vocabulary; None: there is no learned map.
        ids: (N,) int64 context, N >= 1.
        near: Distances below which a choice is a near tie.
    """

    @torch.inference_mode()
    def __init__(self, teacher: AnyTeacher, student: AnyStudent | None, ids: Tensor, near: NearTie = MAPS) -> None:
        self.teacher, self.student, self.ids, self.near = teacher, student, ids, near
        self._cache = KVCache()
        self.logits = teacher(ids[None].to(teacher.device), self._cache, read=1)[0, 0]
        """(V,) of the token after the context."""
        self._read: OrderedDict[Tokens, tuple[Tensor, KVCache]] = OrderedDict()
        self._lock = threading.RLock()  # for _read: the app computes sweeps and points concurrently
        self._learned = _LearnedMap(student, ids) if student is not None else None
        self.k_max = block_limit(student)

    @torch.inference_mode()
    def exact(self, u: Floats, temperature: float = 1.0) -> tuple[Ints, Floats]:
        """G*: noise (R, k) -> tokens (R, k) and the distance (R, k) of u from the nearer edge of its cell."""
        noise = torch.from_numpy(np.ascontiguousarray(u)).to(self.teacher.device)
        if len(u) == 1:
            chosen, edge = self._exact_alone(noise[0], temperature)
            return chosen[None].cpu().numpy(), edge[None].cpu().numpy()
        tokens = torch.empty(noise.shape, dtype=torch.int64, device=noise.device)
        edges = torch.empty_like(noise)
        prefixes = tokens.new_empty((1, 0))
        node = tokens.new_zeros(len(u))  # the distinct prefix that each row has reached
        branch, near = self._cache.branch(), self.near.edge_at(temperature)
        rows = max(1, min(TILE, TILE_ENTRIES // len(self.logits)))
        for j in range(noise.shape[1]):
            members = _members(node, len(prefixes))
            branches = []
            for tile in torch.arange(len(prefixes), device=node.device).split(rows):
                if len(prefixes) == 1:
                    logits, grown = self._after(tuple(prefixes[0].tolist()))
                    logits = logits[None]
                else:
                    grown = branch.select(tile)
                    logits = self.teacher(prefixes[tile, -1:], grown)[:, 0]
                cumulative = cdf(logits, temperature)
                if j + 1 < noise.shape[1]:
                    branches.append(grown)
                for n, own in zip(tile.tolist(), cumulative, strict=True):
                    at = members[n]
                    tokens[at, j], edges[at, j] = choose(own, noise[at, j])
                    if len(prefixes) > 1 and (edges[at, j] < near).any():
                        alone = self._after(tuple(prefixes[n].tolist()))[0]
                        tokens[at, j], edges[at, j] = choose(cdf(alone, temperature), noise[at, j])
            children, node = torch.unique(torch.stack([node, tokens[:, j]], 1), dim=0, return_inverse=True)
            prefixes = torch.cat([prefixes[children[:, 0]], children[:, 1:]], dim=1)
            if branches:
                branch = KVCache.join(branches).select(children[:, 0])
        return tokens.cpu().numpy(), edges.cpu().numpy()

    def learned(self, u: Floats, temperature: float = 1.0) -> Learned | None:
        """The student: noise (R, k) -> tokens and logit margins (R, k), by argmax without a frequency penalty."""
        return self._learned(u, temperature, self.near.margin) if self._learned is not None else None

    @torch.inference_mode()
    def logits_after(self, prefixes: Tensor, every: bool = False) -> Tensor:
        """The teacher's logits after the context and R prefixes (R, j): (R, V), or with `every` (R, j, V)."""
        logits: Tensor = self.teacher(prefixes, self._cache.branch(), read=None if every else 1)
        return logits if every else logits[:, 0]

    def _exact_alone(self, noise: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """One noise vector (k,), one token per pass: tokens (k,), edges (k,)."""
        prefix: Tokens = ()
        answers = []
        for u in noise.split(1):
            answers.append(choose(cdf(self._after(prefix)[0], temperature), u))
            prefix = (*prefix, int(answers[-1][0]))
        chosen, edge = (torch.cat(part) for part in zip(*answers, strict=True))
        return chosen, edge

    def _after(self, prefix: Tokens) -> tuple[Tensor, KVCache]:
        """Logits (V,) after the context and one prefix, read token by token in one row, and its branch."""
        if not prefix:
            return self.logits, self._cache.branch()
        with self._lock:
            if prefix not in self._read:
                first_row = torch.zeros(1, dtype=torch.int64, device=self.teacher.device)
                grown = self._after(prefix[:-1])[1].select(first_row)
                last = torch.tensor([prefix[-1:]], device=self.teacher.device)
                self._read[prefix] = self.teacher(last, grown)[0, 0], grown
                while len(self._read) > REMEMBERED:
                    self._read.popitem(last=False)
            self._read.move_to_end(prefix)
            return self._read[prefix]


class _LearnedMap:
    """The learned map after one context."""

    def __init__(self, student: AnyStudent, ids: Tensor) -> None:
        self.student = student
        self.cache = student.prefill(ids[None].to(student.device))

    @torch.inference_mode()
    def __call__(self, u: Floats, temperature: float, near: float) -> Learned:
        """Noise (R, k) -> tokens and logit margins (R, k)."""
        noise = torch.from_numpy(np.ascontiguousarray(u)).to(self.student.device)
        if len(u) == 1:
            chosen, margin = self._alone(noise[0], temperature)
            return Learned(chosen[None].cpu().numpy(), margin[None].cpu().numpy())
        tokens = torch.empty(noise.shape, dtype=torch.int64, device=noise.device)
        margins = torch.empty_like(noise)
        prefixes = noise.new_empty((1, 0))
        branch = self.cache.branch()
        slots = max(1, min(TILE, TILE_LOGITS // self.student.config.vocab_size))
        for parents, values, node in _tree(noise):
            first, stop = prefixes.shape[1], prefixes.shape[1] + values.shape[1]
            prefixes = torch.cat([prefixes[parents], values], dim=1)
            answers, branches = [], []
            for tile in torch.arange(len(prefixes), device=node.device).split(max(1, slots // (stop - first))):
                grown = branch.select(parents[tile])
                answers.append(_argmax(self.student(None, values[tile], grown, temperature, stop - first)))
                if stop < noise.shape[1]:
                    branches.append(grown)
            picked, gap = (torch.cat(part) for part in zip(*answers, strict=True))
            for n in (gap < near).any(dim=1).nonzero()[:, 0].tolist():
                alone = self._alone(prefixes[n], temperature)
                picked[n], gap[n] = alone[0][first:], alone[1][first:]
            tokens[:, first:stop], margins[:, first:stop] = picked[node], gap[node]
            if branches:
                branch = KVCache.join(branches)
        return Learned(tokens.cpu().numpy(), margins.cpu().numpy())

    def _alone(self, noise: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """One noise vector (k,) in one pass over all of the student's slots: tokens (k,), margins (k,)."""
        full = noise.new_full((1, self.student.config.block), 0.5)
        full[0, : len(noise)] = noise
        chosen, margin = _argmax(self.student(None, full, self.cache.branch(), temperature)[0])
        return chosen[: len(noise)], margin[: len(noise)]


def _tree(noise: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The distinct prefixes of noise vectors (R, k), in stretches of slots within which no prefix branches.

    Returns:
        For each stretch of s slots with n prefixes: the earlier prefix that each continues (n,), the values that it
        adds (n, s), and the prefix that each vector has reached (R,).
    """
    stretches: list[tuple[Tensor, Tensor, Tensor]] = []
    node = torch.zeros(len(noise), dtype=torch.int64, device=noise.device)
    for column in noise.split(1, dim=1):
        children, node = torch.unique(torch.cat([node[:, None].double(), column], 1), dim=0, return_inverse=True)
        parents, values = children[:, 0].long(), children[:, 1:]
        if stretches and len(stretches[-1][0]) == len(children):  # one child each, in the order of the parents
            parents, values = stretches[-1][0], torch.cat([stretches.pop()[1], values], dim=1)
        stretches.append((parents, values, node))
    return stretches


def _members(node: Tensor, count: int) -> tuple[Tensor, ...]:
    """The rows at each of `count` nodes."""
    return node.argsort(stable=True).split(torch.bincount(node, minlength=count).tolist())


def _argmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the largest logit of (..., V), and its gap to the second."""
    top = logits.topk(2, dim=-1)
    return top.indices[..., 0], (top.values[..., 0] - top.values[..., 1]).double()
