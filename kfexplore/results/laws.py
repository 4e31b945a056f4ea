"""Distributions of a block: exact, toy and sampled ones, and their distances."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from kfexplore.results.maps import Floats, Ints
from kfexplore.results.quality import Estimate

EXPLAINED = 8
"""Number of blocks listed per sampler; for impossible ones the most surprising token is found."""


@dataclass(frozen=True)
class Independence:
    """Two positions (from 0) that are independent under a distribution, given values of others."""

    left: int
    right: int
    given: tuple[int, ...]  # visible positions
    values: tuple[int, ...]  # what they hold
    finding: ClassVar[str] = "are independent"

    def __str__(self) -> str:
        seen = ", ".join(f"x{j + 1} = {value}" for j, value in zip(self.given, self.values, strict=True))
        return f"x{self.left + 1} and x{self.right + 1} {self.finding} {f'given {seen}' if seen else 'marginally'}"


@dataclass(frozen=True)
class FullSupport(Independence):
    """Two positions that take all combinations of their values, given values of others; they may be dependent."""

    finding: ClassVar[str] = "take all combinations of their values"


@dataclass(frozen=True)
class Unmasking:
    """Total variation distances, 0 .. 1, of marginal unmasking in passes of given sizes, over all orders."""

    sizes: tuple[int, ...]  # positions unmasked in each pass
    best: float
    worst: float
    best_order: tuple[tuple[int, ...], ...]  # positions (from 0) of each pass
    worst_order: tuple[tuple[int, ...], ...]
    random: float  # of a uniformly random order: the errors of the orders can cancel, so it may be below `best`

    @property
    def name(self) -> str:
        """As in "2+1"."""
        return "+".join(map(str, self.sizes))

    @property
    def even(self) -> bool:
        """Whether the sizes are as even as possible, larger passes first."""
        return self.sizes[0] - self.sizes[-1] <= 1 and list(self.sizes) == sorted(self.sizes, reverse=True)


@dataclass(frozen=True)
class ToyLaw:
    """A distribution of L tokens in closed form, and the result of marginal unmasking.

    The fields of the three conditions hold a counterexample, or None if the distribution satisfies the condition.
    """

    name: str
    parameters: dict[str, float]
    law: Floats  # (V,) * L exact probabilities
    one_pass: Floats  # (V,) * L product of its marginals: all positions unmasked in one pass
    schedules: list[Unmasking]  # every split of the positions into passes, by number of passes, even sizes first
    paper: Independence | None  # to the paper's definition of conditional irreducibility
    strong: Independence | None  # to dependence given every visible set
    support: FullSupport | None  # to the support condition, the one that also covers random orders
    push_forward: float = 0.0
    """Distance of the exact map in one pass: the inverse CDF of one noise value per token gives any distribution."""

    @property
    def passes(self) -> list[Unmasking]:
        """(L,) the even schedule for each number of passes, from 1."""
        return [schedule for schedule in self.schedules if schedule.even]

    @property
    def impossible(self) -> float:
        """Probability that one pass gives a block of probability 0."""
        return float(self.one_pass[self.law == 0].sum())

    def as_json(self) -> dict[str, Any]:
        """Plain values; distances are rounded to 12 decimals to remove float64 rounding errors."""
        ends = {each.name: {"best": round(each.best, 12), "worst": round(each.worst, 12)} for each in self.schedules}
        return {
            "toy": self.name,
            "parameters": self.parameters,
            "tv_by_passes": {str(len(each.sizes)): ends[each.name] for each in self.passes},
            "by_schedule": ends,
            "tv_random_order": {str(len(each.sizes)): round(each.random, 12) for each in self.passes},
            "tv_random_order_by_schedule": {each.name: round(each.random, 12) for each in self.schedules},
            "push_forward": self.push_forward,
            "one_pass_impossible": round(self.impossible, 12),
            "paper_irreducible": self.paper is None,
            "strongly_irreducible": self.strong is None,
            "paper_witness": self.paper and str(self.paper),
            "strong_witness": self.strong and str(self.strong),
            "support_irreducible": self.support is None,
            "support_witness": self.support and str(self.support),
        }


@dataclass(frozen=True)
class ToyDraws:
    """Blocks of a toy distribution and of independent draws from its marginals, from the same noise."""

    seed: int
    u: Floats  # (N, L) noise
    exact: Ints  # (N, L) blocks of the exact map
    independent: Ints  # (N, L)


@dataclass(frozen=True)
class Bounded:
    """A quantity with guaranteed limits under truncation; all three are equal if nothing is left out."""

    lower: float
    value: float  # the estimate: the left-out part behaves as the rest does
    upper: float


@dataclass(frozen=True)
class BlockLaw:
    """The teacher's distribution of the next two tokens after a context, for the M most likely first tokens."""

    context: Ints  # (N,) token ids
    first: Ints  # (M,) first tokens, most likely first
    marginal_1: Floats  # (V,) distribution of the first token, complete
    given: npt.NDArray[np.float32]  # (M, V) distribution of the second token after each; float32 like the logits
    uncovered: float  # delta, the probability of all other first tokens; 0 if none is left out
    mutual_information: Bounded  # nats; also KL(joint || product) and, for two tokens, the total correlation
    tv_product: Bounded  # total variation distance of joint and product, 0 .. 1

    @property
    def marginal_2(self) -> Floats:
        """(V,) second token, over the M first tokens; within a TV of delta of the complete one."""
        covered = self.marginal_1[self.first]
        return covered @ self.given.astype(np.float64) / covered.sum()

    @property
    def joint(self) -> Floats:
        """(M, V) probabilities of the pairs, which sum to 1 - delta."""
        return self.marginal_1[self.first, None] * self.given

    @property
    def product(self) -> Floats:
        """(M, V) probabilities of the pairs under a sampler from the marginals."""
        return np.outer(self.marginal_1[self.first], self.marginal_2)


