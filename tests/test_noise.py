"""Noise is keyed by (seed, sample, position), exact in float32, uniform, and checked where a person gives it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kfexplore import noise
from kfexplore.errors import KfError


def test_noise_is_the_same_for_ever() -> None:
    # Drawn once and written down: saved seeds must go on to give the tokens that they gave.
    expected = [[0.011546730995178223, 0.24154919385910034], [0.8133540153503418, 0.7513313889503479]]
    assert noise.uniform(0, [0, 1], 0, 2).tolist() == expected


def test_seeds_samples_and_positions_all_matter() -> None:
    drawn = np.concatenate([noise.uniform(seed, range(20), 0, 20).ravel() for seed in (0, 1, 2**64 - 1)])
    assert len(np.unique(drawn)) == len(drawn)


def test_noise_is_a_multiple_of_two_to_the_minus_24_below_one() -> None:
    u = noise.uniform(1, range(50), 0, 2000)
    steps = u * 2**24
    assert np.array_equal(steps, np.floor(steps))
    assert np.array_equal(u, u.astype(np.float32))
    assert u.min() >= 0
    assert u.astype(np.float32).max() < 1
    assert len(np.unique(steps % 2)) == 2  # the last bit is used


def test_noise_is_uniform_along_positions_and_along_samples() -> None:
    along_positions, along_samples = noise.uniform(2, [0], 0, 20_000)[0], noise.uniform(2, range(5000), 0, 1)[:, 0]
    for u in (along_positions, along_samples):
        assert stats.kstest(u, "uniform").pvalue > 0.01
        assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 3 / np.sqrt(len(u))


def test_no_samples_and_no_positions_are_empty() -> None:
    assert noise.uniform(0, [], 0, 4).shape == (0, 4)
    assert noise.uniform(0, [1, 2], 5, 0).shape == (2, 0)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_outside_64_bits_are_refused(seed: int) -> None:
    with pytest.raises(KfError, match=f"seed is {seed}"):
        noise.uniform(seed, [0], 0, 1)


def test_a_generator_is_keyed_by_all_its_parts() -> None:
    keys = [(0,), (1,), (0, 1), (0, 2), (0, 1, 1)]
    first = [noise.generator(*key).random() for key in keys]
    assert len(set(first)) == len(keys)
    assert first == [noise.generator(*key).random() for key in keys]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((5,), (5, 0)),
        ((5, 0), (5, 0, 0)),
        ((2**32,), (0, 1)),
        ((2**32 + 7, 3), (7, 1, 3)),
        ((1, 23), (12, 3)),
        ((0, "windows"), (0, "prefixes")),
        ((0, "1"), (0, 1)),
        ((0, "a", "b"), (0, "ab")),
    ],
)
def test_generators_of_different_keys_draw_different_numbers(
    one: tuple[int, *tuple[int | str, ...]], other: tuple[int, *tuple[int | str, ...]]
) -> None:
    assert noise.generator(*one).random(4).tolist() != noise.generator(*other).random(4).tolist()


def test_a_generator_takes_numbers_of_numpy() -> None:
    plain = noise.generator(3, "step", 7).random(4).tolist()
    assert noise.generator(np.int64(3), "step", np.uint16(7)).random(4).tolist() == plain  # type: ignore[arg-type]


def test_given_noise_is_kept_as_it_is() -> None:
    assert noise.checked([0, 0.25, 1 - 2**-53], slots=3).tolist() == [0.0, 0.25, 1 - 2**-53]
    assert noise.checked([[0.5, 0.1]], slots=2).dtype == np.float64


@pytest.mark.parametrize("value", [1.0, -1e-9, 7, float("nan"), float("inf")])
def test_noise_outside_its_range_is_refused(value: float) -> None:
    with pytest.raises(KfError, match=r"outside \[0, 1\)"):
        noise.checked([0.5, value])


@pytest.mark.parametrize(
    "values", [["0.1"], [[0.1], [0.1, 0.2]], [None, {}], [0.5j], [False], np.zeros(2, dtype=bool), [10**400]]
)
def test_noise_that_is_no_array_of_numbers_is_refused(values: object) -> None:
    with pytest.raises(KfError, match="not a list of numbers"):
        noise.checked(values)


@pytest.mark.parametrize("values", [[0.1, 0.2], 0.5, [[0.1, 0.2]] * 3])
def test_noise_of_another_number_of_slots_is_refused(values: object) -> None:
    with pytest.raises(KfError, match="for 3 slots"):
        noise.checked(values, slots=3)


def test_a_file_of_float32_noise_is_loaded_exactly(tmp_path: Path) -> None:
    values = noise.uniform(0, range(6), 0, 4).reshape(2, 3, 4)
    np.save(tmp_path / "noise.npy", values.astype(np.float32))
    assert np.array_equal(noise.load(tmp_path / "noise.npy"), values)


def cut_short(path: Path) -> None:
    np.save(path, np.full((2, 3, 4), 0.5))
    path.write_bytes(path.read_bytes()[:-8])


def several_arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.full((2, 3, 4), 0.5))


BROKEN: dict[str, Callable[[Path], object]] = {
    "missing": lambda _: None,
    "a folder": Path.mkdir,
    "empty": Path.touch,
    "text": lambda path: path.write_text("0.1, 0.2"),
    "half a zip": lambda path: path.write_bytes(b"PK\x03\x04 and no more"),
    "cut short": cut_short,
    "several arrays": several_arrays,
    "a pickle inside": lambda path: np.save(path, np.array([[["a", {}]]], dtype=object), allow_pickle=True),
    "words": lambda path: np.save(path, np.array([[["a", "b"]]])),
    "complex": lambda path: np.save(path, np.full((2, 3, 4), 0.5 + 0.5j)),
    "yes and no": lambda path: np.save(path, np.zeros((2, 3, 4), dtype=bool)),
    "no samples": lambda path: np.save(path, np.empty((2, 0, 4))),
    "two axes": lambda path: np.save(path, np.full((3, 4), 0.5)),
    "one in it": lambda path: np.save(path, np.array([[[0.5, 1.0]]], dtype=np.float32)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_files_that_hold_no_noise_are_refused(tmp_path: Path, how: str) -> None:
    BROKEN[how](tmp_path / "noise.npy")
    with pytest.raises(KfError):
        noise.load(tmp_path / "noise.npy")


SEED = st.integers(0, 2**64 - 1) | st.integers(0, 9)
KEY = st.tuples(SEED, st.integers(0, 2**63) | st.integers(0, 9))


@settings(max_examples=150)
@given(SEED, st.lists(KEY.map(lambda key: key[1]), min_size=1, max_size=4), st.integers(0, 10**9), st.integers(1, 9))
def test_a_value_depends_on_its_seed_sample_and_position_alone(
    seed: int, samples: list[int], start: int, count: int
) -> None:
    values = noise.uniform(seed, samples, start, count)
    alone = [[noise.uniform(seed, [s], start + j, 1)[0, 0] for j in range(count)] for s in samples]
    assert np.array_equal(values, alone)
    assert values.min() >= 0
    assert values.astype(np.float32).max() < 1


@settings(max_examples=150)
@given(st.lists(KEY, min_size=2, max_size=6, unique=True), st.integers(0, 10**9))
def test_distinct_keys_have_distinct_noise(keys: list[tuple[int, int]], start: int) -> None:
    rows = {tuple(noise.uniform(seed, [sample], start, 4)[0]) for seed, sample in keys}
    rows |= {tuple(noise.uniform(seed, [sample], start + 4, 4)[0]) for seed, sample in keys}
    assert len(rows) == 2 * len(keys)
