"""The tab Joint vs marginal: exact distribution of the next tokens, cost of independent draws, toy distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import gradio as gr

from kfexplore.checkpoints.registry import bundled_pairs
from kfexplore.config import DEFAULT_PAIR, STUDY_BLOCKS, check_temperature
from kfexplore.errors import KfError
from kfexplore.figures.palette import Theme
from kfexplore.laws.ranking import stored_contexts
from kfexplore.laws.samplers import LARGEST_BLOCK
from kfexplore.results import ContextStudy
from kfexplore.ui.components import (
    QUIET,
    REFUSED,
    Shown,
    boxed,
    button,
    empty_figure,
    failed,
    html,
    plot,
    progress_bar,
    queued,
    quoted,
    sent,
    session_state,
    status_line,
    whole,
)
from kfexplore.ui.jobs import Job
from kfexplore.ui.links import Link
from kfexplore.ui.models import cut_note
from kfexplore.ui.service import Part, Service
from kfexplore.ui.studies import PANELS, drawn, end_of, stored_studies
from kfexplore.ui.tabs.scrub import TAKEN, Dependence, opening
from kfexplore.ui.tabs.toy import build_toy_tab

INTRO: Final = """A masked diffusion model that fills several positions in one pass draws each from its own marginal,
independently of the others; separate heads that predict several tokens at once (MTP) do the same. At best they sample
the product of the exact marginals. Here the teacher's distribution of the next tokens is computed exactly, so the cost
of drawing independently is known, and every sampler is compared with that distribution. A push-forward model has no
such cost in principle; the tables show this student's error."""

BLOCKS: Final = (512, 1024, 4096)
"""Choices of blocks per sampler, as far as the limits allow."""
TEMPERATURES_SHOWN: Final = (0.1, 2.0)
"""Ends of the slider, as in Scrub."""
CHOSEN: Final = "All were chosen for a large gap: they illustrate, they do not rank samplers."
NOT_YET: Final = "<p>The study starts when you open this tab.</p>"
CANCELLED: Final = "<p>Cancelled. Showing the previous result.</p>"


@dataclass
class Study:
    """A session's request for a study."""

    pair: str
    prompt: str
    theme: Theme
    """Theme of the page."""
    job: Job[Part]
    followed_by: Shown | None = None
    """Updates for the request that replaced this one."""


