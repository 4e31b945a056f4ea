"""Agreement against the teacher's entropy: `python -m analysis.entropy --text BOOKS`.

Two settings change the teacher's entropy per token: the richness of the stories grammar (a small teacher is trained for
each value), and the temperature of the bundled teacher of real books. For each value a student is trained from its
teacher's weights with the same number of steps, contexts and noise vectors, and measured on held-out text. Prints a
line per student and writes entropy.json, which grows with each student, entropy.csv, entropy.html and a PNG. An
interrupted run continues with the same command. Copies: docs/bench/entropy-study.json, which notebook 05
reads, and docs/images/entropy.png, which the README shows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from analysis.ablation import tidy
from analysis.distillation_figures import students_figure
from analysis.writing import write_document, write_figures, write_rows
from kfexplore.bench.setting import environment
from kfexplore.checkpoints.tokenizers import load_tokenizer
from kfexplore.errors import reported
from kfexplore.evaluate.agreement import agreement
from kfexplore.models import Student, begin_from, build
from kfexplore.pair import Pair, load_pair
from kfexplore.training.config import DataConfig, Recipe, StoriesConfig, TrainConfig
from kfexplore.training.data import Corpus, prepare
from kfexplore.training.documents import read_text
from kfexplore.training.loop import fit
from kfexplore.training.losses import student_loss
from kfexplore.training.stages import Run
from kfexplore.training.stories import stories

RICHNESS = (0.1, 0.2, 0.35, 0.6, 1.0)
TEMPERATURES = (0.3, 0.5, 0.7, 1.0)
TEACHER = TrainConfig(steps=600, batch=8, optimizer="muon", lr=5e-3, decay=0.6, precision="bf16")
STUDENT = TrainConfig(
    steps=400, batch=4, context=160, groups=32, block=8, optimizer="muon", lr=5e-3, decay=0.5, precision="bf16"
)
WINDOWS, GROUPS, SEED = 32, 128, 0
"""Windows of held-out text, prefixes per window, and the seed of these and their noise."""
HELD_OUT = 400
"""Number of held-out stories, from a different seed, on which students are measured."""


def richness_case(richness: float, folder: Path) -> tuple[Pair, Corpus, list[str]]:
    """A small teacher of stories of this richness, its training tokens, and held-out stories."""
    recipe = Recipe(
        name="entropy",
        about="",
        data=DataConfig(
            vocab_size=2304, stories=StoriesConfig(count=12_000, held_out=500, richness=richness), whole_documents=True
        ),
        width=128,
        depth=4,
        heads=4,
        context=192,
        teacher=TEACHER,
        students=(STUDENT,),
    )
    run = Run(recipe, folder)
    run.prepare()
    teacher, tokenizer = run.teacher(), load_tokenizer(folder / "data")
    texts = [story.text for story in stories(HELD_OUT, seed=99, richness=richness)]
    return Pair(teacher, None, None, tokenizer), Corpus.read(folder / "data"), texts


def train(pair: Pair, corpus: Corpus, temperature: float, seed: int, folder: Path) -> Student:
    """Trains a student from its teacher's weights on the map at one temperature."""
    config = dataclasses.replace(STUDENT, tau_min=temperature, tau_max=temperature, seed=seed)
    torch.manual_seed(seed)
    student = build(dataclasses.replace(pair.teacher.config, kind="student", block=config.block))
    begin_from(student, pair.teacher)
    fit(
        student,
        lambda step, rows: student_loss(student, pair.teacher, corpus, config, step, rows),
        config,
        folder,
    )
    return student.requires_grad_(False)


def measured(pair: Pair, texts: list[str], temperature: float) -> dict[str, Any]:
    """The measurements of one student that the figure draws."""
    found = agreement(pair, texts, WINDOWS, GROUPS, SEED, temperature)
    return {
        "entropy": found.teacher_entropy,
        "teacher_nll": found.teacher_nll,
        "student_nll_by_slot": found.student_nll_by_slot,
        "agreement_by_slot": found.agreement_by_slot,
        "agreement_by_slot_interval": found.agreement_by_slot_interval,
        "agreement_by_length": found.agreement_by_length,
        "agreement_by_length_interval": found.agreement_by_length_interval,
    }


def main() -> None:
    """Trains and measures the missing students, and writes the documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, help="folder of the books of tales; without it only stories are measured")
    parser.add_argument("--seeds", default="0", help="random seeds: 0,1,..")
    parser.add_argument("--out", type=Path, default=Path("runs/entropy"), help="work and output folder")
    asked = parser.parse_args()
    done = asked.out / "entropy.json"
    rows: list[dict[str, Any]] = json.loads(done.read_text())["rows"] if done.exists() else []
    document = {
        "study": "entropy",
        **environment(torch.device("cpu")),
        "dtype": STUDENT.precision,
        "teacher": dataclasses.asdict(TEACHER),
        "student": dataclasses.asdict(STUDENT),
        "evaluation": {"windows": WINDOWS, "groups": GROUPS, "seed": SEED, "dtype": "float32"},
        "rows": rows,
    }
    arms = [("stories", "richness", value) for value in RICHNESS]
    arms += [("tales", "temperature", value) for value in TEMPERATURES] if asked.text else []
    for seed in map(int, asked.seeds.split(",")):
        for language, dial, value in arms:
            if any((r["language"], r["value"], r["seed"]) == (language, value, seed) for r in rows):
                continue
            name = f"{language}-{value:g}"
            if language == "stories":
                pair, corpus, texts = richness_case(value, asked.out / name)
                temperature = 1.0
            else:
                pair, temperature = load_pair("tales"), value
                prepared = DataConfig(tokenizer=str(asked.out / "tales"), held_out=("00012", "00289", "07439"))
                corpus, texts = tales_corpus(pair, prepared, asked.text, asked.out)
            student = train(pair, corpus, temperature, seed, asked.out / f"{name}-student{seed}")
            found = measured(dataclasses.replace(pair, student=student), texts, temperature)
            rows.append({"language": language, "dial": dial, "value": value, "seed": seed, **found})
            slots = "  ".join(f"{100 * share:4.1f}%" for share in found["agreement_by_length"])
            print(f"{name:<14} seed {seed}  {found['entropy']:.2f} nats  blocks of 1, 2, ..: {slots}", flush=True)
            write_document("entropy", document, asked.out)
    write_rows((line for row in rows for line in tidy(row)), asked.out / "entropy.csv")
    foot = f"{STUDENT.steps} steps per student, {document['device']}, trained in {STUDENT.precision}."
    title = "kfexplore: what decides whether a student can learn the map"
    write_figures("entropy", lambda theme: {"entropy": students_figure(rows, theme)}, asked.out, title, foot)


def tales_corpus(pair: Pair, config: DataConfig, text: Path, out: Path) -> tuple[Corpus, list[str]]:
    """Tokens of the bundled pair's training books, and the texts of its held-out books."""
    (out / "tales").mkdir(parents=True, exist_ok=True)
    pair.tokenizer.save(str(out / "tales" / "tokenizer.json"))
    prepare(config, out / "tales-data", STUDENT.context + 1, text)
    held_out = [file for file in sorted(text.glob("*.txt")) if file.name.startswith(config.held_out)]
    return Corpus.read(out / "tales-data"), [read_text(file)[0] for file in held_out]


if __name__ == "__main__":
    with reported():
        main()