@dataclass(frozen=True)
class Correlation:
    """Dependence within a block of K tokens: sums over slots of H(m_j) - H(x_j | x_<j), nats."""

    total: Estimate  # total correlation; for K = 2 with the exact distribution the limits are guaranteed
    by_slot: list[Estimate]  # (K,) mutual information of x_j and all slots before it; sums to the total
    surprise: list[float]  # (K,) entropy H(x_j | x_<j); sums to the block's own entropy
    marginals: Floats  # (K, V) distributions m_j of each slot after the context alone
    samples: int  # blocks of the teacher over which the marginals are means; 0: exact

    @property
    def entropy(self) -> float:
        """Entropy of the block under the teacher, nats."""
        return sum(self.surprise)


@dataclass(frozen=True)
class ProductError:
    """KL(teacher's block || product of a masked model's one-pass marginals), nats: two sources that add up."""

    product: float  # the total correlation: loss of the product even with exact marginals
    wrong_marginals: list[float]  # (K,) KL(m_j || q_j): what wrong marginals add, by slot

    @property
    def total(self) -> float:
        """The sum of both."""
        return self.product + sum(self.wrong_marginals)


@dataclass(frozen=True)
class Distance:
    """Total variation distance between a sampler's distribution and the teacher's, 0 .. 1."""

    value: float
    low: float
    high: float | None  # None for a lower bound: nothing is known from above
    kind: Literal["exact", "quadrature", "lower_bound"]
    """exact: both distributions are known, low = value = high. quadrature: from areas of the learned map; low and high
    are the error limits. lower_bound: from sampled blocks; low is the 95 % lower limit, the only value to show as a
    bound; value estimates a smaller distance, but may exceed the true one by chance. Do not compare a lower bound with
    another one or with an exact value: their gaps to the true distance differ."""

    @property
    def is_known(self) -> bool:
        """Whether the value is the distance itself and can be compared with others."""
        return self.kind != "lower_bound"

    @property
    def words(self) -> str:
        """The formatted value, such as "0.581", or for a lower bound its limit, such as "≥ 0.520"."""
        return f"{self.value:.3f}" if self.is_known else f"≥ {self.low:.3f}"

    @property
    def limits(self) -> str:
        """Its limits in words."""
        if self.high is None:
            return "lower limit"
        return "exact" if self.kind == "exact" else f"{self.low:.3f} to {self.high:.3f}"


def exactly(value: float) -> Distance:
    """A distance between two known distributions."""
    return Distance(value, value, value, "exact")


@dataclass(frozen=True)
class Cells:
    """A partition of all blocks of K tokens, chosen from the teacher's distribution before any sample is drawn."""

    blocks: Ints  # (n, K) the blocks that are a cell each, most likely first
    probability: Floats  # (C,) of each cell: the n blocks, then the C - n pools of rarer blocks
    pools: list[str]  # (C - n) what each pool holds


@dataclass(frozen=True)
class Surprise:
    """The token of a block that surprises the teacher most, given the tokens of the block before it."""

    slot: int  # from 0
    probability: float  # of that token
    likely: int  # the most likely token there
    likely_probability: float


