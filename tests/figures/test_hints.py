"""What stands behind a "?"."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from kfexplore.figures.hints import HINTS, hint

FIGURES = Path(__file__).parents[2] / "docs" / "FIGURES.md"


@pytest.mark.parametrize("term", HINTS)
def test_a_hint_is_two_lines_and_its_link_leads_to_words_that_are_there(term: str) -> None:
    words, _ = HINTS[term]
    assert len(words) < 190
    named = unquote(re.findall(r'text=([^"]*)', hint(term, "here"))[0])
    assert named in FIGURES.read_text(encoding="utf-8")
