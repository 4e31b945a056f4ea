"""Clients under load: each answer is their own, losses count as errors unless the server is down, memory is watched."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kfexplore.errors import KfError
from kfexplore.figures.payload import packed
from kfexplore.pair import Pair, load_pair
from kfexplore.ui import queueing, server
from kfexplore.ui.app import make_service, serve
from tools import hostile, load
from tools.clicks import Event, Page, Text, Writer, chain
from tools.load import (
    SAMPLES,
    Answer,
    LoadSettings,
    Outage,
    client_prompts,
    load_test,
    measured,
    memory_of,
    spread,
    wrong_answers,
    wrong_texts,
)

HEAD = {"bench", "device", "device_name", "dtype", "threads", "load_average", "versions", "pair", "settings", "seconds"}
K, RESOLUTION = 4, 512
Json = dict[str, Any]


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    return load_pair(folder)


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    service, name = make_service(str(folder))
    demo = serve(service, name, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield demo.local_url
    demo.close()


def test_three_clients_find_every_answer_their_own(
    folder: Path, pair: Pair, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "Writer", partial(Writer, new_tokens=8))
    settings = LoadSettings(clients=3, seconds=3, writing=1, timing=1)
    document = json.loads(json.dumps(load_test(pair, str(folder), settings, url), allow_nan=False))
    assert document["told"] == []
    assert set(document) >= HEAD | {"cores", "rows", "errors", "memory", "restart", "verdicts", "checked", "limits"}
    assert document["settings"] == {**dataclasses.asdict(settings), "scrubbing": 1, "url": url}
    rows = {row["what"]: row for row in document["rows"]}
    assert set(rows) == {"move", "move_asked", "point", "tables", "open", "text", "text_first", "race"}
    assert rows["open"]["count"] == 1
    assert rows["move"]["count"] <= 30  # ten per second, with pauses
    assert rows["text"]["count"] >= 1
    assert rows["race"]["count"] >= 1
    assert document["checked"]["texts"] == 2 * rows["text"]["count"]
    assert document["verdicts"]["no error"]
    assert document["verdicts"]["memory within 5% over the second half"] is None  # the server is not ours


def test_hostile_clients_do_harm_of_every_kind(
    folder: Path, pair: Pair, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile, "PAUSE", 0.1)
    monkeypatch.setattr(server, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(queueing, "UNREAD_SECONDS", 0.1)
    client = hostile.Hostile(0, url, str(folder), Page(url).ids["scrub"], pair.k_max)
    for thread in client.start(time.time() + 4):
        thread.join(60)
    assert {"sweep 200", "point 200", "unread 200", "broken 413", "broken 0"} <= set(client.counts)


def test_apps_that_cannot_be_driven_are_refused(pair: Pair, url: str) -> None:
    settings = LoadSettings(3, 1, 0, 0)
    with pytest.raises(KfError, match="No kfexplore app answers"):
        load_test(pair, "tales", settings, "http://127.0.0.1:9/")
    with pytest.raises(KfError, match="no pair 'nothing'"):
        load_test(pair, "nothing", settings, url)
    with pytest.raises(KfError, match="started here"):
        load_test(pair, "tales", dataclasses.replace(settings, restart=True), url)


@pytest.mark.parametrize("wrong", [{"clients": 5, "writing": 4}, {"seconds": 0}, {"timing": -1}, {"hostile": -1}])
def test_settings_without_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(KfError):
        LoadSettings(**wrong)


def test_prompts_differ_between_clients() -> None:
    prompts = client_prompts(150)
    assert len(set(prompts)) == 150
    assert prompts[0] == "Once upon a time there lived"


# ---- scrubbers.js against a server that answers at once, or not


def reply_to(name: str, question: Json) -> Json:
    """A good reply to any question."""
    own = {"ok": True, "texts": {}, **{field: question[field] for field in ("seq", "u", "pair", "prompt")}}
    k = len(question["u"])
    point = {"teacher": [1] * k, "student": [2] * k, "margin": [1.0] * k, "edge": [0.1] * k}
    if name == "point":
        return {**own, **point}
    slots = question.get("slots", list(range(k)))
    shape = len(slots), RESOLUTION, k
    arrays = {"teacher": (1, "<u2"), "student": (2, "<u2"), "margin": (1.0, "<f4"), "edge": (0.1, "<f4")}
    tables = {field: packed(np.full(shape, value), kind) for field, (value, kind) in arrays.items()}
    about = {"resolution": RESOLUTION, "every": 1, "k": k, "k_max": K, "slots": slots, "device": "cpu", "point": point}
    return {**own, **about, **tables}


@contextmanager
def served(answer: Callable[[str, Json], Json | None]) -> Iterator[str]:
    """A server whose functions answer so; None cuts the connection."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = answer(body["fn_name"], body["data"])
            if reply is not None:
                text = json.dumps(reply).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def scrubbed(answer: Callable[[str, Json], Json | None], seconds: float = 1.0, clients: int = 1) -> Json:
    """What some clients print, with their events counted."""
    with served(answer) as url:
        options = {"url": url, "pair": "p", "k": K, "prompts": ["a"] * clients, "component": 1, "seed": 0, "keep": 20}
        command = [*load.NODE, str(load.SCRUBBERS), json.dumps({**options, "seconds": seconds})]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    printed = json.loads(ended.stdout)
    return {**printed, "counts": Counter((event["what"], event["how"]) for event in printed["events"])}