class JointTab:
    """Fills the tab, in the Gradio context that is open.

    Args:
        service: Runs the models.
        asked: Events that request another prompt or pair.
        fields: The dropdown of pairs and the prompt, above the tabs.
        tab: This tab.
    """

    follows: list[Callable[..., Any]]
    """The events of this tab that request another prompt."""
    links: list[Link]
    """The fields of this tab and its sub-tab that a URL stores."""

    def __init__(
        self,
        service: Service,
        asked: list[Callable[..., Any]],
        fields: list[gr.Component],
        tab: gr.Tab,
    ) -> None:
        self.service, most = service, service.limits.study_blocks
        with gr.Tabs() as self.tabs:
            with gr.Tab("After the prompt", id="joint") as prompt:
                with gr.Row(equal_height=True):
                    k = gr.Slider(2, LARGEST_BLOCK, 2, step=1, label="Block size K", elem_id="joint-k", min_width=190)
                    sizes = [size for size in BLOCKS if size <= most] or [most]
                    blocks = gr.Radio(
                        [(f"{size:,}", size) for size in sizes],
                        value=STUDY_BLOCKS if STUDY_BLOCKS in sizes else sizes[-1],
                        label="Blocks of each sampler",
                        elem_id="joint-blocks",
                        scale=2,
                        min_width=280,
                    )
                    temperature = gr.Slider(
                        *TEMPERATURES_SHOWN,
                        1,
                        step=0.05,
                        label="Temperature",
                        elem_id="joint-temperature",
                        min_width=190,
                    )
                    seed = gr.Number(0, label="Seed", elem_id="joint-seed", min_width=90)
                    go = button("Draw", "joint-go", 90, variant="primary")
                    halt = button("Cancel", "joint-cancel", 90, interactive=False)
                self.stored = {name: stored_studies(name) for name in service.models.loaders}
                offered = _offered(next(iter(service.models.loaders)))
                self.status = status_line(NOT_YET, "joint-status")
                self.parts = {"status": self.status}
                self.parts |= {"head": html("", elem_id="joint-head"), "blocks": html("", elem_id="joint-texts")}
                with gr.Row(elem_classes="kf-figures"):
                    for name in PANELS:
                        with gr.Column(min_width=300):
                            self._add_figure(name, 340)
                self._add_figure("surprise", 240)
                self._add_figure("counts", 380)
                self.parts["samplers"] = html("", elem_id="joint-samplers")
                html(boxed(f"<p>{INTRO}</p>"))
            with gr.Tab("Toy distributions", id="toys") as toys:
                toy_links = build_toy_tab()
        self.links = [*map(Link, (k, blocks, temperature, seed)), *toy_links]
        self.selected = [prompt.select, toys.select]
        is_open, dark = gr.Checkbox(visible=False), gr.Checkbox(visible=False)
        self.held = session_state(service.limits)
        self.settings = (fields[1], k, temperature)

        self.follows = []
        if offered is not None:
            contexts, dataset = offered

            def pick(at: object) -> Shown:
                if type(at) is not int or not 0 <= at < len(contexts):
                    return {self.status: failed(KfError("There is no such prompt.", f"0 to {len(contexts) - 1}"))}
                context = contexts[at]
                return {fields[1]: context.prompt, k: context.k, temperature: context.temperature}

            self.follows = [dataset.click(pick, dataset, [fields[1], k, temperature, self.status], **QUIET).then]
        settings, running = [*fields, k, blocks, seed, temperature, self.held], []
        asking = {"js": sent(settings, "joint"), "trigger_mode": "always_last", **QUIET}
        changing: list[Callable[..., Any]] = []
        shown = [*self.parts.values(), self.held]
        changed = partial(gr.on, [go.click, k.input, blocks.input, temperature.input, seed.submit])
        for event, start in [
            (tab.select, self.open),
            *((each, self.start) for each in (changed, *asked, *self.follows)),
        ]:
            also = self.settings if start == self.open else ()
            started = event(start, [is_open, dark, *settings], [*shown, *also], **asking)
            running.append(queued(started, self, shown, "joint", 1, trigger_mode="always_last"))
            changing += [started.then, running[-1].then]
            if start == self.open:
                started.then(None, fields, None, js=TAKEN)
        changing.append(halt.click(self.cancel, self.held, self.status, cancels=running, **QUIET).then)
        for event in changing:
            event(lambda held: gr.update(interactive=is_at_work(held)), self.held, halt, **QUIET)

    def open(self, is_open: bool, dark: bool, pair: str, prompt: str, *given: Any) -> Shown:
        """As `start`, but shows the pair's first example and its settings if nothing was requested or changed yet."""
        *sizes, held = given
        is_as_opened = held is None and prompt == opening(pair).prompts[0]
        if is_as_opened and sizes == [2, STUDY_BLOCKS, 0, 1] and self.stored.get(pair):
            example, parts = self.stored[pair][0]
            values = dict(zip(self.settings, (example.prompt, example.k, example.temperature), strict=True))
            return {**self._named(parts["dark" if dark else "light"]), **values}
        return self.start(is_open, dark, pair, prompt, *given)

    def start(
        self,
        is_open: bool,
        dark: bool,
        pair: str,
        prompt: str,
        k: float,
        blocks: float,
        seed: float,
        temperature: float,
        held: Study | None,
    ) -> Shown:
        """Cancels the session's previous study and sets up a new one; `run` runs it.

        A stored study is shown at once. While the tab is closed, nothing starts.
        """
        if not is_open:
            return {self.status: gr.skip()}
        theme: Theme = "dark" if dark else "light"
        asked = (prompt, k, temperature, blocks, seed)
        for example, parts in self.stored.get(pair, ()):
            if asked == (example.prompt, example.k, example.temperature, STUDY_BLOCKS, 0):
                return self._follow(held, self._named(parts[theme]))
        try:
            sizes = whole("K", k), whole("The number of blocks", blocks), whole("The seed", seed)
            job = self.service.study(pair, prompt, *sizes, check_temperature(temperature))
        except KfError as error:
            return self._follow(held, {self.status: failed(error)})
        study = Study(pair, prompt, theme, job)
        return {**self._follow(held, {self.status: _progress(study)}), self.held: study}

    def run(self, study: Study | None) -> Iterator[Shown]:
        """Runs the study if it still waits; yields its updates. After an error, only the status changes.

        When an event completes, Gradio repeats its last output, even after a later one has started. So the last output
        of a replaced study is the update for the request that replaced it.
        """
        if study is None or not study.job.is_waiting:
            yield (study and study.followed_by) or {self.status: gr.skip()}
            return
        try:
            with closing(study.job.run()) as parts:
                for part in parts:
                    if isinstance(part, ContextStudy):
                        pair, _, cut = self.service.models.prompt(study.pair, study.prompt)
                        yield self._named(drawn(part, pair, cut_note(cut), study.theme))
                    else:
                        yield {self.status: _progress(study, *part)}
        except KfError as error:
            yield {self.status: failed(error)}
        if study.job.state == "late":
            seconds = study.job.cancel.seconds
            yield {self.status: failed(KfError(f"Stopped after {seconds} s, the limit of this page.", "fewer blocks"))}
        if study.followed_by:
            yield study.followed_by

    def cancel(self, study: Study | None) -> Shown:
        """Cancels the session's study."""
        if study is not None:
            study.job.stop()
        return {self.status: boxed(CANCELLED)}

    def refuse(self, study: Study | None) -> Shown:
        """Handles a refusal by the server: the queue was full, or the study had been cancelled."""
        refused = {self.status: REFUSED} if study is None or is_at_work(study) else {}
        return {**self.cancel(study), **refused}

    def _follow(self, held: Study | None, shown: Shown) -> Shown:
        """Cancels a study, and records the updates that follow it; returns them."""
        if held is not None:
            held.job.stop()
            held.followed_by = shown
        return shown

    def _named(self, parts: dict[str, str]) -> Shown:
        """Updates for the parts of a study, named as in `drawn`."""
        return {self.parts[name]: value for name, value in parts.items()}

    def _add_figure(self, name: str, height: int) -> None:
        self.parts[f"{name}-words"] = html("")
        self.parts[name] = plot(empty_figure(height), min_height=height, elem_id=f"joint-{name}")


