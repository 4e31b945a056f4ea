"""What Generate and Timing share: fields that fit the pair, and runs that begin with a button, a prompt or the tab."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import gradio as gr

from kfexplore.figures.scripts import calling
from kfexplore.ui.components import QUIET, Shown, boxed, queued


class RunTab(Protocol):
    """A tab that runs one job at a time for a session."""

    go: gr.Button
    held: gr.State
    """What ran last: it has the `config` that was asked for, and a `job`."""
    status: gr.HTML

    def fit(self, *args: Any, **kwargs: Any) -> Shown:
        """The pair and its fields -> what that pair offers; choices that it offers too are kept."""


def wire(
    own: RunTab,
    tab: gr.Tab,
    asked: list[Callable[..., Any]],
    start: Callable[..., Shown],
    settings: list[gr.components.Component],
    fitting: list[gr.components.Component],
    shown: list[gr.blocks.Block],
    limit: int,
    not_yet: str,
) -> list[Any]:
    """Fits the fields of a tab to the pair, and starts its runs.

    A run starts with the button, with a prompt that is submitted while the tab is open, and when it is opened with
    another prompt than that of the last run. On a GPU that is lent, only the button starts one.

    Args:
        own: The tab's handlers.
        tab: The tab.
        asked: Events that ask for another prompt.
        start: Sets a run up, given whether the page is dark and the settings.
        settings: The dropdown of pairs, the prompt, and more fields, `own.held` among them.
        fitting: Fields that depend on the pair.
        shown: What a run may change.
        limit: Runs at once.
        not_yet: What the status says before the first run.

    Returns:
        The events of the runs, to cancel them.
    """
    name, at = str(tab.id), settings.index(own.held)
    is_open, dark = gr.Checkbox(visible=False), gr.Checkbox(visible=False)

    def by_button(_: bool, dark: bool, *given: Any) -> Shown:
        return start(dark, *given)

    def by_prompt(is_open: bool, dark: bool, *given: Any) -> Shown:
        started = start(dark, *given) if is_open else {own.status: gr.skip()}
        if own.held in started and started[own.held].job.is_remote:
            started[own.held].job.stop()
            return {own.status: boxed(not_yet)}
        return started

    def by_opening(is_open: bool, dark: bool, *given: Any) -> Shown:
        held = given[at]
        if held is not None and (held.config.pair, held.config.prompt) == given[:2]:
            return {own.status: gr.skip()}
        return by_prompt(is_open, dark, *given)

    pair = settings[0]
    pair.change(own.fit, [pair, *fitting], fitting, **QUIET)  # the pair of a copied link is never typed
    fitted = tab.select(own.fit, [pair, *fitting], fitting, **QUIET)
    script, reveal = calling("fields.js", "ofTab", name), calling("fields.js", "reveal", f"{name}-status")
    running = []
    for event, begin in [(own.go.click, by_button), (fitted.then, by_opening), *((each, by_prompt) for each in asked)]:
        started = event(begin, [is_open, dark, *settings], shown, js=script, **QUIET)
        running.append(queued(started, own, shown, name, limit))
        if begin is not by_opening:
            started.then(None, None, None, js=reveal)
    return running
