"""One process a device: the batches are shared out, and what each has written is brought together.

Processes are started here (`--devices N`) or by `accelerate launch` and `torchrun`, which number them in the
environment; accelerate joins them either way. Batches are shared whole, so a sample is written beside the same others
as on one device, under the noise of its own number.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessException, start_processes

from kfexplore.errors import KfError

STARTER = "torch.multiprocessing.spawn"
PATIENCE = timedelta(days=7)
"""The first to finish waits for the last; a batch on a CPU may take long."""


@dataclass(frozen=True)
class Team:
    """This process among those that work together."""

    rank: int
    """Its number, from 0; the first one writes files."""
    count: int
    """How many there are."""
    device: str
    """Its own."""

    def gather(self, found: Any) -> list[Any]:
        """What every process found, in the order of their numbers."""
        if self.count == 1:
            return [found]
        every: list[Any] = importlib.import_module("accelerate.utils").gather_object([found])
        return every


def share(batches: int, rank: int, count: int) -> range:
    """The batches of one process: every `count`-th, so that no process has more than one above another.

    Raises:
        KfError: some process would have none.
    """
    if batches < count:
        raise KfError(
            f"{batches} batches cannot occupy {count} devices.", f"1 to {batches} devices", "a smaller --batch_size"
        )
    return range(rank, batches, count)


def launched() -> int:
    """Processes that a launcher has started; 1 where there is none."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_devices(devices: int, device: str) -> None:
    """Raises KfError unless so many processes can be started, or have been."""
    if launched() > 1 and devices != launched():
        raise KfError(f"--devices is {devices}, and {launched()} processes were launched.", "one of the two")
    if devices > 1 and importlib.util.find_spec("accelerate") is None:
        raise KfError("Several devices need the package accelerate.", "--devices 1", "pip install accelerate")
    there = torch.cuda.device_count()
    least = devices if launched() == 1 else 1  # those that were launched may be on several machines
    if devices > 1 and device.startswith("cuda") and there < least:
        valid = f"--devices 1 to {there}" if there else "--device cpu (no CUDA device is seen here)"
        raise KfError(f"{devices} CUDA devices were asked for, and {there} can be seen.", valid)
    if devices > 1 and ":" in device:
        raise KfError(f"{devices} devices were asked for, and one is named: {device}.", "--device cuda")


@contextmanager
def joined(device: str) -> Iterator[Team]:
    """This process, with the others where there are any.

    Args:
        device: cpu or cuda.
    """
    if launched() == 1:
        yield Team(0, 1, device)
        return
    state = importlib.import_module("accelerate").PartialState(cpu=device == "cpu", timeout=PATIENCE)
    yield Team(state.process_index, state.num_processes, str(state.device))
    state.destroy_process_group()  # not reached after an error: the others would be waited for


def in_processes(work: Callable[[Any], Any], request: Any, count: int) -> Any:
    """Runs `work(request)` in `count` new processes that can be `joined`; returns what the first gives.

    Raises:
        KfError: the first that one of them raises, or one has ended without a word.
    """
    answers = multiprocessing.get_context("spawn").SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logging.getLogger(STARTER).setLevel(logging.ERROR)  # it tells of every process that it stops after another's error
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
    raise KfError(f"One of {count} processes has ended: {failed}.", "--devices 1 shows whether it is their number")


def _process(rank: int, work: Callable[[Any], Any], request: Any, count: int, port: int, answers: Any) -> None:
    """One of the new processes; a KfError goes to the one that started it."""
    threads = max(1, torch.get_num_threads() // count)
    torch.set_num_threads(threads)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),  # accelerate says so aloud where it has to choose
    }
    try:
        answer = work(request)
    except KfError as error:
        answers.put(error)
        sys.exit(2)
    if rank == 0:
        answers.put(answer)
