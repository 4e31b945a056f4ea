"""What decoders write for a small pair, in turns and on clocks of their own, and links to the blocks they wrote."""

from __future__ import annotations

import dataclasses
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import count
from typing import Any
from urllib.parse import parse_qs

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
from kfexplore.ui.jobs import Job
from kfexplore.ui.service import Service, local_service
from kfexplore.ui.writing import Texts, WriteConfig, Writing, write

PROMPT = "a b c"
LENGTH = 20


@pytest.fixture(autouse=True)
def _one_step_per_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_by, "TURN", 0.0)


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


def expected(pair: Pair, settings: WriteConfig, decoder: Any, seed: int) -> list[list[int]]:
    networks, own = Networks(pair.teacher, pair.student, pair.masked), settings.of(decoder)
    samples, length = range(settings.samples), settings.new_tokens
    noise = keyed_noise(seed, samples, own, networks, length)
    ids = [pair.encode(settings.prompt)[0]] * len(samples)
    found = generate(own, networks, ids, noise, length, keyed_order(seed, samples, length))
    return found.tokens.tolist()


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


def test_texts_wait_while_a_clock_of_others_runs(pair: Pair, service: Service) -> None:
    steps, stepped = begun(service, decoders=("ar",)).job.run(), threading.Event()
    next(steps)
    thread = threading.Thread(target=lambda: (next(steps), stepped.set()))
    with service.local.alone(pair, CancelToken()):
        thread.start()
        assert not stepped.wait(0.2)
    assert stepped.wait(30)
    thread.join(30)


def test_a_pair_needs_a_tokenizer(pair: Pair) -> None:
    bare = local_service({"small": lambda: dataclasses.replace(pair, tokenizer=None)})
    with pytest.raises(KfError, match="no tokenizer"):
        begun(bare)


def test_a_block_has_a_link_to_its_context_and_noise(pair: Pair, service: Service) -> None:
    writing = done(service, decoders=("ar", "pflm", "mdlm"), samples=2, temperature=0.5, k=3)
    ids = pair.encode(PROMPT)[0]
    for name in ("ar", "pflm"):
        for line in by_name(writing)[name].lines:
            assert [first for first, _ in line.links] == list(range(0, LENGTH, 3))
            for first, link in line.links:
                said = {key: values[0] for key, values in parse_qs(link).items()}
                assert (said["pair"], said["k"], said["temperature"]) == ("small", "3", "0.5")
                assert pair.encode(said["prompt"])[0] == ids + line.tokens[:first]
                block = pair.block([ids + line.tokens[:first]], [list(map(float, said["u"].split(",")))], 0.5)
                found = (block.exact if name == "ar" else block.learned)[0].tolist()
                assert found[: LENGTH - first] == line.tokens[first : first + 3]
    assert by_name(writing)["mdlm"].lines[0].links == []
    assert by_name(begun(service))["ar"].lines[0].links == []
    assert by_name(done(service, frequency_penalty=0.5))["pflm"].lines[0].links == []
    assert "links" not in by_name(writing)["ar"].as_json()["lines"][0]


def test_links_are_found_once_per_text(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    writing = done(service, decoders=("ar", "pflm"), samples=2)
    first = [line.links for written in writing.written() for line in written.lines]
    monkeypatch.setattr(Pair, "encode", lambda *_: pytest.fail("encoded again"))
    assert [line.links for written in writing.written() for line in written.lines] == first


def test_the_texts_in_links_are_not_kept(service: Service) -> None:
    first, writing = (done(service, prompt="a b c " * 8, decoders=("ar", "pflm"), samples=2, k=1) for _ in range(2))
    first.written()  # what every text has need of is held by now
    tracemalloc.start()
    linked = sum(len(link) for written in writing.written() for line in written.lines for _, link in line.links)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < linked


def test_a_context_whose_text_gives_other_tokens_has_no_link(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    writing = done(service, decoders=("ar",))
    monkeypatch.setattr(Pair, "encode", lambda *_: ([], False))
    assert {link for _, link in by_name(writing)["ar"].lines[0].links} == {""}
