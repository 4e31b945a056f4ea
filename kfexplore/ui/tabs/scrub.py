"""The Scrub tab: the widget of figures/scrub.py, and the fields above the tabs that it follows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from kfexplore.figures.scripts import calling
from kfexplore.figures.scrub import script, scrub_css, scrub_markup
from kfexplore.ui.protocol import Failure, GridReply, Json, PointReply, Request, RowsReply, TablesReply
from kfexplore.ui.service import Service

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
class Dependence:
    """A context after which the next K tokens depend on each other in one way."""

    kind: str
    prompt: str
    k: int
    temperature: float = 1.0


@dataclass(frozen=True)
class Opening:
    """Examples that the page offers when it opens with a pair."""

    prompts: tuple[str, ...] = EXAMPLES
    """The first one is shown."""
    steps: tuple[int, ...] = (102, 71, 200, 360)
    """Noise of the first slots, in steps of 1/512. With `tales`, exact and learned agree on two slots of four."""
    dependences: tuple[Dependence, ...] = ()
    """Examples of Joint vs marginal, stored beside the weights; the first is shown when the tab opens."""


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
        (
            Dependence("Name and gender", "Once upon a time, there was a little", 3, 0.7),
            Dependence(
                "Pronoun",
                "Sophie loved her shiny ring, a gift from her father. On Friday, she could not find the ring.",
                4,
            ),
            Dependence("Colour of an object", "Olive was a clever little girl with curly hair. She had a new", 2),
            Dependence(
                "Opening and closing quote",
                "Olive was a clever little girl with curly hair. She had a new woolen scarf, and she never lent it to "
                'anyone. On Thursday, Ben came by. "May I try your scarf, please?" asked Ben softly. Olive '
                "cried loudly,",
                4,
            ),
        ),
    )
}
"""By the name of a pair; other pairs have the defaults of `Opening`."""


def opening(name: str) -> Opening:
    """The `Opening` of the pair of that name."""
    return OPENINGS.get(name, Opening())


OPEN, CHOOSE, SHOWN, TAKEN, BACK = (
    calling("pagefields.js", name) for name in ("open", "choose", "shown", "taken", "backToTab")
)
"""JavaScript for events of the fields above the tabs; see pagefields.js."""


def scrub_view(service: Service, first: Json, fields: list[gr.Component]) -> gr.HTML:
    """The widget, which requests missing results from a Service.

    Args:
        service: Answers `tables`, `point` and `grid`.
        first: The payload that is drawn at once.
        fields: The dropdown of pairs and the prompt; they change when the user goes back in the browser.
    """

    def tables(question: Request) -> TablesReply | RowsReply | Failure:
        return service.tables(question)

    def point(question: Request) -> PointReply | Failure:
        return service.point(question)

    def grid(question: Request) -> GridReply | Failure:
        return service.grid(question)

    view = gr.HTML(
        html_template=scrub_markup(),
        css_template=scrub_css(),
        js_on_load=script("gradio.js") + "mountInPage(element, props, server, trigger);",
        server_functions=[tables, point, grid],  # plain functions: Gradio marks them, which methods refuse
        apply_default_css=False,
        first=json.dumps(first),
        elem_id="scrub",
    )
    view.submit(None, None, fields, js=SHOWN).then(None, None, None, js=BACK)
    return view


def open_on(asked: list[Callable[..., Any]], fields: list[gr.Component], js: str = OPEN) -> None:
    """Makes the widget follow the fields above the tabs.

    Args:
        asked: Events that request another prompt or pair.
        fields: The dropdown of pairs and the prompt.
        js: `OPEN` or `CHOOSE`.
    """
    for event in asked:
        event(None, fields, fields[:1], js=js)
