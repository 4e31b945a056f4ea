"""How a student learns its teacher's map: `python -m analysis.distillation --pair tales --out runs/distillation`.

Distils a small student from the teacher alone, on texts that the teacher writes, and measures it on held-out texts
as it learns; beside it the documents of docs/bench: the bundled pair's own curve and versions, the ablation. Prints
tables and writes distillation.json, distillation.csv, distillation.html and one PNG per figure.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.distillation_figures import (
    Blind,
    Leg,
    Progress,
    Version,
    arms_figure,
    legs_figure,
    progress_figure,
    students_figure,
    versions_figure,
)
from analysis.quality import prompts
from analysis.writing import study_settings, study_texts, text_table, write_study
from kfexplore.config import DEFAULT_PAIR, DecodeConfig
from kfexplore.errors import KfError, reported
from kfexplore.evaluate.agreement import agreement, drawn, entropy
from kfexplore.evaluate.samples import write
from kfexplore.figures.evaluate import entropy_figure
from kfexplore.figures.palette import Theme
from kfexplore.models import Student, begin_from
from kfexplore.pair import Pair, load_pair
from kfexplore.results import Bin, Estimate
from kfexplore.training.config import TrainConfig
from kfexplore.training.data import Corpus, Tokens
from kfexplore.training.loop import fit
from kfexplore.training.losses import student_loss

BENCH = Path(__file__).parents[1] / "docs" / "bench"
FEW = 1
"""Tokens of each sentence that the teacher continues: the only ones that the corpus shares with the sentences."""
SMALL = TrainConfig(steps=1, batch=4, groups=32, block=4, context=64, optimizer="muon", lr=6e-3, warmup=10, decay=0.0)
"""Settings of the small run; a step is a fraction of a second on a CPU."""
WINDOWS, GROUPS = 7, 64
"""Text windows of a measurement, and prefixes per window."""


def own_corpus(pair: Pair, sentences: Sequence[str], length: int, seed: int) -> Tokens:
    """The teacher's continuations of the first tokens of each sentence, concatenated, so that no data are needed."""
    before = prompts(pair, sentences, FEW)
    written = write(pair, before, length, DecodeConfig("ar"), seed).tokens
    return np.concatenate([before, written], axis=1).ravel().astype(np.uint32)


def distil(
    pair: Pair, corpus: Tokens, texts: list[str], steps: int, every: int, seed: int, config: TrainConfig = SMALL
) -> list[Progress]:
    """Trains a student of the teacher's shape, starting from its weights, and measures it every few steps.

    Args:
        pair: Teacher and tokenizer.
        corpus: Tokens from which contexts are cut.
        texts: Texts on which it is measured.
        steps: Steps of the run.
        every: Steps between measurements.
        seed: Random seed for contexts, noise and the encoder's initial weights.
        config: The settings, except for steps and seed.

    Raises:
        KfError: fewer than one step.
    """
    if steps < 1 or every < 1:
        raise KfError(f"{steps} steps, measured every {every}, were requested.", "at least 1 for both")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = Student(dataclasses.replace(pair.teacher.config, kind="student", block=config.block))
    begin_from(student, pair.teacher)
    found = [_measured(0, pair, student, texts)]
    with tempfile.TemporaryDirectory() as folder:
        for end in [*range(every, steps, every), steps]:
            now = dataclasses.replace(config, steps=end, seed=seed)

            def loss(step: int, rows: slice, now: TrainConfig = now) -> torch.Tensor:
                return student_loss(student, pair.teacher, Corpus(corpus), now, step, rows)

            fit(student.requires_grad_(True), loss, now, Path(folder) / "student")  # continues from the last point
            found.append(_measured(end, pair, student.requires_grad_(False), texts))
    return found


def _measured(step: int, pair: Pair, student: Student, texts: list[str]) -> Progress:
    found = agreement(dataclasses.replace(pair, student=student), texts, windows=WINDOWS, groups=GROUPS)
    return Progress(step, found.student_nll_by_slot, found.agreement_by_slot, found.agreement_by_slot_interval)


def legs() -> list[Leg]:
    """The training of the bundled student, in its runs."""
    return [Leg(**leg) for leg in _document("tales-training")["legs"]]


def versions() -> list[Version]:
    """The states of the bundled pair, oldest first."""
    return [Version(**version) for version in _document("tales-training")["versions"]]


