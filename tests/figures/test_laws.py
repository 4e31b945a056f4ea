"""Figures of a context's laws: they draw the numbers they are given, on one scale, in both themes."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.joint_vs_marginal_figures import ClassInformation, classes_figure, information_figure, passes_figure
from kfexplore.figures.laws import counts_figure, joint_figure, surprise_figure
from kfexplore.figures.palette import colours
from kfexplore.results import (
    BlockLaw,
    Bounded,
    Cells,
    ContextStudy,
    Correlation,
    Distance,
    Estimate,
    ProductError,
    SamplerLaw,
    exactly,
)

GIVEN = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]], dtype=np.float32)
LAW = BlockLaw(
    np.array([0]),
    np.array([1, 0]),
    np.array([0.4, 0.6, 0.0]),
    GIVEN,
    0.0,
    Bounded(0.2, 0.2, 0.2),
    Bounded(0.3, 0.3, 0.3),
)
CELLS = Cells(np.array([[1, 0], [0, 1]]), np.array([0.54, 0.32, 0.14]), ["rare pairs"])


def row(name: str, nfe: int, blocks: list[list[int]], impossible: float, tv: Distance) -> SamplerLaw:
    drawn = np.array(blocks)
    return SamplerLaw(
        name,
        nfe,
        drawn,
        CELLS,
        np.array([2, 1, 1]),
        1.0,
        2,
        0.5,
        tv,
        0.2,
        0.05,
        Estimate(impossible, 0.0, 1.0),
        np.zeros(len(drawn), dtype=bool),
        0.0,
        0.1,
    )


def measured(error: ProductError | None = None) -> ContextStudy:
    exact = Estimate(0.2, 0.2, 0.2)
    correlation = Correlation(exact, [Estimate(0, 0, 0), exact], [0.67, 0.4], np.zeros((2, 3)), 0)
    rows = [
        row("teacher", 2, [[1, 0], [1, 0], [0, 1], [0, 0]], 0.001, exactly(0.0)),
        row("student", 1, [[1, 0]] * 3 + [[0, 0]], 0.25, Distance(0.4, 0.3, 0.5, "quadrature")),
        row("ideal MDLM", 1, [[0, 0]] * 4, 0.5, exactly(0.3)),
        row("MDLM, 2 passes", 2, [[0, 0]] * 4, 0.1, Distance(0.6, 0.55, None, "lower_bound")),
    ]
    return ContextStudy(2, LAW, correlation, error, rows, -9.0, 0.001, 0, [], 1.0, "cpu")


def test_heat_maps_share_one_scale_and_differ_by_their_difference() -> None:
    figures = [joint_figure(LAW, panel, "abc".__getitem__) for panel in ("joint", "product", "difference")]
    joint, product, apart = (figure.data[0] for figure in figures)
    assert (joint.zmax, product.zmax, apart.zmax) == pytest.approx((54, 54, 54))
    assert (joint.zmin, product.zmin, apart.zmin) == pytest.approx((0, 0, -54))
    np.testing.assert_allclose(joint.z, [[54, 6, 0], [8, 32, 0]], rtol=1e-6)
    np.testing.assert_allclose(product.z, np.outer([60, 40], [0.62, 0.38, 0]), rtol=1e-6)
    np.testing.assert_allclose(apart.z, np.array(joint.z) - np.array(product.z))
    for figure in figures:
        assert list(figure.layout.yaxis.ticktext) == ["b", "a"]
        assert list(figure.layout.xaxis.ticktext) == ["a", "b", "c"]
    assert np.shape(joint_figure(LAW, most=1).data[0].z) == (1, 1)


def test_numbers_stand_in_the_cells_that_matter_and_can_be_read() -> None:
    _, light, dark = joint_figure(LAW, "joint").data
    assert (list(dark.text), list(dark.x), list(dark.y)) == (["54.0", "32.0"], [0, 1], [0, 1])
    assert list(light.text) == []
    assert dark.textfont.color == colours("light").surface


def test_parts_of_the_surprise_add_up() -> None:
    own, product = surprise_figure(measured()).data
    assert list(own.x) == pytest.approx([1.07, 1.07])
    assert list(product.x) == pytest.approx([0, 0.2])
    wrong = surprise_figure(measured(ProductError(0.2, [0.3, 0.4]))).data[2]
    assert list(wrong.x) == pytest.approx([0, 0, 0.7])


def test_counts_are_shares_of_each_sampler_and_impossible_ones_stand_apart() -> None:
    traces = counts_figure(measured(), "abc".__getitem__).data
    likely, apart = ([t for t in traces if t.xaxis == axis] for axis in ("x", "x2"))
    assert [bar.name for bar in likely] == ["teacher", "student", "ideal MDLM", "MDLM, 2 passes", "expected"]
    assert list(counts_figure(measured(), "abc".__getitem__).layout.xaxis.ticktext) == ["b a", "a b"]
    assert list(counts_figure(measured(), ["<b>", "x", ""].__getitem__).layout.xaxis.ticktext) == [
        "x &lt;b&gt;",
        "&lt;b&gt; x",
    ]
    assert list(likely[1].y) == pytest.approx([75, 0])
    assert list(likely[4].y[1::4]) == pytest.approx([54, 32])
    assert [list(bar.x) for bar in apart[:4]] == [[0]] * 4
    assert [bar.y[0] for bar in apart] == pytest.approx([0.1, 25, 50, 10, 0.1])
    assert "50.0%" in counts_figure(measured()).layout.title.text


def test_what_is_expected_is_as_wide_as_its_bars_on_any_screen() -> None:
    figure = counts_figure(measured())
    filled = (1 - figure.layout.bargap) / 2
    for line in (trace for trace in figure.data if trace.name == "expected"):
        assert (line.mode, line.x[3::4], line.y[3::4]) == ("lines", *[(None,) * (len(line.x) // 4)] * 2)
        for place in range(len(line.x) // 4):
            assert line.x[4 * place : 4 * place + 3] == (place - filled, place, place + filled)
            assert len(set(line.y[4 * place : 4 * place + 3])) == 1
            assert len(set(line.customdata[4 * place : 4 * place + 4])) == 1
    for axis in (figure.layout.xaxis, figure.layout.xaxis2):
        assert axis.zeroline is False  # a line through the first group
    assert figure.layout.xaxis2.ticktext == ("✕",)


def test_passes_show_limits_and_which_are_lower_bounds() -> None:
    figure = passes_figure(measured().samplers)
    assert [round(mark.x[0]) for mark in figure.data] == [2, 1, 1, 2]
    assert [mark.y[0] for mark in figure.data] == [0, 0.4, 0.3, 0.55]  # a lower bound by its limit
    assert figure.data[1].error_y.array[0] == pytest.approx(0.1)
    bound = figure.data[3]
    assert (bound.error_y.array[0], bound.error_y.arrayminus[0]) == pytest.approx((0, 0))  # no upper end
    assert bound.name == "MDLM, 2 passes (lower bound)"
    assert bound.marker.symbol.endswith("-open")
    assert len(figure.layout.annotations) == 1
    assert "perfect marginals are 0.300 from the teacher's distribution, the student 0.400" in (
        figure.layout.title.text.replace("<br>", " ")
    )


def test_distribution_and_classes() -> None:
    values = np.linspace(0, 2, 21)
    assert "1.00 nats" in information_figure(values).layout.title.text
    classes = [ClassInformation("a", 0.2, Estimate(1, 0.5, 2)), ClassInformation("b", 0.8, Estimate(3, 2, 4))]
    bars = classes_figure(classes).data[0]
    assert list(bars.y) == [3, 1]
    assert list(bars.x) == ["b (80%)", "a (20%)"]


def test_both_themes_draw() -> None:
    for theme in ("light", "dark"):
        for draw in (surprise_figure, counts_figure):
            assert draw(measured(), theme=theme).layout.paper_bgcolor
        assert joint_figure(LAW, theme=theme).layout.paper_bgcolor
