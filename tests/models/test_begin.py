"""A model that begins with another's weights computes what that one did, however many blocks it has besides."""

from __future__ import annotations

import pytest
import torch
from helpers import student, teacher

from kfexplore.models import begin_from


@pytest.mark.parametrize("deeper", [0, 2])
def test_added_blocks_change_nothing_until_they_are_trained(deeper: int) -> None:
    source, ids = student(), torch.tensor([[3, 1, 4, 1, 5]])
    noise = torch.tensor([[0.3, 0.9]], dtype=torch.float64)
    model = student(seed=7, depth=source.config.depth + deeper)
    before = model.block_logits(ids, noise)
    begin_from(model, source)
    torch.testing.assert_close(model.block_logits(ids, noise), source.block_logits(ids, noise))
    assert not torch.allclose(before, model.block_logits(ids, noise))


def test_a_student_keeps_its_own_noise_encoder_after_a_teacher() -> None:
    source, model = teacher(), student()
    own = model.noise_encoder.mlp[0].weight.clone()
    begin_from(model, source)
    assert torch.equal(model.noise_encoder.mlp[0].weight, own)
    assert torch.equal(model.vocab_embed.embedding, source.vocab_embed.embedding)


def test_added_blocks_learn() -> None:
    model = student(seed=7, depth=student().config.depth + 1)
    begin_from(model, student())
    model.requires_grad_()
    model.block_logits(torch.tensor([[3, 1]]), torch.tensor([[0.3]], dtype=torch.float64)).square().sum().backward()
    gradient = model.blocks[-1].attn_out.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0
