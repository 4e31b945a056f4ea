"""The training loop: what every stage shares, and the loss of each."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from kfexplore import noise
from kfexplore.config import TrainConfig
from kfexplore.errors import KfError
from kfexplore.models import Student, Teacher
from kfexplore.training.data import windows
from kfexplore.training.targets import exact_targets

Tokens = npt.NDArray[np.uint16]


def teacher_loss(teacher: Teacher, tokens: Tokens, config: TrainConfig, step: int) -> Tensor:
    """Next-token cross-entropy, nats a token."""
    ids = windows(tokens, config.batch, config.context + 1, config.seed, step).to(teacher.device)
    return F.cross_entropy(teacher(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def student_loss(student: Student, teacher: Teacher, tokens: Tokens, config: TrainConfig, step: int) -> Tensor:
    """Cross-entropy of the tokens that G* chooses, nats a slot; the ideal is 0 (the target is deterministic)."""
    ids = windows(tokens, config.batch, config.context, config.seed, step).to(student.device)
    rng = noise.generator(config.seed, step, 1)
    order = rng.random((config.batch, config.context)).argsort(axis=1)
    ends = torch.from_numpy(order[:, : config.groups] + 1).to(ids.device)
    u = torch.from_numpy(rng.random((config.batch, config.groups, config.block))).to(ids.device)
    targets = exact_targets(teacher, ids, u, ends)
    return F.cross_entropy(student.group_logits(ids, u, ends).flatten(0, 2), targets.flatten())


def fit(model: nn.Module, loss_of: Callable[[int], Tensor], config: TrainConfig, folder: Path) -> None:
    """Trains in place; resumes from `folder/state.pt` after a kill, and leaves `folder/losses.jsonl`.

    Args:
        model: Trained in place.
        loss_of: The loss of a step number; all its randomness is keyed by that number.
        config: The stage's settings.
        folder: State and curve; a state of other settings is refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizers = make_optimizers(model, config)
    start = _resume(folder, model, optimizers, config)
    bar = tqdm(range(start, config.steps), initial=start, total=config.steps, unit="step", mininterval=5)
    saved, recent = time.monotonic(), []
    with (folder / "losses.jsonl").open("a") as curve:
        for step in bar:
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * lr_share(step, config)
            loss = loss_of(step)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            if not torch.isfinite(loss):
                raise KfError(
                    f"The loss is {loss.item()} at step {step}; the last good state is kept.",
                    run="train again with a lower lr",
                )
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            recent.append(loss.item())
            if (step + 1) % 50 == 0:
                mean = sum(recent) / len(recent)
                recent.clear()
                curve.write(json.dumps({"step": step + 1, "loss": round(mean, 4)}) + "\n")
                curve.flush()
                bar.set_postfix(loss=f"{mean:.3f}")
            if time.monotonic() - saved > config.save_every or step + 1 == config.steps:
                _save(folder, model, optimizers, config, step + 1)
                saved = time.monotonic()


def lr_share(step: int, config: TrainConfig) -> float:
    """Share of the peak learning rate: linear rise, constant, linear fall."""
    rise = (step + 1) / max(config.warmup, 1)
    fall = (config.steps - step) / max(config.decay * config.steps, 1)
    return min(1.0, rise, fall)


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for vectors, embeddings and head; the blocks' matrices by `config.optimizer`."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("blocks.")]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    if config.optimizer == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise KfError(f"torch {torch.__version__} has no Muon.", "torch 2.9 or newer, or optimizer adamw")
        return [
            torch.optim.Muon(matrices, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return [torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True)]


def _save(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], config: TrainConfig, step: int
) -> None:
    state = {
        "step": step,
        "config": dataclasses.asdict(config),
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
    }
    torch.save(state, folder / "state.tmp")
    (folder / "state.tmp").replace(folder / "state.pt")


def _resume(folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], config: TrainConfig) -> int:
    path = folder / "state.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    free = {"steps", "decay", "save_every"}
    now = dataclasses.asdict(config)
    differs = [k for k, v in state["config"].items() if k not in free and now[k] != v]
    if differs:
        raise KfError(
            f"{folder} holds a run with other settings: {', '.join(differs)}.",
            "the same settings, or a new folder",
        )
    model.load_state_dict(state["model"])
    for optimizer, held in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(held)
    return int(state["step"])
