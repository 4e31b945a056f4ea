"""Gradio's page about the API: three functions, examples that run, a word on each argument, and no other host."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def test_the_page_about_the_api_tells_of_three_functions(page: Page, app_url: str) -> None:
    page.goto(app_url)
    page.get_by_role("button", name="Use via API or MCP").click()
    shown = page.locator(".api-docs")
    expect(shown).to_contain_text("3 MCP Tools")
    expect(shown).to_contain_text(f"{app_url}gradio_api/mcp/")
    shown.get_by_text("Python", exact=True).click()
    expect(shown).to_contain_text("3 API endpoints")
    expect(shown).to_contain_text('prompt="Once upon a time"')
    expect(shown).to_contain_text("u=[0.1, 0.7, 0.3, 0.9]")
    expect(shown).to_contain_text("How many blocks each sampler draws")
