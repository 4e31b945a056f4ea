"""flash-attn for decoding, where it is installed and the models run in half precision on CUDA.

KFEXPLORE_ATTENTION=torch turns it off: PyTorch's own kernels then do the same with a mask, as they do everywhere else.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def usable(q: Tensor) -> bool:
    """Whether flash-attn takes these queries."""
    return q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and _with_cache() is not None


def attend_ends(q: Tensor, k: Tensor, v: Tensor, ends: Tensor) -> Tensor:
    """Attention of the last t tokens of rows that end at different positions, each seeing those up to itself.

    Args:
        q: (B, h, t, d), at positions ends - t .. ends - 1.
        k: (B, h, n, d) keys at their positions.
        v: (B, h, n, d).
        ends: (1 or B,) int64.

    Returns:
        (B, h, t, d).
    """
    run = _with_cache()
    assert run is not None
    lengths = ends.to(torch.int32).expand(q.shape[0]).contiguous()
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    out: Tensor = run(q, k, v, cache_seqlens=lengths, causal=True)
    return out.transpose(1, 2)


@lru_cache(maxsize=1)
def _with_cache() -> Callable[..., Any] | None:
    if os.environ.get("KFEXPLORE_ATTENTION", "flash") != "flash":
        return None
    try:
        found: Callable[..., Any] = importlib.import_module("flash_attn").flash_attn_with_kvcache
    except (ImportError, AttributeError):
        return None
    return found
