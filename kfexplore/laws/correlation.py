"""Total correlation of a block: what a product of marginals loses, however good the marginals are.

TC = sum over slots of H(m_j) - H(x_j | x_<j) = sum of I(x_j; x_<j). Slot 1 contributes 0; slot 2 is exact if the pair's
distribution is; later slots are means over the teacher's own blocks. Their marginal is Rao-Blackwellised: m_j is the
mean of the distributions p(. | x_<j), not of the tokens drawn. Its entropy is still too small by O(1 / samples); the
jackknife over groups of blocks corrects this and gives the interval (Student's t, groups - 1 degrees of freedom).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import entr, rel_entr

from kfexplore.evaluate import intervals
from kfexplore.laws.exact import TeacherTree
from kfexplore.results import BlockLaw, Correlation, Estimate, Floats, Ints, ProductError

GROUPS = 32
"""Groups of blocks in the jackknife."""


@dataclass(frozen=True)
class SlotMeans:
    """Means over G groups of the teacher's blocks, slot by slot; an exact slot is the same in every group."""

    laws: list[Floats]
    """K arrays (G, V): mean distribution of slot j given the slots before."""
    surprise: Floats
    """(K, G) mean entropy of those distributions, nats."""
    samples: int
    """Number of blocks averaged; 0: every slot is exact."""
    law: BlockLaw | None
    """The exact distribution used for slot 2, if there is one."""

    def correlation(self) -> Correlation:
        """Total correlation with its interval; for two exact slots, with the bounds of the exact distribution."""
        information = self._information()
        by_slot, total = [_jackknife(values) for values in information], _jackknife(information.sum(axis=0))
        if self.law is not None:
            known = self.law.mutual_information
            limits = Estimate(known.value, known.lower, known.upper)
            by_slot[1] = limits
            if len(self.laws) == 2:
                total = limits
        return Correlation(total, by_slot, self.surprise.mean(axis=1).tolist(), self.marginals, self.samples)

    def against(self, wrong: Floats) -> ProductError:
        """The two error sources of a sampler that draws the slots independently from `wrong` (K, V).

        Both use the same jackknife groups, so their sum is the mean of -log prod q_j minus the block's entropy.
        """
        information = self._information()
        slots = zip(self.laws, wrong, strict=True)
        parts = [_leave_out(laws, partial(_divergence, q)) for laws, q in slots]
        return ProductError(_jackknife(information.sum(axis=0)).value, [_jackknife(part).value for part in parts])

    @property
    def marginals(self) -> Floats:
        """(K, V)."""
        return np.stack([laws.mean(axis=0) for laws in self.laws])

    def _information(self) -> Floats:
        """I(x_j; x_<j) of each slot over all groups, then with each group left out: (K, 1 + G); 0 for slot 1."""
        both = zip(self.laws[1:], self.surprise[1:], strict=True)
        later = [_leave_out(laws, lambda mean: float(entr(mean).sum())) - _leave_out(own, float) for laws, own in both]
        return np.stack([np.zeros_like(later[0]), *later])


def slot_means(tree: TeacherTree, k: int, blocks: Ints, law: BlockLaw | None = None) -> SlotMeans:
    """Means over the teacher's own blocks.

    Args:
        tree: The context.
        k: Slots K >= 2.
        blocks: (S, >= k - 1) independent blocks of the teacher, S a multiple of `GROUPS`.
        law: The exact distribution of two tokens; used for slot 2 if it covers all first tokens.
    """
    root = tree.root
    if law is not None and law.uncovered:
        law = None
    laws, surprise = [root[None]], [np.full(1, entr(root).sum())]
    if law is not None:
        weights = law.marginal_1[law.first]
        own = entr(law.given.astype(np.float64)).sum(axis=1)
        laws.append(law.marginal_2[None])
        surprise.append(np.array([weights @ own / weights.sum()]))
    for j in range(len(laws), k):
        mean, own = _means_after(tree, blocks[:, :j])
        laws.append(mean)
        surprise.append(own)
    widest = max(len(each) for each in laws)
    return SlotMeans(
        [np.broadcast_to(each, (widest, len(root))) for each in laws],
        np.stack([np.broadcast_to(each, widest) for each in surprise]),
        len(blocks) if widest > 1 else 0,
        law,
    )


def _means_after(tree: TeacherTree, prefixes: Ints) -> tuple[Floats, Floats]:
    """Mean distribution (G, V) and mean entropy (G,) after prefixes (S, j), group by group."""
    groups = min(GROUPS, len(prefixes))
    size = len(prefixes) // groups
    distinct, member = np.unique(prefixes[: size * groups], axis=0, return_inverse=True)
    weight = np.zeros((groups, len(distinct)))
    np.add.at(weight, (np.arange(size * groups) // size, member.ravel()), 1 / size)
    mean, own = np.zeros((groups, len(tree.root))), np.zeros(groups)
    for rows, laws in tree.after(distinct):
        part = torch.from_numpy(weight[:, rows]).to(laws.device)
        mean += (part @ laws).cpu().numpy()
        own += (part @ torch.special.entr(laws).sum(dim=1)).cpu().numpy()
    return mean, own


def _divergence(wrong: Floats, mean: Floats) -> float:
    return float(rel_entr(mean, wrong).sum())


def _leave_out(groups: Floats, statistic: Callable[[Any], float]) -> Floats:
    """A statistic of the mean over all groups (G, ..), then of the means with each group left out; (1 + G,)."""
    whole = groups.mean(axis=0)
    count = len(groups)
    if count == 1:
        return np.array([statistic(whole)])
    return np.array([statistic(whole), *(statistic((count * whole - one) / (count - 1)) for one in groups)])


def _jackknife(values: Floats) -> Estimate:
    """Bias-corrected value and 95 % interval from the (1 + G,) values of `_leave_out`; a single value is exact."""
    whole, left = float(values[0]), values[1:]
    if not len(left):
        return Estimate(whole, whole, whole)
    count = len(left)
    value = count * whole - (count - 1) * float(left.mean())
    error = float(np.sqrt((count - 1) / count * ((left - left.mean()) ** 2).sum()))
    half = intervals.t(count) * error
    return Estimate(value, value - half, value + half)
