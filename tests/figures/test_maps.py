"""Figures of the maps: they draw the numbers they are given, their words are true of them, in both themes."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.grid_figures import section_figure, square_figure
from analysis.noise_maps_figures import (
    AgreementBy,
    Areas,
    Reach,
    Resolution,
    SlotAgreement,
    areas_figure,
    by_figure,
    reach_figure,
    resolution_figure,
    slots_figure,
)
from kfexplore.figures.page import THEMES
from kfexplore.figures.palette import Theme, colours
from kfexplore.results import Bin, Estimate, Grid, Learned

SIDE = 40
EXACT = np.zeros((SIDE, SIDE, 2), dtype=np.int64)
EXACT[10:, :, 0], EXACT[10:, 20:, 1] = 1, 2
LEARNED = EXACT.copy()
LEARNED[:, :8] = 3
SECTION = Grid((0, 1), np.full(2, 0.5), EXACT, Learned(LEARNED, np.zeros((SIDE, SIDE, 2))))


def share(value: float) -> Estimate:
    return Estimate(value, value - 0.05, value + 0.05)


def fifths(*values: float) -> list[Bin]:
    return [Bin(float(n), float(n + 1), 50, share(value)) for n, value in enumerate(values)]


def words(figure: object) -> str:
    return figure.layout.title.text.replace("<br>", " ")  # type: ignore[attr-defined]


def test_every_region_with_room_is_named_with_its_area() -> None:
    figure = square_figure(EXACT, "abc".__getitem__)
    named = [trace.text for trace in figure.data if trace.type == "scatter" and trace.mode == "text"]
    assert named == ["a a<br>area 0.2500", "b a<br>area 0.3750", "b c<br>area 0.3750"]
    assert "3 regions" in words(figure)


def test_crosses_stand_where_the_maps_differ_and_nowhere_else() -> None:
    figure = section_figure(SECTION)
    crosses = next(trace for trace in figure.data if trace.type == "scatter" and trace.mode == "markers")
    assert len(crosses.x) == SIDE * 8
    assert max(crosses.y) < 8 / SIDE
    assert crosses.marker.color == colours("light").differ
    assert words(figure).startswith("On 80% of this square")


def test_tokens_are_not_read_as_tags() -> None:
    figure = section_figure(SECTION, lambda _: "<b>")
    named = [trace.text for trace in figure.data if trace.type == "scatter" and trace.mode == "text"]
    assert set(named) == {"&lt;b&gt; &lt;b&gt;"}


@pytest.mark.parametrize("theme", THEMES)
def test_areas_stand_on_their_probability_and_none_on_the_floor(theme: Theme) -> None:
    found = Areas(
        np.array([[0, 1], [1, 0]]), np.array([0.7, 0.3]), np.array([0.7, 0.3]), np.array([1.0, 0.0]), 100, 0.0, 0.3
    )
    figure = areas_figure(found, theme=theme)
    learned, exact = figure.data[1:]
    assert list(exact.y) == list(exact.x) == [0.7, 0.3]
    assert list(learned.y) == [1.0, 0.005]
    assert "TV 0.30" in words(figure)
    assert "they hold 30% of" in figure.layout.title.subtitle.text.replace("<br>", " ")
    assert figure.layout.paper_bgcolor == colours(theme).surface


def test_slots_are_taken_apart_by_those_before() -> None:
    rows = [SlotAgreement(0, share(0.6), None, None), SlotAgreement(1, share(0.3), share(0.5), share(0.1))]
    figure = slots_figure(rows)
    assert [list(trace.y) for trace in figure.data] == [[60, 30], [50], [10]]
    assert "slot 2 on 30%: 50% where all slots before it are, 10% where one is not" in words(figure)
    assert len({trace.marker.pattern.shape for trace in figure.data}) == 3  # told apart without colour


def test_quantities_are_ranked_by_what_they_tell() -> None:
    flat = AgreementBy("flat (nats)", [fifths(0.4, 0.5), fifths(0.4, 0.5)], fifths(0.4, 0.5))
    steep = AgreementBy("steep (u)", [fifths(0.9, 0.1), fifths(0.9, 0.1)], fifths(0.9, 0.1))
    figure = by_figure([flat, steep])
    assert words(figure).startswith("What tells most is the steep: 90% exact in its lowest fifth, 10% in its highest")
    assert "the flat (40%, 50%)" in words(figure)
    assert [figure.layout[axis].title.text for axis in ("xaxis", "xaxis2")] == ["steep (u)", "flat (nats)"]


def test_resolution_names_the_middle_shift() -> None:
    found = Resolution(np.array([0.5, 0.25]), np.array([1.0, 0.5]), fifths(0.1, 0.9), np.array([-0.02, 0.03, 0.04]))
    figure = resolution_figure(found)
    assert "moved by 0.030 of the slider" in words(figure)
    assert list(figure.data[-1].x) == [0.03, 0.03]


def test_reach_writes_every_share() -> None:
    figure = reach_figure(Reach(np.array([[0.8, 0.7], [0, 0.6]]), np.array([[0.5, 0.2], [0, 0.4]])))
    written = [text for trace in figure.data if trace.type == "scatter" for text in trace.text]
    assert sorted(written) == sorted(["80", "70", "0", "60", "50", "20", "0", "40"])
    assert "token 2 on 70% of draws in the exact map, on 20% in the learned" in words(figure)
