"""The linear map for few rows against its slow twin."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kfexplore.models.layers import FEW_ROWS, Linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (2, 2), (1, FEW_ROWS + 1), (5, 3)])
def test_a_linear_map_of_few_rows_is_the_plain_one(shape: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    fast, plain = Linear(6, 10, bias=bias), nn.Linear(6, 10, bias=bias)
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(*shape, 6)
    with torch.no_grad():
        assert fast(x).shape == (*shape, 10)
        assert torch.allclose(fast(x), plain(x), atol=1e-6)


def test_gradients_reach_weights_and_input_of_few_rows() -> None:
    fast, x = Linear(6, 10), torch.randn(1, 1, 6, requires_grad=True)
    fast(x).sum().backward()
    assert x.grad is not None
    assert fast.weight.grad is not None
