"""The scrub figure in a real Chromium, alone: a page that has no server."""

from __future__ import annotations

import re
from typing import Literal

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from browser.played import EVIL, START, STEPS, WORDS, K, alone, noise, payload, shown, tokens
from kfexplore.figures import scrub
from kfexplore.figures.palette import colours, hue_index, token_label

pytestmark = pytest.mark.browser


def test_first_screen_needs_no_server(page: Page) -> None:
    alone(page, scrub.standalone_html(payload()))
    root = page.locator("[data-u]")
    expect(root).to_have_attribute("data-source", "stored")
    assert noise(page) == START
    for model in ("teacher", "student"):
        assert shown(page, model) == tokens(model, "Once upon", START)
    chip = page.locator(".kfs-chip[data-model=teacher][data-slot='1']")
    expect(chip).to_have_text(token_label(WORDS[shown(page, "teacher")[0]]))
    agreeing = sum(map(int.__eq__, shown(page, "teacher"), shown(page, "student")))
    assert agreeing < K
    expect(page.locator(".kfs-agree")).to_have_text(f"{agreeing} of 3 slots agree")
    expect(page.locator(".kfs-dice")).to_be_hidden()


def test_the_block_reads_as_a_sentence(page: Page) -> None:
    alone(page, scrub.standalone_html(payload()))
    slider = page.locator(".kfs-range").first
    lines = page.locator(".kfs-sentence p")
    for step in range(0, STEPS, 4):
        slider.fill(str((step + 0.5) / STEPS))
        both = [shown(page, model) for model in ("teacher", "student")]
        first = next((n for n, (exact, learned) in enumerate(zip(*both, strict=True)) if exact != learned), None)
        for line, ids in zip(lines.all(), both, strict=True):
            tokens = line.locator(":scope > span > .kfs-token").all()
            said = "".join((token.text_content() or "") for token in tokens).replace("≠ first difference: ", "")
            assert said == "".join(token_label(WORDS[token]) for token in ids).replace("·", " ")
            assert [n for n, token in enumerate(tokens) if "kfs-first" in (token.get_attribute("class") or "")] == (
                [] if first is None else [first]
            )
        expect(lines.nth(1).get_by_text("≠")).to_have_count(0 if first is None else 1)


@pytest.mark.parametrize("slot", range(K))
def test_every_step_of_every_slider_shows_what_the_models_say(page: Page, slot: int) -> None:
    alone(page, scrub.standalone_html(payload()))
    slider = page.locator(".kfs-range").nth(slot)
    for step in range(0, STEPS, 7):
        slider.fill(str((step + 0.3) / STEPS))
        u = [*START]
        u[slot] = (step + 0.5) / STEPS
        assert noise(page) == u
        assert float(slider.input_value()) == u[slot]
        assert shown(page, "teacher") == tokens("teacher", "Once upon", u)
        assert shown(page, "student") == tokens("student", "Once upon", u)
        words = [token_label(WORDS[shown(page, model)[slot]]) for model in ("teacher", "student")]
        spoken = f"{u[slot]:.3f}, exact {words[0]}, learned {words[1]}"
        if step * 1000 % STEPS:  # halves round apart in the two languages
            expect(slider).to_have_attribute("aria-valuetext", spoken)
    expect(page.locator("[data-u]")).to_have_attribute("data-source", "table")


def test_the_thumb_stands_where_the_pointer_does(page: Page) -> None:
    alone(page, scrub.standalone_html(payload()))
    canvas = page.locator(".kfs-track canvas").first.bounding_box()
    assert canvas
    for share in (0.004, 0.25, 0.5, 0.996):
        page.mouse.click(canvas["x"] + share * canvas["width"], canvas["y"] + 20)
        assert noise(page)[0] == (int(share * STEPS) + 0.5) / STEPS


def test_the_track_is_painted_in_the_tokens_colours(page: Page) -> None:
    alone(page, scrub.standalone_html(payload()))
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
        expect(page.locator(".kfs")).to_have_attribute("data-theme", theme)
        for step in (5, 33, 60):
            token = tokens("teacher", "Once upon", [(step + 0.5) / STEPS])[0]
            pixel = page.locator(".kfs-track canvas").first.evaluate(
                "(canvas, share) => [...canvas.getContext('2d').getImageData("
                "Math.round(share * canvas.width), 2, 1, 1).data].slice(0, 3)",
                (step + 0.4) / STEPS,
            )
            fill = colours("dark" if theme == "dark" else "light").fills[hue_index(token)]
            assert pixel == [int(fill[at : at + 2], 16) for at in (1, 3, 5)]


