"""One app on a free port and one Chromium for all browser tests; a test fails on any request to another host."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

expect.set_options(timeout=30_000)  # a machine that is busy with other things

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's Chromium, or else Playwright's own."""
    system = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=system, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def app_url() -> Iterator[str]:
    """The app with the pair `tales`."""
    with served("tales") as url:
        yield url


@pytest.fixture(scope="session")
def stories_url() -> Iterator[str]:
    """The app with the pair `stories`, as `make app` launches it."""
    with served("stories") as url:
        yield url


@contextmanager
def served(pair: str) -> Iterator[str]:
    """The address of the app, on a free port."""
    from kfexplore.ui.app import launch

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    demo = launch(pair, port=port, prevent_thread_lock=True, quiet=True)
    yield f"http://127.0.0.1:{port}/"
    demo.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A fresh page, watched."""
    with watched(chromium) as page:
        yield page


@contextmanager
def watched(chromium: Browser) -> Iterator[Page]:
    """A fresh page; afterwards: no console error, no exception, no request that left the machine."""
    page = chromium.new_page(viewport={"width": 1200, "height": 1000})
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(f"exception: {error}"))
    page.on("console", lambda line: line.type == "error" and troubles.append(f"console: {line.text}"))
    page.on("request", lambda request: _is_local(request.url) or troubles.append(f"request: {request.url}"))
    yield page
    page.close()
    assert troubles == []


def _is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:", "file:"))
