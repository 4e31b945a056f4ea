"""Both maps of a held context: equal to their definitions, causal, computed once, and the same in every batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers import student, teacher
from torch import Tensor

from kfexplore.decoding.readout import NearTie
from kfexplore.maps import PrefilledContext, context, grid
from kfexplore.models import KVCache, Teacher
from kfexplore.results import Floats, Ints

IDS = torch.tensor([3, 1, 4, 1, 5])
Map = Callable[[Floats], tuple[Ints, Floats]]


def held(seed: int = 1, peaky: float = 2.0) -> PrefilledContext:
    return PrefilledContext(teacher(seed, peaky), student(seed + 10, peaky), IDS)


def random_noise(rows: int, k: int = 4, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random((rows, k))


def alone(of: Map, u: Floats) -> Ints:
    """The tokens of each noise vector computed for itself."""
    return np.concatenate([of(row[None])[0] for row in u])


@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.0])
def test_exact_map_is_the_naive_unrolled_inverse_cdf(temperature: float) -> None:
    here, u = held(), random_noise(60)
    tokens, edges = here.exact(u, temperature)
    for row, found, gaps in zip(u, tokens, edges, strict=True):
        ids = IDS.tolist()
        for value, token, gap in zip(row, found, gaps, strict=True):
            logits = here.teacher(torch.tensor([ids]))[0, -1].double() / temperature
            f = np.cumsum(logits.softmax(0).numpy())
            below = f[token - 1] if token else 0.0
            # The bounds rather than a search: the uncached teacher's edges lie elsewhere by rounding.
            assert below - 1e-5 < value < f[token] + 1e-5
            assert gap == pytest.approx(min(value - below, f[token] - value), abs=1e-5)
            ids.append(int(token))


@pytest.mark.parametrize(("k", "temperature"), [(1, 1.0), (2, 1.0), (4, 1.0), (4, 0.4)])
def test_learned_map_is_the_argmax_of_one_uncached_block(k: int, temperature: float) -> None:
    here, u = held(), random_noise(400, k)
    tokens, margins = here.learned(u, temperature)
    top = here.student.block_logits(IDS.expand(len(u), -1), torch.from_numpy(u), temperature).topk(2, dim=-1)
    lead = (top.values[..., 0] - top.values[..., 1]).numpy()
    clear = lead > 1e-4
    assert clear.mean() > 0.99
    assert np.array_equal(tokens[clear], top.indices[..., 0].numpy()[clear])
    assert np.allclose(margins, lead, atol=1e-4)


class UnitSquare:
    """The paper's example (appendix B) as a teacher: V = {A, B, C} and a mask, one token of context."""

    device = torch.device("cpu")
    config = SimpleNamespace(vocab_size=4, mask_id=3)
    first, after = (1 / 3, 2 / 3, 0, 0), ((0, 1, 0, 0), (0.5, 0, 0.5, 0))

    def __call__(self, ids: Tensor, cache: KVCache, read: int = 1) -> Tensor:
        assert read == 1
        start = cache.length == 0 and cache.prefix is None
        keys = ids.double()[:, None, :, None]
        cache.extend(0, keys, keys)
        cache.commit(ids.shape[1])
        laws = [self.first if start else self.after[token] for token in ids[:, -1].tolist()]
        return torch.tensor(laws).log().clamp_min(-1000)[:, None]


def test_unit_square_of_the_paper_falls_into_three_equal_regions() -> None:
    learner = student(vocab_size=4, block=2)
    here = PrefilledContext(cast(Teacher, UnitSquare()), learner, torch.tensor([2]))
    square = grid(here, np.array([0.5, 0.5]), (0, 1), 96)
    pairs, counts = np.unique(square.exact.reshape(-1, 2), axis=0, return_counts=True)
    assert pairs.tolist() == [[0, 1], [1, 0], [1, 2]]
    assert counts.tolist() == [96**2 / 3] * 3
    first = square.exact[:32]  # u_1 < 1/3
    assert (first == [0, 1]).all()
    assert (square.exact[32:, :48] == [1, 0]).all()
    assert (square.exact[32:, 48:] == [1, 2]).all()


