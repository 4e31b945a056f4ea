"""The tab Generate: what its handlers show of a small pair while it writes, when it is stopped, and of mistakes."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from kfexplore import KfError
from kfexplore.decoders import DECODERS
from kfexplore.decoding.generate import Networks, generate, keyed_noise, keyed_order
from kfexplore.pair import Pair
from kfexplore.results import Written
from kfexplore.ui import writing as written_by
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.service import Service
from kfexplore.ui.tabs.generate import build_generate_tab, download, fit, halt, refuse, run, start, underline
from kfexplore.ui.writing import WriteConfig, Writing

PROMPT = "a b c"
LENGTH = 20


@pytest.fixture(autouse=True)
def _a_step_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_by, "TURN", 0.0)


def config(**changes: Any) -> WriteConfig:
    usual = {"pair": "small", "prompt": PROMPT, "decoders": tuple(DECODERS), "k": 3, "new_tokens": LENGTH}
    return WriteConfig(**{**usual, **changes})


def begun(service: Service, **changes: Any) -> Writing:
    return service.writing(config(**changes))


def done(service: Service, **changes: Any) -> Writing:
    writing = begun(service, **changes)
    for _ in writing.steps():
        pass
    return writing


def by_name(writing: Writing) -> dict[str, Written]:
    return {each.decoder: each for each in writing.written()}


def tokens(written: Written) -> list[list[int]]:
    return [line.tokens for line in written.lines]


def asked(service: Service, **changes: Any) -> list[list[Any]]:
    fields: dict[str, Any] = {
        "pair": "small",
        "prompt": PROMPT,
        "decoders": ["ar", "pflm"],
        "k": 3,
        "length": LENGTH,
        "samples": 2,
        "tau": 1,
        "penalty": 0,
        "seed": 5,
        "same": True,
        "underlined": False,
    }
    return list(answer(service, **{**fields, **changes}))


def answer(service: Service, *given: Any, **named: Any) -> Iterator[list[Any]]:
    """What is shown from the press of the button to the end."""
    first = start(service, *given, **named)
    yield first
    if isinstance(first[2], Writing):
        yield from run(first[2])


def expected(pair: Pair, settings: WriteConfig, decoder: Any, seed: int) -> list[list[int]]:
    networks, own = Networks(pair.teacher, pair.student, pair.masked), settings.of(decoder)
    samples, length = range(settings.samples), settings.new_tokens
    noise = keyed_noise(seed, samples, own, networks, length)
    ids = [pair.encode(settings.prompt)[0]] * len(samples)
    found = generate(own, networks, ids, noise, length, keyed_order(seed, samples, length))
    return found.tokens.tolist()


@pytest.mark.parametrize("same", [True, False])
def test_every_decoder_writes_what_it_writes_alone(pair: Pair, service: Service, same: bool) -> None:
    settings = config(samples=3, seed=7, temperature=0.8, frequency_penalty=0.5, same_noise=same)
    writing = service.writing(settings)
    for _ in writing.steps():
        pass
    for n, decoder in enumerate(DECODERS):
        own = by_name(writing)[decoder]
        assert own.seed == (7 if same else 7 + n)
        assert tokens(own) == expected(pair, settings, decoder, own.seed)
        assert own.stage == "done"
        assert own.nfe >= max(max(line.steps) for line in own.lines)


def test_settings_reach_only_decoders_that_they_mean_something_to() -> None:
    settings = config(temperature=0.5, frequency_penalty=2.0)
    expected = {
        "ar": (0.5, 0, None),
        "pflm": (0.5, 2, 3),
        "mdlm": (1, 0, 3),
        "verified": (0.5, 0, 3),
        "jacobi": (0.5, 0, 3),
    }
    assert {
        name: (own.temperature, own.frequency_penalty, own.k) for name in expected for own in [settings.of(name)]
    } == expected


def test_tokens_know_the_step_that_wrote_them(service: Service) -> None:
    found = by_name(done(service))
    assert found["ar"].lines[0].steps == list(range(1, LENGTH + 1))
    assert found["pflm"].lines[0].steps == [n // 3 + 1 for n in range(LENGTH)]
    steps = found["mdlm"].lines[0].steps
    assert sorted(steps) == [n // 3 + 1 for n in range(LENGTH)]
    assert steps != sorted(steps)


def test_a_clock_runs_in_its_own_steps_only_and_the_one_behind_goes_next(service: Service) -> None:
    ticks = count()
    writing = begun(service, decoders=("ar", "pflm"))
    for n, _ in enumerate(writing.steps(clock=lambda: float(next(ticks)))):
        ahead, behind = (each.seconds for each in writing.written())
        assert 0 <= ahead - behind <= 1 or by_name(writing)["pflm"].stage == "done"
        for _ in range(100 * (n % 3)):  # the caller draws
            next(ticks)
    found = by_name(writing)
    assert (found["ar"].seconds, found["pflm"].seconds) == (LENGTH, -(-LENGTH // 3))


def test_where_texts_part_is_the_first_token_that_differs(service: Service) -> None:
    found = by_name(done(service, samples=4))
    for line, exact in zip(found["pflm"].lines, tokens(found["ar"]), strict=True):
        assert line.shared is not None
        assert line.parted
        assert line.tokens[: line.shared] == exact[: line.shared]
        assert line.tokens[line.shared] != exact[line.shared]
    for name in ("verified", "jacobi"):
        assert [(line.shared, line.parted) for line in found[name].lines] == [(LENGTH, False)] * 4
    assert {line.shared for name in ("ar", "mdlm") for line in found[name].lines} == {None}


def test_a_text_that_is_behind_has_not_parted(service: Service) -> None:
    writing = begun(service, decoders=("ar", "pflm"))
    steps = writing.steps(clock=lambda: 0.0)  # AR runs to its end, then PFLM begins
    for _ in range(LENGTH):
        next(steps)
    line = by_name(writing)["pflm"].lines[0]
    assert (line.tokens, line.shared, line.parted) == ([], 0, False)


@pytest.mark.parametrize("changes", [{"same_noise": False}, {"decoders": ("pflm", "mdlm")}])
def test_without_the_exact_text_of_that_noise_nothing_is_compared(service: Service, changes: Any) -> None:
    assert {line.shared for each in done(service, **changes).written() for line in each.lines} == {None}


def test_verified_stands_in_for_ar(service: Service) -> None:
    both = by_name(done(service))["pflm"].lines[0]
    alone = by_name(done(service, decoders=("pflm", "verified")))["pflm"].lines[0]
    assert (alone.shared, alone.parted) == (both.shared, both.parted)


def test_surprise_is_the_teachers_own(pair: Pair, service: Service) -> None:
    writing = done(service, samples=2, temperature=0.7)
    assert {line.surprise for each in writing.written() for line in each.lines} == {None}
    assert len(list(writing.surprises())) <= 2 * len(DECODERS)
    ids = pair.encode(PROMPT)[0]
    for each in writing.written():
        for line in each.lines:
            law = pair.teacher.log_probs(torch.tensor([ids + line.tokens]))[0]
            rows = range(len(ids) - 1, len(ids) + LENGTH - 1)
            nats = [-float(law[row, token]) for row, token in zip(rows, line.tokens, strict=True)]
            np.testing.assert_allclose(line.surprise, nats, rtol=1e-4)
        assert each.loss == pytest.approx(np.mean([line.surprise for line in each.lines]))
    assert list(writing.surprises()) == []  # what was said once is kept


def test_a_text_ends_at_the_end_of_text(pair: Pair, service: Service) -> None:
    whole = by_name(done(service, decoders=("ar",)))["ar"].lines[0].tokens
    end = whole[6]
    words = {**{word: n for word, n in pair.need_tokenizer().get_vocab().items() if n != end}, "<|endoftext|>": end}
    ending = Service({"small": lambda: dataclasses.replace(pair, tokenizer=Tokenizer(models.WordLevel(words, "a")))})
    writing = Writing(ending.pair("small"), pair.encode(PROMPT)[0], config(decoders=("ar", "mdlm")))
    for _ in writing.steps():
        pass
    written = by_name(writing)["ar"]
    assert written.lines[0].tokens == whole[: whole.index(end) + 1]
    assert written.lines[0].ended
    assert written.nfe == whole.index(end) + 1


def test_pictures_grow_and_the_last_one_always_comes(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_by, "PAUSE", 0.0)
    monkeypatch.setattr(written_by, "PAUSE_PER_TOKEN", 0.0)
    pictures = [parts[1] for parts in asked(service) if isinstance(parts[1], str)]
    lengths = [sum(map(int, re.findall(r"<b>(\d+)</b> tokens<", picture))) for picture in pictures]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > LENGTH
    assert lengths[-1] == 2 * 2 * LENGTH
    monkeypatch.setattr(written_by, "PAUSE", 1e9)
    *_, last = asked(service)
    assert last[1].count('data-stage="done"') == 2
    numbers = r"<b>[\d.,–]+</b> (s|tokens/s)"
    assert re.sub(numbers, "", last[1]) == re.sub(numbers, "", pictures[-1])


def test_buttons_say_what_can_be_done(service: Service) -> None:
    pictures = asked(service)
    first, last = pictures[0], pictures[-1]
    assert [button["interactive"] for button in first[3:]] == [False, True, False]
    assert [button["interactive"] for button in last[3:]] == [True, False, True]


def test_stopping_keeps_what_is_written_and_closes_the_decoders(service: Service) -> None:
    writing = begun(service, samples=2)
    steps = writing.steps()
    for _ in range(12):
        next(steps)
    before = {each.decoder: tokens(each) for each in writing.written()}
    shown = halt(writing, False)
    assert [button["interactive"] for button in shown[3:]] == [True, False, True]
    assert 'data-stage="stopped"' in shown[1]
    assert list(steps) == []  # whatever step was under way is thrown away
    assert {each.decoder: tokens(each) for each in writing.written()} == before
    assert any(any(rows) for rows in before.values())
    assert all(desk.steps.gi_frame is None for desk in writing._desks)


def test_a_step_under_way_when_stopped_is_thrown_away(service: Service) -> None:
    writing, asked_for = begun(service, decoders=("ar",)), count(1)

    def clock() -> float:
        if next(asked_for) == 11:  # behind the third step: each turn looks at it four times
            writing.stop()
        return 0.0

    assert len(list(writing.steps(clock))) == 2
    assert len(by_name(writing)["ar"].lines[0].tokens) == by_name(writing)["ar"].nfe == 2


@pytest.mark.parametrize("drawn", [0, 3])
def test_a_page_that_is_gone_closes_the_decoders(service: Service, monkeypatch: pytest.MonkeyPatch, drawn: int) -> None:
    monkeypatch.setattr(written_by, "PAUSE", 0.0)
    monkeypatch.setattr(written_by, "PAUSE_PER_TOKEN", 0.0)
    pictures = answer(service, "small", PROMPT, ["ar"], 3, LENGTH, 1, 1, 0, 0, True, False)
    writing = next(pictures)[2]
    next(pictures)
    for _ in range(drawn):
        next(pictures)
    assert not writing.is_over
    pictures.close()
    assert writing.is_over
    assert list(writing.steps()) == []
    assert all(desk.steps.gi_frame is None for desk in writing._desks)


def test_the_underline_comes_and_goes_without_a_new_run(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, last = asked(service, underlined=True)
    assert "nats per token" in last[1]
    writing = done(service)
    monkeypatch.setattr(written_by, "decode", None)
    *_, drawn = underline(writing, True)
    assert ' nats"' in drawn[1]
    *_, bare = underline(writing, False)
    assert "nats" not in bare[1]


def test_texts_that_still_grow_are_scored_when_they_are_done(service: Service) -> None:
    assert list(underline(None, True)) == [[gr.skip()] * 6]
    pictures = answer(service, "small", PROMPT, ["ar"], 3, LENGTH, 1, 1, 0, 0, True, False)
    growing = next(pictures)[2]
    next(pictures)
    assert list(underline(growing, True)) == [[gr.skip()] * 6]
    *_, last = pictures
    assert ' nats"' in last[1]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pair": "none"}, "There is no pair"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "x" * 30_000}, "30,000 characters"),
        ({"decoders": []}, "No decoder is chosen"),
        ({"decoders": ["gpt"]}, "no decoder 'gpt'"),
        ({"decoders": None}, "No decoder is chosen"),
        ({"k": 5}, "k is 5"),
        ({"k": 17}, "17 tokens a pass"),
        ({"k": None}, "K is empty"),
        ({"length": 0}, "0 new tokens"),
        ({"length": 1024}, "1 to 1,023 on this page"),
        ({"samples": 9}, "9 samples"),
        ({"tau": 0}, "temperature is 0"),
        ({"tau": float("nan")}, "temperature is nan"),
        ({"penalty": -1}, "frequency penalty is -1"),
        ({"seed": None}, "seed is empty"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 10**400}, "a whole number"),
    ],
)
def test_a_mistake_is_told_and_the_texts_stay(service: Service, changes: dict[str, Any], told: str) -> None:
    *_, last = asked(service, **changes)
    assert told in last[0].replace("&#x27;", "'")
    assert "Valid:" in last[0]
    assert last[1:] == [gr.skip()] * 5


def test_after_a_mistake_the_texts_still_say_their_prompt(service: Service) -> None:
    held = done(service, decoders=("ar",))
    *_, last = asked(service, prompt="", held=held)
    alert, rest = last[0].split("</div></div>", 1)
    assert "prompt is empty" in alert
    assert f"After “<b>{PROMPT}</b>”" in rest
    assert "still of this prompt" in rest
    assert not held.is_waiting


def test_no_more_is_written_than_fits_and_that_is_told(service: Service) -> None:
    told = "No more than 45 new tokens fit after this prompt."
    for length, is_told in ((46, True), (64, True), (45, True), (44, False)):
        *_, last = asked(service, decoders=["pflm"], samples=1, length=length)
        assert f"<b>{min(length, 45)}</b> tokens<" in last[1]
        assert (told in last[0]) is is_told
    with pytest.raises(KfError, match="do not fit the context"):  # programs are told
        begun(service, new_tokens=46)


def test_a_bad_seed_is_told_by_the_tab_and_not_changed_before(service: Service) -> None:
    with gr.Blocks() as demo, gr.Tab() as tab:
        build_generate_tab(service, [gr.Textbox(), gr.Textbox()], tab, 4)
    seed = next(each for each in demo.blocks.values() if each.elem_id == "generate-seed")
    for value in (-1, 1.5, None):
        assert seed.preprocess(value) == value
        assert "The seed is" in asked(service, seed=value)[0][0]


def test_what_waits_can_be_called_off(service: Service) -> None:
    writing = begun(service)
    shown = halt(writing, False)
    assert [button["interactive"] for button in shown[3:]] == [True, False, True]
    assert list(run(writing)) == [[gr.skip()] * 6]
    assert refuse(writing) == [gr.skip()] * 6  # a place that was given up counts as a failure, too


def test_a_full_queue_frees_the_buttons(service: Service) -> None:
    writing = begun(service)
    shown = refuse(writing)
    assert "too many pages wait" in shown[0]
    assert [button["interactive"] for button in shown[3:]] == [True, False, True]
    assert list(run(writing)) == list(run(None)) == [[gr.skip()] * 6]


def test_who_starts_anew_stops_the_text_before(service: Service) -> None:
    former = begun(service)
    asked(service, held=former)
    assert former.is_over


def test_a_text_stops_when_its_time_is_over(pair: Pair) -> None:
    now = count()
    limited = Service({"small": lambda: pair}, ServerLimits(run_seconds=30), clock=lambda: float(next(now)))
    *_, last = asked(limited, decoders=["ar"], samples=1)
    assert "Stopped after 30 s, the most on this page." in last[0]
    assert 'data-stage="stopped"' in last[1]
    assert [button["interactive"] for button in last[3:]] == [True, False, True]


def test_texts_wait_while_a_clock_of_others_runs(service: Service) -> None:
    writing = begun(service, decoders=("ar",))
    steps, stepped = writing.steps(), threading.Event()
    next(steps)
    thread = threading.Thread(target=lambda: (next(steps), stepped.set()))
    with service._heavy.held():
        thread.start()
        assert not stepped.wait(0.2)
    assert stepped.wait(30)
    thread.join(30)


def test_the_longest_text_fits_the_context(service: Service) -> None:
    for each in done(service, new_tokens=45, k=4).written():
        assert [len(row) for row in tokens(each)] == [45]


def test_a_device_without_memory_is_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Writing, "_step", full)
    *_, last = asked(service)
    assert "too little memory" in last[0]
    assert [button["interactive"] for button in last[3:]] == [True, False, True]


def test_a_pair_without_a_masked_model_does_not_offer_mdlm(pair: Pair, service: Service) -> None:
    offered, k, length = fit(service, "small", ["ar", "mdlm"], 9, 99)
    assert [name for _, name in offered["choices"]] == list(DECODERS)
    assert (k["maximum"], k["value"], length["maximum"], length["value"]) == (4, 4, 47, 47)
    kept = fit(service, "small", ["ar", "mdlm"], 2, 10)
    assert not any("value" in each for each in kept)  # what a reader may just have changed is not sent back
    bare = Service({"small": lambda: dataclasses.replace(pair, masked=None)})
    offered, *_ = fit(bare, "small", ["ar", "mdlm"], 2, 10)
    assert offered["value"] == ["ar"]
    assert "mdlm" not in [name for _, name in offered["choices"]]
    assert "no masked model" in offered["info"]
    *_, last = asked(bare, decoders=["ar", "mdlm"])
    assert "masked model" in last[0]
    assert last[1:] == [gr.skip()] * 5
    assert fit(service, "none", ["ar"], 2, 10) == [gr.skip()] * 3


def test_the_download_says_what_it_hangs_on(pair: Pair, service: Service) -> None:
    writing = done(service, samples=2)
    list(writing.surprises())
    text, told = download(writing)
    assert told == gr.skip()
    held = json.loads(text)
    assert held["settings"] == json.loads(json.dumps(dataclasses.asdict(writing.config)))
    assert held["prompt_tokens"] == pair.encode(PROMPT)[0]
    assert held["environment"]["device"] == "cpu"
    for told, each in zip(held["decoders"], writing.written(), strict=True):
        assert [line["tokens"] for line in told["lines"]] == tokens(each)
        assert told["lines"][0]["text"].split() == [pair.texts([token])[0] for token in each.lines[0].tokens]
        assert told["tokens_per_second"] == pytest.approx(2 * LENGTH / each.seconds)
        assert (told["nfe"], told["seconds"], told["nats_per_token"]) == (each.nfe, each.seconds, each.loss)


@pytest.mark.parametrize("called_off", [True, False])
def test_the_teacher_reads_no_text_that_was_called_off(service: Service, called_off: bool) -> None:
    writing = begun(service)
    writing.underlined, steps = True, run(writing)
    shown = [next(steps)]
    if called_off:
        writing.stop()
    shown += list(steps)
    assert any("teacher reads" in str(each[0]) for each in shown) is not called_off


def test_a_download_of_nothing_says_so() -> None:
    text, told = download(None)
    assert text == ""
    assert "no longer held" in told


def test_the_status_says_prompt_seeds_and_what_is_untried(service: Service, pair: Pair) -> None:
    *_, last = asked(service, prompt="a <b> c", same=False, tau=0.5)
    assert "a &lt;b&gt; c" in last[0]
    assert "seed 5 of AR, seed 6 of PFLM" in last[0]
    assert "trained at temperature 1 only" in last[0]
    known = dataclasses.replace(pair, info={"training": {"student_temperatures": [0.3, 1]}})
    *_, last = asked(Service({"small": lambda: known}), tau=0.5)
    assert "trained at" not in last[0]
    *_, last = asked(service, decoders=["ar"], tau=0.5)
    assert "trained at" not in last[0]


def test_a_pair_needs_a_tokenizer(pair: Pair) -> None:
    bare = Service({"small": lambda: dataclasses.replace(pair, tokenizer=None)})
    with pytest.raises(KfError, match="no tokenizer"):
        begun(bare)


def test_a_turn_holds_many_steps(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_by, "TURN", 1e9)
    assert len(list(begun(service).steps())) == 1
