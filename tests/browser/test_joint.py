"""The tab Joint vs marginal in a real Chromium: what it shows are the distributions, for the prompt above the tabs."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from kfexplore import Pair, load_pair
from kfexplore.laws.exact import pair_law
from kfexplore.laws.ranking import stored_contexts
from kfexplore.ui.tabs.scrub import EXAMPLES

pytestmark = pytest.mark.browser

STATUS, SAMPLERS = "#joint-status", "#joint-samplers"


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair("tales")


def opened(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("tab", name="Joint vs marginal").click()


def fewer_blocks(page: Page) -> None:
    page.locator("#joint-blocks").get_by_label("512", exact=True).check()
    expect(page.locator(SAMPLERS).get_by_role("cell", name="512", exact=True).first).to_be_visible()


def expect_law_of(page: Page, pair: Pair, prompt: str) -> None:
    ids, _ = pair.encode(prompt)
    known = pair_law(pair, ids).mutual_information.value
    expect(page.locator(STATUS)).to_contain_text(f"After {len(ids)} tokens")
    expect(page.locator(STATUS)).to_contain_text(f"of the next two tokens: {known:.3f} nats")


def test_the_tab_answers_for_the_prompt_above_it(page: Page, app_url: str, pair: Pair) -> None:
    opened(page, app_url)
    expect_law_of(page, pair, EXAMPLES[0])
    table = page.locator(f"{SAMPLERS} table")
    for sampler in ("teacher", "student", "ideal MDLM", "MDLM, 1 pass", "MDLM, 2 passes, random order"):
        expect(table).to_contain_text(sampler)
    for name in ("joint", "product", "difference", "surprise", "counts"):
        expect(page.locator(f"#joint-{name} .main-svg").first).to_be_visible()
    named = "[...document.querySelectorAll('#joint-counts [style*=url], #joint-counts [clip-path]')]"
    urls = page.evaluate(f"{named}.map((e) => [e.getAttribute('style'), e.getAttribute('clip-path')]).join()")
    assert "#" in urls
    assert "http" not in urls, "hatching that is named by an address is gone when that changes"
    page.locator("#prompt textarea").fill("The king said to his")
    page.locator("#prompt textarea").press("Enter")
    expect_law_of(page, pair, "The king said to his")


def test_more_tokens_and_another_seed_are_drawn_anew(page: Page, app_url: str) -> None:
    opened(page, app_url)
    expect(page.locator(STATUS)).to_contain_text("seed 0")
    first = page.locator("#joint-texts .kf-prose-block").first
    expect(first.locator("span")).to_have_count(2)
    fewer_blocks(page)
    page.locator("#joint-k input[type=range]").fill("3")
    expect(first.locator("span")).to_have_count(3)
    page.locator("#joint-seed input").fill("7")
    page.locator("#joint-go").click()
    expect(page.locator(STATUS)).to_contain_text("seed 7")


def test_the_temperature_of_a_link_is_followed_and_can_be_changed(page: Page, app_url: str) -> None:
    opened(page, f"{app_url}?joint-temperature=0.5")
    head, slider = page.locator("#joint-head"), page.locator("#joint-temperature input[type=range]")
    expect(slider).to_have_value("0.5")
    page.locator("#joint-go").click()  # the tab may have been opened before the link was read
    expect(head).to_contain_text("at temperature 0.5.")
    expect(page.locator(SAMPLERS)).to_contain_text("The masked model has no temperature")
    slider.fill("1")
    expect(page.locator(f"{SAMPLERS} table")).to_contain_text("MDLM, 1 pass")
    expect(head).not_to_contain_text("temperature")


def test_a_ranked_context_becomes_the_prompt(page: Page, app_url: str, pair: Pair) -> None:
    opened(page, app_url)
    expect_law_of(page, pair, EXAMPLES[0])
    best, contexts = stored_contexts("tales")[0], page.locator("#joint-contexts")
    (offered, told) = (part.bounding_box() for part in (contexts, page.locator(STATUS)))
    assert offered is not None
    assert told is not None
    assert offered["y"] + offered["height"] <= told["y"] < 1000  # all of it on the first screen
    contexts.get_by_text(re.compile(re.escape(best.text[-20:]))).first.click()
    expect(page.locator("#prompt textarea")).to_have_value(best.text)
    expect_law_of(page, pair, best.text)


def test_the_example_of_stories_is_on_the_first_screen_at_once(page: Page, stories_url: str) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    opened(page, stories_url)
    head, texts = page.locator("#joint-head"), page.locator("#joint-texts")
    expect(head).to_contain_text("of independent draws are blocks that the teacher almost never writes")
    expect(page.get_by_text("they illustrate, they do not rank samplers")).to_be_in_viewport(ratio=1)
    expect(head).to_be_in_viewport(ratio=1)
    expect(texts.locator(".kf-prose-block").nth(2)).to_be_in_viewport()
    expect(texts.locator(".kf-prose-why").first).to_contain_text("most likely")
    expect(page.locator("#joint-k input[type=range]")).to_have_value("3")
    expect(page.locator("#joint-temperature input[type=range]")).to_have_value("0.7")
    expect(page.locator("#prompt textarea")).to_have_value("Once upon a time, there was a little")
    expect(page.locator("#joint-cancel")).to_be_disabled()
    page.locator("#joint-go").click()
    expect(head).to_contain_text("next 3 tokens after")
    expect(page.locator("#joint-status")).to_contain_text("Stored with the page")
    page.locator("#joint-contexts").get_by_text("Opening and closing quote").click()
    expect(head).to_contain_text("next 4 tokens after")
    expect(page.locator("#prompt textarea")).to_have_value(re.compile("cried loudly,$"))
    expect(page.locator("#joint-k input[type=range]")).to_have_value("4")


def test_scrub_shows_the_prompt_of_the_example_and_a_link_its_own_noise(page: Page, stories_url: str) -> None:
    example, root = "Once upon a time, there was a little", page.locator("[data-u]")
    opened(page, stories_url)
    page.wait_for_url(re.compile(r"prompt=Once\+upon\+a\+time%2C\+there\+was\+a\+little&"))
    page.get_by_role("tab", name="Scrub").click()
    expect(page.locator(".kfs-exactline .kfs-prompt")).to_have_text(re.compile(f"{example}$"))
    page.goto(f"{stories_url}?tab=joint&prompt=Lily+was&k=2&u=0.1,0.7")
    expect(page.locator("#joint-head")).to_contain_text("next 2 tokens after “Lily was”")
    page.get_by_role("tab", name="Scrub").click()
    expect(root).to_have_attribute("data-u", "0.1,0.7")


def test_a_mistake_leaves_what_was_shown(page: Page, app_url: str, pair: Pair) -> None:
    opened(page, app_url)
    expect_law_of(page, pair, EXAMPLES[0])
    page.locator("#prompt textarea").fill("")
    page.locator("#joint-go").click()
    expect(page.locator(STATUS)).to_contain_text("Valid:")
    expect(page.locator(f"{SAMPLERS} table")).to_contain_text("teacher")
    expect(page.locator("#joint-head")).to_contain_text(f"next 2 tokens after “{EXAMPLES[0]}”")
    page.locator("#prompt textarea").fill("The king")
    for seed in ("-1", "1.5"):
        page.locator("#joint-seed input").fill(seed)
        page.locator("#joint-go").click()
        expect(page.locator(STATUS)).to_contain_text(f"The seed is {seed}.")
        expect(page.locator(STATUS)).to_contain_text("Valid: a whole number, 0 or more")
    expect(page.locator(".toast-body")).to_have_count(0)


@pytest.mark.parametrize("width", [1200, 390])
def test_progress_stands_below_what_is_being_done(page: Page, app_url: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 1000})
    opened(page, app_url)
    expect(page.locator(STATUS)).to_contain_text("seed 0")
    page.locator("#joint-k input[type=range]").fill("4" if width == 390 else "3")  # what is kept has no progress
    words, bar, head = page.wait_for_function(
        """() => {
            const names = ["#joint-status [role=status] p", "#joint-status [role=progressbar]", "#joint-head"];
            const parts = names.map((name) => document.querySelector(name));
            return parts[1] && parts.map((part) => [part.innerText, part.getBoundingClientRect().toJSON()]);
        }"""
    ).json_value()
    assert words[0].startswith("Drawing blocks after")
    assert words[1]["bottom"] <= bar[1]["top"] < bar[1]["bottom"] <= head[1]["top"]
    page.locator("#joint-cancel").click()
    expect(page.locator("#joint-cancel")).to_be_disabled()


def test_a_number_as_it_is_typed_is_sent_within_its_ends(page: Page, app_url: str) -> None:
    failed: list[str] = []
    page.on("response", lambda response: response.status < 500 or failed.append(response.url))
    opened(page, app_url)
    fewer_blocks(page)
    head = page.locator("#joint-head")
    for typed, sent, left in (("9", 4, "4"), ("", 2, "2")):
        number = page.locator("#joint-k input[type=number]")
        number.fill(typed)
        expect(head).to_contain_text(f"next {sent} tokens")
        number.blur()
        expect(number).to_have_value(left)
        expect(head).to_contain_text(f"next {sent} tokens")
    page.get_by_role("tab", name="Toy distributions").click()
    page.get_by_text("Noisy XOR", exact=True).click()
    for typed, distance in (("9", "The distribution meets none of the conditions"), ("", "0.500"), ("0.3", "0.200")):
        page.locator("#toy-eps input[type=number]").fill(typed)
        expect(page.locator("#toy-meaning")).to_contain_text(distance)
    assert failed == []


def test_drawing_toys_counts_impossible_blocks_on_the_first_screen(page: Page, app_url: str) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    opened(page, app_url)
    page.get_by_role("tab", name="Toy distributions").click()
    squares, dots = page.locator("#toy-squares"), page.locator("#toy-squares + * .scatterlayer .point")
    expect(squares).to_contain_text("impossible blocks 50 % of the time")
    expect(dots).to_have_count(0)
    for count in (100, 200):
        page.get_by_role("button", name="Draw 100").click()
        expect(squares).to_contain_text(re.compile(rf"\d+ of {count} .* \(expected: 50\s%\); the exact map gives 0"))
        expect(dots).to_have_count(2 * count)
    expect(page.locator("#toy-squares + *")).to_be_in_viewport(ratio=0.99)
    page.locator("#toy-length input[type=range]").fill("3")
    expect(squares).to_contain_text("impossible blocks 77.8 % of the time")  # 1 - 3!/27
    expect(dots).to_have_count(0)


def test_figures_beside_each_other_follow_the_longest_words_and_stand_at_one_height(page: Page, app_url: str) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    opened(page, app_url)
    page.get_by_role("tab", name="Toy distributions").click()
    row = page.locator(".kf-figures").filter(has=page.locator("#toy-squares"))
    expect(row.locator(".main-svg").first).to_be_visible()
    ends = """(row) => [...row.children].map((column) => [
        column.querySelector(".kf-prose").getBoundingClientRect().bottom,
        column.querySelector(".kf-plot").getBoundingClientRect().top,
    ])"""
    words, plots = zip(*row.evaluate(ends), strict=True)
    assert max(plots) - min(plots) < 2
    assert 0 <= plots[0] - max(words) <= 32


def test_a_toy_distribution_follows_its_slider(page: Page, app_url: str) -> None:
    opened(page, app_url)
    page.get_by_role("tab", name="Toy distributions").click()
    page.get_by_text("Noisy XOR", exact=True).click()
    meaning = page.locator("#toy-meaning")
    expect(meaning).to_contain_text("Theorem 1 as literally stated fails here")
    expect(meaning).to_contain_text("0.400")  # eps 0.1: one pass is off by (1 - 2 eps) / 2
    page.locator("#toy-eps input[type=range]").fill("0.3")
    expect(meaning).to_contain_text("0.200")


def test_nothing_scrolls_sideways_on_a_narrow_screen(page: Page, app_url: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    opened(page, app_url)
    expect(page.locator(f"{SAMPLERS} table")).to_contain_text("teacher")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.get_by_role("tab", name="Toy distributions").click()
    expect(page.locator("#toy-meaning")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
