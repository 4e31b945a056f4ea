"""Response times of the page in a headless Chromium: `python -m tools.page --pair tales --json page.json`.

Rows: app_ready in seconds; `first_result` of each tab in both themes, from opening its link in a new window to its text
and to its figure, as medians in seconds; p50 and p95 in milliseconds of `table` (one slider dragged at 60 moves per
second), `server` (two sliders in turn, so that each move is asked) and `server_busy` (the same while sweeps are
computed). Those times run from the input event to the changed tokens in the document; the browser paints them with its
next frame. Needs requirements-dev.txt and a Chromium.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from playwright.sync_api import Browser, Page, sync_playwright

from kfexplore import noise
from kfexplore.bench.setting import environment
from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import reported
from kfexplore.figures.page import THEMES
from kfexplore.figures.palette import Theme
from tools.served import App

ARGUMENTS: Final = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
AT_REST: Final = 3000
"""Milliseconds to wait while models load and sweeps arrive."""

RESULTS: Final = {
    "scrub": ("[data-source] [data-id]", "[data-tables=ready]"),
    "generate": ("#generate-texts [data-stage=done]", "#generate-texts [data-stage=done]"),
    "joint": ("#joint-head >> text=/%/", "#joint-joint .hm"),
    "toys": ("#toy-squares >> text=/%/", ".trace:visible"),
    "timing": ("#timing-words >> text=/times/", "#timing-race .trace"),
}
"""What a tab shows first, by the name in its link: selectors of its text and of its figure. Generate has no figure."""

SLIDE: Final = """async ([slot, u]) => {
  const root = document.querySelector("[data-source]");
  const slider = root.querySelectorAll(".kfs-range")[slot];
  const start = performance.now();
  slider.value = u;
  slider.dispatchEvent(new Event("input", {bubbles: true}));
  if (root.dataset.source === "pending") {
    await new Promise((resolve) => {
      const done = () => root.dataset.source !== "pending" && resolve();
      new MutationObserver(done).observe(root, {attributeFilter: ["data-source"]});
    });
  }
  return [performance.now() - start, root.dataset.source];
}"""
"""Moves a slider as a user would; resolves to the milliseconds until the tokens are shown, and to their source."""


def page_rows(pair: str, device: str, moves: int, openings: int) -> Iterator[dict[str, Any]]:
    """Starts the app, opens its tabs and drags; one row per kind of wait.

    Args:
        pair: Name or folder.
        device: Device of its models.
        moves: Slider moves of each kind.
        openings: Times that each tab is opened in each theme.
    """
    with App(pair, device) as app, sync_playwright() as playwright:
        yield {"what": "app_ready", "seconds": app.start()}
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for tab, theme in itertools.product(RESULTS, THEMES):
            opened = [_opened(browser, app.url, tab, theme) for _ in range(openings)]
            text, figure = map(median, zip(*opened, strict=True))
            yield {"what": "first_result", "tab": tab, "theme": theme, "text_seconds": text, "figure_seconds": figure}
        page = browser.new_page()
        page.goto(app.url)
        page.wait_for_selector("[data-tables=ready]")
        page.wait_for_timeout(AT_REST)
        page.evaluate(SLIDE, [0, 0.5])
        for what, sliders, pause in (("table", 1, 1000 / 60), ("server", 2, 0.0), ("server_busy", 2, 130.0)):
            page.wait_for_timeout(AT_REST)
            yield _timed(page, what, sliders, moves, pause)
        browser.close()


def _opened(browser: Browser, url: str, tab: str, theme: Theme) -> list[float]:
    """Seconds from opening a tab's link in a new window to its text and to its figure."""
    page = browser.new_page(color_scheme=theme)
    started, seconds = time.perf_counter(), list[float]()
    page.goto(f"{url}?tab={tab}", wait_until="commit")
    for selector in RESULTS[tab]:
        page.locator(selector).first.wait_for()
        seconds.append(time.perf_counter() - started)
    page.close()
    return seconds


def _timed(page: Page, what: str, sliders: int, moves: int, pause: float) -> dict[str, Any]:
    """Moves the first sliders in turn, with a pause in milliseconds after each."""
    times = []
    for n, u in enumerate(noise.uniform(0, range(moves), 0, 1)[:, 0]):
        ms, source = page.evaluate(SLIDE, [n % sliders, float(u)])
        if source == ("table" if what == "table" else "server"):
            times.append(ms)
        if pause:
            page.wait_for_timeout(pause)
    p50, p95 = np.percentile(times, [50, 95]).tolist() if times else (None, None)
    return {"what": what, "moves": len(times), "p50_ms": p50, "p95_ms": p95}


def main() -> None:
    """Times the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", default=DEFAULT_PAIR, help="name or folder")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--moves", type=int, default=150, help="slider moves of each kind")
    parser.add_argument("--openings", type=int, default=5, help="times that each tab is opened in each theme")
    parser.add_argument("--json", type=Path, help="file for the document")
    args = parser.parse_args()
    about = {"bench": "page", **environment(torch.device(args.device)), "pair": args.pair}
    rows = list(page_rows(args.pair, args.device, args.moves, args.openings))
    document = json.dumps({**about, "rows": rows}, indent=2) + "\n"
    print(document, end="")
    if args.json:
        args.json.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    with reported():
        main()
