"""Every sampler against its own distribution by enumeration; a block depends on its number and the seed alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import masked, student, teacher

from kfexplore import noise
from kfexplore.decoding.readout import NearTie
from kfexplore.errors import KfError
from kfexplore.laws import samplers
from kfexplore.laws.exact import TeacherTree
from kfexplore.laws.samplers import (
    Order,
    block_samplers,
    check_slots,
    masked_blocks,
    masked_marginals,
    product_blocks,
    student_blocks,
    teacher_blocks,
)
from kfexplore.pair import Pair

from .brute import FULL, IDS, MASK, ROWS, block_law, same_law, slot_laws, tiny

PAIR = tiny(with_masked=True)
N = 6000


def filling_law(k: int, sizes: list[int], order: Order) -> np.ndarray:
    """Distribution of the masked model's blocks, by enumeration of orders and of all tokens drawn in a pass."""
    assert PAIR.masked is not None
    states = {(MASK,) * k: 1.0}
    permutations = list(itertools.permutations(range(k))) if order == "random" else [None]
    whole = np.zeros((ROWS,) * k)
    for permutation in permutations:
        held = dict(states)
        done = 0
        for size in sizes:
            following: dict[tuple[int, ...], float] = {}
            for state, mass in held.items():
                laws = slot_laws(PAIR.masked, IDS, state)
                empty = [j for j in range(k) if state[j] == MASK]
                for tokens in itertools.product(range(ROWS - 1), repeat=len(empty)):
                    drawn = dict(zip(empty, tokens, strict=True))
                    if permutation is not None:
                        taken = list(permutation[done : done + size])
                    else:
                        taken = sorted(empty, key=lambda j: (-laws[j, drawn[j]], j))[:size]
                    chance = mass * np.prod([laws[j, drawn[j]] for j in empty])
                    filled = tuple(drawn[j] if j in taken else state[j] for j in range(k))
                    following[filled] = following.get(filled, 0.0) + chance
            held, done = following, done + size
        for state, mass in held.items():
            whole[state] += mass / len(permutations)
    return whole


def other(seed: int = 5) -> Pair:
    """A pair with enough rows that noise often lies near an edge."""
    rows = {"vocab_size": 300, "width": 16}
    return Pair(teacher(seed, **rows), student(seed + 1, **rows), masked(seed + 2, **rows))


@pytest.mark.parametrize("k", [2, 3])
def test_teacher_s_blocks_have_the_teacher_s_distribution(k: int) -> None:
    blocks = teacher_blocks(TeacherTree(PAIR.teacher, np.array(IDS)), k, 11, range(N))
    assert same_law(blocks, block_law(PAIR.teacher, IDS, k)) > 1e-3


def test_teacher_and_student_are_the_pair_s_two_maps() -> None:
    pair = other()
    u = noise.uniform(4, range(300), 0, 4)
    block, tree = pair.block([IDS] * 300, u), TeacherTree(pair.teacher, np.array(IDS), student=pair.student)
    assert (teacher_blocks(tree, 4, 4, range(300)) == block.teacher).all()
    assert (student_blocks(tree, 4, 4, range(300)) == block.student).all()
    two = pair.block([IDS] * 300, noise.uniform(4, range(300), 0, 2))
    assert (student_blocks(tree, 2, 4, range(300)) == two.student).all()


def test_product_blocks_have_the_product_distribution() -> None:
    marginals = np.random.default_rng(0).dirichlet(np.ones(ROWS), size=3)
    law = np.multiply.outer(np.multiply.outer(marginals[0], marginals[1]), marginals[2])
    assert same_law(product_blocks(marginals, 2, range(N)), law) > 1e-3


def test_masked_marginals_are_those_of_the_model() -> None:
    assert PAIR.masked is not None
    np.testing.assert_allclose(
        masked_marginals(PAIR.masked, IDS, 3), slot_laws(PAIR.masked, IDS, (MASK,) * 3), atol=1e-6
    )


