"""One process or many: `accelerate launch` and `torchrun` number them in the environment.

Every process draws the whole batch of a step and works on its own rows, and gradients are averaged: the result is that
of one process, up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from kfexplore.errors import KfError


def count() -> int:
    """Processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from 0; the first one writes files."""
    return int(os.environ.get("RANK", "0"))


def device(name: str | None) -> str:
    """Device of this process: one GPU each where `cuda` is asked for."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" and count() > 1 else name or "cpu"


def meet(place: torch.device) -> None:
    """Joins the other processes, once."""
    if place.type == "cuda":
        torch.cuda.set_device(place)  # collectives without a tensor of their own use the current device
    if count() > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")


def rows(batch: int, parts: int = 1) -> list[slice]:
    """The rows of a batch that belong to this process, in equal parts.

    Raises:
        KfError: the batch cannot be divided so.
    """
    whole = count() * parts
    if batch % whole:
        raise KfError(
            f"A batch of {batch} cannot be divided among {count()} processes in {parts} parts.",
            f"a multiple of {whole}",
            "another batch or accumulate in the recipe, or another number of processes",
        )
    share, first = batch // whole, rank() * parts
    return [slice(n * share, (n + 1) * share) for n in range(first, first + parts)]


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Replaces tensors by their mean over the processes, in one exchange."""
    held = list(tensors)
    if count() == 1 or not held:
        return
    flat = torch.cat([t.flatten() for t in held])
    dist.all_reduce(flat)
    for tensor, mean in zip(held, (flat / count()).split([t.numel() for t in held]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def wait() -> None:
    """Until all processes are here."""
    if dist.is_initialized():
        dist.barrier()
