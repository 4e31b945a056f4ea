"""The tab Joint vs marginal: the exact distribution of the next tokens, the cost of independent draws, and toy laws."""

from __future__ import annotations

import html as markup
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Final

import gradio as gr

from kfexplore.checkpoints.registry import bundled_pairs
from kfexplore.config import DEFAULT_PAIR, STUDY_BLOCKS, check_temperature
from kfexplore.errors import KfError
from kfexplore.figures.laws import Panel, counts_figure, joint_figure, surprise_figure
from kfexplore.figures.page import bare
from kfexplore.figures.palette import Theme, colours, token_colour, token_label
from kfexplore.laws.ranking import stored_contexts
from kfexplore.laws.samplers import LARGEST_BLOCK
from kfexplore.pair import Pair
from kfexplore.results import ContextStudy, RankedContext, SamplerLaw
from kfexplore.ui.components import (
    QUIET,
    REFUSED,
    Shown,
    boxed,
    cells,
    empty_figure,
    failed,
    heading,
    html,
    plot,
    progress_bar,
    queued,
    sent,
    session_state,
    status_line,
    table,
    whole,
)
from kfexplore.ui.jobs import Job
from kfexplore.ui.links import Link
from kfexplore.ui.models import cut_note
from kfexplore.ui.service import Part, Service
from kfexplore.ui.tabs.toy import build_toy_tab

INTRO: Final = """A masked diffusion model that fills several positions in one pass draws each from its own marginal,
independently of the others. Here the teacher's distribution of the next tokens after the prompt is exact, so the cost
of independent draws is known, and every sampler is compared with it; heads that predict several tokens at once (MTP)
are, at best, this same product. A push-forward model has no such cost in principle; what this student makes of it is
shown beside."""

PANELS: Final[tuple[Panel, ...]] = ("joint", "product", "difference")
BLOCKS: Final = (512, 1024, 4096)
"""Of each sampler, as far as the limits allow."""
TEMPERATURES_SHOWN: Final = (0.1, 2.0)
"""Ends of the slider, as in Scrub."""
SAMPLES_SHOWN: Final = 8
"""Blocks written out for each sampler."""
END_SHOWN: Final = 40
"""Characters of a context."""
NOT_YET: Final = "<p>The models are asked when this tab is opened.</p>"
READING: Final = """<b>TV</b>: total variation distance from the teacher's distribution. 0: the same distribution; 1:
nothing in common. <b>limits</b>: how the value was found. <i>exact</i>: both distributions are known. A range: by
quadrature over the student's noise, with its error. <b>≥</b>: the 95 % lower limit from the sampled blocks; the
distance may be any larger, so do not compare lower limits with each other or with exact values. One prompt does not
rank samplers: notebook 02 compares them over contexts of <code>tales</code>. <b>✕</b>: fraction of blocks rarer than
about one in a thousand of the teacher's own. <b>p</b>: how often blocks of the teacher itself would be this far from
its distribution (G-test). <b>KL</b>: of the teacher from the sampler, where that is known (of exact marginals for
the ideal MDLM)."""
"""Of the table of samplers."""
POOLED: Final = """ For more than two tokens the G-test counts likely blocks one by one and pools the others: a pool is
of blocks with one beginning, so p does not see what is wrong inside it."""
CANCELLED: Final = "<p>Cancelled. Showing the previous result.</p>"


@dataclass(frozen=True)
class Study:
    """What a session asks for last."""

    pair: str
    prompt: str
    theme: Theme
    """Of the page."""
    job: Job[Part]
    mistake: str = ""
    """What was wrong with what was asked after it, as HTML."""


