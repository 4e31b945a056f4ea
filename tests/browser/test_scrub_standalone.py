"""The scrub figure in a real Chromium: alone, and with a made-up pair of models behind it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from kfexplore.figures import scrub
from kfexplore.figures.palette import colours, hue_index, token_label

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=\"document.title='run'\">"
WORDS = [" the", " a", " little", EVIL, "\n", ",", " was", "ing", " dog", " cat"]
STEPS, K = 64, 3
START = [(step + 0.5) / STEPS for step in (20, 40, 11)]
Json = dict[str, Any]


def cdf(model: str, prompt: str, before: list[int]) -> np.ndarray[Any, Any]:
    """A law of the next token that hangs on everything before it; the student's is off a little."""
    seed = hashlib.sha256(repr((prompt, before)).encode()).digest()
    weights = np.random.default_rng(list(seed)).exponential(size=len(WORDS))
    if model == "student":
        weights[len(before) % len(WORDS)] += 2.5
    return np.cumsum(weights / weights.sum())


def tokens(model: str, prompt: str, u: list[float]) -> list[int]:
    chosen: list[int] = []
    for value in u:
        chosen.append(int(min(len(WORDS) - 1, np.searchsorted(cdf(model, prompt, chosen), value))))
    return chosen


def packed(values: Any, dtype: str) -> str:
    return base64.b64encode(np.asarray(values, dtype).tobytes()).decode()


