"""The tab Joint vs marginal: what it shows of a small pair, how studies end, and mistakes."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import numpy as np
import pytest

from kfexplore.cancel import CancelToken
from kfexplore.config import STUDY_BLOCKS
from kfexplore.figures.palette import colours
from kfexplore.laws.study import StudySteps
from kfexplore.pair import Pair
from kfexplore.results import ContextStudy, Surprise
from kfexplore.ui.components import Shown
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.service import Service, local_service
from kfexplore.ui.studies import drawn
from kfexplore.ui.tabs.joint import JointTab, Study
from kfexplore.ui.tabs.scrub import opening


@pytest.fixture
def tab(service: Service) -> JointTab:
    return tab_of(service)


def tab_of(service: Service) -> JointTab:
    with gr.Blocks(), gr.Tab() as tab:
        return JointTab(service, [], [gr.Textbox(), gr.Textbox()], tab)


def press(tab: JointTab, start: Callable[..., Shown] | None = None, **changes: Any) -> Shown:
    """What is shown when the button has been pressed, or after another start."""
    given = {"is_open": True, "dark": False, "pair": "small", "prompt": "a b c", "k": 2, "blocks": 512, "seed": 0}
    return (start or tab.start)(*{**given, "temperature": 1, "held": None, **changes}.values())


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
    exact = study.law.mutual_information if k == 2 else study.correlation.total
    said = "mutual information of the next two tokens" if k == 2 else "total correlation of the next 3"
    assert f"{said}: {exact.value:.3f} nats" in plain(shown[tab.status])
    head = plain(shown[tab.parts["head"]])
    assert f"Everything below: the next {k} tokens after “abc”." in head
    what = "Mutual information of the two tokens" if k == 2 else "Total correlation"
    assert f"{what}: {study.correlation.total.value:.2f} nats" in head
    for name in ("joint", "product", "difference", "surprise", "counts"):
        assert shown[tab.parts[f"{name}-words"]]
        assert json.loads(shown[tab.parts[name]])["data"]
    table = shown[tab.parts["samplers"]]
    for row in study.samplers:
        assert row.sampler in table
        assert f">{row.tv.words}</td>" in table
        assert f">{row.tv.limits}</td>" in table
    assert f">{study.samplers[1].tv.low:.3f} to " in table or k > 2
    assert ("pools the others by how they begin" in plain(table)) is (k > 2)
    blocks = shown[tab.parts["blocks"]]
    marked = sum(int(row.is_impossible[:8].sum()) for row in study.samplers)
    assert blocks.count(" ✕</p>") == len(study.samplers) + marked
    assert blocks.count("kf-prose-why") == marked
    for row in study.samplers:
        passes = "1 pass" if row.nfe == 1 else f"{row.nfe} passes"
        said = f"{row.sampler} :" if passes in row.sampler else f"{row.sampler} , {passes}:"
        assert f"{said} {100 * row.impossible.value:.1f} % ✕" in plain(blocks)
    assert any("MDLM, 1 pass" in row.sampler for row in study.samplers)


def test_one_quantity_has_one_value(tab: JointTab) -> None:
    shown, study = asked(tab), measured(tab.service, 2, 512, 0)
    ideal = next(row for row in study.samplers if row.sampler == "ideal MDLM")
    head, table = plain(shown[tab.parts["head"]]), shown[tab.parts["samplers"]]
    assert f"independently gives a total variation distance of {ideal.tv.words}." in head
    assert f">{ideal.tv.words}</td>" in table
    impossible = f"{100 * ideal.impossible.value:.1f} %"
    assert f"{impossible} of independent draws" in head
    assert f">{impossible}</td>" in table


def test_what_is_wrong_is_said_of_an_impossible_block(service: Service, pair: Pair) -> None:
    study = measured(service, 3, 512, 0)
    first, *rest = study.samplers
    flags = np.arange(512) == 1
    for slot, after in ((0, "abc"), (2, "abc" + "".join(pair.texts(first.blocks[1, :2].tolist())))):
        odd = dataclasses.replace(first, is_impossible=flags, wrong={1: Surprise(slot, 0.00021, 4, 0.34)})
        blocks = plain(drawn(dataclasses.replace(study, samplers=[odd, *rest]), pair)["blocks"])
        token = pair.texts([int(first.blocks[1, slot])])[0]
        assert f"✕ after “{after}”: “{token}” 0.021 %; most likely: “e” 34 %" in blocks


def test_the_first_example_is_shown_at_once_and_others_by_their_settings() -> None:
    service = local_service({"stories": lambda: pytest.fail("no model is asked")})
    tab = tab_of(service)
    first, last = opening("stories").dependences[0], opening("stories").dependences[-1]
    untouched: dict[str, Any] = {"pair": "stories", "prompt": opening("stories").prompts[0], "blocks": STUDY_BLOCKS}
    shown = press(tab, tab.open, **untouched)
    assert first.prompt in plain(shown[tab.parts["head"]])
    values = {"prompt": first.prompt, "k": first.k, "temperature": first.temperature}
    assert [shown[field] for field in tab.settings] == list(values.values())
    assert set(shown) == {*tab.parts.values(), *tab.settings}
    again = press(tab, **untouched | values)  # what Draw shows with these settings
    assert again == {part: shown[part] for part in tab.parts.values()}
    assert json.loads(shown[tab.parts["joint"]])["layout"]["font"]["color"] == colours("light").ink
    theirs = {"prompt": last.prompt, "k": last.k, "temperature": last.temperature}
    shown = press(tab, **untouched | theirs, dark=True)
    assert f"next {last.k} tokens after" in plain(shown[tab.parts["head"]])
    assert json.loads(shown[tab.parts["joint"]])["layout"]["font"]["color"] == colours("dark").ink
    for changed in ({"k": 3}, {"prompt": "Tom"}, {"temperature": 0.5}):
        assert tab.held in press(tab, tab.open, **untouched | changed)  # a study of what is asked


def test_tokens_are_escaped_and_long_prompts_cut(tab: JointTab, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    study = measured(tab.service, 2, 512, 0)
    bare = drawn(study, dataclasses.replace(pair, tokenizer=None))
    assert f"next 2 tokens after {len(study.law.context)} token ids" in bare["head"]
    monkeypatch.setattr(Pair, "texts", lambda _, ids: ["far away, " * 4 + "<b>&" for _ in ids])
    shown = drawn(study, pair)
    assert f"after “…away, {'far away, ' * 3}&lt;b&gt;&amp;”." in shown["head"]
    assert "<b>&" not in shown["blocks"]
    assert "&lt;b&gt;&amp;" in shown["blocks"]


def test_everything_follows_the_temperature(tab: JointTab) -> None:
    shown, study = asked(tab, temperature=0.5), measured(tab.service, 2, 512, 0, 0.5)
    assert study.temperature == 0.5
    assert f"of the next two tokens: {study.law.mutual_information.value:.3f} nats" in plain(shown[tab.status])
    assert "trained at temperature 1 only" in shown[tab.parts["samplers"]]
    assert "next 2 tokens after “abc” at temperature 0.5." in plain(shown[tab.parts["head"]])
    assert "MDLM, 1 pass" not in shown[tab.parts["samplers"]]
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
    assert list(tab.run(study)) == [wrong]
    assert "The seed is -1." in wrong[tab.status]


def test_a_pair_without_a_masked_model_says_so_and_shows_the_rest(tab: JointTab) -> None:
    shown = asked(tab, pair="bare")
    assert "no masked model" in shown[tab.parts["samplers"]]
    assert "ideal MDLM" in shown[tab.parts["samplers"]]
    assert "MDLM, 1 pass" not in shown[tab.parts["samplers"]]


def test_a_race_need_not_wait_for_a_study_between_two_of_its_passes(service: Service) -> None:
    late = CancelToken(10)
    late.begin()
    study = threading.Thread(target=measured, args=(service, 2, 512, 0))
    with service.local.work.turn():
        study.start()
        while study.is_alive() and not service.local.work._queue:  # it waits for a pass
            time.sleep(0.01)
        with service.local.studies.turn(cancel=late):
            assert study.is_alive()
    study.join(60)
    assert not study.is_alive()


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
    assert "Drawing blocks after “a b c”" in press(tab)[tab.status]
    for each in shown:
        assert list(each) == [tab.status]
        assert 'role="progressbar"' in each[tab.status]
        if "Now: student." in each[tab.status]:
            assert "previous result" in tab.cancel(study)[tab.status]
    assert study.job.state == "cancelled"
    assert "mutual information of the next two tokens" in asked(tab)[tab.status]  # and the next one has its turn


def test_what_is_asked_last_runs_once_and_cancels_what_was_asked_before(tab: JointTab) -> None:
    first, shown = running(tab)
    next(shown)
    second, answer = running(tab, prompt="c b a", held=first)
    (last,) = shown  # which Gradio repeats when the event of the first completes
    assert "“c b a”" in last[tab.status]
    assert "after “cba”" in plain(list(answer)[-1][tab.parts["head"]])
    assert list(tab.run(second)) == list(tab.run(None)) == [{tab.status: gr.skip()}]


def test_a_place_in_the_queue_that_is_given_up_is_not_the_servers_fault(tab: JointTab) -> None:
    study, shown = running(tab)
    assert "could not accept this" in tab.refuse(study)[tab.status]
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
