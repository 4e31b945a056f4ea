"""The tab Joint vs marginal: the exact law of the next tokens, what drawing them apart costs, and toy laws."""

from __future__ import annotations

import html as markup
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr

from kfexplore.cancel import Cancelled, CancelToken
from kfexplore.checkpoints.registry import bundled_pairs
from kfexplore.config import DEFAULT_PAIR, STUDY_BLOCKS, check_temperature
from kfexplore.errors import KfError
from kfexplore.figures.laws import Panel, counts_figure, joint_figure, surprise_figure
from kfexplore.figures.page import bare
from kfexplore.figures.palette import Theme, colours, token_colour, token_label
from kfexplore.laws.ranking import stored_contexts
from kfexplore.laws.samplers import LARGEST_BLOCK
from kfexplore.laws.study import Report
from kfexplore.pair import Pair
from kfexplore.results import ContextStudy, RankedContext, SamplerLaw
from kfexplore.ui.cache import LRUCache
from kfexplore.ui.components import READABLE, REFUSED, boxed, failed, heading, html, plot, scrolling, sent, told, whole
from kfexplore.ui.service import Service
from kfexplore.ui.tabs.toy import build_toy_tab

INTRO: Final = """A masked diffusion model that fills several positions in one pass draws each from its own marginal,
apart from the others. Here the teacher's law of the next tokens after the prompt is exact, so what drawing them apart
costs is known, and every sampler is compared with it; heads that predict several tokens at once (MTP) are, at best,
this same product. A push-forward model has no such cost in principle; what this
student makes of it is shown beside."""

PANELS: Final[tuple[Panel, ...]] = ("joint", "product", "difference")
BLOCKS: Final = (512, 1024, 4096)
"""Of each sampler, as far as the limits allow."""
TEMPERATURES_SHOWN: Final = (0.1, 2.0)
"""Ends of the slider, as in Scrub."""
SAMPLES_SHOWN: Final = 8
"""Blocks written out for each sampler."""
END_SHOWN: Final = 40
"""Characters of a context."""
EMPTY: Final = '{"data": [], "layout": {"height": 340, "xaxis": {"visible": false}, "yaxis": {"visible": false}}}'
"""A figure before the first answer."""
NOT_YET: Final = "<p>The models are asked when this tab is opened.</p>"
BELOW: Final = """<style>
#joint-status { display: flex; flex-direction: column; }
#joint-status > [data-testid="status-tracker"]:not(.hide) { order: 1; position: relative !important; }
#joint-status > [data-testid="status-tracker"] svg { height: 49px; } /* what turns is as high as the bar that follows */
</style>"""
"""Gradio lays the progress over what it is of; here it has room below the words."""
READING: Final = """<b>TV</b>: total variation distance from the teacher's distribution. 0: the same distribution; 1:
nothing in common. <b>limits</b>: how the value was found. <i>exact</i>: both distributions are known. A range: by
quadrature over the student's noise, with its error. <b>≥</b>: the 95 % lower limit from the sampled blocks; the
distance may be any larger, so do not compare lower limits with each other or with exact values. One prompt does not
rank samplers: notebook 02 compares them over contexts of <code>tales</code>. <b>✕</b>: fraction of blocks rarer than
about one in a thousand of the teacher's own. <b>p</b>: how often blocks of the teacher itself would be this far from
its distribution (G-test). <b>KL</b>: of the teacher from the sampler, where that is known (of perfect marginals for
the ideal MDLM)."""
"""Of the table of samplers."""
POOLED: Final = """ For more than two tokens the G-test counts likely blocks one by one and pools the others: a pool is
of blocks with one beginning, so p does not see what is wrong inside it."""
CALLED_OFF: Final = "<p>Cancelled. Showing the previous result.</p>"
COUNT: Final = 3 + 2 * (len(PANELS) + 2)
"""Parts below the status, and itself: text is HTML, figures are JSON."""


