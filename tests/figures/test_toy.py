"""Figures of the toy distributions draw the numbers of the results, and their words are true."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kfexplore.figures.page import THEMES, bare
from kfexplore.figures.palette import Theme, colours
from kfexplore.figures.toy import (
    MOST_BLOCKS,
    blocks_figure,
    blocks_words,
    exact_at_random,
    fewest_exact,
    order_words,
    passes_figure,
    passes_words,
    squares_figure,
    squares_words,
)
from kfexplore.laws.toy import toy_draws, toy_law
from kfexplore.results import ToyLaw

PERMUTATION, XOR, CHAIN = toy_law("permutation"), toy_law("noisy-xor"), toy_law("chain")
LARGE, MIXED, INDEPENDENT = (
    toy_law("permutation", length=4),
    toy_law("not-all-equal"),
    toy_law("correlation", rho=0.0),
)


def test_passes_are_drawn_best_and_worst_with_push_forward_at_zero() -> None:
    traces = {trace.name: trace for trace in passes_figure(CHAIN).data}
    assert list(traces["worst order"].x) == [1, 2, 3]
    assert traces["worst order"].y == pytest.approx([0.56, 0.4, 0])
    assert traces["best order"].y == pytest.approx([0.56, 0.32, 0])
    assert traces["random order"].y == pytest.approx([0.56, 0.3454, 0], abs=1e-4)
    assert traces["other splits"].y == pytest.approx([0, 0.144])
    assert list(traces["other splits"].x) == [2, 2]
    assert "x2, then x1 x3" in traces["other splits"].customdata[0]
    assert (list(traces["push-forward"].x), list(traces["push-forward"].y)) == ([1], [0])
    assert len({trace.marker.symbol for trace in traces.values()}) == len(traces)  # distinct without colour
    marked = traces["1+2, best order"]  # the split of the title, which lies on no line
    assert (marked.marker.symbol, list(marked.x), list(marked.y)) == ("diamond", [2], [pytest.approx(0)])
    assert "x2, then x1 x3" in marked.customdata[0]


def test_no_distance_below_zero_is_on_the_axis() -> None:
    for toy in (PERMUTATION, toy_law("chain", eps=0.5)):
        assert passes_figure(toy).layout.yaxis.range[0] == 0


def test_areas_of_the_squares_are_probabilities_and_dots_lie_in_their_regions() -> None:
    draws = toy_draws(PERMUTATION, 200, 3)
    figure = squares_figure(PERMUTATION, draws)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    regions = [(b.xaxis, b.x[0] - b.width[0] / 2, b.base[0], b.width[0], b.y[0]) for b in bars]
    assert regions[:2] == [("x", 0, 0, 0.5, 1), ("x", 0.5, 0, 0.5, 1)]  # the exact map: the second token follows
    assert [region[1:] for region in regions[2:]] == [(x, y, 0.5, 0.5) for x in (0, 0.5) for y in (0, 0.5)]
    assert [note.text for note in figure.layout.annotations] == ["01", "10", "00 ✕", "01", "10", "11 ✕"]
    dots = {(d.xaxis, d.marker.symbol): d for d in figure.data if d.type == "scatter"}
    assert set(dots) == {("x", "circle"), ("x2", "circle"), ("x2", "x")}  # nothing impossible from the exact map
    assert len(dots["x", "circle"].x) == 200
    for x, y, block in zip(*(dots["x2", "x"][key] for key in ("x", "y", "customdata")), strict=True):
        assert (block, x >= 0.5, y >= 0.5) in {("00", False, False), ("11", True, True)}


@pytest.mark.parametrize(
    ("toy", "finding"),
    [
        (LARGE, "impossible blocks (expected: 90.6\N{NO-BREAK SPACE}%); the exact map gives 0"),
        (XOR, "No block is impossible here: independent draws err in how often each occurs (total variation distance"),
        (INDEPENDENT, "both squares are the same"),
    ],
)
def test_finding_of_the_squares(toy: ToyLaw, finding: str) -> None:
    assert finding in squares_words(toy, toy_draws(toy, 100, 0))[0]


@pytest.mark.parametrize(("toy", "differs"), [(XOR, True), (CHAIN, False), (PERMUTATION, False), (INDEPENDENT, False)])
def test_equal_squares_of_samplers_that_differ_are_explained(toy: ToyLaw, differs: bool) -> None:
    reading = squares_words(toy, toy_draws(toy, 100, 0))[1]
    assert ("Both squares are the same: the samplers differ in token 3, given the first two." in reading) is differs


@pytest.mark.parametrize(
    ("toy", "finding"),
    [
        (PERMUTATION, "off by 0.5; only one token per pass is exact"),
        (
            MIXED,
            "Every fixed 2+1 order is off by 0.17 or more, yet a random 2+1 order is exact: the errors of the orders",
        ),
        (XOR, "off by 0.4; 2 passes of 3 can be exact (2+1, in every order)"),
        (CHAIN, "off by 0.56; 2 passes of 3 can be exact (1+2, in the best order)"),
        (INDEPENDENT, "one pass of marginals is exact"),
    ],
)
def test_finding_of_the_passes(toy: ToyLaw, finding: str) -> None:
    assert finding in passes_words(toy)[0]
    assert finding in passes_figure(toy).layout.title.text.replace("<br>", " ")


def test_words_name_only_what_is_drawn() -> None:
    assert "the filled one is 1+2" in passes_words(CHAIN)[1]
    assert "filled" not in passes_words(XOR)[1]  # on the line
    assert "diamond" not in {trace.marker.symbol for trace in passes_figure(XOR).data}
    assert "diamonds" in passes_words(XOR)[1]
    assert "diamonds" not in passes_words(PERMUTATION)[1]
    assert "other splits" not in {trace.name for trace in passes_figure(PERMUTATION).data}
    assert "✕" in blocks_words(PERMUTATION)[1]
    assert "✕" not in blocks_words(XOR)[1]


def test_impossible_blocks_have_a_sign_and_a_hatching() -> None:
    figure = blocks_figure(PERMUTATION)
    exact, possible, wrong = figure.data
    assert (list(exact.x), list(exact.y)) == (["00", "01", "10", "11"], [0, 50, 50, 0])
    assert figure.layout.xaxis.type == "category"
    assert (list(possible.x), list(possible.y)) == (["01", "10"], [25, 25])
    assert (list(wrong.x), list(wrong.y)) == (["00", "11"], [25, 25])
    assert (wrong.text, possible.text) == ("✕", None)
    assert wrong.marker.pattern.shape == possible.marker.pattern.shape == "/"
    assert exact.marker.pattern.shape is None
    assert possible.offsetgroup == wrong.offsetgroup != exact.offsetgroup
    assert "50\N{NO-BREAK SPACE}% of the blocks of one pass are impossible" in blocks_words(PERMUTATION)[0]
    assert "40\N{NO-BREAK SPACE}% of the probability" in blocks_words(XOR)[0]
    assert "exact probability" in blocks_words(INDEPENDENT)[0]


def test_the_likeliest_of_many_blocks_are_drawn_and_the_rest_is_stated() -> None:
    exact, _, wrong = blocks_figure(LARGE).data
    assert len(exact.x) == MOST_BLOCKS
    assert np.sum(exact.y) == pytest.approx(100)
    assert len(wrong.x) == MOST_BLOCKS - 24
    # 256 blocks, each 1/256 in one pass.
    reading = blocks_words(LARGE)[1].replace("\N{NO-BREAK SPACE}", " ")
    assert "the 224 blocks not drawn have 0 % of the probability and 87.5 % of one pass" in reading


def test_fewest_passes_prefer_every_order_and_random_orders_are_named_where_they_need_fewer() -> None:
    assert [fewest_exact(toy).name for toy in (XOR, CHAIN, LARGE)] == ["2+1", "1+2", "1+1+1+1"]
    assert order_words(((1,), (0, 2))) == "x2, then x1 x3"
    mixed = exact_at_random(MIXED)
    assert mixed is not None
    assert mixed.name == "2+1"
    assert all(exact_at_random(toy) is None for toy in (PERMUTATION, XOR, CHAIN, LARGE))


@pytest.mark.parametrize("theme", THEMES)
def test_themes_and_bare_figures(theme: Theme) -> None:
    for figure in (passes_figure(XOR, theme), blocks_figure(XOR, theme)):
        assert figure.layout.paper_bgcolor == colours(theme).surface
        title = figure.layout.title.text.replace("<br>", " ")
        (finding, reading), rest = bare(figure, height=300)
        assert (finding, reading[-1]) == (title, ".")
        layout = json.loads(rest)["layout"]
        assert "text" not in layout.get("title", {})
        assert (layout["height"], layout["font"]["color"]) == (300, colours(theme).ink)
