"""The tab Timing: decoders race each other on this device, beside its limit."""

from __future__ import annotations

import html as markup
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr

from kfexplore.decoders import DECODERS
from kfexplore.errors import KfError
from kfexplore.figures.page import bare
from kfexplore.figures.palette import Theme
from kfexplore.figures.roofline import gain_figure
from kfexplore.figures.scripts import calling
from kfexplore.figures.timing import (
    chance_words,
    compared_with_ar,
    device_words,
    figure_height,
    over_ar,
    per_second,
    race_figure,
    speedup_figure,
)
from kfexplore.results import TimingRow
from kfexplore.ui.cache import LRUCache
from kfexplore.ui.components import (
    DARK,
    READABLE,
    REFUSED,
    boxed,
    decoder_choices,
    failed,
    fitted,
    heading,
    html,
    offered_decoders,
    plot,
    scrolling,
    told,
    whole,
)
from kfexplore.ui.racing import RaceConfig, Racing, batches_offered, rows_csv
from kfexplore.ui.service import Service

INTRO: Final = """Every decoder continues the prompt above in batches of equal samples, each with its own noise. Only
decoding is timed: prompts have been read and nothing is spelled out. The decoders take turns, one run each per round,
so that a change of load meets all of them; the first round is a warm-up and is not counted. Races of all pages run one
after the other, and tables, studies and texts of other tabs wait while a clock runs."""
NOT_YET: Final = "<p>Choose what to race, and press Start.</p>"
LEAST_NEW_TOKENS: Final = 16
EMPTY: Final = '{"data": [], "layout": {"height": 360, "xaxis": {"visible": false}, "yaxis": {"visible": false}}}'
GAIN_NOTE: Final = """The student of this pair was trained on K up to {trained}; other K show what one of the same shape
could gain. A pass's cost is counted by hand from the shapes: weights, keys and values, and activations moved, and the
operations of all products."""
READING: Final = """One row per decoder, K and batch. Times are medians; in brackets the slowest and the fastest
repeat: extremes, not a confidence interval. × AR: inconclusive where the brackets contain 1, or there is one repeat.
{chance}At limit: the ratio if both ran at the device's limit, a model of bytes and FLOPs with the memory and arithmetic
that were measured in the first races, the best of them. × AR can be above it, as AR pays what a call costs besides for
every token. Of limit: the share of it that was reached; it is above 100 % where others were at work meanwhile, or the
models fit a cache. Kept: mean tokens that a round of verified or Jacobi keeps; idle: share of row-rounds in which a
finished row waits for others of its batch. After end: new tokens behind the end of a text, which are counted in tokens
a second."""
COLUMNS: Final = (
    "decoder",
    "K",
    "batch",
    "passes",
    "ms/pass",
    "tokens/s",
    "× AR",
    "× AR at limit",
    "of limit",
    "GB/s",
    "GFLOP/s",
    "kept",
    "idle",
    "after end",
)

Shown = list[Any]
"""Status; the part below it; words and figure of tokens a second and of the speed-up; the table; the part of the gain,
its words and figure; Start, Cancel, JSON, CSV."""
COUNT: Final = 14


@dataclass
class _Page:
    racing: Racing
    theme: Theme


