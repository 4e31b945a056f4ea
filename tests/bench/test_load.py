"""Clients under load: each answer is its own, times are those of the clock, and memory is judged by its medians."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from shell import write_pair

from kfexplore import noise
from kfexplore.bench import load, setting
from kfexplore.bench.load import LoadSettings, bench_load, client_prompts, wrong_answers, wrong_texts
from kfexplore.bench.pressers import Text
from kfexplore.bench.scrubber import RESOLUTION, Answer, Ask, Scrubber
from kfexplore.bench.tally import POINTS, Memory, Tally, spread
from kfexplore.bench.wire import Json, Layout, Lost
from kfexplore.errors import KfError
from kfexplore.figures.payload import packed
from kfexplore.pair import Pair, load_pair
from kfexplore.ui.app import make_service, serve

HEAD = {"bench", "device", "device_name", "dtype", "threads", "load_average", "versions", "pair", "settings", "seconds"}
K = 4
Result = TypeVar("Result")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("load")
    write_pair(made)
    return made


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    return load_pair(folder)


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    service, name = make_service(str(folder))
    demo = serve(service, name, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield demo.local_url
    demo.close()


def apart(function: Callable[..., Result], *given: Any) -> Result:
    """What a function returns in a thread of its own: beside browser tests this one has a loop that runs already."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *given).result()


def test_three_clients_find_every_answer_their_own(
    folder: Path, pair: Pair, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "NEW_TOKENS", 8)
    monkeypatch.setattr(setting, "COPIED", 2**16)  # memory is not what is timed here
    settings = LoadSettings(clients=3, seconds=3, writing=1, timing=1)
    document = json.loads(json.dumps(apart(bench_load, pair, str(folder), settings, url), allow_nan=False))
    assert document["told"] == []
    assert set(document) >= HEAD | {"cores", "rows", "errors", "memory", "restart", "verdicts", "checked"}
    assert document["settings"] == {**dataclasses.asdict(settings), "scrubbing": 1, "url": url}
    rows = {row["what"]: row for row in document["rows"]}
    assert set(rows) == {"move", "move_asked", "point", "tables", "open", "text", "text_first", "race"}
    assert rows["open"]["count"] == 1
    assert rows["move"]["count"] <= 30  # ten a second, but for its pauses
    assert rows["text"]["count"] >= 1
    assert rows["race"]["count"] >= 1
    assert document["checked"]["texts"] == 2 * rows["text"]["count"]
    assert document["verdicts"]["no error"]
    assert document["verdicts"]["memory within 5% over the second half"] is None  # of a server of others


def test_an_app_that_is_not_there_and_one_that_is_not_ours_are_told(pair: Pair, url: str) -> None:
    with pytest.raises(KfError, match="No kfexplore app answers"):
        apart(bench_load, pair, "tales", LoadSettings(3, 1, 0, 0), "http://127.0.0.1:9/")
    with pytest.raises(KfError, match="no pair 'nothing'"):
        apart(bench_load, pair, "nothing", LoadSettings(3, 1, 0, 0), url)
    with pytest.raises(KfError, match="started here"):
        apart(bench_load, pair, "tales", LoadSettings(3, 1, 0, 0, restart=True), url)


@pytest.mark.parametrize("wrong", [{"clients": 5, "writing": 4}, {"seconds": 0}, {"timing": -1}])
def test_settings_without_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(KfError):
        LoadSettings(**wrong)


def test_prompts_differ_between_clients() -> None:
    prompts = client_prompts(150)
    assert len(set(prompts)) == 150
    assert prompts[0] == "Once upon a time there lived"


# ---- a server that answers at once, or not


def answer(function: str, question: Json) -> Json:
    """A good reply to any question."""
    own = {"ok": True, **{name: question[name] for name in ("seq", "u", "pair", "prompt")}}
    k = len(question["u"])
    if function == "point":
        return {**own, "teacher": [1] * k, "student": [2] * k}
    slots = question.get("slots", list(range(k)))
    shape = len(slots), RESOLUTION, k
    table = {model: packed(np.full(shape, n), "<u2") for n, model in ((1, "teacher"), (2, "student"))}
    return {**own, "resolution": RESOLUTION, "every": 1, "k": k, "slots": slots, **table}