class Models:
    """Answers as the app's server does, and keeps what it was asked; `failing` names what it refuses."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Json]] = []
        self.failing: set[str] = set()
        self.advice = "make app"
        self.every = 1
        self.device = "cpu"

    def __call__(self, name: str, request: Json) -> Json:
        self.asked.append((name, request))
        if name in self.failing:
            told = {"failed": f"No {name}.", "valid": "less", "run": self.advice, "is_command": "make" in self.advice}
            return {"ok": False, "seq": request["seq"], **told}
        answer: Json = {"tables": self.tables, "point": self.point, "grid": self.grid}[name](request)
        return {"ok": True, "seq": request["seq"], "texts": dict(enumerate(WORDS)), **answer}

    def names(self) -> list[str]:
        return [name for name, _ in self.asked]

    def point(self, request: Json) -> Json:
        u, prompt = request["u"], request["prompt"]
        numbers = {"margin": [0.42] * len(u), "edge": [0.031] * len(u)}
        return {model: tokens(model, prompt, u) for model in ("teacher", "student")} | numbers

    def tables(self, request: Json) -> Json:
        k, prompt, steps = request["k"], request["prompt"], request["resolution"]
        u, slots = (request["u"] + START)[:k], request.get("slots", list(range(k)))
        known = [(r + 0.5) / steps for r in range(steps)][self.every // 2 :: self.every]
        table = {
            model: [[tokens(model, prompt, [*u[:j], value, *u[j + 1 :]]) for value in known] for j in slots]
            for model in ("teacher", "student")
        }
        shape = (len(slots), len(known), k)
        return {
            "slots": slots,
            "every": self.every,
            "pair": request["pair"],
            "prompt": prompt,
            "prompt_tokens": [[i, word] for i, word in enumerate(prompt.split(" "))],
            "note": "",
            "k": k,
            "k_max": K,
            "resolution": steps,
            "u": u,
            "teacher": packed(table["teacher"], "<u2"),
            "student": packed(table["student"], "<u2"),
            "margin": packed(np.full(shape, 0.42), "<f4"),
            "edge": packed(np.full(shape, 0.031), "<f4"),
            "point": self.point({"u": u, "prompt": prompt}),
            "device": self.device,
            "dtype": "float32",
            "seconds": 0.31,
            "stored": False,
        }

    def grid(self, request: Json) -> Json:
        (i, j), steps = request["slots"], 32
        cells = {}
        for model in ("teacher", "student"):
            cell = np.zeros((steps, steps, 2), int)
            for x in range(steps):
                for y in range(steps):
                    u = list(request["u"])
                    u[i], u[j] = (x + 0.5) / steps, (y + 0.5) / steps
                    cell[x, y] = np.array(tokens(model, request["prompt"], u))[[i, j]]
            cells[model] = cell
        share = float((cells["teacher"] == cells["student"]).all(-1).mean())
        sent = {model: packed(cell, "<u2") for model, cell in cells.items()}
        return {"slots": [i, j], "resolution": steps, "agreement": share, "seconds": 0.1, **sent}


def payload(prompt: str = "Once upon", grid: bool = True) -> Json:
    models = Models()
    question = {"seq": 0, "pair": "tales", "prompt": prompt, "k": K, "u": START, "resolution": STEPS}
    made = models("tables", question) | {"stored": True}
    return made | ({"grid": models("grid", {**question, "slots": [0, 1]})} if grid else {})


def alone(page: Page, body: str) -> None:
    page.set_content(f"<!doctype html><meta charset=utf-8><body style='margin:0'>{body}")


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
            f"{scrub.scrub_js()}\nwindow.api = mountScrub(document.getElementById('host'), "
            f"{scrub._script_json(payload(grid=False))}, {{ {calls} }}); }})()</script>",
        )
        return models

    return mount


def shown(page: Page, model: str, root: str = "[data-u]") -> list[int]:
    chips = page.locator(f"{root} .kfs-cells .kfs-chip[data-model={model}]:visible")
    return [int(chip.get_attribute("data-id") or -1) for chip in chips.all()]


def noise(page: Page) -> list[float]:
    return [float(u) for u in (page.locator("[data-u]").get_attribute("data-u") or "").split(",")]


def settled(page: Page) -> None:
    expect(page.locator("[data-u]")).to_have_attribute("data-tables", "ready")
    page.wait_for_function("!document.querySelector('.kfs [aria-busy=true]')")


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


@pytest.mark.parametrize("slot", range(K))
def test_every_step_of_every_slider_shows_what_the_models_say(page: Page, slot: int) -> None:
    alone(page, scrub.standalone_html(payload()))
    slider = page.locator("input[type=range]").nth(slot)
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


def test_without_a_server_the_other_sliders_go_back_to_where_the_tracks_hold(page: Page) -> None:
    alone(page, scrub.standalone_html(payload()))
    sliders = page.locator("input[type=range]")
    sliders.nth(0).fill("0.9")
    expect(page.locator(".kfs-row").nth(1).locator(".kfs-share")).to_have_text("track of the starting noise")
    sliders.nth(1).fill("0.1")
    assert noise(page)[0] == START[0]
    assert shown(page, "teacher") == tokens("teacher", "Once upon", noise(page))


def test_the_thumb_stands_where_the_pointer_does(page: Page) -> None:
    alone(page, scrub.standalone_html(payload()))
    canvas = page.locator(".kfs-strip canvas").first.bounding_box()
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
            pixel = page.locator(".kfs-strip canvas").first.evaluate(
                "(canvas, share) => [...canvas.getContext('2d').getImageData("
                "Math.round(share * canvas.width), 2, 1, 1).data].slice(0, 3)",
                (step + 0.4) / STEPS,
            )
            fill = colours("dark" if theme == "dark" else "light").fills[hue_index(token)]
            assert pixel == [int(fill[at : at + 2], 16) for at in (1, 3, 5)]


def test_keys_move_by_steps(page: Page) -> None:
    alone(page, scrub.standalone_html(payload()))
    page.locator("input[type=range]").first.focus()
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
    slider = page.locator("input[type=range]").first
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
    page.locator("[data-u]").nth(1).locator("input[type=range]").first.fill("0.9")
    moved = [root.get_attribute("data-source") for root in page.locator("[data-u]").all()]
    assert moved == ["stored", "table", "stored"]
    frame = page.frame_locator("iframe")
    frame.locator("input[type=range]").first.fill("0.9")
    expect(frame.locator("[data-u]")).to_have_attribute("data-source", "table")
    expect(page.locator("iframe")).not_to_have_css("height", "700px")


def test_a_click_on_the_map_moves_both_sliders(page: Page) -> None:
    alone(page, scrub.standalone_html(payload()))
    plane = page.locator(".kfs-plane").nth(1)
    box = plane.bounding_box()
    assert box
    plane.click(position={"x": 0.8 * box["width"], "y": 0.3 * box["height"]})
    u = noise(page)
    assert u[0] == pytest.approx(0.8, abs=1 / STEPS)
    assert u[1] == pytest.approx(0.7, abs=1 / STEPS)
    assert shown(page, "teacher")[2] == -1, "slot 3 is not in this page"
    assert page.locator(".kfs-chip[data-model=student]").nth(2).inner_text() == "?"


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_scrolls_sideways(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    alone(page, scrub.standalone_html(payload(prompt="word " * 300)))
    expect(page.locator(".kfs-prompt")).to_contain_text("261 earlier tokens")
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_drag_is_answered_in_the_page_and_settles_once(page: Page, served: Callable[[], Models]) -> None:
    models = served()
    box = page.locator(".kfs-strip canvas").first.bounding_box()
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
    page.locator("input[type=range]").nth(1).hover()
    settled(page)
    page.locator("input[type=range]").nth(1).fill("0.2")
    settled(page)
    assert "point" not in models.names(), "the new row answers the next drag"


def asked_rows(models: Models) -> list[list[int]]:
    return [request["slots"] for name, request in models.asked if name == "tables"]


def test_a_settled_move_asks_for_the_tracks_that_it_changed(page: Page, served: Callable[[], Models]) -> None:
    models = served()
    page.locator("input[type=range]").nth(1).fill("0.9")
    settled(page)
    page.wait_for_function("api.state().settled")
    assert asked_rows(models) == [[2]], (
        "the track before it hangs on earlier slots alone, and its own on none that moved"
    )
    assert "point" not in models.names()


def test_a_gpu_is_asked_for_all_tracks_at_once(page: Page, served: Callable[[], Models]) -> None:
    models = served()
    models.device = "cuda"
    page.evaluate("api.open({ prompt: 'Once more' })")
    settled(page)
    models.asked.clear()
    page.locator("input[type=range]").nth(0).fill("0.9")
    settled(page)
    page.wait_for_function("api.state().settled")
    assert asked_rows(models) == [[1, 2]]


def test_a_hand_on_a_slider_asks_for_its_row_before_it_moves(page: Page, served: Callable[[], Models]) -> None:
    models = served()
    sliders = page.locator("input[type=range]")
    sliders.nth(1).fill("0.9")
    page.wait_for_function("api.state().settled")
    settled(page)
    sliders.nth(0).hover()
    settled(page)
    assert asked_rows(models) == [[2], [0]]
    page.mouse.down()
    sliders.nth(0).fill("0.4")
    page.mouse.up()
    assert "point" not in models.names()
    assert shown(page, "student") == tokens("student", "Once upon", noise(page))


def test_where_only_some_steps_are_known_a_slider_goes_to_those(page: Page, served: Callable[[], Models]) -> None:
    models = served()
    models.every = 8
    sliders = page.locator("input[type=range]")
    sliders.nth(0).fill("0.9")  # known in all steps
    assert noise(page)[0] == (int(0.9 * STEPS) + 0.5) / STEPS
    page.wait_for_function("api.state().settled")
    settled(page)
    for value in ("0.1", "0.5", "0.99"):
        sliders.nth(2).fill(value)
        assert (noise(page)[2] * STEPS - 0.5) % 8 == 4
        assert shown(page, "teacher") == tokens("teacher", "Once upon", noise(page))
    expect(page.locator(".kfs-origin")).to_contain_text(f"some tracks are in steps of 1/{STEPS // 8}")
    before = noise(page)[2]
    sliders.nth(2).press("ArrowLeft")
    assert noise(page)[2] == before - 8 / STEPS
    assert "point" not in models.names()


def test_where_many_ask_a_move_waits_for_its_row_and_asks_for_no_point(
    page: Page, served: Callable[[], Models]
) -> None:
    models = served()
    models.every = 8
    sliders = page.locator("input[type=range]")
    sliders.nth(0).fill("0.9")
    page.wait_for_function("api.state().settled")
    settled(page)
    sliders.nth(1).fill("0.3")  # no hand was on it before: its row has to come
    expect(page.locator("[data-u]")).to_have_attribute("data-source", "table")
    settled(page)
    assert (noise(page)[1] * STEPS - 0.5) % 8 == 4
    assert shown(page, "teacher") == tokens("teacher", "Once upon", noise(page))
    assert "point" not in models.names()


def test_coarse_rows_are_asked_for_again_at_rest(page: Page, served: Callable[[], Models]) -> None:
    page.clock.install()
    models = served()
    models.every = 8
    page.locator("input[type=range]").nth(1).fill("0.9")
    page.clock.run_for(1000)
    settled(page)
    assert asked_rows(models) == [[2]]
    models.every = 1
    page.clock.run_for(6000)
    settled(page)
    assert asked_rows(models) == [[2], [2]]
    expect(page.locator(".kfs-origin")).not_to_contain_text("Many are asking")


def test_dice_leave_locked_slots_alone_and_reset_goes_home(page: Page, served: Callable[[], Models]) -> None:
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
    page.get_by_role("button", name="Reset").click()
    settled(page)
    assert noise(page) == START


def test_an_exact_number_is_asked_at_just_that_number(page: Page, served: Callable[[], Models]) -> None:
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


def test_a_failure_is_told_and_changes_nothing(page: Page, served: Callable[[], Models]) -> None:
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


def test_a_mistyped_number_stays_told_until_the_next_move(page: Page, served: Callable[[], Models]) -> None:
    served()
    alert = page.get_by_role("alert")
    page.locator("input[type=range]").nth(1).fill("0.9")  # rows are on their way
    field = page.locator(".kfs-u").nth(0)
    field.fill("2")
    field.press("Enter")
    page.wait_for_function("api.state().settled")
    settled(page)
    expect(alert).to_contain_text("u is 2")
    page.locator("input[type=range]").nth(2).fill("0.2")
    expect(alert).to_have_text("")


def test_fewer_and_more_slots(page: Page, served: Callable[[], Models]) -> None:
    served()
    page.locator(".kfs-ks label").nth(0).click()
    assert shown(page, "teacher") == tokens("teacher", "Once upon", START[:1])
    expect(page.locator(".kfs-alone")).to_contain_text("needs two slots")
    page.locator("input[type=range]").first.fill("0.75")
    settled(page)
    page.locator(".kfs-ks label").nth(2).click()
    expect(page.locator("[data-u]")).to_have_attribute("data-k", "3")
    assert noise(page)[1:] == START[1:]
    assert shown(page, "teacher") == tokens("teacher", "Once upon", noise(page))


def test_the_map_is_asked_for_when_it_is_seen(page: Page, served: Callable[[], Models]) -> None:
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


def test_other_slots_of_the_map_leave_the_old_picture_until_theirs_is_there(
    page: Page, served: Callable[[], Models]
) -> None:
    models = served()
    page.locator(".kfs-map").scroll_into_view_if_needed()
    share, meaning = page.locator(".kfs-mapshare"), page.locator(".kfs-meaning")
    expect(share).to_contain_text("slots 1 and 2")
    picture = "document.querySelector('.kfs-plane canvas').toDataURL()"
    before = (page.evaluate(picture), meaning.text_content(), page.locator(".kfs-xname").first.text_content())
    models.failing = {"grid"}
    page.evaluate(
        """() => {
          window.held = ask;
          window.ask = (name, r) => new Promise((answer) => (window.go = () => answer(held(name, r))));
        }"""
    )
    page.locator(".kfs-across").select_option("1")
    page.wait_for_function("Boolean(window.go)")
    expect(share).to_have_text("computing…")
    expect(page.locator(".kfs-mapbody")).to_have_class("kfs-mapbody kfs-stale")
    now = (page.evaluate(picture), meaning.text_content(), page.locator(".kfs-xname").first.text_content())
    assert now == before
    page.evaluate("() => { window.ask = held; go(); }")
    expect(page.get_by_role("alert")).to_contain_text("No grid.")
    expect(page.locator(".kfs-across")).to_have_value("0")  # as what is drawn
    models.failing = set()
    page.locator(".kfs-across").select_option("1")
    expect(share).to_contain_text("slots 2 and 3")
    expect(meaning).to_contain_text("given the exact token before them")
    assert page.evaluate(picture) != before[0]


def test_the_link_says_it_all(page: Page, served: Callable[[], Models]) -> None:
    served()
    page.evaluate(
        "navigator.clipboard ? (navigator.clipboard.writeText = async (t) => { window.link = t; })"
        " : (document.execCommand = () => { window.link = document.activeElement.value; return true; })"
    )
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator(".kfs-said")).to_have_text("Link copied")
    query = page.evaluate("Object.fromEntries(new URLSearchParams(window.link.split('?')[1]))")
    assert query == {"pair": "tales", "prompt": "Once upon", "k": "3", "u": ",".join(map(str, START))}


def test_late_answers_do_not_overwrite_newer_ones(page: Page) -> None:
    """Points are answered by hand: the first reply comes after the slider is back on what the tables hold."""
    alone(
        page,
        f"<style>{scrub.scrub_css()}</style><div id=host>{scrub.scrub_markup()}</div><script>(() => {{"
        f"{scrub.scrub_js()}\nwindow.waiting = [];"
        "const hold = (r) => new Promise((answer) => window.waiting.push({ r, answer }));"
        f"mountScrub(document.getElementById('host'), {scrub._script_json(payload(grid=False))}, "
        "{ tables: () => new Promise(() => {}), point: hold, grid: () => new Promise(() => {}) }); })()</script>",
    )
    sliders = page.locator("input[type=range]")
    sliders.nth(0).fill("0.9")
    for value in ("0.1", "0.2", "0.3"):
        sliders.nth(1).fill(value)
    root = page.locator("[data-u]")
    expect(root).to_have_attribute("data-source", "pending")
    assert page.evaluate("window.waiting.length") == 1, "one in flight"
    sliders.nth(1).fill(str(START[1]))
    expect(root).to_have_attribute("data-source", "table")
    before = shown(page, "teacher")
    page.evaluate(
        "{ const { r, answer } = window.waiting[0]; answer({ ok: true, seq: r.seq, teacher: [9, 9, 9],"
        " student: [9, 9, 9], margin: [0, 0, 0], edge: [0, 0, 0], texts: {} }); }"
    )
    page.evaluate("new Promise((done) => setTimeout(done))")
    assert shown(page, "teacher") == before
    assert page.evaluate("window.waiting.length") == 1, "what waited was dropped"
    expect(root).to_have_attribute("data-source", "table")
