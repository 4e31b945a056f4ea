"""The tab Timing in a real Chromium: a tiny race of the bundled pair fills its figures; a long one is cancelled."""

from __future__ import annotations

import csv
import json
import re

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

STATUS, TABLE = "#timing-status", "#timing-table"
LONG = 120_000


def opened(page: Page, url: str, batches: tuple[str, ...] = ("1",), repeats: str = "1", length: str = "16") -> None:
    page.goto(url)
    page.get_by_role("tab", name="Timing").click()
    expect(page.locator(STATUS)).to_contain_text("Done: 2 of 2 timed.", timeout=LONG)  # the tab's own first race
    page.locator("#timing-advanced button").first.click()
    for batch in ("1", "2", "4", "8", "16", "32"):
        page.locator("#timing-batches").get_by_label(batch, exact=True).set_checked(batch in batches)
    page.locator("#timing-length input[type=range]").fill(length)
    page.locator("#timing-repeats input[type=range]").fill(repeats)


def test_a_race_fills_figures_table_and_files(page: Page, app_url: str) -> None:
    opened(page, app_url)
    page.locator("#timing-go").click()
    expect(page.locator(STATUS)).to_contain_text("1 timed repeat.")
    expect(page.locator("#timing-json")).to_be_disabled()
    expect(page.locator(STATUS)).to_contain_text("Done: 2 of 2 timed.", timeout=LONG)
    expect(page.locator("#timing-words")).to_contain_text(
        re.compile(r"PFLM against AR at batch 1: 4.0 times fewer passes")
    )
    expect(page.locator(STATUS)).to_contain_text(re.compile(r"cpu .*, \d+ threads?, float32"))
    expect(page.locator(STATUS)).to_contain_text(re.compile("The machine was busy|The machine was otherwise idle"))
    expect(page.locator("#timing-race .bars .point")).to_have_count(2)
    expect(page.locator("#timing-speedup .main-svg").first).to_be_visible()
    expect(page.locator("#timing-gain .main-svg").first).to_be_visible()
    expect(page.locator("#timing-gain-words")).to_contain_text("If both ran at this device's limit, K = 4 would have")
    expect(page.locator(f"{TABLE} tr")).to_have_count(3)
    with page.expect_download() as saved:
        page.locator("#timing-json").click()
    document = json.loads(saved.value.path().read_text())
    assert [(row["decoder"], row["batch"], row["k"]) for row in document["rows"]] == [("ar", 1, 1), ("pflm", 1, 4)]
    assert {"device", "threads", "dtype", "busy", "limits"} <= set(document)
    with page.expect_download() as saved:
        page.locator("#timing-csv").click()
    rows = list(csv.DictReader(saved.value.path().read_text().splitlines()))
    assert float(rows[1]["tokens_per_second"]) == document["rows"][1]["tokens_per_second"]


def test_a_long_race_is_cancelled_and_another_had_waited(page: Page, app_url: str) -> None:
    assert page.context.browser is not None
    other = page.context.browser.new_page()
    opened(other, app_url)
    opened(page, app_url, batches=("8", "16", "32"), repeats="5", length="192")
    page.locator("#timing-go").click()
    expect(page.locator(f"{STATUS} [role=progressbar]")).to_be_visible(timeout=LONG)
    other.locator("#timing-go").click()
    expect(other.locator(STATUS)).to_contain_text("Waiting for its turn")
    expect(other.locator(STATUS)).to_contain_text("queue: 1/1")
    page.locator("#timing-cancel").click()
    expect(page.locator(STATUS)).to_contain_text(re.compile(r"Cancelled after \d of 6 rows"))
    expect(page.locator("#timing-go")).to_be_enabled()
    expect(page.locator("#timing-cancel")).to_be_disabled()
    expect(other.locator(STATUS)).to_contain_text("Done: 2 of 2 timed.", timeout=LONG)
    other.close()


def test_a_prompt_that_is_submitted_is_raced(page: Page, app_url: str) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(app_url)
    page.get_by_role("tab", name="Timing").click()
    expect(page.locator("#timing-words h2")).to_be_in_viewport(ratio=1, timeout=LONG)
    before = page.locator(STATUS).inner_text()
    page.locator("#examples").get_by_text("So they all sat down to").click()
    expect(page.locator(STATUS)).not_to_contain_text(re.search(r"\d+ tokens of prompt", before)[0])  # type: ignore[index]
    expect(page.locator(STATUS)).to_contain_text("Done: 2 of 2 timed.", timeout=LONG)


def test_nothing_scrolls_sideways_on_a_narrow_screen(page: Page, app_url: str) -> None:
    opened(page, app_url)
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#timing-go").click()
    expect(page.locator(STATUS)).to_contain_text("Done", timeout=LONG)
    expect(page.locator(f"{TABLE} tr")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