async def at_once(function: str, question: Json) -> Json:
    return answer(function, question)


class Hurried(asyncio.SelectorEventLoop):
    """Where nothing is to be done until some time, it is that time."""

    def __init__(self) -> None:
        super().__init__()
        self._now, select = 0.0, self._selector.select

        def skipping(timeout: float | None) -> list[object]:
            self._now += timeout or 0.0
            return select(0)

        self._selector.select = skipping

    def time(self) -> float:
        return self._now


def scrubbed(ask: Ask, seconds: float = 10.0, clients: int = 1) -> Tally:
    """What some scrubbers saw of a server."""

    def run() -> Tally:
        with asyncio.Runner(loop_factory=Hurried) as runner:
            tally = Tally(runner.get_loop().time)
            made = [Scrubber(f"{n}", tally, "p", "a", K, noise.generator(0, n), 20) for n in range(clients)]

            async def all_of_them() -> None:
                await asyncio.gather(*(client.scrub(ask, seconds) for client in made))

            runner.run(all_of_them())
        return tally

    return apart(run)


def test_moves_that_the_tables_hold_cost_nothing() -> None:
    tally = scrubbed(at_once)
    assert (tally.errors, len(tally.times["open"])) == (0, 1)
    assert 40 <= len(tally.times["move"]) <= 90  # ten a second, but for its pauses
    assert set(tally.times["move"]) == {0.0}
    assert len(tally.times["tables"]) >= 3  # its prompt, and rows
    assert len(tally.times["point"]) < len(tally.times["tables"])  # the first move of a drag, at most


def test_where_tables_do_not_come_points_are_asked_and_the_latest_wins() -> None:
    asked = []

    async def slowly(function: str, question: Json) -> Json:
        if function == "point":
            asked.append(question["seq"])
        await asyncio.sleep(0.25 if function == "point" else 20 if question["seq"] else 0)
        return answer(function, question)

    tally = scrubbed(slowly)
    assert tally.errors == 0
    assert asked == sorted(set(asked))
    waited = tally.times["move_asked"]
    assert len(tally.times["point"]) == len(asked) < len(waited)  # some were overtaken
    assert 0.25 <= max(waited) <= 0.5  # the one in flight, and its own
    assert len(tally.times["move"]) == sum(seconds == 0 for seconds in tally.times["move"]) + len(waited)


def test_a_busy_server_is_asked_again() -> None:
    said: list[str] = []

    async def busy_twice(function: str, question: Json) -> Json:
        said.append(function)
        return {"ok": False, "busy": True, "seq": question["seq"]} if len(said) < 3 else answer(function, question)

    tally = scrubbed(busy_twice)
    assert (tally.errors, tally.counts["tables", "busy"]) == (0, 2)
    assert 0.125 + 0.25 <= tally.times["open"][0] <= 0.375 + 0.75  # two pauses, the second twice the first


def test_swapped_replies_are_errors() -> None:
    waiting: list[tuple[Json, asyncio.Future[Json]]] = []

    async def swapped(function: str, question: Json) -> Json:
        """Each of two clients gets what the other asked for."""
        mine: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        waiting.append((answer(function, question), mine))
        if len(waiting) == 2:
            (first, one), (second, other) = waiting
            waiting.clear()
            one.set_result(second)
            other.set_result(first)
        return await mine

    tally = scrubbed(swapped, seconds=1.0, clients=2)
    assert tally.errors >= 2
    assert all("not its own answer: u is" in told for told in tally.told)
    assert not tally.times["tables"]


@pytest.mark.parametrize(("is_down", "how"), [(False, "error"), (True, "lost")])
def test_what_is_lost_is_an_error_but_while_the_server_is_known_to_be_down(is_down: bool, how: str) -> None:
    tally = Tally(is_down=is_down)
    tally.lost("point", "refused")
    assert tally.row("point", 1)[how] == 1
    assert tally.told == ([] if is_down else ["point: refused"])


