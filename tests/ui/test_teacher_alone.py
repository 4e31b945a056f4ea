"""A page opened on a teacher without a student: exact answers everywhere, and nothing that a student would tell."""

from __future__ import annotations

import dataclasses
from typing import Any

import gradio as gr
import pytest
from helpers import written_pair

from kfexplore.laws.study import finished, study_steps
from kfexplore.pair import Pair
from kfexplore.ui.app import fresh_first_payload
from kfexplore.ui.racing import RaceConfig
from kfexplore.ui.service import Service, local_service
from kfexplore.ui.studies import drawn
from kfexplore.ui.tabs.generate import GenerateTab
from kfexplore.ui.writing import WriteConfig

PROMPT = "a b"
U = [0.2, 0.7, 0.4]


@pytest.fixture(scope="module")
def whole() -> Pair:
    return written_pair(["He looked at a b c. " * 30])


@pytest.fixture(scope="module")
def alone(whole: Pair) -> Pair:
    return dataclasses.replace(whole, student=None)


@pytest.fixture(scope="module")
def service(whole: Pair, alone: Pair) -> Service:
    return local_service({"alone": lambda: alone, "whole": lambda: whole})


def test_tables_point_and_grid_are_the_exact_part_of_the_pair_s(service: Service) -> None:
    asked: dict[str, Any] = {"seq": 1, "prompt": PROMPT, "u": U, "resolution": 16}
    for ask, more in ((service.tables, {}), (service.point, {}), (service.grid, {"slots": [0, 2]})):
        found, expected = (ask({**asked, **more, "pair": name}) for name in ("alone", "whole"))
        assert found["ok"], found
        assert found["teacher"] == expected["teacher"]
        assert not {"student", "margin", "agreement"} & found.keys()
        assert {"student"} <= expected.keys()
        assert found["texts"].items() <= expected["texts"].items()
    assert set(service.tables({**asked, "pair": "alone"})["point"]) == {"teacher", "edge"}


def test_the_page_opens_with_four_slots_of_eight(service: Service) -> None:
    first = fresh_first_payload(service, "alone")
    assert (first["k"], first["k_max"]) == (4, 8)
    assert "agreement" not in first["grid"]


def test_decoders_that_need_a_student_are_not_offered(service: Service) -> None:
    with gr.Blocks(), gr.Tab() as place:
        tab = GenerateTab(service, [], [gr.Textbox(), gr.Textbox()], place, 4)
    shown = tab.fit("alone", ["ar", "pflm"], 2, 10)
    offered, k = shown[tab.decoders], shown[tab.k]
    assert offered["value"] == ["ar"]
    assert [name for _, name in offered["choices"]] == ["ar"]
    assert "no student and no masked model" in offered["info"]
    assert k["maximum"] == 8


def test_ar_is_written_and_raced_alone(service: Service) -> None:
    writing = service.writing(WriteConfig("alone", PROMPT, ("ar",), 4, 6))
    assert list(writing.job.run())
    assert len(writing.written()[0].lines[0].tokens) == 6
    racing = service.racing(RaceConfig("alone", PROMPT, ("ar",), (1,), (4,), 16, 1))
    assert list(racing.job.run())
    assert [(row.decoder, row.error) for row in racing.now.rows] == [("ar", None)]
    assert racing.gains() == []


def test_the_study_is_shown_without_the_student(alone: Pair) -> None:
    shown = drawn(finished(study_steps(alone, alone.encode(PROMPT)[0], blocks=200)), alone)
    assert "This pair has no student: its samplers are left out." in shown["samplers"]
    assert "<b>student</b>" not in shown["blocks"]
    assert "student" not in shown["head"]
