"""A small pair with a tokenizer of its own."""

from __future__ import annotations

import pytest
import torch
from helpers import written_pair

from kfexplore.pair import Pair

from .synthetic import TEXT


@pytest.fixture
def pair() -> Pair:
    return written_pair([TEXT], 265, peaky=1.0, context=40)


@pytest.fixture
def fixed_law(pair: Pair) -> Pair:
    """The pair with a teacher whose distribution never changes: token 30 owns [0, 0.2], 40 (0.2, 0.5], 70 (0.5, 1)."""
    head = pair.teacher.output_layer.linear
    head.weight.zero_()
    head.bias.fill_(-100.0)
    head.bias[[30, 40, 70]] = torch.tensor([0.2, 0.3, 0.5]).log()
    return pair
