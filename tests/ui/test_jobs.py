"""Turns by priority and time of asking, and the one lifecycle of a job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import torch

from kfexplore.cancel import Cancelled, CancelToken
from kfexplore.errors import KfError
from kfexplore.pair import Pair
from kfexplore.ui import jobs
from kfexplore.ui.jobs import RECENT, Busy, Job, Priority, Worker, few_threads


def asked(
    worker: Worker,
    name: str,
    log: list[str],
    cancel: Callable[[], bool] | None = None,
    priority: Priority = Priority.INTERACTIVE,
) -> threading.Thread:
    """A thread that waits for its turn when this returns."""

    def wait() -> None:
        try:
            with worker.turn(priority, cancel):
                log.append(name)
        except (Busy, Cancelled) as error:
            log.append(f"{name}: {type(error).__name__}")

    before = len(worker._queue)
    thread = threading.Thread(target=wait)
    thread.start()
    while len(worker._queue) == before and thread.is_alive():
        thread.join(0.001)
    return thread


def joined(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize(("asking", "served"), [("abcde", "abcde"), ("ABabA", "abABA")])
def test_turns_come_by_priority_and_time_of_asking(asking: str, served: str) -> None:
    worker, log = Worker(), []
    with worker.turn():
        threads = [asked(worker, name, log, priority=Priority(name.isupper())) for name in asking]
        assert log == []
    joined(*threads)
    assert log == list(served)


def test_all_steps_of_one_text_count_as_one_client() -> None:
    worker, log, text, other = Worker(), [], CancelToken(), CancelToken()
    with worker.turn():
        threads = [asked(worker, name, log, cancel) for name, cancel in (("a", text), ("a", text), ("b", other))]
    joined(*threads)
    assert log == ["a", "b", "a"]


def test_a_full_queue_refuses_all_but_what_can_be_cancelled() -> None:
    worker, log = Worker(1), []
    with worker.turn():
        threads = [asked(worker, "a", log)]
        joined(asked(worker, "b", log))
        assert log == ["b: Busy"]
        threads.append(asked(worker, "c", log, cancel=lambda: False))
    joined(*threads)
    assert log == ["b: Busy", "a", "c"]
    with worker.turn():
        pass


def test_what_waits_is_cancelled_and_the_next_moves_up() -> None:
    worker, log, cancel = Worker(), [], CancelToken()
    with worker.turn():
        first, second = asked(worker, "a", log, cancel), asked(worker, "b", log)
        cancel.set()
        joined(first)
        assert log == ["a: Cancelled"]
    joined(second)
    assert log == ["a: Cancelled", "b"]
    with pytest.raises(Cancelled), worker.turn(cancel=cancel):
        pass


def test_a_turn_ends_with_an_error() -> None:
    worker = Worker(1)
    with pytest.raises(ZeroDivisionError), worker.turn():
        raise ZeroDivisionError
    with worker.turn():
        pass


def test_the_length_of_a_queue_is_remembered_for_a_while() -> None:
    now = [0.0]
    worker, log = Worker(clock=lambda: now[0]), []
    with worker.turn(cancel=CancelToken()):
        assert worker.recent_length() == 0
    with worker.turn():
        threads = [asked(worker, "a", log), asked(worker, "b", log, priority=Priority.BACKGROUND)]
        threads.append(asked(worker, "c", log, CancelToken(), Priority.BACKGROUND))  # a job, which does not count
        assert worker.recent_length() == 3
    joined(*threads)
    now[0] = RECENT
    assert worker.recent_length() == 3
    now[0] = 2 * RECENT + 0.1
    assert worker.recent_length() == 0


def counting(cancel: CancelToken) -> Iterator[int]:
    """Snapshots 1, 2, 3."""
    cancel.begin()
    for n in (1, 2, 3):
        if cancel():
            raise Cancelled
        yield n


def test_a_job_runs_once_and_keeps_its_last_snapshot() -> None:
    job = Job(counting, CancelToken(), first=0)
    assert (job.state, job.snapshot, job.is_waiting, job.is_over) == ("waiting", 0, True, False)
    seen = []
    for n in job.run():
        seen.append(n)
        assert (job.state, job.snapshot) == ("running", n)
    assert seen == [1, 2, 3]
    assert (job.state, job.snapshot, job.is_over) == ("done", 3, True)
    job.stop()
    assert job.state == "done"
    assert list(job.run()) == []


@pytest.mark.parametrize("end", ["stop", "close"])
def test_a_job_that_is_cancelled_keeps_what_it_has_and_ends_its_stream(end: str) -> None:
    closed = []

    def stream(cancel: CancelToken) -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(cancel())

    job = Job(stream, CancelToken())
    running = job.run()
    assert next(running) == 1
    if end == "stop":
        job.stop()
        assert list(running) == []  # the step under way is thrown away
    else:
        running.close()
    assert (job.state, job.snapshot, closed) == ("cancelled", 1, [True])


def test_a_job_that_is_cancelled_before_it_runs_never_runs() -> None:
    job = Job(counting, CancelToken())
    job.stop()
    assert list(job.run()) == []
    assert (job.state, job.snapshot) == ("cancelled", None)


def test_a_job_whose_time_is_over_is_late() -> None:
    now = [0.0]
    job = Job(counting, CancelToken(10, lambda: now[0]))
    now[0] = 100.0  # it has not begun
    running = job.run()
    assert [next(running), next(running)] == [1, 2]
    now[0] = 110.0
    assert list(running) == []
    assert (job.state, job.snapshot) == ("late", 2)


def test_a_job_that_fails_says_so_and_raises() -> None:
    def stream(_: CancelToken) -> Iterator[int]:
        yield 1
        raise KfError("No.", "yes")

    job = Job(stream, CancelToken())
    with pytest.raises(KfError, match="No"):
        list(job.run())
    assert (job.state, job.snapshot) == ("failed", 1)


def test_a_cancelled_token_is_never_late() -> None:
    now = [0.0]
    token = CancelToken(10, lambda: now[0])
    token.begin()
    token.set()
    now[0] = 99
    assert token()
    assert not token.is_late


@pytest.mark.parametrize(("small", "within"), [(10**12, 1), (0, 2)])
def test_small_models_work_on_one_thread(pair: Pair, monkeypatch: pytest.MonkeyPatch, small: int, within: int) -> None:
    monkeypatch.setattr(jobs, "SMALL", small)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with suppress(ZeroDivisionError), few_threads(pair):
            assert torch.get_num_threads() == within
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
