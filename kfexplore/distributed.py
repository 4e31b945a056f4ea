"""One or several processes, started here (`--devices N`) or by `torchrun` or `accelerate launch`, which number them.

Training: every process draws the whole batch of a step and works on its own rows; gradients are averaged, so the result
is that of one process, up to rounding. Files of prefixes: whole batches are distributed, so a sample is decoded in the
same batch as on one device, with the noise of its sample number.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException, start_processes

from kfexplore.errors import KfError

STARTER = "torch.multiprocessing.spawn"
PATIENCE = timedelta(days=7)
"""How long the first process to finish a file waits for the last; one batch on a CPU may take long."""


def count() -> int:
    """Number of processes; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from 0; the first one writes files."""
    return int(os.environ.get("RANK", "0"))


def device(name: str | None) -> str:
    """Device of this process: with several processes, `cuda` means one GPU each."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" and count() > 1 else name or "cpu"


def meet(place: torch.device) -> None:
    """Initializes the process group, if there are several processes and it does not exist yet."""
    if place.type == "cuda":
        torch.cuda.set_device(place)  # collectives without a tensor of their own use the current device
    if count() > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")


def rows(batch: int, parts: int = 1) -> list[slice]:
    """The rows of a batch that belong to this process, in equal parts.

    Raises:
        KfError: the batch cannot be divided equally.
    """
    whole = count() * parts
    if batch % whole:
        raise KfError(
            f"A batch of {batch} cannot be divided among {count()} processes in {parts} parts.",
            f"a multiple of {whole}",
            "another batch or accumulate in the recipe, or another number of processes",
        )
    size, first = batch // whole, rank() * parts
    return [slice(n * size, (n + 1) * size) for n in range(first, first + parts)]


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Replaces tensors by their mean over the processes, in one exchange."""
    tensors = list(tensors)
    if count() == 1 or not tensors:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    for tensor, mean in zip(tensors, (flat / count()).split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def wait() -> None:
    """Waits for all processes."""
    if dist.is_initialized():
        dist.barrier()


@dataclass(frozen=True)
class Team:
    """This process and the group that works on one file."""

    rank: int
    """Number of this process, from 0; the first one writes files."""
    count: int
    """Number of processes."""
    device: str
    """Device of this process."""

    def gather(self, found: Any) -> list[Any]:
        """In the first process, the results of all processes in the order of their numbers."""
        every = [found] * self.count
        if self.count > 1:
            dist.gather_object(found, every if self.rank == 0 else None)
        return every


def check_devices(devices: int, device: str) -> None:
    """Raises KfError unless that many processes can be started, or were launched."""
    if count() > 1 and devices != count():
        raise KfError(f"--devices is {devices}, but {count()} processes were launched.", "one of the two")
    there = torch.cuda.device_count()
    least = devices if count() == 1 else 1  # launched processes may be on several machines
    if devices > 1 and device.startswith("cuda") and there < least:
        valid = f"--devices 1 to {there}" if there else "--device cpu (no CUDA device is visible)"
        raise KfError(f"{devices} CUDA devices were requested, but {there} are visible.", valid)
    if devices > 1 and ":" in device:
        raise KfError(f"{devices} devices were requested, but --device names one: {device}.", "--device cuda")


@contextmanager
def joined(name: str) -> Iterator[Team]:
    """The process group, initialized while the context is open; `name` is the device, cpu or cuda."""
    team = Team(rank(), count(), device(name))
    if team.count == 1:
        yield team
        return
    if name == "cuda":
        torch.cuda.set_device(team.device)
    dist.init_process_group("gloo", timeout=PATIENCE)  # only Python objects are exchanged
    yield team
    dist.destroy_process_group()  # skipped after an error: it would wait for the others


def in_processes(work: Callable[[Any], Any], request: Any, count: int) -> Any:
    """Runs `work(request)` in `count` new processes, which call `joined`; returns the result of the first.

    Raises:
        KfError: the first one raised by a process, or a process exited without reporting an error.
    """
    answers = multiprocessing.get_context("spawn").SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logging.getLogger(STARTER).setLevel(logging.ERROR)  # it warns about every process stopped after another's error
    failed: Exception | None = None
    try:
        start_processes(_process, (work, request, count, port, answers), nprocs=count, start_method="spawn")
    except ProcessException as error:
        failed = error
    while not answers.empty():
        answer = answers.get()
        if isinstance(answer, KfError):
            raise answer from None
        if failed is None:
            return answer
    raise KfError(
        f"One of {count} processes exited without reporting an error: {failed}.",
        "--devices 1, which shows whether their number is the cause",
    )


def _process(rank: int, work: Callable[[Any], Any], request: Any, count: int, port: int, answers: Any) -> None:
    """Body of a new process; sends a KfError to the parent."""
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        answer = work(request)
    except KfError as error:
        answers.put(error)
        sys.exit(2)
    if rank == 0:
        answers.put(answer)