def test_keys_move_by_steps(page: Page) -> None:
    alone(page, scrub.standalone_html(payload()))
    page.locator(".kfs-range").first.focus()
    step = 20
    for key, by in [
        ("ArrowRight", 1),
        ("ArrowDown", -1),
        ("Shift+ArrowUp", 16),
        ("PageDown", -16),
        ("End", 99),
        ("Home", -99),
    ]:
        page.keyboard.press(key)
        step = min(STEPS - 1, max(0, step + by))
        assert noise(page)[0] == (step + 0.5) / STEPS, key


def test_token_texts_are_never_markup(page: Page) -> None:
    alone(page, scrub.standalone_html(payload(prompt=f"Say {EVIL}")))
    slider = page.locator(".kfs-range").first
    for step in range(STEPS):
        slider.fill(str((step + 0.5) / STEPS))
        if WORDS[shown(page, "teacher")[0]] == EVIL:
            break
    expect(page.locator(".kfs-chip[data-model=teacher]").first).to_have_text(token_label(EVIL))
    expect(page.locator(".kfs-prompt")).to_contain_text("onerror")
    assert page.locator(".kfs img").count() == 0
    assert page.title() == ""


def test_two_figures_and_a_frame_share_a_page(page: Page) -> None:
    one, two = payload("Once upon"), payload("The dog")
    body = "".join(scrub.standalone_html(item) for item in (one, one, two)) + scrub.standalone_html(two, 700)
    alone(page, body)
    page.locator("[data-u]").nth(1).locator(".kfs-range").first.fill("0.9")
    moved = [root.get_attribute("data-source") for root in page.locator("[data-u]").all()]
    assert moved == ["stored", "table", "stored"]
    frame = page.frame_locator("iframe")
    frame.locator(".kfs-range").first.fill("0.9")
    expect(frame.locator("[data-u]")).to_have_attribute("data-source", "table")
    expect(page.locator("iframe")).not_to_have_css("height", "700px")


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_play_changes_the_sentence_and_a_second_press_stops_it(
    page: Page, motion: Literal["no-preference", "reduce"]
) -> None:
    page.emulate_media(reduced_motion=motion)
    alone(page, scrub.standalone_html(payload()))
    play = page.locator(".kfs-play")
    play.click()
    expect(play).to_have_text("Stop")
    expect(page.locator("[data-u]")).to_have_attribute("data-u", re.compile(r"^0\.[34]"))
    play.click()
    stopped = noise(page)
    expect(play).to_have_text("Play")
    assert stopped[1:] == START[1:]
    assert shown(page, "teacher") == tokens("teacher", "Once upon", stopped)
    page.wait_for_timeout(1500)
    assert noise(page) == stopped


def test_tracks_and_grid_are_saved_as_pictures(page: Page) -> None:
    alone(page, scrub.standalone_html(payload()))
    page.locator(".kfs-map").scroll_into_view_if_needed()
    for button, name in ((".kfs-savetracks", "tracks"), (".kfs-savegrid", "grid")):
        with page.expect_download() as saved:
            page.locator(button).click()
        assert saved.value.suggested_filename == f"kfexplore-{name}.png"
        picture = Image.open(saved.value.path())
        assert picture.width > 500
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 20


def test_a_hint_opens_by_keys_and_closes_with_escape(page: Page) -> None:
    alone(page, scrub.standalone_html(payload()))
    button, words = page.get_by_role("button", name="What is edge?"), page.get_by_text("nearest border")
    expect(words).to_be_hidden()
    button.focus()
    page.keyboard.press("Enter")
    expect(words).to_be_visible()
    expect(words.get_by_role("link")).to_be_hidden()  # there is no server that has the document
    page.keyboard.press("Escape")
    expect(words).to_be_hidden()
    expect(button).to_be_focused()


def test_a_notebook_shows_the_figure_or_its_still_image(page: Page) -> None:
    output = "<div class=jp-OutputArea-child>{}</div>".format
    still = output('<img alt=still src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">')
    alone(page, output(scrub.standalone_html(payload(), 700)) + still)
    expect(page.locator("img")).to_be_hidden()
    alone(page, output("<iframe></iframe>") + still)  # where no script runs
    expect(page.locator("img")).to_be_visible()


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_scrolls_sideways(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    alone(page, scrub.standalone_html(payload(prompt="word " * 300)))
    expect(page.locator(".kfs-prompt")).to_contain_text("289 earlier tokens")
    assert page.evaluate("document.documentElement.scrollWidth") == width
