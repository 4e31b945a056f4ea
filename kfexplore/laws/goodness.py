"""Blocks of a sampler against the teacher's distribution: G-test, lower bound on total variation, rare blocks.

The test's partition of the blocks (`Cells`) is chosen from the distribution alone. Blocks expected five times or more
are a cell each; the rest is pooled so that every pool is expected five times or more as well. Blocks of two tokens,
whose whole distribution is known, are pooled by pointwise mutual information, which separates pairs that a product of
marginals gives too often from those it gives too rarely. Longer blocks are pooled by their longest likely prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import entr
from scipy.stats import binom, chi2, power_divergence

from kfexplore.evaluate import intervals
from kfexplore.laws.exact import TeacherTree, check_sums
from kfexplore.results import EXPLAINED, BlockLaw, Cells, Distance, Floats, Ints, SamplerLaw, Surprise

EXPECTED = 5.0
"""Minimum expected number of blocks per cell."""
MOST_POOLS = 32
"""Maximum number of pools of rare pairs."""
LARGEST_SORTED = 2**23
"""Largest number of pairs to sort into pools; larger distributions are pooled by prefix."""
RARE = 1e-3
"""Fraction of the teacher's own blocks that count as almost impossible."""
UNUSUAL = 0.05
"""Fraction of a longer tail, which reveals most errors inside cells: for a product of three marginals at a distance of
0.90, the bound is 0.79, and with cells alone 0.31."""


Start = tuple[int, ...]
"""A prefix of a block."""


@dataclass(frozen=True)
class Tail:
    """Blocks that are rare under the teacher's distribution."""

    below: float
    """Their log-probabilities are below this."""
    fraction: float
    """Fraction of the teacher's own blocks in the tail; if the tail is estimated, its mean."""
    most: float
    """Upper limit (97.5 %) of the fraction, if the tail is estimated."""


@dataclass(frozen=True)
class Partition:
    """Cells, and the rule that assigns a block to one."""

    cells: Cells
    index: Callable[[Ints], Ints]
    """Blocks (N, K) -> (N,) numbers of cells."""


def partition(tree: TeacherTree, law: BlockLaw, k: int, size: int) -> Partition:
    """Cells for `size` blocks of k tokens, chosen from the teacher's distribution alone."""
    if k == 2 and law.given.size <= LARGEST_SORTED:
        return pair_partition(law, size)
    return tree_partition(tree, k, size)


