"""Figures of samples: what each mark stands for, and what the titles find."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.quality_figures import (
    AtVariety,
    Frontier,
    Leading,
    SlotLosses,
    Survival,
    frontier_figure,
    leading_figure,
    perplexity_figure,
    slot_losses_figure,
    survival_figure,
)
from kfexplore.results import Estimate, SampleQuality


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
    figure = frontier_figure(FRONTIERS, [AtVariety(STUDENT[1], 0.6, 1.25, about(2.75))])
    own, student = figure.data
    assert (list(own.x), list(own.y)) == ([3.0, 3.5], [1.0, 2.0])
    assert list(student.text) == ["K = 1", "K = 2"]
    assert list(student.error_y.array) == [0.5, 0.5]
    assert list(student.error_y.arrayminus) == [0.25, 0.25]
    assert [(shape.y0, shape.x0) for shape in figure.layout.shapes] == [(2.0, 0), (0, 3.5)]
    assert text(figure) == (
        "K = 2 costs the teacher 4.00 nats a token, its own samples of the same entropy (3.12 nats, tau 0.60) 1.25; "
        "its own at tau 1 cost 2.00"
    )
    none = frontier_figure(FRONTIERS, [AtVariety(STUDENT[1], None, None, None)])
    assert text(none) == "K = 2 costs the teacher 4.00 nats a token; its own at tau 1 cost 2.00"


def test_perplexity_ranks_and_tells_of_the_best_student() -> None:
    figure = perplexity_figure([OWN[1], OWN[0], *STUDENT])
    ranked, alike = figure.data
    assert list(ranked.y) == ["K = 2", "AR", "K = 1", "AR, tau 0.5"]  # drawn from below
    assert list(ranked.x) == pytest.approx(np.exp([4, 2, 1.5, 1]))
    assert list(ranked.error_x.array) == pytest.approx(np.exp([4.5, 2.5, 2, 1.5]) - np.exp([4, 2, 1.5, 1]))
    assert list(alike.x) == pytest.approx([0.4, 0.2, 0.15, 0.1])
    assert text(figure) == (
        "K = 1 has a perplexity of 4.5, the teacher that it imitates 7.4; its samples are less alike, self-BLEU 0.15 "
        "against 0.20"
    )


def test_survivors_are_shares_with_intervals() -> None:
    shares = [[about(1.0), about(0.75)], [about(0.5), about(0.0)]]
    figure = survival_figure([Survival(f"K = {k}", k, s) for k, s in zip((1, 2), shares, strict=True)])
    assert [list(line.y) for line in figure.data] == [[100, 75], [50, 0]]
    assert text(figure) == (
        "From the same noise 100% of the texts begin with the teacher's token; after 2 tokens 0% are still its own "
        "with K = 2, 75% with K = 1"
    )


def test_each_slot_has_its_excess() -> None:
    found = [SlotLosses("K = 1", 1, [about(-0.5)]), SlotLosses("K = 2", 2, [about(0.25), about(1.5)])]
    figure = slot_losses_figure(found)
    assert [list(line.y) for line in figure.data] == [[-0.5], [0.25, 1.5]]
    assert text(figure).startswith("In blocks of 2 the words of slot 1 cost the teacher +0.25 nats")


def test_blocks_are_told_apart_by_their_first_wrong_slot() -> None:
    groups = [
        Leading(0, about(0.75), [about(-0.5), about(2.0)]),
        Leading(1, about(0.125), [about(0), about(3.0)]),
        Leading(2, about(0.125), [about(0), about(0)]),  # nothing is wrong: not drawn
    ]
    figure = leading_figure(groups)
    assert [list(line.y) for line in figure.data] == [[-0.5, 2], [3]]
    assert figure.data[1].name == "slot 2 is the first wrong one (12%)"
    assert text(figure) == (
        "Where slot 1 is wrong (75% of blocks), it costs the teacher -0.5 nats against the exact token, and the slots "
        "after it +2.0 to +2.0"
    )
