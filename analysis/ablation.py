"""Effect of each choice in the training recipe at equal compute: `python -m analysis.ablation --data D --text T`.

Every arm starts from the teacher's weights with the same budget of token passes (one token once through the teacher's
blocks; a backward pass counts as two), its targets included. The paper's ablations are A, B and C. Prints a line per
arm and writes ablation.json, which grows with each arm, ablation.csv, ablation.html and a PNG.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from analysis.distillation import blind
from analysis.distillation_figures import arms_figure
from analysis.writing import write_document, write_figures, write_rows
from kfexplore import noise
from kfexplore.bench.setting import environment
from kfexplore.bench.train import token_passes
from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import reported
from kfexplore.evaluate.agreement import agreement
from kfexplore.models import Student, Teacher, begin_from
from kfexplore.pair import Pair, load_pair
from kfexplore.training.config import TrainConfig
from kfexplore.training.data import Corpus
from kfexplore.training.documents import read_text
from kfexplore.training.loop import fit
from kfexplore.training.losses import student_loss
from kfexplore.training.targets import exact_targets

BASE = TrainConfig(
    steps=1, batch=2, groups=128, block=4, optimizer="muon", lr=6e-3, warmup=20, decay=0.5, precision="bf16"
)
STAGES = ((1, 0.25), (2, 0.25), (4, 0.5))
"""Block sizes of a progressive run, and the fraction of compute for each."""
WINDOWS, GROUPS, SEED = 24, 128, 0
"""Text windows on which every arm is measured, prefixes per window, and the seed of these and their noise."""


class Heads(Student):
    """A student whose slots see only the context and their own noise, like multi-token prediction heads."""

    def group_logits(self, *given: Any, **named: Any) -> torch.Tensor:
        return super().group_logits(*given, **{**named, "causal": False})


@dataclass(frozen=True)
class Arm:
    """One row of the table."""

    what: str  # description for tables and figures
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)  # settings that differ from BASE
    progressive: bool = False  # in stages of 1, 2 and 4 slots, each from the one before
    student: type[Student] = Student
    frequencies: Callable[[int], list[float]] | None = None
    """Noise features, if not the published ones: maps half the width to numbers of periods over [0, 1]."""
    deeper: int = 0  # blocks on top of the teacher's, which start as the identity
    order: str = "token id"  # order of the vocabulary in the CDF


def octaves(half: int) -> list[float]:
    """Log-spaced frequencies from an eighth of a period to 2^10 periods."""
    return torch.logspace(-3, 10, half, base=2.0, dtype=torch.float64).tolist()


ARMS = {
    "A": Arm("noise inversion, slots apart (MTP heads)", {"targets": "inversion", "causal": False}, student=Heads),
    "B": Arm("noise inversion, causal slots", {"targets": "inversion"}),
    "C": Arm("progressive self-forcing, 1 to 2 to 4", {"targets": "self"}, progressive=True),
    "exact": Arm("exact targets, four slots at once"),
    "exact progressive": Arm("exact targets, 1 to 2 to 4", progressive=True),
    "octaves": Arm("exact, noise features up to 2^10 periods", frequencies=octaves),
    "seriation": Arm("exact, similar tokens adjacent in the CDF", order="seriation"),
    "all positions": Arm("exact, a group at every position", {"groups": 256}),
    "four vectors a position": Arm("exact, 64 positions with 4 noise vectors each", {"groups": 64, "noises": 4}),
    "next-token loss": Arm("exact, with the next-token law at the context", {"ntp_loss_weight": 0.5}),
    "own words": Arm("exact, half of the contexts end in the student's words", {"on_policy_fraction": 0.5}),
    "EMA": Arm("exact, running mean of the weights (0.99)", {"ema": 0.99}),
    "deeper": Arm("exact, four blocks on top of the teacher's", deeper=4),
    "AdamW": Arm("exact, AdamW at 1e-3", {"optimizer": "adamw", "lr": 1e-3}),
}


def train_arm(arm: Arm, pair: Pair, tokens: Any, budget: float, seed: int, folder: Path) -> tuple[Student, int]:
    """A student trained from the teacher's weights with `budget` token passes, and the number of steps."""
    teacher, previous, taken = pair.teacher, None, 0
    for block, fraction in STAGES if arm.progressive else ((4, 1.0),):
        settings = {**arm.changes, "block": block, "seed": seed}
        if block == 1 and settings.get("targets") == "self":
            settings["targets"] = "exact"  # the first stage has no student before it
        config = dataclasses.replace(BASE, **settings)
        depth = teacher.config.depth + arm.deeper
        own, targets = token_passes(config)
        passes = own * depth / teacher.config.depth + targets
        config = dataclasses.replace(config, steps=max(1, int(budget * fraction / passes)))
        torch.manual_seed(seed)
        student = arm.student(dataclasses.replace(teacher.config, kind="student", depth=depth, block=block))
        if arm.frequencies is not None:
            student.noise_encoder.frequencies = tuple(arm.frequencies(len(student.noise_encoder.frequencies)))
        begin_from(student, teacher if previous is None else previous)

        _fit(student, teacher, tokens, config, folder / f"{block}", previous)
        previous = student.requires_grad_(False)
        taken += config.steps
    assert previous is not None
    return previous, taken


