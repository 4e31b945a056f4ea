"""The study of noise maps on a small pair: numbers held against their definitions, and the files that it writes."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import written_pair

from analysis import noise_maps as module
from analysis import writing
from analysis.noise_maps import (
    agreement_by,
    areas,
    by_slot,
    encoder_distances,
    figures,
    lattice,
    measure,
    reach,
    sample,
    strip,
    table,
)
from analysis.noise_maps_figures import Sample
from kfexplore.evaluate.text import prefixes
from kfexplore.figures.page import THEMES
from kfexplore.laws.exact import pair_law
from kfexplore.maps import block
from kfexplore.pair import Pair

TEXTS = ["The old owl said: go home!", "Rain fell on the old house.", "The rain went on and on.", "go"]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return written_pair(TEXTS)


@pytest.fixture(scope="module")
def contexts(pair: Pair) -> list[list[int]]:
    return prefixes(pair, TEXTS, 0)


@pytest.fixture(scope="module")
def taken(pair: Pair, contexts: list[list[int]]) -> Sample:
    return sample(pair, contexts, 6, 0)


def test_what_is_known_of_a_slot_is_the_teachers(pair: Pair, contexts: list[list[int]], taken: Sample) -> None:
    for c, context in enumerate(contexts):
        for m in range(6):
            before = list(context)
            for j, token in enumerate(taken.teacher[c, m].tolist()):
                law = pair.teacher.log_probs(torch.tensor([before]))[0, -1].double()
                assert taken.width[c, m, j] == pytest.approx(float(law[token].exp()), rel=1e-4)
                assert taken.entropy[c, m, j] == pytest.approx(float(-(law.exp() * law).sum()), abs=1e-4)
                assert taken.edge[c, m, j] <= taken.width[c, m, j] / 2 + 1e-9
                before.append(token)


def made(teacher_tokens: list[list[int]], student_tokens: list[list[int]]) -> Sample:
    """Two contexts with the same noise vectors."""
    exact, learned = (np.array([tokens, tokens]) for tokens in (teacher_tokens, student_tokens))
    value = np.broadcast_to(np.linspace(0, 1, exact[0].size).reshape(exact[0].shape), exact.shape)
    return Sample(value, exact, learned, value, value, value, value, value)


def test_agreement_is_taken_apart_by_the_slots_before() -> None:
    first, second = by_slot(made([[1, 1], [1, 1], [1, 1], [1, 1]], [[1, 1], [1, 2], [1, 1], [2, 2]]))
    assert (first.all.value, first.after_exact, first.after_wrong) == (0.75, None, None)
    assert second.all.value == 0.5
    assert second.after_exact is not None
    assert second.after_exact.value == pytest.approx(2 / 3)
    assert second.after_wrong is not None
    assert second.after_wrong.value == 0


def test_fifths_hold_all_slots_once() -> None:
    found = agreement_by(made([[1, 1]] * 5, [[1, 1], [1, 1], [2, 2], [2, 2], [2, 2]]), "margin")
    assert [b.blocks for b in found.all] == [4, 4, 4, 4, 4]
    assert [b.share.value for b in found.all] == [1, 1, 0, 0, 0]
    assert sum(b.blocks for bins in found.slots for b in bins) == 20


def test_exact_areas_are_probabilities(pair: Pair, contexts: list[list[int]]) -> None:
    law = pair_law(pair, contexts[0], first=pair.teacher.config.vocab_size)
    found = areas(law, block(pair.prefill(contexts[0]), lattice(4096)))
    assert found.tv_exact < 0.15
    assert found.tv_learned > 2 * found.tv_exact
    assert (found.exact.sum(), found.learned.sum()) == pytest.approx((1, 1))
    assert (np.diff(found.probability) <= 0).all()
    assert found.exact[:5] == pytest.approx(found.probability[:5], abs=2e-3)


def test_no_noise_reaches_an_earlier_slot(pair: Pair, contexts: list[list[int]]) -> None:
    found = reach(pair, contexts, 0, 16)
    for values in (found.exact, found.learned):
        assert (np.tril(values, -1) == 0).all()
        assert (np.diag(values) > 0).all()
        assert values.max() < 1


def test_nearer_noise_has_nearer_encodings(pair: Pair) -> None:
    found = encoder_distances(pair.student, module.APART)
    assert (np.diff(found) < 0).all()
    assert found[-1] < 0.01


def test_files_figures_and_strip(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measure(pair, "The old", prefixes(pair, TEXTS, 0), 8, 0, 16, 2)
    assert "after wrong" in table(found)
    for theme in THEMES:
        assert all(figure.layout.title.text for figure in figures(pair, found, theme).values())
    assert "<iframe" in strip(pair, "The old", [0.5] * 4, 16)
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    monkeypatch.setattr(module, "load_pair", lambda _: pair)
    monkeypatch.setattr(writing, "write_stills", lambda *_: [])
    words = f"x --prompt The --text {tmp_path / 'text.txt'} --contexts 3 --each 4 --out {tmp_path / 'out'}"
    monkeypatch.setattr(sys, "argv", words.split())
    module.main()
    assert "borders" not in capsys.readouterr().out
    document = json.loads((tmp_path / "out" / "noise_maps.json").read_text())
    assert document["study"] == "noise_maps"
    assert len(document["agreement_by_slot"]) == 4
    with (tmp_path / "out" / "noise_maps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 4 * 4
    assert {"context", "vector", "slot", "margin", "edge", "entropy"} <= set(rows[0])
    assert "Plotly" in (tmp_path / "out" / "noise_maps.html").read_text()
