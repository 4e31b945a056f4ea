"""What the tour says is true of the bundled pair, and its longer companion has the same steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kfexplore import load_pair
from kfexplore.figures.palette import hue_index
from kfexplore.ui.links import TABS
from kfexplore.ui.tour import PAIR, STEPS, Step

TOUR = Path(__file__).parents[2] / "docs" / "TOUR.md"


def tokens(step: Step) -> tuple[list[int], list[int]]:
    """Exact and learned tokens of a step in Scrub."""
    pair = load_pair(PAIR)
    noise = [float(value) for value in step.link["u"].split(",")]
    assert len(noise) == int(step.link["k"])
    found = pair.block([pair.encode(step.link["prompt"])[0]], [noise])
    return found.exact[0].tolist(), found.learned[0].tolist()


def block(step: Step) -> tuple[list[str], list[str]]:
    """The texts of these."""
    exact, learned = tokens(step)
    return load_pair(PAIR).texts(exact), load_pair(PAIR).texts(learned)


def test_the_words_are_about_what_is_shown() -> None:
    first, changed, later, differing = map(block, STEPS[:4])
    assert first[0] == first[1]
    assert (first[0][2], changed[0][2]) == (" kind", " little")
    assert changed[0] == changed[1]
    assert changed[0][3:6] == [" girl", " named", " Lily"]
    assert first[0][:4] == later[0][:4]
    assert (first[0][4], later[0][4]) == (" boy", " girl")
    assert first[0][6] != later[0][6]  # the name
    assert (differing[0][2], differing[1][2]) == (" funny", " kind")


def test_the_tokens_beside_the_grid_have_colours_of_their_own() -> None:
    for row in tokens(STEPS[4]):
        assert len(set(map(hue_index, row))) == len(row)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.title)
def test_a_step_is_short_and_its_tab_exists(step: Step) -> None:
    assert len(re.findall(r"[.:](?: |$)", step.text)) <= 4
    assert len(step.text) < 220
    assert step.link.get("tab", "scrub") in TABS


def test_the_longer_tour_has_the_same_steps() -> None:
    headings = re.findall(r"^## \d+\. (.*)$", TOUR.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == [step.title for step in STEPS]
