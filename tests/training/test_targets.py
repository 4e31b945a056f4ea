"""What the student learns from: the exact map at many positions at once, and the two rounds of self-forcing."""

from __future__ import annotations

import numpy as np
import torch
from helpers import student, teacher

from kfexplore.maps import PrefilledContext
from kfexplore.training.targets import exact_targets, self_targets

IDS = torch.randint(0, 23, (3, 9), generator=torch.Generator().manual_seed(0))
ENDS = torch.tensor([[9, 1, 4, 4], [2, 7, 9, 1], [5, 3, 8, 6]])
NOISE = torch.rand(3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_exact_targets_are_the_exact_map_after_each_prefix() -> None:
    source, learner = teacher(1), student()
    targets = exact_targets(source, IDS, NOISE, ENDS)
    for b, g in np.ndindex(3, 4):
        here = PrefilledContext(source, learner, IDS[b, : ENDS[b, g]])
        assert targets[b, g].tolist() == here.exact(NOISE[b, g][None].numpy())[0][0].tolist()


def test_self_targets_are_two_explicit_rounds_of_the_frozen_student() -> None:
    source = student(block=2)
    targets = self_targets(source, IDS, NOISE, ENDS)
    for b, g in np.ndindex(3, 4):
        ids, u = IDS[b : b + 1, : ENDS[b, g]], NOISE[b, g][None]
        first = source.block_logits(ids, u[:, :2]).argmax(dim=-1)
        second = source.block_logits(torch.cat([ids, first], dim=1), u[:, 2:]).argmax(dim=-1)
        assert targets[b, g].tolist() == [*first[0].tolist(), *second[0].tolist()]


def test_targets_carry_no_gradient() -> None:
    networks = teacher().requires_grad_(True), student(block=2).requires_grad_(True)
    for target in (exact_targets(networks[0], IDS, NOISE, ENDS), self_targets(networks[1], IDS, NOISE, ENDS)):
        assert target.shape == (3, 4, 4)
        assert target.dtype == torch.int64
        assert not target.requires_grad
