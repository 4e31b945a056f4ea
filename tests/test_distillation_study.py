"""The study of distillation on a small pair: a corpus of the teacher's own, a run that learns, figures and files."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import written_pair
from studies import finding, run

from analysis import distillation as module
from analysis.distillation import (
    SMALL,
    arms,
    blind,
    distil,
    figures,
    legs,
    own_corpus,
    students,
    table,
    versions,
)
from analysis.distillation_figures import Blind, Progress, arms_figure, students_figure
from analysis.entropy import RICHNESS, TEMPERATURES
from kfexplore.errors import KfError
from kfexplore.figures.page import THEMES
from kfexplore.pair import Pair

TEXTS = ["The old owl said: go home!", "Rain fell on the old house.", "The rain went on and on."] * 8
TINY = dataclasses.replace(SMALL, groups=8, context=16)
RUN = [Progress(0, [3.0, 4.0], [0.25, 0.125], [0.1, 0.1]), Progress(5, [2.0, 3.5], [0.5, 0.25], [0.1, 0.1])]
BLIND = Blind(0.4, 2.5)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return written_pair(TEXTS)


def test_corpus_is_the_teachers_after_the_first_tokens(pair: Pair) -> None:
    corpus = own_corpus(pair, TEXTS[:3], 12, 0).reshape(3, -1)
    assert corpus[:, 0].tolist() == [pair.encode(text)[0][0] for text in TEXTS[:3]]
    assert corpus.shape == (3, 13)
    assert (corpus < pair.teacher.config.mask_id).all()
    assert np.array_equal(corpus.ravel(), own_corpus(pair, TEXTS[:3], 12, 0))
    assert not np.array_equal(corpus.ravel(), own_corpus(pair, TEXTS[:3], 12, 1))


def test_student_learns_and_the_run_continues_where_it_was(pair: Pair) -> None:
    corpus = own_corpus(pair, TEXTS[:3], 20, 0)
    whole, parts = (distil(pair, corpus, ["".join(TEXTS)], 12, every, 0, TINY) for every in (20, 5))
    assert [point.step for point in whole] == [0, 12]
    assert [point.step for point in parts] == [0, 5, 10, 12]
    assert whole[-1].losses == pytest.approx(parts[-1].losses, abs=1e-4)
    assert sum(whole[-1].losses) < sum(whole[0].losses)
    assert len(whole[0].losses) == len(whole[0].agreement) == 4
    with pytest.raises(KfError, match="at least 1 for both"):
        distil(pair, corpus, TEXTS, 12, 0, 0, TINY)


def test_baseline_is_the_most_likely_token_of_the_teacher(pair: Pair) -> None:
    found = blind(pair, ["".join(TEXTS)])
    assert 1 / pair.teacher.config.vocab_size < found.share < 1
    assert 0 < found.nats < np.log(pair.teacher.config.vocab_size)


def test_documents_are_of_one_pair() -> None:
    assert all(len(leg.steps) == len(leg.losses) for leg in legs())
    steps = [step for leg in legs() for step in leg.steps]
    assert steps == sorted(steps)
    document = json.loads((module.BENCH / "tales-agreement.json").read_text())
    assert versions()[-1].agreement_by_slot == pytest.approx(document["agreement_by_slot"], abs=1e-4)
    assert {"A", "B", "C", "exact"} <= {arm["arm"] for arm in arms()}


def test_figures_say_what_they_find() -> None:
    for theme in THEMES:
        drawn = figures(RUN, BLIND, theme)
        assert set(drawn) == {"progress", "legs", "versions", "entropy", "students", "ablation"}
    progress = drawn["progress"]
    assert finding(progress) == (
        "In 5 steps slot 1 goes from 25% to 50% exact tokens; a student that knew the teacher's distribution and never "
        "read its noise would have 40%"
    )
    lines = {(line.name, line.yaxis): list(line.y) for line in progress.data}
    assert lines == {
        ("slot 1", "y"): [3, 2],
        ("slot 2", "y"): [4, 3.5],
        ("slot 1", "y2"): [25, 50],
        ("slot 2", "y2"): [12.5, 25],
    }
    assert [(line.y0, line.yref) for line in progress.layout.shapes] == [(2.5, "y"), (40, "y2")]
    assert [list(line.error_y.array) for line in progress.data if line.yaxis == "y2"] == [[10, 10]] * 2
    last = versions()[-1]
    bars = drawn["versions"].data[len(versions()) - 1]
    assert list(bars.y) == pytest.approx([100 * share for share in (*last.agreement_by_slot, last.agreement_block)])
    assert [len(line.x) for line in drawn["legs"].data] == [sum(len(leg.steps) for leg in legs())] * 4


def test_arms_stand_in_the_order_of_their_mean_over_seeds() -> None:
    rows = [
        {"arm": arm, "what": what, "seed": seed}
        | {"agreement_by_slot": [value, 0.1], "agreement_by_slot_interval": [0.02, 0]}
        for arm, what, seed, value in (("A", "apart", 0, 0.2), ("B", "causal", 0, 0.15), ("B", "causal", 1, 0.27))
    ]
    figure = arms_figure(rows, blind=0.4)
    assert finding(figure) == (
        "At equal compute slot 1 is exact for 21 % (causal) to 20 % (apart); knowing the teacher's distribution "
        "without reading the noise would give 40%"
    )
    assert list(figure.layout.yaxis.categoryarray) == ["causal", "apart"]
    assert list(figure.data[0].x) == [20.0, 15.0, 27.0]
    assert list(figure.data[0].error_x.array) == [2.0] * 3
    assert [line.x0 for line in figure.layout.shapes] == [40]


def test_script_writes_its_files(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "distil", lambda *_: RUN)
    monkeypatch.setattr(module, "blind", lambda *_: BLIND)
    document = run(module, monkeypatch, pair, tmp_path, "--length", 8)
    assert (document["length"], document["run"][1]["losses"]) == (8, [2.0, 3.5])
    with (tmp_path / "distillation.csv").open() as file:
        assert [row["loss"] for row in csv.DictReader(file)] == ["3", "4", "2", "3.5"]
    assert table(RUN) in capsys.readouterr().out


def test_students_of_different_languages_are_drawn_at_their_teachers_entropy() -> None:
    def student(language: str, entropy: float, share: float) -> dict[str, Any]:
        shares = [share**k for k in range(1, 9)]
        about = {"language": language, "entropy": entropy, "agreement_by_length": shares}
        return {**about, "agreement_by_length_interval": [0.01] * 8}

    figure = students_figure([student("tales", 2.4, 0.5), student("stories", 0.1, 0.9), student("stories", 0.4, 0.8)])
    assert finding(figure).startswith("A block of four is right on 66% at 0.1 nats per token, on 6% at 2.4")
    by_name = {trace.name: trace for trace in figure.data}
    block = by_name["stories, block of 8"]
    assert list(block.x) == [0.1, 0.4]
    assert list(block.y) == pytest.approx([100 * 0.9**8, 100 * 0.8**8])
    assert list(by_name["published"].y) == [59.1, 5.2]


def test_the_stored_study_has_every_language() -> None:
    found = {(each["language"], each["value"]) for each in students()}
    assert found >= {*(("stories", value) for value in RICHNESS), *(("tales", value) for value in TEMPERATURES)}
