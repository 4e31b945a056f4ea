"""Figures of samples: what each mark stands for, and what the titles find."""

from __future__ import annotations

import numpy as np
import pytest

from kfexplore.figures.frontiers import (
    frontier_figure,
    leading_figure,
    perplexity_figure,
    slot_losses_figure,
    survival_figure,
)
from kfexplore.results import Estimate, SampleQuality
from kfexplore.results.frontiers import Frontier, Leading, SlotLosses, Survival


def about(value: float) -> Estimate:
    return Estimate(value, value - 0.25, value + 0.5)


def row(name: str, loss: float, entropy: float, k: int = 1, tau: float = 1.0) -> SampleQuality:
    return SampleQuality(
        name, k, 0.0, None, tau, 8, about(loss), about(loss), about(entropy), *[about(0.5)] * 4, about(loss / 10)
    )


OWN = [row("AR, tau 0.5", 1.0, 3.0, tau=0.5), row("AR", 2.0, 3.5)]
STUDENT = [row("K = 1", 1.5, 3.25), row("K = 2", 4.0, 3.125, k=2)]
FRONTIERS = [
    Frontier("AR over temperature", ["tau 0.5", "tau 1"], OWN),
    Frontier("over K", ["K = 1", "K = 2"], STUDENT),
]


def text(figure: object) -> str:
    return figure.layout.title.text.replace("<br>", " ")  # type: ignore[attr-defined, no-any-return]


def test_frontier_has_a_mark_a_decoder_and_the_aim_is_the_teachers_own() -> None:
    figure = frontier_figure(FRONTIERS)
    own, student = figure.data
    assert (list(own.x), list(own.y)) == ([3.0, 3.5], [1.0, 2.0])
    assert list(student.text) == ["K = 1", "K = 2"]
    assert list(student.error_y.array) == [0.5, 0.5]
    assert list(student.error_y.arrayminus) == [0.25, 0.25]
    assert [(shape.y0, shape.x0) for shape in figure.layout.shapes] == [(2.0, 0), (0, 3.5)]
    assert "K = 2 writes at an entropy of 3.12 nats and costs the teacher 4.00" in text(figure)
    assert "(3.00, tau 0.5) cost 1.00" in text(figure)


def test_perplexity_ranks_and_says_what_the_winner_lacks() -> None:
    figure = perplexity_figure([OWN[1], OWN[0], *STUDENT])
    ranked, alike = figure.data
    assert list(ranked.y) == ["K = 2", "AR", "K = 1", "AR, tau 0.5"]  # drawn from below
    assert list(ranked.x) == pytest.approx(np.exp([4, 2, 1.5, 1]))
    assert list(alike.x) == pytest.approx([0.4, 0.2, 0.15, 0.1])
    assert "AR, tau 0.5 wins with 2.7 where the teacher's own samples have 7.4" in text(figure)
    assert "2 of 4 lie below" in figure.layout.title.subtitle.text


def test_survivors_are_shares_and_none_is_not_drawn_on_a_logarithmic_axis() -> None:
    figure = survival_figure([Survival("K = 1", 1, np.array([1, 0.75])), Survival("K = 2", 2, np.array([0.5, 0.0]))])
    assert [list(line.y) for line in figure.data] == [[100, 75], [50]]
    assert (
        text(figure)
        == "After 2 tokens from the same noise 0% of the texts are still the teacher's with K = 2, 75% with K = 1"
    )


def test_each_slot_has_its_excess() -> None:
    found = [SlotLosses("K = 1", 1, [about(-0.5)]), SlotLosses("K = 2", 2, [about(0.25), about(1.5)])]
    figure = slot_losses_figure(found)
    assert [list(line.y) for line in figure.data] == [[-0.5], [0.25, 1.5]]
    assert text(figure).startswith("In blocks of 2 the words of slot 1 cost the teacher +0.25 nats")


def test_pairs_of_bars_stand_over_their_share() -> None:
    groups = [Leading(0, about(0.75), about(5.0), about(2.0)), Leading(2, about(0.25), about(1.0), about(1.0))]
    exact, learned = leading_figure(groups).data
    assert list(exact.x) == ["0<br>75% of blocks", "2<br>25% of blocks"]
    assert (list(exact.y), list(learned.y)) == ([2, 1], [5, 1])
    assert "(75% of blocks) the learned block costs 3.0 nats a token more" in text(leading_figure(groups))
