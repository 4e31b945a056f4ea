"""The Scrub tab in a real Chromium: what it shows is what the models say."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest
import torch
from playwright.sync_api import Locator, Page, Route, expect

import kfexplore
from kfexplore import Pair, load_pair
from kfexplore.ui.tabs.scrub import EXAMPLES

pytestmark = pytest.mark.browser

ROOT = "[data-source]"
PROMPT = "#prompt textarea"


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair("tales")


def opened(page: Page, url: str) -> Locator:
    page.goto(url)
    root = page.locator(ROOT)
    expect(root).to_have_attribute("data-tables", "ready")
    return root


def noise(root: Locator) -> list[float]:
    return [float(u) for u in (root.get_attribute("data-u") or "").split(",")]


def chips(root: Locator, model: str) -> list[int]:
    found = root.locator(f"[data-model={model}][data-id]:visible").all()
    in_order = sorted((int(c.get_attribute("data-slot") or 0), int(c.get_attribute("data-id") or -1)) for c in found)
    return [token for _, token in in_order]


def settled(root: Locator) -> None:
    """Waits until the tokens shown are those of the noise shown, and the tables too."""
    expect(root).not_to_have_attribute("data-source", "pending")
    expect(root).to_have_attribute("data-tables", "ready")


def assert_true_tokens(root: Locator, pair: Pair, prompt: str) -> None:
    """Both rows of chips are the models' own answer at the noise that the page says."""
    ids, _ = pair.encode(prompt)
    block = pair.block([ids], [noise(root)], float(root.get_attribute("data-temperature") or 0))
    assert chips(root, "teacher") == block.teacher[0].tolist()
    assert chips(root, "student") == block.student[0].tolist()


def test_first_screen_is_stored_and_true(page: Page, app_url: str, pair: Pair) -> None:
    root = opened(page, app_url)
    assert root.get_attribute("data-source") == "stored"
    assert_true_tokens(root, pair, EXAMPLES[0])


@pytest.mark.parametrize("slot", [0, 3])
def test_a_slider_chooses_tokens_from_the_table(page: Page, app_url: str, pair: Pair, slot: int) -> None:
    root = opened(page, app_url)
    before = noise(root)
    root.locator(".kfs-range").nth(slot).fill("0.9")
    assert root.get_attribute("data-source") == "table"  # at once, with no server between
    assert noise(root)[slot] == pytest.approx(0.9, abs=1 / 512)
    assert [u for j, u in enumerate(noise(root)) if j != slot] == [u for j, u in enumerate(before) if j != slot]
    assert_true_tokens(root, pair, EXAMPLES[0])
    settled(root)
    assert_true_tokens(root, pair, EXAMPLES[0])


def test_moving_another_slider_at_once_asks_the_server(page: Page, app_url: str, pair: Pair) -> None:
    root = opened(page, app_url)
    for slot, u in ((0, "0.12"), (1, "0.77"), (2, "0.4"), (1, "0.2")):
        root.locator(".kfs-range").nth(slot).fill(u)
    settled(root)
    assert noise(root)[:3] == pytest.approx([0.12, 0.2, 0.4], abs=1 / 512)
    assert_true_tokens(root, pair, EXAMPLES[0])


def test_dragging_with_a_mouse(page: Page, app_url: str, pair: Pair) -> None:
    root = opened(page, app_url)
    slider = root.locator(".kfs-range").nth(1)
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * noise(root)[1], middle)
    page.mouse.down()
    for share in (0.45, 0.6, 0.7, 0.83):
        page.mouse.move(box["x"] + box["width"] * share, middle, steps=5)
    page.mouse.up()
    settled(root)
    assert noise(root)[1] == pytest.approx(0.83, abs=0.02)
    assert_true_tokens(root, pair, EXAMPLES[0])


def test_arrow_keys_move_by_a_step(page: Page, app_url: str, pair: Pair) -> None:
    root = opened(page, app_url)
    before = noise(root)[2]
    root.locator(".kfs-range").nth(2).focus()
    page.keyboard.press("ArrowRight")
    assert noise(root)[2] == pytest.approx(before + 1 / 512)
    page.keyboard.press("PageDown")
    assert noise(root)[2] == pytest.approx(before - 15 / 512)
    settled(root)
    assert_true_tokens(root, pair, EXAMPLES[0])


