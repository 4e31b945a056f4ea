"""The page under a prefix, as behind a proxy that keeps it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from kfexplore.ui.app import launch
from kfexplore.ui.server import PLOTLY

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    demo = launch("tales", port=port, prevent_thread_lock=True, quiet=True, root_path="/demo")
    yield f"http://127.0.0.1:{port}/demo"
    demo.close()


def test_the_page_finds_all_that_it_needs_behind_its_prefix(page: Page, url: str) -> None:
    asked: list[str] = []
    page.on("response", lambda answer: asked.append(answer.url) if answer.url.startswith("http") else None)
    page.goto(f"{url}?prompt=The+old+owl")
    expect(page.locator("#prompt textarea")).to_have_value("The old owl")
    expect(page.locator("[data-source]")).to_have_attribute("data-tables", "ready")
    script = page.evaluate(f"new URL('{PLOTLY}', document.baseURI).href")  # as a figure asks for it
    assert script == f"{url}/{PLOTLY}"
    assert len(asked) > 5
    assert [each for each in asked if not each.startswith(url) and not each.endswith("/manifest.json")] == []