def build_joint_tab(
    service: Service, asked: list[Callable[..., Any]], fields: list[gr.Component], tabs: tuple[gr.Tab, list[gr.Tab]]
) -> list[Callable[..., Any]]:
    """Fills the tab; returns the events of its own that ask for another prompt.

    Args:
        service: Answers for the models.
        asked: Events that ask for another prompt or pair.
        fields: The dropdown of pairs and the prompt, which stand above all tabs.
        tabs: This tab, and those that stand beside it.
    """
    (pair, prompt), studies, most = fields, Studies(service), service.limits.study_blocks
    sizes = [size for size in BLOCKS if size <= most] or [most]
    with gr.Tabs():
        with gr.Tab("After the prompt", id="prompt"):
            html(boxed(f"<p>{INTRO}</p>"))
            with gr.Row(equal_height=True):
                k = gr.Slider(2, LARGEST_BLOCK, 2, step=1, label="Block size, K", elem_id="joint-k", scale=2)
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
                go = gr.Button(
                    "Draw", variant="primary", scale=0, min_width=90, elem_id="joint-go", elem_classes="kf-beside"
                )
                stop = gr.Button("Cancel", scale=0, min_width=90, elem_id="joint-cancel", elem_classes="kf-beside")
            first = next(iter(service.loaders))
            ranked_for = first if first in bundled_pairs() else DEFAULT_PAIR
            stored = stored_contexts(ranked_for)
            ranked = _contexts(stored, ranked_for) if stored else None
            status = told(boxed(NOT_YET), elem_id="joint-status", elem_classes="kf-told", head=READABLE + BELOW)
            shown: list[gr.components.Component] = [status, html("", elem_id="joint-head")]
            with gr.Row():
                for panel in PANELS:
                    with gr.Column(min_width=300):
                        shown += [html(""), plot(EMPTY, min_height=340, elem_id=f"joint-{panel}")]
            for name, height in (("surprise", 240), ("counts", 380)):
                shown += [html(""), plot(EMPTY, min_height=height, elem_id=f"joint-{name}")]
            shown.append(html("", elem_id="joint-samplers"))
        with gr.Tab("Toy laws", id="toys"):
            build_toy_tab()
    is_open, dark = gr.Checkbox(value=False, visible=False), gr.Checkbox(visible=False)

    own, others = tabs
    opened = own.select(lambda: True, None, is_open, queue=False, show_progress="hidden")
    for other in others:
        other.select(lambda: False, None, is_open, queue=False, show_progress="hidden")
    follows = []
    if ranked is not None:
        texts = [context.text for context in stored]
        chosen = ranked.click(lambda index: texts[index], ranked, prompt, queue=False, show_progress="hidden")
        follows.append(chosen.then)
    settings, running = [pair, prompt, k, blocks, seed, temperature, is_open, dark], []
    for event in (opened.then, go.click, k.input, blocks.input, temperature.input, seed.submit, *asked, *follows):
        started = event(studies.start, settings, status, js=sent(settings), queue=False, show_progress="hidden")
        running.append(
            started.then(
                studies.answer,
                None,
                shown,
                show_progress_on=status,
                trigger_mode="always_last",
                concurrency_limit=1,
                concurrency_id="joint",
            )
        )
    for each in running:
        each.failure(studies.refuse, None, status, queue=False, show_progress="hidden")
    stop.click(studies.call_off, None, status, queue=False, cancels=running, show_progress="hidden")
    if page := gr.context.Context.root_block:
        page.load(linked_temperature, None, temperature, queue=False, show_progress="hidden")
        page.unload(studies.leave)
    return follows


def linked_temperature(request: gr.Request) -> Any:
    """The temperature of a copied link, within the ends of the slider; Scrub says where it is not one."""
    try:
        named = check_temperature(float(request.query_params["temperature"]))
    except (KeyError, ValueError, KfError):
        return gr.skip()
    low, high = TEMPERATURES_SHOWN
    return min(max(named, low), high)


@dataclass(eq=False)
class _Asked:
    """What a page asks for last."""

    settings: tuple[str, str, float, float, float, float]
    """Pair, prompt, K, blocks, seed and temperature, as they came."""
    theme: Theme
    stop: CancelToken
    taken: bool = False
    """Whether a place in the queue has been used for it; there may be more, of what was asked before."""


