"""The tab Generate: what decoders write for a small pair, what is shown while they do, and mistakes."""

from __future__ import annotations

import dataclasses
import json
import re
from itertools import count
from typing import Any

import gradio as gr
import pytest
import torch

from kfexplore.decoders import DECODERS
from kfexplore.pair import Pair
from kfexplore.ui import writing as written_by
from kfexplore.ui.components import Shown
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.service import Service, local_service
from kfexplore.ui.tabs.generate import GenerateTab
from kfexplore.ui.writing import DecoderRun
from ui.test_writing import LENGTH, PROMPT, begun, done, tokens


@pytest.fixture(autouse=True)
def _one_step_per_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_by, "TURN", 0.0)


@pytest.fixture
def tab(service: Service) -> GenerateTab:
    return tab_of(service)


def tab_of(service: Service) -> GenerateTab:
    with gr.Blocks(), gr.Tab() as tab:
        return GenerateTab(service, [], [gr.Textbox(), gr.Textbox()], tab, 4)


def press(tab: GenerateTab, **changes: Any) -> Shown:
    """What is shown when the button has been pressed."""
    fields: dict[str, Any] = {"pair": "small", "prompt": PROMPT, "decoders": ["ar", "pflm"], "k": 3, "length": LENGTH}
    fields |= {"samples": 2, "temperature": 1, "penalty": 0, "seed": 5, "same": True, "underlined": False}
    return tab.start(**{**fields, **changes})


def asked(tab: GenerateTab, **changes: Any) -> list[Shown]:
    """What is shown from the press of the button to the end."""
    first = press(tab, **changes)
    return [first, *(tab.run(first[tab.held]) if tab.held in first else ())]


def able(tab: GenerateTab, shown: Shown) -> list[bool]:
    return [shown[button]["interactive"] for button in (tab.go, tab.halt, tab.save)]


def test_pictures_grow_and_the_last_one_always_comes(tab: GenerateTab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_by, "PAUSE", 0.0)
    monkeypatch.setattr(written_by, "PAUSE_PER_TOKEN", 0.0)
    shown = asked(tab)
    assert able(tab, shown[0]) == [False, True, False]
    assert able(tab, shown[-1]) == [True, False, True]
    pictures = [each[tab.texts] for each in shown if tab.texts in each]
    lengths = [sum(map(int, re.findall(r"<b>(\d+)</b> tokens<", picture))) for picture in pictures]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > LENGTH
    assert lengths[-1] == 2 * 2 * LENGTH
    monkeypatch.setattr(written_by, "PAUSE", 1e9)
    last = asked(tab)[-1][tab.texts]
    assert last.count('data-stage="done"') == 2
    numbers = r"<b>[\d.,–]+</b> (s|tokens/s)|delay: [\d.]+s|[\d,]+ times slower"
    assert re.sub(numbers, "", last) == re.sub(numbers, "", pictures[-1])


