"""The Scrub tab: prompt, sliders whose tracks are the map, and the 2-D section. The drawing itself is in figures/."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from kfexplore.figures.scrub import scrub_css, scrub_js, scrub_markup
from kfexplore.ui.service import Json, Service

EXAMPLES = (
    "He looked at",
    "Once upon a time",
    "So they all sat down to",
    '"I don\'t know what you mean," said',
    "There was once a poor",
    "In the middle of the",
)
"""Prompts for a model of real texts."""


@dataclass(frozen=True)
class Opening:
    """What the page offers when it opens with a pair."""

    prompts: tuple[str, ...] = EXAMPLES
    """The first one is shown."""
    steps: tuple[int, ...] = (102, 71, 200, 360)
    """Noise of the first slots, in steps of 1/512. With `tales`, exact and learned agree on two slots of four."""


OPENINGS = {
    "stories": Opening(
        (
            "Once upon a time, there",
            "Lily was a little girl who",
            "Tom was a brave boy. One morning, he",
            "On Monday, Mia could not find her red ball. She asked",
            "Ben saw a small fox under a fern.",
        ),
        (138, 433, 238, 69, 333, 90, 99, 386),
    ),
}
"""By the name of a pair; others have the prompts of `Opening`."""


def opening(name: str) -> Opening:
    """What the page offers when it opens with the pair of that name."""
    return OPENINGS.get(name, Opening())


MOUNT = """
const page = mountScrub(element, JSON.parse(props.first), server);
window.kfScrub = page;
const number = (text) => (text.trim() && Number.isFinite(Number(text)) ? Number(text) : text);
const openLink = async () => {
  const link = new URLSearchParams(window.location.search);
  if (!["pair", "prompt", "k", "u", "temperature"].some((name) => link.has(name))) return;
  return page.open({
    pair: link.get("pair") ?? undefined,
    prompt: link.get("prompt") ?? undefined,
    k: link.has("k") ? number(link.get("k")) : undefined,
    u: link.has("u") ? link.get("u").split(",").map(number) : undefined,
    temperature: link.has("temperature") ? number(link.get("temperature")) : 1,
  });
};
openLink().then((done) => {
  page.refused = done === false;
  if (page.refused) trigger("submit");
});
window.addEventListener("popstate", () => openLink().then(() => trigger("submit")));
"""
"""Runs in the browser after `scrub_js()`: mounts the component, and opens what a copied link or the way back says.

What is no number there goes to the server as it is, which says so."""

CHOOSE = """async (pair, prompt) => {
  const page = window.kfScrub, shown = page.state();
  if (shown.loading || pair !== shown.pair || prompt !== shown.prompt) await page.visit({pair, prompt});
  return page.state().pair;
}"""
"""Asks for another prompt or pair, also while one is on its way; the dropdown then names the pair that is shown, also
where the asked one failed."""

OPEN = f"(pair, prompt) => {{ window.kfScrub.forget(); return ({CHOOSE})(pair, prompt); }}"
"""As `CHOOSE`, and clears an earlier error. Not for the dropdown: it fires again when it loses the focus."""


SHOWN = """() => {
  const {pair, prompt} = window.kfScrub.state();
  return [pair, prompt];
}"""
"""What is shown, for the fields above the tabs."""

LINKED = """(pair, prompt) => {
  const shown = window.kfScrub?.refused ? window.kfScrub.state() : {pair, prompt};
  return [shown.pair, shown.prompt];
}"""
"""Once the fields say what a link does: where it was refused before, they go back to what is shown. Where it is refused
later, the component sees to it."""


def scrub_view(service: Service, first: Json, fields: list[gr.Component]) -> gr.HTML:
    """The component that owns sliders, strips, chips and the 2-D map, and asks a Service for what it lacks.

    Args:
        service: Answers for tables, points and grids.
        first: The payload that is drawn at once.
        fields: The dropdown of pairs and the prompt: they follow the browser's way back.
    """

    def tables(question: Json) -> Json:
        return service.tables(question)

    def point(question: Json) -> Json:
        return service.point(question)

    def grid(question: Json) -> Json:
        return service.grid(question)

    view = gr.HTML(
        html_template=scrub_markup(),
        css_template=scrub_css(),
        js_on_load=scrub_js() + MOUNT,
        server_functions=[tables, point, grid],  # plain functions: Gradio marks them, which methods refuse
        apply_default_css=False,
        first=json.dumps(first),
        elem_id="scrub",
    )
    view.submit(None, None, fields, js=SHOWN)
    return view


def open_on(asked: list[Callable[..., Any]], fields: list[gr.Component], js: str = OPEN) -> None:
    """Lets the component follow what stands above the tabs.

    Args:
        asked: Events that ask for another prompt or pair.
        fields: The dropdown of pairs and the prompt.
        js: `OPEN` or `CHOOSE`.
    """
    for event in asked:
        event(None, fields, fields[:1], js=js)
