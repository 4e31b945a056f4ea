"""Samplers of one block of k tokens after a context, with one signature: (seed, sample numbers) -> blocks (N, k).

Slot j in pass p reads noise at position p K + j of its sample, so the teacher, the student and every one-pass sampler
use the same noise, and a block depends neither on the number of other blocks nor on the batch. As in the maps, near
ties are rechecked by a pass over that row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kfexplore import noise
from kfexplore.decoding.cdf import choose, invert
from kfexplore.decoding.readout import SAMPLERS
from kfexplore.errors import KfError
from kfexplore.laws.exact import ENTRIES_AT_ONCE, TeacherTree
from kfexplore.models import MaskedModel
from kfexplore.pair import Pair
from kfexplore.results import Floats, Ints, needed_student

Order = Literal["random", "confident"]

LARGEST_BLOCK = 4
ORDER_NOISE = 32
"""First noise position for the order of unmasking."""
REFERENCE_NOISE = 64
"""First noise position of the teacher's blocks for means and quantiles, distinct from those of tested blocks."""
TOKENS_AT_ONCE = 2**13
"""Maximum number of tokens in one forward pass over many rows."""
LARGEST_WORK = 2e11
"""Maximum number of multiplications in a masked model's later passes on a CPU: about four seconds on two cores."""
FEWEST_BLOCKS, MOST_BLOCKS = 100, 2**17
"""Smallest and largest sample of a study."""


@dataclass(frozen=True)
class Sampler:
    """One way to draw a block."""

    name: str
    nfe: int
    """Forward passes per block."""
    draw: Callable[[int, range], Ints]
    """Seed and sample numbers -> (N, K) tokens."""
    marginals: Floats | None = None
    """(K, V) if its distribution is their product."""
    most: int | None = None
    """Largest number of blocks that takes a reasonable time; None: no limit."""


def block_samplers(pair: Pair, ids: list[int], k: int, tree: TeacherTree, ideal: Floats) -> list[Sampler]:
    """All samplers that the pair allows, the teacher first.

    Args:
        pair: Teacher, and optionally student and masked model.
        ids: The context.
        k: Slots, 2 .. 4 and no more than the pair's.
        tree: The context under the teacher; its temperature applies to teacher and student, not to the masked model.
        ideal: (K, V) the teacher's own marginals of the slots.
    """
    found = [Sampler("teacher", k, partial(teacher_blocks, tree, k))]
    if pair.student is not None:
        found.append(Sampler("student", 1, partial(student_blocks, tree, k)))
    found.append(Sampler("ideal MDLM", 1, partial(product_blocks, ideal), ideal))
    if (masked := pair.masked) is None:
        return found
    own = masked_marginals(masked, ids, k)
    found.append(Sampler("MDLM, 1 pass", 1, partial(product_blocks, own), own))
    orders: dict[Order, str] = {"random": "random order", "confident": "most confident first"}
    for passes in sorted({2, k}):
        for order, words in orders.items():
            draw = partial(masked_blocks, masked, ids, k, passes=passes, order=order)
            most = _most_blocks(masked, len(ids), own, passes)
            found.append(Sampler(f"MDLM, {passes} passes, {words}", passes, draw, most=most))
    return found


def _most_blocks(masked: MaskedModel, context: int, first: Floats, passes: int) -> int | None:
    """Largest number of blocks whose later passes, over distinct rows, stay within `LARGEST_WORK`; None: no limit.

    `first` are the distributions (K, V) of the first pass: with two slots it fills in one token, so rows repeat.
    """
    if masked.device.type != "cpu":
        return None
    per_token = sum(p.numel() for block in masked.blocks for name, p in block.named_parameters() if "adaLN" not in name)
    k = len(first)

    def work(blocks: int) -> float:
        rows = float((1 - (1 - first) ** (blocks / 2)).sum()) if k == 2 else blocks * (passes - 1)
        return per_token * (context + k) * rows

    if work(MOST_BLOCKS) <= LARGEST_WORK:
        return None
    sizes = [MOST_BLOCKS >> n for n in range(1, 11)]
    return next((size for size in sizes if work(size) <= LARGEST_WORK), sizes[-1])


def check_slots(pair: Pair, k: int) -> None:
    """Raises KfError unless blocks of k tokens can be studied with this pair."""
    most = min(LARGEST_BLOCK, pair.k_max)
    if not 2 <= k <= most:
        raise KfError(f"k is {k}.", f"2 to {most} for this pair" if most > 1 else "a student of at least two slots")


def teacher_blocks(tree: TeacherTree, k: int, seed: int, samples: range, start: int = 0) -> Ints:
    """The exact map of keyed noise: the teacher by inverse CDF, k passes; noise from position `start` on."""
    return tree.context.exact(noise.uniform(seed, samples, start, k), tree.temperature)[0]


def student_blocks(tree: TeacherTree, k: int, seed: int, samples: range) -> Ints:
    """The learned map of keyed noise, one pass; the student reads the temperature beside the noise."""
    return needed_student(tree.context.learned(noise.uniform(seed, samples, 0, k), tree.temperature)).tokens


def product_blocks(marginals: Floats, seed: int, samples: range) -> Ints:
    """Draws every slot independently from its own distribution (K, V), as one pass of marginals must."""
    u = torch.from_numpy(noise.uniform(seed, samples, 0, len(marginals)))
    return invert(torch.from_numpy(marginals).cumsum(dim=-1), u.t()).t().contiguous().numpy()


