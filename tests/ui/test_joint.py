"""The tab Joint vs marginal: what its handler says of a small pair, and how it answers mistakes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from kfexplore.laws.study import StudySteps
from kfexplore.pair import Pair
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.service import Service
from kfexplore.ui.tabs.joint import COUNT, Studies, linked_temperature, show

FIGURES = (3, 5, 7, 9, 11)
REQUEST: Any = SimpleNamespace(session_hash="first")


def asked(service: Service, studies: Studies | None = None, **changes: Any) -> list[Any]:
    given = {"pair": "small", "prompt": "a b c", "k": 2, "blocks": 512, "seed": 0, "temperature": 1}
    given |= {"is_open": True, "dark": False}
    studies, report = studies or Studies(service), changes.pop("report", lambda *_: None)
    studies.start(**{**given, "request": REQUEST, **changes})
    return studies.answer(REQUEST, report)


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", text))


@pytest.mark.parametrize("k", [2, 3])
def test_the_answer_is_that_of_the_study(service: Service, k: int) -> None:
    parts = asked(service, k=k)
    measured, _, _ = service.study("small", "a b c", k, 512, 0)
    assert len(parts) == COUNT
    assert f"first two: {measured.law.mutual_information.value:.3f} nats" in plain(parts[0])
    assert f"next two tokens: {measured.law.mutual_information.value:.2f} nats" in parts[1]
    assert f"next {k} tokens: {measured.correlation.total.value:.2f} nats" in parts[1].replace("two", "2")
    for n in FIGURES:
        assert json.loads(parts[n])["data"]
    for row in measured.samplers:
        assert row.sampler in parts[-1]
        assert f">{row.tv.words}</td>" in parts[-1]
        assert f">{row.tv.limits}</td>" in parts[-1]
    assert f">{measured.samplers[1].tv.low:.3f} to " in parts[-1] or k > 2
    assert ("a pool is of blocks with one beginning" in plain(parts[-1])) is (k > 2)
    assert parts[-1].count("✕") == 3 + sum(row.is_impossible[:8].sum() for row in measured.samplers)


def test_the_headline_says_what_everything_below_is_of(
    pair: Pair, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Everything below: K = 3 tokens after “abc”." in plain(asked(service, k=3)[1])
    measured = service.study("small", "a b c", 2, 512, 0)[0]
    without = show(measured, dataclasses.replace(pair, tokenizer=None))[1]
    assert f"K = 2 tokens after {len(measured.law.context)} token ids" in without
    monkeypatch.setattr(Pair, "texts", lambda _, ids: ["far away, " * 4 + "<b>" for _ in ids])
    assert f"after “…away, {'far away, ' * 3}&lt;b&gt;”." in show(measured, pair)[1]


def test_everything_follows_the_temperature(service: Service) -> None:
    parts, measured = asked(service, temperature=0.5), service.study("small", "a b c", 2, 512, 0, 0.5)[0]
    assert measured.temperature == 0.5
    assert f"first two: {measured.law.mutual_information.value:.3f} nats" in plain(parts[0])
    assert "trained at temperature 1 only" in parts[0]
    assert "K = 2 tokens after “abc” at temperature 0.5." in plain(parts[1])
    assert "MDLM, 1 pass" not in parts[-1]
    assert measured.law.mutual_information != service.study("small", "a b c", 2, 512, 0)[0].law.mutual_information


@pytest.mark.parametrize(
    ("named", "shown"),
    [("0.5", 0.5), ("0.05", 0.1), ("9", 2.0), ("0", None), ("nan", None), ("warm", None), (None, None)],
)
def test_the_slider_starts_at_the_temperature_of_a_link(named: str | None, shown: float | None) -> None:
    request: Any = SimpleNamespace(query_params={} if named is None else {"temperature": named})
    assert linked_temperature(request) == (gr.skip() if shown is None else shown)


def test_tokens_are_escaped(pair: Pair, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, _, _ = service.study("small", "a b c", 2, 512, 0)
    monkeypatch.setattr(Pair, "texts", lambda _, ids: ["<b>&" for _ in ids])
    table = show(measured, pair)[-1]
    assert "<b>&" not in table
    assert "&lt;b&gt;&amp;" in table


def test_a_closed_tab_asks_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Service, "study", None)
    assert asked(service, is_open=False) == [gr.skip()] * COUNT


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pair": "none"}, "There is no pair"),
        ({"prompt": ""}, "empty"),
        ({"k": 5}, "k is 5"),
        ({"blocks": 1}, "1 blocks were asked for"),
        ({"blocks": 8192}, "8,192 blocks were asked for"),
        ({"blocks": None}, "blocks is empty"),
        ({"k": 2.5}, "K is 2.5"),
        ({"seed": -1}, "The seed is -1."),
        ({"seed": 1.5}, "a whole number, 0 or more"),
        ({"seed": None}, "The seed is empty"),
        ({"seed": 10**400}, "seed"),
        ({"temperature": None}, "The temperature is None."),
        ({"temperature": 0}, "The temperature is 0."),
    ],
)
def test_a_mistake_is_told_and_what_was_shown_stays(service: Service, changes: dict[str, Any], told: str) -> None:
    parts = asked(service, **changes)
    assert told in parts[0]
    assert "Valid:" in parts[0]
    assert parts[1:] == [gr.skip()] * (COUNT - 1)


def test_a_pair_without_a_masked_model_says_so_and_shows_the_rest(pair: Pair) -> None:
    bare = Service({"small": lambda: dataclasses.replace(pair, masked=None)})
    parts = asked(bare)
    assert "no masked model" in parts[0]
    assert "ideal MDLM" in parts[-1]
    assert "MDLM, 1 pass" not in parts[-1]


def test_the_last_few_studies_are_kept_within_limits(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    law = Service({"small": lambda: pair}).study("small", "a b c", 2, 512, 99)[0]

    def steps(*given: Any, **_: Any) -> StudySteps:
        made.append(given[-1])
        yield 0.0, "the law"
        return law

    monkeypatch.setattr("kfexplore.ui.service.study_steps", steps)

    def seeds(limits: ServerLimits, *asked: int) -> list[int]:
        made.clear()
        service = Service({"small": lambda: pair}, limits)
        for seed in asked:
            service.study("small", "a b c", 2, 512, seed)
        return made

    assert seeds(ServerLimits(studies=3), 0, 1, 2, 0, 3, 0, 1) == [0, 1, 2, 3, 1]  # 1 is the one that went
    assert seeds(ServerLimits(held_bytes=2 * law.law.given.nbytes), 20, 21, 22, 21, 20) == [20, 21, 22, 20]
    assert seeds(ServerLimits(held_bytes=1), 30, 30) == [30]


@pytest.mark.parametrize("end", [Studies.call_off, Studies.leave])
def test_a_study_that_nobody_waits_for_ends_at_its_next_part(
    service: Service, end: Callable[[Studies, Any], object]
) -> None:
    studies, parts = Studies(service), []

    def report(_share: float, what: str) -> None:
        parts.append(what)
        if what == "student":
            end(studies, REQUEST)

    assert asked(service, studies, report=report) == [gr.skip()] * COUNT
    assert parts[-1] == "student"
    assert "mutual information of the first two" in asked(service, studies)[0]  # and the next one has its turn


def test_the_last_question_is_answered_once_and_calls_off_those_before(service: Service) -> None:
    studies, given = Studies(service), ("small", "a b c", 2, 512, 0, 1, True, False, REQUEST)

    def report(_share: float, what: str) -> None:
        if what == "student":
            assert "Drawing what follows “c b a”" in studies.start("small", "c b a", *given[2:])

    studies.start(*given)
    assert studies.answer(REQUEST, report) == [gr.skip()] * COUNT  # called off by the next
    assert "after “cba”" in plain(studies.answer(REQUEST, lambda *_: None)[1])
    assert studies.answer(REQUEST, lambda *_: None) == [gr.skip()] * COUNT


def test_a_place_in_the_queue_that_is_given_up_is_no_fault_of_the_server(service: Service) -> None:
    studies = Studies(service)
    for n in range(2):
        studies.start("small", "a b c", 2, 512, n, 1, True, False, REQUEST)
    assert "did not take" in studies.refuse(REQUEST)
    said = studies.call_off(REQUEST)
    assert studies.answer(REQUEST, lambda *_: None) == [gr.skip()] * COUNT
    assert studies.refuse(REQUEST) == said


def test_a_study_ends_when_its_time_is_over(pair: Pair) -> None:
    service = Service({"small": lambda: pair}, ServerLimits(run_seconds=1))
    now = iter([*[0.0] * 3, *[2.0] * 9])
    parts = asked(service, Studies(service, clock=lambda: next(now)))
    assert "Stopped after 1 s" in parts[0]
    assert parts[1:] == [gr.skip()] * (COUNT - 1)
