"""One context's study: its parts agree with each other and with the distributions by enumeration."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import entr
from tqdm import tqdm

from kfexplore.errors import KfError
from kfexplore.laws import study as module
from kfexplore.laws.exact import TeacherTree
from kfexplore.laws.goodness import most_surprising
from kfexplore.laws.study import finished, study_steps
from kfexplore.pair import Pair
from kfexplore.results import EXPLAINED

from .brute import IDS, MASK, block_law, divergence, product, slot_laws, tiny


def test_two_tokens_are_exact_throughout() -> None:
    pair = tiny(with_masked=True)
    found = finished(study_steps(pair, IDS, blocks=2000, seed=3))
    whole = block_law(pair.teacher, IDS, 2)
    assert pair.masked is not None
    wrong = slot_laws(pair.masked, IDS, (MASK, MASK))
    wrong_law = np.outer(*wrong)
    rows = {row.sampler: row for row in found.samplers}
    assert list(rows)[:4] == ["teacher", "student", "ideal MDLM", "MDLM, 1 pass"]
    assert [row.nfe for row in found.samplers] == [2, 1, 1, 1, 2, 2]
    assert all(row.size == 2000 for row in rows.values())
    assert found.notes == []
    assert (rows["teacher"].kl, rows["teacher"].tv_exact, rows["student"].kl) == (0, 0, None)
    assert [row.tv.kind for row in rows.values()] == ["exact", "quadrature", "exact", "exact"] + 2 * ["lower_bound"]
    assert rows["ideal MDLM"].kl == pytest.approx(divergence(whole, product(whole)), abs=1e-5)
    assert rows["ideal MDLM"].tv_exact == pytest.approx(found.law.tv_product.value, abs=1e-6)
    assert rows["MDLM, 1 pass"].kl == pytest.approx(divergence(whole, wrong_law), abs=1e-5)
    assert rows["MDLM, 1 pass"].tv_exact == pytest.approx(np.abs(whole - wrong_law).sum() / 2, abs=1e-5)
    for row in rows.values():
        assert row.counts.sum() == row.size
        assert row.tv_plug_in > 0  # of the teacher as well
        assert row.impossible.value == row.is_impossible.mean()
        below = whole[tuple(row.blocks.T)] < np.exp(found.impossible_below) * (1 - 1e-4)
        assert (row.is_impossible == below).mean() > 0.999
    assert rows["teacher"].p_value > 1e-3
    assert max(rows[name].p_value for name in ("student", "ideal MDLM", "MDLM, 1 pass")) < 1e-3
    assert [e.sampler for e in found.samplers] == list(rows)


def test_a_teacher_alone_has_its_distribution_and_the_product_of_its_marginals() -> None:
    whole = tiny(with_masked=False)
    found, both = (finished(study_steps(pair, IDS, 3, blocks=500)) for pair in (Pair(whole.teacher), whole))
    kept = [row for row in both.samplers if row.sampler != "student"]
    assert [(row.sampler, row.counts.tolist()) for row in found.samplers] == [
        (row.sampler, row.counts.tolist()) for row in kept
    ]
    assert found.correlation.total == both.correlation.total
    assert found.notes[:2] == [
        f"This pair has no {name}: its samplers are left out." for name in ("student", "masked model")
    ]


@pytest.mark.parametrize("k", [3, 4])
def test_longer_blocks_are_measured_on_the_teacher_s_own(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kfexplore.laws.samplers.LARGEST_WORK", 1e6)
    pair = tiny(with_masked=True)
    found = finished(study_steps(pair, IDS, k, blocks=1000))
    whole = block_law(pair.teacher, IDS, k)
    true = divergence(whole, product(whole))
    assert abs(found.correlation.total.value - true) < 1.6 * found.correlation.total.half
    rows = {row.sampler: row for row in found.samplers}
    assert rows["teacher"].p_value > 1e-3
    assert rows["student"].p_value < 1e-3
    assert rows["ideal MDLM"].kl == found.correlation.total.value
    assert (rows["teacher"].tv.value, rows["teacher"].tv.kind) == (0, "exact")
    assert all(row.tv.kind == "lower_bound" and row.tv.high is None for row in found.samplers[1:])
    known = {"ideal MDLM": np.abs(whole - product(whole)).sum() / 2}
    wrong = slot_laws(pair.masked, IDS, (MASK,) * k)  # type: ignore[arg-type]
    apart = wrong[0]
    for each in wrong[1:]:
        apart = np.multiply.outer(apart, each)
    known["MDLM, 1 pass"] = np.abs(whole - apart).sum() / 2
    for name, true in known.items():
        assert rows[name].tv.low <= true
        assert rows[name].tv.value <= true + 0.05
    assert rows["teacher"].impossible.value < 0.01
    assert [row.size for row in found.samplers][:4] == [1000] * 4
    assert rows[f"MDLM, {k} passes, random order"].size < 1000
    assert len(found.notes) == 2
    assert "Fewer blocks were drawn" in found.notes[1]


def test_json_is_plain_and_has_the_promised_keys() -> None:
    found = finished(study_steps(tiny(), IDS, blocks=200, first=3))
    values = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert values["mutual_information"] == found.law.mutual_information.value
    assert values["tv_product"] == found.law.tv_product.value
    low, high = values["mutual_information_bounds"]
    assert low < values["mutual_information"] < high
    assert 0 < values["uncovered_mass"] == found.law.uncovered
    assert [row["sampler"] for row in values["samplers"]] == ["teacher", "student", "ideal MDLM"]
    for row in values["samplers"]:
        assert set(row["tv"]) == {"value", "low", "high", "kind"}
        assert row["tv"]["kind"] in ("exact", "quadrature", "lower_bound")
        assert (row["tv"]["high"] is None) is (row["tv"]["kind"] == "lower_bound")
        assert {"tv_exact", "tv_expected", "tv_plug_in"} <= set(row)
    assert values["masked_error"] is None
    assert "no masked model" in values["notes"][0]
    assert "3 first tokens" in values["notes"][1]
    assert values["correlation_samples"] == module.REFERENCE_BLOCKS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": 5}, "k is 5"),
        ({"k": 1}, "k is 1"),
        ({"blocks": 0}, "0 blocks"),
        ({"ids": [1] * 45}, "45 tokens"),
        ({"ids": []}, "empty"),
        ({"first": 0}, "0 first tokens"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_input_is_a_clear_error(changes: dict[str, object], words: str) -> None:
    pair: Pair = tiny()
    with pytest.raises(KfError, match=words):
        finished(study_steps(pair, **{"ids": IDS, **changes}))  # type: ignore[arg-type]


def test_progress_rises_and_names_every_sampler() -> None:
    pair = tiny(with_masked=True)
    told = list(study_steps(pair, IDS, k=3, blocks=100))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert 0 == shares[0] <= shares[-1] < 1
    names = [row.sampler for row in finished(study_steps(pair, IDS, k=3, blocks=100)).samplers]
    assert [what for _, what in told][2:] == names


def test_the_most_surprising_token_exceeds_the_entropy_of_its_slot_most() -> None:
    pair = tiny(with_masked=False)
    tree = TeacherTree(pair.teacher, np.array(IDS))
    rng = np.random.default_rng(0)
    blocks = rng.choice(np.flatnonzero(tree.root), (20, 3))
    found = most_surprising(tree, blocks)
    for block, said in zip(blocks.tolist(), found, strict=True):
        laws = [block_law(pair.teacher, [*IDS, *block[:j]], 1) for j in range(3)]
        excess = [-np.log(law[token]) - entr(law).sum() for law, token in zip(laws, block, strict=True)]
        assert said.slot == int(np.argmax(excess))
        law = laws[said.slot]
        assert said.probability == pytest.approx(law[block[said.slot]], rel=1e-4)
        assert (said.likely, said.likely_probability) == (int(law.argmax()), pytest.approx(law.max(), rel=1e-4))
    assert most_surprising(tree, blocks[:0]) == []


def test_impossible_blocks_that_are_written_out_are_explained() -> None:
    found = finished(study_steps(tiny(with_masked=True), IDS, 3, blocks=2000, seed=3))
    for row in found.samplers:
        assert sorted(row.wrong) == np.flatnonzero(row.is_impossible[:EXPLAINED]).tolist()
    assert any(row.wrong for row in found.samplers)


def test_a_study_prints_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would fill the console of a server, whose page shows the progress itself."""
    monkeypatch.setattr(tqdm, "__init__", lambda *_, **__: pytest.fail("a bar"))
    assert finished(study_steps(tiny(with_masked=True), IDS, 3, blocks=200)).samplers