def test_stopping_keeps_what_is_written_and_closes_the_decoders(
    tab: GenerateTab, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(DecoderRun, "close", lambda run: closed.append(run.decoder))
    writing = begun(service, samples=2)
    steps = writing.job.run()
    for _ in range(12):
        next(steps)
    before = {each.decoder: tokens(each) for each in writing.written()}
    shown = tab.stop(writing, False)
    assert able(tab, shown) == [True, False, True]
    assert 'data-stage="stopped"' in shown[tab.texts]
    assert list(steps) == []  # the step under way is thrown away
    assert {each.decoder: tokens(each) for each in writing.written()} == before
    assert any(any(rows) for rows in before.values())
    assert closed == list(DECODERS)


@pytest.mark.parametrize("drawn", [0, 3])
def test_a_page_that_is_gone_ends_the_job(tab: GenerateTab, monkeypatch: pytest.MonkeyPatch, drawn: int) -> None:
    monkeypatch.setattr(written_by, "PAUSE", 0.0)
    monkeypatch.setattr(written_by, "PAUSE_PER_TOKEN", 0.0)
    writing = press(tab)[tab.held]
    pictures = tab.run(writing)
    for _ in range(1 + drawn):
        next(pictures)
    assert not writing.job.is_over
    pictures.close()  # type: ignore[attr-defined]
    assert writing.job.state == "cancelled"


def test_the_underline_comes_and_goes_without_a_new_run(tab: GenerateTab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nats per token" in asked(tab, underlined=True)[-1][tab.texts]
    writing = done(tab.service)
    monkeypatch.setattr(written_by, "decode", None)
    *_, drawn = tab.underline(writing, True)
    assert ' nats"' in drawn[tab.texts]
    *_, bare = tab.underline(writing, False)
    assert "nats" not in bare[tab.texts]


def test_texts_that_still_grow_are_scored_when_they_are_done(tab: GenerateTab) -> None:
    nothing = [{tab.status: gr.skip()}]
    assert list(tab.underline(None, True)) == nothing
    growing = press(tab)[tab.held]
    pictures = tab.run(growing)
    next(pictures)
    assert list(tab.underline(growing, True)) == nothing
    *_, last = pictures
    assert ' nats"' in last[tab.texts]


@pytest.mark.parametrize("cancelled", [True, False])
def test_the_teacher_reads_no_text_that_was_cancelled(tab: GenerateTab, cancelled: bool) -> None:
    writing = press(tab, underlined=True)[tab.held]
    steps = tab.run(writing)
    shown = [next(steps)]
    if cancelled:
        writing.job.stop()
    shown += list(steps)
    assert any("teacher reads" in str(each.get(tab.status)) for each in shown) is not cancelled


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pair": "none"}, "There is no pair"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "x" * 30_000}, "30,000 characters"),
        ({"decoders": []}, "No decoder is chosen.</p><p>Valid: one or more of AR, PFLM, MDLM, Verified, Jacobi"),
        ({"decoders": ["gpt"]}, "no decoder 'gpt'"),
        ({"decoders": None}, "No decoder is chosen"),
        ({"pair": "bare", "decoders": ["ar", "mdlm"]}, "masked model"),
        ({"k": 5}, "k is 5"),
        ({"k": 17}, "17 tokens per pass"),
        ({"k": None}, "K is empty"),
        ({"length": 0}, "0 new tokens"),
        ({"length": 1024}, "1 to 1,023 on this page"),
        ({"samples": 9}, "9 samples"),
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"penalty": -1}, "frequency penalty is -1"),
        ({"seed": None}, "seed is empty"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 10**400}, "a whole number"),
    ],
)
def test_after_a_mistake_the_texts_stay(tab: GenerateTab, changes: dict[str, Any], message: str) -> None:
    held = done(tab.service, decoders=("ar",))
    (shown,) = asked(tab, held=held, **changes)
    assert list(shown) == [tab.status]
    alert, rest = shown[tab.status].split("</div></div>", 1)
    assert message in alert.replace("&#x27;", "'")
    assert "Valid:" in alert
    assert f"After <b>“{PROMPT}”</b>" in rest
    assert "still for this prompt" in rest


def test_no_more_is_written_than_fits_and_the_page_says_so(tab: GenerateTab) -> None:
    note = "No more than 45 new tokens fit after this prompt."
    for length, has_note in ((64, True), (45, True), (44, False)):
        last = asked(tab, decoders=["pflm"], samples=1, length=length)[-1]
        assert f"<b>{min(length, 45)}</b> tokens<" in last[tab.texts]
        assert (note in last[tab.status]) is has_note


def test_a_bad_seed_reaches_the_tab_as_it_is(service: Service) -> None:
    with gr.Blocks() as demo, gr.Tab() as tab:
        GenerateTab(service, [], [gr.Textbox(), gr.Textbox()], tab, 4)
    seed = next(each for each in demo.blocks.values() if each.elem_id == "generate-seed")
    for value in (-1, 1.5, None):
        assert seed.preprocess(value) == value


@pytest.mark.parametrize("end", ["stop", "refuse"])
def test_what_waits_can_be_stopped_or_refused(tab: GenerateTab, end: str) -> None:
    writing, nothing = begun(tab.service), {tab.status: gr.skip()}
    shown = tab.stop(writing, False) if end == "stop" else tab.refuse(writing)
    assert ("too many requests are waiting" in shown[tab.status]) is (end == "refuse")
    assert able(tab, shown) == [True, False, True]
    assert list(tab.run(writing)) == list(tab.run(None)) == [nothing]
    assert tab.refuse(writing) == nothing  # a place that was given up counts as a failure, too


