"""Figures of the toy laws: they draw the numbers of the results, and their words are true of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kfexplore.figures.page import bare
from kfexplore.figures.palette import colours
from kfexplore.figures.toy import (
    MOST_BLOCKS,
    blocks_figure,
    blocks_words,
    exact_at_random,
    fewest_exact,
    order_words,
    passes_figure,
    passes_words,
)
from kfexplore.laws.toy import toy_law
from kfexplore.results import ToyLaw

PERMUTATION, XOR, CHAIN = toy_law("permutation"), toy_law("noisy-xor"), toy_law("chain")
LARGE = toy_law("permutation", length=4)


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
    assert len({trace.marker.symbol for trace in traces.values()}) == len(traces)  # told apart without colour


def test_the_split_of_the_title_is_marked_where_no_line_has_it() -> None:
    (marked,) = (trace for trace in passes_figure(CHAIN).data if trace.marker.symbol == "diamond")
    assert (marked.name, list(marked.x), list(marked.y)) == ("1+2, best order", [2], [pytest.approx(0)])
    assert marked.marker.color == passes_figure(CHAIN).data[1].line.color
    assert "x2, then x1 x3" in marked.customdata[0]
    assert "the filled one is 1+2" in passes_words(CHAIN)[1]
    assert "filled" not in passes_words(XOR)[1]  # on the line
    assert "diamond" not in {trace.marker.symbol for trace in passes_figure(XOR).data}


@pytest.mark.parametrize(
    ("toy", "finding"),
    [
        (PERMUTATION, "off by 0.5; only one token per pass is exact"),
        (
            toy_law("not-all-equal"),
            "Every fixed 2+1 order is off by 0.17 or more, yet a random 2+1 order is exact: the errors of the orders "
            "cancel",
        ),
        (XOR, "off by 0.4; 2 passes of 3 can be exact (2+1, in every order)"),
        (CHAIN, "off by 0.56; 2 passes of 3 can be exact (1+2, in the best order)"),
        (toy_law("correlation", rho=0.0), "one pass of marginals is exact"),
    ],
)
def test_finding_of_the_passes(toy: ToyLaw, finding: str) -> None:
    assert finding in passes_words(toy)[0]
    assert finding in passes_figure(toy).layout.title.text.replace("<br>", " ")


def test_words_name_only_what_is_drawn() -> None:
    assert "diamonds" in passes_words(XOR)[1]
    assert "diamonds" not in passes_words(PERMUTATION)[1]
    assert "other splits" not in {trace.name for trace in passes_figure(PERMUTATION).data}
    assert "✕" in blocks_words(PERMUTATION)[1]
    assert "✕" not in blocks_words(XOR)[1]


def test_impossible_blocks_have_a_sign_and_a_hatching() -> None:
    law, possible, wrong = blocks_figure(PERMUTATION).data
    assert (list(law.x), list(law.y)) == (["00", "01", "10", "11"], [0, 50, 50, 0])
    assert (list(possible.x), list(possible.y)) == (["01", "10"], [25, 25])
    assert (list(wrong.x), list(wrong.y)) == (["00", "11"], [25, 25])
    assert (wrong.text, possible.text) == ("✕", None)
    assert wrong.marker.pattern.shape == possible.marker.pattern.shape == "/"
    assert law.marker.pattern.shape is None
    assert possible.offsetgroup == wrong.offsetgroup != law.offsetgroup
    assert "50% of the blocks of one pass are impossible" in blocks_words(PERMUTATION)[0]
    assert "40% of the probability" in blocks_words(XOR)[0]
    assert "exact probability" in blocks_words(toy_law("correlation", rho=0.0))[0]


def test_block_names_are_no_numbers() -> None:
    assert blocks_figure(XOR).layout.xaxis.type == "category"


def test_of_many_blocks_the_likeliest_are_drawn_and_the_rest_is_told() -> None:
    law, _, wrong = blocks_figure(LARGE).data
    assert len(law.x) == MOST_BLOCKS
    assert np.sum(law.y) == pytest.approx(100)
    assert len(wrong.x) == MOST_BLOCKS - 24
    # 256 blocks, each 1/256 in one pass.
    assert "the 224 blocks not drawn hold 0% of the law and 88% of one pass" in blocks_words(LARGE)[1]


def test_fewest_passes_prefer_a_split_that_is_exact_in_every_order() -> None:
    assert fewest_exact(XOR).name == "2+1"
    assert fewest_exact(CHAIN).name == "1+2"
    assert fewest_exact(LARGE).name == "1+1+1+1"
    assert order_words(((1,), (0, 2))) == "x2, then x1 x3"


def test_exact_at_random_is_named_only_where_no_fixed_order_does_as_well() -> None:
    mixed = exact_at_random(toy_law("not-all-equal"))
    assert mixed is not None
    assert mixed.name == "2+1"
    assert all(exact_at_random(toy) is None for toy in (PERMUTATION, XOR, CHAIN, LARGE))


def test_themes_and_bare_figures() -> None:
    for draw in (passes_figure, blocks_figure):
        for theme in ("light", "dark"):
            figure = draw(XOR, theme)
            assert figure.layout.paper_bgcolor == colours(theme).surface
            title = figure.layout.title.text.replace("<br>", " ")
            (finding, reading), rest = bare(figure, height=300)
            assert (finding, reading[-1]) == (title, ".")
            layout = json.loads(rest)["layout"]
            assert "text" not in layout.get("title", {})
            assert layout["height"] == 300
            assert layout["font"]["color"] == colours(theme).ink
