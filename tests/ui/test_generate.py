"""The tab Generate: what decoders write for a small pair, what is shown while they do, and mistakes."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import count
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from kfexplore import KfError
from kfexplore.cancel import CancelToken
from kfexplore.decoders import DECODERS
from kfexplore.decoding.generate import Networks, generate, keyed_noise, keyed_order
from kfexplore.pair import Pair
from kfexplore.results import Written
from kfexplore.ui import writing as written_by
from kfexplore.ui.components import Shown
from kfexplore.ui.jobs import Job
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.service import Service, local_service
from kfexplore.ui.tabs.generate import GenerateTab
from kfexplore.ui.writing import DecoderRun, Texts, WriteConfig, Writing, write

PROMPT = "a b c"
LENGTH = 20


@pytest.fixture(autouse=True)
def _one_step_per_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_by, "TURN", 0.0)


@pytest.fixture
def tab(service: Service) -> GenerateTab:
    return tab_of(service)


def tab_of(service: Service) -> GenerateTab:
    with gr.Blocks(), gr.Tab() as tab:
        return GenerateTab(service, [gr.Textbox(), gr.Textbox()], tab, 4)


def config(**changes: Any) -> WriteConfig:
    usual = {"pair": "small", "prompt": PROMPT, "decoders": tuple(DECODERS), "k": 3, "new_tokens": LENGTH}
    return WriteConfig(**{**usual, **changes})


def begun(service: Service, **changes: Any) -> Writing:
    return service.writing(config(**changes))


def done(service: Service, **changes: Any) -> Writing:
    writing = begun(service, **changes)
    assert list(writing.job.run())
    return writing


def snapshots(pair: Pair, clock: Any, **changes: Any) -> Iterator[Texts]:
    """What decoders write on a clock of the test's."""
    return write(pair, pair.encode(PROMPT)[0], config(**changes), CancelToken(), nullcontext, clock)


def by_name(writing: Writing) -> dict[str, Written]:
    return {each.decoder: each for each in writing.written()}


def tokens(written: Written) -> list[list[int]]:
    return [line.tokens for line in written.lines]


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


def expected(pair: Pair, settings: WriteConfig, decoder: Any, seed: int) -> list[list[int]]:
    networks, own = Networks(pair.teacher, pair.student, pair.masked), settings.of(decoder)
    samples, length = range(settings.samples), settings.new_tokens
    noise = keyed_noise(seed, samples, own, networks, length)
    ids = [pair.encode(settings.prompt)[0]] * len(samples)
    found = generate(own, networks, ids, noise, length, keyed_order(seed, samples, length))
    return found.tokens.tolist()


# What is written.


@pytest.mark.parametrize("same", [True, False])
def test_every_decoder_writes_what_it_writes_alone(pair: Pair, service: Service, same: bool) -> None:
    settings = {"samples": 3, "seed": 7, "temperature": 0.8, "frequency_penalty": 0.5, "same_noise": same}
    writing = done(service, **settings)
    for n, decoder in enumerate(DECODERS):
        own = by_name(writing)[decoder]
        assert own.seed == (7 if same else 7 + n)
        assert tokens(own) == expected(pair, writing.config, decoder, own.seed)
        assert own.stage == "done"
        assert own.nfe >= max(max(line.steps) for line in own.lines)


def test_settings_reach_only_decoders_that_take_them() -> None:
    settings = config(temperature=0.5, frequency_penalty=2.0)
    warm, cold = {"temperature": 0.5, "frequency_penalty": 0}, {"temperature": 1, "frequency_penalty": 0}
    takes = {"ar": {**warm, "k": None}, "pflm": {**warm, "frequency_penalty": 2, "k": 3}, "mdlm": {**cold, "k": 3}}
    takes |= {"verified": {**warm, "k": 3}, "jacobi": {**warm, "k": 3}}
    for name, values in takes.items():
        own = dataclasses.asdict(settings.of(name))
        assert {key: own[key] for key in values} == values


