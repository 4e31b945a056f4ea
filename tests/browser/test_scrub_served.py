"""The scrub figure in a real Chromium, with a made-up pair of models behind it, as the app mounts it.

What is asked when, and what replies do to the state, is tested under Node (tests/figures/js).
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from browser.played import START, STEPS, assert_true, noise, served, settled, shown, tokens

pytestmark = pytest.mark.browser
__all__ = ["served"]

HOLD = "() => { server.hold = new Promise((resolve) => (window.go = () => resolve(server.hold = null))); }"
"""Replies wait until `go()`."""


def test_a_drag_is_answered_in_the_page(served: Page) -> None:
    box = served.locator(".kfs-track canvas").first.bounding_box()
    assert box
    served.mouse.move(box["x"] + 100, box["y"] + 20)
    served.mouse.down()
    for x in range(100, 700, 20):
        served.mouse.move(box["x"] + x, box["y"] + 20)
        expect(served.locator("[data-u]")).not_to_have_attribute("data-source", "pending")
        assert_true(served)
    served.mouse.up()
    settled(served)
    assert "point" not in served.evaluate("server.names")
    assert served.evaluate("server.asked.at(-1).u") == noise(served)
    served.locator(".kfs-range").nth(1).hover()
    settled(served)
    served.locator(".kfs-range").nth(1).fill("0.2")
    settled(served)
    assert "point" not in served.evaluate("server.names"), "the sweep that hovering asked for answers the next drag"


def test_coarse_sweeps_are_named_and_refined_at_rest(page: Page, request: pytest.FixtureRequest) -> None:
    page.clock.install()
    request.getfixturevalue("served")
    page.evaluate("server.every = 8")
    page.locator(".kfs-range").nth(1).fill("0.9")
    page.clock.run_for(1000)
    settled(page)
    origin = page.locator(".kfs-origin")
    expect(origin).to_contain_text(f"some tracks are in steps of 1/{STEPS // 8}")
    page.evaluate("server.every = 1")
    page.clock.run_for(6000)
    settled(page)
    expect(origin).not_to_contain_text("The server is busy")


def test_dice_leave_locked_slots_alone_and_reset_unlocks_them(served: Page) -> None:
    served.get_by_role("button", name="Lock slot 2").click()
    served.evaluate("{let n = 0; Math.random = () => (0.37 + 0.11 * n++) % 1}")  # never the noise that is there
    served.get_by_role("button", name="Roll the dice").click()
    settled(served)
    u = noise(served)
    assert u[1] == START[1]
    assert u[0] != START[0]
    assert all((value * STEPS) % 1 == 0.5 for value in u)
    assert_true(served)
    served.locator(".kfs-range").nth(1).fill("0.9")
    served.get_by_role("button", name="Reset").click()
    settled(served)
    assert noise(served) == START
    expect(served.get_by_role("button", name="Locked slot 2")).to_have_count(0)


def test_a_typed_number_is_not_rounded(served: Page) -> None:
    field = served.locator(".kfs-u").nth(1)
    field.fill("0.123456789")
    field.press("Enter")
    settled(served)
    assert noise(served)[1] == 0.123456789
    assert_true(served)
    for text in ("1.2", ""):
        field.fill(text)
        field.press("Enter")
        expect(served.get_by_role("alert")).to_have_text(
            f"u is {text or 'empty'}. Valid: a number from 0 up to, not including, 1."
        )
        expect(field).to_have_value("0.1235")
    expect(field).to_have_attribute("title", "u = 0.123456789")
    field.fill("0.1235")  # as it is shown
    field.press("Enter")
    assert noise(served)[1] == 0.123456789


def test_what_is_of_another_prompt_fades_until_the_answer_is_there(served: Page) -> None:
    parts = served.locator(".kfs-sentence, .kfs-cells, .kfs-rows")
    opacities = "parts => parts.map((part) => Number(getComputedStyle(part).opacity))"
    served.evaluate(HOLD)
    served.evaluate("void api.open({ prompt: 'Twice' })")
    assert max(parts.evaluate_all(opacities)) < 0.5
    served.evaluate("go()")
    expect(served.locator(".kfs-exactline")).to_contain_text("Twice")
    assert parts.evaluate_all(opacities) == [1, 1, 1]


def test_a_temperature_moves_both_maps_and_is_named(served: Page) -> None:
    served.locator(".kfs-heat").fill("0.3")
    root = served.locator("[data-u]")
    expect(root).to_have_attribute("data-temperature", "0.3")
    served.wait_for_function("api.state().settled")
    settled(served)
    assert_true(served, temperature=0.3)
    expect(served.locator(".kfs-degrees")).to_have_text("0.3")
    expect(served.locator(".kfs-cold")).to_have_text("Not trained there.")
    expect(served.locator(".kfs-origin")).to_contain_text("temperature 0.3")
    served.locator(".kfs-heat").fill("0.5")
    expect(served.locator(".kfs-cold")).to_be_empty()
    served.evaluate("server.failing = ['point', 'tables']")
    served.locator(".kfs-heat").fill("0.7")
    expect(served.get_by_role("alert")).to_contain_text("Run: make app")
    expect(served.locator(".kfs-heat")).to_have_value("0.5")
    served.evaluate("server.failing = []")
    served.get_by_role("button", name="Reset").click()
    settled(served)
    expect(root).to_have_attribute("data-temperature", "1")
    assert_true(served)


def test_a_failure_is_shown_and_changes_nothing(served: Page) -> None:
    alert, field = served.get_by_role("alert"), served.locator(".kfs-u").first
    served.evaluate("server.failing = ['tables', 'point']")
    field.fill("0.987")
    field.press("Enter")
    expect(alert).to_contain_text("Valid: less. Run: make app")
    expect(alert.locator("code")).to_have_text("make app")
    expect(field).to_have_attribute("title", f"u = {START[0]}")
    expect(served.locator("[data-u]")).not_to_have_attribute("data-source", "pending")
    served.evaluate("server.advice = 'less at once'")
    assert served.evaluate("api.open({pair: 'tales', prompt: 'The dog'})") is False
    expect(alert).to_contain_text("No tables. Valid: less. Try: less at once. Still shown: “Once upon”.")
    expect(alert.locator("code")).to_have_count(0)
    expect(served.locator(".kfs-prompt")).to_contain_text("Once")
    assert_true(served)
    served.evaluate("server.failing = []")
    opened = "(api.open({pair: 'tales', prompt: 'The cat'}), document.querySelector('[role=alert]').textContent)"
    assert served.evaluate(opened) == "", "a new question clears it"
    assert served.evaluate("api.open({pair: 'tales', prompt: 'The dog', k: undefined})") is True
    expect(served.locator(".kfs-prompt")).to_contain_text("dog")
    expect(alert).to_have_text("")
    assert_true(served, "The dog")


def test_fewer_and_more_slots(served: Page) -> None:
    served.locator(".kfs-ks label").nth(0).click()
    assert shown(served, "teacher") == tokens("teacher", "Once upon", START[:1])
    expect(served.locator(".kfs-alone")).to_contain_text("needs two slots")
    served.locator(".kfs-range").first.fill("0.75")
    settled(served)
    served.locator(".kfs-ks label").nth(2).click()
    expect(served.locator("[data-u]")).to_have_attribute("data-k", "3")
    assert noise(served)[1:] == START[1:]
    settled(served)
    assert_true(served)


def test_the_grid_is_asked_for_when_it_is_in_view(page: Page, request: pytest.FixtureRequest) -> None:
    page.set_viewport_size({"width": 1200, "height": 500})
    request.getfixturevalue("served")
    assert page.evaluate("server.names") == []
    page.locator(".kfs-map").scroll_into_view_if_needed()
    expect(page.locator(".kfs-mapshare")).to_contain_text("slots 1 and 2")
    page.locator(".kfs-across").select_option("1")
    expect(page.locator(".kfs-mapshare")).to_contain_text("slots 2 and 3")
    expect(page.locator(".kfs-up")).to_have_value("2")
    assert page.evaluate("server.asked.map(({ slots }) => slots)") == [[0, 1], [1, 2]]


def test_a_grid_that_is_computed_is_named_by_its_own_slots(served: Page) -> None:
    served.locator(".kfs-map").scroll_into_view_if_needed()
    share, meaning, plane = map(served.locator, (".kfs-mapshare", ".kfs-meaning", "[data-map=student]"))
    expect(share).to_contain_text("slots 1 and 2")
    picture = "document.querySelector('.kfs-plane canvas').toDataURL()"

    def words() -> tuple[str, ...]:
        return served.evaluate(picture), meaning.text_content(), served.locator(".kfs-xname").first.text_content()

    before = words()
    served.evaluate("server.failing = ['grid']")
    served.evaluate(HOLD)
    served.locator(".kfs-across").select_option("1")
    expect(share).to_have_text("computing…")
    expect(served.locator(".kfs-mapbody")).to_have_class("kfs-mapbody kfs-stale")
    picture_then, meaning_then, axis = words()
    assert axis == "noise of slot 2 →"
    assert "given the exact token" in (meaning_then or "")
    assert picture_then != before[0], "nothing of other slots is drawn below these names"
    plane.click(position={"x": 40, "y": 60})
    assert noise(served) == START, "it takes no click: its slots are not those that are chosen"
    served.evaluate("go()")
    expect(served.get_by_role("alert")).to_contain_text("No grid.")
    expect(served.locator(".kfs-across")).to_have_value("0")  # the last that is there
    assert words() == before
    served.evaluate("server.failing = []")
    served.locator(".kfs-across").select_option("1")
    expect(share).to_contain_text("slots 2 and 3")
    expect(meaning).to_contain_text("given the exact token before them")
    assert served.evaluate(picture) != before[0]
    box = plane.bounding_box()
    assert box
    plane.click(position={"x": 0.8 * box["width"], "y": 0.3 * box["height"]})
    assert noise(served) == pytest.approx([START[0], 0.8, 0.7], abs=1 / STEPS)


def test_the_link_holds_everything_shown(served: Page) -> None:
    served.evaluate(
        "navigator.clipboard ? (navigator.clipboard.writeText = async (t) => { window.link = t; })"
        " : (document.execCommand = () => { window.link = document.activeElement.value; return true; })"
    )
    assert served.evaluate("api.copyLink()") == "Link copied"
    query = served.evaluate("Object.fromEntries(new URLSearchParams(window.link.split('?')[1]))")
    assert query == {"pair": "tales", "prompt": "Once upon", "k": "3", "u": ",".join(map(str, START))}
