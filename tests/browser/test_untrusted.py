"""Strangers on the page: tokens and prompts that are markup, queues, busy locks, failures; in a real Chromium.

A small app of its own, whose vocabulary is an attack; `held` makes its texts endless until it lets them go.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest
from helpers import masked, student, teacher
from playwright.sync_api import Browser, Page, Route, expect
from tokenizers import Tokenizer, models, pre_tokenizers

from kfexplore.errors import KfError
from kfexplore.pair import Pair
from kfexplore.ui.app import serve
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.service import Service, local_service
from kfexplore.ui.tabs.scrub import EXAMPLES
from kfexplore.ui.writing import DecoderRun

pytestmark = pytest.mark.browser

EVIL = (
    "<img/src=x/onerror=alert(1)>",
    "<script>alert(2)</script>",
    '<a/href="javascript:alert(3)">x</a>',
    "<b>bold</b>",
    '"onmouseover="alert(4)',
    "&lt;&amp;",
    "${alert(5)}",
    "{{value}}",
)
WORDS = [*EVIL, *(f"{word}{n}" for n in range(1, 3) for word in EVIL[:7]), "a"]
LINK = EVIL[0] + " & " + EVIL[1]


def gone() -> Pair:
    raise KfError("It is not in /secret/place.", "another")


@dataclass(frozen=True)
class App:
    """What is served, and where."""

    service: Service
    url: str


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pair = Pair(teacher(context=320), student(context=320), masked(context=320), tokenizer)
    limits = ServerLimits(questions=1, queue=1)
    service = local_service({"odd": lambda: pair, "gone": gone}, limits)
    demo = serve(service, "odd", server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield App(service, demo.local_url)
    demo.close()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No text grows until it is set."""
    let_go, step = threading.Event(), DecoderRun.step
    monkeypatch.setattr(DecoderRun, "step", lambda *given: step(*given) if let_go.wait(0.02) else None)
    yield let_go
    let_go.set()


@pytest.fixture
def page(page: Page) -> Iterator[Page]:
    """As everywhere, and no dialog opens."""
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    yield page
    assert dialogs == []
    if not page.is_closed():
        assert page.locator("img[src=x], [onerror], [onmouseover], a[href^=javascript]").count() == 0


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def generate(page: Page, url: str) -> None:
    page.goto(url)
    tab(page, "Generate")  # which starts a run


def test_markup_is_text_in_every_tab(page: Page, app: App) -> None:
    page.goto(f"{app.url}?{urlencode({'prompt': LINK, 'pair': EVIL[0]})}")
    expect(page.get_by_role("alert")).to_contain_text(EVIL[0])  # no such pair
    expect(page.locator("#prompt textarea")).to_have_value(EXAMPLES[0])
    page.locator("#prompt textarea").fill(" ".join(EVIL))
    page.locator("#prompt textarea").press("Enter")
    root = page.locator("[data-source]")
    expect(root.locator(".kfs-prompt")).to_contain_text("".join(EVIL[-3:]))  # its end
    root.locator(".kfs-range").first.hover()
    expect(root.locator(".kfs-tip")).to_be_visible()

    tab(page, "Generate")
    page.locator("#generate-length input[type=range]").fill("24")
    page.locator("#generate-advanced button").first.click()
    page.locator("#generate-surprise input").check()
    page.locator("#generate-go").click()
    expect(page.locator("#generate-texts [data-stage=done]")).to_have_count(2)
    expect(page.locator("#generate-status")).to_contain_text(LINK[:10])
    expect(page.locator("#generate-texts")).to_contain_text("alert(")

    tab(page, "Joint vs marginal")
    expect(page.locator("#joint-texts")).to_contain_text("alert(")
    expect(page.locator("#joint-joint .xtick text")).to_have_count(8)
    ticks = page.locator("#joint-joint :is(.xtick, .ytick) text").all_text_contents()
    assert {tick.rstrip("12") for tick in ticks} <= {word.rstrip("12") for word in WORDS}
    page.locator("#joint-joint .nsewdrag").first.hover(position={"x": 60, "y": 60})
    expect(page.locator("#joint-joint .hoverlayer")).to_contain_text("%")
    tab(page, "Toy distributions")
    expect(page.locator("#toy-meaning")).to_be_visible()

    tab(page, "Timing")
    expect(page.locator("#timing-go")).to_be_enabled()


def test_no_answer_tells_where_things_are(page: Page, app: App) -> None:
    for path in ("", "config", "gradio_api/info", "theme.css"):
        text = page.request.get(app.url + path).text()
        assert len(text) > 100
        for place in (str(Path(__file__).resolve().parents[2]), "site-packages", "/secret"):
            assert place not in text


def test_a_page_that_waits_sees_its_place_and_gives_it_up(
    page: Page, chromium: Browser, app: App, held: threading.Event
) -> None:
    generate(page, app.url)
    expect(page.locator("#generate-texts [data-stage=writing]")).to_have_count(2)
    other = chromium.new_page()
    generate(other, app.url)
    status = other.locator("#generate-status")
    expect(status).to_contain_text("Waiting for its turn")
    expect(status).to_contain_text("queue: 1/1")
    other.locator("#generate-stop").click()
    expect(other.locator("#generate-go")).to_be_enabled()
    expect(other.locator("#generate-texts [data-stage=stopped]")).to_have_count(2)
    other.locator("#generate-go").click()  # again, and now the first page is closed
    expect(status).to_contain_text("queue: 1/1")
    page.close()
    expect(other.locator("#generate-texts [data-stage=writing]")).to_have_count(2)
    held.set()
    expect(other.locator("#generate-texts [data-stage=done]")).to_have_count(2)
    other.close()


