"""Training speed: what a step of the student costs beside one of the teacher, and how it grows with K."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from kfexplore import noise
from kfexplore.bench.scrub import environment
from kfexplore.config import ModelConfig, TrainConfig
from kfexplore.errors import KfError
from kfexplore.models import Student, Teacher, build
from kfexplore.training.loop import make_optimizers, tokens_per_step
from kfexplore.training.losses import student_loss, teacher_loss

SLOTS = (1, 2, 4, 8)


def bench_train(
    shape: ModelConfig, config: TrainConfig, repeats: int = 5, device: str | None = None, slots: tuple[int, ...] = SLOTS
) -> dict[str, Any]:
    """Times whole steps on random weights and tokens: targets, both passes, optimizer.

    Args:
        shape: Of the teacher; the students share it.
        config: Batch, context, groups, optimizer and precision; block and targets are set here.
        repeats: Timed steps after a warm-up; median, least and largest are reported.
        device: cpu or cuda.
        slots: Blocks K that are timed.

    Returns:
        Environment, the device's measured peak of matrix products, and one row a stage: `ms_per_step`,
        `tokens_per_second` (text tokens of the teacher, noise slots of a student), `relative` (the student's tokens a
        second over the teacher's), `flops_per_second` (multiplications and additions of the weights' products, from the
        shapes) and `share_of_peak`.
    """
    if repeats < 1:
        raise KfError(f"{repeats} repeats were asked for.", "at least 1")
    place = torch.device(device or "cpu")
    tokens = noise.generator(0).integers(0, shape.mask_id, 4 * config.context).astype(np.uint16)
    peak = _peak(place, config.precision, repeats)
    teacher = cast(Teacher, build(shape)).to(place)
    jobs: list[tuple[str, nn.Module, TrainConfig, Callable[[int], Tensor], float]] = [
        ("teacher", teacher, config, partial(teacher_loss, teacher, tokens, config), 3 * config.batch * config.context)
    ]
    frozen = cast(Teacher, build(shape)).to(place).requires_grad_(False)
    for k in slots:
        stage = dataclasses.replace(config, block=k, targets="exact")
        student = cast(Student, build(dataclasses.replace(shape, kind="student", block=k))).to(place)
        loss = partial(student_loss, student, frozen, tokens, stage)
        jobs.append(("student", student, stage, loss, token_passes(stage)))
    rows: list[dict[str, Any]] = []
    for name, model, stage, job, passes in jobs:
        seconds = _steps(model, stage, job, repeats, place)
        median = statistics.median(seconds)
        looked_up = shape.vocab_size * shape.width  # the embedding's rows are not multiplied
        weights = sum(p.numel() for p in model.parameters()) - looked_up
        rows.append(
            {
                "model": name,
                "k": stage.block if name == "student" else None,
                "batch": stage.batch,
                "context": stage.context,
                "groups": stage.groups if name == "student" else None,
                "optimizer": stage.optimizer,
                "precision": stage.precision,
                "repeats": repeats,
                "ms_per_step": 1e3 * median,
                "least_ms": 1e3 * min(seconds),
                "largest_ms": 1e3 * max(seconds),
                "tokens_per_second": tokens_per_step(model, stage) / median,
                "flops_per_second": 2 * weights * passes / median,
                "share_of_peak": 2 * weights * passes / median / peak,
            }
        )
        rows[-1]["relative"] = rows[-1]["tokens_per_second"] / rows[0]["tokens_per_second"]
    size = {"width": shape.width, "depth": shape.depth, "vocab_size": shape.vocab_size}
    return {"bench": "train", **environment(place), **size, "peak_flops_per_second": peak, "rows": rows}


def token_passes(config: TrainConfig) -> float:
    """Passes of one token through the network that a student's step costs, a backward pass counted as two forward.

    Context and slots forward and backward; the targets forward only: the teacher over the context and a token a slot
    after the first (exact), or two rounds of the frozen student (self), or the teacher over the text (inversion).
    """
    context, groups = config.context, config.groups * config.noises
    own = 3 * (context + groups * config.block)
    targets = {
        "exact": context + groups * (config.block - 1),
        "self": context + groups * (config.block // 2 + config.block),
        "inversion": context,
    }[config.targets]
    return config.batch * (own + targets)


def _steps(
    model: nn.Module, config: TrainConfig, loss: Callable[[int], Tensor], repeats: int, place: torch.device
) -> list[float]:
    optimizers = make_optimizers(model, config)

    def step(n: int) -> None:
        loss(n).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return _timed(step, repeats, place)


def _peak(place: torch.device, precision: str, repeats: int) -> float:
    """Operations a second of a large square product on this device, in this run."""
    side = 8192 if place.type == "cuda" else 1024
    square = torch.ones(side, side, device=place, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    return 2 * side**3 / min(_timed(lambda _: square @ square, repeats, place))


def _timed(job: Callable[[int], object], repeats: int, place: torch.device) -> list[float]:
    """Seconds of each repeat, after two that are not counted."""
    seconds = []
    for n in range(repeats + 2):
        start = time.perf_counter()
        job(n)
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        seconds.append(time.perf_counter() - start)
    return seconds[2:]