def test_tokens_know_the_step_that_wrote_them(service: Service) -> None:
    found = by_name(done(service))
    assert found["ar"].lines[0].steps == list(range(1, LENGTH + 1))
    assert found["pflm"].lines[0].steps == [n // 3 + 1 for n in range(LENGTH)]
    steps = found["mdlm"].lines[0].steps
    assert sorted(steps) == [n // 3 + 1 for n in range(LENGTH)]
    assert steps != sorted(steps)


def test_a_clock_runs_in_its_own_steps_only_and_the_one_behind_goes_next(pair: Pair) -> None:
    ticks = count()
    for n, texts in enumerate(snapshots(pair, lambda: float(next(ticks)), decoders=("ar", "pflm"))):
        ar, pflm = texts.outputs
        assert 0 <= ar.seconds - pflm.seconds <= 1 or pflm.stage == "done"
        for _ in range(100 * (n % 3)):  # the caller draws
            next(ticks)
    assert (ar.seconds, pflm.seconds) == (LENGTH, -(-LENGTH // 3))


def test_where_texts_differ_is_the_first_token_that_does(service: Service) -> None:
    found = by_name(done(service, samples=4))
    for line, exact in zip(found["pflm"].lines, tokens(found["ar"]), strict=True):
        assert line.shared is not None
        assert line.tokens[: line.shared] == exact[: line.shared]
        assert line.tokens[line.shared] != exact[line.shared]
    for name in ("verified", "jacobi"):
        assert [line.shared for line in found[name].lines] == [LENGTH] * 4
    assert {line.shared for name in ("ar", "mdlm") for line in found[name].lines} == {None}
    alone = by_name(done(service, decoders=("pflm", "verified"), samples=4))["pflm"]  # which stands in for AR
    assert [line.shared for line in alone.lines] == [line.shared for line in found["pflm"].lines]


def test_a_text_that_is_behind_does_not_differ(service: Service, pair: Pair) -> None:
    writing = begun(service, decoders=("ar", "pflm"))
    texts = snapshots(pair, lambda: 0.0, decoders=("ar", "pflm"))  # AR runs to its end, then PFLM begins
    for _ in range(LENGTH):
        writing.job.snapshot = next(texts)
    assert by_name(writing)["pflm"].lines[0].shared == 0
    assert by_name(writing)["pflm"].lines[0].tokens == []


@pytest.mark.parametrize("changes", [{"same_noise": False}, {"decoders": ("pflm", "mdlm")}])
def test_without_the_exact_text_of_that_noise_nothing_is_compared(service: Service, changes: Any) -> None:
    assert {line.shared for each in done(service, **changes).written() for line in each.lines} == {None}


def test_surprise_is_the_teachers_own(pair: Pair, service: Service) -> None:
    writing = done(service, samples=2, temperature=0.7)
    assert {line.surprise for each in writing.written() for line in each.lines} == {None}
    assert len(list(writing.surprises())) <= 2 * len(DECODERS)
    ids = pair.encode(PROMPT)[0]
    for each in writing.written():
        for line in each.lines:
            log_probs = pair.teacher.log_probs(torch.tensor([ids + line.tokens]))[0]
            rows = range(len(ids) - 1, len(ids) + LENGTH - 1)
            nats = [-float(log_probs[row, token]) for row, token in zip(rows, line.tokens, strict=True)]
            np.testing.assert_allclose(line.surprise, nats, rtol=1e-4)
        assert each.loss == pytest.approx(np.mean([line.surprise for line in each.lines]))
    assert list(writing.surprises()) == []  # what was answered once is kept


def test_a_text_ends_at_the_end_of_text(pair: Pair, service: Service) -> None:
    whole = by_name(done(service, decoders=("ar",)))["ar"].lines[0].tokens
    end = whole[6]
    words = {**{word: n for word, n in pair.need_tokenizer().get_vocab().items() if n != end}, "<|endoftext|>": end}
    ending = dataclasses.replace(pair, tokenizer=Tokenizer(models.WordLevel(words, "a")))
    ids, settings = pair.encode(PROMPT)[0], config(decoders=("ar", "mdlm"))
    job = Job(lambda cancel: write(ending, ids, settings, cancel, nullcontext), CancelToken())
    assert list(job.run())
    written = by_name(Writing(ending, ids, settings, job, nullcontext))["ar"]
    assert written.lines[0].tokens == whole[: whole.index(end) + 1]
    assert written.lines[0].ended
    assert written.nfe == whole.index(end) + 1


def test_a_turn_holds_many_steps(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_by, "TURN", 1e9)
    assert len(list(begun(service).job.run())) == 1


def test_the_longest_text_fits_the_context(service: Service) -> None:
    for each in done(service, new_tokens=45, k=4).written():
        assert [len(row) for row in tokens(each)] == [45]
    with pytest.raises(KfError, match="do not fit the context"):
        begun(service, new_tokens=46)


def test_texts_wait_while_a_clock_of_others_runs(service: Service) -> None:
    steps, stepped = begun(service, decoders=("ar",)).job.run(), threading.Event()
    next(steps)
    thread = threading.Thread(target=lambda: (next(steps), stepped.set()))
    with service.local.alone(CancelToken()):
        thread.start()
        assert not stepped.wait(0.2)
    assert stepped.wait(30)
    thread.join(30)


# What is shown.


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
    numbers = r"<b>[\d.,–]+</b> (s|tokens/s)"
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
        ({"decoders": []}, "No decoder is chosen"),
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
    assert "still of this prompt" in rest


def test_no_more_is_written_than_fits_and_the_page_says_so(tab: GenerateTab) -> None:
    note = "No more than 45 new tokens fit after this prompt."
    for length, has_note in ((64, True), (45, True), (44, False)):
        last = asked(tab, decoders=["pflm"], samples=1, length=length)[-1]
        assert f"<b>{min(length, 45)}</b> tokens<" in last[tab.texts]
        assert (note in last[tab.status]) is has_note


def test_a_bad_seed_reaches_the_tab_as_it_is(service: Service) -> None:
    with gr.Blocks() as demo, gr.Tab() as tab:
        GenerateTab(service, [gr.Textbox(), gr.Textbox()], tab, 4)
    seed = next(each for each in demo.blocks.values() if each.elem_id == "generate-seed")
    for value in (-1, 1.5, None):
        assert seed.preprocess(value) == value


@pytest.mark.parametrize("end", ["stop", "refuse"])
def test_what_waits_can_be_stopped_or_refused(tab: GenerateTab, end: str) -> None:
    writing, nothing = begun(tab.service), {tab.status: gr.skip()}
    shown = tab.stop(writing, False) if end == "stop" else tab.refuse(writing)
    assert ("too many pages wait" in shown[tab.status]) is (end == "refuse")
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
    assert "Stopped after 30 s, the most on this page." in last[tab.status]
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
    assert "no longer held" in gone[tab.status]


def test_the_status_says_prompt_seeds_and_untrained_temperatures(tab: GenerateTab, pair: Pair) -> None:
    status = press(tab, prompt="a <b> c", same=False, temperature=0.5)[tab.status]
    assert "a &lt;b&gt; c" in status
    assert "seed 5 of AR, seed 6 of PFLM" in status
    assert "trained at temperature 1 only" in status
    known = dataclasses.replace(pair, info={"training": {"student_temperatures": [0.3, 1]}})
    other = tab_of(local_service({"small": lambda: known}))
    assert "trained at" not in press(other, temperature=0.5)[other.status]
    assert "trained at" not in press(tab, decoders=["ar"], temperature=0.5)[tab.status]


def test_a_pair_needs_a_tokenizer(pair: Pair) -> None:
    bare = local_service({"small": lambda: dataclasses.replace(pair, tokenizer=None)})
    with pytest.raises(KfError, match="no tokenizer"):
        begun(bare)
