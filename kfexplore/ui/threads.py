"""How many threads a question may take: passes of a small model gain little from a second one, and others need it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from kfexplore.pair import Pair

SMALL: Final = 32_000_000
"""Weights of a teacher's blocks below which one thread is enough."""


def is_small(pair: Pair) -> bool:
    """Whether a CPU answers fast enough for a slider."""
    return pair.teacher.config.block_weights < SMALL


@contextmanager
def few_threads(pair: Pair) -> Iterator[None]:
    """Within it this thread works alone, if the models are small; others keep what they have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if is_small(pair) else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
