"""The tab Joint vs marginal: what it shows of a small pair, how studies end, and mistakes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest

from kfexplore.laws.study import StudySteps
from kfexplore.pair import Pair
from kfexplore.results import ContextStudy
from kfexplore.ui.components import Shown
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.service import Service, local_service
from kfexplore.ui.tabs.joint import JointTab, Study


@pytest.fixture
def tab(service: Service) -> JointTab:
    return tab_of(service)


def tab_of(service: Service) -> JointTab:
    with gr.Blocks(), gr.Tab() as tab:
        return JointTab(service, [], [gr.Textbox(), gr.Textbox()], tab, [])


def press(tab: JointTab, **changes: Any) -> Shown:
    """What is shown when the button has been pressed."""
    given = {"pair": "small", "prompt": "a b c", "k": 2, "blocks": 512, "seed": 0, "temperature": 1, "held": None}
    return tab.start(**{**given, "is_open": True, "dark": False, **changes})


def running(tab: JointTab, **changes: Any) -> tuple[Study, Iterator[Shown]]:
    """A study and what is shown of it."""
    study = press(tab, **changes)[tab.held]
    return study, tab.run(study)


def asked(tab: JointTab, **changes: Any) -> Shown:
    """The last that is shown."""
    first = press(tab, **changes)
    return [first, *(tab.run(first[tab.held]) if tab.held in first else ())][-1]


def measured(service: Service, *given: Any) -> ContextStudy:
    *_, found = service.study("small", "a b c", *given).run()
    assert isinstance(found, ContextStudy)
    return found


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", text))


@pytest.mark.parametrize("k", [2, 3])
def test_the_answer_is_that_of_the_study(tab: JointTab, k: int) -> None:
    shown, study = asked(tab, k=k), measured(tab.service, k, 512, 0)
    assert f"first two: {study.law.mutual_information.value:.3f} nats" in plain(shown[tab.status])
    assert f"next two tokens: {study.law.mutual_information.value:.2f} nats" in shown[tab.head]
    assert f"next {k} tokens: {study.correlation.total.value:.2f} nats" in shown[tab.head].replace("two", "2")
    assert f"Everything below: K = {k} tokens after “abc”." in plain(shown[tab.head])
    for words, figure in tab.figures.values():
        assert shown[words]
        assert json.loads(shown[figure])["data"]
    table = shown[tab.samplers]
    for row in study.samplers:
        assert row.sampler in table
        assert f">{row.tv.words}</td>" in table
        assert f">{row.tv.limits}</td>" in table
    assert f">{study.samplers[1].tv.low:.3f} to " in table or k > 2
    assert ("a pool is of blocks with one beginning" in plain(table)) is (k > 2)
    assert table.count("✕") == 3 + sum(row.is_impossible[:8].sum() for row in study.samplers)


def test_tokens_are_escaped_and_long_prompts_cut(tab: JointTab, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    study = measured(tab.service, 2, 512, 0)
    bare = tab.show(study, dataclasses.replace(pair, tokenizer=None))
    assert f"K = 2 tokens after {len(study.law.context)} token ids" in bare[tab.head]
    monkeypatch.setattr(Pair, "texts", lambda _, ids: ["far away, " * 4 + "<b>&" for _ in ids])
    shown = tab.show(study, pair)
    assert f"after “…away, {'far away, ' * 3}&lt;b&gt;&amp;”." in shown[tab.head]
    assert "<b>&" not in shown[tab.samplers]
    assert "&lt;b&gt;&amp;" in shown[tab.samplers]


def test_everything_follows_the_temperature(tab: JointTab) -> None:
    shown, study = asked(tab, temperature=0.5), measured(tab.service, 2, 512, 0, 0.5)
    assert study.temperature == 0.5
    assert f"first two: {study.law.mutual_information.value:.3f} nats" in plain(shown[tab.status])
    assert "trained at temperature 1 only" in shown[tab.status]
    assert "K = 2 tokens after “abc” at temperature 0.5." in plain(shown[tab.head])
    assert "MDLM, 1 pass" not in shown[tab.samplers]
    assert study.law.mutual_information != measured(tab.service, 2, 512, 0).law.mutual_information


def test_a_closed_tab_asks_nothing(tab: JointTab) -> None:
    assert press(tab, is_open=False) == {tab.status: gr.skip()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pair": "none"}, "There is no pair"),
        ({"prompt": ""}, "empty"),
        ({"k": 5}, "k is 5"),
        ({"blocks": 1}, "1 blocks were requested"),
        ({"blocks": 8192}, "8,192 blocks were requested"),
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
def test_after_a_mistake_what_was_shown_stays(tab: JointTab, changes: dict[str, Any], message: str) -> None:
    shown = asked(tab, **changes)
    assert list(shown) == [tab.status]
    assert message in shown[tab.status]
    assert "Valid:" in shown[tab.status]


def test_a_mistake_after_a_study_is_the_last_that_is_shown(tab: JointTab) -> None:
    """The study's event completes a moment after its figures are drawn, and repeats its status."""
    study, parts = running(tab)
    assert len(list(parts)) > 1
    wrong = press(tab, seed=-1, held=study)
    assert list(tab.run(wrong[tab.held])) == [{tab.status: wrong[tab.status]}]
    assert "The seed is -1." in wrong[tab.status]


