"""A batch that does not fit in memory is a user's error, with its size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from kfexplore.config import DecodeConfig
from kfexplore.decoding.generate import Networks
from kfexplore.errors import KfError

SIGNS = ("out of memory", "allocate memory", "not enough memory")
"""What the message of a failed allocation says; on a CPU it is a plain RuntimeError."""


ROW = 1 << 10
"""Bytes of a row, whatever it holds: Python's own objects."""


@contextmanager
def room_for(rows: int, option: str, each: int = 0) -> Iterator[None]:
    """Refuses what cannot fit, before any of it is taken, and turns a failed allocation into a KfError.

    Linux grants memory that it does not have, and kills the process that then uses it.

    Args:
        rows: Samples of the batch.
        option: The option that sets their number.
        each: The least bytes that each takes on the host (`row_bytes`).
    """
    free = free_bytes()
    if free is not None and rows * each > free:
        raise KfError(
            f"{rows:,} samples do not fit in memory: at least {rows * each / 2**30:,.1f} GiB are needed, "
            f"{free / 2**30:,.1f} are free.",
            "fewer, or shorter ones",
            f"a smaller {option}" if rows > 1 else "fewer --max-new-tokens",
        )
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not memory and not any(sign in str(error).lower() for sign in SIGNS):
            raise
        fewer = f"{option} {rows // 2} (half of it, not tried)" if rows > 1 else "fewer --max-new-tokens"
        raise KfError(f"A batch of {rows} does not fit in memory.", "a smaller one", fewer) from error


def row_bytes(config: DecodeConfig, networks: Networks, tokens: int) -> int:
    """The least bytes that a row of so many tokens takes on the host: noise, and on a CPU what the models keep."""
    each = ROW + 24 * tokens  # noise as drawn, as numbers, and as a tensor
    for network in (getattr(networks, kind) for kind in config.models):
        if network is not None and network.device.type == "cpu":
            kept = 8 if network is networks.masked else 2 * network.config.depth  # a pass's widest, or keys and values
            each += kept * network.config.width * tokens * network.dtype.itemsize
    return each


def free_bytes() -> int | None:
    """Bytes that this process can still take, by the system and by its container; None: this system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    try:
        return min(free, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return free
