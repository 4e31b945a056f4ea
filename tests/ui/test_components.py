"""Text that several tabs show."""

from __future__ import annotations

import pytest

from kfexplore.ui.components import quoted


@pytest.mark.parametrize(
    ("text", "shown"), [("He & she", "“He &amp; she”"), ('"Why," said', "‘&quot;Why,&quot; said’"), ("“Why", "‘“Why’")]
)
def test_no_quotation_mark_is_doubled_around_a_prompt(text: str, shown: str) -> None:
    assert quoted(text) == shown
