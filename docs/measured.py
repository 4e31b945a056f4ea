"""Writes the numbers of the README and the tour between their markers again: `python docs/measured.py`.

A number stands between `<!--NAME-->` and `<!--/-->`, where NAME is a key of `numbers()`: it is read from a document of
docs/bench or from a bundled pair, or computed. The sentences around it are free; a test compares what stands there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kfexplore.checkpoints.registry import bundled_folder
from kfexplore.config import DEFAULT_PAIR
from kfexplore.laws.toy import toy_law
from kfexplore.pair import load_pair
from kfexplore.ui.app import FIRST_SCREEN

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "docs" / "TOUR.md", ROOT / "docs" / "COMMANDS.md"]
MARKED = re.compile(r"<!--([a-z][\w.]*)-->(.*?)<!--/-->", re.DOTALL)
COUNTS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight")


def document(name: str) -> dict[str, Any]:
    """One of docs/bench."""
    return dict(json.loads((ROOT / "docs" / "bench" / f"{name}.json").read_text(encoding="utf-8")))


def joined(values: Iterable[float]) -> str:
    return " / ".join(f"{value:.1f}" for value in values)


def over(name: str, above: str, below: str) -> str:
    """Tokens per second of one decoder over another's, batch by batch."""
    speed = {(row["decoder"], row["batch"]): row["tokens_per_second"] for row in document(name)["rows"]}
    return joined(speed[above, batch] / speed[below, batch] for batch in (1, 4, 16))


def gains(decoder: str, k: int, pair: str = "stories") -> str:
    """Speed over AR with a pair, batch by batch."""
    rows = [row for row in document(f"throughput-{pair}-cpu")["rows"] if (row["decoder"], row["k"]) == (decoder, k)]
    found = {row["batch"]: row["speedup"]["value"] for row in rows}
    return joined(found[batch] for batch in (1, 4, 16))


def of_pair(name: str) -> dict[str, str]:
    """Sizes in millions of parameters, and agreement on held-out text."""
    pair, measured = load_pair(name), document(f"{name}-agreement")
    models = {"teacher": pair.teacher, "student": pair.student, "masked": pair.masked}
    slots = [100 * share for share in measured["agreement_by_slot"]]
    blocks = {4: measured["agreement_block"]}
    if pair.k_max > 4:
        blocks = {k: measured["agreement_by_length"][k - 1] for k in (4, 8)}
    found = {
        role: f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.1f}"
        for role, model in models.items()
        if model is not None
    }
    found |= {"vocabulary": f"{pair.teacher.config.vocab_size - 1}", "nll": f"{measured['teacher_nll']:.2f}"}
    samples = next(row for row in measured["samples"] if row["decoder"] == "K = 4")
    found |= {"quality_4": f"{samples['teacher_nll_ratio']['value']:.1f}"}
    found |= {"first_slots": joined(slots[:4]), "last_slots": joined(slots[4:])}
    found |= {f"block_{k}": f"{100 * share:.1f}" for k, share in blocks.items()}
    tv = {row["sampler"]: row["tv"]["value"] for row in document(f"joint-{name}")["samplers"]}
    found |= {"joint": f"{tv['student']:.2f} / {tv['ideal MDLM']:.2f}"}
    return {f"{name}.{what}": text for what, text in found.items()}


def numbers() -> dict[str, str]:
    """All by name."""
    kept = [
        row["kept_per_round"]
        for row in document("throughput-tales-cpu")["rows"]
        if row["kept_per_round"] and row["k"] == 4
    ]
    xor = toy_law("noisy-xor").schedules
    first = json.loads((bundled_folder(DEFAULT_PAIR) / FIRST_SCREEN).read_text(encoding="utf-8"))["point"]
    return {
        **of_pair("stories"),
        **of_pair("tales"),
        "tales.kept": f"{min(kept):.1f} to {max(kept):.1f}",
        "race.ar": over("throughput-owt-size-cpu", "ar", "transformers generate()"),
        "race.pflm": over("throughput-owt-size-cpu", "pflm", "ar"),
        "stories.pflm_4": gains("pflm", 4),
        "stories.pflm_8": gains("pflm", 8),
        "tales.pflm_4": gains("pflm", 4, "tales"),
        "stories.verified_8": gains("verified", 8),
        "permutation.tv": f"{toy_law('permutation').schedules[0].best:g}",
        "xor.passes": COUNTS[min(len(schedule.sizes) for schedule in xor if schedule.best < 1e-12)],
        "first.right": COUNTS[sum(a == b for a, b in zip(first["teacher"], first["student"], strict=True))],
        "first.slots": COUNTS[len(first["teacher"])],
    }


def filled(text: str, values: dict[str, str]) -> str:
    """A document with the numbers as they are."""
    return MARKED.sub(lambda found: f"<!--{found[1]}-->{values[found[1]]}<!--/-->", text)


if __name__ == "__main__":
    known = numbers()
    for path in DOCUMENTS:
        path.write_text(filled(path.read_text(encoding="utf-8"), known), encoding="utf-8")
