"""Figures of a context's distributions draw the numbers they are given, on one scale, in both themes."""

from __future__ import annotations

import numpy as np
import pytest

from kfexplore.figures.laws import counts_figure, joint_figure, surprise_figure
from kfexplore.figures.page import THEMES
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
MARGINAL = np.array([0.4, 0.6, 0.0])
LAW = BlockLaw(np.array([0]), np.array([1, 0]), MARGINAL, GIVEN, 0.0, Bounded(0.2, 0.2, 0.2), Bounded(0.3, 0.3, 0.3))
CELLS = Cells(np.array([[1, 0], [0, 1]]), np.array([0.54, 0.32, 0.14]), ["rare pairs"])


def row(name: str, blocks: list[list[int]], impossible: float, tv: Distance) -> SamplerLaw:
    drawn, counts = np.array(blocks), np.array([2, 1, 1])
    found = Estimate(impossible, 0.0, 1.0)
    return SamplerLaw(
        name, 1, drawn, CELLS, counts, 1.0, 2, 0.5, tv, 0.2, 0.05, found, np.zeros(len(drawn), dtype=bool), 0.0, 0.1
    )


def measured(error: ProductError | None = None) -> ContextStudy:
    exact = Estimate(0.2, 0.2, 0.2)
    correlation = Correlation(exact, [Estimate(0, 0, 0), exact], [0.67, 0.4], np.zeros((2, 3)), 0)
    rows = [
        row("teacher", [[1, 0], [1, 0], [0, 1], [0, 0]], 0.001, exactly(0.0)),
        row("student", [[1, 0]] * 3 + [[0, 0]], 0.25, Distance(0.4, 0.3, 0.5, "quadrature")),
        row("ideal MDLM", [[0, 0]] * 4, 0.5, exactly(0.3)),
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


def test_cells_that_matter_have_numbers_in_a_readable_colour() -> None:
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


def test_counts_are_fractions_of_each_sampler_and_impossible_ones_stand_apart() -> None:
    figure = counts_figure(measured(), ["<b>", "x", ""].__getitem__)
    likely, apart = ([t for t in figure.data if t.xaxis == axis] for axis in ("x", "x2"))
    assert [bar.name for bar in likely] == ["teacher", "student", "ideal MDLM", "expected"]
    assert list(figure.layout.xaxis.ticktext) == ["x &lt;b&gt;", "&lt;b&gt; x"]
    assert figure.layout.xaxis2.ticktext == ("✕",)
    assert list(likely[1].y) == pytest.approx([75, 0])
    assert list(likely[3].y[1::4]) == pytest.approx([54, 32])
    assert [list(bar.x) for bar in apart[:3]] == [[0]] * 3
    assert [bar.y[0] for bar in apart] == pytest.approx([0.1, 25, 50, 0.1])
    assert "50 %" in figure.layout.title.text


def test_the_expected_line_is_as_wide_as_its_bars_on_any_screen() -> None:
    figure = counts_figure(measured())
    half = (1 - figure.layout.bargap) / 2
    for line in (trace for trace in figure.data if trace.name == "expected"):
        assert (line.mode, line.x[3::4], line.y[3::4]) == ("lines", *[(None,) * (len(line.x) // 4)] * 2)
        for place in range(len(line.x) // 4):
            assert line.x[4 * place : 4 * place + 3] == (place - half, place, place + half)
            assert len(set(line.y[4 * place : 4 * place + 3])) == 1
            assert len(set(line.customdata[4 * place : 4 * place + 4])) == 1


@pytest.mark.parametrize("theme", THEMES)
def test_both_themes_draw(theme: str) -> None:
    for figure in (
        surprise_figure(measured(), theme),
        counts_figure(measured(), theme=theme),
        joint_figure(LAW, theme=theme),
    ):
        assert figure.layout.paper_bgcolor == colours(theme).surface
