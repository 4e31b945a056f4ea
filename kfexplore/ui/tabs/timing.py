"""The tab Timing: decoders race on this device and are compared with its limit."""

from __future__ import annotations

import html as markup
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

import gradio as gr

from kfexplore.decoders import DECODERS
from kfexplore.errors import KfError
from kfexplore.figures.hints import brief, hint
from kfexplore.figures.page import bare
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
from kfexplore.ui.components import (
    QUIET,
    REFUSED,
    Shown,
    boxed,
    button,
    cells,
    chosen_decoders,
    decoder_field,
    empty_figure,
    failed,
    fitted,
    heading,
    html,
    message,
    plot,
    progress_bar,
    status_line,
    table,
    whole,
)
from kfexplore.ui.links import Link
from kfexplore.ui.racing import RaceConfig, Racing, batches_offered, plain_words, rows_csv
from kfexplore.ui.tabs.runs import RunTab

INTRO: Final = """Every decoder continues the prompt above in batches of equal samples, each with its own noise. Only
decoding is timed, without prefill and without turning tokens into text. The decoders take turns, one run each per
round, so that a change of load affects all of them; the first round is a warm-up and is not counted. The server runs
one race at a time; tables, studies and texts of other tabs wait while a clock runs."""
NOT_YET: Final = "<p>Press Start: the decoders race after the prompt above.</p>"
LEAST_NEW_TOKENS: Final = 16
GAIN_NOTE: Final = """The student of this pair was trained for K up to {trained}; larger K show the speed of a student
of the same shape. The cost of a pass is computed from shapes: the weights, keys, values and activations moved, and the
operations of all matrix products."""
READING: Final = """One row per decoder, K and batch. Times are medians; in brackets the slowest and the fastest
repeat. × AR: inconclusive where the brackets contain 1, or there is one repeat. {chance}At limit: the ratio if both
ran at the device's limit; × AR can be above it, since AR pays the overhead of a call for every token. Of limit: the
fraction of it that was reached; above 100 % if other work slowed the measurement of the limit, or if the models fit in
a cache. Kept: mean tokens that a round of verified or Jacobi keeps; idle: fraction of row-rounds in which a finished
row waits for others of its batch. After end: new tokens after the end of a text, which count in tokens per second."""
COLUMNS: Final = (
    "decoder",
    "K",
    "batch",
    "passes",
    "ms/pass",
    "tokens/s",
    "× AR",
    "× AR at limit",
    f"of limit {hint('device limit', 'timing')}",
    "GB/s",
    "GFLOP/s",
    "kept",
    "idle",
    "after end",
)


UPDATE_SECONDS = 0.25
"""Seconds between updates of the progress: sending and showing one takes time from the next run."""


