"""Laws of a block: exact, of toys, of samplers, and how far they lie apart."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kfexplore.results.maps import Floats, Ints
from kfexplore.results.quality import Estimate


@dataclass(frozen=True)
class Independence:
    """Two positions (from 0) that are independent under a law, given values of others."""

    left: int
    right: int
    given: tuple[int, ...]
    """Positions that are seen; empty for none."""
    values: tuple[int, ...]
    """What is seen there."""

    @property
    def seen(self) -> str:
        """What is visible, as in "x1 = 0"."""
        return ", ".join(f"x{j + 1} = {value}" for j, value in zip(self.given, self.values, strict=True)) or "nothing"

    def __str__(self) -> str:
        return f"x{self.left + 1} and x{self.right + 1} are independent given {self.seen}"


@dataclass(frozen=True)
class FullSupport(Independence):
    """Two positions that take all combinations of their values, given values of others; they may be dependent."""

    def __str__(self) -> str:
        return f"x{self.left + 1} and x{self.right + 1} take all combinations of their values given {self.seen}"


@dataclass(frozen=True)
class Unmasking:
    """Passes of given sizes over all orders of the positions: how far marginal unmasking ends from the law."""

    sizes: tuple[int, ...]
    """Positions unmasked in each pass."""
    best: float
    """Total variation distance in 0 .. 1 of the best order."""
    worst: float
    best_order: tuple[tuple[int, ...], ...]
    """Positions (from 0) of each pass."""
    worst_order: tuple[tuple[int, ...], ...]
    random: float
    """Distance of a uniformly random order: the errors of the orders can cancel, so it may be below `best`."""

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
    """A law of L tokens in closed form, and what marginal unmasking makes of it."""

    name: str
    parameters: dict[str, float]
    law: Floats
    """(V,) * L exact probabilities."""
    one_pass: Floats
    """(V,) * L product of its marginals: all positions unmasked in one pass."""
    schedules: list[Unmasking]
    """Every split of the positions into passes, by number of passes, even sizes first."""
    paper: Independence | None
    """Why the law fails the paper's definition of conditional irreducibility; None where it meets it."""
    strong: Independence | None
    """The same for dependence given every visible set."""
    support: FullSupport | None
    """Why the law fails the support condition, the one that also covers random orders; None where it meets it."""
    push_forward: float = 0.0
    """Distance of the exact map in one pass: noise of one coordinate a token, by inverse CDF, gives any law."""

    @property
    def passes(self) -> list[Unmasking]:
        """(L,) the even schedule of each number of passes, from 1."""
        return [schedule for schedule in self.schedules if schedule.even]

    @property
    def impossible(self) -> float:
        """Share of the one-pass blocks that the law never gives."""
        return float(self.one_pass[self.law == 0].sum())

    def as_json(self) -> dict[str, Any]:
        """Plain values; distances to 12 decimals, which leaves out the rounding of float64."""

        def distances(schedule: Unmasking) -> dict[str, float]:
            return {"best": round(schedule.best, 12), "worst": round(schedule.worst, 12)}

        return {
            "toy": self.name,
            "parameters": self.parameters,
            "tv_by_passes": {str(len(schedule.sizes)): distances(schedule) for schedule in self.passes},
            "by_schedule": {schedule.name: distances(schedule) for schedule in self.schedules},
            "tv_random_order": {str(len(schedule.sizes)): round(schedule.random, 12) for schedule in self.passes},
            "tv_random_order_by_schedule": {schedule.name: round(schedule.random, 12) for schedule in self.schedules},
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
class Bounded:
    """A quantity that a truncation leaves open, between limits that hold for certain; equal where nothing is left."""

    lower: float
    value: float
    """The estimate: what was left out behaves as the rest does."""
    upper: float


@dataclass(frozen=True)
class BlockLaw:
    """The teacher's law of the next two tokens after a context, on the M most likely first tokens."""

    context: Ints
    """(N,) token ids."""
    first: Ints
    """(M,) first tokens, most likely first."""
    marginal_1: Floats
    """(V,) law of the first token, all of it."""
    given: npt.NDArray[np.float32]
    """(M, V) law of the second token after each of them; float32, as the teacher's logits are."""
    uncovered: float
    """delta, the probability of all other first tokens; 0 where all are there."""
    mutual_information: Bounded
    """Of the two tokens, nats. It is KL(joint || product of the marginals) and, for two tokens, the total correlation:
    one number with three names."""
    tv_product: Bounded
    """Total variation distance of joint and product, 0 .. 1."""

    @property
    def marginal_2(self) -> Floats:
        """(V,) law of the second token over the M first tokens; off the whole one by at most delta in TV."""
        covered = self.marginal_1[self.first]
        return covered @ self.given.astype(np.float64) / covered.sum()

    @property
    def joint(self) -> Floats:
        """(M, V) probabilities of the pairs, which sum to 1 - delta."""
        return self.marginal_1[self.first, None] * self.given

    @property
    def product(self) -> Floats:
        """(M, V) probabilities that a sampler from the marginals gives them."""
        return np.outer(self.marginal_1[self.first], self.marginal_2)


@dataclass(frozen=True)
class Correlation:
    """What the K tokens of a block know of each other: sums over slots of H(m_j) - H(x_j | x_<j), nats."""

    total: Estimate
    """Total correlation. For K = 2 with the exact law the limits are certain ones, not an interval."""
    by_slot: list[Estimate]
    """(K,) mutual information of x_j and all slots before it; its sum is the total. Slot 1 has none."""
    surprise: list[float]
    """(K,) entropy H(x_j | x_<j); their sum is the block's own entropy."""
    marginals: Floats
    """(K, V) laws m_j of each slot after the context alone."""
    samples: int
    """Blocks of the teacher over which the marginals are means; 0: exact."""

    @property
    def entropy(self) -> float:
        """Of the block under the teacher, nats."""
        return sum(self.surprise)


@dataclass(frozen=True)
class ProductError:
    """KL(teacher's block law || product of a masked model's one-pass marginals), nats: two sources that add up."""

    product: float
    """The total correlation: what the product alone costs, however good the marginals are."""
    wrong_marginals: list[float]
    """(K,) KL(m_j || q_j): what wrong marginals add, by slot."""

    @property
    def total(self) -> float:
        """The sum of both."""
        return self.product + sum(self.wrong_marginals)


@dataclass(frozen=True)
class Distance:
    """Total variation distance between a sampler's distribution and the teacher's, 0 .. 1."""

    value: float
    low: float
    high: float | None
    """None for a lower bound: nothing is known from above."""
    kind: Literal["exact", "quadrature", "lower_bound"]
    """exact: both distributions are known, low = value = high. quadrature: the areas of the learned map, low and high
    are the stated error. lower_bound: from sampled blocks; low is the 95 % lower limit, which is what may be shown as a
    bound, and value estimates a smaller distance, so it may exceed the true one by chance. One lower bound must not be
    compared with another, nor with an exact value: how much each misses differs."""

    @property
    def is_known(self) -> bool:
        """Whether the value is the distance itself, so that it may be compared with others."""
        return self.kind != "lower_bound"

    @property
    def words(self) -> str:
        """The value to be read, as in "0.581", or "≥ 0.520" with the limit of a lower bound."""
        return f"{self.value:.3f}" if self.is_known else f"≥ {self.low:.3f}"

    @property
    def limits(self) -> str:
        """Its limits to be read."""
        if self.high is None:
            return "lower limit"
        return "exact" if self.kind == "exact" else f"{self.low:.3f} to {self.high:.3f}"


def exactly(value: float) -> Distance:
    """A distance between two known distributions."""
    return Distance(value, value, value, "exact")


@dataclass(frozen=True)
class Cells:
    """A partition of all blocks of K tokens under the teacher's law, chosen before any sample is looked at."""

    blocks: Ints
    """(n, K) the blocks that are a cell each, most likely first."""
    probability: Floats
    """(C,) of each cell: the n blocks, then C - n pools of rarer ones."""
    pools: list[str]
    """(C - n) what each pool holds."""


@dataclass(frozen=True)
class SamplerLaw:
    """N blocks of one sampler against the teacher's law."""

    sampler: str
    nfe: int
    """Forward passes a block."""
    blocks: Ints
    """(N, K) the blocks, by sample number."""
    cells: Cells
    """The partition that N blocks are tested on."""
    counts: Ints
    """(C,) of them in each cell."""
    g: float
    """Likelihood ratio statistic (G-test) over the cells, with Williams' correction."""
    dof: int
    p_value: float
    """Chance of such a G or a larger one under the teacher's own law; 1 where there is only one cell."""
    tv: Distance
    """Exact where both distributions are known, by quadrature for the student at K = 2, else a lower bound."""
    tv_plug_in: float
    """Distance of the N blocks' shares from the law over the cells alone: biased upwards by the finite sample, and
    blind to errors within cells. It is not an estimate of `tv`; compare it with `tv_expected`."""
    tv_expected: float
    """What that plug-in is on average for N of the teacher's own blocks, which are 0 away."""
    impossible: Estimate
    """Share of blocks whose probability is below `ContextStudy.impossible_below`."""
    is_impossible: npt.NDArray[np.bool_]
    """(N,) which."""
    kl: float | None
    """KL(teacher || sampler) in nats where the sampler's law is known: 0 or a product of marginals."""
    seconds: float
    """To draw the blocks, and to find `tv` by quadrature."""

    @property
    def size(self) -> int:
        """N."""
        return len(self.blocks)

    @property
    def tv_exact(self) -> float | None:
        """The distance, where it is exact."""
        return self.tv.value if self.tv.kind == "exact" else None

    @property
    def p_words(self) -> str:
        """The p-value to be read: none is nothing."""
        return f"{self.p_value:.2g}" if self.p_value >= 1e-4 else "< 0.0001"


@dataclass(frozen=True)
class ContextStudy:
    """Everything about the next K tokens after one context: exact law, total correlation, samplers."""

    k: int
    law: BlockLaw
    """Of the first two of them."""
    correlation: Correlation
    error: ProductError | None
    """None without a masked model."""
    samplers: list[SamplerLaw]
    """The teacher's first."""
    impossible_below: float
    """Log-probability below which a block counts as all but impossible: rarer than 1 in 1,000 of the teacher's own."""
    impossible_expected: float
    """Share of the teacher's own blocks below it: exact for K = 2 with all first tokens covered, else 0.001."""
    seed: int
    notes: list[str]
    """What was left out, and why."""
    seconds: float
    device: str
    """Of the models: cpu or cuda."""
    temperature: float = 1.0
    """Of teacher and student."""

    def as_json(self) -> dict[str, Any]:
        """Plain values; the samples themselves and the (M, V) law are left out."""
        law, found = self.law, self.correlation
        return {
            "token_ids": law.context.tolist(),
            "k": self.k,
            "seed": self.seed,
            "temperature": self.temperature,
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
            "impossible_below": self.impossible_below,
            "impossible_expected": self.impossible_expected,
            "samplers": [_sampler_json(row) for row in self.samplers],
            "notes": self.notes,
            "seconds": self.seconds,
            "device": self.device,
        }


def _sampler_json(row: SamplerLaw) -> dict[str, Any]:
    plain = ("sampler", "nfe", "g", "dof", "p_value", "tv_plug_in", "tv_expected", "kl", "tv_exact", "seconds")
    values = {name: getattr(row, name) for name in plain}
    return {**values, "blocks": row.size, "tv": asdict(row.tv), "impossible": asdict(row.impossible)}


@dataclass(frozen=True)
class RankedContext:
    """A context of a text, and how much the next two tokens know of each other there."""

    text: str
    token_ids: list[int]
    mutual_information: float
    """Nats, the estimate."""
    tv_product: float
    uncovered_mass: float
    example: str
    """The pair of tokens that the product gives most too rarely or too often (largest difference of probability)."""