def _fit(
    student: Student, teacher: Teacher, tokens: Any, config: TrainConfig, folder: Path, frozen: Student | None
) -> None:
    corpus = Corpus(tokens)
    fit(student, lambda step, rows: student_loss(student, teacher, corpus, config, step, rows, frozen), config, folder)


@torch.inference_mode()
def exact_first(student: Student, teacher: Teacher, tokens: Any) -> float:
    """Fraction of noise for which slot 1, by inverse CDF of the student's own next-token distribution, is exact."""
    own = Teacher(teacher.config)
    own.load_state_dict({name: student.state_dict()[name] for name in own.state_dict()})
    hits = []
    for step in range(WINDOWS):
        ids = Corpus(tokens).windows(1, BASE.context, 1, step)
        rng = noise.generator(1, "student", step)
        ends = torch.from_numpy(rng.permutation(BASE.context)[None, : BASE.groups] + 1)
        u = torch.from_numpy(rng.random((1, BASE.groups, 1)))
        hits.append((exact_targets(own, ids, u, ends) == exact_targets(teacher, ids, u, ends)).double().mean())
    return float(torch.stack(hits).mean())


def reordered(pair: Pair, tokens: Any) -> tuple[Pair, Any]:
    """The same pair and corpus under other token ids: neighbours in the CDF have similar output vectors.

    The order is that of the Fiedler vector of the cosine similarities (spectral seriation).
    """
    weights = pair.teacher.output_layer.linear.weight.detach()
    mask = pair.teacher.config.mask_id
    unit = torch.nn.functional.normalize(weights[:mask] - weights[:mask].mean(0), dim=1).double()
    likeness = (unit @ unit.t() + 1) / 2
    laplacian = likeness.sum(1).diag() - likeness
    old = torch.cat([torch.linalg.eigh(laplacian).eigenvectors[:, 1].argsort(), torch.tensor([mask])])
    new = old.argsort()
    teacher = Teacher(pair.teacher.config)
    state = dict(pair.teacher.state_dict())
    for name in ("vocab_embed.embedding", "output_layer.linear.weight", "output_layer.linear.bias"):
        state[name] = state[name][old]
    teacher.load_state_dict(state)
    teacher.requires_grad_(False)
    tokenizer = renamed(pair.need_tokenizer(), new.tolist())
    return Pair(teacher, pair.student, None, tokenizer), new.numpy()[tokens].astype("uint16")


def renamed(tokenizer: Tokenizer, names: list[int]) -> Tokenizer:
    """The tokenizer with new ids for its tokens."""
    described = json.loads(tokenizer.to_str())
    described["model"]["vocab"] = {token: names[i] for token, i in described["model"]["vocab"].items()}
    for added in described["added_tokens"]:
        added["id"] = names[added["id"]]
    return Tokenizer.from_str(json.dumps(described))


