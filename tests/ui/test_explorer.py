"""What the page is told: the same answers as the package's own, and errors as data."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any

import numpy as np
import pytest

from kfexplore import KfError, Pair, load_pair
from kfexplore.checkpoints.registry import bundled_folder
from kfexplore.maps import grid, sweep
from kfexplore.results import steps
from kfexplore.ui.app import FIRST_SCREEN, fresh_first_payload
from kfexplore.ui.explorer import Explorer

PROMPT = "The little bird sang"
U = [0.2, 0.9, 0.4, 0.6]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair("tales")


@pytest.fixture(scope="module")
def explorer(pair: Pair) -> Explorer:
    return Explorer({"tales": lambda: pair})


def asked(**more: Any) -> Json:
    return {"seq": 7, "pair": "tales", "prompt": PROMPT, "u": U, "resolution": 32, **more}


def unpacked(text: str, dtype: str, *shape: int) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text), dtype=dtype).reshape(shape)


def test_tables_are_the_sweeps_of_every_slot(explorer: Explorer, pair: Pair) -> None:
    reply = explorer.tables(asked())
    context = pair.hold(pair.encode(PROMPT)[0])
    teacher, student = (unpacked(reply[name], "<u2", 4, 32, 4) for name in ("teacher", "student"))
    for slot in range(4):
        block = sweep(context, np.array(U), slot, 32).block
        assert (teacher[slot] == block.teacher).all()
        assert (student[slot] == block.student).all()
    assert unpacked(reply["margin"], "<f4", 4, 32, 4).min() >= 0
    assert (reply["seq"], reply["k"], reply["u"], reply["resolution"]) == (7, 4, U, 32)


def test_a_table_holds_the_answer_at_the_middle_of_each_step(explorer: Explorer) -> None:
    teacher = unpacked(explorer.tables(asked())["teacher"], "<u2", 4, 32, 4)
    point = explorer.point(asked(u=[U[0], steps(32)[5], *U[2:]]))
    assert point["teacher"] == teacher[1, 5].tolist()


def test_every_token_that_is_told_has_a_text(explorer: Explorer) -> None:
    reply = explorer.tables(asked())
    told = {int(i) for name in ("teacher", "student") for i in unpacked(reply[name], "<u2", 4 * 32 * 4)}
    assert told <= {int(i) for i in reply["texts"]}
    assert "".join(text for _, text in reply["prompt_tokens"]) == PROMPT


def test_grid_axes_are_the_slots_in_order(explorer: Explorer, pair: Pair) -> None:
    reply = explorer.grid(asked(slots=[1, 3], resolution=8))
    section = grid(pair.hold(pair.encode(PROMPT)[0]), np.array(U), (1, 3), 8)
    assert (unpacked(reply["teacher"], "<u2", 8, 8, 2) == section.teacher).all()
    assert (unpacked(reply["student"], "<u2", 8, 8, 2) == section.student).all()
    assert reply["agreement"] == section.agreement


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"prompt": ""}, "The prompt is empty"),
        ({"prompt": "x" * 30_000}, "30,000 characters"),
        ({"pair": "other"}, "no pair 'other'"),
        ({"u": [0.1, 1.0, 0.2, 0.3]}, "1.0 is outside"),
        ({"u": [0.1, None, 0.2, 0.3]}, "outside"),
        ({"u": ["a", 0.1]}, "not a list of numbers"),
        ({"k": 0}, "K is 0"),
        ({"k": 5}, "K is 5"),
        ({"k": 3, "u": [0.1]}, "1 noise values"),
        ({"resolution": 100_000}, "resolution is 100000"),
    ],
)
def test_a_bad_request_is_answered_with_what_failed(explorer: Explorer, change: Json, failed: str) -> None:
    reply = explorer.tables(asked(**change))
    assert not reply["ok"]
    assert failed in reply["failed"]
    assert reply["valid"]


def test_a_slow_load_keeps_no_other_pair_waiting(pair: Pair) -> None:
    started, release = threading.Event(), threading.Event()

    def slow() -> Pair:
        started.set()
        assert release.wait(30)
        raise KfError("gone")

    explorer = Explorer({"slow": slow, "tales": lambda: pair})
    waiting = threading.Thread(target=explorer.point, args=(asked(pair="slow"),))
    waiting.start()
    assert started.wait(30)
    assert explorer.point(asked())["ok"]
    assert waiting.is_alive()
    release.set()
    waiting.join()


def test_the_stored_first_screen_is_that_of_the_bundled_weights() -> None:
    stored = json.loads((bundled_folder("tales") / FIRST_SCREEN).read_text())
    fresh = fresh_first_payload(Explorer({"tales": lambda: load_pair("tales")}), "tales")
    assert stored["prompt_tokens"] == fresh["prompt_tokens"]
    for name in ("teacher", "student"):  # another processor may turn a near tie
        same = unpacked(stored[name], "<u2", 4 * 512 * 4) == unpacked(fresh[name], "<u2", 4 * 512 * 4)
        assert same.mean() > 0.999


def test_contexts_are_kept_and_dropped_pair_by_pair(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kfexplore.ui.explorer.HELD", 1)
    held: list[list[int]] = []
    counting = Pair(pair.teacher, pair.student, None, pair.tokenizer)
    monkeypatch.setattr(Pair, "hold", lambda self, ids, hold=Pair.hold: held.append(ids) or hold(self, ids))
    explorer = Explorer({"one": lambda: counting, "two": lambda: counting})
    for name, prompt in (("one", "a"), ("two", "a"), ("one", "a"), ("one", "b"), ("two", "a"), ("one", "a")):
        assert explorer.point(asked(pair=name, prompt=prompt))["ok"]
    assert len(held) == 4  # "one": a, b, a again; "two": a, which the other pair's prompts do not push out
