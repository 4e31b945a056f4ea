"""Every measured number of the README and the tour is what a document of docs/bench or a bundled pair says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.measured import DOCUMENTS, MARKED, ROOT, document, filled, numbers
from kfexplore.laws.toy import toy_law
from kfexplore.training.books import manifest

MEASURED = re.compile(r"\d+\.\d+(?: %| M)?|\d+ (?:%|M)(?!\w)")
KNOWN = {"2606.10820", "0.1", "0.7", "0.3", "0.9", "3.11", "3.12", "2.11", "127.0", "0.0"}
"""The paper's number, noise of the examples, versions of Python and torch, addresses."""
each = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def known() -> dict[str, str]:
    return numbers()


@each
def test_numbers_between_markers_are_what_was_measured(path: Path, known: dict[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    assert MARKED.search(text)
    assert filled(text, known) == text, "run: python docs/measured.py"


def test_no_measured_number_is_without_a_marker() -> None:
    rest = " ".join(MARKED.sub("", DOCUMENTS[0].read_text(encoding="utf-8")).split())
    assert [found for found in MEASURED.findall(rest) if found not in KNOWN] == []


def test_what_the_sentences_say_of_the_numbers_holds() -> None:
    rows = document("throughput-tales-cpu")["rows"]
    exact = [row for row in rows if row["decoder"] in ("verified", "jacobi")]
    assert exact
    assert all(row["speedup"]["high"] < 1 for row in exact)  # slower than AR
    gains = [row["speedup"]["value"] for row in rows if (row["decoder"], row["k"]) == ("pflm", 4)]
    assert gains[-1] == min(gains)  # smallest at the largest batch
    assert toy_law("permutation").impossible == 0.5
    assert toy_law("noisy-xor").paper is None
    assert f"# {len(manifest())} books, from Project Gutenberg" in (ROOT / "docs" / "TRAINING.md").read_text(
        encoding="utf-8"
    )