def test_who_starts_anew_stops_the_text_before(tab: GenerateTab) -> None:
    former = begun(tab.service)
    press(tab, held=former)
    assert former.job.state == "cancelled"


def test_a_text_stops_when_its_time_is_over(pair: Pair) -> None:
    now = count()
    limits = ServerLimits(run_seconds=30)
    tab = tab_of(local_service({"small": lambda: pair}, limits, clock=lambda: float(next(now))))
    last = asked(tab, decoders=["ar"], samples=1)[-1]
    assert "Stopped after 30 s, the limit of this page." in last[tab.status]
    assert 'data-stage="stopped"' in last[tab.texts]
    assert able(tab, last) == [True, False, True]


def test_a_device_without_memory_is_one_message(tab: GenerateTab, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(DecoderRun, "step", full)
    last = asked(tab)[-1]
    assert "too little memory" in last[tab.status]
    assert able(tab, last) == [True, False, True]


def test_the_tab_offers_what_the_pair_has(tab: GenerateTab) -> None:
    shown = tab.fit("small", ["ar", "mdlm"], 9, 99)
    assert [name for _, name in shown[tab.decoders]["choices"]] == list(DECODERS)
    assert [shown[field][end] for field in (tab.k, tab.length) for end in ("maximum", "value")] == [4, 4, 47, 47]
    kept = tab.fit("small", ["ar", "mdlm"], 2, 10)
    assert not any("value" in each for each in kept.values())  # what a reader may just have changed is not sent back
    offered = tab.fit("bare", ["ar", "mdlm"], 2, 10)[tab.decoders]
    assert offered["value"] == ["ar"]
    assert "mdlm" not in [name for _, name in offered["choices"]]
    assert "no masked model" in offered["info"]
    assert tab.fit("none", ["ar"], 2, 10) == {tab.k: gr.skip()}


def test_the_download_has_texts_and_settings(tab: GenerateTab, pair: Pair) -> None:
    writing = done(tab.service, samples=2, temperature=0.5)
    list(writing.surprises())
    shown = tab.download(writing)
    assert list(shown) == [tab.document]
    held = json.loads(shown[tab.document])
    settings = dataclasses.asdict(writing.config)
    settings |= {"tau": settings.pop("temperature"), "penalty": settings.pop("frequency_penalty")}
    assert held["settings"] == json.loads(json.dumps(settings))
    assert held["prompt_tokens"] == pair.encode(PROMPT)[0]
    assert held["environment"]["device"] == "cpu"
    for saved, each in zip(held["decoders"], writing.written(), strict=True):
        assert [line["tokens"] for line in saved["lines"]] == tokens(each)
        assert saved["lines"][0]["text"].split() == [pair.texts([token])[0] for token in each.lines[0].tokens]
        assert saved["tokens_per_second"] == pytest.approx(2 * LENGTH / each.seconds)
        assert (saved["nfe"], saved["seconds"], saved["nats_per_token"]) == (each.nfe, each.seconds, each.loss)
    gone = tab.download(None)
    assert gone[tab.document] == ""
    assert "no longer has the texts" in gone[tab.status]


def test_the_status_says_prompt_seeds_and_untrained_temperatures(tab: GenerateTab, pair: Pair) -> None:
    status = press(tab, prompt="a <b> c", same=False, temperature=0.5)[tab.status]
    assert "a &lt;b&gt; c" in status
    assert "seed 5 for AR, seed 6 for PFLM" in status
    assert "trained at temperature 1 only" in status
    known = dataclasses.replace(pair, info={"training": {"student_temperatures": [0.3, 1]}})
    other = tab_of(local_service({"small": lambda: known}))
    assert "trained at" not in press(other, temperature=0.5)[other.status]
    assert "trained at" not in press(tab, decoders=["ar"], temperature=0.5)[tab.status]
