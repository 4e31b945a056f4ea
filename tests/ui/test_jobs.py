"""Turns: in the order of asking, to a bounded number who wait, and who waits may be called off."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from kfexplore.cancel import Cancelled, CancelToken
from kfexplore.ui.jobs import RECENT, Busy, Turns


def asked(
    turns: Turns, name: str, log: list[str], stopped: Callable[[], bool] | None = None, yields: bool = False
) -> threading.Thread:
    """A thread that waits in line when this returns."""

    def wait() -> None:
        try:
            with turns.held(stopped, yields):
                log.append(name)
        except (Busy, Cancelled) as error:
            log.append(f"{name}: {type(error).__name__}")

    before = len(turns._line)
    thread = threading.Thread(target=wait)
    thread.start()
    while len(turns._line) == before and thread.is_alive():
        thread.join(0.001)
    return thread


def joined(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_turns_come_in_the_order_of_asking() -> None:
    turns, log = Turns(), []
    with turns.held():
        threads = [asked(turns, name, log) for name in "abcde"]
        assert log == []
    joined(*threads)
    assert log == list("abcde")


def test_beyond_the_bound_one_is_sent_away_at_once_unless_it_can_be_called_off() -> None:
    turns, log = Turns(1), []
    with turns.held():
        threads = [asked(turns, "a", log)]
        joined(asked(turns, "b", log))
        assert log == ["b: Busy"]
        threads.append(asked(turns, "c", log, stopped=lambda: False))
        assert len(turns._line) == 3
    joined(*threads)
    assert log == ["b: Busy", "a", "c"]
    with turns.held():
        pass


def test_who_waits_is_called_off_and_the_next_moves_up() -> None:
    turns, log, stop = Turns(), [], CancelToken()
    with turns.held():
        first, second = asked(turns, "a", log, stop), asked(turns, "b", log)
        stop.set()
        joined(first)
        assert log == ["a: Cancelled"]
    joined(second)
    assert log == ["a: Cancelled", "b"]
    with pytest.raises(Cancelled), turns.held(stop):
        pass


def test_a_turn_is_given_back_after_an_error() -> None:
    turns = Turns(1)
    with pytest.raises(ZeroDivisionError), turns.held():
        raise ZeroDivisionError
    with turns.held():
        pass


def test_work_ends_when_its_time_is_over_and_is_late_then() -> None:
    now = [0.0]
    stop = CancelToken(10, lambda: now[0])
    now[0] = 100
    assert not stop()  # it has not begun
    stop.begin()
    now[0] = 109
    assert not stop()
    now[0] = 110
    assert stop()
    stop.set()
    assert stop.is_late


def test_work_that_was_called_off_is_never_late() -> None:
    now = [0.0]
    stop = CancelToken(10, lambda: now[0])
    stop.begin()
    stop.set()
    now[0] = 99
    assert stop()
    assert not stop.is_late


def test_who_yields_goes_last_and_keeps_its_place_among_its_like() -> None:
    turns, log = Turns(), []
    with turns.held():
        threads = [asked(turns, name, log, yields=name.islower()) for name in "abABc"]
    joined(*threads)
    assert log == list("ABabc")


def test_a_line_is_remembered_for_a_while() -> None:
    now = [0.0]
    turns, log = Turns(clock=lambda: now[0]), []
    assert turns.longest() == 0
    with turns.held():
        threads = [asked(turns, name, log) for name in "ab"]
        assert turns.longest() == 3
    joined(*threads)
    now[0] = RECENT
    assert turns.longest() == 3
    now[0] = 2 * RECENT + 0.1
    assert turns.longest() == 0