class JointTab:
    """Fills the tab, in the Gradio context that is open.

    Args:
        service: Answers for the models.
        asked: Events that ask for another prompt or pair.
        fields: The dropdown of pairs and the prompt, which stand above all tabs.
        tab: This tab.
        others: The tabs beside it.
    """

    follows: list[Callable[..., Any]]
    """The events of this tab that ask for another prompt."""
    links: list[Link]
    """What an address says of this tab and its sub-tab."""

    def __init__(
        self,
        service: Service,
        asked: list[Callable[..., Any]],
        fields: list[gr.Component],
        tab: gr.Tab,
        others: list[gr.Tab],
    ) -> None:
        self.service, most = service, service.limits.study_blocks
        with gr.Tabs() as self.tabs:
            with gr.Tab("After the prompt", id="joint") as prompt:
                html(boxed(f"<p>{INTRO}</p>"))
                with gr.Row(equal_height=True):
                    k = gr.Slider(2, LARGEST_BLOCK, 2, step=1, label="Block size, K", elem_id="joint-k", scale=2)
                    sizes = [size for size in BLOCKS if size <= most] or [most]
                    blocks = gr.Radio(
                        [(f"{size:,}", size) for size in sizes],
                        value=STUDY_BLOCKS if STUDY_BLOCKS in sizes else sizes[-1],
                        label="Blocks of each sampler",
                        elem_id="joint-blocks",
                        scale=4,
                    )
                    temperature = gr.Slider(
                        *TEMPERATURES_SHOWN,
                        1,
                        step=0.05,
                        label="Temperature",
                        elem_id="joint-temperature",
                        min_width=160,
                        scale=2,
                    )
                    seed = gr.Number(0, label="Seed", elem_id="joint-seed", min_width=90)
                    go, halt = (
                        gr.Button(name, variant=look, scale=0, min_width=90, elem_id=elem_id, elem_classes="kf-beside")
                        for name, look, elem_id in (
                            ("Draw", "primary", "joint-go"),
                            ("Cancel", "secondary", "joint-cancel"),
                        )
                    )
                first = next(iter(service.models.loaders))
                ranked_for = first if first in bundled_pairs() else DEFAULT_PAIR
                stored = stored_contexts(ranked_for)
                ranked = _contexts(stored, ranked_for) if stored else None
                self.status = status_line(NOT_YET, "joint-status")
                self.head = html("", elem_id="joint-head")
                self.figures: dict[str, tuple[gr.HTML, gr.HTML]] = {}
                with gr.Row(elem_classes="kf-figures"):
                    for panel in PANELS:
                        with gr.Column(min_width=300):
                            self.figures[panel] = _figure(panel, 340)
                self.figures |= {"surprise": _figure("surprise", 240), "counts": _figure("counts", 380)}
                self.samplers = html("", elem_id="joint-samplers")
            with gr.Tab("Toy distributions", id="toys") as toys:
                toy_links = build_toy_tab()
        self.links = [*map(Link, (k, blocks, temperature, seed)), *toy_links]
        self.selected = [prompt.select, toys.select]
        is_open, dark = gr.Checkbox(value=False, visible=False), gr.Checkbox(visible=False)
        self.held = session_state(service.limits)

        opened = tab.select(lambda: True, None, is_open, **QUIET)
        for other in others:
            other.select(lambda: False, None, is_open, **QUIET)
        self.follows = []
        if ranked is not None:
            texts = [context.text for context in stored]
            self.follows = [ranked.click(lambda index: texts[index], ranked, fields[1], **QUIET).then]
        settings, running = [*fields, k, blocks, seed, temperature, self.held, is_open, dark], []
        shown = [self.status, self.head, *(part for both in self.figures.values() for part in both), self.samplers]
        changed = (k.input, blocks.input, temperature.input, seed.submit)
        for event in (opened.then, go.click, *changed, *asked, *self.follows):
            started = event(self.start, settings, [self.status, self.held], js=sent(settings), **QUIET)
            running.append(queued(started, self, shown, "joint", 1, trigger_mode="always_last"))
        halt.click(self.cancel, self.held, self.status, cancels=running, **QUIET)

    def start(
        self,
        pair: str,
        prompt: str,
        k: float,
        blocks: float,
        seed: float,
        temperature: float,
        held: Study | None,
        is_open: bool,
        dark: bool,
    ) -> Shown:
        """Cancels what the page asked for before, and sets up what it asks for now; `run` runs it.

        While the tab is closed, nothing is asked.
        """
        if not is_open:
            return {self.status: gr.skip()}
        if held is not None:
            held.job.stop()
        try:
            sizes = whole("K", k), whole("The number of blocks", blocks), whole("The seed", seed)
            job = self.service.study(pair, prompt, *sizes, check_temperature(temperature))
        except KfError as error:
            mistake = failed(error)
            return {self.status: mistake} | ({self.held: replace(held, mistake=mistake)} if held else {})
        study = Study(pair, prompt, "dark" if dark else "light", job)
        return {self.status: _progress(study), self.held: study}

    def run(self, study: Study | None) -> Iterator[Shown]:
        """What stands below the settings; after an error, all of it but the status stays.

        A mistake is shown once more: Gradio repeats the last output of the study before when that event completes.
        """
        if study is None or not study.job.is_waiting:
            yield {self.status: study.mistake if study and study.mistake else gr.skip()}
            return
        try:
            with closing(study.job.run()) as parts:
                for part in parts:
                    if isinstance(part, ContextStudy):
                        pair, _, cut = self.service.models.prompt(study.pair, study.prompt)
                        yield self.show(part, pair, cut_note(cut), study.theme)
                    else:
                        yield {self.status: _progress(study, *part)}
        except KfError as error:
            yield {self.status: failed(error)}
        if study.job.state == "late":
            seconds = study.job.cancel.seconds
            yield {self.status: failed(KfError(f"Stopped after {seconds} s, the most on this page.", "fewer blocks"))}

    def cancel(self, study: Study | None) -> Shown:
        """The page waits for its study no longer."""
        if study is not None:
            study.job.stop()
        return {self.status: boxed(CANCELLED)}

    def refuse(self, study: Study | None) -> Shown:
        """The server did not let a study run: the queue was full, or the page gave its place up."""
        return {self.status: boxed(CANCELLED) if study is not None and study.job.is_over else REFUSED}

    def show(self, measured: ContextStudy, models: Pair, note: str = "", theme: Theme = "light") -> Shown:
        """A study, drawn.

        Args:
            measured: After one context.
            models: The pair, for the tokens' texts.
            note: What else is to be said.
            theme: Of the page.
        """

        def text(token: int) -> str:
            return models.texts([token])[0] if models.tokenizer else str(token)

        found, shown = "", {self.status: _status(measured, note), self.samplers: _samplers(measured, text, theme)}
        drawn: dict[str, Any] = {panel: bare(joint_figure(measured.law, panel, text, theme)) for panel in PANELS}
        drawn["surprise"] = bare(surprise_figure(measured, theme), 240)
        drawn["counts"] = bare(counts_figure(measured, text, theme), 380)
        for name, ((finding, reading), figure) in drawn.items():
            if name == "difference":
                found, finding = finding, "Joint − product"
            words, place = self.figures[name]
            shown |= {words: heading(finding, reading), place: figure}
        return {**shown, self.head: boxed(_headline(measured, models, found))}


