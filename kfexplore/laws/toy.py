"""Toy distributions in closed form, and the exact error of unmasking them by marginals.

L positions of V values; a distribution is a (V,) * L array. Positions count from 0. Only `toy_draws` samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations, pairwise, permutations, product
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from kfexplore import noise
from kfexplore.decoding.cdf import invert
from kfexplore.errors import KfError
from kfexplore.laws.irreducible import checked_law, support_witness, witness
from kfexplore.results import Floats, Ints, ToyDraws, ToyLaw, Unmasking

Schedule = tuple[tuple[int, ...], ...]
"""An ordered partition of the positions: those unmasked in each pass."""
Given = Callable[[int, frozenset[int]], Floats]
"""Position and visible positions -> distribution as from `marginal`."""
LONGEST: Final = 6
"""Most positions for which schedules are enumerated: 4,683 of them; 8 positions have half a million."""


def permutation(length: int = 2) -> Floats:
    """(L,) * L: all orderings of L tokens, equally likely; L = 2 is the paper's example, uniform over {01, 10}.

    Raises:
        KfError: length outside 2 to 6.
    """
    length = _length(length)
    law = np.zeros((length,) * length)
    for order in permutations(range(length)):
        law[order] = 1
    return law / law.sum()


def correlation(rho: float) -> Floats:
    """(2, 2): two fair bits of correlation rho, from independent (0) to equal (1).

    Raises:
        KfError: rho outside [0, 1].
    """
    rho = _within("rho", rho)
    return np.array([[1 + rho, 1 - rho], [1 - rho, 1 + rho]]) / 4


def noisy_xor(eps: float) -> Floats:
    """(2, 2, 2): x1 and x2 fair bits, x3 = x1 xor x2, flipped with probability eps.

    Raises:
        KfError: eps outside [0, 1].
    """
    eps = _within("eps", eps)
    law = np.empty((2, 2, 2))
    for x1, x2, x3 in product(range(2), repeat=3):
        law[x1, x2, x3] = (1 - eps if x3 == x1 ^ x2 else eps) / 4
    return law


def chain(length: int, eps: float) -> Floats:
    """(2,) * L: a fair bit, then each the one before it, flipped with probability eps.

    Raises:
        KfError: length outside 2 to 6, or eps outside [0, 1].
    """
    length, eps = _length(length), _within("eps", eps)
    law = np.empty((2,) * length)
    for bits in product(range(2), repeat=length):
        flips = sum(a != b for a, b in pairwise(bits))
        law[bits] = eps**flips * (1 - eps) ** (length - 1 - flips) / 2
    return law


def not_all_equal() -> Floats:
    """(2, 2, 2): the six strings of three bits that are not all equal, equally likely.

    It is strongly irreducible and every fixed 2+1 order has TV 1/6, yet a uniformly random 2+1 order has TV 0: the
    errors of the orders cancel.
    """
    law = np.full((2, 2, 2), 1 / 6)
    law[0, 0, 0] = law[1, 1, 1] = 0
    return law


def total_variation(p: Floats, q: Floats) -> float:
    """Total variation distance of two distributions, 0 to 1: half the sum of |p - q|."""
    return float(abs(p - q).sum()) / 2


def marginal(law: Floats, position: int, visible: frozenset[int]) -> Floats:
    """p(x_j | visible positions): axes of j and of the visible positions have length V, the others 1.

    Uniform if the visible values have probability 0. This affects no distance: every block with such values has
    probability 0, so all probability on them is error, however it is distributed.
    """
    hidden = tuple(j for j in range(law.ndim) if j != position and j not in visible)
    joint = law.sum(axis=hidden, keepdims=True)
    seen = joint.sum(axis=position, keepdims=True)
    return np.divide(joint, seen, out=np.full_like(joint, 1 / law.shape[position]), where=seen > 0)


def unmasked(law: Floats, schedule: Schedule, given: Given | None = None) -> Floats:
    """Distribution of an ideal masked diffusion model: exact marginals, independent within a pass.

    Args:
        law: (V,) * L probabilities.
        schedule: The positions of each pass, each position once.
        given: A cached `marginal` of this distribution; None computes each one.

    Returns:
        (V,) * L probabilities.
    """
    given = given or partial(marginal, law)
    blocks, visible = np.ones((1,) * law.ndim), frozenset[int]()
    for group in schedule:
        for position in group:
            blocks = blocks * given(position, visible)
        visible |= set(group)
    return blocks


def schedules(sizes: Sequence[int], positions: Sequence[int]) -> Iterator[Schedule]:
    """Every assignment of the positions to passes of these sizes; the order within a pass does not matter."""
    if not sizes:
        yield ()
        return
    for first in combinations(positions, sizes[0]):
        rest = [j for j in positions if j not in first]
        yield from ((first, *later) for later in schedules(sizes[1:], rest))


def splits(length: int) -> list[tuple[int, ...]]:
    """Every split of L positions into passes, as sizes: fewest passes first, and among these the even split first."""
    cuts = (cut for passes in range(length) for cut in combinations(range(1, length), passes))
    sizes = [tuple(b - a for a, b in pairwise((0, *cut, length))) for cut in cuts]
    return sorted(sizes, key=lambda split: (len(split), max(split) - min(split), [-size for size in split]))


def unmasking(law: npt.ArrayLike) -> list[Unmasking]:
    """Exact distance of marginal unmasking for every split: best and worst fixed order, and random order.

    A random order is drawn for each block, all assignments of positions to passes being equally likely, so its
    distribution is the average over the orders. Orders chosen from the tokens drawn so far are not included.

    Raises:
        KfError: `law` is not a distribution, or has more than 6 positions.
    """
    law = checked_law(law)
    if law.ndim > LONGEST:
        raise KfError(f"The distribution has {law.ndim} positions.", f"2 to {LONGEST}: all schedules are enumerated")
    given, found = cache(partial(marginal, law)), []
    for sizes in splits(law.ndim):
        orders = list(schedules(sizes, range(law.ndim)))
        drawn = [unmasked(law, schedule, given) for schedule in orders]
        # Rounded, so that among equally good orders the first is named.
        tried = [(round(total_variation(law, one), 13), order) for one, order in zip(drawn, orders, strict=True)]
        (best, first), (worst, last) = (pick(tried, key=lambda one: one[0]) for pick in (min, max))
        mixed = round(total_variation(law, np.mean(drawn, axis=0)), 13)
        found.append(Unmasking(sizes, best, worst, first, last, mixed))
    return found


@dataclass(frozen=True)
class Parameter:
    """One parameter of a toy distribution."""

    default: float
    low: float
    high: float
    about: str


@dataclass(frozen=True)
class Toy:
    """A selectable toy distribution."""

    title: str
    make: Callable[..., Floats]
    parameters: dict[str, Parameter]
    """The parameters of `make`, by name."""


_EPS: Final = Parameter(0.1, 0, 1, "probability of a flip")
TOYS: Final = {
    "permutation": Toy("Permutation", permutation, {"length": Parameter(2, 2, LONGEST, "tokens L")}),
    "correlation": Toy("Correlated bits", correlation, {"rho": Parameter(0.5, 0, 1, "correlation of the two bits")}),
    "noisy-xor": Toy("Noisy XOR", noisy_xor, {"eps": _EPS}),
    "chain": Toy("Chain", chain, {"length": Parameter(3, 2, LONGEST, "tokens L"), "eps": _EPS}),
    "not-all-equal": Toy("Not all equal", not_all_equal, {}),
}


def toy_law(name: str, **given: float) -> ToyLaw:
    """A toy distribution with all results about it.

    Args:
        name: A key of `TOYS`.
        given: length, eps or rho, if the distribution has them; defaults otherwise.

    Raises:
        KfError: no such distribution, an unknown parameter, or one outside its range.
    """
    if name not in TOYS:
        raise KfError(f"There is no toy distribution {name!r}.", ", ".join(TOYS))
    toy = TOYS[name]
    for option in given:
        if option not in toy.parameters:
            raise KfError(f"{name} takes no {option}.", " and ".join(toy.parameters) or "no option")
    values = {option: given.get(option, parameter.default) for option, parameter in toy.parameters.items()}
    law = toy.make(**values)
    return ToyLaw(
        name=name,
        parameters=values,
        law=law,
        one_pass=unmasked(law, (tuple(range(law.ndim)),)),
        schedules=unmasking(law),
        paper=witness(law),
        strong=witness(law, strong=True),
        support=support_witness(law),
    )


def exact_map(law: Floats, u: Floats) -> Ints:
    """The tokens for given noise by inverse CDF, each conditioned on those before it.

    Args:
        law: (V,) * L probabilities; a product of marginals gives independent draws.
        u: (N, L) noise in [0, 1).

    Returns:
        (N, L) blocks.
    """
    blocks = np.zeros(u.shape, dtype=np.int64)
    for j in range(law.ndim):
        joint = law.sum(axis=tuple(range(j + 1, law.ndim)))
        given = np.broadcast_to(joint[tuple(blocks[:, :j].T)], (len(u), law.shape[j]))
        cumulative = torch.from_numpy((given / given.sum(axis=1, keepdims=True)).cumsum(axis=1))
        blocks[:, j] = invert(cumulative, torch.from_numpy(u[:, j, None]))[:, 0]
    return blocks


def toy_draws(toy: ToyLaw, count: int, seed: int) -> ToyDraws:
    """The first `count` blocks of a seed, by the exact map and by independent draws; a larger count adds blocks."""
    u = noise.uniform(seed, range(count), 0, toy.law.ndim)
    return ToyDraws(seed, u, exact_map(toy.law, u), exact_map(toy.one_pass, u))


def _within(name: str, value: float) -> float:
    if not 0 <= value <= 1:  # also rejects nan
        raise KfError(f"{name} is {value}.", "0 to 1")
    return float(value)


def _length(value: float) -> int:
    if not 2 <= value <= LONGEST or value != int(value):
        raise KfError(f"The length is {value}.", f"a whole number from 2 to {LONGEST}")
    return int(value)