def arms() -> list[dict[str, Any]]:
    """The rows of both documents of the ablation."""
    return [row for name in ("ablation-tales", "ablation-options-tales") for row in _document(name)["rows"]]


def students() -> list[dict[str, Any]]:
    """The students of languages of different entropy."""
    return list(_document("entropy-study")["rows"])


def _bins(document: dict[str, Any]) -> list[list[Bin]]:
    slots = document["agreement_by_entropy"]
    return [[Bin(**{**each, "share": Estimate(**each["share"])}) for each in bins] for bins in slots]


def _document(name: str) -> dict[str, Any]:
    """A document of docs/bench.

    Raises:
        KfError: it is missing, since the package was installed without the repository.
    """
    try:
        return dict(json.loads((BENCH / f"{name}.json").read_text(encoding="utf-8")))
    except OSError as error:
        raise KfError(f"{BENCH / name}.json cannot be read: {error}.", "the repository's docs/bench") from None


def table(run: Sequence[Progress]) -> str:
    """The printed table of the small run."""
    slots = range(1, len(run[0].losses) + 1)
    head = ["step", *(f"loss {j}" for j in slots), *(f"exact {j}" for j in slots)]
    rows = [[str(p.step), *(f"{x:.2f}" for x in p.losses), *(f"{x:.1%}" for x in p.agreement)] for p in run]
    return text_table(head, rows)


@torch.inference_mode()
def blind(pair: Pair, texts: list[str], windows: int = WINDOWS, groups: int = GROUPS, seed: int = 0) -> Blind:
    """Baselines for slot 1 of a student that never reads its noise.

    The mean of the teacher's largest next-token probability is the agreement of always choosing that token; the mean
    entropy of its distribution, in nats, is the lowest loss on the exact tokens.

    Args:
        pair: Teacher and tokenizer.
        texts, windows, groups, seed: As in `agreement`, whose prefixes are used.
    """
    contexts, places, _ = drawn(pair, texts, windows, groups, seed)
    largest, nats = np.empty(places.shape), np.empty(places.shape)
    for w, (window, ends) in enumerate(zip(contexts, places, strict=True)):
        log_probs = pair.teacher.log_probs(torch.from_numpy(window)[None].to(pair.teacher.device))[0, ends - 1]
        largest[w] = log_probs.amax(dim=-1).exp().cpu().numpy()
        nats[w] = entropy(log_probs)
    return Blind(float(largest.mean()), float(nats.mean()))


def figures(run: Sequence[Progress], baseline: Blind, theme: Theme = "light") -> dict[str, Any]:
    """All figures by name."""
    return {
        "progress": progress_figure(run, baseline, theme),
        "legs": legs_figure(legs(), theme),
        "versions": versions_figure(versions(), theme),
        "entropy": entropy_figure(_bins(_document("tales-agreement")), theme),
        "students": students_figure(students(), theme),
        "ablation": arms_figure(arms(), theme, _document("ablation-tales")["noise_blind"]["share"]),
    }


def tidy(run: Sequence[Progress]) -> Iterator[dict[str, Any]]:
    """One row per measurement and slot."""
    for point in run:
        for slot, (loss, share) in enumerate(zip(point.losses, point.agreement, strict=True)):
            yield {"step": point.step, "slot": slot + 1, "loss": f"{loss:.6g}", "agreement": f"{share:.6g}"}


def main() -> None:
    """Distils one small student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", default=DEFAULT_PAIR, help="the teacher's pair")
    parser.add_argument("--length", type=int, default=128, help="tokens that the teacher writes after each sentence")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=40, help="steps between measurements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/distillation"), help="output folder")
    asked = parser.parse_args()
    pair, sentences = load_pair(asked.pair), study_texts(asked.pair)
    corpus = own_corpus(pair, sentences, asked.length, asked.seed)
    texts = ["\n".join(sentences)]
    run, baseline = distil(pair, corpus, texts, asked.steps, asked.every, asked.seed), blind(pair, texts)
    print(table(run), f"noise not read: {baseline.nats:.2f} nats, {baseline.share:.1%} exact in slot 1", sep="\n\n")
    points = [dataclasses.asdict(point) for point in run]
    write_study(
        "distillation",
        "kfexplore: distillation",
        study_settings(asked),
        {"run": points, "noise_blind": baseline._asdict()},
        lambda theme: figures(run, baseline, theme),
        asked.out,
        pair.teacher.device,
        tidy(run),
    )


if __name__ == "__main__":
    with reported():
        main()