class TimingTab(RunTab):
    """See `RunTab`."""

    not_yet, least_tokens = NOT_YET, LEAST_NEW_TOKENS

    def build(self, k_max: int) -> None:
        """Fills the tab."""
        limits = self.service.limits
        self.most_tokens = limits.race_tokens
        with gr.Row(equal_height=True):
            self.decoders = decoder_field("timing-decoders")
            self.go = button("Start", "timing-go", variant="primary")
            self.halt = button("Cancel", "timing-cancel", interactive=False)
        with gr.Row():
            sizes = list(batches_offered(limits))
            batches = gr.CheckboxGroup(
                sizes, value=[1], label="Batch (samples at once)", elem_id="timing-batches", min_width=240
            )
            self.k = gr.CheckboxGroup(
                list(range(1, k_max + 1)), value=[k_max], label="Tokens per pass, K", elem_id="timing-ks", min_width=300
            )
            least, most = min(LEAST_NEW_TOKENS, limits.race_tokens), limits.race_tokens
            self.length = gr.Slider(
                least, most, min(24, most), step=1, label="New tokens", elem_id="timing-length", min_width=200
            )
        with gr.Accordion("Advanced", open=False, elem_id="timing-advanced"):
            most = limits.race_repeats
            repeats = gr.Slider(1, most, min(5, most), step=1, label="Timed repeats", elem_id="timing-repeats")
        self.words = message("", elem_id="timing-words")
        self.status = status_line(NOT_YET, "timing-status")
        with gr.Column(visible=False) as self.part:
            self.race_words, self.race = html(""), plot(empty_figure(360), min_height=360, elem_id="timing-race")
            self.speedup_words = html("")
            self.speedup = plot(empty_figure(360), min_height=360, elem_id="timing-speedup")
            self.table = html("", elem_id="timing-table")
            with gr.Row():
                self.save = gr.Button("Save JSON", interactive=False, elem_id="timing-json", min_width=110)
                self.spreadsheet = gr.Button("Save CSV", interactive=False, elem_id="timing-csv", min_width=110)
            with gr.Column(visible=False) as self.gain_part:
                self.gain_words = html("", elem_id="timing-gain-words")
                self.gain = plot(empty_figure(360), min_height=360, elem_id="timing-gain")
        html(boxed(f'<p class="kf-prose-reading">{brief(INTRO, "race-intro")}</p>'))
        shown = [self.status, self.words, self.part, self.race_words, self.race, self.speedup_words, self.speedup]
        shown += [self.table, self.gain_part, self.gain_words, self.gain, self.held, self.go, self.halt]
        shown += [self.save, self.spreadsheet]
        settings = [self.decoders, batches, self.k, self.length, repeats, self.held]
        running = self.wire(settings, shown, self.service.executor.races_at_once)
        self.halt.click(self.cancel, self.held, shown, cancels=running, **QUIET)
        for save, made, name, kind in (
            (self.save, document, "kfexplore-throughput.json", "application/json"),
            (self.spreadsheet, spreadsheet, "kfexplore-throughput.csv", "text/csv"),
        ):
            ready = save.click(made, self.held, self.document, **QUIET)
            ready.then(None, self.document, None, js=calling("fields.js", "saveText", name, kind))
        ks = Link(self.k, {"choices": [(str(k), k) for k in range(1, limits.slots + 1)]})
        self.links = [Link(self.decoders), Link(batches), ks, Link(self.length), Link(repeats)]

    def start(
        self,
        pair: str,
        prompt: str,
        decoders: list[str],
        batches: list[int],
        ks: list[int],
        new_tokens: float,
        repeats: float,
        held: Racing | None,
        dark: bool,
    ) -> Shown:
        """Sets up a race; `run` runs it. After an error, the previous race stays."""
        try:
            config = RaceConfig(
                pair,
                prompt,
                chosen_decoders(decoders),
                tuple(whole("A batch", batch) for batch in batches or ()),
                tuple(whole("K", k) for k in ks or ()),
                whole("The number of new tokens", new_tokens),
                whole("The number of repeats", repeats),
            )
            race = replace(self.service.racing(config), theme="dark" if dark else "light")
        except KfError as error:
            return {self.status: failed(error)}
        if held is not None:
            held.job.stop()
        kept = held is not None  # the figures are shown with the first rows: drawing empty ones would take time
        return {**self._shown(race), **self._gains(race), self.part: gr.update(visible=kept), self.held: race}

    def run(self, race: Racing | None) -> Iterator[Shown]:
        """Runs the race if it still waits; yields updates as they occur."""
        if race is None or not race.job.is_waiting:
            yield {self.status: gr.skip()}
            return
        rows, message, sent = 0, "", -math.inf
        try:
            with closing(race.job.run()) as standings:
                for now in standings:
                    is_new = len(now.rows) > rows and race.is_batch_over
                    begins = now.peaks is not None and not now.progress.done
                    shown: Shown = {}
                    if is_new:
                        yield {self.words: _words(race)}
                        shown = {**self._figures(race), self.part: gr.update(visible=True)}
                        shown |= {} if rows else self._gains(race)
                        rows = len(now.rows)
                    elif not begins and time.monotonic() - sent < UPDATE_SECONDS:
                        continue
                    yield {self.status: _status(race), **self._buttons(race), **shown}
                    sent = time.monotonic()
        except KfError as error:
            message = failed(error)
        yield {self.status: message or _status(race), **self._buttons(race)}

    def cancel(self, race: Racing | None) -> Shown:
        """Cancels the race; its rows stay."""
        if race is None:
            return {self.status: boxed(NOT_YET), **self._buttons(None)}
        race.job.stop()
        return self._shown(race)

    def refuse(self, race: Racing | None) -> Shown:
        """Handles a refusal by the server: the queue was full, or a newer request replaced this one."""
        if race is None or race.job.is_over:
            return {self.status: gr.skip()}
        return {**self.cancel(race), self.status: REFUSED}

    def fit_k(self, k: Any, most: int) -> dict[str, Any]:
        """See `RunTab`."""
        return fitted(k, [each for each in k if each <= most] or [most], choices=list(range(1, most + 1)))

    def _shown(self, race: Racing) -> Shown:
        return {self.status: _status(race), self.words: _words(race), **self._figures(race), **self._buttons(race)}

    def _buttons(self, race: Racing | None) -> Shown:
        over = race is None or race.job.is_over
        saved = over and race is not None and bool(race.now.rows)
        able = {self.go: over, self.halt: not over, self.save: saved, self.spreadsheet: saved}
        return {button: gr.update(interactive=on) for button, on in able.items()}

    def _figures(self, race: Racing) -> Shown:
        """Figures of tokens per second and of the speed-up, if there is one, and the table."""
        rows, races = race.now.rows, race.settings.races
        height = figure_height(races)
        words, figure = bare(race_figure(rows, race.theme, races), height)
        (finding, reading), ratios = bare(speedup_figure(rows, race.theme, races), height)
        return {
            self.race_words: heading(*words, "race"),
            self.race: figure,
            self.speedup_words: heading(finding, reading if compared_with_ar(rows) else "", "speedup"),
            self.speedup: gr.update(value=ratios, visible=bool(compared_with_ar(rows))),
            self.table: _table(rows),
        }

    def _gains(self, race: Racing) -> Shown:
        """The gain at the device's limit; hidden until that is known."""
        gains = race.gains()
        if not gains:
            return {self.gain_part: gr.update(visible=False)}
        raced = [k for _, decoder, k in race.settings.races if DECODERS[decoder].takes_k]
        (finding, reading), figure = bare(gain_figure(gains, race.theme, max(raced, default=None)), 360)
        note = GAIN_NOTE.format(trained=race.pair.k_max)
        words = heading(finding, f"{reading} {note}", "gain")
        return {self.gain_part: gr.update(visible=True), self.gain_words: words, self.gain: figure}


