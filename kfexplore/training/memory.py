"""The memory needed to train a student, counted from shapes before any weights are loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from kfexplore import distributed
from kfexplore.errors import KfError
from kfexplore.models import Network
from kfexplore.training.config import TrainConfig
from kfexplore.training.targets import LOGITS

WEIGHT = 4
"""Bytes per weight, gradient or moment: float32."""
LOGIT_COPIES = 4
"""Tensors per chunk of logits in memory at once: logits, their softmax, gradient, and the products of autocast."""


@dataclass(frozen=True)
class Needs:
    """Bytes of one process, at the peak of a step."""

    weights: tuple[int, int]
    """Number of weights of the teacher, and of trained weights of the student."""
    teacher: int
    """Weights; with self-forcing, those of the frozen student as well."""
    student: int
    """Trained weights, and copies for their mean and the initial weights if a stage keeps these."""
    gradients: int
    """Gradients of all trained weights."""
    optimizer: int
    """Moments: two per weight with AdamW, one with Muon."""
    activations: int
    """Activations kept for backward, for one part of a batch; an estimate."""
    logits: int
    """One chunk of logits."""

    @property
    def parts(self) -> dict[str, int]:
        """The bytes, by purpose."""
        labels = {"activations": "activations (estimated)", "logits": "a chunk of logits"}
        return {labels.get(name, name): count for name, count in vars(self).items() if name != "weights"}

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        listed = ", ".join(f"{name} {_size(count)}" for name, count in self.parts.items())
        teacher, student = (f"{count / 1e6:,.1f} M" for count in self.weights)
        return (
            f"A teacher of {teacher} weights and a student that trains {student} need about {_size(self.total)} per"
            f" process ({listed})"
        )


def needs(teacher: Network, student: Network, stage: TrainConfig) -> Needs:
    """The memory of a stage; the networks may be on the meta device."""
    shape = student.config
    weights = sum(weight.numel() for weight in student.parameters() if weight.requires_grad)
    matrices = sum(weight.numel() for weight in student.blocks.parameters() if weight.ndim == 2)
    moments = 2 * weights - (matrices if stage.optimizer == "muon" else 0)
    copies = 1 + bool(stage.ema) + bool(stage.wise_ft_alpha)
    rows = -(-stage.batch // (stage.accumulate * distributed.count()))
    slots = stage.groups * stage.noises * stage.block
    inside = 2 * matrices // (shape.depth * shape.width) + 4 * shape.width  # inputs and outputs of a block's products
    scores = 3 * shape.heads * (stage.context + stage.block)
    per_layer = rows * ((stage.context + slots) * inside + slots * scores)
    layers = 1 if stage.recompute else shape.depth
    kept = rows * (stage.context + slots) * 3 * shape.width * shape.depth  # inputs of blocks, keys and values
    theirs, whole = (sum(weight.numel() for weight in model.parameters()) for model in (teacher, student))
    return Needs(
        weights=(theirs, weights),
        teacher=WEIGHT * (theirs + whole * (stage.targets == "self")),
        student=WEIGHT * weights * copies,
        gradients=WEIGHT * weights,
        optimizer=WEIGHT * moments,
        activations=WEIGHT * (per_layer * layers + kept),
        logits=WEIGHT * LOGIT_COPIES * min(LOGITS, rows * slots * shape.vocab_size),
    )


def check_memory(found: Needs, place: torch.device) -> str:
    """A message about the needed and the free memory.

    Raises:
        KfError: less is free than is needed.
    """
    free = free_bytes(place)
    if free is not None and found.total > free:
        raise KfError(
            f"{found}; {_size(free)} are free on {place}.",
            "in a recipe of your own: a larger accumulate (up to batch), recompute: true, train_embeddings: false,"
            " fewer groups, a shorter context, optimizer: muon; or a device with more memory",
        )
    return f"{found}." if free is None else f"{found}; {_size(free)} are free."


def free_bytes(place: torch.device) -> int | None:
    """Free memory of a device for this process; None if unknown."""
    if place.type == "cuda":
        return torch.cuda.mem_get_info(place)[0]
    table = Path("/proc/meminfo")
    if table.is_file():
        lines = dict(line.split(":", 1) for line in table.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024 // distributed.count()
    names = getattr(os, "sysconf_names", {})
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_AVPHYS_PAGES" in names else None


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
