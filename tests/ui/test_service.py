"""What the page receives: the same answers as the package's own, and errors as data."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any

import numpy as np
import pytest
from helpers import student, teacher
from tokenizers import Tokenizer, models

from kfexplore import KfError, Pair, load_pair
from kfexplore.checkpoints.hub import Unreachable
from kfexplore.checkpoints.registry import bundled_pairs
from kfexplore.config import DEFAULT_PAIR
from kfexplore.maps import block, grid, sweep
from kfexplore.results import steps
from kfexplore.ui.app import first_payload, fresh_first_payload, make_service
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.models import WAIT_FOR_PAIR, Context
from kfexplore.ui.protocol import Failure, GridReply, PointReply, RowsReply, TablesReply
from kfexplore.ui.service import Service, local_service

PROMPT = "The little bird sang"
U = [0.2, 0.9, 0.4, 0.6]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair("tales")


@pytest.fixture(scope="module")
def service(pair: Pair) -> Service:
    return local_service({"tales": lambda: pair})


def asked(**more: Any) -> Json:
    return {"seq": 7, "pair": "tales", "prompt": PROMPT, "u": U, "resolution": 32, **more}


def unpacked(text: str, dtype: str, *shape: int) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text), dtype=dtype).reshape(shape)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_replies_are_what_both_maps_say(service: Service, pair: Pair, temperature: float) -> None:
    context, u, request = pair.prefill(pair.encode(PROMPT)[0]), np.array(U), asked(temperature=temperature)
    tables, rows = service.tables(request), service.tables({**request, "slots": [2, 0]})
    for slot in range(4):
        expected = sweep(context, u, slot, 32, temperature).block
        for name, tokens in (("teacher", expected.exact), ("student", expected.student)):
            assert (unpacked(tables[name], "<u2", 4, 32, 4)[slot] == tokens).all()
            if slot in rows["slots"]:
                assert (unpacked(rows[name], "<u2", 2, 32, 4)[rows["slots"].index(slot)] == tokens).all()
    assert unpacked(tables["margin"], "<f4", 4, 32, 4).min() >= 0
    assert (tables["seq"], tables["k"], tables["u"], tables["resolution"]) == (7, 4, U, 32)
    assert (rows["slots"], rows["every"], rows["u"], rows["prompt"]) == ([2, 0], 1, U, PROMPT)
    assert tables["temperature"] == rows["temperature"] == temperature
    used = {int(i) for name in ("teacher", "student") for i in unpacked(tables[name], "<u2", 4 * 32 * 4)}
    assert used <= {int(i) for i in tables["texts"]}
    assert "".join(text for _, text in tables["prompt_tokens"]) == PROMPT
    point = service.point({**request, "u": [U[0], steps(32)[5], *U[2:]]})  # the middle of a step
    assert point["teacher"] == unpacked(tables["teacher"], "<u2", 4, 32, 4)[1, 5].tolist()
    assert service.point(request)["edge"] == block(context, u, temperature).edges[0].tolist()
    square = service.grid({**request, "slots": [1, 3], "resolution": 8})
    section = grid(context, u, (1, 3), 8, temperature)
    assert (unpacked(square["teacher"], "<u2", 8, 8, 2) == section.exact).all()
    assert (unpacked(square["student"], "<u2", 8, 8, 2) == section.student).all()
    assert square["agreement"] == section.agreement


@pytest.mark.parametrize(
    ("name", "more", "described"),
    [
        ("tables", {}, TablesReply),
        ("tables", {"slots": [1]}, RowsReply),
        ("point", {}, PointReply),
        ("grid", {"slots": [0, 1], "resolution": 8}, GridReply),
        ("point", {"pair": "none"}, Failure),
    ],
)
def test_replies_have_the_keys_that_are_described(service: Service, name: str, more: Json, described: Any) -> None:
    assert set(getattr(service, name)(asked(**more))) == set(described.__annotations__)


@pytest.mark.parametrize(("asking", "every", "side"), [(1, 1, 128), (2, 4, 32), (6, 16, 32), (11, 32, 16)])
def test_where_many_ask_answers_are_coarser(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, asking: int, every: int, side: int
) -> None:
    service = local_service({"tales": lambda: pair})
    monkeypatch.setattr(service.local.work, "recent_length", lambda: asking)
    reply = service.tables(asked(slots=[3], resolution=512))
    assert (reply["resolution"], reply["every"]) == (512, every)
    fine = sweep(pair.prefill(pair.encode(PROMPT)[0]), np.array(U), 3, 512).block
    known = unpacked(reply["teacher"], "<u2", 1, 512 // every, 4)[0]
    assert (known == fine.teacher[every // 2 :: every]).all()
    assert service.grid(asked(slots=[0, 1], resolution=128))["resolution"] == side


def test_a_reply_says_what_the_student_was_trained_with(pair: Pair) -> None:
    trained = Pair(pair.teacher, pair.student, None, pair.tokenizer, {"training": {"student_temperatures": [0.3, 1]}})
    service = local_service({"tales": lambda: trained, "alone": lambda: Pair(pair.teacher, tokenizer=pair.tokenizer)})
    told = service.tables(asked())["trained"]
    assert (told["low"], told["high"]) == (0.3, 1)
    assert "trained at temperatures 0.3 to 1:" in told["note"]
    assert service.tables(asked(pair="alone"))["trained"] is None


def test_noise_of_a_pair_with_another_k_is_made_to_fit(service: Service) -> None:
    for u, expected in (([0.1, 0.2], [0.1, 0.2, 0.5, 0.5]), ([0.1 * n for n in range(1, 9)], [0.1, 0.2, 0.3, 0.4])):
        reply = service.tables(asked(u=u, fits=True))
        assert (reply["k"], reply["u"]) == (4, pytest.approx(expected))
    assert "1.5 is outside" in service.tables(asked(u=[1.5], fits=True))["failed"]
    assert "shape (8,)" in service.tables(asked(u=[0.1] * 8))["failed"]


def test_eight_slots_fill_tables_of_eight() -> None:
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(23)}, unk_token="w0"))
    eight = Pair(teacher(1, peaky=2), student(11, peaky=2, block=8), tokenizer=words)
    service, u = local_service({"eight": lambda: eight}), [0.1 * (slot + 1) for slot in range(8)]
    request = {"seq": 1, "pair": "eight", "prompt": "w1", "u": u}
    reply = service.tables(request)
    assert (reply["k"], reply["k_max"], reply["resolution"]) == (8, 8, 512)
    rows = unpacked(reply["student"], "<u2", 8, 512, 8)
    context = eight.prefill(eight.encode("w1")[0])
    for slot in (0, 7):
        assert (rows[slot] == sweep(context, np.array(u), slot).block.student).all()
    row = service.tables({**request, "slots": [6], "yields": True})
    assert (unpacked(row["student"], "<u2", 1, 512, 8)[0] == rows[6]).all()
    assert service.grid({**request, "slots": [3, 7], "resolution": 8})["slots"] == [3, 7]
    assert "shape (9,)" in service.point({**request, "u": [*u, 0.5]})["failed"]
    assert "K is 9" in service.tables({**request, "u": None, "k": 9})["failed"]


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"prompt": ""}, "The prompt is empty"),
        ({"temperature": 0}, "The temperature is 0"),
        ({"temperature": "1"}, "The temperature is '1'"),
        ({"temperature": [1]}, "The temperature is [1]"),
        ({"temperature": float("nan")}, "The temperature is nan"),
        ({"prompt": "x" * 30_000}, "30,000 characters"),
        ({"pair": "other"}, "no pair 'other'"),
        ({"u": [0.1, 1.0, 0.2, 0.3]}, "1.0 is outside"),
        ({"u": [0.1, None, 0.2, 0.3]}, "not a list of numbers"),
        ({"u": ["a", 0.1]}, "not a list of numbers"),
        ({"k": 0}, "K is 0"),
        ({"k": 5}, "K is 5"),
        ({"k": 3, "u": [0.1]}, "1 noise values"),
        ({"k": "x"}, "K is 'x'"),
        ({"k": 1e400}, "K is inf"),
        ({"u": {"a": 1}}, "not a list of numbers"),
        ({"u": []}, "The noise has the shape"),
        ({"u": [[0.1, 0.2]]}, "The noise has the shape"),
        ({"u": 0.5}, "The noise has the shape"),
        ({"prompt": ["a"]}, "not text"),
        ({"prompt": "half \ud800"}, "not text"),
        ({"resolution": 100_000}, "100,000 steps"),
        ({"resolution": 513}, "513 steps"),
        ({"resolution": 0}, "0 steps"),
        ({"resolution": "many"}, "resolution is 'many'"),
        ({"slots": 1}, "slots that move are 1"),
        ({"slots": []}, "slots that move are []"),
        ({"slots": [0, 0]}, "slots that move are [0, 0]"),
        ({"slots": [0] * 100}, "slots that move are [0, 0"),
        ({"slots": [4]}, "no slot 4"),
    ],
)
def test_a_bad_request_is_answered_with_what_failed(service: Service, change: Json, failed: str) -> None:
    reply = service.tables(asked(**change))
    assert not reply["ok"]
    assert failed in reply["failed"]
    assert reply["valid"]


def test_a_slow_load_keeps_no_other_pair_waiting(pair: Pair) -> None:
    started, release = threading.Event(), threading.Event()

    def slow() -> Pair:
        started.set()
        assert release.wait(30)
        raise KfError("gone")

    service = local_service({"slow": slow, "tales": lambda: pair})
    waiting = threading.Thread(target=service.point, args=(asked(pair="slow"),))
    waiting.start()
    assert started.wait(30)
    assert service.point(asked())["ok"]
    assert waiting.is_alive()
    release.set()
    waiting.join()


def test_few_requests_wait_for_a_slow_load(pair: Pair) -> None:
    release, answered, replies = threading.Event(), threading.Semaphore(0), []

    def slow() -> Pair:
        assert release.wait(30)
        raise KfError("gone")

    def ask() -> None:
        replies.append(service.point(asked(pair="slow")))
        answered.release()

    service = local_service({"tales": lambda: pair, "slow": slow})
    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for _ in range(20 - 1 - WAIT_FOR_PAIR):  # one loads
        assert answered.acquire(timeout=30)
    assert all(reply["busy"] for reply in replies)
    assert not answered.acquire(blocking=False)
    release.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("name", bundled_pairs())
def test_the_stored_first_screen_is_that_of_the_bundled_weights(name: str) -> None:
    service, _ = make_service(name)
    stored, fresh = first_payload(service, name), fresh_first_payload(service, name)
    assert stored["stored"] is True
    assert set(stored) == {*fresh, "weights"}
    assert [stored[key] for key in ("prompt_tokens", "u", "trained")] == [
        fresh[key] for key in ("prompt_tokens", "u", "trained")
    ]
    size = stored["k"] ** 2 * 512
    for model in ("teacher", "student"):  # another processor may turn a near tie
        assert (unpacked(stored[model], "<u2", size) == unpacked(fresh[model], "<u2", size)).mean() > 0.999


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"slots": [0, 1], "resolution": 129}, "129 steps"),
        ({"slots": None}, "slots of a grid are None"),
        ({"slots": [0, 1, 2]}, "slots of a grid are (0, 1, 2)"),
        ({"slots": [2, 1]}, "2 and 1"),
        ({"slots": [0, 9]}, "no slot 9"),
        ({"slots": ["a", 1]}, "slot is 'a'"),
    ],
)
def test_a_bad_grid_is_answered_with_what_failed(service: Service, change: Json, failed: str) -> None:
    assert failed in service.grid(asked(**change))["failed"]


def test_slots_beyond_the_limit_are_not_shown(pair: Pair) -> None:
    service = local_service({"tales": lambda: pair}, ServerLimits(slots=2))
    reply = service.tables(asked(u=None))
    assert (reply["k"], reply["k_max"]) == (2, 2)
    assert "K is 3" in service.tables(asked(k=3))["failed"]
    assert "shape (4,)" in service.point(asked())["failed"]


def test_contexts_are_kept_and_dropped_pair_by_pair(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[list[int]] = []
    counting = Pair(pair.teacher, pair.student, None, pair.tokenizer)
    monkeypatch.setattr(Pair, "prefill", lambda self, ids, prefill=Pair.prefill: held.append(ids) or prefill(self, ids))
    service = local_service({"one": lambda: counting, "two": lambda: counting}, ServerLimits(contexts=1))
    for name, prompt in (("one", "a"), ("two", "a"), ("one", "a"), ("one", "b"), ("two", "a"), ("one", "a")):
        assert service.point(asked(pair=name, prompt=prompt))["ok"]
    assert len(held) == 4  # "one": a, b, a again; "two": a, which the other pair's prompts do not push out


def test_a_context_counts_about_what_it_takes(pair: Pair) -> None:
    ids = pair.encode(PROMPT * 8)[0]
    context = Context(pair.prefill(ids), "")
    caches = (context.prefilled._cache, context.prefilled._learned.cache)
    keys = sum(k.nbytes + v.nbytes for cache in caches for k, v in cache._layers)
    assert keys <= context.nbytes <= 1.2 * keys + 64 * 8 * pair.teacher.config.vocab_size


@pytest.fixture
def counted(pair: Pair) -> tuple[list[str], dict[str, Any]]:
    """Names of pairs as they are loaded, and loaders of three."""
    loads: list[str] = []
    return loads, {name: lambda name=name: loads.append(name) or pair for name in ("first", "second", "third")}


def test_the_least_used_pair_goes_but_never_the_first(counted: tuple[list[str], dict[str, Any]]) -> None:
    loads, loaders = counted
    service = local_service(loaders, ServerLimits(loaded_pairs=2))
    for name in ("first", "second", "third", "third", "first", "second", "first"):
        service.models.pair(name)
    assert loads == ["first", "second", "third", "second"]


def test_what_nobody_uses_goes_but_never_the_first(counted: tuple[list[str], dict[str, Any]]) -> None:
    loads, loaders = counted
    now = [0.0]
    service = local_service(loaders, ServerLimits(idle_seconds=10), clock=lambda: now[0])
    for time, name in ((0, "first"), (0, "second"), (9, "second"), (18, "second"), (40, "first"), (41, "second")):
        now[0] = time
        service.models.pair(name)
    assert loads == ["first", "second", "second"]


def test_other_checkpoints_are_refused_unless_the_operator_lets_them_be_named(pair: Pair) -> None:
    named: list[str] = []
    closed = local_service({"tales": lambda: pair})
    assert closed.point(asked(pair="/etc"))["failed"] == "There is no pair '/etc'."
    assert not closed.models.offers("/etc")
    opened = local_service({"tales": lambda: pair}, other=lambda name: named.append(name) or pair)
    assert opened.models.offers("runs/mine")
    assert not opened.models.offers("")  # a link that names none
    assert opened.point(asked(pair="runs/mine"))["ok"]
    assert opened.point(asked(pair="runs/mine"))["ok"]
    assert named == ["runs/mine"]


def test_why_a_pair_cannot_be_loaded_is_in_the_log_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> Pair:
        raise KfError("It is not in /secret/place.", "put it there")

    reply = local_service({"gone": missing}).point(asked(pair="gone"))
    assert "'gone' cannot be loaded" in reply["failed"]
    assert "/secret" not in json.dumps(reply)
    assert "/secret/place" in capsys.readouterr().err


def test_a_hub_out_of_reach_is_reported_and_not_asked_again_for_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    asked_for: list[float] = []
    now = [0.0]

    def lost() -> Pair:
        asked_for.append(now[0])
        raise Unreachable("It is not in /secret/place: huggingface.co could not be reached.", "put it there")

    service = local_service({"gone": lost}, clock=lambda: now[0])
    for now[0] in (0, 30, 59, 61, 100, 122):
        reply = service.point(asked(pair="gone"))
        assert "must be downloaded from huggingface.co, which could not be reached" in reply["failed"]
        assert f"the pair {DEFAULT_PAIR}" in reply["valid"]
        assert "/secret" not in json.dumps(reply)
    assert asked_for == [0, 61, 122]
    assert capsys.readouterr().err.count("/secret/place") == 3


def test_a_pair_that_came_after_all_is_there_at_once(pair: Pair) -> None:
    answers = iter([KfError("It is not there yet."), None])

    def late() -> Pair:
        if (error := next(answers)) is not None:
            raise error
        return pair

    service = local_service({"late": late})
    assert not service.point(asked(pair="late"))["ok"]
    assert not service.models.holds("late")
    assert service.point(asked(pair="late"))["ok"]
    assert service.models.holds("late")


def test_where_too_many_wait_the_rest_is_refused_at_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    service = local_service({"tales": lambda: pair}, ServerLimits(questions=1))
    service.point(asked())
    started, release = threading.Event(), threading.Event()

    def slow(*given: Any) -> Any:
        started.set()
        assert release.wait(30)
        return grid(*given)

    monkeypatch.setattr("kfexplore.ui.service.grid", slow)
    replies: list[Json] = []

    def ask(seq: int) -> threading.Thread:
        question = asked(slots=[0, 1], resolution=2, seq=seq)
        thread = threading.Thread(target=lambda: replies.append(service.grid(question)))
        thread.start()
        return thread

    threads = [ask(1)]
    assert started.wait(30)
    threads += [ask(2), ask(3)]  # one may wait
    while not replies:
        threads[-1].join(0.01)
        threads[-2].join(0.01)
    busy = replies.pop()
    assert (busy["ok"], busy["busy"], busy["seq"] in (2, 3)) == (False, True, True)
    release.set()
    for thread in threads:
        thread.join(30)
    assert [reply["ok"] for reply in replies] == [True, True]
