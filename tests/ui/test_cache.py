"""What is kept: so many, so many bytes, so long; the least recently used goes first."""

from __future__ import annotations

from typing import Any

from kfexplore.ui.cache import LRUCache


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def kept(gone: list[str] | None = None, **changes: Any) -> LRUCache[str, str]:
    told = gone.append if gone is not None else lambda _: None
    return LRUCache(**{"most": 2, "seconds": 10.0, "size": len, "dropped": told, "clock": Clock(), **changes})


def test_the_least_recently_used_goes_first() -> None:
    gone: list[str] = []
    held = kept(gone)
    held.put("a", "A")
    held.put("b", "B")
    assert held.get("a") == "A"
    held.put("c", "C")
    assert (held.get("b"), held.get("a"), held.get("c"), gone) == (None, "A", "C", ["B"])


def test_bytes_are_bounded_but_the_newest_stays() -> None:
    gone: list[str] = []
    held = kept(gone, most=9, most_bytes=4)
    for key in ("aa", "bb", "cc"):
        held.put(key, key)
    assert gone == ["aa"]
    held.put("d", "ddddddd")
    assert (gone, len(held)) == (["aa", "bb", "cc"], 1)


def test_what_nobody_uses_goes_after_its_time() -> None:
    gone: list[str] = []
    clock = Clock()
    held = kept(gone, clock=clock)
    held.put("a", "A")
    held.put("b", "B")
    clock.now = 9
    assert held.get("a") == "A"
    clock.now = 11
    assert held.get("other") is None  # whoever asks, for whatever
    assert gone == ["B"]
    clock.now = 19
    assert held.get("a") == "A"


def test_what_is_pinned_stays() -> None:
    gone: list[str] = []
    clock = Clock()
    held = kept(gone, most=1, pinned="a", clock=clock)
    held.put("a", "A")
    held.put("b", "B")
    assert (held.get("a"), held.get("b"), gone) == ("A", "B", [])  # the newest stays too
    held.put("c", "C")
    clock.now = 99
    assert (held.get("a"), held.get("c"), gone) == ("A", None, ["B", "C"])


def test_what_is_replaced_or_let_go_is_told() -> None:
    gone: list[str] = []
    held = kept(gone)
    held.put("a", "A")
    held.put("a", "B")
    held.pop("a")
    held.pop("a")
    assert (gone, len(held)) == (["A", "B"], 0)
