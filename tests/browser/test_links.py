"""Links: what is set in any tab is in the address, and a copied link opens on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.browser


@pytest.fixture
def own_page(chromium: Browser) -> Iterator[Page]:
    """A page that may read what it copied."""
    with chromium.new_context(permissions=["clipboard-read", "clipboard-write"]) as context:
        yield context.new_page()


def opened(page: Page, url: str) -> None:
    page.goto(url)
    page.wait_for_function("window.kfRead")


def test_what_is_set_in_each_tab_opens_again(own_page: Page, app_url: str) -> None:
    page = own_page
    opened(page, app_url)
    page.get_by_role("tab", name="Generate").click()
    page.locator("#generate-k input[type=range]").fill("2")
    page.locator("#generate-decoders").get_by_label("Verified").check()
    page.locator("#generate-advanced button").first.click()
    page.locator("#generate-same input").uncheck()
    page.get_by_role("tab", name="Timing").click()
    page.locator("#timing-batches").get_by_label("16").check()
    page.get_by_role("tab", name="Joint vs marginal").click()
    page.get_by_role("tab", name="Toy distributions").click()
    page.get_by_label("Noisy XOR").check()
    page.locator("#toy-eps input[type=range]").fill("0.3")
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_text("Link copied")).to_be_visible()
    page.locator("#prompt textarea").fill("My dear")
    page.get_by_role("button", name="Copy link").click()
    page.wait_for_function("navigator.clipboard.readText().then((text) => text.includes('My+dear'))")
    link = page.evaluate("navigator.clipboard.readText()")
    page.wait_for_url(re.compile("tab=toys"))  # the page's own address follows, too

    opened(page, link)
    expect(page.locator("#prompt textarea")).to_have_value("My dear")
    expect(page.get_by_label("Noisy XOR")).to_be_checked()
    expect(page.locator("#toy-eps input[type=range]")).to_have_value("0.3")
    expect(page.get_by_text("x₃ = x₁ xor x₂")).to_be_visible()
    page.get_by_role("tab", name="Generate").click()
    expect(page.locator("#generate-k input[type=range]")).to_have_value("2")
    expect(page.locator("#generate-decoders").get_by_label("Verified")).to_be_checked()
    page.locator("#generate-advanced button").first.click()
    expect(page.locator("#generate-same input")).not_to_be_checked()
    page.get_by_role("tab", name="Timing").click()
    expect(page.locator("#timing-batches").get_by_label("16")).to_be_checked()
    expect(page.locator("#timing-batches").get_by_label("1", exact=True)).to_be_checked()
    query = parse_qs(urlsplit(link).query)
    assert query["generate-decoders"] == ["ar,pflm,verified"]
    assert not {"generate-length", "joint-k", "timing-ks"} & set(query)  # as the page opens


def test_a_bad_value_says_so_and_loses_nothing(page: Page, app_url: str) -> None:
    values = {"tab": "generate", "generate-k": "2", "generate-samples": "many", "generate-seed": "7", "joint-k": "9"}
    opened(page, app_url + "?" + urlencode(values))
    told = page.locator("#mistaken")
    expect(told).to_contain_text("The link has 'many' for generate-samples.")
    expect(told).to_contain_text("The link has '9' for joint-k.")
    expect(page.locator("#generate-k input[type=range]")).to_have_value("2")
    expect(page.locator("#generate-samples input[type=range]")).to_have_value("1")
    page.locator("#generate-advanced button").first.click()
    expect(page.locator("#generate-seed input")).to_have_value("7")
    page.get_by_role("button", name="Show").click()
    expect(told).to_be_hidden()
