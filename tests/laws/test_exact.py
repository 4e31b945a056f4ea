"""The exact distribution of two tokens against enumeration, and its bounds for every M."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import student, teacher
from scipy.optimize import minimize
from scipy.special import entr

from kfexplore.errors import KfError
from kfexplore.laws import exact
from kfexplore.laws.exact import TeacherTree, largest_entropy, law_from, pair_law
from kfexplore.pair import Pair

from .brute import IDS, MASK, ROWS, block_law, divergence, product, tiny


@pytest.mark.parametrize("seed", [1, 2, 4])
def test_all_first_tokens_give_the_distribution_by_enumeration(seed: int) -> None:
    pair = tiny(seed=seed)
    law, whole = pair_law(pair, IDS), block_law(pair.teacher, IDS, 2)
    assert law.uncovered == 0
    assert MASK not in law.first
    assert list(law.marginal_1[law.first]) == sorted(law.marginal_1[law.first], reverse=True)
    np.testing.assert_allclose(law.joint, whole[law.first], atol=2e-6)
    np.testing.assert_allclose(law.product, product(whole)[law.first], atol=2e-6)
    np.testing.assert_allclose(law.marginal_2, whole.sum(axis=0), atol=2e-6)
    information = divergence(whole, product(whole))
    assert information > 0.1
    for found, true in (
        (law.mutual_information, information),
        (law.tv_product, np.abs(whole - product(whole)).sum() / 2),
    ):
        assert (found.lower, found.value, found.upper) == pytest.approx((true, true, true), abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("first", range(1, ROWS + 1, 2))
def test_bounds_hold_for_every_m(seed: int, first: int) -> None:
    pair = tiny(seed=seed)
    whole = block_law(pair.teacher, IDS, 2)
    law = pair_law(pair, IDS, first)
    assert law.given.shape == (first, ROWS)
    assert law.uncovered == pytest.approx(1 - whole.sum(axis=1)[law.first].sum(), abs=1e-6)
    true = divergence(whole, product(whole)), np.abs(whole - product(whole)).sum() / 2
    for found, value in zip((law.mutual_information, law.tv_product), true, strict=True):
        assert found.lower - 1e-6 <= value <= found.upper + 1e-6
        assert found.lower <= found.value <= found.upper


def test_bounds_hold_whatever_the_rest_does_and_are_reached() -> None:
    rng = np.random.default_rng(0)
    reached = np.full(4, np.inf)
    for trial in range(1500):
        first = rng.dirichlet(np.full(5, 0.7))
        given = rng.dirichlet(np.full(5, 0.3), size=5)
        order = np.argsort(-first)
        first, given = first[order], given[order]
        some = int(rng.integers(1, 5))
        second = first[:some] @ given[:some] / first[:some].sum()
        if trial % 3 == 1:
            given[some:] = second
        elif trial % 3 == 2:
            given[some:] = np.eye(5)[np.argsort(second)[: 5 - some]]
        whole = first[:, None] * given
        law = law_from(np.array(IDS), first, np.arange(some), given[:some])
        true = divergence(whole, product(whole)), np.abs(whole - product(whole)).sum() / 2
        for n, (found, value) in enumerate(zip((law.mutual_information, law.tv_product), true, strict=True)):
            assert found.lower - 1e-6 <= value <= found.upper + 1e-6
            reached[2 * n : 2 * n + 2] = np.minimum(
                reached[2 * n : 2 * n + 2], [value - found.lower, found.upper - value]
            )
    assert reached.max() < 0.01  # no bound is looser than it must be


def test_largest_entropy_is_the_one_that_a_solver_finds() -> None:
    mass, more = np.array([0.5, 0.02, 0.2, 0.0]), 0.28
    found = minimize(
        lambda q: -entr(mass + q).sum(),
        np.full(4, more / 4),
        bounds=[(0, more)] * 4,
        constraints={"type": "eq", "fun": lambda q: q.sum() - more},
    )
    assert largest_entropy(mass, more) == pytest.approx(-found.fun, abs=1e-6)
    assert largest_entropy(np.zeros(8), 1.0) == pytest.approx(np.log(8))


def test_tiles_and_prefixes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny()
    whole, three = pair_law(pair, IDS), block_law(pair.teacher, IDS, 3)
    blocks = np.array([[0, 1, 2], [5, 5, 5], [0, 1, 2], [3, 0, 1]])
    monkeypatch.setattr(exact, "ROWS_AT_ONCE", 2)
    tiled = pair_law(pair, IDS)
    np.testing.assert_allclose(tiled.given, whole.given, atol=1e-6)
    tree = TeacherTree(pair.teacher, np.array(IDS))
    np.testing.assert_allclose(tree.log_probs(blocks), np.log(three[tuple(blocks.T)]), atol=1e-5)
    np.testing.assert_allclose(tree.log_probs(blocks[:, :1]), np.log(tree.root[blocks[:, 0]]))


def test_large_vocabulary_takes_the_fewest_that_leave_two_per_cent(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(teacher(), student())
    monkeypatch.setattr(exact, "SMALL_VOCABULARY", 23)
    law = pair_law(pair, IDS)
    assert law.uncovered <= 0.02 < law.uncovered + law.marginal_1[law.first[-1]]
    monkeypatch.setattr(exact, "LARGEST_LAW", 24 * 3)
    cut = pair_law(pair, IDS)  # the rest is in the bounds
    assert (len(cut.first), cut.uncovered) == (3, pytest.approx(1 - cut.marginal_1[cut.first].sum()))
    assert cut.mutual_information.lower <= law.mutual_information.value <= cut.mutual_information.upper
    with pytest.raises(KfError) as caught:
        pair_law(pair, IDS, 4)
    assert caught.value.valid == "at most 3 first tokens"


@pytest.mark.parametrize("first", [0, -1, ROWS + 1])
def test_m_outside_the_vocabulary_is_refused(first: int) -> None:
    with pytest.raises(KfError, match=f"{first} first tokens"):
        pair_law(tiny(), IDS, first)


@pytest.mark.parametrize("ids", [[], [1] * 45, [ROWS]])
def test_contexts_that_the_pair_cannot_read_are_refused(ids: list[int]) -> None:
    with pytest.raises(KfError):
        pair_law(tiny(), ids)


def test_what_does_not_sum_to_one_is_not_a_distribution() -> None:
    half = np.full(2, 0.5)
    for first, given in ((half, [[0.5, 0.4], half]), ([0.5, 0.6], [half, half]), (half, [[1.5, -0.5], half])):
        with pytest.raises(KfError, match="distribution"):
            law_from(np.array(IDS), np.array(first), np.arange(2), np.array(given))
    pair = tiny()
    with torch.no_grad():
        pair.teacher.output_layer.linear.weight[0] = float("nan")
    with pytest.raises(KfError, match="sums to nan"):
        pair_law(pair, IDS)