@pytest.mark.parametrize("of", ["exact", "learned"])
@pytest.mark.parametrize("slot", [1, 2, 3])
def test_moving_a_slot_leaves_those_before_it_unchanged(of: str, slot: int) -> None:
    here = held()
    u = np.repeat(random_noise(1), 300, axis=0)
    u[:, slot] = random_noise(300, 1, seed=1)[:, 0]
    tokens, gaps = getattr(here, of)(u)
    assert (tokens[:, :slot] == tokens[0, :slot]).all()
    assert (gaps[:, :slot] == gaps[0, :slot]).all()
    assert len(np.unique(tokens[:, slot])) > 1


@pytest.mark.parametrize("of", ["exact", "learned"])
@pytest.mark.parametrize(("seed", "peaky", "temperature"), [(1, 2.0, 1.0), (4, 6.0, 1.0), (1, 2.0, 0.1)])
def test_same_noise_gives_the_same_tokens_alone_and_in_any_batch(
    of: str, seed: int, peaky: float, temperature: float
) -> None:
    here = held(seed, peaky)
    tokens_of, u = partial(getattr(here, of), temperature=temperature), random_noise(800, seed=seed)
    together = tokens_of(u)[0]
    order = np.random.default_rng(1).permutation(len(u))
    assert np.array_equal(tokens_of(u[order])[0], together[order])
    for size in (2, 7):
        assert np.array_equal(tokens_of(u[:size])[0], together[:size])
    some = order[:100]
    assert np.array_equal(alone(tokens_of, u[some]), together[some])


def test_fewer_slots_give_the_first_tokens_of_the_whole_block() -> None:
    here, u = held(), random_noise(60)
    for of in (here.exact, here.learned):
        whole = alone(of, u)
        for k in (1, 2, 3):
            assert np.array_equal(alone(of, u[:, :k]), whole[:, :k])
            assert np.array_equal(of(u[:, :k])[0], whole[:, :k])