@torch.inference_mode()
def masked_marginals(masked: MaskedModel, ids: list[int], k: int) -> Floats:
    """(K, V) float64 distributions of k masked tokens after a context, from one pass over both."""
    row = torch.tensor([[*ids, *[masked.config.mask_id] * k]], device=masked.device)
    return masked(row, read=k)[0].double().softmax(dim=-1).cpu().numpy()


def masked_blocks(
    masked: MaskedModel, ids: list[int], k: int, seed: int, samples: range, passes: int, order: Order
) -> Ints:
    """The masked model in 1 .. k passes, as even as possible with larger ones first, by float64 inverse CDF.

    random: the slots are filled in an order drawn for each sample. confident: every pass draws a token for each slot
    that is still masked and keeps the tokens that are most likely under their own distributions.
    """
    draws = noise.uniform(seed, samples, 0, passes * k).reshape(len(samples), passes, k)
    rank = np.argsort(np.argsort(noise.uniform(seed, samples, ORDER_NOISE, k), axis=1, kind="stable"), axis=1)
    filled = np.full((len(samples), k), masked.config.mask_id, dtype=np.int64)
    sizes = [len(part) for part in np.array_split(np.arange(k), passes)]
    for step, size in enumerate(sizes):
        distinct, member = np.unique(filled, axis=0, return_inverse=True)
        u = draws[:, step]
        chosen = _Pass(filled, rank, u, order, size, masked.config.mask_id)
        fresh = np.empty_like(filled)
        for tile, laws in _masked_laws(masked, ids, distinct):
            rows = np.flatnonzero((member.ravel() >= tile.start) & (member.ravel() < tile.stop))
            fresh[rows], near = chosen.fill(laws, member.ravel()[rows] - tile.start, rows)
            for row in rows[near] if step else ():
                alone = next(_masked_laws(masked, ids, filled[row : row + 1]))[1]
                fresh[row], _ = chosen.fill(alone, np.zeros(1, dtype=np.int64), np.array([row]))
        filled = fresh
    return filled


@dataclass(frozen=True)
class _Pass:
    """One pass over partly masked blocks: which slots are filled, and with which tokens."""

    filled: Ints
    rank: Ints
    u: Floats
    order: Order
    size: int
    mask_id: int

    def fill(self, laws: Tensor, member: Ints, rows: Ints) -> tuple[Ints, np.ndarray]:
        """The rows after the pass, and whether batch rounding could have changed each.

        Args:
            laws: (r, K, V) float64, one for each distinct row.
            member: (n,) index of the distribution for each row.
            rows: (n,) numbers of the rows.
        """
        open_slots = self.filled[rows] == self.mask_id
        tokens, gaps, sure = (np.empty((len(rows), laws.shape[1]), dtype=t) for t in (np.int64, float, float))
        for j in range(laws.shape[1]):
            cumulative = laws[:, j].cumsum(dim=-1)
            picked, gap = draw(cumulative, member, torch.from_numpy(self.u[rows, j]).to(laws.device))
            likely = laws[torch.from_numpy(member).to(laws.device), j, picked]
            tokens[:, j], gaps[:, j], sure[:, j] = (x.cpu().numpy() for x in (picked, gap, likely))
        key = self.rank[rows].astype(float) if self.order == "random" else -sure
        key[~open_slots] = np.inf
        by_key = np.argsort(key, axis=1, kind="stable")
        taken = np.zeros_like(open_slots)
        np.put_along_axis(taken, by_key[:, : self.size], True, axis=1)
        # In confident order tokens that are not kept count as well: their probabilities affect which ones are.
        read = open_slots if self.order == "confident" else taken
        near = (read & (gaps < SAMPLERS.edge)).any(axis=1)
        if self.order == "confident" and self.size < key.shape[1]:
            ranked = np.take_along_axis(key, by_key, axis=1)
            last, next_one = ranked[:, self.size - 1], ranked[:, self.size]
            near |= next_one - last < SAMPLERS.edge
        return np.where(taken, tokens, self.filled[rows]), near


@torch.inference_mode()
def _masked_laws(masked: MaskedModel, ids: list[int], blocks: Ints) -> Iterator[tuple[slice, Tensor]]:
    """Distributions (r, K, V) float64 of the slots of partly masked blocks (R, K), a tile of rows at a time."""
    k = blocks.shape[1]
    context = torch.tensor(ids, device=masked.device)
    tile = max(1, min(TOKENS_AT_ONCE // (len(ids) + k), ENTRIES_AT_ONCE // (k * masked.config.vocab_size)))
    for start in range(0, len(blocks), tile):
        rows = slice(start, min(start + tile, len(blocks)))
        slots = torch.from_numpy(blocks[rows]).to(masked.device)
        whole = torch.cat([context.expand(len(slots), -1), slots], dim=1)
        yield rows, masked(whole, read=k).double().softmax(dim=-1)


def draw(cumulative: Tensor, member: Ints, u: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (n,) by inverse CDF, and the distance of u (n,) from the nearer edge of its cell.

    `cumulative` are running sums (r, V) float64; `member` (n,) is the index of the distribution of each draw.
    """
    index = torch.from_numpy(member).to(cumulative.device)
    chunk = max(1, ENTRIES_AT_ONCE // cumulative.shape[1])
    tokens, gaps = [], []
    for at, noises in zip(index.split(chunk), u.split(chunk), strict=True):
        token, gap = choose(cumulative[at], noises[:, None])
        tokens.append(token[:, 0])
        gaps.append(gap[:, 0])
    return torch.cat(tokens), torch.cat(gaps)
