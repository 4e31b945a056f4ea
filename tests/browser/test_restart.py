"""A server that dies and comes back: what is on the page stays, the page says so and goes on, and links still open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, expect
from shell import write_pair

from browser.test_app import PROMPT, assert_true_tokens, chips, noise, opened, settled
from kfexplore.pair import load_pair
from tools.served import App

pytestmark = pytest.mark.browser

TEXT = "The old owl went"


@pytest.fixture
def own_page(chromium: Browser) -> Iterator[Page]:
    """A page that may copy; its console tells of refused connections, which is right here."""
    with chromium.new_context(permissions=["clipboard-read", "clipboard-write"]) as context:
        page = context.new_page()
        troubles: list[str] = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        yield page
        assert troubles == []


def test_a_page_outlives_its_server_and_its_link_opens_again(own_page: Page, tmp_path: Path) -> None:
    page = own_page
    write_pair(tmp_path)
    pair, name = load_pair(tmp_path), str(tmp_path)
    with App(name) as app:
        app.start()
        root = opened(page, app.url + "?" + urlencode({"prompt": TEXT, "u": "0.1,0.7123,0.4,0.9"}))
        expect(root.locator(".kfs-prompt")).to_contain_text("owl")
        settled(root)
        sliders, alert = root.locator(".kfs-range"), root.get_by_role("alert")

        app.kill()
        sliders.nth(1).fill("0.25")  # the tables in the page know it
        expect(alert).to_contain_text("The server gave no answer")
        expect(alert).to_contain_text("move a slider")
        kept = noise(root)
        assert kept[1] == pytest.approx(0.25, abs=1 / 512)
        assert_true_tokens(root, pair, TEXT)
        sliders.nth(2).fill("0.8")  # they do not know this one
        settled(root)
        assert noise(root) == kept
        assert_true_tokens(root, pair, TEXT)
        expect(page.locator(PROMPT)).to_have_value(TEXT)
        page.get_by_role("button", name="Copy link").click()
        expect(page.get_by_text("Link copied")).to_be_visible()
        link = page.evaluate("navigator.clipboard.readText()")

        app.start()
        sliders.nth(2).fill("0.8")
        expect(alert).to_be_empty()
        settled(root)
        assert noise(root)[2] == pytest.approx(0.8, abs=1 / 512)
        assert_true_tokens(root, pair, TEXT)

        page.goto(link)
        expect(root).to_have_attribute("data-u", ",".join(map(str, kept)))
        settled(root)
        assert_true_tokens(root, pair, TEXT)
        assert len(chips(root, "student")) == 4
        expect(page.locator(PROMPT)).to_have_value(TEXT)
        expect(page.locator("#pair input")).to_have_value(name)