def _figure(name: str, height: int) -> tuple[gr.HTML, gr.HTML]:
    """Words and figure."""
    return html(""), plot(empty_figure(340), min_height=height, elem_id=f"joint-{name}")


def _progress(study: Study, share: float = 0.0, what: str = "") -> str:
    """How far a study is; it is read out only once."""
    words = f"Drawing what follows “{markup.escape(_end(study.prompt))}” …"
    if not what:
        return boxed(f"<p>{words}</p>")
    bar = progress_bar(share, 1.0, "Study")
    return boxed(f'<p aria-live="off">{words}</p>{bar}<p aria-live="off" class="kf-prose-reading">Now: {what}.</p>')


def _headline(measured: ContextStudy, models: Pair, of_two: str) -> str:
    """The finding, and of which tokens all is that is shown; it stays when another study runs or fails.

    Args:
        measured: Of one context.
        models: The pair.
        of_two: The finding of the first two tokens.
    """
    ids, k, total, found, squares = measured.law.context.tolist(), measured.k, measured.correlation.total, of_two, ""
    if k > 2:
        spread = f"{total.low:.2f} to {total.high:.2f}"
        found = (
            f"Total correlation of the next {k} tokens: {total.value:.2f} nats ({spread}), which independent draws lose"
        )
        squares = f" The squares are of the first two of them. {of_two}."
    after = f"{len(ids)} token ids that end with {ids[-1]}"
    if models.tokenizer:
        after = f"“{markup.escape(_end(''.join(models.texts(ids))))}”"
    heat = f" at temperature {measured.temperature:g}" if measured.temperature != 1.0 else ""
    about = f"Everything below: K = {k} tokens after {after}{heat}.{squares}"
    return f'<h2>{found}.</h2><p class="kf-prose-reading">{about}</p>'


