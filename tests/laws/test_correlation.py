"""Total correlation by Monte-Carlo: against enumeration, its interval's coverage, and the two error sources."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from kfexplore.laws.correlation import slot_means
from kfexplore.laws.exact import TeacherTree, pair_law
from kfexplore.laws.samplers import teacher_blocks

from .brute import FULL, IDS, ROWS, block_law, divergence, product, tiny

PAIR = tiny()
TREE = TeacherTree(PAIR.teacher, np.array(IDS))


@pytest.mark.parametrize("k", [2, 3, 4])
def test_total_correlation_is_that_of_the_enumerated_distribution(k: int) -> None:
    whole = block_law(PAIR.teacher, IDS, k)
    blocks = teacher_blocks(TREE, k, 1, range(4096))
    found = slot_means(TREE, k, blocks).correlation()
    true = divergence(whole, product(whole))
    assert abs(found.total.value - true) < 1.6 * found.total.half  # three standard errors
    assert found.total.half < 0.2 * true
    assert found.by_slot[0].value == 0
    assert sum(slot.value for slot in found.by_slot) == pytest.approx(found.total.value)
    margins = np.stack([whole.sum(axis=tuple(i for i in range(k) if i != j)) for j in range(k)])
    np.testing.assert_allclose(found.marginals, margins, atol=0.02)
    assert found.entropy == pytest.approx(-(whole[whole > 0] * np.log(whole[whole > 0])).sum(), abs=0.05)
    assert found.samples == 4096


def test_two_exact_slots_need_no_blocks() -> None:
    law = pair_law(PAIR, IDS)
    found = slot_means(TREE, 2, np.empty((0, 2), dtype=np.int64), law).correlation()
    known = law.mutual_information
    assert (found.total.low, found.total.value, found.total.high) == (known.lower, known.value, known.upper)
    assert found.samples == 0
    assert sum(found.surprise) == pytest.approx(-(law.joint[law.joint > 0] * np.log(law.joint[law.joint > 0])).sum())


def test_exact_second_slot_serves_a_longer_block() -> None:
    law, whole = pair_law(PAIR, IDS), block_law(PAIR.teacher, IDS, 3)
    found = slot_means(TREE, 3, teacher_blocks(TREE, 3, 1, range(4096)), law).correlation()
    assert found.by_slot[1].value == law.mutual_information.value
    assert found.total.low <= divergence(whole, product(whole)) <= found.total.high
    np.testing.assert_allclose(found.marginals[1], law.marginal_2, atol=1e-12)


@pytest.mark.parametrize("runs", [60, pytest.param(200, marks=FULL)])
def test_intervals_hold_the_truth_as_often_as_they_say_and_the_bias_is_gone(runs: int) -> None:
    whole = block_law(PAIR.teacher, IDS, 3)
    true = divergence(whole, product(whole))
    found = [
        slot_means(TREE, 3, teacher_blocks(TREE, 3, 7, range(64 * n, 64 * n + 64))).correlation() for n in range(runs)
    ]
    inside = sum(f.total.low <= true <= f.total.high for f in found)
    assert inside >= binom.ppf(0.001, runs, 0.95)
    values = np.array([f.total.value for f in found])
    assert abs(values.mean() - true) < 3.3 * values.std() / np.sqrt(runs)


@pytest.mark.parametrize("exact", [False, True])
def test_the_two_errors_of_a_masked_model_add_up_to_its_divergence(exact: bool) -> None:
    k = 2 if exact else 3
    whole = block_law(PAIR.teacher, IDS, k)
    wrong = np.random.default_rng(0).dirichlet(np.ones(ROWS), size=k)
    wrong_law = wrong[0]
    for q in wrong[1:]:
        wrong_law = np.multiply.outer(wrong_law, q)
    blocks = teacher_blocks(TREE, k, 1, range(4096))[: 0 if exact else None]
    error = slot_means(TREE, k, blocks, pair_law(PAIR, IDS)).against(wrong)
    tolerance = 1e-5 if exact else 0.05
    assert error.total == pytest.approx(divergence(whole, wrong_law), abs=tolerance)
    assert error.product == pytest.approx(divergence(whole, product(whole)), abs=tolerance)
    margins = [whole.sum(axis=tuple(i for i in range(k) if i != j)) for j in range(k)]
    assert error.wrong_marginals == pytest.approx(
        [divergence(m, q) for m, q in zip(margins, wrong, strict=True)], abs=tolerance
    )
    assert error.total == error.product + sum(error.wrong_marginals)