@dataclass(frozen=True)
class SamplerLaw:
    """N blocks of one sampler against the teacher's distribution."""

    sampler: str
    nfe: int  # forward passes per block
    blocks: Ints  # (N, K) the blocks, by sample number
    cells: Cells  # the partition on which N blocks are tested
    counts: Ints  # (C,) blocks in each cell
    g: float  # likelihood ratio statistic (G-test) over the cells, with Williams' correction
    dof: int
    p_value: float  # chance of such a G or a larger one under the teacher; 1 if there is only one cell
    tv: Distance  # exact where both distributions are known, quadrature for the student at K = 2, else a lower bound
    tv_plug_in: float
    """Distance of the blocks' frequencies over the cells: biased upwards by the finite sample, and insensitive to
    errors within cells. It does not estimate `tv`; compare it with `tv_expected`."""
    tv_expected: float  # mean of `tv_plug_in` for N of the teacher's own blocks, whose distance is 0
    impossible: Estimate  # fraction of blocks whose log-probability is below `ContextStudy.impossible_below`
    is_impossible: npt.NDArray[np.bool_]  # (N,) whether each block is
    kl: float | None  # KL(teacher || sampler), nats, if known: 0 for the teacher, and for products of marginals
    seconds: float  # to draw the blocks, and to find `tv` by quadrature
    wrong: dict[int, Surprise] = field(default_factory=dict)
    """The most surprising token of each impossible block among the first `EXPLAINED`, by sample number."""

    @property
    def size(self) -> int:
        """N."""
        return len(self.blocks)

    @property
    def tv_exact(self) -> float | None:
        """The distance if it is exact, else None."""
        return self.tv.value if self.tv.kind == "exact" else None

    @property
    def p_words(self) -> str:
        """The formatted p-value; never shown as 0."""
        return f"{self.p_value:.2g}" if self.p_value >= 1e-4 else "< 0.0001"

    def as_json(self) -> dict[str, Any]:
        """Plain values, without the blocks."""
        plain = ("sampler", "nfe", "g", "dof", "p_value", "tv_plug_in", "tv_expected", "kl", "tv_exact", "seconds")
        values = {name: getattr(self, name) for name in plain}
        return {**values, "blocks": self.size, "tv": asdict(self.tv), "impossible": asdict(self.impossible)}


@dataclass(frozen=True)
class ContextStudy:
    """Everything about the next K tokens after one context: exact distribution, total correlation, samplers."""

    k: int
    law: BlockLaw  # of the first two tokens
    correlation: Correlation
    error: ProductError | None  # None without a masked model
    samplers: list[SamplerLaw]  # the teacher first
    impossible_below: float  # log-probability of "almost impossible": rarer than 1 in 1,000 of the teacher's blocks
    impossible_expected: float
    """Fraction of the teacher's blocks below it: exact for K = 2 if all first tokens are covered, else 0.001."""
    seed: int
    notes: list[str]  # what is left out, and why
    seconds: float
    device: str  # of the models: cpu or cuda
    temperature: float = 1.0  # of teacher and student

    def as_json(self) -> dict[str, Any]:
        """Plain values, without the samples and the (M, V) distribution."""
        law, found = self.law, self.correlation
        return {
            "token_ids": law.context.tolist(),
            **{name: getattr(self, name) for name in ("k", "seed", "temperature")},
            "first_tokens": len(law.first),
            "uncovered_mass": law.uncovered,
            "mutual_information": law.mutual_information.value,
            "mutual_information_bounds": [law.mutual_information.lower, law.mutual_information.upper],
            "tv_product": law.tv_product.value,
            "tv_product_bounds": [law.tv_product.lower, law.tv_product.upper],
            "total_correlation": asdict(found.total),
            "total_correlation_by_slot": [asdict(slot) for slot in found.by_slot],
            "entropy": found.entropy,
            "entropy_by_slot": found.surprise,
            "correlation_samples": found.samples,
            "masked_error": None if self.error is None else {**asdict(self.error), "total": self.error.total},
            **{name: getattr(self, name) for name in ("impossible_below", "impossible_expected")},
            "samplers": [row.as_json() for row in self.samplers],
            **{name: getattr(self, name) for name in ("notes", "seconds", "device")},
        }


@dataclass(frozen=True)
class RankedContext:
    """A context, and the mutual information of the next two tokens."""

    text: str
    token_ids: list[int]
    mutual_information: float  # nats, the estimate
    tv_product: float
    uncovered_mass: float
    example: str  # the pair of tokens whose probability under the product has the largest error