def test_an_exact_number_is_not_rounded(page: Page, app_url: str, pair: Pair) -> None:
    root = opened(page, app_url)
    field = root.get_by_role("textbox").nth(0)
    field.fill("0.123456789")
    field.press("Enter")
    settled(root)
    assert noise(root)[0] == 0.123456789
    assert_true_tokens(root, pair, EXAMPLES[0])


def test_another_prompt(page: Page, app_url: str, pair: Pair) -> None:
    root = opened(page, app_url)
    prompt = "The cat said <img src=x onerror=alert(1)> and"
    page.locator(PROMPT).fill(prompt)
    page.keyboard.press("Enter")
    expect(root.locator(".kfs-prompt")).to_contain_text("onerror")
    settled(root)
    assert root.locator("img").count() == 0
    assert_true_tokens(root, pair, prompt)


def test_an_example_is_opened(page: Page, app_url: str, pair: Pair) -> None:
    root = opened(page, app_url)
    page.get_by_text(EXAMPLES[4]).click()
    expect(root.locator(".kfs-prompt")).to_contain_text("poor")
    settled(root)
    assert_true_tokens(root, pair, EXAMPLES[4])


def test_an_empty_prompt_is_refused_and_changes_nothing(page: Page, app_url: str) -> None:
    root = opened(page, app_url)
    before = (noise(root), chips(root, "teacher"), chips(root, "student"))
    page.locator(PROMPT).fill("")
    page.keyboard.press("Enter")
    expect(root.get_by_role("alert")).to_contain_text("The prompt is empty")
    assert (noise(root), chips(root, "teacher"), chips(root, "student")) == before


def test_a_long_prompt_says_what_was_cut(page: Page, app_url: str) -> None:
    root = opened(page, app_url)
    page.locator(PROMPT).fill("and then he went on " * 80)
    page.keyboard.press("Enter")
    expect(root.locator(".kfs-note")).to_contain_text("tokens of the prompt were cut")


def test_a_link_restores_prompt_slots_and_noise(page: Page, app_url: str, pair: Pair) -> None:
    prompt = "Where have you been, my dear"
    root = opened(page, app_url + "?" + urlencode({"pair": "tales", "prompt": prompt, "k": 2, "u": "0.1,0.7123"}))
    expect(root).to_have_attribute("data-k", "2")
    settled(root)
    assert noise(root) == [0.1, 0.7123]
    assert len(chips(root, "student")) == 2
    assert_true_tokens(root, pair, prompt)
    expect(page.locator(PROMPT)).to_have_value(prompt)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"prompt": "a", "u": "0.1,1.2,0,0"}, "1.2 is outside"),
        ({"prompt": "a", "u": "abc"}, "Noise ['abc'] is not a list of numbers. Valid: numbers from 0"),
        (
            {"prompt": "a", "u": "0.1,0.2,0.3,0.4,0.5,0.6"},
            "the shape (6,). Valid: a list of 1 to 4 numbers",
        ),
        ({"prompt": "a", "k": "two"}, "K is 'two'. Valid: a whole number, 1 or more"),
        ({"prompt": ""}, f"The prompt is empty. Valid: at least one token. Still shown: “{EXAMPLES[0]}”."),
        ({"prompt": "a", "pair": "nothing"}, "no pair 'nothing'"),
        ({"prompt": "a", "k": "9"}, "K is 9"),
        ({"prompt": "a", "temperature": "hot"}, "The temperature is 'hot'. Valid: a number from 0.01 to 10"),
        ({"prompt": "a", "temperature": "0"}, "The temperature is 0. Valid"),
    ],
)
def test_a_bad_link_says_so_and_the_page_still_works(
    page: Page, app_url: str, pair: Pair, query: dict[str, str], message: str
) -> None:
    root = opened(page, app_url + "?" + urlencode(query))
    expect(root.get_by_role("alert")).to_contain_text(message)
    assert_true_tokens(root, pair, EXAMPLES[0])


def test_a_prompt_that_is_too_long_is_refused_and_not_cut(page: Page, app_url: str) -> None:
    root = opened(page, app_url)
    page.locator(PROMPT).focus()
    page.keyboard.insert_text("a" * 30_000)
    page.keyboard.press("Enter")
    expect(root.get_by_role("alert")).to_contain_text("characters. Valid: at most 20,000")
    expect(root.get_by_role("alert")).to_contain_text(f"Still shown: “{EXAMPLES[0]}”.")


