"""What is handed to flash-attn, against plain attention; the kernel itself needs its GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import teacher
from torch import Tensor

from kfexplore.models import StaticCache, attention, kernels


def stand_in(q: Tensor, k: Tensor, v: Tensor, cache_seqlens: Tensor, causal: bool) -> Tensor:
    """flash_attn_with_kvcache by its documentation: (B, t, h, d), causal from the last key of each row."""
    assert causal
    assert cache_seqlens.dtype == torch.int32
    out = torch.empty_like(q)
    for row, end in enumerate(cache_seqlens.tolist()):
        for i in range(q.shape[1]):
            seen = end - q.shape[1] + i + 1
            scores = torch.einsum("hd,nhd->hn", q[row, i], k[row, :seen]) * q.shape[-1] ** -0.5
            out[row, i] = torch.einsum("hn,nhd->hd", scores.softmax(-1), v[row, :seen])
    return out


@pytest.mark.parametrize("start", [4, torch.tensor([2, 4])], ids=["level", "ragged"])
def test_rows_are_attended_as_without_it(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, ids = teacher(), torch.tensor([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])

    def logits() -> Tensor:
        cache = StaticCache(12)
        cache.place(0, 4)
        network(ids[:, :4], cache)
        cache.place(start, 3, 4)
        return network(ids[:, 4:], cache)

    with torch.inference_mode():
        plain = logits()
        monkeypatch.setattr(attention, "flash_usable", lambda _: True)
        monkeypatch.setattr(kernels, "_flash_attn", lambda: stand_in)
        assert torch.allclose(logits(), plain, atol=1e-5)


def test_without_a_gpu_it_is_not_used() -> None:
    assert not kernels.flash_usable(torch.zeros(1, 1, 1, 8, dtype=torch.bfloat16))


def test_one_switch_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFEXPLORE_ATTENTION", "torch")
    monkeypatch.setattr(kernels.importlib, "import_module", lambda _: pytest.fail("asked for flash-attn"))
    assert kernels._flash_attn.__wrapped__() is None
