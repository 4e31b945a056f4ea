"""Figures of an evaluation draw the numbers they are given, and the page is complete in itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kfexplore.errors import KfError
from kfexplore.figures.evaluate import agreement_figure, entropy_figure, evaluation_page, quality_figure
from kfexplore.figures.page import THEMES, write
from kfexplore.figures.palette import colours
from kfexplore.results import Agreement, Bin, Estimate, Evaluation, SampleQuality, SlotLaw

BINS = [[Bin(0.0, 1.0, 50, Estimate(0.8, 0.7, 0.88)), Bin(4.0, 5.0, 40, Estimate(0.2, 0.1, 0.35))] for _ in range(2)]
FEW = Bin(6.0, 7.0, 3, Estimate(1.0, 0.4, 1.0))
SLOTS = [[*bins, FEW] for bins in BINS]
AGREEMENT = Agreement(
    teacher_nll=3.5,
    agreement_by_slot=[0.44, 0.2],
    agreement_by_slot_interval=[0.02, 0.01],
    agreement_block=0.1,
    agreement_block_interval=0.005,
    student_nll_by_slot=[2.0, 3.0],
    agreement_by_entropy=SLOTS,
    block_by_entropy=SLOTS[0],
    agreement_by_margin=BINS,
    windows=4,
    context=32,
    blocks=90,
    seed=0,
    tokens=5000,
    teacher_entropy=3.0,
    agreement_by_length=[0.44, 0.1],
    agreement_by_length_interval=[0.02, 0.005],
)


def row(name: str, loss: float, distinct: float, **other: Any) -> SampleQuality:
    values = {"k": 1, "penalty": 0.0, "dither": None, "tau": 1.0, **other}
    variety, same = Estimate(distinct, distinct - 0.01, distinct + 0.02), Estimate(1.0, 0.9, 1.1)
    loss_and_interval = Estimate(loss, loss - 0.1, loss + 0.1)
    return SampleQuality(name, *values.values(), 8, loss_and_interval, same, same, same, variety, same, same, same)


ROWS = [row("AR", 3.5, 0.9), row("K = 1", 2.5, 0.8), row("K = 2, p", 4, 0.6, k=2, penalty=1), row("K = 2", 3, 0.7, k=2)]
EVALUATION = Evaluation(
    "<b>", "T", AGREEMENT, SlotLaw(Estimate(0.3, 0.2, 0.4), 0.01, 4, 64), ROWS, {"seed": 0}, "cpu", "float32", {}, 1.0
)


def finding(figure: Any) -> str:
    return str(figure.layout.title.text.replace("<br>", " "))


def test_bars_are_per_cent_with_their_intervals_beside_the_published_slots() -> None:
    figure = agreement_figure(AGREEMENT)
    ours, published = figure.data
    assert list(ours.x) == ["slot 1", "slot 2", "block"]
    assert list(ours.y) == pytest.approx([44, 20, 10])
    assert list(ours.error_y.array) == pytest.approx([2, 1, 0.5])
    assert list(published.x) == ["slot 1", "slot 2"]  # no more marks than slots
    assert [base + y / 2 for base, y in zip(published.base, published.y, strict=True)] == pytest.approx([59.1, 32.7])
    assert "44.0% of noise vectors in slot 1, for 20.0% in slot 2; all 2 for 10.0%" in finding(figure)


def test_points_of_entropy_lie_in_their_bins_and_small_bins_are_left_out() -> None:
    figure = entropy_figure(SLOTS)
    assert [trace.name for trace in figure.data] == ["slot 1", "slot 2"]
    for trace in figure.data:
        assert list(trace.x) == pytest.approx([0.5, 4.5], abs=0.1)
        assert list(trace.y) == pytest.approx([80, 20])
        assert list(trace.error_y.array) == pytest.approx([8, 15])
        assert list(trace.error_y.arrayminus) == pytest.approx([10, 10])
    assert "80% of noise vectors where the teacher's entropy is below 1 nat, for 20% above 4 nats" in finding(figure)


def test_marks_of_quality_are_where_the_numbers_say_and_the_teacher_anchors_them() -> None:
    figure = quality_figure(ROWS)
    marks = [(t.text, round(t.x[0]), t.y[0]) for t in figure.data]
    assert marks == [("teacher (AR)", 90, 3.5), ("K = 1", 80, 2.5), ("K = 2, p", 60, 4.0), ("K = 2", 70, 3.0)]
    across, down = figure.layout.shapes
    assert (across.y0, across.y1, down.x0, down.x1) == (3.5, 3.5, 90, 90)
    assert figure.data[1].error_x.array[0] == pytest.approx(2)
    assert figure.data[1].error_x.arrayminus[0] == pytest.approx(1)
    # the plain argmax at the largest K, not the penalised one
    assert "At K = 2 samples have 3.00 nats per token under the teacher, its own samples 3.50" in finding(figure)
    assert "distinct-2 is 70%, that of the teacher's own 90%" in finding(figure)


@pytest.mark.parametrize("theme", THEMES)
def test_themes_have_their_own_colours_and_axes_have_units(theme: Any) -> None:
    for figure in (agreement_figure(AGREEMENT, theme), entropy_figure(SLOTS, theme), quality_figure(ROWS, theme)):
        assert figure.layout.paper_bgcolor == colours(theme).surface
        assert figure.layout.font.color == colours(theme).ink
        assert "(%)" in figure.layout.yaxis.title.text or "(nats" in figure.layout.yaxis.title.text


def test_page_requests_no_other_host_and_escapes_names() -> None:
    page = evaluation_page(EVALUATION)
    body = page[page.index("<body>") :]
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page[: page.index("<script>")] + body)
    assert "<b>" not in body
    data = json.loads(re.search(r"const figures = (.*);", body)[1])
    assert [sorted(themes) for themes in data] == [["dark", "light"]] * 3
    assert [n for n in range(3) if f'id="figure-{n}"' in body] == [0, 1, 2]


def test_page_is_written_into_a_new_folder(tmp_path: Path) -> None:
    path = write(evaluation_page(EVALUATION), tmp_path / "new" / "evaluation.html")
    assert path.read_text(encoding="utf-8") == evaluation_page(EVALUATION)
    with pytest.raises(KfError, match="cannot be written"):
        write("", path / "inside.html")
