"""What is kept: so many values, so many bytes, so long; the least recently used goes first. Sessions at work stay."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from gradio.state_holder import StateHolder

from kfexplore.ui.cache import LRUCache, Sessions
from kfexplore.ui.clients import CLIENT


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def cache(**changes: Any) -> LRUCache[str, str]:
    return LRUCache(**{"most": 2, "seconds": 10.0, "size": len, "clock": Clock(), **changes})


def kept(values: LRUCache[str, str], names: str) -> str:
    return "".join(name for name in names if values.get(name) is not None)


def test_the_least_recently_used_goes_first() -> None:
    values = cache()
    for name in "ab":
        assert values.put(name, name.upper()) == name.upper()
    assert values.get("a") == "A"
    values.put("c", "C")
    assert kept(values, "abc") == "ac"
    values.put("a", "again")
    assert (values.get("a"), len(values)) == ("again", 2)


def test_bytes_are_bounded_but_the_newest_stays() -> None:
    values = cache(most=9, most_bytes=4)
    for name in "abc":
        values.put(name, 2 * name)
    assert kept(values, "abc") == "bc"
    values.put("d", "ddddddd")
    assert kept(values, "abcd") == "d"


def test_the_owner_of_most_values_loses_one() -> None:
    values = cache(most=4)
    for name in "abcdef":
        values.put(name, name, owner=name if name in "ad" else "crowd")
    assert kept(values, "abcdef") == "adef"


def test_an_unused_value_goes_after_its_time() -> None:
    clock = Clock()
    values = cache(clock=clock)
    for name in "ab":
        values.put(name, name)
    clock.now = 9
    assert values.get("a") == "a"
    clock.now = 11
    assert values.get("other") is None
    assert len(values) == 1
    clock.now = 19
    assert kept(values, "ab") == "a"


def test_what_is_pinned_stays() -> None:
    clock = Clock()
    values = cache(most=1, pinned="a", clock=clock)
    for name in "ab":
        values.put(name, name)
    assert kept(values, "ab") == "ab"  # the newest stays too
    values.put("c", "c")
    clock.now = 99
    assert kept(values, "abc") == "a"


def test_sessions_at_work_stay_and_the_newcomer_is_refused() -> None:
    events, holder = {"1": SimpleNamespace(session_hash="first")}, StateHolder()
    holder.capacity, holder.session_data = 2, Sessions(events)
    holder.blocks = SimpleNamespace(default_config=SimpleNamespace(blocks={}), blocks={})  # type: ignore[assignment]
    for name in ("first", "second", "third"):
        assert holder[name]
    assert list(holder.session_data) == ["first", "third"]  # the least recently used that is idle went
    events["2"] = SimpleNamespace(session_hash="third")
    with pytest.raises(KeyError):
        holder["fourth"]
    assert list(holder.session_data) == ["first", "third"]


def test_one_client_with_many_sessions_drops_its_own() -> None:
    holder = StateHolder()
    holder.capacity, holder.session_data = 5, Sessions({})
    holder.blocks = SimpleNamespace(default_config=SimpleNamespace(blocks={}), blocks={})  # type: ignore[assignment]
    for name, client in (("honest", "9.9.9.9"), ("unknown", None), ("other", None)):
        token = CLIENT.set(client)
        assert holder[name]
        CLIENT.reset(token)
    token = CLIENT.set("8.8.8.8")
    for n in range(20):
        assert holder[f"hostile{n}"]
    CLIENT.reset(token)
    assert list(holder.session_data) == ["honest", "unknown", "other", "hostile18", "hostile19"]
    assert holder["newcomer"]
    assert list(holder.session_data) == ["honest", "unknown", "other", "hostile19", "newcomer"]