class Races:
    """The last race of every page, told apart by its session; one that is let go is stopped."""

    def __init__(self, service: Service) -> None:
        self._explorer, limits = service, service.limits
        self._pages: LRUCache[str, _Page] = LRUCache(
            limits.pages, limits.idle_seconds, dropped=lambda page: page.racing.stop()
        )

    def start(
        self,
        pair: str,
        prompt: str,
        decoders: list[str],
        batches: list[int],
        ks: list[int],
        new_tokens: float,
        repeats: float,
        dark: bool,
        request: gr.Request,
    ) -> Shown:
        """Sets a race up; `run` runs it. A mistake is told, and what was shown and held stays."""
        try:
            config = RaceConfig(
                pair,
                prompt,
                tuple(decoders or ()),
                tuple(whole("A batch", batch) for batch in batches or ()),
                tuple(whole("K", k) for k in ks or ()),
                whole("The number of new tokens", new_tokens),
                whole("The number of repeats", repeats),
            )
            racing = self._explorer.racing(config)
        except KfError as error:
            return [failed(error), *[gr.skip()] * (COUNT - 1)]
        page = _Page(racing, "dark" if dark else "light")
        self._pages.put(request.session_hash, page)
        return [_status(racing), gr.update(visible=True), *_figures(page), *_gains(page), *_buttons(racing)]

    def run(self, request: gr.Request) -> Iterator[Shown]:
        """Runs the race that was set up, if it still waits; what changes is sent as it does."""
        page = self._pages.get(request.session_hash)
        if page is None or page.racing.stage != "waiting":
            yield [gr.skip()] * COUNT
            return
        racing, rows, told = page.racing, 0, ""
        steps = racing.steps()
        try:
            for _ in steps:
                new = len(racing.rows) > rows
                rows = len(racing.rows)
                gains = _gains(page) if racing.stage == "racing" and not racing.progress.done else [gr.skip()] * 3
                figures = _figures(page) if new else [gr.skip()] * 5
                yield [_status(racing), gr.skip(), *figures, *gains, *_buttons(racing)]
        except KfError as error:
            told = failed(error)
        finally:
            steps.close()  # type: ignore[attr-defined]
        yield [told or _status(racing), gr.skip(), *[gr.skip()] * 8, *_buttons(racing)]

    def cancel(self, request: gr.Request) -> Shown:
        """Calls the page's race off; its rows stay."""
        page = self._pages.get(request.session_hash)
        if page is None:
            return [boxed(NOT_YET), *[gr.skip()] * 9, *_buttons(None)]
        page.racing.stop()
        return [_status(page.racing), gr.skip(), *_figures(page), *[gr.skip()] * 3, *_buttons(page.racing)]

    def refuse(self, request: gr.Request) -> Shown:
        """The server did not let a race run: the queue had no place, or the page gave its place up."""
        page = self._pages.get(request.session_hash)
        if page is None or page.racing.is_over:
            return [gr.skip()] * COUNT
        return [REFUSED, *self.cancel(request)[1:]]

    def leave(self, request: gr.Request) -> None:
        """The page was closed: its race ends, and nothing of it is kept."""
        self._pages.pop(request.session_hash)

    def document(self, request: gr.Request) -> str:
        """The JSON file; "" where there is no race."""
        page = self._pages.get(request.session_hash)
        found = page.racing.document() if page is not None else None
        return "" if found is None else json.dumps(found, indent=2, allow_nan=False) + "\n"

    def table(self, request: gr.Request) -> str:
        """The CSV file; "" where there is no race."""
        page = self._pages.get(request.session_hash)
        return rows_csv(page.racing.rows) if page is not None else ""

    def fit(self, name: str, decoders: list[str], ks: list[int], new_tokens: float) -> list[Any]:
        """What a pair offers: decoders, K and new tokens; choices that it offers too are kept."""
        try:
            pair = self._explorer.pair(name)
        except KfError:
            return [gr.skip()] * 3  # told above the tabs
        most = self._explorer.slots(pair)
        longest = min(self._explorer.limits.race_tokens, pair.teacher.config.context - 1)
        least = min(LEAST_NEW_TOKENS, longest)
        fitting = max(least, min(new_tokens or least, longest))
        return [
            offered_decoders(pair, decoders),
            fitted(ks, [k for k in ks if k <= most] or [most], choices=list(range(1, most + 1))),
            fitted(new_tokens, fitting, minimum=least, maximum=longest),
        ]