class Studies:
    """What every page asks for, told apart by its session; a study that nobody waits for ends at its next part."""

    def __init__(self, service: Service, clock: Callable[[], float] = time.monotonic) -> None:
        self._explorer, self._clock, limits = service, clock, service.limits
        self._pages: LRUCache[str, _Asked] = LRUCache(
            limits.pages, limits.idle_seconds, dropped=lambda asked: asked.stop.set()
        )

    def start(
        self,
        pair: str,
        prompt: str,
        k: float,
        blocks: float,
        seed: float,
        temperature: float,
        is_open: bool,
        dark: bool,
        request: gr.Request,
    ) -> Any:
        """Calls off what the page asked for before; `answer` does what it asks for now. Returns the status.

        While the tab is closed, nothing is asked.
        """
        if not is_open:
            return gr.skip()
        stop = CancelToken(self._explorer.limits.run_seconds, self._clock)
        theme: Theme = "dark" if dark else "light"
        self._pages.put(request.session_hash, _Asked((pair, prompt, k, blocks, seed, temperature), theme, stop))
        return boxed(f"<p>Drawing what follows “{markup.escape(_end(prompt))}” …</p>")

    def answer(
        self,
        request: gr.Request,
        report: Report = gr.Progress(),  # noqa: B008 - Gradio reads it from the signature
    ) -> Any:
        """What stands below the settings: text is HTML, figures are JSON.

        An error is told in the first of them, and all others stay.
        """
        asked = self._pages.get(request.session_hash)
        if asked is None or asked.taken or asked.stop():
            return [gr.skip()] * COUNT
        asked.taken = True
        pair, prompt, k, blocks, seed, temperature = asked.settings
        try:
            sizes = whole("K", k), whole("The number of blocks", blocks), whole("The seed", seed)
            heat = check_temperature(temperature)
            measured, models, note = self._explorer.study(pair, prompt, *sizes, heat, report, asked.stop)
        except KfError as error:
            return [failed(error), *[gr.skip()] * (COUNT - 1)]
        except Cancelled:
            late = KfError(f"Stopped after {asked.stop.seconds} s, the most on this page.", "fewer blocks")
            return [failed(late) if asked.stop.is_late else gr.skip(), *[gr.skip()] * (COUNT - 1)]
        return show(measured, models, note, asked.theme)

    def call_off(self, request: gr.Request) -> str:
        """The page waits for its study no longer."""
        asked = self._pages.get(request.session_hash)
        if asked is not None:
            asked.stop.set()
        return boxed(CALLED_OFF)

    def refuse(self, request: gr.Request) -> str:
        """The server did not let a study run: the queue had no place, or the page gave its place up."""
        asked = self._pages.get(request.session_hash)
        return boxed(CALLED_OFF) if asked is not None and asked.stop() else REFUSED

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self._pages.pop(request.session_hash)


def show(measured: ContextStudy, models: Pair, note: str = "", theme: Theme = "light") -> list[str]:
    """The answer for a study, drawn.

    Args:
        measured: Of one context.
        models: The pair, for the tokens' texts.
        note: What else is to be said.
        theme: Of the page.
    """

    def text(token: int) -> str:
        return models.texts([token])[0] if models.tokenizer else str(token)

    found, heads, figures = "", [], []
    for panel in PANELS:
        (finding, reading), figure = bare(joint_figure(measured.law, panel, text, theme))
        if panel == "difference":
            found, finding = finding, "Joint − product"
        heads.append(heading(finding, reading, beside=True))
        figures.append(figure)
    parts = [part for pair in zip(heads, figures, strict=True) for part in pair]
    for drawn, height in (
        (surprise_figure(measured, theme), 240),
        (counts_figure(measured, text, theme), 380),
    ):
        words, figure = bare(drawn, height)
        parts += [heading(*words), figure]
    return [
        _status(measured, note),
        boxed(_headline(measured, models, found)),
        *parts,
        _samplers(measured, text, theme),
    ]


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
    told = f"Everything below: K = {k} tokens after {after}{heat}.{squares}"
    return f'<h2>{found}.</h2><p class="kf-prose-reading">{told}</p>'


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
        f"{measured.seconds:.1f} s for law and samplers on {measured.device}, seed {measured.seed}."
    )
    notes = [markup.escape(each) for each in (note, *measured.notes) if each]
    return boxed(f'<p class="kf-prose-reading">{" ".join([facts, *notes])}</p>')


def _samplers(measured: ContextStudy, text: Callable[[int], str], theme: Theme) -> str:
    """Each sampler's numbers as a table, and its first blocks written out."""
    number = ' class="kf-prose-number"'
    head = "".join(
        f"<th{'' if not n else number}>{name}</th>"
        for n, name in enumerate(("sampler", "passes", "blocks", "TV", "limits", "✕", "p", "KL (nats)"))
    )
    rows = "".join(
        f'<tr><td style="white-space: normal">{row.sampler}</td>'
        + "".join(f"<td{number}>{value}</td>" for value in _numbers(row))
        + "</tr>"
        for row in measured.samplers
    )
    table = (
        scrolling(f"<table><tr>{head}</tr>{rows}</table>", "Every sampler against the teacher")
        + f'<p class="kf-prose-reading">{READING}{POOLED if measured.k > 2 else ""}</p>'
    )
    cards = "".join(
        f"<div><p><b>{row.sampler}</b></p>"
        + "".join(_block(row, n, text, theme) for n in range(min(SAMPLES_SHOWN, row.size)))
        + "</div>"
        for row in measured.samplers
    )
    return boxed(
        f"<h2>Every sampler against the teacher</h2>{table}<h2>The first blocks of each</h2>"
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
        label=f"Find me a context where it matters: sentences ranked by what the next two tokens share ({pair})",
        type="index",
        samples_per_page=4,
        elem_id="joint-contexts",
    )