def document(race: Racing | None) -> str:
    """The JSON file; "" if there is no race."""
    found = race and race.document()
    return json.dumps(found, indent=2, allow_nan=False) + "\n" if found else ""


def spreadsheet(race: Racing | None) -> str:
    """The CSV file; "" if there is no race."""
    return "" if race is None else rows_csv(race.now.rows)


def _status(racing: Racing) -> str:
    """The progress of a race, and the conditions that affect its times."""
    config, settings, job, now = racing.config, racing.settings, racing.job, racing.now
    number, rows, bar = len(settings.races), now.rows, ""
    facts = (
        f"{config.pair}, {settings.prompt} tokens of prompt, {settings.new_tokens} new ones, "
        f"{settings.repeats} timed repeat{'' if settings.repeats == 1 else 's'}. {racing.note}"
    )
    if job.is_over and (found := racing.document()) is not None:
        facts += f" {device_words(found)}"
    is_racing = job.state == "running" and now.peaks is not None
    if job.state == "done":
        message = f"Done: {number - sum(row.error is not None for row in rows)} of {number} timed."
    elif job.is_over:
        why = "Out of time" if job.state == "late" else "Cancelled"
        message = f"{why} after {len(rows)} of {number} rows" + ("; they stay." if rows else ".")
    elif is_racing:
        done, total, left = now.progress.done, now.progress.total, racing.seconds_left
        bar = progress_bar(done, total, "Runs done")
        message = f"{done} of {total} runs{'' if left is None else f', about {_duration(left)} left'}"
        if done < total:
            batch, decoder, k = settings.runs[done]
            message += f"; now {_name(decoder, k)} at batch {batch}"
    elif job.state == "running":
        message = "Measuring what this device can do: a large copy and a large product …"
    else:
        message = "Requesting a GPU." if job.is_remote else "Waiting for its turn: no two timings overlap."
    quiet = ' aria-live="off"' if is_racing else ""  # or screen readers would announce every run
    return boxed(f'<p{quiet}><b>{message}</b></p>{bar}<p class="kf-prose-reading">{markup.escape(facts)}</p>')


def _words(race: Racing) -> str:
    """The finding in plain words, once there is one."""
    rows = race.now.rows
    return boxed(f"<h2>{markup.escape(plain_words(rows, race.config.decoders))}.</h2>") if rows else ""


def _duration(seconds: float) -> str:
    return f"{math.ceil(seconds)} s" if seconds < 100 else f"{math.ceil(seconds / 60)} min"


def _name(decoder: str, k: int) -> str:
    known = DECODERS[decoder]
    return known.label + (f", K = {k}," if known.takes_k else "")


def _table(rows: Sequence[TimingRow]) -> str:
    """All rows, with the reason if one could not be timed."""
    if not rows:
        return ""
    lines = []
    for row in rows:
        own = [DECODERS[row.decoder].label, f"{row.k}", f"{row.batch}"]
        why = f'<td colspan="{len(COLUMNS) - 3}" style="white-space: normal">✕ {markup.escape(row.error or "")}</td>'
        lines.append(cells(own) + why if row.error else cells([*own, *_numbers(row)]))
    reading = brief(READING.format(chance=chance_words(rows)), "rows")
    all_rows = table(COLUMNS, lines, "All rows")
    return boxed(f'<h2>All rows</h2>{all_rows}<p class="kf-prose-reading">{reading}</p>')


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