def test_tokens_and_all_sliders_are_seen_together(page: Page, app_url: str) -> None:
    page.set_viewport_size({"width": 1200, "height": 800})
    root = opened(page, app_url)
    for each in (root.locator(".kfs-cells"), *root.locator(".kfs-track").all()):
        expect(each).to_be_in_viewport(ratio=0.95)
    page.set_viewport_size({"width": 390, "height": 844})
    expect(root.locator(".kfs-track").first).to_be_in_viewport(ratio=0.8)
    root.locator(".kfs-track").nth(3).scroll_into_view_if_needed()
    expect(root.locator(".kfs-cells")).to_be_in_viewport(ratio=1)
    root.locator("[data-map=student]").scroll_into_view_if_needed()
    expect(root.locator(".kfs-cells")).to_be_in_viewport(ratio=1)


def test_a_mistake_is_in_sight_where_it_is_made(page: Page, app_url: str) -> None:
    page.set_viewport_size({"width": 1200, "height": 800})
    root = opened(page, app_url)
    field = root.locator(".kfs-u").nth(3)
    field.fill("2")
    field.press("Enter")
    expect(root.get_by_role("alert")).to_be_in_viewport()
    expect(field).to_be_in_viewport()


def test_a_prompt_too_long_for_an_address_leaves_it_short(page: Page, app_url: str) -> None:
    opened(page, app_url + "?__theme=dark")
    page.locator(PROMPT).fill("\u4e16" * 1000)
    page.locator(PROMPT).press("Enter")
    page.wait_for_function("kfScrub.state().prompt.length === 1000")
    page.wait_for_timeout(600)  # the address follows after 400 ms
    assert page.evaluate("location.search") == "?__theme=dark"
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_text("The prompt is too long for a link.")).to_be_visible()


def test_a_reload_keeps_what_was_shown(page: Page, app_url: str, pair: Pair) -> None:
    root = opened(page, app_url + "?__theme=dark")
    page.locator(PROMPT).fill("The old owl went")
    page.locator(PROMPT).press("Enter")
    expect(root.locator(".kfs-prompt")).to_contain_text("owl")
    root.locator(".kfs-range").nth(1).fill("0.9")
    page.wait_for_function("kfScrub.state().settled")
    settled(root)
    before = noise(root)
    page.wait_for_function("u => new URLSearchParams(location.search).get('u') === u", arg=",".join(map(str, before)))
    page.reload()
    expect(root.locator(".kfs-prompt")).to_contain_text("owl")
    settled(root)
    assert noise(root) == before
    assert "__theme=dark" in page.url
    assert_true_tokens(root, pair, "The old owl went")


def test_the_way_back_leads_to_the_prompt_before(page: Page, app_url: str, pair: Pair) -> None:
    root = opened(page, app_url + "?__theme=dark")
    root.locator(".kfs-range").nth(1).fill("0.9")
    before = noise(root)
    entries = page.evaluate("history.length")
    field = page.locator(PROMPT)
    for prompt, word in (("The old owl went", "owl"), ("The cat sat", "cat")):
        field.fill(prompt)
        field.press("Enter")
        expect(root.locator(".kfs-prompt")).to_contain_text(word)
        settled(root)
    root.locator(".kfs-range").nth(2).fill("0.4")
    assert page.evaluate("history.length") == entries + 2
    page.evaluate("history.back()")
    expect(field).to_have_value("The old owl went")
    settled(root)
    assert noise(root) == before
    page.evaluate("history.back()")
    expect(field).to_have_value(EXAMPLES[0])
    settled(root)
    assert noise(root) == before
    assert_true_tokens(root, pair, EXAMPLES[0])
    page.evaluate("history.forward()")
    expect(field).to_have_value("The old owl went")
    assert page.evaluate("history.length") == entries + 2
    assert "__theme=dark" in page.url


def test_a_click_on_the_map_moves_both_sliders(page: Page, app_url: str, pair: Pair) -> None:
    root = opened(page, app_url)
    plane = root.locator("[data-map=teacher]")
    plane.scroll_into_view_if_needed()
    box = plane.bounding_box()
    assert box
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.1 * box["height"])
    settled(root)
    assert noise(root)[:2] == pytest.approx([0.25, 0.9], abs=0.02)
    assert_true_tokens(root, pair, EXAMPLES[0])


