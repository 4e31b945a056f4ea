"""Text between the figures, in a real Chromium."""

from __future__ import annotations

from io import BytesIO

import pytest
from PIL import Image
from playwright.sync_api import Page

from kfexplore.ui.components import CSS, boxed, scrolling

pytestmark = pytest.mark.browser

PLAIN = {"light": ("white", "black"), "dark": ("black", "white")}


@pytest.mark.parametrize("theme", PLAIN)
@pytest.mark.parametrize(
    ("width", "scrolled", "shaded"),
    [(300, 0, (False, True)), (300, 50, (True, True)), (300, 999, (True, False)), (800, 0, (False, False))],
)
def test_a_table_is_shaded_where_there_is_more_of_it(
    page: Page, theme: str, width: int, scrolled: int, shaded: tuple[bool, bool]
) -> None:
    ground, text = PLAIN[theme]
    page.set_content(
        f"<style>:root {{ --body-background-fill: {ground}; --body-text-color: {text}; background: {ground}; }}"
        f"{CSS}</style><main style='width:{width}px'>"
        + boxed(scrolling("<div style='width:500px;height:40px'></div>", "A table"))
        + "</main>"
    )
    table = page.get_by_role("region", name="A table")
    table.evaluate("(node, left) => { node.scrollLeft = left; }", scrolled)
    picture = Image.open(BytesIO(table.screenshot())).convert("L")
    bare = 255 if ground == "white" else 0
    ends = [picture.getpixel((x, 10)) for x in (1, picture.width - 2)]
    assert tuple(abs(end - bare) > 40 for end in ends) == shaded
