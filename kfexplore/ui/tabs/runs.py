"""The common base of Generate and Timing: fields that fit the pair, and runs started by button, prompt or tab."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import gradio as gr

from kfexplore.errors import KfError
from kfexplore.figures.scripts import calling
from kfexplore.ui.components import QUIET, Shown, boxed, fitted, offered_decoders, queued, sent, session_state
from kfexplore.ui.links import Link
from kfexplore.ui.service import Service


class RunTab(ABC):
    """A tab that runs one job at a time for a session; fills itself, in the Gradio context that is open.

    Args:
        service: Runs the models.
        asked: Events that request another prompt.
        fields: The dropdown of pairs and the prompt, above the tabs.
        tab: This tab.
        k_max: The largest K of the first pair.
    """

    not_yet: ClassVar[str]
    """Status before the first run."""
    least_tokens: ClassVar[int] = 1
    """Smallest number of new tokens; the largest is `most_tokens`, or what fits the context of a pair."""
    most_tokens: int
    go: gr.Button
    decoders: gr.CheckboxGroup
    k: gr.Slider | gr.CheckboxGroup
    length: gr.Slider
    status: gr.HTML
    held: gr.State
    """The last run: it has the requested `config`, and a `job`."""
    links: list[Link]
    """The fields of this tab that a URL stores."""

    def __init__(
        self,
        service: Service,
        asked: list[Callable[..., Any]],
        fields: list[gr.Component],
        tab: gr.Tab,
        k_max: int,
    ) -> None:
        self.service, self._asked, self._fields, self._tab = service, asked, fields, tab
        self.held, self.document = session_state(service.limits), gr.Textbox(visible=False)
        self.build(k_max)

    @abstractmethod
    def build(self, k_max: int) -> None:
        """Fills the tab."""

    @abstractmethod
    def start(self, pair: str, prompt: str, *given: Any) -> Shown:
        """Sets up a run, given the settings of `wire` and whether the page is dark."""

    @abstractmethod
    def fit_k(self, k: Any, most: int) -> dict[str, Any]:
        """The update of the field of K for a pair whose largest K is `most`."""

    def fit(self, name: str, decoders: list[str], k: Any, length: float) -> Shown:
        """Fits the fields to a pair's decoders, K and new tokens; choices that it offers are kept."""
        try:
            pair = self.service.models.pair(name)
        except KfError:  # the error is shown above the tabs
            return {self.k: gr.skip()}
        longest = min(self.most_tokens, pair.teacher.config.context - 1)
        least = min(self.least_tokens, longest)
        fitting = max(least, min(length or least, longest))
        return {
            self.decoders: offered_decoders(pair, decoders),
            self.k: self.fit_k(k, self.service.models.slots(pair)),
            self.length: fitted(length, fitting, minimum=least, maximum=longest),
        }

    def wire(self, settings: list[gr.components.Component], shown: list[gr.blocks.Block], limit: int) -> list[Any]:
        """Fits the fields of the tab to the pair, and starts its runs.

        A run starts with the button, with a prompt submitted while the tab is open, and when the tab is opened with
        another pair or prompt than those of the last run. On a borrowed GPU, only the button starts one.

        Args:
            settings: Arguments of `start` after pair and prompt, `held` last.
            shown: Components that a run may change.
            limit: Runs at once.

        Returns:
            The events of the runs, for cancelling them.
        """
        name, pair, nothing = str(self._tab.id), self._fields[0], {self.status: gr.skip()}
        is_open, dark = gr.Checkbox(visible=False), gr.Checkbox(visible=False)

        def by_button(_: bool, dark: bool, *given: Any) -> Shown:
            return self.start(*given, dark)

        def by_prompt(is_open: bool, dark: bool, *given: Any) -> Shown:
            started = by_button(is_open, dark, *given) if is_open else nothing
            if self.held in started and started[self.held].job.is_remote:
                started[self.held].job.stop()
                return {self.status: boxed(self.not_yet)}
            return started

        def by_opening(is_open: bool, dark: bool, *given: Any) -> Shown:
            values = dict(zip(fields, given, strict=True))
            fits = self.fit(*(values[field] for field in (pair, *fitting)))
            values |= {field: fit["value"] for field, fit in fits.items() if "value" in fit}
            held = values[self.held]
            if held is not None and (held.config.pair, held.config.prompt) == given[:2]:
                return {**nothing, **fits}
            return {**by_prompt(is_open, dark, *values.values()), **fits}

        fitting, fields = [self.decoders, self.k, self.length], [*self._fields, *settings]
        pair.change(self.fit, [pair, *fitting], fitting, **QUIET)  # a copied link's pair is never typed
        script, reveal = sent([], name), calling("fields.js", "reveal", f"{name}-status")
        running = []
        asked = ((event, by_prompt) for event in self._asked)
        for event, begin in ((self.go.click, by_button), (self._tab.select, by_opening), *asked):
            also = fitting if begin is by_opening else []
            started = event(begin, [is_open, dark, *fields], [*shown, *also], js=script, **QUIET)
            running.append(queued(started, self, shown, name, limit))
            if begin is not by_opening:
                started.then(None, None, None, js=reveal)
        return running
