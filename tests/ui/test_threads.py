"""Threads of a question: one where the models are small, and as before when it is answered."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch

from kfexplore.pair import Pair
from kfexplore.ui import jobs
from kfexplore.ui.jobs import few_threads


@pytest.mark.parametrize(("small", "within"), [(10**12, 1), (0, 2)])
def test_small_models_work_on_one_thread(pair: Pair, monkeypatch: pytest.MonkeyPatch, small: int, within: int) -> None:
    monkeypatch.setattr(jobs, "SMALL", small)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with suppress(ZeroDivisionError), few_threads(pair):
            assert torch.get_num_threads() == within
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