def test_a_pair_without_a_masked_model_says_so_and_shows_the_rest(tab: JointTab) -> None:
    shown = asked(tab, pair="bare")
    assert "no masked model" in shown[tab.status]
    assert "ideal MDLM" in shown[tab.samplers]
    assert "MDLM, 1 pass" not in shown[tab.samplers]


def test_the_last_few_studies_are_kept_within_limits(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    study = measured(local_service({"small": lambda: pair}), 2, 512, 99)

    def steps(*given: Any, **_: Any) -> StudySteps:
        made.append(given[-1])
        yield 0.0, "the law"
        return study

    monkeypatch.setattr("kfexplore.ui.service.study_steps", steps)

    def seeds(limits: ServerLimits, *asked: int) -> list[int]:
        made.clear()
        service = local_service({"small": lambda: pair}, limits)
        for seed in asked:
            measured(service, 2, 512, seed)
        return made

    assert seeds(ServerLimits(studies=3), 0, 1, 2, 0, 3, 0, 1) == [0, 1, 2, 3, 1]  # 1 is the one that went
    assert seeds(ServerLimits(held_bytes=2 * study.law.given.nbytes), 20, 21, 22, 21, 20) == [20, 21, 22, 20]
    assert seeds(ServerLimits(held_bytes=1), 30, 30) == [30]


def test_progress_is_shown_until_a_study_is_cancelled(tab: JointTab) -> None:
    study, shown = running(tab)
    assert "Drawing what follows “a b c”" in press(tab)[tab.status]
    for each in shown:
        assert list(each) == [tab.status]
        assert 'role="progressbar"' in each[tab.status]
        if "Now: student." in each[tab.status]:
            assert "previous result" in tab.cancel(study)[tab.status]
    assert study.job.state == "cancelled"
    assert "mutual information of the first two" in asked(tab)[tab.status]  # and the next one has its turn


def test_what_is_asked_last_runs_once_and_cancels_what_was_asked_before(tab: JointTab) -> None:
    first, shown = running(tab)
    next(shown)
    second, answer = running(tab, prompt="c b a", held=first)
    assert list(shown) == []
    assert "after “cba”" in plain(list(answer)[-1][tab.head])
    assert list(tab.run(second)) == list(tab.run(None)) == [{tab.status: gr.skip()}]


def test_a_place_in_the_queue_that_is_given_up_is_not_the_servers_fault(tab: JointTab) -> None:
    study, shown = running(tab)
    assert "did not take" in tab.refuse(study)[tab.status]
    cancelled = tab.cancel(study)
    assert list(shown) == [{tab.status: gr.skip()}]
    assert tab.refuse(study) == cancelled


def test_a_study_ends_when_its_time_is_over(pair: Pair) -> None:
    now = [0.0]
    service = local_service({"small": lambda: pair}, ServerLimits(run_seconds=1), clock=lambda: now[0])
    tab = tab_of(service)
    _, shown = running(tab)
    next(shown)
    now[0] = 2.0
    assert "Stopped after 1 s" in list(shown)[-1][tab.status]
