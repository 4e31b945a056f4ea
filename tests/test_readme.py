"""Every measured number that the README states is what a document of docs/bench or the bundled pair says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kfexplore.pair import Pair, load_pair
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


def document(name: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / "docs" / "bench" / f"{name}.json").read_text(encoding="utf-8")))


def sizes(pair: Pair) -> tuple[float, ...]:
    """Millions of parameters of teacher, student and masked model."""
    models = (pair.teacher, pair.student, pair.masked)
    return tuple(sum(weight.numel() for weight in model.parameters()) / 1e6 for model in models if model is not None)


def gains(decoder: str, k: int) -> str:
    """Speed over AR with the pair `stories`, batch by batch."""
    found = {
        row["batch"]: row["speedup"]
        for row in rows("throughput-stories-cpu")
        if (row["decoder"], row["k"]) == (decoder, k)
    }
    return " / ".join(f"{found[batch]['value']:.1f}" for batch in (1, 4, 16))


def table() -> list[str]:
    """The rows on both bundled pairs."""
    easy, hard = document("stories-agreement"), document("tales-agreement")

    def percent(*shares: float) -> str:
        return " / ".join(f"{100 * share:.1f}" for share in shares) + " %"

    return [
        f"nats per token | {easy['teacher_nll']:.2f} | {hard['teacher_nll']:.2f} |",
        f"| slots 1 to 4: token equals the exact one | {percent(*easy['agreement_by_slot'][:4])} | "
        f"{percent(*hard['agreement_by_slot'])} |",
        f"| slots 5 to 8 | {percent(*easy['agreement_by_slot'][4:])} |",
        f"| a whole block of four equals the exact one | {percent(easy['agreement_by_length'][3])} | "
        f"{percent(hard['agreement_block'])} |",
        f"| a whole block of eight | {percent(easy['agreement_by_length'][7])} |",
    ]


def claims() -> list[str]:
    """What the README must say, word for word."""
    pair = load_pair("tales")
    teacher, student, masked = sizes(pair)
    easy = sizes(load_pair("stories"))
    race = rows("throughput-owt-size-cpu")
    kept = [row["kept_per_round"] for row in rows("throughput-tales-cpu") if row["kept_per_round"] and row["k"] == 4]
    return [
        *table(),
        f"A teacher of {easy[0]:.1f} M parameters, its PFLM(8) of {easy[1]:.1f} M with as many blocks, and a masked "
        f"diffusion model of {easy[2]:.1f} M",
        f"A teacher of {teacher:.1f} M parameters, its PFLM(4) of {student:.1f} M, which has eight blocks more, and a "
        f"masked diffusion model of {masked:.1f} M",
        f"a vocabulary of {pair.teacher.config.vocab_size - 1} tokens",
        f"{over(race, 'ar', 'transformers generate()')} times as many tokens per second",
        f"K = 4 tokens per pass gain {over(race, 'pflm', 'ar')}:",
        f"K = 4 is {gains('pflm', 4)} times as fast as AR at batch 1 / 4 / 16, "
        f"K = 8 is {gains('pflm', 8)} times as fast",
        f"which writes the text of AR itself, is {gains('verified', 8)} times",
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
