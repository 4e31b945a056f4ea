"""Distribution of slot 1 on a grid, where both distributions and their distance are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kfexplore.evaluate.agreement import slot_law
from kfexplore.pair import Pair

from .synthetic import TEXT


def answer_with(pair: Pair, monkeypatch: pytest.MonkeyPatch, tokens: Any) -> None:
    def forward(_: None, u: Tensor, __: Any) -> Tensor:
        return torch.nn.functional.one_hot(tokens(u), pair.teacher.config.vocab_size).float()

    monkeypatch.setattr(pair.student, "forward", forward)


def exact(u: Tensor) -> Tensor:
    return torch.where(u <= 0.2, 30, torch.where(u <= 0.5, 40, 70))


def test_exact_student_shows_what_the_grid_adds_and_no_more(fixed_law: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(fixed_law, monkeypatch, exact)
    # 4 steps: 1, 1 and 2 of them, so 0.25, 0.25 and 0.5 for 0.2, 0.3 and 0.5
    coarse = slot_law(fixed_law, [TEXT], contexts=3, resolution=4)
    assert (coarse.tv.value, coarse.tv_exact) == pytest.approx((0.05, 0.05))
    fine = slot_law(fixed_law, [TEXT], contexts=3, resolution=1000)
    assert (fine.tv.value, fine.tv.low, fine.tv.high, fine.tv_exact) == pytest.approx((0, 0, 0, 0), abs=1e-6)
    assert (fine.contexts, fine.steps) == (3, 1000)


def test_constant_student_misses_all_but_its_token(fixed_law: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(fixed_law, monkeypatch, lambda u: torch.full(u.shape, 40))
    assert slot_law(fixed_law, [TEXT], contexts=2, resolution=600).tv.value == pytest.approx(0.7)


def test_distribution_is_that_of_the_pairs_own_sweep(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts: list[list[int]] = []
    prefill = pair.student.prefill
    monkeypatch.setattr(pair.student, "prefill", lambda ids: contexts.append(ids[0].tolist()) or prefill(ids))
    measured = slot_law(pair, [TEXT], contexts=3, resolution=300, seed=2)
    monkeypatch.undo()
    assert len(contexts) == 3
    distances = []
    for ids in contexts:
        assert 8 <= len(ids) <= pair.room
        block = pair.block([ids] * 300, ((np.arange(300) + 0.5) / 300)[:, None])
        law = pair.teacher.log_probs(torch.tensor([ids]))[0, -1].double().exp().numpy()
        for tokens in (block.student[:, 0], block.teacher[:, 0]):
            distances.append(np.abs(np.bincount(tokens, minlength=len(law)) / 300 - law).sum() / 2)
    assert measured.tv.value == pytest.approx(np.mean(distances[::2]), abs=1e-3)
    assert measured.tv_exact == pytest.approx(np.mean(distances[1::2]), abs=1e-3)
    assert measured.tv.half == pytest.approx(4.3027 * np.std(distances[::2], ddof=1) / 3**0.5, abs=1e-3)
