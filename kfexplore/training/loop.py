"""The training loop of every stage: steps, learning rate, saved states, loss curve."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from kfexplore import distributed
from kfexplore.checkpoints.files import write_whole
from kfexplore.config import differences, from_dict
from kfexplore.errors import KfError, reason
from kfexplore.models import PushForward
from kfexplore.training.config import TrainConfig

CURVE_EVERY = 50
"""Steps per point of the curve."""
STATE_FILE, CURVE_FILE = "state.pt", "losses.jsonl"
FREE = frozenset({"steps", "decay", "save_every", "wise_ft_alpha"})
"""Settings that may change when a run resumes."""


def fit(model: nn.Module, loss_of: Callable[[int, slice], Tensor], config: TrainConfig, folder: Path) -> None:
    """Trains a model; resumes from `folder/state.pt` if a run was interrupted, and writes `folder/losses.jsonl`.

    Args:
        model: Trained in place. At the end it has the weights to save: their running mean with `config.ema`,
            interpolated with the initial weights by `config.wise_ft_alpha`.
        loss_of: Maps a step number and rows of its batch to a loss, a scalar or one per slot, whose mean is minimised;
            all its randomness is keyed by the step number.
        folder: Folder for state and curve.

    Raises:
        KfError: a state from other settings or with more steps, a loss or gradient that is not finite (the last good
            state is kept), no space on the disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.recompute = config.recompute  # type: ignore[assignment]  # of a Network
    parts = distributed.rows(config.batch, config.accumulate)
    distributed.meet(next(model.parameters()).device)
    optimizers = make_optimizers(model, config)
    mean = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=_mean_of(config.ema)) if config.ema else None
    keeper = _Keeper(folder, model, mean, optimizers, config)
    initial = [p.detach().clone() for p in model.parameters()] if config.wise_ft_alpha else []
    start = keeper.resume()
    curve = _Curve(folder, start, config, tokens_per_step(model, config)) if distributed.rank() == 0 else None
    steps, quiet = range(start, config.steps), curve is None
    bar = tqdm(steps, folder.name, config.steps, initial=start, unit="step", mininterval=5, disable=quiet)
    saved = time.monotonic()
    for step in bar:
        fraction = lr_fraction(step, config)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.lr * fraction
        value = backward(loss_of, step, parts)
        parameters = [p for p in model.parameters() if p.grad is not None]
        distributed.average([value, *(p.grad for p in parameters if p.grad is not None)])
        norm = nn.utils.clip_grad_norm_(parameters, config.clip)
        mean_loss = value.mean()
        if not torch.isfinite(mean_loss + norm):
            raise KfError(
                f"The loss is {mean_loss.item()} and the gradient norm {norm.item()} at step {step};"
                " the last good state is kept.",
                "finite numbers",
                f"a lower lr in the recipe, after removing {folder}",
            )
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        torch.autograd.graph.increment_version(parameters)  # fused optimizers do not; packed copies rely on it
        if mean is not None:
            mean.update_parameters(model)
        if curve is not None:
            bar.set_postfix(curve.add(step, value), refresh=False)
        if time.monotonic() - saved > config.save_every or step + 1 == config.steps:
            keeper.save(step + 1)
            saved = time.monotonic()
    distributed.wait()
    if mean is not None:
        model.load_state_dict(mean.module.state_dict())
    if initial:
        with torch.no_grad():
            torch._foreach_lerp_(list(model.parameters()), initial, config.wise_ft_alpha)


def backward(loss_of: Callable[[int, slice], Tensor], step: int, parts: list[slice]) -> Tensor:
    """Accumulates the gradient of a step over its equal parts; returns the loss."""
    losses = []
    for rows in parts:
        loss = loss_of(step, rows) / len(parts)
        loss.mean().backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum(dim=0)


def tokens_per_step(model: nn.Module, config: TrainConfig) -> int:
    """Number of targets per step: noise slots for a student, text tokens for other models."""
    slots = config.groups * config.noises * config.block
    return config.batch * (slots if isinstance(model, PushForward) else config.context)


def lr_fraction(step: int, config: TrainConfig) -> float:
    """Fraction of the peak learning rate: linear warmup, constant, linear decay."""
    rise = (step + 1) / max(config.warmup, 1)
    fall = (config.steps - step) / max(config.decay * config.steps, 1)
    return min(1.0, rise, fall)


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for vectors, embeddings and head; `config.optimizer` for the blocks' matrices."""
    matrices = [p for p in getattr(model, "blocks", nn.Module()).parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen and p.requires_grad]
    adamw: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps, "fused": True}
    if config.optimizer == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise KfError(f"torch {torch.__version__} has no Muon.", "torch 2.9 or newer, or optimizer adamw")
        return [
            torch.optim.Muon(matrices, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, weight_decay=0.0, **adamw),
        ]
    decayed = {"params": matrices, "weight_decay": config.weight_decay}
    return [torch.optim.AdamW([decayed, {"params": rest, "weight_decay": 0.0}], **adamw)]


