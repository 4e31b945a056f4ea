"""The study of noise maps: numbers against their definitions, what the figures draw, and the files that it writes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import written_pair
from studies import TEXTS, about, finding, run

from analysis import noise_maps as module
from analysis import noise_maps_figures as drawing
from analysis.grid_figures import closed_form_figure, closed_form_grid, grid_figure
from analysis.writing import prefixes
from kfexplore.errors import KfError
from kfexplore.figures.page import THEMES
from kfexplore.figures.palette import colours
from kfexplore.laws.exact import pair_law
from kfexplore.maps import block
from kfexplore.pair import Pair
from kfexplore.results import Bin, Grid, Learned

SIDE = 40
EXACT = np.zeros((SIDE, SIDE, 2), dtype=np.int64)
EXACT[10:, :, 0], EXACT[10:, 20:, 1] = 1, 2
LEARNED = EXACT.copy()
LEARNED[:, :8] = 3
GRID = Grid((0, 1), np.full(2, 0.5), EXACT, Learned(LEARNED, np.zeros((SIDE, SIDE, 2))))


@pytest.fixture(scope="module")
def pair() -> Pair:
    return written_pair(TEXTS)


@pytest.fixture(scope="module")
def contexts(pair: Pair) -> list[list[int]]:
    return prefixes(pair, TEXTS, 0)


def test_what_describes_a_slot_is_the_teachers(pair: Pair, contexts: list[list[int]]) -> None:
    taken = module.sample(pair, contexts, 6, 0)
    for c, context in enumerate(contexts):
        for m in range(6):
            before = list(context)
            for j, token in enumerate(taken.teacher[c, m].tolist()):
                law = pair.teacher.log_probs(torch.tensor([before]))[0, -1].double()
                assert taken.width[c, m, j] == pytest.approx(float(law[token].exp()), rel=1e-4)
                assert taken.entropy[c, m, j] == pytest.approx(float(-(law.exp() * law).sum()), abs=1e-4)
                assert taken.edge[c, m, j] <= taken.width[c, m, j] / 2 + 1e-9
                before.append(token)


def made(teacher_tokens: list[list[int]], student_tokens: list[list[int]]) -> drawing.Sample:
    """Two contexts with the same noise vectors."""
    exact, learned = (np.array([tokens, tokens]) for tokens in (teacher_tokens, student_tokens))
    value = np.broadcast_to(np.linspace(0, 1, exact[0].size).reshape(exact[0].shape), exact.shape)
    return drawing.Sample(value, exact, learned, value, value, value, value, value)


def test_agreement_is_split_by_the_slots_before() -> None:
    first, second = module.by_slot(made([[1, 1]] * 4, [[1, 1], [1, 2], [1, 1], [2, 2]]))
    assert (first.all.value, first.after_exact, first.after_wrong) == (0.75, None, None)
    assert second.all.value == 0.5
    assert second.after_exact is not None
    assert second.after_exact.value == pytest.approx(2 / 3)
    assert second.after_wrong is not None
    assert second.after_wrong.value == 0


def test_fifths_hold_all_slots_once() -> None:
    found = module.agreement_by(made([[1, 1]] * 5, [[1, 1], [1, 1], [2, 2], [2, 2], [2, 2]]), "margin")
    assert [b.blocks for b in found.all] == [4, 4, 4, 4, 4]
    assert [b.share.value for b in found.all] == [1, 1, 0, 0, 0]
    assert sum(b.blocks for bins in found.slots for b in bins) == 20


def test_exact_areas_are_probabilities(pair: Pair, contexts: list[list[int]]) -> None:
    law = pair_law(pair, contexts[0], first=pair.teacher.config.vocab_size)
    found = module.areas(law, block(pair.prefill(contexts[0]), module.lattice(4096)))
    assert found.tv_exact < 0.15
    assert found.tv_learned > 2 * found.tv_exact
    assert (found.exact.sum(), found.learned.sum()) == pytest.approx((1, 1))
    assert (np.diff(found.probability) <= 0).all()
    assert found.exact[:5] == pytest.approx(found.probability[:5], abs=2e-3)


def test_no_noise_reaches_an_earlier_slot_and_near_noise_has_near_encodings(
    pair: Pair, contexts: list[list[int]]
) -> None:
    found = module.reach(pair, contexts, 0, 16)
    for values in (found.exact, found.learned):
        assert (np.tril(values, -1) == 0).all()
        assert (np.diag(values) > 0).all()
        assert values.max() < 1
    distances = module.encoder_distances(pair.student, module.APART)
    assert (np.diff(distances) < 0).all()
    assert distances[-1] < 0.01


def test_files_figures_and_strip(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = module.measure(pair, "The old", prefixes(pair, TEXTS, 0), 8, 0, 16, 2)
    assert "after wrong" in module.table(found)
    for theme in THEMES:
        for figure in module.figures(pair, found, theme).values():
            assert figure.layout.title.text
            assert figure.layout.paper_bgcolor == colours(theme).surface
    assert "<iframe" in module.strip(pair, "The old", [0.5] * 4, 16)
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    words = ("--prompt", "The", "--text", tmp_path / "text.txt", "--contexts", 3, "--each", 4)
    document = run(module, monkeypatch, pair, tmp_path / "out", *words)
    assert "borders" not in capsys.readouterr().out
    assert (document["text"], document["each"]) == ("text.txt", 4)
    assert len(document["agreement_by_slot"]) == 4
    with (tmp_path / "out" / "noise_maps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 4 * 4
    assert {"context", "vector", "slot", "margin", "edge", "entropy"} <= set(rows[0])


def fifths(*values: float) -> list[Bin]:
    return [Bin(float(n), float(n + 1), 50, about(value)) for n, value in enumerate(values)]


def test_areas_stand_on_their_probability_and_none_on_the_floor() -> None:
    probability, learned = np.array([0.7, 0.3]), np.array([1.0, 0.0])
    figure = drawing.areas_figure(
        drawing.Areas(np.array([[0, 1], [1, 0]]), probability, probability, learned, 100, 0.0, 0.3)
    )
    inexact, exact = figure.data[1:]
    assert list(exact.y) == list(exact.x) == [0.7, 0.3]
    assert list(inexact.y) == [1.0, 0.005]
    assert "TV 0.30" in finding(figure)
    assert "these have 30% of" in figure.layout.title.subtitle.text.replace("<br>", " ")


def test_bars_of_slots_are_split_by_those_before() -> None:
    rows = [
        drawing.SlotAgreement(0, about(0.6), None, None),
        drawing.SlotAgreement(1, about(0.3), about(0.5), about(0.1)),
    ]
    figure = drawing.slots_figure(rows)
    assert [list(trace.y) for trace in figure.data] == [[60, 30], [50], [10]]
    assert "slot 2 for 30%: 50% after exact slots, 10% after a wrong one" in finding(figure)
    assert len({trace.marker.pattern.shape for trace in figure.data}) == 3  # distinct without colour


def test_quantities_are_ranked_by_what_they_tell() -> None:
    flat = drawing.AgreementBy("flat (nats)", [fifths(0.4, 0.5), fifths(0.4, 0.5)], fifths(0.4, 0.5))
    steep = drawing.AgreementBy("steep (u)", [fifths(0.9, 0.1), fifths(0.9, 0.1)], fifths(0.9, 0.1))
    figure = drawing.by_figure([flat, steep])
    assert finding(figure).startswith("The best predictor is the steep: 90% exact in its lowest fifth, 10% in its")
    assert "the flat (40%, 50%)" in finding(figure)
    assert [figure.layout[axis].title.text for axis in ("xaxis", "xaxis2")] == ["steep (u)", "flat (nats)"]


def test_resolution_names_the_median_shift_and_reach_writes_every_cell() -> None:
    found = drawing.Resolution(
        np.array([0.5, 0.25]), np.array([1.0, 0.5]), fifths(0.1, 0.9), np.array([-0.02, 0.03, 0.04])
    )
    figure = drawing.resolution_figure(found)
    assert "displaced by 0.030" in finding(figure)
    assert list(figure.data[-1].x) == [0.03, 0.03]
    figure = drawing.reach_figure(drawing.Reach(np.array([[0.8, 0.7], [0, 0.6]]), np.array([[0.5, 0.2], [0, 0.4]])))
    cells = [text for trace in figure.data if trace.type == "scatter" for text in trace.text]
    assert sorted(cells) == sorted(["80", "70", "0", "60", "50", "20", "0", "40"])
    assert "token 2 in 70% of draws in the exact map, in 20% in the learned" in finding(figure)


def test_every_region_with_room_is_named_with_its_area() -> None:
    figure = closed_form_figure(EXACT, "abc".__getitem__)
    named = [trace.text for trace in figure.data if trace.type == "scatter" and trace.mode == "text"]
    assert named == ["a a<br>area 0.2500", "b a<br>area 0.3750", "b c<br>area 0.3750"]
    assert "3 regions" in finding(figure)


def test_crosses_stand_where_the_maps_differ_and_tokens_are_not_read_as_tags() -> None:
    figure = grid_figure(GRID, lambda _: "<b>")
    crosses = next(trace for trace in figure.data if trace.type == "scatter" and trace.mode == "markers")
    assert len(crosses.x) == SIDE * 8
    assert max(crosses.y) < 8 / SIDE
    assert crosses.marker.color == colours("light").differ
    assert finding(figure).startswith("On 80% of this square")
    named = [trace.text for trace in figure.data if trace.type == "scatter" and trace.mode == "text"]
    assert set(named) == {"&lt;b&gt; &lt;b&gt;"}


def test_the_papers_square_has_three_regions_of_a_third() -> None:
    pairs = closed_form_grid([1 / 3, 2 / 3, 0], [[0, 1, 0], [1 / 2, 0, 1 / 2], [1, 0, 0]], 96)
    assert (pairs[:32] == [0, 1]).all()
    assert (pairs[32:, :48] == [1, 0]).all()
    assert (pairs[32:, 48:] == [1, 2]).all()


def test_areas_in_closed_form_are_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    first, after = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4), 4)
    pairs = closed_form_grid(first, after, 512).reshape(-1, 2)
    found = np.bincount(pairs @ [4, 1], minlength=16).reshape(4, 4) / len(pairs)
    assert found == pytest.approx(first[:, None] * after, abs=1 / 256)
    never = closed_form_grid([1, 0], [[0, 1], [0, 0]], 4)  # the second row never comes
    assert (never == [0, 1]).all()


@pytest.mark.parametrize(
    ("first", "after"),
    [([0.5, 0.4], np.eye(2)), ([1.5, -0.5], np.eye(2)), ([1, 0], [[0, 0.5], [0, 1]]), ([1, 0], [[1, 0]])],
)
def test_what_is_no_distribution_is_refused(first: list[float], after: object) -> None:
    with pytest.raises(KfError):
        closed_form_grid(first, after)
