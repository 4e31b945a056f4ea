"""The exact map of a written law: the paper's worked example, and laws that are none."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.grid_figures import square
from kfexplore.errors import KfError

FIRST, AFTER = [1 / 3, 2 / 3, 0], [[0, 1, 0], [1 / 2, 0, 1 / 2], [1, 0, 0]]


def test_the_papers_square_has_three_regions_of_a_third() -> None:
    pairs = square(FIRST, AFTER, 96)
    found, counts = np.unique(pairs.reshape(-1, 2), axis=0, return_counts=True)
    assert found.tolist() == [[0, 1], [1, 0], [1, 2]]
    assert counts.tolist() == [96 * 96 // 3] * 3
    assert (pairs[:32, :, 0] == 0).all()
    assert (pairs[32:, :48] == [1, 0]).all()
    assert (pairs[32:, 48:] == [1, 2]).all()


def test_areas_are_the_probabilities_of_any_law() -> None:
    rng = np.random.default_rng(0)
    first, after = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4), 4)
    pairs = square(first, after, 512).reshape(-1, 2)
    areas = np.bincount(pairs @ [4, 1], minlength=16).reshape(4, 4) / len(pairs)
    assert areas == pytest.approx(first[:, None] * after, abs=1 / 256)


def test_a_law_of_a_token_that_never_comes_may_be_anything() -> None:
    assert (square([1, 0], [[0, 1], [0, 0]], 4) == [0, 1]).all()


@pytest.mark.parametrize(
    ("first", "after"),
    [([0.5, 0.4], np.eye(2)), ([1.5, -0.5], np.eye(2)), ([1, 0], [[0, 0.5], [0, 1]]), ([1, 0], [[1, 0]])],
)
def test_what_is_no_law_is_refused(first: list[float], after: object) -> None:
    with pytest.raises(KfError):
        square(first, after)
