"""How fast the scrub tab's questions are answered: blocks, sweeps and grids, in seconds."""

from __future__ import annotations

import dataclasses
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch

import kfexplore
from kfexplore import noise
from kfexplore.config import ModelConfig
from kfexplore.errors import KfError
from kfexplore.maps import block, grid, sweeps
from kfexplore.models import Student, Teacher, build
from kfexplore.pair import Pair

Job = tuple[str, dict[str, Any], Callable[[], object]]

SIZES = {"owt": (50258, 768, 12, 12, 50257, 1024), "lm1b": (30522, 768, 12, 12, 103, 128)}
"""Rows, width, depth, heads, mask id and context of the published models."""


def environment(device: torch.device) -> dict[str, Any]:
    """What a timing hangs on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": device.type,
        "device_name": name,
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "versions": {
            "kfexplore": kfexplore.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }


def random_pair(size: str, device: str | None = None) -> Pair:
    """Teacher and student of a published size (`SIZES`) with random weights and no tokenizer."""
    if size not in SIZES:
        raise KfError(f"There is no size {size!r}.", ", ".join(SIZES))
    rows, width, depth, heads, mask, context = SIZES[size]
    shape = ModelConfig("teacher", rows, width, depth, heads, mask, context)
    student = dataclasses.replace(shape, kind="student", block=4)
    models = [build(config).to(device or "cpu").eval().requires_grad_(False) for config in (shape, student)]
    return Pair(cast(Teacher, models[0]), cast(Student, models[1]), info={"name": f"random weights, size {size}"})


def bench_scrub(pair: Pair, context_length: int = 64, repeats: int = 5, tables: bool = True) -> dict[str, Any]:
    """Times what one person's dragging asks of the models, after one warm-up each.

    Args:
        pair: Teacher and student.
        context_length: Tokens of the context, drawn at random.
        tables: Also sweeps and grids (minutes on a CPU at the published sizes); needs K of at least 2.
        repeats: Timed repeats; median, least and largest are reported.

    Returns:
        The document of `kfexplore bench scrub`: environment, and `rows` with every setting.
    """
    if not 1 <= repeats <= 999:
        raise KfError(f"{repeats} repeats were asked for.", "1 to 999")
    ids = noise.generator(0).integers(0, pair.teacher.config.vocab_size, size=context_length).tolist()
    points = noise.uniform(0, range(1000), 0, pair.student.config.block)
    fresh = itertools.cycle(points)  # a repeat must not find what the last one left in the context
    context = pair.hold(ids)
    slots = list(range(context.slots))
    jobs: list[Job] = [
        ("hold", {}, lambda: pair.hold(ids)),
        ("block", {}, lambda: block(context, next(fresh))),
    ]
    if tables:
        side = (np.arange(128) + 0.5) / 128
        square = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
        jobs += [
            ("sweeps", {"resolution": 256}, lambda: sweeps(context, next(fresh), slots, 256)),
            ("sweeps", {"resolution": 512}, lambda: sweeps(context, next(fresh), slots, 512)),
            ("grid_student", {"resolution": 128}, lambda: context.learned(square)),
            ("grid", {"resolution": 128}, lambda: grid(context, next(fresh), (0, 1), 128)),
        ]
    config = pair.student.config
    shape = {"pair": pair.info.get("name"), "context": len(ids), "k": context.slots}
    shape |= {"width": config.width, "depth": config.depth, "vocab_size": config.vocab_size}
    rows = [_timed(name, {**shape, **settings}, job, repeats) for name, settings, job in jobs]
    return {
        "bench": "scrub",
        **environment(pair.student.device),
        "rows": rows,
    }


def _timed(name: str, settings: dict[str, Any], job: Callable[[], object], repeats: int) -> dict[str, Any]:
    job()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    spread = {"seconds": statistics.median(seconds), "least": min(seconds), "largest": max(seconds)}
    return {"what": name, **settings, "repeats": repeats, **spread}