def is_at_work(study: Study | None) -> bool:
    """Whether the study waits or runs, and so can be cancelled."""
    return study is not None and not study.job.is_over


def _progress(study: Study, share: float = 0.0, what: str = "") -> str:
    """The progress of a study; screen readers announce it only once."""
    words = f"Drawing blocks after {quoted(end_of(study.prompt))} …"
    if not what:
        return boxed(f"<p>{words}</p>")
    bar = progress_bar(share, 1.0, "Study")
    return boxed(f'<p aria-live="off">{words}</p>{bar}<p aria-live="off" class="kf-prose-reading">Now: {what}.</p>')


def _offered(first: str) -> tuple[list[Dependence], gr.Dataset] | None:
    """Suggested contexts and their field: one per kind of dependence, then those with high mutual information.

    Args:
        first: The pair that is shown first; if it is not bundled, the contexts are those of the default pair.
    """
    pair = first if first in bundled_pairs() else DEFAULT_PAIR
    contexts, kinds = list(opening(pair).dependences), bool(opening(pair).dependences)
    names = [each.kind for each in contexts]
    for ranked in stored_contexts(pair):
        contexts.append(Dependence("", ranked.text, 2))
        names.append(f"{ranked.mutual_information:.2f} nats: {end_of(ranked.text)}")
    if not contexts:
        return None
    label = f"{'One prompt per kind of dependence, then prompts' if kinds else 'Prompts'} with high mutual information"
    dataset = gr.Dataset(
        components=[gr.Textbox(visible=False)],
        samples=[[name] for name in names],
        label=f"{label} (our own sentences, highest first; {pair}). {CHOSEN}",
        type="index",
        samples_per_page=4,
        elem_id="joint-contexts",
    )
    return contexts, dataset
