"""The figure of the curves: every stage that has begun, and its last loss in words."""

from __future__ import annotations

from kfexplore.figures.evaluate import curves_figure, curves_page

CURVES = {
    "teacher": [{"step": 50, "loss": 5.0, "tokens_per_second": 900}, {"step": 100, "loss": 4.25}],
    "student1": [{"step": 50, "loss": 3.125, "loss_1": 2.25, "loss_2": 4.0, "tokens_per_second": 2}],
    "masked": [],
}


def test_one_line_per_stage_that_has_begun() -> None:
    figure = curves_figure(CURVES)
    assert [trace.name for trace in figure.data] == ["teacher", "student1"]
    assert (list(figure.data[0].x), list(figure.data[0].y)) == ([50, 100], [5.0, 4.25])
    assert figure.data[1].mode == "markers"  # a line of one point would not be seen
    assert "teacher 4.25, student1 3.12 nats" in figure.layout.title.text.replace("<br>", " ")
    assert list(figure.data[1].customdata[0]) == [" (by slot 2.25 / 4.00)", 2]
    assert figure.data[0].customdata[0][0] == ""
    assert figure.data[0].line.color != figure.data[1].line.color


def test_the_page_is_complete_and_escapes_the_name() -> None:
    text = curves_page(CURVES, "<b>run</b>")
    assert "&lt;b&gt;run&lt;/b&gt;" in text
    assert "<b>run" not in text
    assert 'src="http' not in text
