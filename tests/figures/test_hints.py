"""What stands behind a "?"."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from kfexplore.figures.hints import HINTS, brief, hint

FIGURES = Path(__file__).parents[2] / "docs" / "FIGURES.md"


@pytest.mark.parametrize("term", HINTS)
def test_a_hint_is_two_lines_and_its_link_leads_to_words_that_are_there(term: str) -> None:
    words, _ = HINTS[term]
    assert len(words) < 190
    named = unquote(re.findall(r'text=([^"]*)', hint(term, "here"))[0])
    assert named in FIGURES.read_text(encoding="utf-8")


def test_of_a_long_explanation_only_the_first_sentence_is_in_sight() -> None:
    shown, _, hidden = brief("A bar: tokens per second. A line: the limit. Log.", "here").partition("<button")
    assert shown == "A bar: tokens per second. "
    assert ">A line: the limit. Log.</span>" in hidden
    assert brief("Only one.", "here") == "Only one."
