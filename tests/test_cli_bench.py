"""The bench verbs: a table that fills as rows come in, and one JSON document in the file.

The table of a race is its output; the others print it on stderr, and the document on stdout as well.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from shell import Shell

from kfexplore.bench import scrub, throughput
from kfexplore.results import DevicePeaks


@pytest.fixture(autouse=True)
def _limits_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "measure_peaks", lambda *_: DevicePeaks(1e9, 1e10))


def test_scrub_has_a_line_a_row_and_the_document(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "sweeps", lambda *_: None)
    monkeypatch.setattr(scrub, "grid", lambda *_: None)
    code, out, err = shell.run(f"bench scrub --pair FOLDER --context 6 --repeats 1 --json {tmp_path}/scrub.json")
    assert code == 0, err
    assert out == (tmp_path / "scrub.json").read_text()
    head, *lines = err.splitlines()
    assert head.split() == ["what", "steps", "median", "ms", "least", "largest"]
    assert [line.split()[0] for line in lines] == [row["what"] for row in json.loads(out)["rows"]]
    assert lines[2].split()[:2] == ["sweeps", "256"]
    assert float(lines[1].split()[1]) == pytest.approx(1e3 * json.loads(out)["rows"][1]["seconds"], abs=0.006)


def test_throughput_says_whether_a_ratio_is_conclusive_and_gives_ar_none(shell: Shell) -> None:
    line = "bench throughput --pair FOLDER --decoders ar,pflm --batch 1 --k 2,4 --max-new-tokens 4 --repeats"
    code, out, err = shell.run(f"{line} 1")
    assert (code, err) == (0, "")
    head, ar, *others = out.splitlines()
    assert head.endswith("GFLOP/s  at limit  over ar")
    assert len(ar.split()) == 8  # neither a ratio nor one at the limit
    assert ["inconclusive (" in other and other.endswith(" in one repeat)") for other in others] == [True, True]
    code, out, err = shell.run(f"{line} 2")
    assert code == 0, err
    for other in out.splitlines()[2:]:
        assert other.endswith(")")
        assert " to " in other


def test_by_default_those_race_whose_models_are_there(shell: Shell, tmp_path: Path) -> None:
    shutil.copytree(shell.folder / "teacher", tmp_path / "teacher")
    line = "bench throughput --batch 1 --max-new-tokens 4 --repeats 1"
    for models, expected in (("--pair FOLDER", ["ar", "pflm"]), (f"--pair {tmp_path}", ["ar"])):
        code, out, err = shell.run(f"{line} {models} --json {tmp_path}/race.json")
        assert code == 0, err
        rows = json.loads((tmp_path / "race.json").read_text())["rows"]
        assert [row["decoder"] for row in rows] == expected
        assert [line.split()[0] for line in out.splitlines()] == ["decoder", *expected]
        assert all(row["error"] is None for row in rows)


def test_what_cannot_be_timed_is_no_row_of_the_table(shell: Shell) -> None:
    line = "bench throughput --pair FOLDER --batch 1 --max-new-tokens 4 --repeats 1 --k 9 --decoders"
    code, out, err = shell.run(f"{line} ar,pflm")
    assert code == 0
    assert [row.split()[0] for row in out.splitlines()] == ["decoder", "ar"]
    assert err.startswith("pflm          1  9  k is 9.")
    code, out, err = shell.run(f"{line} pflm")
    assert (code, out) == (2, "")
    assert "No decoder could be timed" in err


def test_a_roofline_is_said_to_be_a_model(shell: Shell) -> None:
    code, out, err = shell.run("bench throughput --pair FOLDER --roofline --batch 1 --k 2")
    assert (code, err) == (0, "")
    assert out.startswith("if both ran at this device's limit (1.0 GB/s, 10 GFLOP/s), from counted bytes and FLOPs:\n")


@pytest.mark.parametrize(
    ("line", "tool"), [("load --clients 5 --restart", "python -m tools.load"), ("scrub --page", "python -m tools.page")]
)
def test_verbs_that_moved_say_where_the_tool_is(shell: Shell, line: str, tool: str) -> None:
    code, out, err = shell.run(f"bench {line}")
    assert (code, out) == (2, "")
    assert tool in err
