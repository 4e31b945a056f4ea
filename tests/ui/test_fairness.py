"""Many ask and few are answered: who gets a turn, who is refused, and what ends because nobody waits for it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from anyio import create_task_group, to_thread
from anyio.from_thread import BlockingPortal
from gradio.data_classes import PredictBodyInternal

from kfexplore.cancel import Cancelled
from kfexplore.pair import Pair
from kfexplore.results import ContextStudy
from kfexplore.ui import clients, queueing, server
from kfexplore.ui.app import serve
from kfexplore.ui.clients import CLIENT, CREDIT, FairShares, Places, client_of
from kfexplore.ui.jobs import BACKGROUND_SHARE, EXPECTED, LEAD, Busy, Priority, Worker
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.protocol import Question
from kfexplore.ui.queueing import FOLLOWED, FULL, FairQueue, client_here
from kfexplore.ui.service import Service, local_service

HOSTILE, HONEST = "8.8.8.8", "9.9.9.9"
PLACES = 3


@pytest.mark.parametrize(
    ("host", "session", "client"),
    [
        (HOSTILE, "a", HOSTILE),
        ("2a00:1450:1:2::5", "a", "2a00:1450:1:2::/64"),
        ("2a00:1450:1:2:ffff::", "b", "2a00:1450:1:2::/64"),
        ("10.0.0.1", "a", "a"),
        ("127.0.0.1", "a", "a"),
        ("testclient", "a", "a"),
        (None, None, None),
        ("127.0.0.1", ["a"], None),
    ],
)
def test_a_client_is_an_address_where_that_tells_visitors_apart(host: str, session: object, client: object) -> None:
    assert client_of(host, session) == client


def asked(worker: Worker, client: str | None, log: list[str], priority: Priority = Priority.INTERACTIVE) -> Any:
    """A thread that waits for its turn when this returns."""

    def wait() -> None:
        CLIENT.set(client)
        try:
            with worker.turn(priority):
                log.append(f"{client}")
        except Busy:
            log.append(f"{client} refused")

    before = len(worker._queue)
    thread = threading.Thread(target=wait)
    thread.start()
    deadline = time.monotonic() + 30
    while len(worker._queue) == before and thread.is_alive() and time.monotonic() < deadline:
        thread.join(0.01)
        if any("refused" in line for line in log):
            break
    return thread


def test_clients_have_equal_shares_of_the_time() -> None:
    now, shares, served = 0.0, FairShares(), dict.fromkeys("abc", 0.0)
    costs = {"a": 0.2, "b": 0.02, "c": 0.1}
    waiting = {client: shares.tag(client, EXPECTED) for client in costs}
    while now < 30:
        client = min(waiting, key=lambda each: (waiting[each], each))
        shares.begin(waiting.pop(client), is_last=False)
        now += costs[client]
        served[client] += costs[client]
        shares.correct(client, costs[client] - EXPECTED)
        waiting[client] = shares.tag(client, EXPECTED)
    assert list(served.values()) == pytest.approx([10, 10, 10], abs=0.4)
    assert shares.tag("new", EXPECTED) == pytest.approx(min(waiting.values()) - CREDIT, abs=0.3)


def test_what_a_client_has_had_is_forgotten_once_nobody_waits() -> None:
    shares = FairShares()
    shares.begin(shares.tag("a", EXPECTED), is_last=False)
    shares.correct("a", 9.0)
    assert shares.tag("a", EXPECTED) == pytest.approx(shares.earliest + 9.0 + EXPECTED)
    shares.begin(shares.tag("b", EXPECTED), is_last=True)
    assert shares.tag("a", EXPECTED) == shares.earliest


def test_the_use_of_any_number_of_sessions_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "MOST_KNOWN", 100)
    shares = FairShares()
    for session in range(1_000):
        shares.begin(shares.tag(session, EXPECTED), is_last=False)
    assert len(shares._next) <= 101


def timed() -> tuple[Worker, list[float]]:
    """A worker whose clock the second value sets."""
    now = [0.0]
    return Worker(clock=lambda: now[0]), now


def test_turns_of_several_clients_alternate() -> None:
    worker, log = Worker(), []
    with worker.turn():
        threads = [asked(worker, client, log) for client in "aaaabc"]
    for thread in threads:
        thread.join(30)
    assert "".join(log) == "abcaaa"


def test_who_has_had_long_turns_waits_for_the_others() -> None:
    worker, now = timed()
    log: list[str] = []
    begun, over = threading.Event(), threading.Event()

    def hold() -> None:
        with worker.turn():
            begun.set()
            over.wait(30)

    def long() -> None:
        CLIENT.set("long")
        with worker.turn():
            now[0] += 1.0
            threads[0].start()
            while not worker._queue:
                time.sleep(0.001)
            threads.append(asked(worker, "a", log))  # somebody always waits

    threads = [threading.Thread(target=hold)]
    first = threading.Thread(target=long)
    first.start()
    first.join(30)
    assert begun.wait(30)
    threads += [asked(worker, client, log) for client in ("long", "b", "b", "c")]
    over.set()
    for thread in threads:
        thread.join(30)
    assert log == ["a", "b", "c", "b", "long"]


def test_in_a_full_queue_who_is_furthest_ahead_of_its_share_is_refused() -> None:
    worker, log = Worker(3), []
    with worker.turn():
        threads = [asked(worker, client, log) for client in "aaab"]
        assert log == ["a refused"]
        threads.append(asked(worker, "c", log))
        assert log == ["a refused", "a refused"]
        threads.append(asked(worker, "d", log))
        assert log[2:] == ["d refused"]
    for thread in threads:
        thread.join(30)
    assert log[3:] == ["a", "b", "c"]


def test_the_background_keeps_a_share_of_the_time() -> None:
    worker, now = timed()
    spent = {Priority.INTERACTIVE: 0.0, Priority.BACKGROUND: 0.0}
    over = threading.Event()

    def work(client: str, priority: Priority, seconds: float) -> None:
        CLIENT.set(client)
        while not over.is_set():
            with worker.turn(priority):
                now[0] += seconds
                spent[priority] += seconds
                while len(worker._queue) < 3 and not over.is_set():  # all others wait again
                    time.sleep(0.0005)
                if now[0] > 60:
                    over.set()

    given = [("a", Priority.INTERACTIVE, 0.03), ("b", Priority.INTERACTIVE, 0.2)]
    given += [("c", Priority.BACKGROUND, 0.01), ("d", Priority.BACKGROUND, 0.3)]
    threads = [threading.Thread(target=work, args=each) for each in given]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert spent[Priority.BACKGROUND] / sum(spent.values()) == pytest.approx(BACKGROUND_SHARE, abs=0.03)


def test_moves_go_before_the_background_at_first() -> None:
    worker, now = timed()
    log: list[str] = []
    with worker.turn():
        threads = [asked(worker, "a", log, Priority.BACKGROUND), *(asked(worker, client, log) for client in "bcd")]
        now[0] += LEAD
    for thread in threads:
        thread.join(30)
    assert log == ["b", "c", "d", "a"]


def test_unknown_clients_each_get_a_place_of_the_background() -> None:
    worker, log = Worker(3), []
    with worker.turn():
        threads = [asked(worker, client, log, Priority.BACKGROUND) for client in "abc"]
        threads.append(asked(worker, None, log))
        assert log == ["c refused"]
        threads.append(asked(worker, None, log))
    for thread in threads:
        thread.join(30)
    assert log == ["c refused", "b refused", "None", "None", "a"]


def test_a_client_gets_one_place_of_the_background_for_what_its_user_waits_for() -> None:
    worker, log = Worker(3), []
    with worker.turn():
        threads = [asked(worker, client, log, Priority.BACKGROUND) for client in "abc"]
        threads.append(asked(worker, "d", log))
        assert log == ["c refused"]
        threads.append(asked(worker, "d", log))
        assert log[1:] == ["d refused"]
    for thread in threads:
        thread.join(30)
    assert log[2:] == ["d", "a", "b"]


def test_a_refused_request_keeps_its_place_for_a_while(portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "REFUSED_SECONDS", 0.3)

    def refuse() -> None:
        worker = Worker(0)
        with worker.turn(), pytest.raises(Busy), worker.turn():
            pass

    async def both() -> list[float]:
        places, waits = Places(1), []

        async def one(refused: bool) -> None:
            async with places.place("a"):
                waits.append(time.monotonic() - started)
                if refused:
                    await to_thread.run_sync(refuse)

        started = time.monotonic()
        async with create_task_group() as group:
            for refused in (True, False, False):
                group.start_soon(one, refused)
        return waits

    first, second, third = portal.call(both)
    assert first < 0.25
    assert 0.3 <= second <= third < second + 0.25


@pytest.mark.parametrize(("work", "fewest"), [("tables", 2), ("study", 20)])
def test_others_get_their_turn_within_long_work(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, work: str, fewest: int
) -> None:
    local = local_service({"small": lambda: pair}).local
    turn, turns = local.work.turn, []

    def counted(*given: Any) -> Any:
        turns.append(given)
        return turn(*given)

    monkeypatch.setattr(local.work, "turn", counted)
    if work == "tables":
        local.tables("small", Question("small", "a b", None, None, None, 32, False, 1.0, False))
    else:
        *_, found = local.run("study", "small", pair.encode("a b")[0], 2, 256, 0, 1.0, local.token())
        assert isinstance(found, ContextStudy)
    assert len(turns) >= fewest


# Over the wire.


@pytest.fixture(scope="module")
def service(pair: Pair) -> Service:
    return local_service({"small": lambda: pair}, ServerLimits(queue=PLACES, questions=6))


@pytest.fixture(scope="module")
def demo(service: Service) -> Iterator[gr.Blocks]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    served = serve(service, "small", server_port=port, prevent_thread_lock=True, quiet=True)
    yield served
    served.close()


class Stranger:
    """Requests from an address, as a proxy on this machine reports it."""

    def __init__(self, demo: gr.Blocks, address: str) -> None:
        self.demo = demo
        self.http = httpx.Client(
            base_url=f"{demo.local_url}gradio_api/", headers={"X-Forwarded-For": address}, timeout=60
        )

    def call(self, name: str = "generate", session: str | None = None, prompt: str = "a b") -> httpx.Response:
        data = [prompt, "ar", None, 5, 0, None, 1] if name == "generate" else [prompt, 2, 256, 0, None, 1]
        number = next(n for n, fn in self.demo.fns.items() if fn.api_name == name)
        if session is None:
            return self.http.post(f"call/{name}", json={"data": data})
        return self.http.post("queue/join", json={"fn_index": number, "data": data, "session_hash": session})

    def answer(self, event: str, name: str = "generate") -> str:
        """The last event of the stream of a call."""
        text = self.http.get(f"call/{name}/{event}").text
        return text.strip().split("\n\n")[-1]

    def tables(self, session: str, **more: Any) -> dict[str, Any]:
        scrub = next(n for n, block in self.demo.blocks.items() if getattr(block, "elem_id", None) == "scrub")
        data = {"seq": 1, "pair": "small", "prompt": "a b", **more}
        question = {"data": data, "fn_name": "tables", "component_id": scrub, "session_hash": session}
        return self.http.post("component_server", json=question).json()


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def running(demo: gr.Blocks) -> int:
    return sum(event is not None for event in demo._queue.active_jobs)


@pytest.fixture
def held(demo: gr.Blocks, service: Service) -> Iterator[gr.Blocks]:
    """A page on which a text that runs does not get its turn."""
    with service.local.work.turn():
        yield demo
    wait_until(lambda: not running(demo) and not len(demo._queue), "work is left")


def test_a_session_waits_once_in_each_queue_and_an_address_does_not_fill_it(held: gr.Blocks) -> None:
    hostile, honest = Stranger(held, HOSTILE), Stranger(held, HONEST)
    first = hostile.call(session="one")
    assert first.status_code == 200
    wait_until(lambda: running(held) == 1, "it runs")
    assert hostile.call(session="one").status_code == 200
    again = hostile.call(session="one")
    assert (again.status_code, again.json()["detail"]) == (503, FOLLOWED)
    crowd = [hostile.call() for _ in range(PLACES)]
    assert [answer.status_code for answer in crowd] == [200] * (PLACES - 1) + [503]
    assert crowd[-1].json()["detail"] == FULL
    assert hostile.call("laws").status_code == 200  # a queue of its own

    taken = honest.call()
    assert taken.status_code == 200
    lost = crowd[-2].json()["event_id"]
    assert FULL in hostile.answer(lost)
    waiting = held._queue.event_queue_per_concurrency_id["generate"].queue
    assert [event._id for event in waiting].index(taken.json()["event_id"]) <= 1


def test_of_the_page_the_newer_of_two_that_wait_takes_the_place_of_the_older(held: gr.Blocks) -> None:
    stranger = Stranger(held, HONEST)
    run = next(n for n, fn in held.fns.items() if fn.concurrency_id == "generate" and fn.api_visibility == "private")
    assert stranger.call().status_code == 200
    wait_until(lambda: running(held) == 1, "it runs")
    bodies = [{"fn_index": run, "data": [None], "session_hash": session} for session in ("page", "other", "page")]
    older, between, newer = (stranger.http.post("queue/join", json=body).json()["event_id"] for body in bodies)
    waiting = held._queue.event_queue_per_concurrency_id["generate"].queue
    assert [event._id for event in waiting] == [newer, between]
    done = [message for message in held._queue.pending_messages_per_session["page"]._queue if "output" in dir(message)]
    assert [(message.event_id, message.success) for message in done] == [(older, True)]


@pytest.fixture
def queue() -> Any:
    """Of a page with two kinds of work, on which nothing begins by itself."""
    with gr.Blocks() as page:
        text, button = gr.Textbox(), gr.Button()
        for name in ("one", "other"):
            button.click(str, text, text, concurrency_id=name, api_visibility="private")
    return page._queue


async def join(fair: FairQueue, session: str, number: int = 0) -> tuple[bool, Any, str]:
    body = PredictBodyInternal(fn_index=number, data=[""], session_hash=session, request=None)
    return await fair.push(body, SimpleNamespace(client=SimpleNamespace(host=HOSTILE)), None)


@pytest.mark.parametrize("bound", ["MOST_SESSIONS", "MOST_OF_CLIENT"])
def test_a_session_that_is_counted_already_is_not_refused_as_one_too_many(
    queue: Any, portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(queueing, bound, 1)

    async def asks() -> list[bool]:
        fair = FairQueue(queue, PLACES)
        return [(await join(fair, *asked))[0] for asked in (("a", 0), ("a", 1), ("b", 0))]

    assert portal.call(asks) == [True, True, False]


def test_what_begins_while_a_newer_one_comes_is_not_answered_as_done(queue: Any, portal: BlockingPortal) -> None:
    async def asks() -> None:
        fair = FairQueue(queue, PLACES)
        _, older, _ = await join(fair, "a")
        async with queue.delete_lock:  # as Gradio does
            newer = asyncio.create_task(join(fair, "a"))
            await asyncio.sleep(0.01)
            events, _, _ = queue.get_events()
            queue.active_jobs = [events]
        assert (await newer)[0]
        assert older in queue.event_ids_to_events
        assert not [each for each in queue.pending_messages_per_session["a"]._queue if hasattr(each, "output")]

    portal.call(asks)


def test_what_waits_is_kept_where_gradio_refuses_the_newer_one(queue: Any, portal: BlockingPortal) -> None:
    async def asks() -> None:
        fair = FairQueue(queue, PLACES)
        _, older, _ = await join(fair, "a")
        queue.max_size = 1
        assert not (await join(fair, "a"))[0]
        assert [event._id for event in queue.event_queue_per_concurrency_id["one"].queue] == [older]
        assert not [each for each in queue.pending_messages_per_session["a"]._queue if hasattr(each, "output")]

    portal.call(asks)


@pytest.mark.parametrize("name", ["generate", "laws"])
def test_work_whose_answer_nobody_reads_ends_and_its_messages_go(
    demo: gr.Blocks,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.setattr(queueing, "UNREAD_SECONDS", 0.2)
    begun, ended = threading.Event(), threading.Event()

    def endless(*given: Any) -> Iterator[tuple[float, str]]:
        try:
            while not given[-1]():
                begun.set()
                time.sleep(0.01)
                yield 0.1, "more"
            raise Cancelled
        finally:
            ended.set()

    monkeypatch.setattr(service.local, "texts" if name == "generate" else "study", endless)
    session = Stranger(demo, HONEST).call(name, prompt="c d").json()["event_id"]
    assert begun.wait(30)
    assert ended.wait(30)
    wait_until(lambda: session not in demo._queue.pending_messages_per_session, "its messages are left")
    assert session not in demo._queue.pending_event_ids_session
    wait_until(lambda: not running(demo), "it still runs")
    assert "failed" not in capfd.readouterr().err


def test_the_client_of_a_text_is_known_while_it_runs(
    demo: gr.Blocks, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients_seen: list[Any] = []

    def texts(*_: Any) -> Iterator[None]:
        clients_seen.append(client_here())
        yield from ()

    monkeypatch.setattr(service.local, "texts", texts)
    stranger = Stranger(demo, HONEST)
    stranger.answer(stranger.call().json()["event_id"])
    assert clients_seen == [HONEST]


def test_a_session_that_has_read_everything_leaves_nothing(demo: gr.Blocks) -> None:
    stranger = Stranger(demo, HONEST)
    event = stranger.call().json()["event_id"]
    assert stranger.answer(event).startswith("event: complete")
    wait_until(lambda: event not in demo._queue.pending_messages_per_session, "its messages are left")
    assert event not in demo._queue.pending_event_ids_session


def test_many_connections_that_ask_for_sweeps_do_not_starve_a_slider(demo: gr.Blocks) -> None:
    over = threading.Event()

    def flood(number: int) -> int:
        stranger, count = Stranger(demo, HOSTILE), 0
        while not over.is_set():
            stranger.tables(f"session {number}")
            count += 1
        return count

    with ThreadPoolExecutor(12) as pool:  # twice as many as there are places
        floods = [pool.submit(flood, number) for number in range(12)]
        honest = Stranger(demo, HONEST)
        replies = [honest.tables("honest", u=[n / 5] * 2) for n in range(5)]
        over.set()
        assert sum(each.result() for each in floods) > 0
    assert [reply["ok"] for reply in replies] == [True] * 5


def test_a_connection_without_a_request_is_closed(demo: gr.Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SILENT_SECONDS", 0.2)
    where = (demo.server_name, demo.server_port)
    for begun in (b"", b"GET / HTTP/1.1\r\nHost: a\r\nX"):
        with socket.create_connection(where, timeout=30) as connection:
            connection.sendall(begun)
            assert connection.recv(1) == b""


def test_a_request_that_fails_in_the_queue_is_one_line_in_the_log(
    demo: gr.Blocks, capfd: pytest.CaptureFixture[str]
) -> None:
    stranger = Stranger(demo, HONEST)
    event = stranger.http.post("call/generate", json={"data": [{}, [], "x", {}, [], {}, "y"]}).json()["event_id"]
    stranger.answer(event)
    fit = next(n for n, fn in demo.fns.items() if fn.api_name == "fit")
    body: dict[str, Any] = {"fn_index": fit, "data": ["nothing", {"a": 1}, "x", []], "session_hash": "a"}
    assert stranger.http.post("run/predict", json=body).status_code == 500
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert "failed" in told
    assert len(told.splitlines()) <= 2
