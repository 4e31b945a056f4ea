"""Statistics on their own null and against known differences: false alarms, coverage, power, partitions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.stats import binom, kstest, multinomial
from torch import Tensor

from kfexplore.errors import KfError
from kfexplore.laws import goodness
from kfexplore.laws.exact import TeacherTree, law_from, pair_law
from kfexplore.laws.goodness import (
    EXPECTED,
    UNUSUAL,
    Partition,
    Tail,
    expected_tv,
    g_test,
    log_probs,
    pair_partition,
    partition,
    plug_in_tv,
    rarest,
    tree_partition,
    tv_lower_bound,
)
from kfexplore.laws.samplers import teacher_blocks
from kfexplore.results import Distance, Floats, Ints, exactly

from .brute import FULL, IDS, ROWS, block_law, product, tiny

PAIR = tiny()
TREE = TeacherTree(PAIR.teacher, np.array(IDS))
LAW = pair_law(PAIR, IDS)
RUNS = 400


def partitions(k: int, size: int) -> list[Partition]:
    tree = tree_partition(TREE, k, size)
    return [tree, pair_partition(LAW, size), pair_partition(pair_law(PAIR, IDS, 2), size)] if k == 2 else [tree]


@pytest.mark.parametrize("size", [6, 100, 600, 4096])
@pytest.mark.parametrize("k", [2, 3])
def test_cells_have_the_probability_of_their_blocks_and_are_expected_five_times(k: int, size: int) -> None:
    whole = block_law(PAIR.teacher, IDS, k)
    every = np.array(list(itertools.product(range(ROWS), repeat=k)))
    for parts in partitions(k, size):
        cells, index = parts.cells, parts.index(every)
        mass = np.bincount(index, whole.ravel(), minlength=len(cells.probability))
        np.testing.assert_allclose(mass, cells.probability, atol=1e-5)
        assert (cells.probability * size >= EXPECTED - 1e-3).all()
        assert len(cells.pools) == len(cells.probability) - len(cells.blocks)
        np.testing.assert_array_equal(parts.index(cells.blocks), np.arange(len(cells.blocks)))
        likely = cells.probability[: len(cells.blocks)]
        assert (np.diff(likely) <= 0).all()
        np.testing.assert_allclose(whole[tuple(cells.blocks.T)], likely, atol=1e-5)
        # No block that is likely enough is pooled, but for those that fill up a pool.
        covered = index < len(index) if parts.cells.pools[-1] != "other first tokens" else index < index.max()
        pooled = covered & (whole.ravel() * size >= EXPECTED) & (index >= len(likely))
        assert pooled.sum() <= 1


@pytest.mark.parametrize("runs", [80, pytest.param(RUNS, marks=FULL)])
@pytest.mark.parametrize(("k", "size"), [(2, 300), (3, 600)])
def test_g_test_s_p_values_are_uniform_on_the_teacher_s_own_blocks(k: int, size: int, runs: int) -> None:
    blocks = teacher_blocks(TREE, k, 21, range(runs * size))
    for part in partitions(k, size):
        law = part.cells.probability
        cells = part.index(blocks).reshape(runs, size)
        found = np.array([g_test(np.bincount(run, minlength=len(law)), law)[2] for run in cells])
        assert binom.ppf(1e-3, runs, 0.05) <= (found < 0.05).sum() <= binom.ppf(1 - 1e-3, runs, 0.05)
        assert kstest(found, "uniform").pvalue > 1e-3


def test_g_test_of_cases_worked_out_by_hand() -> None:
    # G = 2 (30 ln(30/20) + 10 ln(10/20)) = 10.4650, over 1 + (1/0.5 + 1/0.5 - 1) / (6 * 40) = 1.0125
    assert g_test(np.array([30, 10]), np.array([0.5, 0.5])) == pytest.approx(
        (10.46500 / 1.0125, 1, 0.0013049), rel=1e-4
    )
    assert g_test(np.array([9]), np.array([1.0])) == (0.0, 0, 1.0)
    with pytest.raises(KfError, match=r"sums to 0\.9"):
        g_test(np.array([5, 5]), np.array([0.5, 0.4]))


def test_expected_distance_is_that_of_the_multinomial() -> None:
    law, size = np.array([0.5, 0.3, 0.2, 0.0]), 6
    mean = 0.0
    for counts in itertools.product(range(size + 1), repeat=4):
        if sum(counts) == size:
            mean += multinomial.pmf(counts, size, law) * np.abs(np.array(counts) / size - law).sum() / 2
    assert expected_tv(law, size) == pytest.approx(mean)
    assert expected_tv(np.array([1.0]), 10) == 0


@pytest.mark.parametrize("strength", [0.0, 0.05, 0.3, 1.0])
def test_the_lower_bound_is_one(strength: float) -> None:
    rng, size, few = np.random.default_rng(3), 600, 12
    law, far = rng.dirichlet(np.full(200, 0.2), size=2)
    law, far = (np.sort(0.9 * each + 0.1 / 200)[::-1] for each in (law, far))
    far = rng.permutation(far)
    own = (1 - strength) * law + strength * far
    true = np.abs(own - law).sum() / 2
    cell = np.minimum(np.arange(200), few) + (np.arange(200) > 100)  # twelve blocks, then two pools
    cells = np.bincount(cell, law)
    runs = rng.choice(200, (RUNS, size), p=own)
    found = [tv_lower_bound(run[:, None], cell[run], cells, few, np.log(law[run])) for run in runs]
    assert all(f.high is None and f.kind == "lower_bound" for f in found)
    assert sum(f.low <= true for f in found) >= binom.ppf(1e-3, RUNS, 0.975)
    values = np.array([f.value for f in found])
    assert values.mean() < true + 4 * values.std() / RUNS**0.5 + 0.01 * (strength == 0)
    plain = np.array([plug_in_tv(np.bincount(cell[run], minlength=len(cells)), cells) for run in runs])
    if strength == 0:
        assert plain.mean() == pytest.approx(expected_tv(cells, size), abs=4 * plain.std() / RUNS**0.5)
        assert values.mean() < plain.mean() / 2
    if strength == 1:
        assert values.mean() > true - 0.1
        assert values.mean() > plain.mean()  # single blocks show what pools hide


def test_blocks_seen_are_counted_with_their_own_probability() -> None:
    """A sampler that gives two blocks out of a pool of many: the pool as a whole is right, and so no cell errs."""
    law = np.array([0.5, *np.full(50, 0.01)])
    own = np.array([0.5, 0.25, 0.25, *np.zeros(48)])
    cell = np.minimum(np.arange(51), 1)
    run = np.random.default_rng(0).choice(51, 400, p=own)
    assert plug_in_tv(np.bincount(cell[run]), np.array([0.5, 0.5])) < 0.06
    found = tv_lower_bound(run[:, None], cell[run], np.array([0.5, 0.5]), 1, np.log(law[run]))
    assert found.value == pytest.approx(np.abs(own - law).sum() / 2, abs=0.06)  # 0.48


def test_a_set_by_hand() -> None:
    # Cells: block 0 alone, and a pool of 1, 2, 3, ..; block 1 twice, 2 and 3 once in ten.
    cells, numbers = np.array([0] * 6 + [1] * 4), np.array([0] * 6 + [1, 1, 2, 3])
    known = np.log(np.array([0.5] * 6 + [0.05, 0.05, 0.2, 0.01]))
    chosen = goodness._chosen(cells, numbers, np.array([0.5, 0.5]), 1, 2, known)
    assert chosen.cells.tolist() == [True, False]  # 0.6 > 0.5; seen once 0.2 < 0.5 - 0.26
    assert (chosen.seen.tolist(), chosen.singles.tolist()) == ([1, 2, 3], [True, False, True])
    assert chosen.probability == pytest.approx(0.5 + 0.05 + 0.01)
    assert chosen.score == pytest.approx(0.1 + (0.2 - 0.05) - 0.01)
    inside = chosen.holds(np.array([0, 1, 1, 1, 1]), np.array([0, 1, 2, 3, 9]))
    assert inside.tolist() == [True, True, False, True, False]


class Written(TeacherTree):
    """The tree of an explicit distribution of three tokens (V, V, V)."""

    def __init__(self, law: Floats) -> None:
        self.law = law

    def after(self, prefixes: Ints, every: bool = False) -> Iterator[tuple[slice, Tensor]]:  # noqa: ARG002
        laws = np.stack([self.law[tuple(start)].reshape(len(self.law), -1).sum(axis=1) for start in prefixes])
        yield slice(None), torch.from_numpy(laws / laws.sum(axis=1, keepdims=True))


def follows(rows: int = 12) -> Floats:
    """A distribution of three tokens: nearly always each is followed by one of two."""
    next_one = np.full((rows, rows), 5e-4 / rows)
    for token in range(rows):
        next_one[token, [(token + 1) % rows, (token + 2) % rows]] += np.array([0.6, 0.4]) * (1 - 5e-4)
    first = np.arange(1, rows + 1) / np.arange(1, rows + 1).sum()
    return first[:, None, None] * next_one[:, :, None] * next_one


def test_a_tail_is_taken_where_it_shows_more() -> None:
    blocks, cells = np.tile(np.arange(10), 20)[:, None], np.tile([0] * 6 + [1] * 4, 20)
    known = np.where(blocks[:, 0] < 4, -9.0, -1.0)

    def distance(*shares: float) -> float:
        tails = [Tail(-2, s, s) for s in shares]
        return tv_lower_bound(blocks, cells, np.array([0.5, 0.5]), 2, known, tails).value

    assert distance() == pytest.approx(0.1)  # 0.6 - 0.5
    assert distance(0.1) == pytest.approx(0.3)  # 0.4 - 0.1; what is left of the cells, 0.2 and 0.4, is no excess
    assert distance(0.35) == pytest.approx(0.1)  # 0.4 - 0.35 is less than the cells alone have
    assert distance(0.35, 0.1) == pytest.approx(0.3)


@pytest.mark.parametrize("sampler", ["the teacher", "its slots apart", "any block", "a tenth of any block"])
def test_what_is_rare_inside_cells_is_in_the_distance(sampler: str) -> None:
    rng, size, law = np.random.default_rng(5), 200, follows()
    apart, anything = product(law), np.full(law.shape, 1 / law.size)
    own = {"the teacher": law, "its slots apart": apart, "any block": anything}.get(sampler, 0.9 * law + 0.1 * anything)
    parts = tree_partition(Written(law), 3, size)
    cells, cell = parts.cells.probability, parts.index(np.array(list(np.ndindex(law.shape))))
    known = np.log(law.ravel())
    reference = rng.choice(known, 4096, p=law.ravel())
    tails = rarest(LAW, 3, reference)
    runs = rng.choice(law.size, (RUNS, size), p=own.ravel())
    named = len(parts.cells.blocks)
    found = [tv_lower_bound(run[:, None], cell[run], cells, named, known[run], tails) for run in runs]
    before = np.array([plug_in_tv(np.bincount(cell[run], minlength=len(cells)), cells) for run in runs])
    values = np.array([each.value for each in found])
    true = np.abs(own - law).sum() / 2  # every block is enumerated
    assert all(0 <= f.low <= f.value <= 1 for f in found)
    assert sum(f.low <= true for f in found) >= binom.ppf(1e-3, RUNS, 0.975)
    assert values.mean() < true + 0.03
    if sampler == "the teacher":
        assert all(f.low < 0.02 for f in found)
    if sampler in ("its slots apart", "any block"):
        assert before.mean() < true - 0.2
        assert abs(values.mean() - true) < 0.1
        assert np.mean([f.low for f in found]) > before.mean()


def test_all_but_impossible_is_one_in_a_thousand_of_the_teacher_s_own() -> None:
    whole = block_law(PAIR.teacher, IDS, 2)
    found, _ = rarest(LAW, 2, np.empty(0))
    below, share = found.below, found.fraction
    assert share == found.most <= 1e-3
    assert whole[whole < np.exp(below) * (1 - 1e-4)].sum() == pytest.approx(share, abs=1e-6)
    next_one = whole[whole >= np.exp(below) * (1 - 1e-4)].min()
    assert share + next_one > 1e-3
    own = TREE.log_probs(teacher_blocks(TREE, 3, 5, range(4000)))
    found, unusual = rarest(LAW, 3, own)
    below = found.below
    assert (own < below).mean() <= found.fraction == 1e-3 < found.most
    assert (own < unusual.below).mean() <= unusual.fraction == UNUSUAL < unusual.most
    three = block_law(PAIR.teacher, IDS, 3)
    assert three[three < np.exp(below) * (1 - 1e-4)].sum() < 3e-3


def test_probabilities_are_looked_up_or_computed_alike() -> None:
    blocks = np.array([[0, 1], [3, 3], [0, 1], [ROWS - 1, 0], [0, ROWS - 1]])
    found = log_probs(TREE, LAW, blocks)
    np.testing.assert_allclose(found[:3], TREE.log_probs(blocks)[:3], atol=1e-5)
    assert (found[3:] == -np.inf).all()
    np.testing.assert_allclose(log_probs(TREE, pair_law(PAIR, IDS, 2), blocks[:3]), found[:3], atol=1e-5)


def test_a_large_distribution_is_pooled_by_beginnings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "pointwise mutual information" in partition(TREE, LAW, 2, 1000).cells.pools[0]
    monkeypatch.setattr(goodness, "LARGEST_SORTED", 3)
    assert partition(TREE, LAW, 2, 1000).cells.pools[-1] == "all others"


def test_pools_beside_one_nearly_certain_pair_are_each_expected_often_enough() -> None:
    first = np.append(1 - 1e-4, np.full(8, 1e-4 / 8))
    law = law_from(np.array([1]), first, np.arange(9), np.tile(first, (9, 1)))
    for size in (512, 4096, 100_000):
        parts = pair_partition(law, size)
        cells = parts.cells.probability
        assert len(cells) == 1 or (cells * size >= 4.999).all()
        counts = np.bincount(parts.index(np.zeros((size, 2), dtype=np.int64)), minlength=len(cells))
        assert np.isfinite(g_test(counts, cells)).all()


def test_a_lower_bound_is_shown_by_its_limit_not_by_its_estimate() -> None:
    """The estimate exceeds the true distance in about half of all draws; the limit in one of forty."""
    found = Distance(0.62, 0.54, None, "lower_bound")
    assert (found.words, found.limits) == ("≥ 0.540", "lower limit")
    assert exactly(0.25).words == "0.250"
