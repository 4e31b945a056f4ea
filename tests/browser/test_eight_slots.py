"""A pair of eight slots on the whole page, wide and narrow: nothing may be made for four."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from helpers import masked, student, teacher
from playwright.sync_api import Browser, Locator, Page, expect
from tokenizers import Tokenizer, models, pre_tokenizers

from browser.conftest import watched
from kfexplore.maps import grid
from kfexplore.pair import Pair
from kfexplore.ui.app import serve
from kfexplore.ui.service import local_service

pytestmark = pytest.mark.browser

K = 8
WORDS = ["a", *(f"{word}{n}" for n in range(4) for word in ("dog", "yesterday", "sandwich", "then", "grandmother"))]
PROMPT = "dog0 then1 a"
U = [round(0.05 + 0.11 * slot, 4) for slot in range(K)]


@dataclass(frozen=True)
class App:
    """What is served, and where."""

    pair: Pair
    url: str

    def link(self, **more: object) -> str:
        return f"{self.url}?{urlencode({'prompt': PROMPT, 'u': ','.join(map(str, U)), **more})}"


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pair = Pair(teacher(peaky=2), student(11, peaky=2, block=K), masked(), tokenizer)
    four = Pair(teacher(peaky=2), student(11, peaky=2), masked(), tokenizer)
    service = local_service({"eight": lambda: pair, "four": lambda: four})
    demo = serve(service, "eight", server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield App(pair, demo.local_url)
    demo.close()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["wide", "narrow"])
def page(request: pytest.FixtureRequest, chromium: Browser) -> Iterator[Page]:
    with watched(chromium) as page:
        width, height = request.param
        page.set_viewport_size({"width": width, "height": height})
        yield page


def opened(page: Page, url: str) -> Locator:
    page.goto(url)
    root = page.locator("[data-source]")
    expect(root).to_have_attribute("data-k", str(K))
    at_rest(root)
    return root


def at_rest(root: Locator) -> None:
    expect(root).not_to_have_attribute("data-source", "pending")
    expect(root).to_have_attribute("data-tables", "ready")


def assert_true(app: App, root: Locator) -> None:
    """All chips are the models' own answer at the noise and the temperature that the page says."""
    u = [float(value) for value in (root.get_attribute("data-u") or "").split(",")]
    assert len(u) == K
    temperature = float(root.get_attribute("data-temperature") or 0)
    block = app.pair.block([app.pair.encode(PROMPT)[0]], [u], temperature)
    for model in ("teacher", "student"):
        chips = root.locator(f".kfs-chip[data-model={model}]:visible").all()
        assert [int(chip.get_attribute("data-id") or -1) for chip in chips] == getattr(block, model)[0].tolist()


def test_tracks_chips_and_link_are_of_eight_slots(page: Page, app: App) -> None:
    root = opened(page, app.link())
    assert root.get_attribute("data-u") == ",".join(map(str, U))
    assert_true(app, root)
    expect(root.locator(".kfs-row:visible")).to_have_count(K)
    expect(root.locator(".kfs-ks input")).to_have_count(K)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    last = root.locator(".kfs-range").nth(K - 1)
    last.focus()
    page.keyboard.press("ArrowRight")
    at_rest(root)
    assert_true(app, root)
    above = root.locator(".kfs-shown" if page.viewport_size["width"] > 640 else ".kfs-sentence")  # what stays in sight
    slider, shown = last.bounding_box(), above.bounding_box()
    assert slider
    assert shown
    assert slider["y"] >= shown["y"] + shown["height"] - 1, "it does not cover the slider that has the focus"
    assert slider["y"] + slider["height"] <= page.viewport_size["height"]
    root.get_by_role("button", name="Roll the dice").click()
    at_rest(root)
    assert_true(app, root)


def test_any_two_of_eight_slots_make_a_square(page: Page, app: App) -> None:
    root = opened(page, app.link())
    root.locator(".kfs-mapbar").scroll_into_view_if_needed()
    root.locator(".kfs-across").select_option("2")
    root.locator(".kfs-up").select_option("7")
    expect(root.locator(".kfs-mapshare")).to_contain_text("slots 3 and 8")
    square = grid(app.pair.prefill(app.pair.encode(PROMPT)[0]), [float(u) for u in U], (2, 7), 128)
    expect(root.locator(".kfs-mapshare")).to_contain_text(f"{round(100 * square.agreement)} %")
    root.locator(".kfs-plane").first.click(position={"x": 40, "y": 60})
    at_rest(root)
    assert_true(app, root)


def test_the_temperature_goes_into_the_link_and_comes_back(page: Page, app: App) -> None:
    root = opened(page, app.link())
    root.locator(".kfs-heat").fill("0.4")
    at_rest(root)
    assert_true(app, root)
    expect(root.locator(".kfs-cold")).to_contain_text("trained at temperature 1 only")
    page.wait_for_url("**temperature=0.4*")
    asked = parse_qs(urlsplit(page.url).query)
    assert (asked["k"], asked["temperature"]) == ([str(K)], ["0.4"])
    again = opened(page, page.url)
    expect(again).to_have_attribute("data-temperature", "0.4")
    at_rest(again)
    assert_true(app, again)
    again.locator(".kfs-heat").fill("1")
    page.wait_for_url(lambda url: "temperature" not in url)
    at_rest(again)
    assert_true(app, again)


def test_a_pair_of_another_k_shows_all_of_its_slots(page: Page, app: App) -> None:
    root = opened(page, app.link())
    for name, slots, noise in (("four", 4, U[:4]), ("eight", K, [*U[:4], *[0.5] * 4])):
        page.locator("#pair input").click()
        page.get_by_role("option", name=name).click()
        expect(root).to_have_attribute("data-k", str(slots))
        at_rest(root)
        expect(root).to_have_attribute("data-u", ",".join(map(str, noise)))
        expect(root.locator(".kfs-ks input")).to_have_count(slots)
        expect(root.locator(".kfs-row:visible")).to_have_count(slots)
    assert_true(app, root)
    expect(root.get_by_role("alert")).to_be_empty()


def test_other_tabs_offer_up_to_eight_tokens_per_pass(page: Page, app: App) -> None:
    opened(page, app.link())
    page.get_by_role("tab", name="Generate").click()
    tokens = page.locator("#generate-k input[type=range]")
    expect(tokens).to_have_attribute("max", str(K))
    expect(tokens).to_have_value(str(K))
    page.locator("#generate-length input[type=range]").fill("16")
    page.locator("#generate-go").click()
    expect(page.locator("#generate-texts [data-stage=done]")).to_have_count(2)
    expect(page.locator("#generate-texts")).to_contain_text("2 passes")
    page.get_by_role("tab", name="Timing").click()
    expect(page.locator("#timing-ks input")).to_have_count(K)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