def tidy(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row per slot of an arm."""
    lists = {name: values for name, values in row.items() if isinstance(values, list)}
    rest = {name: value for name, value in row.items() if name not in lists}
    for slot, values in enumerate(zip(*lists.values(), strict=True), 1):
        yield {**rest, "slot": slot, **dict(zip(lists, values, strict=True))}


def main() -> None:
    """Runs the arms and writes one row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", default=DEFAULT_PAIR, help="the teacher's pair")
    parser.add_argument("--data", type=Path, required=True, help="token files (kfexplore train data)")
    parser.add_argument("--text", type=Path, required=True, help="held-out text, a file or folder")
    parser.add_argument("--budget", type=float, default=4e5, help="token passes per arm")
    parser.add_argument("--seeds", default="0", help="random seeds: 0,1,..")
    parser.add_argument("--arms", default=",".join(ARMS), help="arms to run")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="output folder")
    asked = parser.parse_args()
    plain, texts = load_pair(asked.pair), read_text(asked.text)
    tokens, held_out = Corpus.read(asked.data).tokens, np.load(asked.data / "held_out.npy")
    best, nats = blind(plain, texts, WINDOWS, GROUPS, SEED)
    rows = []
    document = {
        "study": "ablation",
        **environment(torch.device("cpu")),
        "dtype": BASE.precision,
        "pair": asked.pair,
        "data": asked.data.resolve().name,
        "text": asked.text.resolve().name,
        "stages": STAGES,
        "base": asdict(BASE),
        "evaluation": {"windows": WINDOWS, "groups": GROUPS, "seed": SEED, "dtype": "float32"},
        "noise_blind": {"share": best, "nats": nats},
        "rows": rows,
    }
    chosen = asked.arms.split(",")
    if unknown := [name for name in chosen if name not in ARMS]:
        parser.error(f"there is no arm {unknown[0]!r}; there are {', '.join(ARMS)}")
    for name in chosen:
        arm = ARMS[name]
        pair, corpus = reordered(plain, tokens) if arm.order == "seriation" else (plain, tokens)
        for seed in map(int, asked.seeds.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                student, steps = train_arm(arm, pair, corpus, asked.budget, seed, Path(folder))
            found = agreement(dataclasses.replace(pair, student=student), texts, WINDOWS, GROUPS, SEED)
            names = ("student_nll_by_slot", "agreement_by_slot", "agreement_by_slot_interval", "agreement_block")
            row = {"arm": name, "what": arm.what, "seed": seed, "steps": steps, "token_passes": asked.budget}
            row |= {each: getattr(found, each) for each in names}
            row["exact_first"] = exact_first(student, pair.teacher, held_out) if arm.order == "token id" else None
            rows.append(row)
            pairs = zip(found.student_nll_by_slot, found.agreement_by_slot, strict=True)
            slots = "  ".join(f"{n:.2f} {100 * a:4.1f}%" for n, a in pairs)
            block = f"block {100 * found.agreement_block:.2f}%"
            print(f"{name:<24} seed {seed}  {steps:>5} steps  {slots}  {block}", flush=True)
            write_document("ablation", document, asked.out)
    write_rows((line for row in rows for line in tidy(row)), asked.out / "ablation.csv")
    foot = (
        f"Pair {asked.pair}, text {document['text']}; {asked.budget:,.0f} token passes per arm; {document['device']}, "
        f"trained in {BASE.precision}, measured in float32. Without reading its noise, slot 1 would be exact on "
        f"{best:.1%} at best, and its loss {nats:.2f} nats."
    )
    title = "kfexplore: effect of each choice in the recipe"
    write_figures("ablation", lambda theme: {"ablation": arms_figure(rows, theme)}, asked.out, title, foot)


if __name__ == "__main__":
    with reported():
        main()
