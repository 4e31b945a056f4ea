"""A small pair with a tokenizer of its own."""

from __future__ import annotations

import pytest
import torch
from helpers import student, teacher

from kfexplore.pair import Pair
from kfexplore.training.data import train_tokenizer

from .synthetic import TEXT


@pytest.fixture
def pair() -> Pair:
    tokenizer = train_tokenizer([TEXT], 265)
    rows = tokenizer.get_vocab_size() + 1
    networks = (teacher(1, vocab_size=rows, context=40), student(11, vocab_size=rows, context=40))
    return Pair(*networks, tokenizer=tokenizer)


@pytest.fixture
def fixed_law(pair: Pair) -> Pair:
    """The pair with a teacher whose law never changes: token 30 owns [0, 0.2], 40 (0.2, 0.5], 70 (0.5, 1)."""
    head = pair.teacher.output_layer.linear
    head.weight.zero_()
    head.bias.fill_(-100.0)
    head.bias[[30, 40, 70]] = torch.tensor([0.2, 0.3, 0.5]).log()
    return pair
