"""The line above the tabs says that a pair is loaded, and why it is not."""

from __future__ import annotations

import gradio as gr
import pytest

from kfexplore import KfError, Pair
from kfexplore.ui.explorer import Explorer
from kfexplore.ui.loading import Wanted, announced, load


@pytest.fixture
def explorer(pair: Pair) -> Explorer:
    def lost() -> Pair:
        raise KfError("gone")

    return Explorer({"small": lambda: pair, "owt": lost, "<b>": lambda: pair})


def test_a_load_is_announced_until_the_pair_is_there(explorer: Explorer) -> None:
    wanted: Wanted = {}
    shown = announced(explorer, "small", wanted)
    assert shown["visible"]
    assert "Loading small …</p>" in shown["value"]
    assert "&lt;b&gt;" in announced(explorer, "<b>", {})["value"]
    assert load(explorer, wanted)["visible"] is False
    assert announced(explorer, "small", wanted) == gr.skip()  # the error of another pair stays
    assert load(explorer, wanted) == gr.skip()


def test_the_hub_is_named_where_a_pair_comes_from_it(explorer: Explorer) -> None:
    assert "over a gigabyte is fetched from huggingface.co" in announced(explorer, "owt", {})["value"]


def test_a_failure_stays(explorer: Explorer) -> None:
    for name, told in (("owt", "cannot be loaded"), ("none", "There is no pair")):
        shown = load(explorer, {name: False})
        assert shown["visible"]
        assert told in shown["value"]


def test_a_later_event_of_the_dropdown_does_not_lose_the_failure(explorer: Explorer) -> None:
    wanted: Wanted = {}
    load(explorer, {"small": False})
    announced(explorer, "owt", wanted)
    announced(explorer, "small", wanted)  # the field has gone back before the load began
    assert "cannot be loaded" in load(explorer, wanted)["value"]
    assert load(explorer, wanted) == gr.skip()


def test_a_pair_announced_twice_is_loaded_once(explorer: Explorer) -> None:
    wanted: Wanted = {"small": True}  # an earlier event is loading it
    announced(explorer, "small", wanted)
    assert load(explorer, wanted) == gr.skip()
    assert not explorer.holds("small")
