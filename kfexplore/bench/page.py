"""How fast the page itself answers, measured in a headless Chromium: start, first screen, dragging.

Needs playwright (requirements-dev.txt) and a Chromium. Times run from the input event to the changed tokens in the
document; the browser paints them with its next frame.
"""

from __future__ import annotations

import importlib
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from kfexplore import noise
from kfexplore.bench.child import Child
from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import KfError

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

# Sets a slider as a hand would and resolves to the milliseconds until the tokens of that noise stand on the page.
SLIDE = """async ([slot, u]) => {
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


def bench_page(
    pair: str = DEFAULT_PAIR,
    device: str = "cpu",
    moves: int = 150,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Starts the app, opens it, drags.

    Args:
        pair: Name or folder.
        device: Where its models run.
        moves: Slider moves of each kind.
        report: Takes each row as it comes in.

    Returns:
        Rows: app_ready and first_screen in seconds; `table` (one slider dragged at 60 a second), `server` (sliders
        moved in turn, faster than tables settle) and `server_busy` (the same while tables are being computed), in
        milliseconds, p50 and p95.

    Raises:
        KfError: no playwright here, or an app that does not start.
    """
    try:
        playwright = importlib.import_module("playwright.sync_api")
    except ImportError:
        raise KfError("The page is timed in a browser.", "playwright", "pip install -r requirements-dev.txt") from None
    rows = []
    with Child(pair, device) as app, playwright.sync_playwright() as engine:
        for row in _rows(app, engine, moves):
            rows.append({**row, "pair": pair})
            report(rows[-1])
    return rows


def _rows(app: Child, engine: Any, moves: int) -> Iterator[dict[str, Any]]:
    yield {"what": "app_ready", "seconds": app.start()}
    browser = engine.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
    page = browser.new_page()
    started = time.perf_counter()
    page.goto(app.url, wait_until="commit")
    page.wait_for_selector("[data-source] [data-id]")
    yield {"what": "first_screen", "seconds": time.perf_counter() - started}
    page.wait_for_timeout(3000)  # the models load behind the first screen
    values = noise.uniform(0, range(moves), 0, 1)[:, 0]
    page.evaluate(SLIDE, [0, 0.5])
    page.wait_for_timeout(3000)
    yield _spread("table", [_slide(page, 0, u, pause=1000 / 60) for u in values])
    page.wait_for_timeout(3000)
    yield _spread("server", [_slide(page, n % 2, u) for n, u in enumerate(values)])
    page.wait_for_timeout(3000)
    yield _spread("server_busy", [_slide(page, n % 2, u, pause=130.0) for n, u in enumerate(values)])
    browser.close()


def _slide(page: Any, slot: int, u: float, pause: float = 0.0) -> tuple[float, str]:
    elapsed, source = page.evaluate(SLIDE, [slot, float(u)])
    if pause:
        page.wait_for_timeout(pause)
    return elapsed, source


def _spread(what: str, moves: list[tuple[float, str]]) -> dict[str, Any]:
    wanted = "table" if what == "table" else "server"
    times = [elapsed for elapsed, source in moves if source == wanted]
    p50, p95 = (statistics.median(times), float(np.percentile(times, 95))) if times else (None, None)
    return {"what": what, "moves": len(times), "p50_ms": p50, "p95_ms": p95}
