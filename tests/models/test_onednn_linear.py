"""Packed linear maps against their slow twin."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kfexplore.models.onednn_linear import SMALL, Linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("gelu", "added"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (5, 7)])
def test_a_packed_map_is_the_plain_one(shape: tuple[int, int], gelu: bool, added: bool, bias: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(6, 10, bias=bias)
    x = torch.randn(*shape, 6)
    add = torch.randn(*shape, 10) if added else None
    with torch.no_grad():
        assert torch.allclose(layer(x, gelu, add), layer.plain(x, gelu, add), atol=1e-6)


def test_a_single_row_of_large_weights_is_the_plain_one() -> None:
    torch.manual_seed(0)
    layer = Linear(1024, SMALL // 1024)
    x = torch.randn(1, 1, 1024)
    with torch.inference_mode():
        assert layer._packs(x)
        assert torch.allclose(layer(x), layer.plain(x), atol=1e-5)


def test_weights_that_change_are_packed_anew() -> None:
    layer, x = Linear(6, 10), torch.randn(3, 6)
    with torch.no_grad():
        layer(x)
        layer.weight.mul_(2)
        assert torch.allclose(layer(x), layer.plain(x), atol=1e-6)
        layer.weight = nn.Parameter(torch.randn(10, 6))
        assert torch.allclose(layer(x), layer.plain(x), atol=1e-6)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        assert torch.equal(twin(x), layer(x))


def test_other_precisions_and_autocast_take_the_plain_product() -> None:
    layer, x = Linear(6, 10), torch.randn(3, 6)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
        assert layer.double()(x.double()).dtype == torch.float64


def test_gradients_reach_weights_and_input() -> None:
    fast, x = Linear(6, 10), torch.randn(1, 1, 6, requires_grad=True)
    fast(x).sum().backward()
    assert x.grad is not None
    assert fast.weight.grad is not None
