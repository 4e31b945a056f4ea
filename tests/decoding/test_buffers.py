"""Where texts end."""

from __future__ import annotations

import numpy as np
import torch

from kfexplore.decoding.buffers import Step, TokenBuffer, text_lengths


def test_a_text_ends_at_its_first_end_and_holds_it() -> None:
    tokens = np.array([[5, 0, 7, 0], [0, 1, 2, 3], [4, 5, 6, 0], [4, 5, 6, 7]])
    assert text_lengths(tokens, 0).tolist() == [2, 1, 4, 4]
    assert text_lengths(tokens, None).tolist() == [4, 4, 4, 4]


def test_an_end_behind_a_gap_ends_nothing_yet() -> None:
    sheet = TokenBuffer(1, 4, eos=0)
    sheet.write(Step(torch.tensor([[5, 0]]), places=torch.tensor([[0, 2]])))
    assert sheet.lengths.tolist() == [4]
    sheet.write(Step(torch.tensor([[7]]), places=torch.tensor([[1]])))
    assert sheet.lengths.tolist() == [3]
    assert sheet.done
