"""The figure of the curves: every stage that has begun, and its last loss in words."""

from __future__ import annotations

from analysis.distillation_figures import arms_figure
from kfexplore.figures.training import curves_figure, curves_page

CURVES = {
    "teacher": [
        {"step": 50, "loss": 5.0, "tokens_per_second": 900},
        {"step": 100, "loss": 4.25, "tokens_per_second": 1},
    ],
    "student1": [{"step": 50, "loss": 3.125, "loss_1": 2.25, "loss_2": 4.0, "tokens_per_second": 2}],
    "masked": [],
}


def test_a_line_a_stage_that_has_begun() -> None:
    figure = curves_figure(CURVES)
    assert [trace.name for trace in figure.data] == ["teacher", "student1"]
    assert list(figure.data[0].x) == [50, 100]
    assert list(figure.data[0].y) == [5.0, 4.25]
    assert figure.data[1].mode == "markers"  # a line of one point would not be seen
    assert "teacher 4.25, student1 3.12 nats" in figure.layout.title.text.replace("<br>", " ")
    assert list(figure.data[1].customdata[0]) == [" (by slot 2.25 / 4.00)", 2]
    assert figure.data[0].customdata[0][0] == ""
    assert figure.data[0].line.color != figure.data[1].line.color


def test_the_page_needs_nothing_else_and_escapes_the_name() -> None:
    text = curves_page(CURVES, "<b>run</b>")
    assert "&lt;b&gt;run&lt;/b&gt;" in text
    assert "<b>run" not in text
    assert 'src="http' not in text


def test_arms_stand_in_the_order_of_their_mean_over_seeds() -> None:
    rows = [
        {
            "arm": arm,
            "what": what,
            "seed": seed,
            "agreement_by_slot": [value, 0.1],
            "agreement_by_slot_interval": [0.02, 0],
        }
        for arm, what, seed, value in (("A", "apart", 0, 0.2), ("B", "causal", 0, 0.15), ("B", "causal", 1, 0.27))
    ]
    figure = arms_figure(rows, blind=0.4)
    assert figure.layout.title.text.replace("<br>", " ") == (
        "At equal compute slot 1 is exact on 21 % (causal) to 20 % (apart); knowing the teacher's law and never "
        "reading the noise would give 40%"
    )
    assert list(figure.layout.yaxis.categoryarray) == ["causal", "apart"]
    assert list(figure.data[0].x) == [20.0, 15.0, 27.0]
    assert list(figure.data[0].error_x.array) == [2.0] * 3
    assert [line.x0 for line in figure.layout.shapes] == [40]