def build_timing_tab(service: Service, fields: list[gr.Component], tab: gr.Tab, k_max: int) -> None:
    """Fills the tab, in the Gradio context that is open.

    Args:
        service: Answers for the models.
        fields: The dropdown of pairs and the prompt, which stand above all tabs.
        tab: This tab.
        k_max: Tokens a pass of the first pair's student.
    """
    races, (pair, prompt), limits = Races(service), fields, service.limits
    html(boxed(f"<p>{INTRO}</p>"))
    decoders = gr.CheckboxGroup(decoder_choices(), value=["ar", "pflm"], label="Decoders", elem_id="timing-decoders")
    with gr.Row():
        batches = gr.CheckboxGroup(
            list(batches_offered(limits)),
            value=[batch for batch in (1, 4, 16) if batch <= limits.race_batch],
            label="Batch (samples at once)",
            elem_id="timing-batches",
            min_width=300,
        )
        ks = gr.CheckboxGroup(
            list(range(1, k_max + 1)),
            value=[k_max],
            label="Tokens, or guesses, a pass, K",
            elem_id="timing-ks",
            min_width=300,
        )
    with gr.Row():
        new_tokens = gr.Slider(
            min(LEAST_NEW_TOKENS, limits.race_tokens),
            limits.race_tokens,
            min(64, limits.race_tokens),
            step=1,
            label="New tokens",
            elem_id="timing-length",
            min_width=240,
        )
        repeats = gr.Slider(
            1,
            limits.race_repeats,
            min(5, limits.race_repeats),
            step=1,
            label="Timed repeats",
            elem_id="timing-repeats",
            min_width=240,
        )
    with gr.Row():
        go = gr.Button("Start", variant="primary", elem_id="timing-go", min_width=110)
        stop = gr.Button("Cancel", interactive=False, elem_id="timing-cancel", min_width=110)
        save = gr.Button("Save JSON", interactive=False, elem_id="timing-json", min_width=110)
        spreadsheet = gr.Button("Save CSV", interactive=False, elem_id="timing-csv", min_width=110)
    status = told(boxed(NOT_YET), elem_id="timing-status", elem_classes="kf-told", head=READABLE)
    with gr.Column(visible=False) as part:
        drawn = []
        for name in ("race", "speedup"):
            drawn += [html(""), plot(EMPTY, min_height=360, elem_id=f"timing-{name}")]
        drawn.append(html("", elem_id="timing-table"))
        with gr.Column(visible=False) as gain_part:
            gain = [html("", elem_id="timing-gain-words"), plot(EMPTY, min_height=360, elem_id="timing-gain")]
    dark, document = gr.Checkbox(visible=False), gr.Textbox(visible=False)

    shown = [status, part, *drawn, gain_part, *gain, go, stop, save, spreadsheet]
    settings = [pair, prompt, decoders, batches, ks, new_tokens, repeats, dark]
    asked = go.click(races.start, settings, shown, js=DARK, queue=False, show_progress="hidden")
    running = asked.then(
        races.run,
        None,
        shown,
        concurrency_limit=service.races_at_once,
        concurrency_id="timing",
        show_progress="full",
        show_progress_on=status,
    )
    running.failure(races.refuse, None, shown, queue=False, show_progress="hidden")
    stop.click(races.cancel, None, shown, queue=False, cancels=[running], show_progress="hidden")
    for button, made, script in (
        (save, races.document, calling("fields.js", "saveText", "kfexplore-throughput.json", "application/json")),
        (spreadsheet, races.table, calling("fields.js", "saveText", "kfexplore-throughput.csv", "text/csv")),
    ):
        ready = button.click(made, None, document, queue=False, show_progress="hidden")
        ready.then(None, document, None, js=script)
    for event in (tab.select, pair.change):  # the pair of a copied link is never typed
        event(
            races.fit,
            [pair, decoders, ks, new_tokens],
            [decoders, ks, new_tokens],
            queue=False,
            show_progress="hidden",
        )
    if page := gr.context.Context.root_block:
        page.unload(races.leave)


def _buttons(racing: Racing | None) -> list[Any]:
    """Start, Cancel, JSON and CSV, as they can be pressed."""
    over = racing is None or racing.is_over
    held = over and racing is not None and bool(racing.rows)
    return [gr.update(interactive=on) for on in (over, not over, held, held)]


def _figures(page: _Page) -> list[str]:
    """Words and figure of tokens a second, of the speed-up or what it lacks, and the table."""
    rows, races = page.racing.rows, page.racing.settings.races
    height, is_compared = figure_height(races), bool(compared_with_ar(rows))
    race, figure = bare(race_figure(rows, page.theme, races), height)
    (finding, reading), ratios = bare(speedup_figure(rows, page.theme, races), height)
    return [heading(*race), figure, heading(finding, reading if is_compared else ""), ratios, _table(rows)]


def _gains(page: _Page) -> list[Any]:
    """Words and figure of the gain at the device's limit; nothing before that is known."""
    gains = page.racing.gains()
    if not gains:
        return [gr.update(visible=False), gr.skip(), gr.skip()]
    (finding, reading), figure = bare(gain_figure(gains, page.theme), 360)
    note = GAIN_NOTE.format(trained=page.racing.pair.k_max)
    return [gr.update(visible=True), heading(finding, f"{reading} {note}"), figure]