def pair_partition(law: BlockLaw, size: int) -> Partition:
    """Pairs expected five times or more, and pools of the other pairs by pointwise mutual information."""
    joint, second, least = law.joint, law.marginal_2, EXPECTED / size
    flat = joint.ravel()
    named = np.flatnonzero(flat >= least)
    named = named[np.argsort(-flat[named], kind="stable")]
    others = law.uncovered if law.uncovered >= least else 0.0  # a cell of their own, or in a pool
    while len(named) and 1 - flat[named].sum() - others < least:
        named = named[:-1]  # the least likely one fills up the pool
    rare = np.ones(len(flat), dtype=bool)
    rare[named] = False
    tail = np.flatnonzero(rare)
    with np.errstate(divide="ignore", invalid="ignore"):
        known = np.nan_to_num(np.log(law.given / second).ravel()[tail], nan=-np.inf, neginf=-np.inf)
    tail = tail[np.argsort(known, kind="stable")]
    running = flat[tail].cumsum()
    # Pools of about equal mass, each at least `least` even if the largest pair falls into its neighbour.
    pools = max(1, min(MOST_POOLS, int(running[-1] / (least + flat[tail].max())))) if len(tail) else 1
    which = np.minimum((running / running[-1] * pools).astype(int), pools - 1) if len(tail) and running[-1] else 0
    cell = np.empty(len(flat) + 1, dtype=np.int64)
    cell[named], cell[tail] = np.arange(len(named)), len(named) + which
    cell[-1] = len(named) + (pools if others else pools // 2)
    probability = np.bincount(cell, np.append(flat, law.uncovered)).astype(np.float64)
    names = [f"rare pairs, pool {p + 1} of {pools} by pointwise mutual information" for p in range(pools)]
    row = np.full(len(law.marginal_1), len(joint))
    row[law.first] = np.arange(len(joint))
    width = len(second)

    def index(blocks: Ints) -> Ints:
        return cell[np.minimum(row[blocks[:, 0]] * width + blocks[:, 1], len(flat))]

    blocks = np.stack([law.first[named // width], named % width], axis=1)
    return Partition(Cells(blocks, probability, names + (["other first tokens"] if others else [])), index)


def tree_partition(tree: TeacherTree, k: int, size: int) -> Partition:
    """Blocks expected five times or more, found level by level; the others by their longest prefix that is."""
    least = EXPECTED / size
    prefixes, mass = np.zeros((1, 0), dtype=np.int64), np.ones(1)
    left: dict[Start, float] = {}
    for _ in range(k):
        children, masses = [prefixes[:0, :1].reshape(0, prefixes.shape[1] + 1)], [mass[:0]]
        for rows, laws in tree.after(prefixes):
            weights = mass[rows, None] * laws.cpu().numpy()
            at, token = np.nonzero(weights >= least)
            children.append(np.column_stack([prefixes[rows][at], token]))
            masses.append(weights[at, token])
            remains = mass[rows] - np.bincount(at, weights[at, token], minlength=len(weights))
            left |= {tuple(start): float(x) for start, x in zip(prefixes[rows].tolist(), remains, strict=True)}
        prefixes, mass = np.concatenate(children), np.concatenate(masses)
    for start in sorted(left, key=len, reverse=True):
        if start and left[start] < least:
            left[start[:-1]] += left.pop(start)
    rest = left.pop(())
    order = np.argsort(-mass, kind="stable")
    parts = [(tuple(prefixes[n].tolist()), float(mass[n])) for n in order]
    few = []  # the least likely ones fill up the rest
    while rest < least and (parts or left):
        start, more = parts.pop() if parts else left.popitem()
        few.append(start)
        rest += more
    known = {start: n for n, start in enumerate([*dict(parts), *left])} | dict.fromkeys(few, len(parts) + len(left))

    def cell(block: Start) -> int:
        return next((known[block[:n]] for n in range(k, 0, -1) if block[:n] in known), len(parts) + len(left))

    def index(found: Ints) -> Ints:
        distinct, member = np.unique(found, axis=0, return_inverse=True)
        return np.array([cell(tuple(row)) for row in distinct.tolist()], dtype=np.int64)[member.ravel()]

    names = [f"others that begin with {' '.join(map(str, start))}" for start in left]
    blocks = np.array([start for start, _ in parts], dtype=np.int64).reshape(-1, k)
    probability = np.array([*(p for _, p in parts), *left.values(), rest])
    return Partition(Cells(blocks, probability, [*names, "all others"]), index)


def g_test(counts: Ints, probability: Floats) -> tuple[float, int, float]:
    """G with Williams' correction, its degrees of freedom, and the p-value; (0, 0, 1) for one cell.

    Raises:
        KfError: the cells' probabilities do not sum to one.
    """
    check_sums(probability)
    dof = len(probability) - 1
    if not dof:
        return 0.0, 0, 1.0
    size, law = counts.sum(), probability / probability.sum()
    g = power_divergence(counts, size * law, lambda_="log-likelihood").statistic
    g /= 1 + ((1 / law).sum() - 1) / (6 * size * dof)
    return float(g), dof, float(chi2.sf(g, dof))


def expected_tv(probability: Floats, size: int) -> float:
    """Mean plug-in distance of `size` blocks from their own distribution: half the binomial mean deviations."""
    m = np.floor(size * probability) + 1  # de Moivre: E|X - np| = 2 m (1 - p) P(X = m)
    return float((m * (1 - probability) * binom.pmf(m, size, probability)).sum() / size)


def plug_in_tv(counts: Ints, probability: Floats) -> float:
    """TV of the frequencies over cells (C,): biased upwards, and insensitive to errors within cells."""
    return float(np.maximum(counts / counts.sum() - probability, 0).sum())


@dataclass(frozen=True)
class _Set:
    """A set of blocks chosen on one half of a sample."""

    cells: npt.NDArray[np.bool_]
    """(C,) which cells are in it; for a pool, only its blocks that were not seen."""
    seen: Ints
    """(n,) numbers of the distinct blocks of pools that were seen, ascending."""
    singles: npt.NDArray[np.bool_]
    """(n,) which of them are in the set."""
    probability: float
    """Probability of the set under the distribution, or an upper bound."""
    score: float
    """Leave-one-out estimate of the excess of the sampler's probability over the teacher's."""

    def holds(self, cells: Ints, numbers: Ints) -> npt.NDArray[np.bool_]:
        """Which blocks are in the set, given the cell and the number of each (N,)."""
        inside: npt.NDArray[np.bool_] = self.cells[cells]
        if len(self.seen):
            at = np.minimum(np.searchsorted(self.seen, numbers), len(self.seen) - 1)
            inside = np.where(self.seen[at] == numbers, self.singles[at], inside)
        return inside


def tv_lower_bound(
    blocks: Ints, cells: Ints, probability: Floats, named: int, known: Floats, tails: Sequence[Tail] = ()
) -> Distance:
    """A lower bound on the total variation distance of the whole distributions, cross-fitted.

    The distance is the largest excess of any set's probability under the sampler over the exact one. One half of the
    blocks chooses a set, the other half estimates its frequency, and vice versa: the mean is unbiased for the two sets,
    so it is not biased upwards, but gives no upper bound. A set consists of

    - cells of a single block,
    - single blocks of the pools that the choosing half has seen, each with its exact probability,
    - the unseen rest of each pool, whose frequency is estimated from the blocks seen once (Good-Turing),
    - optionally a tail T of rare blocks. As P(A or T) <= P(A) + P(T), it is one more cell: its blocks no longer count
      in other cells, whose exact probabilities are not reduced.

    `low` uses Wilson's lower limit of both counts.

    Args:
        blocks: (N, K), N >= 2, independent.
        cells: (N,) cell of each block.
        probability: (C,) probabilities of the cells under the distribution.
        named: Number of cells of one block each, which come first; the others are pools.
        known: (N,) log-probabilities of the blocks under the distribution.
        tails: Tails of the distribution.
    """
    size, bins = len(blocks), len(probability)
    numbers = np.unique(blocks, axis=0, return_inverse=True)[1].ravel()
    ways = [(cells, probability)]
    ways += [(np.where(known < tail.below, bins, cells), np.append(probability, tail.most)) for tail in tails]
    halves, found = (slice(size // 2), slice(size // 2, size)), []
    for choosing, counting in (halves, halves[::-1]):
        sets = [_chosen(cell[choosing], numbers[choosing], law, named, bins, known[choosing]) for cell, law in ways]
        best = max(range(len(sets)), key=lambda way: sets[way].score)
        chosen, counted = sets[best], ways[best][0][counting]
        fraction = intervals.wilson(float(chosen.holds(counted, numbers[counting]).mean()), len(counted))
        found.append((fraction.value - chosen.probability, fraction.low - chosen.probability))
    value, low = np.maximum(np.mean(found, axis=0), 0).tolist()
    return Distance(value, low, None, "lower_bound")


def _chosen(cells: Ints, numbers: Ints, law: Floats, named: int, bins: int, known: Floats) -> _Set:
    """The set where these blocks are more frequent than expected; cells from `named` to `bins` are pools."""
    size, pools = len(cells), np.zeros(len(law), dtype=bool)
    pools[named:bins] = True
    pooled = pools[cells]
    seen, at, count = np.unique(numbers[pooled], return_index=True, return_counts=True)
    home, own = cells[pooled][at], np.exp(known[pooled][at])
    fraction = np.bincount(cells[~pooled], minlength=len(law)) / size
    fraction += np.bincount(home[count == 1], minlength=len(law)) / size
    rest = np.where(pools, np.maximum(law - np.bincount(home, own, len(law)), 0), law)
    inside, singles = fraction > rest, count / size > own
    left_out = np.where(count > 1, count / size, 0)  # a block seen once is unseen when left out
    score = float((fraction - rest)[inside].sum() + (left_out - own)[singles].sum())
    return _Set(inside, seen, singles, float(rest[inside].sum() + own[singles].sum()), score)


def rarest(law: BlockLaw, k: int, own: Floats) -> list[Tail]:
    """The tails of the rarest blocks, with a fraction of `RARE` and of `UNUSUAL` of the teacher's own blocks.

    Args:
        law: Distribution of two tokens: the tails are exact for k = 2 if all first tokens are covered.
        k: Slots.
        own: (S,) log-probabilities of the teacher's own blocks, otherwise used for an estimate.
    """
    fractions = (RARE, UNUSUAL)
    if k == 2 and not law.uncovered:
        rising = np.sort(law.joint, axis=None)
        ends = np.minimum(np.searchsorted(rising.cumsum(), fractions, side="right"), len(rising) - 1)
        masses = [float(rising[rising < rising[end]].sum()) for end in ends]
        return [Tail(float(np.log(rising[end])), mass, mass) for end, mass in zip(ends, masses, strict=True)]
    rising = np.sort(own)
    limits = [float(rising[max(0, int(fraction * len(own)) - 1)]) for fraction in fractions]
    return [Tail(b, s, intervals.wilson(s, len(own)).high) for b, s in zip(limits, fractions, strict=True)]


def log_probs(tree: TeacherTree, law: BlockLaw, blocks: Ints) -> Floats:
    """Natural-log probabilities of blocks (N, K) under the teacher, from the distribution of two tokens if possible."""
    if blocks.shape[1] > 2:
        return tree.log_probs(blocks)
    row = np.full(len(law.marginal_1), -1)
    row[law.first] = np.arange(len(law.first))
    at = row[blocks[:, 0]]
    with np.errstate(divide="ignore"):
        found: Floats = np.log(np.where(at < 0, 0.0, law.marginal_1[blocks[:, 0]] * law.given[at, blocks[:, 1]]))
    if law.uncovered and (at < 0).any():
        found[at < 0] = tree.log_probs(blocks[at < 0])
    return found


def most_surprising(tree: TeacherTree, blocks: Ints) -> list[Surprise]:
    """For each of R blocks (R, K), the token whose surprisal exceeds the entropy of its distribution most.

    The excess is used because a rare token among many rare ones is not unusual.
    """
    found = []
    for rows, laws in tree.after(blocks[:, :-1], every=True):
        given = laws.cpu().numpy()
        chosen = np.take_along_axis(given, blocks[rows, :, None], axis=2)[..., 0]
        with np.errstate(divide="ignore"):
            excess = -np.log(chosen) - entr(given).sum(axis=2)
        for n, slot in enumerate(excess.argmax(axis=1).tolist()):
            likely = int(given[n, slot].argmax())
            found.append(Surprise(slot, float(chosen[n, slot]), likely, float(given[n, slot, likely])))
    return found


def judged(
    drawn: Ints,
    parts: Partition,
    tree: TeacherTree,
    known: Floats,
    tails: Sequence[Tail],
    tv: Distance | None,
    **plain: Any,
) -> SamplerLaw:
    """All measurements on the blocks (N, K) of one sampler.

    Args:
        drawn: Independent blocks.
        parts: Cells that were chosen for N blocks.
        tree: The teacher's distributions, to find the most surprising token of impossible blocks.
        known: (N,) their log-probabilities under the teacher.
        tails: Tails of the teacher's distribution, that of almost impossible blocks first.
        tv: The distance, if known; None: a lower bound from the blocks.
        plain: The other fields: sampler, nfe, kl, seconds.
    """
    law, cells = parts.cells.probability, parts.index(drawn)
    counts, impossible = np.bincount(cells, minlength=len(law)), known < tails[0].below
    g, dof, p_value = g_test(counts, law)
    wrong = np.flatnonzero(impossible[:EXPLAINED])
    return SamplerLaw(
        blocks=drawn,
        cells=parts.cells,
        counts=counts,
        g=g,
        dof=dof,
        p_value=p_value,
        tv=tv or tv_lower_bound(drawn, cells, law, len(parts.cells.blocks), known, tails),
        tv_plug_in=plug_in_tv(counts, law),
        tv_expected=expected_tv(law, len(drawn)),
        impossible=intervals.wilson(float(impossible.mean()), len(drawn)),
        is_impossible=impossible,
        wrong=dict(zip(wrong.tolist(), most_surprising(tree, drawn[wrong]), strict=True)),
        **plain,
    )
