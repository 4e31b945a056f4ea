"""flash-attn for decoding, where it is installed and the models run in half precision on CUDA.

KFEXPLORE_ATTENTION=torch turns it off: PyTorch's own kernels then do the same with a mask, as they do everywhere else.
The first use for a device, dtype and head size is compared with them (`kfexplore.models.fast_paths`).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kfexplore.models.fast_paths import ATTENTION_VARIABLE, FLASH, difference


def usable(q: Tensor) -> bool:
    """Whether flash-attn takes these queries, and does what PyTorch's own kernels do."""
    return _takes(q) and FLASH.works_for(q, lambda: _difference(q))


def _takes(q: Tensor) -> bool:
    return q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and _with_cache() is not None


def _difference(like: Tensor) -> str:
    """How flash-attn differs from PyTorch's kernels on two short rows, of the dtype and head size of `like`."""
    held = torch.arange(3 * 2 * 2 * 8 * like.shape[-1], device=like.device).sin().to(like.dtype)
    q, k, v = held.view(3, 2, 2, 8, -1).unbind()
    ends, q = torch.tensor([5, 8], device=like.device), q[:, :, :3]
    last = ends[:, None] - 3 + torch.arange(3, device=like.device)
    mask = (torch.arange(8, device=like.device) <= last[..., None])[:, None]
    return difference([attend_ends(q, k, v, ends)], [F.scaled_dot_product_attention(q, k, v, attn_mask=mask)])


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
    if os.environ.get(ATTENTION_VARIABLE, "flash") != "flash":
        return None
    try:
        found: Callable[..., Any] = importlib.import_module("flash_attn").flash_attn_with_kvcache
    except (ImportError, AttributeError):
        return None
    return found