def test_where_no_answer_comes_a_page_goes_back_and_asks_at_the_next_move() -> None:
    since = []

    async def cut(function: str, question: Json) -> Json:
        if question["seq"] and len(since) < 8:
            since.append(function)
            raise Lost("cut")
        return answer(function, question)

    tally = scrubbed(cut, seconds=30)
    assert tally.told.count("move: no tokens came") == since.count("point") > 0
    assert since.count("tables") == 8 - since.count("point")
    assert len(tally.times["tables"]) > 3


def test_after_a_failure_the_noise_is_that_of_the_tokens_on_the_page() -> None:
    asked: list[list[float]] = []

    async def never(_: str, question: Json) -> Json:
        asked.append(question["u"])
        if question["seq"]:
            raise Lost("cut")
        return answer("tables", question)

    scrubbed(never, seconds=30)
    whole = [u for u in asked if len(u) == K]  # those of a track are of the slots up to it
    moved = [sum(u != first for u, first in zip(each, asked[0], strict=True)) for each in whole]
    assert set(moved) == {0, 1, 2}  # the one that the tables know, and the one whose tokens never came


def test_kept_answers_are_held_against_the_exact_ones(pair: Pair) -> None:
    u = [0.1, 0.9, 0.4, 0.6]
    block = pair.block([pair.encode("The owl")[0]], [u])
    right = Answer("The owl", u, block.teacher[0].tolist(), block.student[0].tolist())
    other = dataclasses.replace(right, student=[token + 1 for token in right.student])
    assert wrong_answers(pair, [right, right]) == []
    (told,) = wrong_answers(pair, [right, other])
    assert "after 'The owl' at [0.1" in told


def test_texts_are_held_against_what_the_seed_gives_alone(pair: Pair) -> None:
    (told,) = wrong_texts(pair, [Text("The owl", "pflm", 3, 8, [])])
    tokens = json.loads(told.rpartition("it is ")[2])
    assert 0 < len(tokens) <= 8
    assert wrong_texts(pair, [Text("The owl", "pflm", 3, 8, tokens)]) == []
    assert len(wrong_texts(pair, [Text("The owl", "pflm", 4, 8, tokens)])) == 1


def test_a_button_sets_off_its_steps_but_no_script_and_no_refusal() -> None:
    step = {"targets": [], "trigger_after": None, "trigger_only_on_failure": False, "backend_fn": True}
    events = [
        {**step, "id": 1, "targets": [[7, "click"]]},
        {**step, "id": 2, "trigger_after": 1},
        {**step, "id": 3, "trigger_after": 2, "trigger_only_on_failure": True},
        {**step, "id": 4, "trigger_after": 2, "backend_fn": False},
        {**step, "id": 5, "targets": [[8, "click"]]},
    ]
    assert [each["id"] for each in Layout({"go": 7}, {}, events).clicked("go")] == [1, 2]


# ---- arithmetic


def test_percentiles_of_known_times() -> None:
    assert spread([n / 1000 for n in range(101)]) == {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "worst_ms": 100}
    assert spread([]) == {"p50_ms": None, "p95_ms": None, "p99_ms": None, "worst_ms": None}


@pytest.mark.parametrize(
    ("last", "growth", "flat"), [(104, 0.04, True), (106, 0.06, False), (94, -0.06, False), (None, None, None)]
)
def test_memory_is_flat_by_its_last_two_quarters(last: int | None, growth: float | None, flat: bool | None) -> None:
    first = [(float(at), 50 + at) for at in range(50)]  # it may grow until half time
    third = [(50.0 + at, 100) for at in range(25)]
    fourth = [] if last is None else [(75.0 + at, last) for at in range(24)]
    memory = Memory([*first, *third, (60.5, 900), *fourth], 100.0)  # a lone peak is no growth
    assert memory.growth == (None if growth is None else pytest.approx(growth))
    assert memory.is_flat is flat


def test_samples_of_memory_are_thinned() -> None:
    samples = [(float(at), at) for at in range(601)]
    kept = Memory(samples, 600.0).as_json()["samples"]
    assert len(kept) <= POINTS
    assert kept[:2] == [[0.0, 0], [6.0, 6]]