def _status(measured: ContextStudy, note: str) -> str:
    law = measured.law
    known = law.mutual_information
    covered = f"all {len(law.first):,} first tokens" if not law.uncovered else f"{len(law.first):,} first tokens"
    limits = ""
    if known.lower < known.upper:
        limits = f" (between {known.lower:.3f} and {known.upper:.3f}, whatever the others do)"
    facts = (
        f"After {len(law.context)} tokens, over {covered}: mutual information of the first two: {known.value:.3f} "
        f"nats{limits}; "
        f"{measured.seconds:.1f} s for distribution and samplers on {measured.device}, seed {measured.seed}."
    )
    notes = [markup.escape(each) for each in (note, *measured.notes) if each]
    return boxed(f'<p class="kf-prose-reading">{" ".join([facts, *notes])}</p>')


def _samplers(measured: ContextStudy, text: Callable[[int], str], theme: Theme) -> str:
    """Each sampler's numbers as a table, and its first blocks written out."""
    columns = ("sampler", "passes", "blocks", "TV", "limits", "✕", "p", "KL (nats)")
    name = '<span style="white-space: normal">{}</span>'
    rows = [cells([name.format(row.sampler), *_numbers(row)]) for row in measured.samplers]
    reading = f'<p class="kf-prose-reading">{READING}{POOLED if measured.k > 2 else ""}</p>'
    numbers = table(columns, rows, "Every sampler against the teacher") + reading
    cards = "".join(
        f"<div><p><b>{row.sampler}</b></p>"
        + "".join(_block(row, n, text, theme) for n in range(min(SAMPLES_SHOWN, row.size)))
        + "</div>"
        for row in measured.samplers
    )
    return boxed(
        f"<h2>Every sampler against the teacher</h2>{numbers}<h2>The first blocks of each</h2>"
        '<p class="kf-prose-reading">Teacher, student and the one-pass samplers read the same noise in a row; ✕ marks '
        f'a block that the teacher finds all but impossible.</p><div class="kf-prose-cards">{cards}</div>'
    )


def _numbers(row: SamplerLaw) -> tuple[str, ...]:
    return (
        f"{row.nfe}",
        f"{row.size:,}",
        row.tv.words,
        row.tv.limits,
        f"{100 * row.impossible.value:.1f} %",
        markup.escape(row.p_words),
        "" if row.kl is None else f"{row.kl:.2f}",
    )


def _block(row: SamplerLaw, n: int, text: Callable[[int], str], theme: Theme) -> str:
    chips = "".join(
        f'<span style="background: {token_colour(token, theme)}; color: {colours(theme).ink}">'
        f"{markup.escape(token_label(text(token)))}</span>"
        for token in row.blocks[n].tolist()
    )
    return f'<p class="kf-prose-block">{chips}{" ✕" if row.is_impossible[n] else ""}</p>'


def _end(text: str) -> str:
    return text if len(text) <= END_SHOWN else f"…{text[-END_SHOWN:].lstrip()}"


def _contexts(stored: list[RankedContext], pair: str) -> gr.Dataset:
    """Contexts where the product errs most for a pair, to be tried."""
    return gr.Dataset(
        components=[gr.Textbox(visible=False)],
        samples=[[f"{c.mutual_information:.2f} nats: {_end(c.text)}"] for c in stored],
        label=f"Prompts with high mutual information (our own sentences, highest first; {pair})",
        type="index",
        samples_per_page=4,
        elem_id="joint-contexts",
    )
