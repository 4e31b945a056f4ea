"""Blocks, sweeps and grids are the same map seen in three ways; bad questions get an error a user can read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import student, teacher

from kfexplore.errors import KfError
from kfexplore.maps import PrefilledContext, block, grid, sweep, sweeps
from kfexplore.results import steps

U = np.array([0.31, 0.62, 0.17, 0.84])


@pytest.fixture(scope="module")
def held() -> PrefilledContext:
    return PrefilledContext(teacher(1, peaky=2), student(11, peaky=2), torch.tensor([3, 1, 4, 1, 5]))


def at(base: np.ndarray, **slots: float) -> np.ndarray:
    moved = base.copy()
    for slot, value in slots.items():
        moved[int(slot[1:])] = value
    return moved


def test_block_has_both_maps_under_one_noise(held: PrefilledContext) -> None:
    u = np.random.default_rng(0).random((50, 3))
    whole = block(held, u)
    assert np.array_equal(whole.u, u)
    assert np.array_equal(whole.exact, held.exact(u)[0])
    assert np.array_equal(whole.edges, held.exact(u)[1])
    assert np.array_equal(whole.learned, held.learned(u)[0])
    assert np.array_equal(whole.margins, held.learned(u)[1])
    assert {a.dtype for a in (whole.exact, whole.learned)} == {np.dtype(np.int64)}


def test_one_noise_vector_may_come_without_rows(held: PrefilledContext) -> None:
    assert np.array_equal(block(held, U).student, block(held, U[None]).student)


def test_sweep_is_the_block_of_each_step(held: PrefilledContext) -> None:
    for slot in range(4):
        moved = sweep(held, U, slot, 40)
        rows = np.array([at(U, **{f"u{slot}": value}) for value in steps(40)])
        assert np.array_equal(moved.block.u, rows)
        for row, exact, learned in zip(rows, moved.block.exact, moved.block.learned, strict=True):
            single = block(held, row)
            assert (single.teacher[0].tolist(), single.student[0].tolist()) == (exact.tolist(), learned.tolist())


def test_sweeps_together_are_the_sweeps_one_by_one(held: PrefilledContext) -> None:
    together = sweeps(held, U, [2, 0, 3], 64)
    assert [s.slot for s in together] == [2, 0, 3]
    for moved in together:
        single = sweep(held, U, moved.slot, 64)
        assert np.array_equal(moved.block.u, single.block.u)
        assert np.array_equal(moved.block.exact, single.block.exact)
        assert np.array_equal(moved.block.learned, single.block.learned)


@pytest.mark.parametrize("slots", [(0, 1), (1, 3), (0, 3)])
def test_grid_point_is_the_block_of_its_two_noise_values(held: PrefilledContext, slots: tuple[int, int]) -> None:
    i, j = slots
    square, points = grid(held, U, slots, 16), steps(16)
    for a, b in np.random.default_rng(0).integers(0, 16, (40, 2)):
        single = block(held, at(U, **{f"u{i}": points[a], f"u{j}": points[b]}))
        assert square.exact[a, b].tolist() == single.teacher[0, [i, j]].tolist()
        assert square.learned[a, b].tolist() == single.student[0, [i, j]].tolist()
        assert square.margins[a, b] == pytest.approx(single.margins[0, [i, j]], abs=1e-4)


def test_slots_after_a_grid_do_not_matter(held: PrefilledContext) -> None:
    one, other = grid(held, U, (0, 1), 16), grid(held, at(U, u2=0.9, u3=0.1), (0, 1), 16)
    assert np.array_equal(one.teacher, other.teacher)
    assert np.array_equal(one.student, other.student)


@pytest.mark.parametrize("resolution", [1, 2, 7, 100])
def test_steps_are_the_middles_of_equal_parts(resolution: int) -> None:
    points = steps(resolution)
    assert points[0] == pytest.approx(0.5 / resolution)
    assert np.allclose(np.diff(points), 1 / resolution)
    assert points[-1] == pytest.approx(1 - 0.5 / resolution)


def test_agreement_of_a_grid_is_counted_over_all_of_it(held: PrefilledContext) -> None:
    square = grid(held, U, (0, 1), 20)
    exact, learned = (getattr(square, which).reshape(-1, 2).tolist() for which in ("exact", "learned"))
    assert square.agreement == sum(a == b for a, b in zip(exact, learned, strict=True)) / 400


Question = Callable[[PrefilledContext], object]
REFUSED: dict[str, tuple[Question, str]] = {
    "slot below 0": (lambda held: sweep(held, U, -1, 8), "no slot -1"),
    "slot that u has not": (lambda held: sweep(held, U[:2], 2, 8), "no slot 2"),
    "one bad slot of several": (lambda held: sweeps(held, U, [0, 4], 8), "no slot 4"),
    "no steps": (lambda held: sweep(held, U, 0, 0), "resolution is 0"),
    "too many steps": (lambda held: sweep(held, U, 0, 1025), "resolution is 1025"),
    "no steps of a grid": (lambda held: grid(held, U, (0, 1), 0), "resolution is 0"),
    "too many steps of a grid": (lambda held: grid(held, U, (0, 1), 1025), "resolution is 1025"),
    "one slot twice": (lambda held: grid(held, U, (1, 1), 8), "1 and 1"),
    "later slot first": (lambda held: grid(held, U, (2, 1), 8), "2 and 1"),
    "grid slot below 0": (lambda held: grid(held, U, (-1, 1), 8), "-1 and 1"),
    "grid slot that u has not": (lambda held: grid(held, U, (0, 4), 8), "no slot 4"),
    "no noise": (lambda held: block(held, np.empty((3, 0))), "0 noise values"),
    "more noise than slots": (lambda held: block(held, np.full((3, 5), 0.5)), "5 noise values"),
    "sweep of more noise than slots": (lambda held: sweep(held, np.full(5, 0.5), 0, 8), "5 noise values"),
    "noise of 1": (lambda held: block(held, at(U, u2=1.0)), "outside"),
    "negative noise": (lambda held: sweep(held, at(U, u2=-0.1), 0, 8), "outside"),
    "noise that is no number": (lambda held: grid(held, at(U, u2=np.nan), (0, 1), 8), "outside"),
}


@pytest.mark.parametrize("question", REFUSED)
def test_bad_questions_are_user_errors(held: PrefilledContext, question: str) -> None:
    ask, message = REFUSED[question]
    with pytest.raises(KfError, match=message):
        ask(held)


def test_the_largest_resolution_is_accepted(held: PrefilledContext) -> None:
    assert len(sweep(held, U[:1], 0, 1024).block.u) == 1024


def test_sections_at_a_temperature_are_the_blocks_at_it(held: PrefilledContext) -> None:
    moved, square = sweep(held, U, 1, 16, temperature=0.5), grid(held, U, (0, 2), 8, temperature=0.5)
    assert np.array_equal(moved.block.exact, block(held, moved.block.u, 0.5).teacher)
    assert np.array_equal(moved.block.learned, block(held, moved.block.u, 0.5).student)
    assert not np.array_equal(moved.block.exact, sweep(held, U, 1, 16).block.exact)
    corner = block(held, at(U, u0=steps(8)[3], u2=steps(8)[5]), 0.5)
    assert square.exact[3, 5].tolist() == corner.teacher[0, [0, 2]].tolist()
    assert square.learned[3, 5].tolist() == corner.student[0, [0, 2]].tolist()


@pytest.mark.parametrize("temperature", [0, -1.0, 0.001, 1000, float("nan"), float("inf"), "1", None, True])
def test_a_temperature_that_is_none_is_refused(held: PrefilledContext, temperature: Any) -> None:
    with pytest.raises(KfError, match=r"The temperature is (.|\n)*a number from 0.01 to 10"):
        block(held, U, temperature)
