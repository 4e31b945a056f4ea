"""What the tests of the studies share: a small pair, estimates, and a run of a script in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis import writing
from kfexplore.pair import Pair
from kfexplore.results import Estimate

TEXTS = ["The old owl said: go home!", "Rain fell on the old house.", "The rain went on and on.", "go"]


def about(value: float, below: float = 0.25, above: float = 0.5) -> Estimate:
    return Estimate(value, value - below, value + above)


def finding(figure: Any) -> str:
    """The title of a figure as one line."""
    return str(figure.layout.title.text.replace("<br>", " "))


def run(module: Any, monkeypatch: pytest.MonkeyPatch, pair: Pair, out: Path, *words: object) -> dict[str, Any]:
    """Runs a study on a pair without its images; returns its document."""
    monkeypatch.setattr(module, "load_pair", lambda _: pair)
    monkeypatch.setattr(writing, "write_stills", lambda *_: [])
    monkeypatch.setattr("sys.argv", ["study", *map(str, words), "--out", str(out)])
    module.main()
    name = module.__name__.split(".")[-1]
    assert "Plotly" in (out / f"{name}.html").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    assert document["study"] == name
    return document
