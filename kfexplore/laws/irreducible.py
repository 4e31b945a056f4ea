"""Conditions under which unmasking by marginals must err, checked by enumeration, and what each of them proves.

- The paper's definition (Theorem 1): dependence given every value of all other positions. It proves that a fixed
  schedule whose last pass fills two or more positions errs.
- The strong condition: dependence given every value of every visible set. It proves that every fixed schedule with a
  pass of two or more positions errs.
- For random or data-dependent orders neither proves anything: the errors of the orders can cancel in the mixture
  (`toy.not_all_equal`). Such a sampler is exact if and only if the average of the distributions of its orders is the
  distribution, which only restates the claim.
- The support condition: given every value of every visible set, two hidden positions never take all combinations of
  their values. It proves that every schedule with a pass of two or more positions errs, also where the order is random
  or chosen from the tokens that are visible. Proof: before the first such pass every pass fills one position, so the
  visible tokens u have positive probability. The pass draws two positions apart given u, so with positive probability
  it draws values that occur, but not together: a block of probability 0. Mixing orders cannot cancel that, since no
  order gives a negative probability. The proof does not cover an order that is chosen from the tokens of the same pass
  (most confident first).

L positions of V values; a distribution is a (V,) * L array of probabilities. Positions count from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations

import numpy as np
import numpy.typing as npt

from kfexplore.errors import KfError
from kfexplore.results import Floats, FullSupport, Independence

TOLERANCE = 1e-9
"""Total variation distance up to which two conditional distributions count as equal."""


def checked_law(law: npt.ArrayLike) -> Floats:
    """The distribution as float64.

    Raises:
        KfError: fewer than two positions, unequal numbers of values, a negative or not finite entry, or a sum that is
            not 1 to within 1e-9.
    """
    try:
        array = np.asarray(law, dtype=np.float64)
    except (TypeError, ValueError):
        raise KfError("The distribution is not an array of numbers.", "probabilities of shape (V,) * L") from None
    if array.ndim < 2 or len(set(array.shape)) > 1 or not array.size:
        raise KfError(f"The distribution has shape {array.shape}.", "(V,) * L: V values at each of L >= 2 positions")
    if not np.isfinite(array).all() or array.min() < 0:
        wrong = array[~(array >= 0) | np.isinf(array)][0]
        raise KfError(f"The distribution has an entry {wrong}.", "0 or more, and finite")
    if abs(array.sum() - 1) > 1e-9:
        raise KfError(f"The distribution sums to {array.sum():.9g}.", "1")
    return array


def is_conditionally_irreducible(law: npt.ArrayLike, strong: bool = False) -> bool:
    """Whether no group of positions can be split into two that are independent given the visible ones.

    The paper's definition: for every S of two positions or more, every split of it and every value of positive
    probability of *all positions outside S*, the two parts are dependent. The strong condition requires this given
    *every set U* outside S. The module docstring says what each proves.

    Args:
        law: (V,) * L probabilities.
        strong: Check the strong condition.

    Raises:
        KfError: `law` is not a distribution.
    """
    return witness(law, strong) is None


def witness(law: npt.ArrayLike, strong: bool = False) -> Independence | None:
    """The first independence that makes a distribution reducible, fewest visible first; None if it is irreducible.

    Pairs of positions are enough. Where two groups are independent given U, so are one position of each given U
    (the stronger definition), and given U and the rest of both groups (the paper's: all other positions).

    Arguments and errors as for `is_conditionally_irreducible`.
    """
    law = checked_law(law)
    for left, right, given in _pairs(law.ndim, range(law.ndim - 1) if strong else [law.ndim - 2]):
        found = np.argwhere(_dependence(law, left, right, given) <= TOLERANCE)
        if len(found):
            return Independence(left, right, given, tuple(int(found[0][j]) for j in given))
    return None


def support_witness(law: npt.ArrayLike) -> FullSupport | None:
    """The first two positions that take all combinations of their values, given the visible positions, fewest first.

    None if the distribution satisfies the support condition.

    Args:
        law: (V,) * L probabilities.

    Raises:
        KfError: `law` is not a distribution.
    """
    law = checked_law(law)
    for left, right, given in _pairs(law.ndim, range(law.ndim - 1)):
        hidden = tuple(j for j in range(law.ndim) if j not in (left, right, *given))
        joint = law.sum(axis=hidden, keepdims=True)
        apart = joint.sum(axis=right, keepdims=True) * joint.sum(axis=left, keepdims=True)
        never = ((joint == 0) & (apart > 0)).sum(axis=(left, right), keepdims=True)  # combinations that do not occur
        found = np.argwhere((never == 0) & (joint.sum(axis=(left, right), keepdims=True) > 0))
        if len(found):
            return FullSupport(left, right, given, tuple(int(found[0][j]) for j in given))
    return None


def _pairs(length: int, sizes: Iterable[int]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Every pair of positions with every set of others of the given sizes, smallest first."""
    for seen in sizes:
        for left, right in combinations(range(length), 2):
            others = [j for j in range(length) if j not in (left, right)]
            yield from ((left, right, given) for given in combinations(others, seen))


def _dependence(law: Floats, left: int, right: int, given: tuple[int, ...]) -> Floats:
    """Distance of p(left, right | given) from p(left | given) p(right | given), for each value of `given`.

    Axes of `given` keep their length, the others have length 1; infinite for values of probability 0.
    """
    hidden = tuple(j for j in range(law.ndim) if j not in (left, right, *given))
    joint = law.sum(axis=hidden, keepdims=True)
    seen = joint.sum(axis=(left, right), keepdims=True)
    known = np.divide(joint, seen, out=np.zeros_like(joint), where=seen > 0)
    product = known.sum(axis=right, keepdims=True) * known.sum(axis=left, keepdims=True)
    distance = abs(known - product).sum(axis=(left, right), keepdims=True) / 2
    return np.where(seen > 0, distance, np.inf)