def test_where_the_queue_is_full_a_page_says_so_and_can_ask_again(
    page: Page, chromium: Browser, app: App, held: threading.Event
) -> None:
    generate(page, app.url)
    expect(page.locator("#generate-texts [data-stage=writing]")).to_have_count(2)
    second, third = chromium.new_page(), chromium.new_page()
    generate(second, app.url)
    expect(second.locator("#generate-status")).to_contain_text("queue: 1/1")
    generate(third, app.url)
    expect(third.locator("#generate-status")).to_contain_text("too many requests are waiting")
    expect(third.locator("#generate-go")).to_be_enabled()
    expect(third.locator("#generate-stop")).to_be_disabled()
    second.close()
    held.set()
    third.locator("#generate-go").click()
    expect(third.locator("#generate-texts [data-stage=done]")).to_have_count(2)
    third.close()


def test_a_study_is_called_off_and_the_next_is_drawn(page: Page, app: App) -> None:
    page.goto(app.url)
    tab(page, "Joint vs marginal")
    status = page.locator("#joint-status")
    expect(status).to_contain_text("mutual information of the next two tokens")
    with app.service.local.studies.turn():
        page.locator("#joint-seed input").fill("5")
        page.locator("#joint-go").click()
        expect(status.locator(".progress-text, .eta-bar").first).to_be_attached()
        page.locator("#joint-cancel").click()
        expect(status).to_contain_text("Showing the previous result")
    page.locator("#joint-go").click()
    expect(status).to_contain_text("seed 5")
    expect(status).not_to_contain_text("Error")


def test_a_busy_server_is_reported_and_asked_again(page: Page, app: App) -> None:
    page.goto(app.url)
    root = page.locator("[data-source]")
    expect(root).to_have_attribute("data-tables", "ready")
    with ExitStack() as stack:
        stack.enter_context(app.service.local.work.turn())
        waiting = threading.Thread(target=app.service.tables, args=({"pair": "odd", "prompt": "a", "k": 1},))
        waiting.start()
        before = root.get_attribute("data-u")
        for slot, u in ((0, "0.9"), (1, "0.8")):
            root.locator(".kfs-range").nth(slot).fill(u)
        expect(root).to_have_attribute("data-busy", "true")
        expect(root.locator(".kfs-said")).to_contain_text("The server is busy. Trying again…")
        assert root.get_attribute("data-u") != before
    waiting.join(30)
    expect(root).to_have_attribute("data-busy", "false")
    expect(root).to_have_attribute("data-tables", "ready")
    expect(root.locator(".kfs-said")).to_be_empty()
    assert (root.get_attribute("data-u") or "").startswith("0.89")


def test_why_a_pair_failed_stays_on_the_page(page: Page, app: App) -> None:
    page.goto(app.url)
    expect(page.locator("[data-source]")).to_have_attribute("data-tables", "ready")
    page.locator("#pair input").click()
    page.get_by_role("option", name="gone").click()
    alert = page.get_by_role("alert").first
    expect(alert).to_contain_text("'gone' cannot be loaded")
    expect(page.locator("#pair input")).to_have_value("odd")
    page.locator("#pair input").focus()
    page.locator("#prompt textarea").focus()  # the dropdown fires once more, with the pair that is shown
    tab(page, "Generate")
    expect(page.locator("#loading")).to_contain_text("'gone' cannot be loaded")
    page.locator("#generate-go").click()
    expect(page.locator("#generate-texts [data-stage=done]")).to_have_count(2)
    tab(page, "Scrub")
    expect(page.locator("#loading")).to_be_hidden()
    expect(alert).to_contain_text(re.compile("'gone' cannot be loaded.* Still shown: “.*” by odd."))
    page.get_by_role("button", name="Show").click()  # what is shown is what is asked for now
    expect(alert).to_be_empty()


def test_a_link_whose_pair_fails_leaves_the_fields_with_what_is_shown(page: Page, app: App) -> None:
    asks, held = re.compile("/component_server"), list[Route]()
    page.route(asks, lambda route: held.append(route))  # until the fields say what the link does
    with page.expect_request(asks):
        page.goto(f"{app.url}?{urlencode({'pair': 'gone', 'prompt': 'a b'})}")
    prompt, pair = page.locator("#prompt textarea"), page.locator("#pair input")
    expect(prompt).to_have_value("a b")
    expect(pair).to_have_value("gone")
    for route in held:
        route.continue_()
    page.unroute(asks)
    expect(page.get_by_role("alert").first).to_contain_text("'gone' cannot be loaded")
    expect(prompt).to_have_value(EXAMPLES[0])
    expect(pair).to_have_value("odd")


def test_a_link_that_is_refused_before_the_fields_follow_it_leaves_them_too(page: Page, app: App) -> None:
    joined, held = re.compile("/queue/join|/run/"), list[Route]()
    page.route(joined, lambda route: held.append(route))  # until the link was refused
    page.goto(f"{app.url}?{urlencode({'pair': 'nothing', 'prompt': 'a b'})}")
    expect(page.get_by_role("alert").first).to_contain_text("There is no pair 'nothing'")
    assert held
    for route in held:
        with page.expect_response(route.request.url):
            route.continue_()
    page.unroute(joined)
    page.locator("#scrub [data-tables=ready]").wait_for()
    expect(page.locator("#prompt textarea")).to_have_value(EXAMPLES[0])
    expect(page.locator("#pair input")).to_have_value("odd")