def _status(racing: Racing) -> str:
    """How far a race is, and what its times hang on."""
    config, settings, rows = racing.config, racing.settings, racing.rows
    number = len(settings.races)
    facts = (
        f"{config.pair}, {settings.prompt} tokens of prompt, {settings.new_tokens} new ones, "
        f"{settings.repeats} timed repeat{'' if settings.repeats == 1 else 's'}. {racing.note}"
    )
    bar = ""
    if racing.stage == "waiting":
        told = "A GPU is asked for." if racing.elsewhere else "Waiting for its turn: no two timings overlap."
    elif racing.stage == "measuring":
        told = "Measuring what this device can do: a large copy and a large product …"
    elif racing.stage == "racing":
        done, total, left = racing.progress.done, racing.progress.total, racing.seconds_left
        bar = _bar(done, total)
        told = f"{done} of {total} runs{'' if left is None else f', about {_duration(left)} left'}"
        if done < total:
            batch, decoder, k = settings.runs[done]
            told += f"; now {_name(decoder, k)} at batch {batch}"
    elif racing.stage == "done":
        without = sum(row.error is not None for row in rows)
        told = f"Done: {number - without} of {number} timed."
    else:
        why = "Out of time" if racing.is_late else "Cancelled"
        told = f"{why} after {len(rows)} of {number} rows" + ("; they stay." if rows else ".")
    if racing.is_over and (document := racing.document()) is not None:
        facts += f" {device_words(document)}"
    quiet = ' aria-live="off"' if racing.stage == "racing" else ""  # or every run would be read out
    return boxed(f'<p{quiet}><b>{told}</b></p>{bar}<p class="kf-prose-reading">{markup.escape(facts)}</p>')


def _bar(done: int, total: int) -> str:
    return (
        f'<div role="progressbar" aria-label="Runs done" aria-valuemin="0" aria-valuenow="{done}" '
        f'aria-valuemax="{total}" style="height: 8px; margin: 0 0 .5rem; border-radius: 4px; overflow: hidden; '
        f'background: var(--border-color-primary)"><div style="height: 100%; width: {100 * done / total:.1f}%; '
        'background: var(--button-primary-background-fill)"></div></div>'
    )


def _duration(seconds: float) -> str:
    return f"{math.ceil(seconds)} s" if seconds < 100 else f"{math.ceil(seconds / 60)} min"


def _name(decoder: str, k: int) -> str:
    known = DECODERS[decoder]
    return known.label + (f", K = {k}," if known.takes_k else "")


def _table(rows: Sequence[TimingRow]) -> str:
    """All rows, with the reason where one could not be timed."""
    if not rows:
        return ""
    number = ' class="kf-prose-number"'
    head = "".join(f"<th{number if n else ''}>{name}</th>" for n, name in enumerate(COLUMNS))
    body = ""
    for row in rows:
        own = f"<td>{DECODERS[row.decoder].label}</td><td{number}>{row.k}</td><td{number}>{row.batch}</td>"
        if row.error:
            rest = f'<td colspan="{len(COLUMNS) - 3}" style="white-space: normal">✕ {markup.escape(row.error)}</td>'
        else:
            rest = "".join(f"<td{number}>{value}</td>" for value in _numbers(row))
        body += f"<tr>{own}{rest}</tr>"
    table = scrolling(f"<table><tr>{head}</tr>{body}</table>", "All rows")
    reading = READING.format(chance=chance_words(rows))
    return boxed(f'<h2>All rows</h2>{table}<p class="kf-prose-reading">{reading}</p>')


def _numbers(row: TimingRow) -> list[str]:
    return [
        f"{row.nfe:,}",
        f"{row.ms_per_step:.2f}",
        per_second(row),
        over_ar(row),
        "" if row.roofline_speedup is None else f"{row.roofline_speedup:.2f}",
        f"{100 * (row.share_of_roofline or 0):.1f} %",
        f"{(row.bytes_per_second or 0) / 1e9:.1f}",
        f"{(row.flops_per_second or 0) / 1e9:,.1f}",
        "" if row.kept_per_round is None else f"{row.kept_per_round:.2f}",
        "" if row.idle_share is None else f"{100 * row.idle_share:.0f} %",
        f"{row.tokens_after_eos:,}",
    ]
