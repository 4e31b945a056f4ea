"""The scrub figure in a real Chromium, with a made-up pair of models behind it, as the app mounts it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from browser.played import START, STEPS, Models, alone, noise, payload, settled, shown, tokens
from kfexplore.figures import scrub
from kfexplore.figures.scripts import script_json

pytestmark = pytest.mark.browser

HOLD = """() => {
  window.answered = ask;
  window.ask = (name, r) => new Promise((answer) => (window.go = () => answer(answered(name, r))));
}"""
"""The next question waits until `go()`."""


@pytest.fixture
def served(page: Page) -> Callable[[], Models]:
    """Mounts the figure on `#host` with Models behind it, as the app does."""

    def mount() -> Models:
        models = Models()
        page.expose_function("ask", models)
        calls = ", ".join(f"{name}: (r) => window.ask('{name}', r)" for name in ("tables", "point", "grid"))
        alone(
            page,
            f"<style>{scrub.scrub_css()}</style><div id=host>{scrub.scrub_markup()}</div><script>(() => {{"
            f"{scrub.script('scrub.js')}\nwindow.api = mountScrub(document.getElementById('host'), "
            f"{script_json(payload(grid=False))}, {{ {calls} }}); }})()</script>",
        )
        return models

    return mount


def test_a_drag_is_answered_in_the_page(page: Page, served: Callable[[], Models]) -> None:
    models = served()
    box = page.locator(".kfs-track canvas").first.bounding_box()
    assert box
    page.mouse.move(box["x"] + 100, box["y"] + 20)
    page.mouse.down()
    for x in range(100, 700, 10):
        page.mouse.move(box["x"] + x, box["y"] + 20)
        expect(page.locator("[data-u]")).not_to_have_attribute("data-source", "pending")
        assert shown(page, "student") == tokens("student", "Once upon", noise(page))
    page.mouse.up()
    settled(page)
    assert "point" not in models.names()
    last = [request for name, request in models.asked if name == "tables"][-1]
    assert last["u"] == noise(page)
    page.locator(".kfs-range").nth(1).hover()
    settled(page)
    page.locator(".kfs-range").nth(1).fill("0.2")
    settled(page)
    assert "point" not in models.names(), "the new row answers the next drag"


def test_coarse_sweeps_are_named_and_refined_at_rest(page: Page, served: Callable[[], Models]) -> None:
    page.clock.install()
    models = served()
    models.every = 8
    page.locator(".kfs-range").nth(1).fill("0.9")
    page.clock.run_for(1000)
    settled(page)
    origin = page.locator(".kfs-origin")
    expect(origin).to_contain_text(f"some tracks are in steps of 1/{STEPS // 8}")
    models.every = 1
    page.clock.run_for(6000)
    settled(page)
    expect(origin).not_to_contain_text("Many are asking")


def test_dice_and_reset_leave_locked_slots_alone(page: Page, served: Callable[[], Models]) -> None:
    models = served()
    page.get_by_role("button", name="Lock slot 2").click()
    page.evaluate("{let n = 0; Math.random = () => (0.37 + 0.11 * n++) % 1}")  # dice that never fall as they lay
    page.get_by_role("button", name="Roll the dice").click()
    settled(page)
    u = noise(page)
    assert u[1] == START[1]
    assert u[0] != START[0]
    assert u[2] != START[2]
    assert all((value * STEPS) % 1 == 0.5 for value in u)
    assert shown(page, "teacher") == tokens("teacher", "Once upon", u)
    assert "point" in models.names()
    page.get_by_role("button", name="Lock slot 1").click()
    page.get_by_role("button", name="Reset").click()
    settled(page)
    assert noise(page) == [u[0], *START[1:]]
    page.get_by_role("button", name="Locked slot 1").click()
    page.get_by_role("button", name="Reset").click()
    settled(page)
    assert noise(page) == START


def test_a_typed_number_is_not_rounded(page: Page, served: Callable[[], Models]) -> None:
    served()
    field = page.locator(".kfs-u").nth(1)
    field.fill("0.123456789")
    field.press("Enter")
    settled(page)
    assert noise(page)[1] == 0.123456789
    assert shown(page, "teacher") == tokens("teacher", "Once upon", noise(page))
    for text in ("1.2", "1", "-0.1", "abc", ""):
        field.fill(text)
        field.press("Enter")
        expect(page.get_by_role("alert")).to_have_text(
            f"u is {text or 'empty'}. Valid: a number from 0 up to, not including, 1."
        )
        expect(field).to_have_value("0.123456789")
    assert noise(page)[1] == 0.123456789


def test_a_temperature_moves_both_maps_and_is_named(page: Page, served: Callable[[], Models]) -> None:
    served()
    page.locator(".kfs-heat").fill("0.3")
    root = page.locator("[data-u]")
    expect(root).to_have_attribute("data-temperature", "0.3")
    page.wait_for_function("api.state().settled")
    settled(page)
    for model in ("teacher", "student"):
        assert shown(page, model) == tokens(model, "Once upon", START, 0.3)
    expect(page.locator(".kfs-degrees")).to_have_text("0.3")
    expect(page.locator(".kfs-cold")).to_have_text("Not trained there.")
    expect(page.locator(".kfs-origin")).to_contain_text("temperature 0.3")
    page.locator(".kfs-heat").fill("0.5")
    expect(page.locator(".kfs-cold")).to_be_empty()
    page.get_by_role("button", name="Reset").click()
    settled(page)
    assert shown(page, "teacher") == tokens("teacher", "Once upon", START)
    expect(root).to_have_attribute("data-temperature", "1")


def test_a_temperature_that_fails_is_reset(page: Page, served: Callable[[], Models]) -> None:
    models = served()
    models.failing = {"point", "tables"}
    page.locator(".kfs-heat").fill("0.3")
    expect(page.get_by_role("alert")).to_contain_text("Run: make app")  # of the point or of a track
    expect(page.locator("[data-u]")).to_have_attribute("data-temperature", "1")
    expect(page.locator(".kfs-heat")).to_have_value("1")
    assert shown(page, "teacher") == tokens("teacher", "Once upon", START)


def test_a_failure_is_shown_and_changes_nothing(page: Page, served: Callable[[], Models]) -> None:
    models = served()
    models.failing = {"tables", "point"}
    before = page.evaluate("JSON.stringify(api.state().teacher)")
    field = page.locator(".kfs-u").first
    field.fill("0.987")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Valid: less. Run: make app")
    expect(page.get_by_role("alert").locator("code")).to_have_text("make app")
    expect(field).to_have_value(str(START[0]))
    expect(page.locator("[data-u]")).not_to_have_attribute("data-source", "pending")
    models.advice = "less at once"
    assert page.evaluate("api.open({pair: 'tales', prompt: 'The dog'})") is False
    expect(page.get_by_role("alert")).to_contain_text("Valid: less. Try: less at once.")
    expect(page.get_by_role("alert").locator("code")).to_have_count(0)
    expect(page.locator(".kfs-prompt")).to_contain_text("Once")
    assert page.evaluate("JSON.stringify(api.state().teacher)") == before
    expect(page.get_by_role("alert")).not_to_have_text("")
    models.failing = set()
    alert = "document.querySelector('[role=alert]').textContent"
    assert page.evaluate(f"(api.open({{pair: 'tales', prompt: 'The cat'}}), {alert})") == "", "a new question is asked"
    assert page.evaluate("api.open({pair: 'tales', prompt: 'The dog', k: undefined})") is True
    expect(page.locator(".kfs-prompt")).to_contain_text("dog")
    expect(page.get_by_role("alert")).to_have_text("")
    assert shown(page, "student") == tokens("student", "The dog", START)


def test_fewer_and_more_slots(page: Page, served: Callable[[], Models]) -> None:
    served()
    page.locator(".kfs-ks label").nth(0).click()
    assert shown(page, "teacher") == tokens("teacher", "Once upon", START[:1])
    expect(page.locator(".kfs-alone")).to_contain_text("needs two slots")
    page.locator(".kfs-range").first.fill("0.75")
    settled(page)
    page.locator(".kfs-ks label").nth(2).click()
    expect(page.locator("[data-u]")).to_have_attribute("data-k", "3")
    assert noise(page)[1:] == START[1:]
    assert shown(page, "teacher") == tokens("teacher", "Once upon", noise(page))


def test_the_grid_is_asked_for_when_it_is_in_view(page: Page, served: Callable[[], Models]) -> None:
    page.set_viewport_size({"width": 1200, "height": 500})
    models = served()
    assert "grid" not in models.names()
    page.locator(".kfs-map").scroll_into_view_if_needed()
    expect(page.locator(".kfs-mapshare")).to_contain_text("slots 1 and 2")
    page.locator(".kfs-across").select_option("1")
    expect(page.locator(".kfs-mapshare")).to_contain_text("slots 2 and 3")
    expect(page.locator(".kfs-up")).to_have_value("2")
    grids = [request["slots"] for name, request in models.asked if name == "grid"]
    assert grids == [[0, 1], [1, 2]]


def test_the_old_grid_stays_until_the_one_of_other_slots_arrives(page: Page, served: Callable[[], Models]) -> None:
    models = served()
    page.locator(".kfs-map").scroll_into_view_if_needed()
    share, meaning = page.locator(".kfs-mapshare"), page.locator(".kfs-meaning")
    expect(share).to_contain_text("slots 1 and 2")
    picture = "document.querySelector('.kfs-plane canvas').toDataURL()"
    before = (page.evaluate(picture), meaning.text_content(), page.locator(".kfs-xname").first.text_content())
    models.failing = {"grid"}
    page.evaluate(HOLD)
    page.locator(".kfs-across").select_option("1")
    page.wait_for_function("Boolean(window.go)")
    expect(share).to_have_text("computing…")
    expect(page.locator(".kfs-mapbody")).to_have_class("kfs-mapbody kfs-stale")
    now = (page.evaluate(picture), meaning.text_content(), page.locator(".kfs-xname").first.text_content())
    assert now == before
    page.evaluate("() => { window.ask = answered; go(); }")
    expect(page.get_by_role("alert")).to_contain_text("No grid.")
    expect(page.locator(".kfs-across")).to_have_value("0")  # as what is drawn
    models.failing = set()
    page.locator(".kfs-across").select_option("1")
    expect(share).to_contain_text("slots 2 and 3")
    expect(meaning).to_contain_text("given the exact token before them")
    assert page.evaluate(picture) != before[0]


def test_a_grid_that_waits_for_other_slots_takes_no_click(page: Page, served: Callable[[], Models]) -> None:
    models = served()
    plane, share = page.locator("[data-map=student]"), page.locator(".kfs-mapshare")
    plane.scroll_into_view_if_needed()
    expect(share).to_contain_text("slots 1 and 2")
    page.evaluate(HOLD)
    page.locator(".kfs-across").select_option("1")
    expect(share).to_have_text("computing…")
    models.asked.clear()
    box = plane.bounding_box()
    assert box
    at = {"x": 0.8 * box["width"], "y": 0.3 * box["height"]}
    plane.click(position=at)
    page.mouse.down()
    page.mouse.move(box["x"] + 5, box["y"] + 5, steps=3)
    page.mouse.up()
    assert noise(page) == START
    page.evaluate("() => { window.ask = answered; go(); }")
    expect(share).to_contain_text("slots 2 and 3")
    assert models.names() == ["grid"]
    plane.click(position=at)
    assert noise(page) == pytest.approx([START[0], 0.8, 0.7], abs=1 / STEPS)


def test_the_link_holds_everything_shown(page: Page, served: Callable[[], Models]) -> None:
    served()
    page.evaluate(
        "navigator.clipboard ? (navigator.clipboard.writeText = async (t) => { window.link = t; })"
        " : (document.execCommand = () => { window.link = document.activeElement.value; return true; })"
    )
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator(".kfs-said")).to_have_text("Link copied")
    query = page.evaluate("Object.fromEntries(new URLSearchParams(window.link.split('?')[1]))")
    assert query == {"pair": "tales", "prompt": "Once upon", "k": "3", "u": ",".join(map(str, START))}
