"""Shared parts of all timings: the environment, models of a published size, the device's measured peaks."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch

import kfexplore
from kfexplore.config import ModelConfig
from kfexplore.errors import KfError
from kfexplore.models import AnyModel, Student, Teacher, build
from kfexplore.models.fast_paths import FAST_PATHS, summary
from kfexplore.models.onednn_linear import multiply, pack
from kfexplore.pair import Pair
from kfexplore.results import DevicePeaks

SIZES = {"owt": (50258, 768, 12, 12, 50257, 1024), "lm1b": (30522, 768, 12, 12, 103, 128)}
"""Rows, width, depth, heads, mask id and context of the published models."""
COPIED = 2**28
"""Bytes of the buffer whose copy is timed; eight times as many on CUDA."""
OTHERS = 0.75
"""A load average that exceeds a timing's own threads by this much means that other work is running."""
LEAST_SECONDS = 20
"""A shorter timing hardly moves the load average, which is updated every five seconds."""


def environment(device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Conditions that affect a timing."""
    return {
        "device": device.type,
        "device_name": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "versions": {
            "kfexplore": kfexplore.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "fast_paths": summary(),
    }


def device_name(device: torch.device) -> str:
    """The name of a GPU or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def facts() -> str:
    """Versions, devices and fast paths of this process in one line; `kfexplore doctor` shows more."""
    most = torch.get_num_threads()
    devices = ["CPU (1 thread)" if most == 1 else f"CPU (up to {most} threads)"]
    devices += [device_name(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]
    parts = [f"kfexplore {kfexplore.__version__}", f"torch {torch.__version__}", ", ".join(devices)]
    for state in ("active", "disabled"):
        if names := [path.name for path in FAST_PATHS if path.state == state]:
            parts.append(f"fast paths {state}: {', '.join(names)}")
    return " · ".join(parts)


@dataclass(frozen=True)
class Load:
    """Load averages around a timing: threads running or waiting for a core, over one minute, as in `uptime`."""

    before: float
    after: float
    seconds: float
    """Time between the two."""
    own: int
    """Threads of the timing itself."""

    @property
    def during(self) -> float:
        """Mean during the timing: the exponential average without the earlier load; the larger of the two if short."""
        if self.seconds < LEAST_SECONDS:
            return max(self.before, self.after)
        left = math.exp(-self.seconds / 60)
        return max(0.0, (self.after - left * self.before) / (1 - left))

    @property
    def busy(self) -> bool:
        """Whether other work was clearly running."""
        return self.during > self.own + OTHERS

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"load_average": self.before, "load_after": self.after, "load_during": self.during, "busy": self.busy}


def own_threads(device: torch.device) -> int:
    """Threads that a timing itself uses: torch's on a CPU, else the one that feeds the accelerator."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def random_pair(size: str, device: str | None = None) -> Pair:
    """Teacher and student of a published size (`SIZES`) with random weights and no tokenizer."""
    if size not in SIZES:
        raise KfError(f"There is no size {size!r}.", ", ".join(SIZES))
    shape = ModelConfig("teacher", *SIZES[size])
    student = dataclasses.replace(shape, kind="student", block=4)
    models = [build(config).to(device or "cpu").eval().requires_grad_(False) for config in (shape, student)]
    return Pair(cast(Teacher, models[0]), cast(Student, models[1]), info={"name": f"random weights, size {size}"})


def in_dtype(model: AnyModel, dtype: torch.dtype) -> AnyModel:
    """Converts a model's weights in place; buffers (the rotary frequencies) keep their type."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model.eval().requires_grad_(False)


def timed(
    job: Callable[[], object],
    repeats: int,
    place: torch.device,
    warm_ups: int = 1,
    ran: Callable[[], object] = lambda: None,
) -> list[float]:
    """Seconds per repeat; the clock stops after the device has finished.

    Args:
        warm_ups: Runs that are not counted.
        ran: Called after every run, outside the clock.
    """
    for _ in range(warm_ups):
        job()
        synchronise(place)
        ran()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        synchronise(place)
        seconds.append(time.perf_counter() - start)
        ran()
    return seconds


def synchronise(place: torch.device) -> None:
    """Waits until the device has finished."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def measure_peaks(place: torch.device, dtype: torch.dtype, repeats: int = 5) -> DevicePeaks:
    """Times a copy and a matrix product; the fastest repeat of each counts."""
    with torch.inference_mode():
        source = torch.ones(COPIED // 4 * (8 if place.type == "cuda" else 1), device=place)
        target = torch.empty_like(source)
        copied = 2 * source.numel() * 4 / min(timed(lambda: target.copy_(source), repeats, place))
        side = 8192 if place.type == "cuda" else 1536
        square = torch.linspace(-1, 1, side * side, device=place).view(side, side).to(dtype)
        product = partial(torch.nn.functional.linear, square, square)
        if place.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
            product = partial(multiply, square, pack(square), None)
        multiplied = min(timed(product, repeats, place))
    return DevicePeaks(copied, 2 * side**3 / multiplied)