@pytest.mark.parametrize("order", ["random", "confident"])
@pytest.mark.parametrize(
    ("k", "sizes"), [(2, [2]), (3, [2, 1]), *(pytest.param(k, [1] * k, marks=FULL) for k in (2, 3))]
)
def test_masked_blocks_have_the_distribution_of_their_schedule(k: int, sizes: list[int], order: Order) -> None:
    law = filling_law(k, sizes, order)
    assert law.sum() == pytest.approx(1, abs=1e-5)
    blocks = masked_blocks(PAIR.masked, IDS, k, 13, range(N), len(sizes), order)
    assert same_law(blocks, law) > 1e-3


def test_orders_and_passes_are_distinguished_by_that_test() -> None:
    law = filling_law(2, [1, 1], "random")
    assert same_law(masked_blocks(PAIR.masked, IDS, 2, 13, range(N), 2, "confident"), law) < 1e-3
    assert same_law(masked_blocks(PAIR.masked, IDS, 2, 13, range(N), 1, "random"), law) < 1e-3


def test_a_block_depends_on_neither_the_others_nor_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = other()
    tree = TeacherTree(pair.teacher, np.array(IDS), student=pair.student)
    ideal = np.column_stack([np.random.default_rng(0).dirichlet(np.ones(299), size=3), np.zeros(3)])
    drawn = {s.name: s.draw(3, range(150)) for s in block_samplers(pair, IDS, 3, tree, ideal)}
    assert len(drawn) == 8
    monkeypatch.setattr(samplers, "TOKENS_AT_ONCE", 40)
    monkeypatch.setattr(samplers, "ENTRIES_AT_ONCE", 1000)
    monkeypatch.setattr("kfexplore.maps.context.TILE", 3)
    for sampler in block_samplers(pair, IDS, 3, tree, ideal):
        np.testing.assert_array_equal(sampler.draw(3, range(100, 130)), drawn[sampler.name][100:130])
        np.testing.assert_array_equal(sampler.draw(3, range(7, 8)), drawn[sampler.name][7:8])
        assert (sampler.draw(4, range(20)) != drawn[sampler.name][:20]).any()
        assert (drawn[sampler.name] != 299).all()  # the mask is never produced


@pytest.mark.parametrize("passes", [2, 3])
@pytest.mark.parametrize("order", ["random", "confident"])
def test_near_ties_are_decided_again_alone(passes: int, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = other()
    alone = []
    laws = samplers._masked_laws
    monkeypatch.setattr(
        samplers, "_masked_laws", lambda m, ids, blocks: alone.append(len(blocks)) or laws(m, ids, blocks)
    )
    plain = masked_blocks(pair.masked, IDS, 3, 0, range(64), passes, order)
    few = alone.count(1)
    monkeypatch.setattr(samplers, "SAMPLERS", NearTie(2.0, 2.0))
    rechecked = masked_blocks(pair.masked, IDS, 3, 0, range(64), passes, order)
    assert alone.count(1) - few >= 64 * (passes - 1)
    np.testing.assert_array_equal(rechecked, plain)


@pytest.mark.parametrize("k", [0, 1, 5])
def test_k_outside_what_the_pair_allows_is_refused(k: int) -> None:
    with pytest.raises(KfError, match="2 to 4"):
        check_slots(PAIR, k)
    with pytest.raises(KfError, match="at least two slots"):
        check_slots(Pair(teacher(), student(block=1)), k)


def test_samplers_without_a_masked_model_are_the_other_three() -> None:
    pair = tiny()
    tree = TeacherTree(pair.teacher, np.array(IDS))
    found = block_samplers(pair, IDS, 2, tree, np.full((2, ROWS), 1 / ROWS))
    assert [(s.name, s.nfe) for s in found] == [("teacher", 2), ("student", 1), ("ideal MDLM", 1)]
