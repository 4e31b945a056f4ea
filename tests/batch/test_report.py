"""What is counted of a run."""

from __future__ import annotations

import numpy as np

from kfexplore.batch.report import acceptance, right_guesses


def test_right_guesses_leave_out_the_round_that_fills_a_row() -> None:
    # Of 7 tokens, row 0 gains 3 and 2, and its last 2 are cut; row 1 gains 5, its last 2 are cut, and it waits.
    kept = np.array([[3, 5], [2, 2], [2, 0]])
    assert right_guesses(kept, 7) == ((3 - 1) + (2 - 1) + (5 - 1), 3)
    assert acceptance(7, 3, 4) == 7 / 12


def test_no_whole_round_has_no_acceptance() -> None:
    assert right_guesses(np.array([[2]]), 2) == (0, 0)
    assert acceptance(0, 0, 4) is None
