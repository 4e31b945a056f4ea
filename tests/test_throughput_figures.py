"""Figures of the throughput study draw the numbers that they are given, and say what never pays."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.throughput_figures import Payback, StepTime, payback_figure, rounds_figure, steps_figure


def test_steps_show_times_and_least_times() -> None:
    steps = [StepTime("AR", 4, 8.0, 0.08), StepTime("AR", 128, 10.0, 0.5), StepTime("K = 4", 4, 9.0, 0.1)]
    figure = steps_figure(steps)
    found = {trace.name: list(trace.y) for trace in figure.data}
    assert found == {"AR": [8.0, 10.0], "AR, least": [0.08, 0.5], "K = 4": [9.0], "K = 4, least": [0.1]}
    assert "20 to 100 times" in figure.layout.title.text


def test_rounds_add_up_and_waiting_is_counted() -> None:
    kept = np.array([[2, 4], [3, 4], [1, 0], [2, 0]])
    figure = rounds_figure(kept, 4)
    lines = [list(trace.y) for trace in figure.data]
    assert lines == [[0, 2, 5, 6, 8], [0, 4, 8, 8, 8], [0, 4, 8]]
    assert "after 2 to 4 rounds, and 25%" in figure.layout.title.text


@pytest.mark.parametrize("never", [True, False])
def test_payback_marks_what_never_pays(never: bool) -> None:
    paybacks = [Payback("pair", 1, 1e6), Payback("pair", 4, None if never else 1e7), Payback("OWT", 1, 1e9)]
    figure = payback_figure(paybacks)
    found = {trace.name: list(trace.y) for trace in figure.data}
    assert found["pair"] == [1e6, None if never else 1e7]
    assert found["OWT"] == [1e9]
    assert ("pair: never" in found) == never
    assert ("or never" in figure.layout.title.text) == never
    assert "1.0e6 to 1.0e9" in figure.layout.title.text
    low, high = figure.layout.yaxis.range
    assert all(low < np.log10(y) < high for ys in found.values() for y in ys if y is not None)
