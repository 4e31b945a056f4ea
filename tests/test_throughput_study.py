"""The throughput study: peers do the same job, ratios are over rows of the same batch, figures draw their numbers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import student, teacher

from analysis import throughput, writing
from analysis.throughput_figures import Payback, StepTime, payback_figure, rounds_figure, steps_figure
from kfexplore import noise
from kfexplore.bench.throughput import RaceSettings
from kfexplore.config import DecodeConfig
from kfexplore.decoding.generate import Networks, reference
from kfexplore.pair import Pair

SMALL = RaceSettings(batches=(1, 3), ks=(2,), prompt=5, new_tokens=6, repeats=1)


def test_the_plain_loop_writes_the_text_of_ar() -> None:
    network, prompts = teacher(), [[3, 1, 4], [1, 5, 9]]
    u = noise.uniform(3, range(2), 0, 7)
    expected = reference(DecodeConfig("ar"), Networks(network), prompts, u, 7)
    found = throughput.plain_loop(network, torch.tensor(prompts), torch.from_numpy(u))
    assert found.tolist() == expected.tolist()


@pytest.mark.slow
def test_generate_of_transformers_writes_as_many_tokens() -> None:
    write = throughput.gpt2(teacher().config, torch.device("cpu"))
    assert write is not None
    found: Any = write(torch.tensor([[3, 1, 4], [1, 5, 9]]), 9)
    assert found.shape == (2, 12)


def test_every_batch_has_its_peers_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "gpt2", lambda *_: lambda *_: None)
    document = throughput.measure(Pair(teacher(), student()), "small", SMALL, peers=True)
    found = [(row["batch"], row["decoder"], row["k"]) for row in document["rows"]]
    names = [(throughput.GENERATE, 1), (throughput.PLAIN, 1), ("ar", 1), ("pflm", 2)]
    assert found == [(batch, *name) for batch in (1, 3) for name in names]


def test_ratios_are_over_rows_of_the_same_batch() -> None:
    rows = [
        {"decoder": name, "batch": batch, "k": 1, "ms_per_step": 1.0, "tokens_per_second": speed, "seconds": {}}
        | {"roofline_speedup": allowed, "error": None}
        for name, batch, speed, allowed in [
            (throughput.GENERATE, 1, 10.0, None),
            ("ar", 1, 20.0, 1.0),
            ("pflm", 1, 60.0, 4.0),
            (throughput.GENERATE, 4, 40.0, None),
            ("ar", 4, 50.0, 1.0),
        ]
    ]
    lines = [line.split() for line in throughput.table({"rows": rows}).splitlines()[1:]]
    assert lines[2] == ["pflm", "1", "1", "1.00", "60", "6.00", "3.00", "4.00", "0.75"]
    assert lines[4] == ["ar", "4", "1", "1.00", "50", "1.25", "1.00", "1.00", "1.00"]


@pytest.mark.parametrize("decoder", ["ar", "pflm"])
def test_a_profile_tells_products_attention_and_the_rest(decoder: str) -> None:
    shares = throughput.profile(Networks(teacher(), student()), decoder, "small", 8)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(0 < share < 1 for share in shares.values())


def test_documents_tables_and_figures_are_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(throughput, "load_pair", lambda *_, **__: Pair(teacher(), student()))
    monkeypatch.setattr(writing, "write_stills", lambda drawn, _: print(*drawn))
    line = ["throughput", "--sizes", "", "--pair", "small", "--batch", "1", "--k", "2", "--new-tokens", "4"]
    monkeypatch.setattr("sys.argv", [*line, "--prompt", "3", "--repeats", "1", "--out", str(tmp_path)])
    throughput.main()
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == [
        "throughput.csv",
        "throughput.html",
        "throughput.json",
    ]
    assert capsys.readouterr().out.endswith("\nrace speedup\n")
    with (tmp_path / "small" / "throughput.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["decoder"], row["error"]) for row in rows] == [("ar", ""), ("pflm", "")]
    assert float(rows[0]["seconds"]) > 0
    assert rows[0]["speedup"] == ""
    assert float(rows[1]["speedup"]) > 0


def test_a_decoder_that_failed_has_its_row_in_the_table_too(tmp_path: Path) -> None:
    spread = {"value": 2.0, "low": 1.0, "high": 3.0}
    rows: list[dict[str, Any]] = [
        {"decoder": "ar", "seconds": spread, "error": None},
        {"decoder": "pflm", "seconds": None, "error": "Out of memory."},
    ]
    writing.write_rows(map(throughput.tidy, rows), tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text().splitlines() == [
        "decoder,seconds,error",
        "ar,2.0,",
        "pflm,,Out of memory.",
    ]


def test_steps_show_times_and_least_times() -> None:
    steps = [StepTime("AR", 4, 8.0, 0.08), StepTime("AR", 128, 10.0, 0.5), StepTime("K = 4", 4, 9.0, 0.1)]
    figure = steps_figure(steps)
    found = {trace.name: list(trace.y) for trace in figure.data}
    assert found == {"AR": [8.0, 10.0], "AR, least": [0.08, 0.5], "K = 4": [9.0], "K = 4, least": [0.1]}
    assert "20 to 100 times" in figure.layout.title.text


def test_rounds_add_up_and_waiting_is_counted() -> None:
    kept = np.array([[2, 4], [3, 4], [1, 0], [2, 0]])
    figure = rounds_figure(kept, 4)
    lines = [list(trace.y) for trace in figure.data]
    assert lines == [[0, 2, 5, 6, 8], [0, 4, 8, 8, 8], [0, 4, 8]]
    assert "after 2 to 4 rounds; 25%" in figure.layout.title.text


@pytest.mark.parametrize("never", [True, False])
def test_payback_marks_what_never_pays(never: bool) -> None:
    paybacks = [Payback("pair", 1, 1e6), Payback("pair", 4, None if never else 1e7), Payback("OWT", 1, 1e9)]
    figure = payback_figure(paybacks)
    found = {trace.name: list(trace.y) for trace in figure.data}
    assert found["pair"] == [1e6, None if never else 1e7]
    assert found["OWT"] == [1e9]
    assert ("pair: never" in found) == never
    assert ("or never" in figure.layout.title.text) == never
    assert "1.0e6 to 1.0e9" in figure.layout.title.text
    low, high = figure.layout.yaxis.range
    assert all(low < np.log10(y) < high for ys in found.values() for y in ys if y is not None)