def shake(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes logits depend on the batch size by 1.3e-5, as much as real kernels were seen to do."""
    forward = network.forward

    def shaken(*args: Any, **options: Any) -> Tensor:
        logits = forward(*args, **options)
        if len(logits) == 1:
            return logits
        return logits + 1.3e-5 * torch.sin(12.9898 * torch.arange(logits.shape[-1]) + len(logits))

    monkeypatch.setattr(network, "forward", shaken)


def points_at_ties(of: Map, slots: range, seed: int) -> Floats:
    """Noise on both sides of edges of a map, nearer to them than any batch's rounding: found by bisection."""
    points = []
    for base in random_noise(3, seed=seed):
        for slot in slots:
            u = np.repeat(base[None], 12, axis=0)
            u[:, slot] = (np.arange(12) + 0.5) / 12
            tokens = alone(of, u)[:, slot]
            for at in np.flatnonzero(np.diff(tokens))[:1]:
                low, high = u[at].copy(), u[at + 1].copy()
                while high[slot] - low[slot] > 1e-9:
                    middle = (low + high) / 2
                    same = of(middle[None])[0][0, slot] == tokens[at]
                    low, high = (middle, high) if same else (low, middle)
                points += [low, high]
    return np.array(points)


@pytest.mark.parametrize("of", ["exact", "learned"])
def test_near_a_tie_the_batch_does_not_decide(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = held(seed=1, peaky=1.0)
    shake(here.teacher, monkeypatch)
    shake(here.student, monkeypatch)
    tokens_of = getattr(here, of)
    # The exact map's first distribution is that of the context, which no batch shares: it cannot be shaken.
    u = points_at_ties(tokens_of, range(1 if of == "exact" else 0, 4), seed=2)
    expected = alone(tokens_of, u)
    rows = np.random.default_rng(0).permutation(len(u))
    batch = np.concatenate([random_noise(20, seed=3), u[rows]])
    assert len(u) > 10
    assert np.array_equal(tokens_of(batch)[0][20:], expected[rows])
    assert np.array_equal(tokens_of(u[::2])[0], expected[::2])
    # The same points without rechecks: if these agreed too, the lines above would guard nothing.
    monkeypatch.setattr(here, "near", NearTie(0.0, 0.0))
    assert (tokens_of(batch)[0][20:] != expected[rows]).any(axis=1).mean() > 0.1


def rows_passed(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch of each forward pass from now on."""
    rows: list[int] = []
    forward = network.forward

    def counted(*args: Any, **options: Any) -> Tensor:
        logits = forward(*args, **options)
        rows.append(len(logits))
        return logits

    monkeypatch.setattr(network, "forward", counted)
    return rows


def test_each_distinct_prefix_is_evaluated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    here = held()
    monkeypatch.setattr(here, "near", NearTie(0.0, 0.0))
    teacher_rows, student_rows = (rows_passed(network, monkeypatch) for network in (here.teacher, here.student))
    u = np.repeat(random_noise(30), 20, axis=0)
    u[:, 2:] = random_noise(600, 2, seed=1)
    tokens, _ = here.exact(u)
    here.learned(u)
    assert teacher_rows == [len(np.unique(tokens[:, :j], axis=0)) for j in (1, 2, 3)]
    assert student_rows == [30, 512, 88]  # two slots a pass: neither the second nor the last has prefixes of its own


def test_one_noise_vector_takes_one_pass_and_each_distribution_once(monkeypatch: pytest.MonkeyPatch) -> None:
    here, u = held(), random_noise(1)
    teacher_rows, student_rows = (rows_passed(network, monkeypatch) for network in (here.teacher, here.student))
    for _ in range(3):
        here.exact(u)
        here.learned(u)
    assert teacher_rows == [1, 1, 1]
    assert student_rows == [1, 1, 1]


def test_distributions_that_were_evicted_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    u = random_noise(40)
    expected = alone(held().exact, u)
    monkeypatch.setattr(context, "REMEMBERED", 3)
    here = held()
    assert np.array_equal(alone(here.exact, u), expected)
    assert len(here._read) == 3


@pytest.mark.parametrize("limits", [{"TILE": 8}, {"TILE_ENTRIES": 8 * 24, "TILE_LOGITS": 8 * 24}])
def test_tiles_do_not_change_the_map(limits: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are limited by rows, and with a large vocabulary by its entries."""
    u = random_noise(100)
    whole = [held().exact(u), held().learned(u)]
    for name, value in limits.items():
        monkeypatch.setattr(context, name, value)
    here = held()
    teacher_rows, student_rows = (rows_passed(network, monkeypatch) for network in (here.teacher, here.student))
    for (tokens, gaps), (tiled, tiled_gaps) in zip(whole, [here.exact(u), here.learned(u)], strict=True):
        assert np.array_equal(tiled, tokens)
        assert np.allclose(tiled_gaps, gaps, atol=1e-5)
    assert (max(teacher_rows), max(student_rows)) == (8, 2)  # of four slots each


def test_another_temperature_asks_the_teacher_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    network, asked = teacher(), []
    here = PrefilledContext(network, None, torch.tensor([3, 1, 4]))
    plain = network.forward
    monkeypatch.setattr(network, "forward", lambda *given, **named: asked.append(1) or plain(*given, **named))
    u = np.array([[0.0, 0.0, 0.5]])  # noise 0 chooses the first token at any temperature
    first = here.exact(u)[0]
    passes = len(asked)
    assert (here.exact(u, 0.5)[0][:, :2] == first[:, :2]).all()
    assert len(asked) == passes > 0
