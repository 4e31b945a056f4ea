"""The tour on the page: by keys, its links, and that it never stands in the way."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from kfexplore.ui.tour import STEPS

pytestmark = pytest.mark.browser


def opened(page: Page, url: str) -> None:
    page.goto(url)
    page.wait_for_function("window.kfRead")


def test_the_tour_by_keys_alone(page: Page, app_url: str) -> None:
    opened(page, app_url)
    start, card = page.locator(".kf-start"), page.get_by_role("dialog", name="Tour")
    expect(card).to_be_hidden()
    start.focus()
    for n, step in enumerate(STEPS, start=1):
        page.keyboard.press("Enter")
        for said in (f"Step {n} of {len(STEPS)}", step.title, step.text):
            expect(card.locator("[aria-live=polite]")).to_contain_text(said)
        expect(page.locator(".kf-next")).to_be_focused()
        expect(page.locator(f"{step.at}[data-kf-tour]")).to_be_visible(timeout=60_000)  # the last one after a race
        tab = step.link.get("tab", "scrub").replace("toys", "joint")
        expect(page.locator(f"[data-tab-id={tab}].selected").first).to_be_visible()
        if "u" in step.link:
            expect(page.locator("[data-u]")).to_have_attribute("data-u", step.link["u"])
    page.keyboard.press("Enter")
    expect(card).to_be_hidden()
    expect(start).to_be_focused()
    assert page.locator("[data-kf-tour]").count() == 0
    assert "tour=" not in page.url


def test_a_step_opens_its_tab_from_any_other(page: Page, app_url: str) -> None:
    def shown(tab: str) -> None:
        expect(page.locator(f"[data-tab-id={tab}].selected").first).to_be_visible()

    opened(page, f"{app_url}?tour=6")
    shown("generate")
    page.locator(".kf-back").click()
    expect(page.get_by_role("dialog", name="Tour")).to_contain_text(STEPS[4].title)
    shown("scrub")
    page.locator(".kf-skip").click()
    page.get_by_role("tab", name="Timing").click()
    shown("timing")
    page.locator(".kf-start").click()
    shown("scrub")
    expect(page.locator(f"{STEPS[0].at}[data-kf-tour]")).to_be_visible()


def test_on_a_narrow_page_what_a_step_points_at_is_below_what_sticks(page: Page, app_url: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(reduced_motion="reduce")
    opened(page, f"{app_url}?tour=5")
    expect(page.locator(f"{STEPS[4].at}[data-kf-tour]")).to_be_visible()
    page.locator(".kf-back").click()
    row = page.locator(f"{STEPS[3].at}[data-kf-tour]")
    expect(row).to_be_visible()
    page.wait_for_timeout(500)
    top = row.bounding_box()["y"]  # type: ignore[index]
    sticky = page.locator(".kfs-shown :is(.kfs-sentence, .kfs-cells)").all()
    assert all(box["y"] + box["height"] <= top for box in (each.bounding_box() for each in sticky) if box)


@pytest.mark.parametrize(("width", "height", "tall"), [(390, 844, 400), (1280, 900, 900)])
def test_the_card_covers_nothing_that_a_step_points_at(
    page: Page, app_url: str, width: int, height: int, tall: int
) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(reduced_motion="reduce")
    opened(page, f"{app_url}?tour=1")
    for step in STEPS[:7]:
        expect(page.locator(f"{step.at}[data-kf-tour]")).to_be_visible()
        page.wait_for_function(
            """(tall) => {
                const [card, found] = [".kf-tour", "[data-kf-tour]"].map((name) =>
                    document.querySelector(name).getBoundingClientRect());
                const isTall = found.height > tall;
                return found.top >= 0 && (isTall ? found.top < card.top - 300 : found.bottom < card.top);
            }""",
            arg=tall,
        )
        page.locator(".kf-next").click()


def test_the_tour_is_offered_on_the_first_visit(page: Page, app_url: str) -> None:
    opened(page, app_url)
    expect(page.locator(".kf-start")).to_contain_class("kf-offered")
    page.reload()
    page.wait_for_function("window.kfRead")
    expect(page.locator(".kf-start")).not_to_contain_class("kf-offered")


def test_a_step_is_a_link_and_escape_leaves_the_tour(page: Page, app_url: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    opened(page, f"{app_url}?tour=7")
    card = page.get_by_role("dialog", name="Tour")
    expect(card).to_contain_text(STEPS[6].title)
    expect(page.locator("#toy-draw")).to_be_in_viewport(ratio=1)
    expect(card).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#toy-draw").click()  # the page works as it does without
    card.get_by_role("button", name="Back").click()
    expect(card).to_contain_text(STEPS[5].title)
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()


def test_escape_closes_a_hint_before_the_tour(page: Page, app_url: str) -> None:
    opened(page, f"{app_url}?tour=1")
    card, hint = page.get_by_role("dialog", name="Tour"), page.get_by_text("The gap between the student's two largest")
    expect(card).to_be_visible()
    page.get_by_role("button", name="What is margin?").click()
    expect(hint).to_be_visible()
    page.keyboard.press("Escape")
    expect(hint).to_be_hidden()
    expect(card).to_be_visible()
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()


def test_without_storage_and_with_a_wrong_step_the_page_opens(chromium: Browser, app_url: str) -> None:
    page = chromium.new_page()
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('off'); } })")
    opened(page, f"{app_url}?tour=99")
    expect(page.locator(".kf-start")).to_be_visible()
    expect(page.get_by_role("dialog", name="Tour")).to_be_hidden()
    page.close()
