"""Training speed: the cost of a student's step compared with the teacher's, and its growth with K."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from kfexplore import distributed, noise
from kfexplore.bench.setting import environment, measure_peaks, timed
from kfexplore.config import ModelConfig
from kfexplore.errors import KfError
from kfexplore.models import Student, Teacher, build
from kfexplore.training.config import TrainConfig
from kfexplore.training.data import Corpus
from kfexplore.training.loop import backward, make_optimizers, tokens_per_step
from kfexplore.training.losses import student_loss, teacher_loss

SLOTS = (1, 2, 4, 8)
WARM_UPS = 2


def bench_train(
    teacher_shape: ModelConfig,
    student_shape: ModelConfig,
    config: TrainConfig,
    repeats: int = 5,
    device: str | None = None,
    slots: tuple[int, ...] = SLOTS,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Times whole steps on random weights and tokens: targets, both passes, optimizer.

    Args:
        student_shape: Shape of the students, apart from their block.
        config: Batch, context, groups, optimizer and precision; block and targets are set here.
        repeats: Timed steps after a warm-up; the row has median, smallest and largest.
        device: cpu or cuda.
        slots: Block sizes K to time.
        report: Called with each row.

    Returns:
        Environment, the device's measured peak for matrix products, and one row per stage: `ms_per_step`,
        `tokens_per_second` (text tokens of the teacher, noise slots of a student), `relative` (the student's tokens per
        second over the teacher's), `flops_per_second` (multiplications and additions of the weights' products, from the
        shapes) and `share_of_peak`.
    """
    if repeats < 1:
        raise KfError(f"{repeats} repeats were requested.", "at least 1")
    place = torch.device(device or "cpu")
    corpus = Corpus(noise.generator(0, "tokens").integers(0, teacher_shape.mask_id, 4 * config.context))
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    peak = measure_peaks(place, dtype, repeats).flops_per_second
    teacher = cast(Teacher, build(teacher_shape)).to(place)
    flops: float = 2 * _multiplied(teacher) * 3 * config.batch * config.context
    jobs: list[tuple[str, nn.Module, TrainConfig, Callable[..., Tensor], float]] = [
        ("teacher", teacher, config, partial(teacher_loss, teacher, corpus, config), flops)
    ]
    frozen = cast(Teacher, build(teacher_shape)).to(place).requires_grad_(False)
    for k in slots:
        stage = dataclasses.replace(config, block=k, targets="exact")
        student = cast(Student, build(dataclasses.replace(student_shape, block=k))).to(place)
        loss = partial(student_loss, student, frozen, corpus, stage)
        own, targets = token_passes(stage)
        flops = 2 * (_multiplied(student) * own + _multiplied(frozen) * targets)
        jobs.append(("student", student, stage, loss, flops))
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(jobs) * (WARM_UPS + repeats), unit="step", leave=False, disable=None) as bar:
        for name, model, stage, job, flops in jobs:
            bar.set_description(name if name == "teacher" else f"{name}, K = {stage.block}")
            seconds = _steps(model, stage, job, repeats, place, bar.update)
            median = statistics.median(seconds)
            rows.append(
                {
                    "model": name,
                    "k": stage.block if name == "student" else None,
                    "depth": cast(Teacher | Student, model).config.depth,
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
                    "flops_per_second": flops / median,
                    "share_of_peak": flops / median / peak,
                }
            )
            rows[-1]["relative"] = rows[-1]["tokens_per_second"] / rows[0]["tokens_per_second"]
            report(rows[-1])
    size = {"width": teacher_shape.width, "vocab_size": teacher_shape.vocab_size}
    return {"bench": "train", **environment(place), **size, "peak_flops_per_second": peak, "rows": rows}


def token_passes(config: TrainConfig) -> tuple[int, int]:
    """Cost of a student's step in forward passes of one token; a backward pass counts as two.

    Returns:
        Passes through the student: context and slots, forward and backward. Passes through the frozen model for the
        targets, forward only: the teacher over the context and one token per slot after the first (exact), two rounds
        of the previous student (self), or the teacher over the text (inversion); once more over the context if
        `ntp_loss_weight` needs its next-token distribution.
    """
    context, groups = config.context, config.groups * config.noises
    own = 3 * (context + groups * config.block)
    targets = {
        "exact": context + groups * (config.block - 1),
        "self": context + groups * (config.block // 2 + config.block),
        "inversion": context,
    }[config.targets]
    targets += context if config.ntp_loss_weight else 0
    own += round(1.5 * config.on_policy_fraction * context)  # half is read, half is written at two tokens per slot
    return config.batch * own, config.batch * targets


def _multiplied(model: nn.Module) -> int:
    """Weights that each token is multiplied by: all except the embedding's rows, which are looked up."""
    return sum(p.numel() for name, p in model.named_parameters() if name != "vocab_embed.embedding")


def _steps(
    model: nn.Module,
    config: TrainConfig,
    loss: Callable[..., Tensor],
    repeats: int,
    place: torch.device,
    ran: Callable[[], object],
) -> list[float]:
    optimizers, parts = make_optimizers(model, config), distributed.rows(config.batch, config.accumulate)

    def step(n: int) -> None:
        backward(lambda step, rows: loss(step, rows=rows), n, parts)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    steps = itertools.count()
    return timed(lambda: step(next(steps)), repeats, place, WARM_UPS, ran)
