"""For those who use keys, a screen reader, or need contrast: axe finds nothing, and all can be done by keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

import pytest
from playwright.sync_api import Browser, Frame, Page, expect

from browser.conftest import watched
from browser.played import K, alone, payload
from browser.test_app import noise, opened, settled
from browser.test_timing import opened as opened_timing
from kfexplore.figures import page as figures
from kfexplore.figures.page import THEMES, blank
from kfexplore.figures.palette import colours
from kfexplore.figures.scrub import standalone_html
from kfexplore.ui.tabs.scrub import EXAMPLES

pytestmark = pytest.mark.browser

AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
GRADIOS_OWN = [
    ("image-redundant-alt", 'img[alt="Settings"]'),  # the footer's gear says again what stands beside it
]
"""What cannot be mended from here; whatever Gradio has mended is to be struck out."""
SCENES = ("Scrub", "Generate", "Joint vs marginal", "Toy distributions", "Timing")
FOCUS = """() => {
  const at = document.activeElement;
  const seen = getComputedStyle(at).opacity === "0" ? at.nextElementSibling : at;  // a radio under its number
  const {outlineStyle, outlineWidth, outlineColor} = getComputedStyle(seen);
  const box = at.getBoundingClientRect();
  return {
    name: at === document.body ? "" : at.ariaLabel || at.labels?.[0]?.innerText.split("\\n")[0] || at.innerText,
    isBody: at === document.body,
    isSeen: box.bottom > 0 && box.top < innerHeight && outlineColor !== "rgba(0, 0, 0, 0)",
    outline: `${outlineStyle} ${outlineWidth}`,
  };
}"""


@pytest.fixture(scope="module")
def whole(chromium: Browser, app_url: str) -> Iterator[Page]:
    """A page on which everything has been done: a map looked at, texts written, a study drawn, a race run."""
    with watched(chromium) as page:
        page.emulate_media(reduced_motion="reduce")  # colours are judged at rest
        opened_timing(page, app_url, length="16")
        page.locator("#timing-go").click()
        expect(page.locator("#timing-status")).to_contain_text("Done: 2 of 2", timeout=120_000)
        show(page, "Generate")
        expect(page.locator("#generate-texts [data-stage=done]")).to_have_count(2)
        page.locator("#generate-advanced button").first.click()
        page.locator("#generate-length input[type=range]").fill("16")
        page.locator("#generate-decoders").get_by_label("MDLM").check()
        page.locator("#generate-surprise input").check()
        page.locator("#generate-go").click()
        expect(page.locator("#generate-texts header").first).to_contain_text("nats per token")
        show(page, "Joint vs marginal")
        expect(page.locator("#joint-samplers table")).to_be_visible()
        show(page, "Scrub")
        page.locator(".kfs-map").scroll_into_view_if_needed()
        expect(page.locator(".kfs-mapshare")).to_contain_text("agree")
        page.evaluate(AXE)
        yield page


def show(page: Page, scene: str) -> None:
    if scene == "Toy distributions":
        page.get_by_role("tab", name="Joint vs marginal").click()
    page.get_by_role("tab", name=scene).click()
    if scene == "Joint vs marginal":
        page.get_by_role("tab", name="After the prompt").click()


def violations(place: Page | Frame, tags: list[str]) -> list[tuple[str, str]]:
    """Rule and selector of all that axe finds, of the rules with these tags."""
    run = "(values) => axe.run(document, {runOnly: {type: 'tag', values}, resultTypes: ['violations']})"
    found = place.evaluate(run, tags)["violations"]
    return [(rule["id"], node["target"][0]) for rule in found for node in rule["nodes"]]


@pytest.mark.parametrize("scene", SCENES)
def test_axe_finds_nothing_light_and_dark_wide_and_narrow(whole: Page, scene: str) -> None:
    show(whole, scene)
    for theme in THEMES:
        whole.evaluate("(dark) => document.body.classList.toggle('dark', dark)", theme == "dark")
        for width in (1200, 390):
            whole.set_viewport_size({"width": width, "height": 900})
            assert violations(whole, [*WCAG, "best-practice"]) == GRADIOS_OWN, (theme, width)


def test_axe_finds_nothing_in_figures_that_stand_alone(page: Page) -> None:
    scrub = standalone_html(payload(), 900)
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        alone(page, scrub)
        frame = page.frames[-1]
        expect(frame.locator("[data-source]")).to_be_visible()
        frame.evaluate(AXE)
        assert violations(frame, WCAG) == []
    figure = blank(colours("light"), "It falls", "Lower is better.")
    page.set_content(figures.page([dict.fromkeys(THEMES, figure)], "Figures", "Made here."))
    expect(page.get_by_role("img", name="It falls Lower is better.")).to_be_visible()
    page.evaluate(AXE)
    assert violations(page, WCAG) == []


def walk(page: Page) -> Iterator[str]:
    """Goes from stop to stop with Tab, to the end of the page; each can be seen, and has a name."""
    for _ in range(100):
        page.keyboard.press("Tab")
        at = page.evaluate(FOCUS)
        if at["isBody"]:
            return
        assert at["name"].strip()
        assert (at["isSeen"], at["outline"]) == (True, "solid 2px"), at["name"]
        yield at["name"]


@pytest.mark.parametrize("scene", SCENES)
def test_the_focus_can_be_seen_wherever_it_is(whole: Page, scene: str) -> None:
    whole.set_viewport_size({"width": 1200, "height": 900})
    show(whole, scene)
    whole.locator("h1").click()
    assert len(list(walk(whole))) > 12


@pytest.mark.parametrize("scene", SCENES)
def test_nothing_scrolls_sideways_at_320_pixels(whole: Page, scene: str) -> None:
    whole.set_viewport_size({"width": 320, "height": 900})
    show(whole, scene)
    whole.wait_for_function("document.documentElement.scrollWidth <= 320")


def test_the_whole_page_of_a_race_is_named(whole: Page) -> None:
    show(whole, "Timing")
    expect(whole.get_by_role("group", name="Batch (samples at once)")).to_be_visible()
    expect(whole.get_by_role("button", name="Reset New tokens")).to_be_visible()
    expect(whole.get_by_role("img", name=re.compile("At batch 1"))).to_be_visible()
    expect(whole.get_by_role("region", name="All rows")).to_be_visible()
    expect(whole.get_by_role("status").filter(has_text="Done: 2 of 2")).to_be_visible()


def test_nothing_moves_for_those_who_ask_for_that(whole: Page) -> None:
    assert whole.locator("#generate-go").evaluate("node => getComputedStyle(node).transitionProperty") == "none"


def test_scrub_by_keys_alone(page: Page, app_url: str) -> None:
    root = opened(page, app_url)
    keys = page.keyboard
    before, seen = noise(root), []
    page.locator("h1").click()
    page.emulate_media(reduced_motion="reduce")
    for name in walk(page):
        seen.append(name)
        if name == "Show":
            expect(page.locator("#pair input")).to_have_attribute("aria-expanded", "false")
        if name == "4":
            keys.press("ArrowLeft")
            expect(root).to_have_attribute("data-k", "3")
        elif name == "Roll the dice":
            keys.press("Enter")
            assert noise(root) != before[:3]
        elif name == "Reset":
            keys.press("Space")
            assert noise(root) == before[:3]
        elif name == "Lock slot 1":
            keys.press("Space")
            expect(page.get_by_role("button", name="Locked slot 1")).to_have_attribute("aria-pressed", "true")
        elif name == "Noise of slot 2":
            keys.press("Home")
            keys.press("PageUp")
            assert noise(root)[1] == 16.5 / 512
        elif name.startswith("u3,"):
            keys.type("0.25")
            keys.press("Enter")
            assert noise(root)[2] == 0.25
        elif name.startswith("Exact map"):
            keys.press("ArrowRight")
            keys.press("Shift+ArrowUp")
            settled(root)
            assert noise(root) == [before[0] + 1 / 512, 32.5 / 512, 0.25]
    rows = [
        name.format(n=n)
        for n in (1, 2, 3)
        for name in ("u{n}, the noise of slot {n} as a number", "Lock slot {n}", "Noise of slot {n}")
    ]
    expected = [
        *(
            "Take the tour",
            "Copy link",
            "Prompt",
            "Models",
            "Show",
            *EXAMPLES,
            "Scrub",
            "Generate",
            "Joint vs marginal",
            "Timing",
        ),
        *(
            "What is margin?",
            "What is edge?",
            "4",
            "Roll the dice",
            "Play",
            "Reset",
            "Temperature",
            "Save image",
            *rows,
        ),
        *("Slot across", "Slot up", "show where they differ", "Save image"),
        *(f"{model} grid of slots 1 and 2; arrow keys move both sliders" for model in ("Exact", "Learned")),
    ]
    assert seen[: len(expected)] == expected  # then comes Gradio's footer


def test_tabs_generate_and_stop_by_keys_alone(page: Page, app_url: str) -> None:
    opened(page, app_url)
    page.get_by_role("tab", name="Scrub").focus()
    moves = {"End": "Timing", "ArrowLeft": "Joint vs marginal", "Home": "Scrub", "ArrowRight": "Generate"}
    for key, name in moves.items():
        page.keyboard.press(key)
        tab = page.get_by_role("tab", name=name)
        expect(tab).to_be_focused()
        expect(tab).to_have_attribute("aria-selected", "true")
    page.locator("#generate-samples input[type=range]").fill("8")
    page.locator("#generate-length input[type=range]").fill("240")  # far longer than the test waits
    go, stop = page.locator("#generate-go"), page.locator("#generate-stop")
    expect(page.locator("#generate-texts [data-stage=done]")).to_have_count(2)  # the tab's own first run
    expect(go).to_be_enabled()
    go.focus()
    page.keyboard.press("Enter")
    expect(stop).to_be_focused()
    page.keyboard.press("Enter")
    expect(go).to_be_focused()
    expect(go).to_be_enabled()


def test_a_mistake_below_the_page_is_brought_into_sight(page: Page, app_url: str) -> None:
    opened(page, app_url)
    page.set_viewport_size({"width": 1200, "height": 900})
    page.get_by_role("tab", name="Generate").click()
    page.locator("#prompt textarea").fill("")
    page.locator("#generate-go").click()
    told = page.get_by_role("alert").filter(has_text="The prompt is empty")
    expect(told).to_be_in_viewport(ratio=1)


def test_a_block_is_read_out_once_it_is_at_rest(page: Page) -> None:
    alone(page, standalone_html(payload()))
    told = page.locator(".kfs-told")
    told.evaluate("node => { window.read = 0; new MutationObserver(() => read++).observe(node, {childList: true}); }")
    page.locator(".kfs-range").first.evaluate(
        """async (slider) => {
          for (slider.value = 0.1; slider.value < 0.9; slider.value = Number(slider.value) + 0.1) {
            slider.dispatchEvent(new Event("input"));
            await new Promise(requestAnimationFrame);
          }
        }"""
    )
    expect(told).to_have_text(re.compile(rf"\d of {K} slots agree\. Exact: .*\. Learned: .*"))
    assert page.evaluate("read") == 1