def test_moves_that_a_sweep_holds_are_answered_at_once() -> None:
    found = scrubbed(reply_to, seconds=2)
    counts, moves = found["counts"], [event for event in found["events"] if event["what"] == "move"]
    assert {how for _, how in counts} == {"done"}
    assert counts["open", "done"] == 1
    assert 5 <= len(moves) <= 20  # ten per second
    assert counts["point", "done"] <= counts["move_asked", "done"] <= 2  # until the sweep has come
    assert sorted(event["ms"] for event in moves)[len(moves) // 2] < 10
    for answer in found["answers"]:
        assert [answer["teacher"], answer["student"]] == [[1] * len(answer["u"]), [2] * len(answer["u"])]


def test_a_busy_server_is_asked_again() -> None:
    said: list[str] = []

    def busy_once(name: str, question: Json) -> Json:
        said.append(name)
        busy = {"ok": False, "busy": True, "failed": "Busy.", "seq": question["seq"]}
        return reply_to(name, question) if len(said) > 1 else busy

    found = scrubbed(busy_once)
    assert found["counts"]["tables", "busy"] == 1
    assert not any(how in ("lost", "error") for _, how in found["counts"])
    assert next(event for event in found["events"] if event["what"] == "open")["ms"] >= 125  # a pause


@pytest.mark.parametrize(
    ("fault", "how", "why"),
    [
        ({"u": [0.5] * K}, "error", "not its own answer: u is [0.5,0.5,0.5,0.5], not "),
        ({"prompt": "b"}, "error", 'not its own answer: prompt is "b", not "a"'),
        ({"ok": False, "failed": "There is no pair 'p'."}, "error", "There is no pair 'p'."),
        (None, "lost", ""),
    ],
)
def test_swapped_refused_and_lost_answers_are_recorded(fault: Json | None, how: str, why: str) -> None:
    found = scrubbed(lambda *asked: None if fault is None else {**reply_to(*asked), **fault})
    assert set(found["counts"]) == {("tables", how)}
    assert all(event["why"].startswith(why) for event in found["events"])


def test_moves_whose_tokens_never_come_are_lost() -> None:
    """The first drag is answered from the sweeps that came with the prompt, the second one is not."""
    counts = scrubbed(lambda *asked: reply_to(*asked) if asked[1]["seq"] == 1 else None, 6.0, clients=8)["counts"]
    assert counts["move", "lost"] >= 10
    assert counts["point", "lost"] >= 10
    assert counts["point", "done"] == counts["move_asked", "done"] == 0


# ---- checks and arithmetic


def test_kept_answers_are_compared_with_the_exact_ones(pair: Pair) -> None:
    u = [0.1, 0.9, 0.4, 0.6]
    block = pair.block([pair.encode("The owl")[0]], [u])
    right = Answer("The owl", u, block.exact[0].tolist(), block.learned[0].tolist())
    other = dataclasses.replace(right, student=[token + 1 for token in right.student])
    assert wrong_answers(pair, [right, right]) == []
    (wrong,) = wrong_answers(pair, [right, other])
    assert "after 'The owl' at [0.1" in wrong


def test_texts_are_compared_with_what_the_seed_gives_alone(pair: Pair) -> None:
    (wrong,) = wrong_texts(pair, [Text("The owl", "pflm", 3, 8, [])])
    tokens = json.loads(wrong.rpartition("it is ")[2])
    assert 0 < len(tokens) <= 8
    assert wrong_texts(pair, [Text("The owl", "pflm", 3, 8, tokens)]) == []
    assert len(wrong_texts(pair, [Text("The owl", "pflm", 4, 8, tokens)])) == 1


def test_a_click_sets_off_its_steps_without_scripts_and_refusals() -> None:
    step = {"targets": [], "trigger_after": None, "trigger_only_on_failure": False, "backend_fn": True}
    events = [
        {**step, "id": 1, "targets": [(7, "click")]},
        {**step, "id": 2, "trigger_after": 1},
        {**step, "id": 3, "trigger_after": 2, "trigger_only_on_failure": True},
        {**step, "id": 4, "trigger_after": 2, "backend_fn": False},
        {**step, "id": 5, "targets": [(8, "click")]},
    ]
    assert [each["id"] for each in chain(events, 7)] == [1, 2]


def test_what_is_lost_is_an_error_unless_the_server_is_down() -> None:
    lost = [Event("point", "a", at, how="lost", why=f"at {at:g}") for at in (1.0, 11.0, 30.0)]
    done = [Event("point", "a", 5.0, 40.0), Event("move_asked", "a", 5.0, 50.0), Event("point", "a", 22.0, 60.0)]
    found = measured([*lost, *done], LoadSettings(1, 40, 0, 0, restart=True), Outage(10.0, 20.0), None)
    row = next(row for row in found["rows"] if row["what"] == "point")
    assert (row["count"], row["worst_ms"], row["lost"], row["error"]) == (2, 60, 1, 2)
    assert (found["errors"], found["told"]) == (2, ["point: at 1", "point: at 30"])
    assert found["restart"]["down_seconds"] == 10
    assert (found["restart"]["answered_again"], found["restart"]["first_answer"]["p50_ms"]) == (1, 2000)
    assert list(found["verdicts"].values()) == [False, True, None]


def test_percentiles_of_known_times() -> None:
    assert spread(list(range(101))) == {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "worst_ms": 100}
    assert set(spread([]).values()) == {None}


@pytest.mark.parametrize(
    ("last", "growth", "flat"), [(104, 0.04, True), (106, 0.06, False), (94, -0.06, False), (None, None, None)]
)
def test_memory_is_flat_by_its_last_two_quarters(last: int | None, growth: float | None, flat: bool | None) -> None:
    first = [(float(at), 50 + at, 0.0) for at in range(50)]  # it may grow until half time
    third = [*((50.0 + at, 100, 0.0) for at in range(25)), (60.5, 900, 0.0)]  # a lone peak is no growth
    fourth = [] if last is None else [(75.0 + at, last, 0.0) for at in range(24)]
    memory = memory_of([*first, *third, *fourth], 100.0)
    assert memory is not None
    assert memory["growth"] == (None if growth is None else pytest.approx(growth))
    verdicts = measured([], LoadSettings(), Outage(), memory)["verdicts"]
    assert verdicts["memory within 5% over the second half"] is flat


def test_beside_hostile_clients_a_move_may_take_longer() -> None:
    moves = [Event("move", "scrubber 0", 1.0, 0.1)] * 99 + [Event("move_asked", "scrubber 0", 1.0, 300.0)]
    for count, bound, holds in ((0, 250, False), (10, 400, True)):
        found = measured(moves, LoadSettings(hostile=count), Outage(), None)
        assert found["verdicts"][f"p95 of a move that waits within {bound} ms"] is holds


def test_samples_of_memory_are_thinned() -> None:
    memory = memory_of([(float(at), at, 0.0) for at in range(601)], 600.0)
    assert memory is not None
    assert len(memory["samples"]) <= SAMPLES
    assert memory["samples"][:2] == [[0.0, 0], [6.0, 6]]