def test_what_was_asked_for_last_is_shown(page: Page, app_url: str, pair: Pair) -> None:
    root, asks, held = opened(page, app_url), re.compile("/component_server"), list[Route]()
    page.route(asks, lambda route: held.append(route))
    for prompt in ("She looked at", EXAMPLES[0]):  # the second is what is still shown
        with page.expect_request(asks):
            page.locator(PROMPT).fill(prompt)
            page.locator(PROMPT).press("Enter")
    for route in held:
        route.continue_()
    page.unroute(asks)
    settled(root)
    expect(page).to_have_url(re.compile("prompt=He"))
    assert_true_tokens(root, pair, EXAMPLES[0])


def test_what_is_part_of_a_character_is_explained(page: Page, app_url: str) -> None:
    root, legend = opened(page, app_url), page.locator(".kfs-broken")
    expect(legend).to_be_hidden()
    page.locator(PROMPT).fill("A 👩 she")
    page.locator(PROMPT).press("Enter")
    expect(root.locator(".kfs-prompt")).to_contain_text("�")
    expect(legend).to_have_text("�part of a character")
    expect(legend).to_be_visible()
    page.locator(PROMPT).fill("She looked at")
    page.locator(PROMPT).press("Enter")
    expect(root.locator(".kfs-prompt")).not_to_contain_text("�")
    expect(legend).to_be_hidden()


def test_fewer_slots_dice_lock_and_reset(page: Page, app_url: str, pair: Pair) -> None:
    root = opened(page, app_url)
    before = noise(root)
    root.get_by_role("radio", name="3").check()
    expect(root).to_have_attribute("data-k", "3")
    root.get_by_role("button", name="Lock").nth(0).click()
    root.get_by_role("button", name="Roll the dice").click()
    settled(root)
    rolled = noise(root)
    assert rolled[0] == before[0]
    assert rolled[1:] != before[1:3]
    assert_true_tokens(root, pair, EXAMPLES[0])
    root.get_by_role("button", name="Reset").click()
    settled(root)
    assert noise(root) == before[:3]


def test_the_bottom_of_the_page_says_what_it_runs_on(page: Page, app_url: str) -> None:
    opened(page, app_url)
    footer = page.locator("#facts")
    for fact in (
        f"kfexplore {kfexplore.__version__}",
        f"torch {torch.__version__}",
        "CPU (",
        "fast paths active: onednn",
    ):
        expect(footer).to_contain_text(fact)


def test_nothing_scrolls_sideways_on_a_narrow_screen(page: Page, app_url: str) -> None:
    page.set_viewport_size({"width": 380, "height": 800})
    opened(page, app_url)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_move_made_while_another_prompt_loads_is_kept(page: Page, app_url: str, pair: Pair) -> None:
    root = opened(page, app_url)
    page.evaluate(
        """() => {
          window.kfScrub.open({prompt: "The cat sat on the"});
          const slider = document.querySelector(".kfs-range");
          slider.value = 0.9;
          slider.dispatchEvent(new Event("input", {bubbles: true}));
        }"""
    )
    expect(root.locator(".kfs-prompt")).to_contain_text("cat")
    settled(root)
    assert noise(root)[0] == pytest.approx(0.9, abs=1 / 512)
    assert_true_tokens(root, pair, "The cat sat on the")


def test_the_map_shows_the_slots_that_it_names(page: Page, app_url: str) -> None:
    root = opened(page, app_url)
    root.locator(".kfs-map").scroll_into_view_if_needed()
    expect(root.locator(".kfs-meaning")).to_contain_text("probability of its pair")
    root.locator(".kfs-up").select_option("3")
    expect(root.locator(".kfs-meaning")).to_contain_text("not the probability of a pair")
    expect(root.locator(".kfs-mapshare")).to_contain_text("slots 1 and 4")


@pytest.mark.parametrize(("tab", "kind"), [("Generate", "checkbox"), ("Joint vs marginal", "radio")])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_chosen_keeps_its_look_under_the_pointer(
    page: Page, app_url: str, tab: str, kind: str, theme: str
) -> None:
    page.emulate_media(reduced_motion="reduce")
    opened(page, f"{app_url}?__theme={theme}")
    page.get_by_role("tab", name=tab).click()
    chosen = page.locator(f"input[type={kind}]:checked:visible").first
    look = """node => {
      const {backgroundColor, backgroundImage, borderColor} = getComputedStyle(node);
      return [backgroundColor, backgroundImage, borderColor];
    }"""
    expect(chosen).not_to_have_css("background-color", "rgba(0, 0, 0, 0)")
    before = chosen.evaluate(look)
    chosen.hover()
    assert chosen.evaluate("node => node.matches(':hover')")
    assert chosen.evaluate(look) == before
