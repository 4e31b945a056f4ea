"""Every measured number that the README states is what a document of docs/bench or the bundled pair says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kfexplore.pair import load_pair
from kfexplore.training.books import manifest

ROOT = Path(__file__).parents[1]
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
MEASURED = re.compile(r"\d+\.\d+(?: %| M)?|\d+ (?:%|M)(?!\w)")
KNOWN = {"2606.10820", "0.1", "0.7", "0.3", "0.9", "3.11", "3.12", "2.11", "127.0", "0.0"}
"""The paper's number, noise of the examples, versions of Python and torch, addresses."""


def rows(name: str) -> list[dict[str, Any]]:
    document = json.loads((ROOT / "docs" / "bench" / f"{name}.json").read_text(encoding="utf-8"))
    return list(document["rows"])


def over(rows: list[dict[str, Any]], above: str, below: str) -> str:
    """Tokens a second of one decoder over another's, batch by batch."""
    speed = {(row["decoder"], row["batch"]): row["tokens_per_second"] for row in rows}
    return " / ".join(f"{speed[above, batch] / speed[below, batch]:.1f}" for batch in (1, 4, 16))


def claims() -> list[str]:
    """What the README must say, word for word."""
    pair = load_pair("tales")
    teacher, student, masked = (
        sum(parameter.numel() for parameter in model.parameters()) / 1e6
        for model in (pair.teacher, pair.student, pair.masked)
        if model is not None
    )
    race = rows("throughput-owt-size-cpu")
    kept = [row["kept_per_round"] for row in rows("throughput-tales-cpu") if row["kept_per_round"] and row["k"] == 4]
    return [
        f"a teacher of {teacher:.1f} M parameters, its PFLM(4) of {student:.1f} M, which has eight blocks more, and a "
        f"masked diffusion model of {masked:.1f} M",
        f"a vocabulary of {pair.teacher.config.vocab_size - 1} tokens",
        f"{over(race, 'ar', 'transformers generate()')} times as many tokens a second",
        f"K = 4 tokens a pass gain {over(race, 'pflm', 'ar')}:",
        f"they keep {min(kept):.1f} to {max(kept):.1f} tokens a round, and are slower than AR",
        f"# {len(manifest())} books, from Project Gutenberg",
    ]


@pytest.fixture(scope="module")
def claimed() -> list[str]:
    return claims()


def test_claims_are_what_was_measured(claimed: list[str]) -> None:
    assert [claim for claim in claimed if claim not in README] == []


def test_no_measured_number_is_without_a_claim(claimed: list[str]) -> None:
    rest = README
    for claim in claimed:
        rest = rest.replace(claim, "")
    assert [found for found in MEASURED.findall(rest) if found not in KNOWN] == []


def test_slower_than_ar_holds_for_every_batch() -> None:
    exact = [row for row in rows("throughput-tales-cpu") if row["decoder"] in ("verified", "jacobi")]
    assert exact
    assert all(row["speedup"]["high"] < 1 for row in exact)
