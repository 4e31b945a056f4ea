"""Toy distributions against numbers worked out by hand, and against twins that go through every block one by one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain as joined
from itertools import combinations, permutations, product

import numpy as np
import pytest

from kfexplore.errors import KfError
from kfexplore.laws.irreducible import checked_law, is_conditionally_irreducible, support_witness, witness
from kfexplore.laws.toy import (
    chain,
    correlation,
    noisy_xor,
    not_all_equal,
    permutation,
    schedules,
    splits,
    total_variation,
    toy_draws,
    toy_law,
    unmasked,
    unmasking,
)
from kfexplore.results import Floats, Independence

Blocks = dict[tuple[int, ...], float]
HALF = 1 / 2


def random_law(values: int, length: int, zeros: float = 0.0, seed: int = 0) -> Floats:
    draw = np.random.default_rng(seed)
    law = draw.random((values,) * length) * (draw.random((values,) * length) >= zeros)
    return law / law.sum()


def slow_unmasked(law: Floats, schedule: tuple[tuple[int, ...], ...]) -> Blocks:
    """Passes as they happen: what is visible so far, and its probability."""
    blocks = {tuple(block): float(p) for block, p in np.ndenumerate(law)}

    def probability(seen: dict[int, int]) -> float:
        return sum(p for block, p in blocks.items() if all(block[j] == v for j, v in seen.items()))

    visible: list[tuple[dict[int, int], float]] = [({}, 1.0)]
    for group in schedule:
        after = []
        for seen, p in visible:
            for tokens in product(range(law.shape[0]), repeat=len(group)):
                q = p
                for j, v in zip(group, tokens, strict=True):
                    q *= probability({**seen, j: v}) / probability(seen) if probability(seen) else 1 / law.shape[0]
                after.append(({**seen, **dict(zip(group, tokens, strict=True))}, q))
        visible = after
    return {tuple(seen[j] for j in range(law.ndim)): q for seen, q in visible}


def slow_irreducible(law: Floats, strong: bool) -> bool:
    """Word for word: every S, every split, every visible set, every value of positive probability."""
    blocks = [(tuple(block), float(p)) for block, p in np.ndenumerate(law)]

    def probability(seen: dict[int, int]) -> float:
        return sum(p for block, p in blocks if all(block[j] == v for j, v in seen.items()))

    def values(group: tuple[int, ...]) -> Iterator[dict[int, int]]:
        for tokens in product(range(law.shape[0]), repeat=len(group)):
            yield dict(zip(group, tokens, strict=True))

    def subsets(group: tuple[int, ...]) -> list[tuple[int, ...]]:
        return list(joined.from_iterable(combinations(group, n) for n in range(len(group) + 1)))

    for together in subsets(tuple(range(law.ndim))):
        outside = tuple(j for j in range(law.ndim) if j not in together)
        for left in subsets(together):
            right = tuple(j for j in together if j not in left)
            if not left or not right:
                continue
            for given in subsets(outside) if strong else [outside]:
                for seen in values(given):
                    p = probability(seen)
                    if p and all(
                        abs(
                            probability({**seen, **a, **b}) * p
                            - probability({**seen, **a}) * probability({**seen, **b})
                        )
                        < 1e-12
                        for a in values(left)
                        for b in values(right)
                    ):
                        return False
    return True


def slow_support(law: Floats) -> bool:
    """Word for word: given every visible set and value, two hidden positions miss a combination of their values."""
    blocks = [tuple(block) for block, p in np.ndenumerate(law) if p]
    length = law.ndim
    for left, right in combinations(range(length), 2):
        others = [j for j in range(length) if j not in (left, right)]
        for given in joined.from_iterable(combinations(others, n) for n in range(length - 1)):
            for seen in {tuple(block[j] for j in given) for block in blocks}:
                found = {(b[left], b[right]) for b in blocks if tuple(b[j] for j in given) == seen}
                if found == set(product({a for a, _ in found}, {b for _, b in found})):
                    return False
    return True


def tv_by_passes(name: str, **given: float) -> list[tuple[float, float]]:
    return [(s.best, s.worst) for s in toy_law(name, **given).passes]


def by_schedule(law: Floats) -> dict[str, tuple[float, float]]:
    return {s.name: (s.best, s.worst) for s in unmasking(law)}


LAWS = {
    "permutation": permutation(3),
    "correlation": correlation(0.3),
    "xor": noisy_xor(0.1),
    "exact xor": noisy_xor(0.0),
    "chain": chain(4, 0.2),
    "equal bits": chain(3, 0.0),
    "not all equal": not_all_equal(),
    "two pairs": np.einsum("ab,cd->abcd", correlation(0.5), correlation(0.2)),
    "one bit and a pair": np.einsum("a,bc->abc", [0.3, 0.7], correlation(0.5)),
    "random": random_law(2, 4),
    "random with zeros": random_law(3, 3, zeros=0.5),
}


@pytest.mark.parametrize("name", LAWS)
def test_a_distribution_sums_to_one(name: str) -> None:
    assert checked_law(LAWS[name]).sum() == pytest.approx(1, abs=1e-15)


def test_distributions_by_hand() -> None:
    assert permutation().tolist() == [[0, HALF], [HALF, 0]]
    three = permutation(3)
    assert {tuple(map(int, block)) for block in np.argwhere(three)} == set(permutations(range(3)))
    assert three.max() == pytest.approx(1 / 6)
    assert correlation(0.6).ravel() == pytest.approx([0.4, 0.1, 0.1, 0.4])
    assert noisy_xor(0.1)[1, 0] == pytest.approx([0.025, 0.225])
    assert noisy_xor(0.1)[1, 1] == pytest.approx([0.225, 0.025])
    assert chain(3, 0.1)[0].ravel() == pytest.approx([0.405, 0.045, 0.005, 0.045])


@pytest.mark.parametrize("rho", [0.0, 0.25, 0.5, 1.0])
def test_correlated_bits_are_off_by_half_their_correlation(rho: float) -> None:
    # Each of four blocks has (1 ± rho) / 4 where the product has 1/4: half of 4 x rho / 4.
    assert tv_by_passes("correlation", rho=rho) == [pytest.approx((rho / 2, rho / 2)), (0, 0)]


def test_noisy_xor_takes_two_passes_though_it_meets_the_papers_definition() -> None:
    # One pass is uniform, 1/8: four blocks have 0.225, four 0.025, half of 8 x 0.1.
    one, two, three = tv_by_passes("noisy-xor", eps=0.1)
    assert one == pytest.approx((0.4, 0.4))
    assert (two, three) == ((0, 0), (0, 0))
    law = noisy_xor(0.1)
    for a, b, c in permutations(range(3)):
        assert total_variation(law, unmasked(law, ((a, b), (c,)))) < 1e-15
        # One first: given it the other two are fair each, and so uniform together.
        assert total_variation(law, unmasked(law, ((a,), (b, c)))) == pytest.approx(0.4)
    assert by_schedule(law)["1+2"] == pytest.approx((0.4, 0.4))


@pytest.mark.parametrize("name", LAWS)
def test_every_schedule_agrees_with_passes_done_one_by_one(name: str) -> None:
    law = LAWS[name]
    found = by_schedule(law)
    for sizes in splits(law.ndim):
        distances, drawn = [], []
        for schedule in schedules(sizes, range(law.ndim)):
            slow = slow_unmasked(law, schedule)
            fast = unmasked(law, schedule)
            assert fast.sum() == pytest.approx(1)
            distances.append(sum(abs(p - slow[block]) for block, p in np.ndenumerate(law)) / 2)
            assert total_variation(law, fast) == pytest.approx(distances[-1], abs=1e-12)
            drawn.append(slow)
        assert found["+".join(map(str, sizes))] == pytest.approx((min(distances), max(distances)), abs=1e-12)
        mean = {block: sum(each[block] for each in drawn) / len(drawn) for block in drawn[0]}
        mixed = sum(abs(p - mean[block]) for block, p in np.ndenumerate(law)) / 2
        assert next(s.random for s in unmasking(law) if s.sizes == sizes) == pytest.approx(mixed, abs=1e-12)


def test_not_all_equal_is_exact_in_a_random_order_though_no_fixed_order_is() -> None:
    """The counterexample to Theorem 1 for random order: strongly irreducible, and 2+1 in a random order is exact."""
    law = not_all_equal()
    assert is_conditionally_irreducible(law, strong=True)
    # Two bits at once are uniform, 1/4 each; given 00 the third is 1 and given 01 it is fair: 1/4 and 1/8 for 1/6.
    for a, b, c in permutations(range(3)):
        assert total_variation(law, unmasked(law, ((a, b), (c,)))) == pytest.approx(1 / 6)
    # Each string is of the unequal kind in two orders of three and of the equal kind in one: (2/8 + 1/4) / 3 = 1/6.
    found = {s.name: s for s in unmasking(law)}
    assert (found["2+1"].best, found["2+1"].worst, found["2+1"].random) == pytest.approx((1 / 6, 1 / 6, 0))
    # The last pass fills two positions: 1/9 remain.
    assert (found["1+2"].best, found["1+2"].random) == pytest.approx((2 / 9, 1 / 9))
    assert toy_law("not-all-equal").as_json()["tv_random_order"] == {"1": 0.25, "2": 0, "3": 0}


@pytest.mark.parametrize("name", LAWS)
def test_the_support_condition_is_its_definition_and_the_strictest(name: str) -> None:
    law = LAWS[name]
    meets = support_witness(law) is None
    assert meets is slow_support(law)
    assert not meets or is_conditionally_irreducible(law, strong=True)
    assert not meets or all(s.random > 0.01 for s in unmasking(law) if len(s.sizes) < law.ndim)


def test_the_support_condition_of_known_distributions() -> None:
    assert support_witness(permutation(4)) is None
    assert support_witness(chain(2, 0.0)) is None
    found = support_witness(not_all_equal())
    assert found is not None
    assert str(found) == "x1 and x2 take all combinations of their values marginally"
    assert str(support_witness(chain(3, 0.0))) == "x1 and x2 take all combinations of their values given x3 = 0"


def test_schedules_deal_every_position_out_once() -> None:
    assert list(schedules((2, 1), range(3))) == [((0, 1), (2,)), ((0, 2), (1,)), ((1, 2), (0,))]
    assert sum(1 for sizes in splits(4) for _ in schedules(sizes, range(4))) == 75  # ordered partitions of 4
    assert splits(4) == [(4,), (2, 2), (3, 1), (1, 3), (2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 1, 1, 1)]


def test_passes_are_as_even_as_can_be_and_larger_first() -> None:
    assert [s.name for s in toy_law("chain", length=5).passes] == ["5", "3+2", "2+2+1", "2+1+1+1", "1+1+1+1+1"]


@pytest.mark.parametrize("strong", [False, True])
@pytest.mark.parametrize("name", LAWS)
def test_irreducibility_agrees_with_the_definition_word_for_word(name: str, strong: bool) -> None:
    assert is_conditionally_irreducible(LAWS[name], strong) is slow_irreducible(LAWS[name], strong)


def test_witness_names_positions_and_values() -> None:
    assert witness(noisy_xor(0.1)) is None
    assert witness(noisy_xor(0.1), strong=True) == Independence(0, 1, (), ())
    found = witness(chain(3, 0.1))
    assert found == Independence(0, 2, (1,), (0,))
    assert str(found) == "x1 and x3 are independent given x2 = 0"


def test_a_value_of_probability_zero_is_no_witness() -> None:
    law = np.zeros((3, 3, 3))
    law[:2, :2, 1:] = noisy_xor(0.1)[..., :]
    assert is_conditionally_irreducible(law) is True
    assert str(witness(law, strong=True)) == "x1 and x2 are independent marginally"


def test_one_value_among_many_is_a_witness() -> None:
    law = np.stack([correlation(0.5), correlation(0.0)], axis=-1) / 2
    found = witness(law)
    assert found == Independence(0, 1, (2,), (1,))


def test_every_visible_set_is_tried() -> None:
    """Only given x4 = 1 is a pair independent: x3 depends on both."""
    law = random_law(2, 4)
    pair, third = law[..., 1].sum(axis=2), law[..., 1] / law[..., 1].sum(axis=2, keepdims=True)
    product_law = np.outer(pair.sum(axis=1), pair.sum(axis=0)) / pair.sum()
    law[..., 1] = product_law[..., None] * third
    assert witness(law) is None
    assert witness(law, strong=True) == Independence(0, 1, (3,), (1,))


def test_defaults_and_json() -> None:
    document = toy_law("noisy-xor").as_json()
    assert document["parameters"] == {"eps": 0.1}
    assert document["tv_by_passes"] == {"1": {"best": 0.4, "worst": 0.4}, **{n: {"best": 0, "worst": 0} for n in "23"}}
    assert document["by_schedule"]["1+2"] == {"best": 0.4, "worst": 0.4}
    assert (document["paper_irreducible"], document["strongly_irreducible"]) == (True, False)
    assert document["push_forward"] == 0


@pytest.mark.parametrize(
    ("call", "failed"),
    [
        (lambda: permutation(1), "length is 1"),
        (lambda: permutation(7), "length is 7"),
        (lambda: chain(2.5, 0.1), "length is 2.5"),
        (lambda: chain(3, -0.1), "eps is -0.1"),
        (lambda: noisy_xor(float("nan")), "eps is nan"),
        (lambda: correlation(1.1), "rho is 1.1"),
        (lambda: toy_law("xor"), "no toy distribution 'xor'"),
        (lambda: toy_law("correlation", eps=0.1), "correlation takes no eps"),
        (lambda: toy_law("not-all-equal", length=3), "not-all-equal takes no length"),
        (lambda: unmasking(np.full((2,) * 7, 2.0**-7)), "7 positions"),
        (lambda: witness([0.5, 0.5]), "shape (2,)"),
        (lambda: witness(np.full((2, 3), 1 / 6)), "shape (2, 3)"),
        (lambda: witness(np.zeros((0, 0))), "shape (0, 0)"),
        (lambda: witness([[0.5, -0.1], [0.3, 0.3]]), "entry -0.1"),
        (lambda: witness([[0.5, float("nan")], [0.25, 0.25]]), "entry nan"),
        (lambda: witness([[0.5, float("inf")], [0.25, 0.25]]), "entry inf"),
        (lambda: witness([[0.5, 0.1], [0.3, 0.3]]), "sums to 1.2"),
        (lambda: witness([["a", "b"], ["c", "d"]]), "not an array of numbers"),
    ],
)
def test_what_is_not_a_distribution_is_refused(call: object, failed: str) -> None:
    with pytest.raises(KfError) as error:
        call()  # type: ignore[operator]
    assert failed in error.value.failed
    assert error.value.valid


def test_the_exact_map_gives_the_distribution_and_independent_draws_its_marginals() -> None:
    for toy in (toy_law("permutation", length=3), toy_law("chain"), toy_law("noisy-xor")):
        draws = toy_draws(toy, 20_000, 5)
        for law, blocks in ((toy.law, draws.exact), (toy.one_pass, draws.independent)):
            found = np.zeros(toy.law.shape)
            np.add.at(found, tuple(blocks.T), 1 / len(blocks))
            assert found == pytest.approx(law, abs=0.012)
            assert (found[law == 0] == 0).all()
        assert (draws.exact[:, 0] == draws.independent[:, 0]).all()  # slot 1 reads the same noise by the same rule


def test_more_draws_of_a_seed_only_add() -> None:
    toy = toy_law("permutation")
    few, many = toy_draws(toy, 100, 2), toy_draws(toy, 300, 2)
    assert (many.independent[:100] == few.independent).all()
    assert (toy_draws(toy, 100, 3).u != few.u).any()
    assert toy_draws(toy, 0, 2).exact.shape == (0, 2)
