"""The sub-tab of the toy distributions: what its handler says, for every toy and at the ends of every slider."""

from __future__ import annotations

import json
import re

import gradio as gr
import pytest

from kfexplore.figures.palette import colours
from kfexplore.laws.toy import TOYS, toy_law
from kfexplore.ui.tabs.toy import _answer, build_toy_tab, drawn, meaning, show


def words(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", text))


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("value", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("length", [2, 4])
def test_every_slider_position_has_an_answer(name: str, value: float, length: int) -> None:
    first, squares, second, blocks, about, third, passes, last = show(False, name, length, length, value, value)
    for text in (first, second, about, third, last):
        assert text.startswith('<div class="kf-prose ')
        assert text.count("<div") == text.count("</div>")
    for figure in map(json.loads, (squares, blocks, passes)):
        assert figure["data"]
        assert "text" not in figure["layout"].get("title", {})
        assert figure["layout"]["height"]


def test_the_handler_takes_its_own_sliders_only() -> None:
    for name in TOYS:
        taken = TOYS[name].parameters
        fields = {"length": 3, "links": 4, "rho": 0.3, "eps": 0.2}
        shown = show(False, name, **fields)
        other = {"length": 2, "links": 5, "rho": 0.6, "eps": 0.4}
        for field, value in other.items():
            its = name == "chain" if field == "links" else field in taken and (field, name) != ("length", "chain")
            assert (show(False, name, **{**fields, field: value})[-1] != shown[-1]) is its, (name, field)


def test_figures_follow_the_theme_of_the_page() -> None:
    for dark, theme in ((False, "light"), (True, "dark")):
        figure = json.loads(show(dark, "chain", 2, 3, 0.5, 0.1)[1])
        assert figure["layout"]["font"]["color"] == colours(theme).ink


def test_noisy_xor_says_that_the_theorem_fails_as_stated_and_why() -> None:
    text = words(meaning(toy_law("noisy-xor")))
    assert "Theorem 1 as literally stated fails here" in text
    assert "3 passes are needed, yet 2 can be exact (2+1, in every order)" in text
    assert "x₁ and x₂ are independent marginally" in text
    assert "1+2 is off by 0.400 even in its best order" in text
    assert "requires dependence given every visible set" in text
    assert "every fixed schedule whose last pass fills two or more positions errs" in text


def test_what_holds_of_the_permutation() -> None:
    text = words(meaning(toy_law("permutation", length=3)))
    assert "every fixed schedule with a pass of two or more positions errs" in text
    assert "random order, or one chosen from the visible tokens, needs 3 passes too" in text
    assert "fails" not in text


def test_a_random_order_is_said_to_be_exact_where_no_fixed_one_is() -> None:
    text = words(meaning(toy_law("not-all-equal")))
    assert "every fixed schedule with a pass of two or more positions errs" in text
    assert "For random or data-dependent orders neither condition proves anything" in text
    assert "random 2+1 order is exact , although every fixed 2+1 order is off by 0.167" in text
    assert "Theorem 1's conclusion, 3 passes, does not hold for it" in text


def test_dependence_alone_proves_nothing_about_random_orders() -> None:
    text = words(meaning(toy_law("correlation")))
    assert "neither condition proves anything" in text
    assert "needs 2 passes too" not in text


@pytest.mark.parametrize(
    ("given", "taken"),
    [({"length": 3}, "takes 2 passes (1+2: x₂, then x₁ x₃)"), ({"eps": 0.5}, "takes one pass (everything at once)")],
)
def test_neither_condition_says_nothing(given: dict[str, float], taken: str) -> None:
    text = words(meaning(toy_law("chain", **given)))
    assert "Theorem 1 says nothing about it" in text
    assert taken in text
    assert "fails" not in text
    assert "proves that" not in text


def test_table_has_every_split_and_the_push_forward() -> None:
    text = meaning(toy_law("chain"))
    rows = [re.findall("<td[^>]*>(.*?)</td>", row) for row in re.findall("<tr.*?</tr>", text)]
    assert rows[1:] == [
        ["1", "3", "0.560", "0.560", "0.560"],
        ["2", "2+1", "0.320", "0.400", "0.345"],
        ["2", "1+2", "0", "0.144", "0.048"],
        ["3", "1+1+1", "0", "0", "0"],
        ["1", "push-forward", "0", "", ""],
    ]


def test_of_the_other_splits_that_of_the_title_stands_out() -> None:
    assert re.findall(r'class="kf-prose-other"><td[^>]*>\d</td><td>([\d+]+)', meaning(toy_law("chain"))) == []
    assert re.findall(r'class="kf-prose-other"><td[^>]*>\d</td><td>([\d+]+)', meaning(toy_law("noisy-xor"))) == ["1+2"]


@pytest.mark.parametrize(("asked", "said"), [(("chain", 7.0), "eps is 7.0"), (("gone", 0.1), "no toy distribution")])
def test_a_value_out_of_range_changes_no_figure(asked: tuple[str, float], said: str) -> None:
    *before, told, _, _, _, clicks = _answer(False, asked[0], 2, 3, 0.5, asked[1])
    assert said in told
    assert [*before, clicks] == [gr.skip()] * 5


def test_each_click_draws_a_hundred_more_of_one_seed_and_then_of_the_next() -> None:
    toy = toy_law("permutation")
    assert "Independent draws give impossible blocks 50 % of the time, the exact map never" in words(
        drawn(toy, "light")[0]
    )
    for clicks, count, seed in ((1, 100, 0), (10, 1000, 0), (11, 100, 1)):
        text, figure = drawn(toy, "light", clicks)
        shown = [trace for trace in json.loads(figure)["data"] if trace["type"] == "scatter"]
        exact, possible, wrong = (len(trace["customdata"]) for trace in shown)
        assert (exact, possible + wrong) == (count, count)
        assert f"{wrong} of {count:,} independent draws are impossible blocks (expected: 50 %)" in words(text)
        assert "the exact map gives 0" in words(text)
        assert f"seed {seed}" in text


def test_the_tab_shows_the_first_distribution_at_once_and_only_its_sliders() -> None:
    with gr.Blocks(analytics_enabled=False) as demo:
        build_toy_tab()
    sliders = {b.elem_id: b.visible for b in demo.blocks.values() if isinstance(b, gr.Slider)}
    assert sliders == {"toy-length": True, "toy-links": False, "toy-rho": False, "toy-eps": False}
    values = [b.value for b in demo.blocks.values() if isinstance(b, gr.HTML)]
    assert list(show(False, "permutation", 2, 3, 0.5, 0.1)) == values
