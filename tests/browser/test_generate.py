"""The tab Generate in a real Chromium: texts stream, stop, are underlined and saved; mistakes leave them."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from kfexplore import Pair, load_pair
from kfexplore.config import DecodeConfig
from kfexplore.decoding.generate import Networks, generate, keyed_noise
from kfexplore.ui.tabs.scrub import EXAMPLES

pytestmark = pytest.mark.browser

GO, STOP, SAVE, STATUS, TEXTS = (f"#generate-{name}" for name in ("go", "stop", "save", "status", "texts"))


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair("tales")


def opened(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("tab", name="Generate").click()


def advanced(page: Page) -> None:
    page.locator("#generate-advanced button").first.click()


def set_to(page: Page, name: str, value: int) -> None:
    page.locator(f"#generate-{name} input[type=range]").fill(str(value))


def expect_done(page: Page, panes: int) -> None:
    expect(page.locator(f"{TEXTS} [data-stage=done]")).to_have_count(panes)
    expect(page.locator(GO)).to_be_enabled()


def saved(page: Page) -> dict[str, object]:
    with page.expect_download() as download:
        page.locator(SAVE).click()
    assert download.value.suggested_filename == "kfexplore-generate.json"
    return dict(json.loads(download.value.path().read_text()))


def exact_text(pair: Pair, prompt: str, length: int) -> list[int]:
    networks, config = Networks(pair.teacher), DecodeConfig("ar")
    noise = keyed_noise(0, [0], config, networks, length)
    return list(generate(config, networks, [pair.encode(prompt)[0]], noise, length).tokens[0].tolist())


def test_the_prompt_above_is_continued_and_the_texts_can_be_saved(page: Page, app_url: str, pair: Pair) -> None:
    opened(page, app_url)
    prompt = "Say ${1+1} {{value}} <img src=x onerror=alert(1)> and"
    page.locator("#prompt textarea").fill(prompt)
    set_to(page, "length", 24)
    page.locator(GO).click()
    expect(page.locator(STATUS)).to_contain_text(prompt)
    expect_done(page, 2)
    expect(page.locator("img[src=x]")).to_have_count(0)
    held = saved(page)
    assert isinstance(held["decoders"], list)
    assert [each["decoder"] for each in held["decoders"]] == ["ar", "pflm"]
    assert held["decoders"][0]["lines"][0]["tokens"] == exact_text(pair, prompt, 24)
    shown = page.locator(f"{TEXTS} [data-decoder=ar] .kft-text").inner_text()
    assert "·" not in shown
    assert shown.replace("↵", "").split() == held["decoders"][0]["lines"][0]["text"].split()
    expect(page.locator(f"{TEXTS} [data-decoder=pflm] em")).to_have_text("≠")
    expect(page.locator(f"{TEXTS} [data-decoder=pflm] header")).to_contain_text("6 passes (NFE)")


def test_texts_are_on_the_first_screen_when_the_tab_opens_and_follow_a_prompt(page: Page, app_url: str) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    opened(page, app_url)
    expect(page.locator(f"{TEXTS} .kft-text").first).to_be_in_viewport()
    expect_done(page, 2)
    expect(page.get_by_role("heading", name="4 passes against one")).to_be_in_viewport()
    page.locator("#examples").get_by_text(EXAMPLES[1]).click()
    expect(page.locator(STATUS)).to_contain_text(f"After “{EXAMPLES[1]}”")
    page.locator("#prompt textarea").fill("The king")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(STATUS)).to_contain_text("After “The king”")
    expect_done(page, 2)
    page.get_by_role("tab", name="Timing").click()
    page.get_by_role("tab", name="Generate").click()  # opened with what it shows, it starts nothing
    expect(page.locator(GO)).to_be_enabled()


def test_a_block_opens_its_context_and_noise_in_scrub(page: Page, app_url: str, pair: Pair) -> None:
    opened(page, app_url)
    expect_done(page, 2)
    block = page.locator(f"{TEXTS} [data-decoder=pflm] .kft-block").nth(1)
    written = block.inner_text()
    page.locator(f"{TEXTS} [data-decoder=pflm] .kft-block").first.focus()
    page.keyboard.press("ArrowRight")
    expect(block).to_be_focused()
    page.keyboard.press("Enter")
    root = page.locator("[data-source]")
    expect(root).to_be_visible()
    expect(page.locator("#prompt textarea")).to_have_value(re.compile(f"^{EXAMPLES[0]}.+"))
    expect(root).to_have_attribute("data-source", re.compile("."))
    ids = pair.encode(page.locator("#prompt textarea").input_value())[0]
    learned = pair.block([ids], [[float(u) for u in (root.get_attribute("data-u") or "").split(",")]]).learned
    assert "".join(pair.texts(learned[0].tolist())).strip() == written.replace("≠", "").strip()
    entries, u = page.evaluate("history.length"), root.get_attribute("data-u")
    for _ in range(2):
        page.evaluate("history.back()")
        expect(page.locator("#prompt textarea")).to_have_value(EXAMPLES[0])
        expect(block).to_be_visible()
        assert block.inner_text() == written  # no new run
        page.evaluate("history.forward()")
        expect(root).to_be_visible()
        expect(page.locator("#prompt textarea")).to_have_value(re.compile(f"^{EXAMPLES[0]}.+"))
        expect(root).to_have_attribute("data-u", u or "")
    assert page.evaluate("history.length") == entries


def test_texts_stream_and_stop_where_they_are(page: Page, app_url: str) -> None:
    opened(page, app_url)
    page.get_by_label("MDLM").check()
    set_to(page, "k", 1)
    set_to(page, "samples", 4)
    set_to(page, "length", 240)  # far longer than the test waits
    page.locator(GO).click()
    expect(page.locator(f"{TEXTS} [data-decoder=mdlm] .kft-text > span:not(.g)")).not_to_have_count(0)
    text = page.locator(f"{TEXTS} [data-decoder=mdlm] header")
    first = text.inner_text()
    expect(text).not_to_have_text(first)
    page.locator(STOP).click()
    expect(page.locator(f"{TEXTS} [data-decoder=mdlm]")).to_have_attribute("data-stage", "stopped")
    expect(page.locator(f"{TEXTS} [data-stage=writing]")).to_have_count(0)
    expect(page.locator(GO)).to_be_enabled()
    texts = page.locator(f"{TEXTS} [data-decoder]")  # beside them Gradio shows its clock for a moment
    kept = texts.all_inner_texts()
    assert any("_" in text for text in kept)
    held = saved(page)
    assert texts.all_inner_texts() == kept
    assert isinstance(held["decoders"], list)
    assert 0 < held["decoders"][2]["tokens"] < 960
    page.get_by_label("MDLM").uncheck()  # and it starts anew
    set_to(page, "length", 8)
    page.locator(GO).click()
    expect_done(page, 2)


def test_surprise_is_drawn_after_a_run_and_leaves_again(page: Page, app_url: str) -> None:
    opened(page, app_url)
    expect_done(page, 2)
    advanced(page)
    set_to(page, "length", 24)
    page.locator(GO).click()
    expect(page.locator(f"{TEXTS} [data-decoder=ar] header")).to_contain_text("24 tokens")
    expect_done(page, 2)
    seconds = page.locator(f"{TEXTS} [data-decoder=ar] li").nth(2).inner_text()
    page.locator("#generate-surprise input").check()
    expect(page.locator(f"{TEXTS} header").first).to_contain_text("nats per token")
    expect(page.locator(f"{TEXTS} .u4")).not_to_have_count(0)
    assert page.locator(f"{TEXTS} [data-decoder=ar] li").nth(2).inner_text() == seconds  # no new run
    page.locator("#generate-surprise input").uncheck()
    expect(page.locator(f"{TEXTS} .u4")).to_have_count(0)


def test_a_mistake_leaves_fields_and_texts(page: Page, app_url: str) -> None:
    opened(page, app_url)
    expect_done(page, 2)
    advanced(page)
    set_to(page, "length", 8)
    page.locator(GO).click()
    expect(page.locator(f"{TEXTS} [data-decoder=ar] header")).to_contain_text("8 tokens")
    expect_done(page, 2)
    kept = page.locator(TEXTS).inner_text()
    page.locator("#prompt textarea").fill("")
    page.locator(GO).click()
    expect(page.locator(STATUS)).to_contain_text("The prompt is empty")
    assert page.locator(TEXTS).inner_text() == kept
    page.locator("#prompt textarea").fill(EXAMPLES[0])
    set_to(page, "length", 255)
    page.locator("#generate-seed input").fill("-1")
    page.locator(GO).click()
    expect(page.locator(STATUS)).to_contain_text("The seed is -1")
    expect(page.locator(STATUS)).to_contain_text("The texts below are still for this prompt.")
    expect(page.locator("#generate-length input[type=number]")).to_have_value("255")
    assert page.locator(TEXTS).inner_text() == kept
    page.locator("#generate-seed input").fill("0")
    page.locator("#generate-decoders").get_by_label("AR", exact=True).uncheck()
    page.locator(GO).click()
    expect(page.locator(STATUS)).to_contain_text("new tokens fit after this prompt")
    expect_done(page, 1)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_can_be_read_in_both_themes_and_nothing_scrolls_sideways(page: Page, app_url: str, theme: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    opened(page, f"{app_url}?__theme={theme}")
    set_to(page, "samples", 2)
    set_to(page, "length", 24)
    page.locator(GO).click()
    expect_done(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    style = "css => getComputedStyle(document.querySelector(css)).color"  # found and read in one step
    ink = page.evaluate(style, f"{TEXTS} .kft-text")
    light = sum(map(int, ink[4:-1].split(","))) > 3 * 128
    assert light == (theme == "dark")
