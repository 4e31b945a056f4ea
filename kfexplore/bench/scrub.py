"""How fast the scrub tab's questions are answered: blocks, sweeps and grids, in seconds."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from kfexplore import noise
from kfexplore.config import ModelConfig
from kfexplore.maps import HeldContext, block, grid, sweeps
from kfexplore.models import Student, Teacher, build
from kfexplore.pair import Pair

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
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def random_models(size: str) -> tuple[Teacher, Student]:
    """Teacher and student of a published size with random weights."""
    rows, width, depth, heads, mask, context = SIZES[size]
    shape = {"vocab_size": rows, "width": width, "depth": depth, "heads": heads, "mask_id": mask, "context": context}
    teacher, student = build(ModelConfig("teacher", **shape)), build(ModelConfig("student", **shape, block=4))
    assert isinstance(teacher, Teacher)
    assert isinstance(student, Student)
    return teacher.eval(), student.eval()


def bench_scrub(pair: Pair, ids: list[int], repeats: int = 5) -> dict[str, Any]:
    """Times what one person's dragging asks of the models, after one warm-up each.

    Args:
        pair: Teacher and student.
        ids: The context.
        repeats: Timed repeats; median, least and largest are reported.

    Returns:
        The document of `kfexplore bench scrub`: environment, and `rows` with every setting.
    """
    points = noise.uniform(0, range(1000), 0, pair.student.config.block)
    fresh = iter(points)
    context = pair.hold(ids)
    slots = list(range(context.slots))
    pairwise = (0, 1) if context.slots > 1 else None
    jobs: list[tuple[str, dict[str, Any], Callable[[], object]]] = [
        ("hold", {}, lambda: pair.hold(ids)),
        ("block", {}, lambda: block(context, next(fresh))),
        ("sweeps", {"resolution": 256}, lambda: sweeps(pair.hold(ids), points[0], slots, 256)),
        ("sweeps", {"resolution": 512}, lambda: sweeps(pair.hold(ids), points[0], slots, 512)),
    ]
    if pairwise:
        side = (np.arange(128) + 0.5) / 128
        square = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
        jobs += [
            ("grid_student", {"resolution": 128}, lambda: context.learned(square)),
            ("grid", {"resolution": 128}, lambda: grid(context, points[0], pairwise, 128)),
        ]
    rows = [_timed(name, settings, job, repeats) for name, settings, job in jobs]
    shape = {"context": len(ids), "k": context.slots, "width": pair.student.config.width, "depth": pair.student.config.depth}
    return {"bench": "scrub", **environment(pair.student.device), "pair": pair.info.get("name"), **shape, "rows": rows}


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
