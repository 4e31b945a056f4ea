"""The line above the tabs says that a pair is loaded, and why it is not."""

from __future__ import annotations

import gradio as gr
import pytest

from kfexplore import KfError, Pair
from kfexplore.ui.explorer import Explorer
from kfexplore.ui.loading import announced, load


@pytest.fixture
def explorer(pair: Pair) -> Explorer:
    def lost() -> Pair:
        raise KfError("gone")

    return Explorer({"small": lambda: pair, "owt": lost, "<b>": lambda: pair})


def test_what_is_loaded_is_announced_until_it_is_there(explorer: Explorer) -> None:
    shown, name = announced(explorer, "small")
    assert name == "small"
    assert shown["visible"]
    assert "Loading small …</p>" in shown["value"]
    assert "&lt;b&gt;" in announced(explorer, "<b>")[0]["value"]
    assert load(explorer, "small")["visible"] is False
    assert announced(explorer, "small") == [gr.skip(), None]  # a mistake of another pair stays
    assert load(explorer, None) == gr.skip()


def test_what_comes_from_the_hub_says_so(explorer: Explorer) -> None:
    assert "over a gigabyte is fetched from huggingface.co" in announced(explorer, "owt")[0]["value"]


def test_a_failure_stays(explorer: Explorer) -> None:
    for name, told in (("owt", "cannot be loaded"), ("none", "There is no pair")):
        shown = load(explorer, name)
        assert shown["visible"]
        assert told in shown["value"]
