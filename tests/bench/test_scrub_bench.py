"""The timing document has its keys, and its numbers are those of the clock."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import pytest
import torch
from helpers import student, teacher

from kfexplore.bench import scrub
from kfexplore.bench.scrub import bench_scrub
from kfexplore.bench.setting import random_pair, timed
from kfexplore.errors import KfError
from kfexplore.pair import Pair

ENVIRONMENT = {"device", "device_name", "dtype", "threads", "load_average", "versions", "fast_paths"}
SHAPE = {"pair", "context", "k", "width", "depth", "vocab_size"}
TIMES = {"what", "repeats", "seconds", "least", "largest"}


def small_pair() -> Pair:
    return Pair(teacher(depth=1), student(depth=1, block=2), info={"name": "small"})


@pytest.mark.parametrize("tables", [False, True])
def test_the_document_has_device_versions_settings_and_rows(tables: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(scrub, "sweeps", lambda *given: asked.append(("sweeps", given[-1])))
    monkeypatch.setattr(scrub, "grid", lambda *given: asked.append(("grid", given[-1])))
    document = json.loads(json.dumps(bench_scrub(small_pair(), context_length=6, repeats=2, tables=tables)))
    assert set(document) == ENVIRONMENT | {"bench", "rows"}
    assert (document["bench"], document["device"], document["dtype"]) == ("scrub", "cpu", "float32")
    whats = ["hold", "block"] + ["sweeps", "sweeps", "grid_student", "grid"] * tables
    assert [row["what"] for row in document["rows"]] == whats
    for row in document["rows"]:
        assert set(row) - {"resolution"} == TIMES | SHAPE
        assert (row["pair"], row["context"], row["k"], row["width"], row["depth"]) == ("small", 6, 2, 16, 1)
        assert ("resolution" in row) == (row["what"] not in {"hold", "block"})
        assert 0 < row["least"] <= row["seconds"] <= row["largest"]
    assert asked == ([("sweeps", 256)] * 3 + [("sweeps", 512)] * 3 + [("grid", 128)] * 3) * tables


def test_a_row_has_median_least_and_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "timed", lambda *_, **__: [4.0, 1.0, 2.0])
    for row in bench_scrub(small_pair(), context_length=6, repeats=3, tables=False)["rows"]:
        assert (row["repeats"], row["seconds"], row["least"], row["largest"]) == (3, 2.0, 1.0, 4.0)


def test_repeats_alone_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = iter([10.0, 14.0, 20.0, 21.0, 30.0, 32.0]), []
    monkeypatch.setattr(time, "perf_counter", lambda: order.append("clock") or next(clock))
    job, ran = (partial(order.append, word) for word in ("job", "ran"))
    assert timed(job, 3, torch.device("cpu"), ran=ran) == [4.0, 1.0, 2.0]
    assert order == ["job", "ran", *(["clock", "job", "clock", "ran"] * 3)]


def test_every_repeat_of_a_block_has_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(scrub, "block", lambda _, u: seen.append(tuple(u)))
    bench_scrub(small_pair(), context_length=6, repeats=4, tables=False)
    assert len(set(seen)) == 5


def test_each_row_is_reported_when_known() -> None:
    reported: list[Any] = []
    document = bench_scrub(small_pair(), context_length=6, repeats=2, tables=False, report=reported.append)
    assert reported == document["rows"]


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(KfError, match="no size 'huge'") as caught:
        random_pair("huge")
    assert "owt" in caught.value.valid
