"""A batch that does not fit in memory is a user's error, with its size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kfexplore.errors import KfError

SIGNS = ("out of memory", "allocate memory", "not enough memory")
"""What the message of a failed allocation says; on a CPU it is a plain RuntimeError."""


@contextmanager
def room_for(rows: int, option: str) -> Iterator[None]:
    """Turns a failed allocation into a KfError.

    Args:
        rows: Samples of the batch.
        option: The option that sets their number.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not memory and not any(sign in str(error).lower() for sign in SIGNS):
            raise
        fewer = f"{option} {rows // 2} (half of it, not tried)" if rows > 1 else "fewer --max-new-tokens"
        raise KfError(f"A batch of {rows} does not fit in memory.", "a smaller one", fewer) from error