def _mean_of(decay: float) -> Callable[..., None]:
    """Running mean with less memory in the first steps, so that it forgets the initial weights."""

    def update(means: Any, news: Any, count: Tensor | int) -> None:
        kept = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(means, news, 1 - kept)

    return update


def read_curve(folder: Path) -> list[dict[str, float]]:
    """The points of a stage's losses.jsonl; [] before its first point."""
    path = folder / CURVE_FILE
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0] if path.exists() else ""  # a full disk cuts lines
    return [json.loads(line) for line in whole.splitlines()]


class _Curve:
    """losses.jsonl, one point every 50 steps, and trackio if it is installed (local, never sent)."""

    def __init__(self, folder: Path, start: int, config: TrainConfig, tokens: int) -> None:
        self.path, self.tokens = folder / CURVE_FILE, tokens
        self.points = [point for point in read_curve(folder) if point["step"] <= start]  # a kill may leave later ones
        self._write()
        self.recent: list[Tensor] = []
        self.since = time.monotonic()
        self.shown: dict[str, str] = {}
        try:
            self.trackio: Any = importlib.import_module("trackio")
        except ImportError:
            self.trackio = None
        else:
            self.trackio.init(project="kfexplore", name=folder.name, config=dataclasses.asdict(config))

    def add(self, step: int, loss: Tensor) -> dict[str, str]:
        """Records a step's loss; returns what the progress bar shows."""
        self.recent.append(loss)
        if (step + 1) % CURVE_EVERY == 0:
            losses = torch.stack(self.recent).mean(dim=0)
            mean, slots = losses.mean().item(), losses.tolist() if losses.ndim else []
            rate = self.tokens * len(self.recent) / (time.monotonic() - self.since)
            by_slot = {f"loss_{n}": round(loss, 4) for n, loss in enumerate(slots, 1)}
            point = {"step": step + 1, "loss": round(mean, 4), **by_slot, "tokens_per_second": round(rate)}
            self.points.append(point)
            self._write()
            if self.trackio is not None:
                self.trackio.log({name: value for name, value in point.items() if name != "step"}, step=step + 1)
            self.recent, self.since = [], time.monotonic()
            self.shown = {"loss": f"{mean:.3f}", "tok/s": f"{rate:,.0f}"}
        return self.shown

    def _write(self) -> None:
        text = "".join(json.dumps(point) + "\n" for point in self.points)
        with _room(self.path, "curve"):
            write_whole(self.path, text)


@contextlib.contextmanager
def _room(path: Path, what: str) -> Iterator[None]:
    """Turns a failed write into a KfError that says how to continue; the earlier file is kept."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise KfError(
            f"The {what} cannot be saved: {reason(error)}.",
            f"space in {path.parent}; the earlier file is kept",
            "the same command again, which resumes from it",
        ) from None


@dataclass(frozen=True)
class _Keeper:
    """state.pt: written completely or not at all, and resumed only with the same settings."""

    folder: Path
    model: nn.Module
    mean: nn.Module | None
    optimizers: list[torch.optim.Optimizer]
    config: TrainConfig

    def save(self, step: int) -> None:
        """Saves the state after `step` steps; if this fails, the earlier state is kept."""
        if distributed.rank():
            return
        state = {
            "step": step,
            "config": dataclasses.asdict(self.config),
            "model": self.model.state_dict(),
            "mean": None if self.mean is None else self.mean.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
        }
        path = self.folder / STATE_FILE
        with _room(path, f"state after {step} steps"):
            write_whole(path, lambda part: torch.save(state, part))

    def resume(self) -> int:
        """Loads the state; returns the number of steps done, 0 if there is no state."""
        path = self.folder / STATE_FILE
        if not path.exists():
            return 0
        device = next(self.model.parameters()).device
        try:
            state = torch.load(path, weights_only=True, map_location=device)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise KfError(
                f"{path} cannot be read: {reason(error)}.",
                "a complete state file",
                f"the same command after removing {path}: the stage starts over",
            ) from error
        changed = differences(from_dict(TrainConfig, state["config"]), self.config)
        differ = [text for name, text in changed.items() if name not in FREE]
        if differ:
            raise KfError(
                f"{self.folder} holds a run with other settings: {'; '.join(differ)}.",
                "the same settings, or a new folder",
            )
        if state["step"] > self.config.steps:
            raise KfError(f"{self.folder} holds a run of {state['step']} steps.", f"steps of at least {state['step']}")
        self.model.load_state_dict(state["model"])
        if self.mean is not None:
            self.mean.load_state_dict(state["mean"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return int(state["step"])
