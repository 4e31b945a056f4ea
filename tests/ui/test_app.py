"""The line above the tabs says that a pair is loaded, and why it is not."""

from __future__ import annotations

import gradio as gr
import pytest

from kfexplore import KfError, Pair
from kfexplore.ui.app import Wanted, announced, load
from kfexplore.ui.service import Service, local_service


@pytest.fixture
def service(pair: Pair) -> Service:
    def lost() -> Pair:
        raise KfError("gone")

    return local_service({"small": lambda: pair, "owt": lost, "<b>": lambda: pair})


def test_a_load_is_announced_until_the_pair_is_there(service: Service) -> None:
    wanted: Wanted = {}
    shown = announced(service, "small", wanted)
    assert shown["visible"]
    assert "Loading small …</p>" in shown["value"]
    assert "&lt;b&gt;" in announced(service, "<b>", {})["value"]
    assert load(service, wanted)["visible"] is False
    assert announced(service, "small", wanted) == gr.skip()  # the error of another pair stays
    assert load(service, wanted) == gr.skip()


def test_the_hub_is_named_where_a_pair_comes_from_it(service: Service) -> None:
    assert "downloads over a gigabyte from huggingface.co" in announced(service, "owt", {})["value"]


def test_a_failure_stays(service: Service) -> None:
    for name, told in (("owt", "cannot be loaded"), ("none", "There is no pair")):
        shown = load(service, {name: False})
        assert shown["visible"]
        assert told in shown["value"]


def test_a_later_event_of_the_dropdown_does_not_lose_the_failure(service: Service) -> None:
    wanted: Wanted = {}
    load(service, {"small": False})
    announced(service, "owt", wanted)
    announced(service, "small", wanted)  # the field has gone back before the load began
    assert "cannot be loaded" in load(service, wanted)["value"]
    assert load(service, wanted) == gr.skip()


def test_a_pair_announced_twice_is_loaded_once(service: Service) -> None:
    wanted: Wanted = {"small": True}  # an earlier event is loading it
    announced(service, "small", wanted)
    assert load(service, wanted) == gr.skip()
    assert not service.models.holds("small")
