"""The teacher's exact distribution of the next two tokens after a context, with bounds if it is truncated.

Let A be the M first tokens that are covered, 1 - delta their probability, m_A the distribution of the second token
given A, I_A the mutual information given A, and t_A = 1/2 sum over a in A of p(a) |p(.|a) - m_A|_1. The second token
after any other first token is unknown. With Z = [x1 in A] and the chain rule,

    I(X1; X2) = I(Z; X2) + (1 - delta) I_A + delta I_rest

lies between (1 - delta) I_A, reached if the rest has the distribution m_A whatever its first token, and the smaller of
h(delta) + (1 - delta) I_A + delta H(X1 | rest), as I(Z; X2) <= h(delta), and
H* - sum over a in A of p(a) H(p(.|a)), where H* is the largest entropy of any (1 - delta) m_A + delta q.

The distance TV(joint, product) is at least t_A: the rest itself adds at least as much as its shift of the marginal can
take from the sum over A. It is at most the sum of two bounds: (1 - delta) t_A + delta (1 - delta) for A, by convexity;
and delta - sum of p(a)^2 for the rest, since the distribution after a has the weight p(a) in the marginal.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.special import entr
from torch import Tensor

from kfexplore.config import check_temperature
from kfexplore.decoding.cdf import distribution
from kfexplore.decoding.readout import SAMPLERS
from kfexplore.errors import KfError
from kfexplore.maps import PrefilledContext
from kfexplore.models import AnyStudent, AnyTeacher
from kfexplore.pair import Pair
from kfexplore.results import BlockLaw, Bounded, Floats, Ints

SMALL_VOCABULARY = 4096
"""Largest vocabulary of which all first tokens are covered by default."""
MOST_UNCOVERED = 0.02
"""Largest uncovered probability by default for larger vocabularies; the fewest first tokens are taken."""
LARGEST_LAW = 2**28
"""Maximum number of entries (M, V) in float32: 1 GiB."""
ENTRIES_AT_ONCE = 2**21
"""Number of float64 probabilities in one tile."""
ROWS_AT_ONCE = 1024
NOT_A_LAW = 1e-4
"""Probabilities whose sum differs from 1 by more than this are rejected."""


class TeacherTree:
    """The teacher's distributions after a context and any first tokens of a block, at one temperature.

    Args:
        teacher: The teacher.
        ids: (N,) context, N >= 1.
        temperature: Divides the teacher's logits; applies to all results from this tree.
        student: Prefilled as well, for its map after the same context.

    Raises:
        KfError: a temperature outside `kfexplore.config.TEMPERATURES`; the teacher's distribution does not sum to one.
    """

    def __init__(
        self, teacher: AnyTeacher, ids: Ints, temperature: float = 1.0, student: AnyStudent | None = None
    ) -> None:
        self.temperature = check_temperature(temperature)
        self.context = PrefilledContext(teacher, student, torch.from_numpy(ids), SAMPLERS)
        self._root = distribution(self.context.logits, self.temperature)
        check_sums(self._root.cpu().numpy())

    @property
    def root(self) -> Floats:
        """(V,) distribution of the first token."""
        return self._root.cpu().numpy()

    @torch.inference_mode()
    def after(self, prefixes: Ints, every: bool = False) -> Iterator[tuple[slice, Tensor]]:
        """Distributions of the token after each of R prefixes (R, j), a tile of rows at a time.

        Args:
            prefixes: (R, j) first tokens of a block; repeated ones are computed again.
            every: Return the distributions of all slots 1 .. j + 1, not only of the last.

        Yields:
            The rows, and their distributions (r, V), or (r, j + 1, V), float64.
        """
        count, slots = prefixes.shape
        root = self._root.expand(1, -1)
        if not slots:
            yield slice(0, count), root.expand(count, -1)[:, None] if every else root.expand(count, -1)
            return
        tile = max(1, min(ROWS_AT_ONCE, ENTRIES_AT_ONCE // (len(self._root) * (slots if every else 1))))
        for start in range(0, count, tile):
            rows = slice(start, min(start + tile, count))
            tokens = torch.from_numpy(prefixes[rows]).to(self._root.device)
            laws = distribution(self.context.logits_after(tokens, every), self.temperature)
            yield rows, torch.cat([root.expand(len(tokens), -1)[:, None], laws], dim=1) if every else laws

    def log_probs(self, blocks: Ints) -> Floats:
        """Natural-log probabilities of blocks (R, k) under the teacher; (R,)."""
        distinct, member = np.unique(blocks, axis=0, return_inverse=True)
        found = np.empty(len(distinct))
        for rows, laws in self.after(distinct[:, :-1], every=True):
            chosen = torch.from_numpy(distinct[rows]).to(laws.device)
            found[rows] = laws.gather(2, chosen[..., None])[..., 0].log().sum(dim=1).cpu().numpy()
        return found[member.ravel()]


def pair_law(pair: Pair, ids: list[int], first: int | None = None, tree: TeacherTree | None = None) -> BlockLaw:
    """The exact distribution of the next two tokens after a context.

    Args:
        pair: Only its teacher is used.
        ids: N token ids.
        first: M, the number of first tokens to cover; None: all of a small vocabulary (up to 4,096 rows), else the
            fewest that leave at most 2 % uncovered; in both cases at most `LARGEST_LAW` / V.
        tree: The prefilled context, at its own temperature; None: temperature 1.

    Raises:
        KfError: the context is empty, too long or has unknown ids; M is 0, above V or above `LARGEST_LAW` / V; the
            teacher's probabilities do not sum to 1 (broken weights).
    """
    pair.check_ids(ids)
    context = np.array(ids, dtype=np.int64)
    tree = tree or TeacherTree(pair.teacher, context)
    root = tree.root
    order = np.argsort(-root, kind="stable")
    chosen = order[: _how_many(root[order], first)]
    given = np.empty((len(chosen), len(root)), dtype=np.float32)
    for rows, laws in tree.after(chosen[:, None]):
        given[rows] = laws.float().cpu().numpy()
    return law_from(context, root, chosen, given)


def law_from(context: Ints, marginal_1: Floats, first: Ints, given: Floats | np.ndarray) -> BlockLaw:
    """The distribution of two tokens from its parts, with the distances between joint and product.

    Args:
        context: (N,) token ids.
        marginal_1: (V,) distribution of the first token.
        first: (M,) first tokens that are covered.
        given: (M, V) distribution of the second after each.

    Raises:
        KfError: one of the distributions has negative entries or does not sum to one.
    """
    check_sums(marginal_1)
    check_sums(given)
    rest = np.delete(marginal_1, first)
    information, distance = _bounds(marginal_1[first], given, rest)
    return BlockLaw(context, first, marginal_1, given.astype(np.float32), float(rest.sum()), information, distance)


def check_sums(law: np.ndarray) -> None:
    """Raises KfError unless the last axis of `law` (..., V) holds probabilities that sum to one."""
    totals = law.sum(axis=-1, dtype=np.float64)
    wrong = np.argmax(np.abs(totals - 1)) if np.isfinite(totals).all() else np.argmin(np.isfinite(totals))
    total = totals.flat[wrong]
    if not abs(total - 1) <= NOT_A_LAW:
        raise KfError(f"A distribution sums to {total:g}.", "probabilities that sum to 1; are the weights damaged?")
    if law.min() < 0:
        raise KfError(f"A distribution has a probability of {law.min():g}.", "0 to 1")


def _how_many(sorted_law: Floats, first: int | None) -> int:
    """M, from the distribution of the first token, sorted from the most likely."""
    rows = len(sorted_law)
    if first is not None:
        if not 1 <= first <= rows:
            raise KfError(f"{first} first tokens were requested.", f"1 to {rows}, the rows of the vocabulary")
        count = first
    elif rows <= SMALL_VOCABULARY:
        count = int((sorted_law > 0).sum())
    else:
        count = int(np.searchsorted(sorted_law.cumsum(), 1 - MOST_UNCOVERED)) + 1
    most = LARGEST_LAW // rows
    if first is None:
        return min(count, most)  # the bounds account for the uncovered rest
    if count > most:
        entries = f"{count * rows:,} entries"
        raise KfError(f"The distribution of {count} first tokens has {entries}.", f"at most {most} first tokens")
    return count


def _bounds(weights: Floats, given: np.ndarray, rest: Floats) -> tuple[Bounded, Bounded]:
    """Mutual information and TV(joint, product) from p(x1) (M,) of A, p(x2 | x1) (M, V) and p(x1) of all others."""
    covered, delta = float(weights.sum()), float(rest.sum())
    second = weights @ given.astype(np.float64) / covered
    own, apart = np.empty(len(weights)), np.empty(len(weights))
    tile = max(1, ENTRIES_AT_ONCE // len(second))
    for at in range(0, len(weights), tile):
        laws = given[at : at + tile].astype(np.float64)
        own[at : at + tile] = entr(laws).sum(axis=1)
        apart[at : at + tile] = np.abs(laws - second).sum(axis=1) / 2
    inside = max(0.0, covered * float(entr(second).sum()) - float(weights @ own))  # (1 - delta) I_A
    t = float(weights @ apart)
    if not delta:
        return Bounded(inside, inside, inside), Bounded(t, t, t)
    chance = float(entr(np.array([delta, 1 - delta])).sum())
    split = chance + inside + delta * float(entr(rest / delta).sum())
    highest = largest_entropy(covered * second, delta) - float(weights @ own)
    upper = max(inside, min(split, highest))
    far = min(1.0, covered * t + delta * covered + delta - float((rest**2).sum()))
    return (
        Bounded(inside, min(upper, inside / covered), upper),
        Bounded(t, min(far, t / covered), far),
    )


def largest_entropy(mass: Floats, more: float) -> float:
    """The largest entropy of `mass` (V,) plus `more` probability anywhere, by water filling."""
    rising = np.sort(mass)
    count = np.arange(1, len(rising) + 1)
    levels = (rising.cumsum() + more) / count  # the level if the `count` lowest are filled up to it
    filled = int(np.flatnonzero(levels >= rising)[-1])
    return float(entr(np.maximum(rising, levels[filled])).sum())
