"""Distributions and samplers at temperatures other than 1, against enumeration of softmax(logits / temperature)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers import student, teacher
from scipy.stats import qmc

from kfexplore import noise
from kfexplore.decoding.readout import NearTie
from kfexplore.errors import KfError
from kfexplore.laws.exact import TeacherTree, pair_law
from kfexplore.laws.quadrature import student_distance
from kfexplore.laws.samplers import block_samplers, student_blocks, teacher_blocks
from kfexplore.laws.study import finished, study_steps
from kfexplore.pair import Pair
from kfexplore.results import Floats, Ints

from .brute import IDS, ROWS, block_law, divergence, product, tiny

TEMPERATURES = (0.3, 0.7, 1.8)


def tree_at(pair: Pair, temperature: float) -> TeacherTree:
    return TeacherTree(pair.teacher, np.array(IDS), temperature, pair.student)


def many_rows() -> Pair:
    """A pair with enough rows that noise often lies near an edge."""
    rows = {"vocab_size": 300, "width": 16}
    return Pair(teacher(5, **rows), student(6, **rows))


@torch.inference_mode()
def student_tokens(pair: Pair, u: Floats, temperature: float) -> Ints:
    """The student's blocks of noise u (N, k), the whole context in every row and nothing cached."""
    ids = torch.tensor([IDS] * len(u))
    return pair.need_student().block_logits(ids, torch.from_numpy(u), tau=temperature).argmax(dim=-1).numpy()


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_joint_distribution_is_that_of_divided_logits(temperature: float) -> None:
    pair = tiny()
    tree = tree_at(pair, temperature)
    law, whole = pair_law(pair, IDS, tree=tree), block_law(pair.teacher, IDS, 2, temperature)
    assert np.abs(whole - block_law(pair.teacher, IDS, 2)).sum() > 0.2
    np.testing.assert_allclose(law.joint, whole[law.first], atol=2e-6)
    np.testing.assert_allclose(law.product, product(whole)[law.first], atol=2e-6)
    assert law.mutual_information.value == pytest.approx(divergence(whole, product(whole)), abs=1e-5)
    assert law.tv_product.value == pytest.approx(np.abs(whole - product(whole)).sum() / 2, abs=1e-5)
    blocks = np.random.default_rng(0).integers(0, ROWS - 1, size=(50, 3))
    three = block_law(pair.teacher, IDS, 3, temperature)
    np.testing.assert_allclose(np.exp(tree.log_probs(blocks)), three[tuple(blocks.T)], atol=2e-6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_teacher_and_student_are_the_pair_s_two_maps(temperature: float) -> None:
    pair, k, samples = many_rows(), 4, range(200)
    u = noise.uniform(4, samples, 0, k)
    teachers, students, _ = block_samplers(pair, IDS, k, tree_at(pair, temperature), np.full((k, 300), 1 / 300))
    drawn = teachers.draw(4, samples)
    np.testing.assert_array_equal(drawn, pair.block([IDS] * len(samples), u, temperature).teacher)
    assert (drawn != teacher_blocks(tree_at(pair, 1.0), k, 4, samples)).any()
    drawn = students.draw(4, samples)
    np.testing.assert_array_equal(drawn, student_tokens(pair, u, temperature))
    assert (drawn != student_blocks(tree_at(pair, 1.0), k, 4, samples)).any()


def test_below_1_edges_are_near_from_farther_away(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, passes = many_rows(), []
    tree, u = tree_at(pair, 0.5), noise.uniform(4, range(200), 0, 2)
    block, forward = pair.block([IDS] * len(u), u, 0.5), pair.teacher.forward
    monkeypatch.setattr(tree.context, "near", NearTie(1e-3, 0.0))
    monkeypatch.setattr(
        pair.teacher, "forward", lambda ids, *given, **o: passes.append(len(ids)) or forward(ids, *given, **o)
    )
    np.testing.assert_array_equal(teacher_blocks(tree, 2, 4, range(200)), block.teacher)
    one, two = (len(np.unique(block.teacher[block.edges[:, 1] < near, 0])) for near in (1e-3, 2e-3))
    assert one < two == passes.count(1)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_quadrature_agrees_with_many_more_points(temperature: float) -> None:
    pair = tiny()
    tree = tree_at(pair, temperature)
    law = pair_law(pair, IDS, tree=tree)
    found = student_distance(tree, law)
    area = np.zeros((ROWS, ROWS))
    np.add.at(area, tuple(student_tokens(pair, qmc.Sobol(2, scramble=False).random(2**14), temperature).T), 2.0**-14)
    true = np.abs(area - block_law(pair.teacher, IDS, 2, temperature)).sum() / 2
    assert found is not None
    assert found.high is not None
    assert found.low <= true <= found.high


@pytest.mark.parametrize("k", [2, 3])
def test_a_study_follows_its_temperature_throughout(k: int) -> None:
    pair = tiny(with_masked=True)
    found = finished(study_steps(pair, IDS, k, blocks=1000, temperature=0.6))
    whole = block_law(pair.teacher, IDS, k, 0.6)
    true = divergence(whole, product(whole))
    total = found.correlation.total
    assert abs(total.value - true) <= max(1e-5, 1.6 * total.half)
    np.testing.assert_allclose(found.law.joint, block_law(pair.teacher, IDS, 2, 0.6)[found.law.first], atol=2e-6)
    rows = {row.sampler: row for row in found.samplers}
    assert list(rows) == ["teacher", "student", "ideal MDLM"]
    assert rows["teacher"].p_value > 1e-3
    assert rows["ideal MDLM"].kl == total.value
    expected = student_tokens(pair, noise.uniform(0, range(1000), 0, k), 0.6)
    np.testing.assert_array_equal(rows["student"].blocks, expected)
    if k == 2:
        assert rows["student"].tv == student_distance(tree_at(pair, 0.6), found.law)
    assert found.error is None
    assert "The masked model has no temperature" in found.notes[0]
    assert "trained at temperature 1 only" in found.notes[1]
    assert found.as_json()["temperature"] == 0.6


def test_the_student_s_range_of_temperatures_is_said_to_be_left_only_where_it_is() -> None:
    pair = dataclasses.replace(tiny(), info={"training": {"student_temperatures": [0.3, 1]}})
    inside, outside = (finished(study_steps(pair, IDS, blocks=100, temperature=t)) for t in (0.3, 1.2))
    assert not any("trained at" in note for note in inside.notes)
    assert any("trained at temperatures 0.3 to 1:" in note for note in outside.notes)
    alone = finished(study_steps(Pair(pair.teacher), IDS, blocks=100, temperature=1.2))
    assert not any("trained at" in note for note in alone.notes)


def test_without_a_temperature_it_is_1() -> None:
    pair = tiny(with_masked=True)
    plain, one = (finished(study_steps(pair, IDS, blocks=200, **given)) for given in ({}, {"temperature": 1.0}))
    for left, right in zip(plain.samplers, one.samplers, strict=True):
        np.testing.assert_array_equal(left.blocks, right.blocks)
    told, same = ({**found.as_json(), "seconds": 0, "samplers": 0} for found in (plain, one))
    assert told == same
    assert told["temperature"] == 1.0
    assert len(plain.samplers) == 6
    assert plain.notes == []
    with torch.inference_mode():
        logits = pair.teacher.log_probs(torch.tensor([IDS]))[0, -1]
    np.testing.assert_allclose(plain.law.marginal_1, logits.double().softmax(dim=-1).numpy(), atol=1e-6)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), 1e9, "1", None])
def test_what_is_no_temperature_is_refused(temperature: object) -> None:
    with pytest.raises(KfError, match=r"The temperature is .*\n?.*0.01 to 10"):
        finished(study_steps(tiny(), IDS, temperature=temperature))  # type: ignore[arg-type]
