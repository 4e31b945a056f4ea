"""The tab Generate: one prompt through several decoders at once, side by side, as they write."""

from __future__ import annotations

import html as markup
import json
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import gradio as gr

from kfexplore.decoders import DECODERS
from kfexplore.errors import KfError
from kfexplore.figures.scripts import calling, inlined
from kfexplore.figures.text import text_css, texts_html
from kfexplore.ui.components import (
    READABLE,
    REFUSED,
    boxed,
    decoder_choices,
    failed,
    fitted,
    html,
    number,
    offered_decoders,
    takers,
    told,
    whole,
)
from kfexplore.ui.service import Service
from kfexplore.ui.writing import WriteConfig, Writing

INTRO: Final = """AR, Verified and Jacobi write the exact map's text, the teacher's, token for token; the student (PFLM)
writes its own, K tokens a pass, from the same noise. Decoders take turns so that their clocks run alike: the text that
is ahead here is ahead on a machine of its own. Reading the prompt is not in their time."""
NOT_YET: Final = "<p>Choose decoders, and press Generate: the prompt above is continued by each of them.</p>"
WAITING: Final = "Waiting for its turn: pages are written for one after the other."
ASKING: Final = "A GPU is asked for."
LONGEST_PROMPT_SHOWN: Final = 160
"""Characters, the last ones."""

Shown = list[Any]
"""Status, texts, what is held, Generate, Stop, Download."""


def build_generate_tab(service: Service, fields: list[gr.Component], tab: gr.Tab, k_max: int) -> None:
    """Fills the tab, in the Gradio context that is open.

    Args:
        service: Answers for the models.
        fields: The dropdown of pairs and the prompt, which stand above all tabs.
        tab: This tab.
        k_max: Tokens a pass of the first pair's student.
    """
    (pair, prompt), limits = fields, service.limits
    html(boxed(f"<p>{INTRO}</p>"))
    decoders = gr.CheckboxGroup(decoder_choices(), value=["ar", "pflm"], label="Decoders", elem_id="generate-decoders")
    with gr.Row():
        k = gr.Slider(1, k_max, k_max, step=1, label="Tokens a pass, K", elem_id="generate-k", min_width=180)
        length = gr.Slider(
            1,
            min(255, limits.new_tokens),
            min(64, limits.new_tokens),
            step=1,
            label="New tokens",
            elem_id="generate-length",
            min_width=180,
        )
        samples = gr.Slider(1, limits.samples, 1, step=1, label="Samples", elem_id="generate-samples", min_width=180)
    with gr.Row():
        tau = gr.Slider(
            0.1, 2, 1, step=0.05, label="Temperature", info=takers("temperature"), elem_id="generate-tau", min_width=180
        )
        penalty = gr.Slider(
            0,
            5,
            0,
            step=0.1,
            label="Frequency penalty",
            info=takers("frequency_penalty"),
            elem_id="generate-penalty",
            min_width=180,
        )
        seed = gr.Number(0, label="Seed", info="Keys the noise.", elem_id="generate-seed", min_width=180)
    with gr.Row():
        same = gr.Checkbox(
            True,
            label="Same noise for all",
            info="Off: a seed of its own for each decoder.",
            elem_id="generate-same",
            min_width=240,
        )
        underlined = gr.Checkbox(
            False,
            label="Underline what surprises the teacher",
            info="Also after a run; not part of its time.",
            elem_id="generate-surprise",
            min_width=240,
        )
    with gr.Row():
        go = gr.Button("Generate", variant="primary", elem_id="generate-go", min_width=110)
        stop = gr.Button("Stop", interactive=False, elem_id="generate-stop", min_width=110)
        save = gr.Button("Download", interactive=False, elem_id="generate-save", min_width=110)
    status = told(boxed(NOT_YET), elem_id="generate-status", elem_classes="kf-told", head=READABLE)
    texts = gr.HTML(
        "",
        html_template='<div class="kft-page"></div>',
        js_on_load=inlined("components.js") + "mountTexts(element, props, watch);",
        head=f"<style>{text_css()}</style>",  # a css_template would be scoped, and not see which theme the page has
        apply_default_css=False,
        elem_id="generate-texts",
    )
    held = gr.State(None, time_to_live=limits.idle_seconds, delete_callback=let_go)
    document = gr.Textbox(visible=False)

    shown = [status, texts, held, go, stop, save]
    settings = [pair, prompt, decoders, k, length, samples, tau, penalty, seed, same]
    asked = go.click(
        partial(start, service),
        [*settings, underlined, held],
        shown,
        queue=False,
        show_progress="minimal",
        show_progress_on=status,
    )
    running = asked.then(
        run,
        held,
        shown,
        concurrency_limit=limits.at_once,
        concurrency_id="generate",
        show_progress="full",
        show_progress_on=status,
    )
    running.failure(refuse, held, shown, queue=False, show_progress="hidden")
    halted = stop.click(halt, [held, underlined], shown, queue=False, cancels=[running], show_progress="hidden")
    halted.then(underline, [held, underlined], shown, show_progress_on=texts)
    underlined.input(underline, [held, underlined], shown, show_progress_on=texts, trigger_mode="always_last")
    saved = save.click(download, held, [document, status], queue=False, show_progress="hidden")
    saved.then(None, document, None, js=calling("fields.js", "saveText", "kfexplore-generate.json", "application/json"))
    for event in (tab.select, pair.change):  # the pair of a copied link is never typed
        event(
            partial(fit, service),
            [pair, decoders, k, length],
            [decoders, k, length],
            queue=False,
            show_progress="hidden",
        )


def start(
    service: Service,
    pair: str,
    prompt: str,
    decoders: list[str],
    k: float,
    length: float,
    samples: float,
    tau: float,
    penalty: float,
    seed: float,
    same: bool,
    underlined: bool,
    held: Writing | None = None,
) -> Shown:
    """Sets the decoders up; `run` lets them write. A mistake is told, and what was shown and held stays."""
    try:
        config = WriteConfig(
            pair,
            prompt,
            tuple(decoders or ()),
            whole("K", k),
            whole("The number of new tokens", length),
            whole("The number of samples", samples),
            number("The temperature", tau),
            number("The penalty", penalty),
            whole("The seed", seed),
            bool(same),
        )
        writing = service.writing(config, cuts=True)
    except KfError as error:
        return [_mistaken(error, held), *[gr.skip()] * 5]
    let_go(held)
    writing.underlined = underlined
    return [_status(writing, WAITING), _drawn(writing, False), writing, *_buttons(writing)]


def run(writing: Writing | None) -> Iterator[Shown]:
    """What stands below the settings, as the texts grow and when they are done, if they still wait."""
    if writing is None or not writing.is_waiting:
        yield [gr.skip()] * 6
        return
    told = ""
    try:
        where = writing.environment
        yield [_status(writing, ASKING if writing.elsewhere else ""), _drawn(writing, False), *[gr.skip()] * 4]
        for _ in writing.frames():
            status = gr.skip() if writing.environment == where else _status(writing)
            where = writing.environment
            yield [status, _drawn(writing, False), *[gr.skip()] * 4]
        if writing.underlined and not writing.was_called_off:
            yield [_status(writing, "The teacher reads the texts …"), _drawn(writing, False), *[gr.skip()] * 4]
            for _ in writing.surprises():
                pass
    except KfError as error:
        told = failed(error) + _status(writing)
    finally:
        writing.stop()
    yield [told or _status(writing), _drawn(writing, writing.underlined), gr.skip(), *_buttons(writing)]


def refuse(writing: Writing | None) -> Shown:
    """The server did not let it run: the queue had no place, or the page gave its place up."""
    if writing is None or writing.is_over:
        return [gr.skip()] * 6
    writing.stop()
    return [REFUSED + _status(writing), _drawn(writing, False), gr.skip(), *_buttons(writing)]


def let_go(writing: Writing | None) -> None:
    """Nobody will look at it any more."""
    if writing is not None:
        writing.stop()


def halt(writing: Writing | None, underlined: bool) -> Shown:
    """Stops, and shows what has been written."""
    if writing is None:
        return [boxed(NOT_YET), *[gr.skip()] * 2, *_buttons(None)]
    writing.stop()
    return [_status(writing), _drawn(writing, underlined), gr.skip(), *_buttons(writing)]


def underline(writing: Writing | None, underlined: bool) -> Iterator[Shown]:
    """Draws the texts with the teacher's surprise or without; those that still grow get theirs when they are done."""
    if writing is not None:
        writing.underlined = underlined
    if writing is None or not writing.is_over:
        yield [gr.skip()] * 6
        return
    try:
        for _ in writing.surprises() if underlined else ():
            yield [gr.skip(), _drawn(writing, True), *[gr.skip()] * 4]
        yield [_status(writing), _drawn(writing, underlined), *[gr.skip()] * 4]
    except KfError as error:
        yield [_mistaken(error, writing), *[gr.skip()] * 5]


def download(writing: Writing | None) -> list[Any]:
    """What the file holds, and the status; "" where nothing is held any more."""
    if writing is None:
        return ["", failed(KfError("The texts below are no longer held.", "texts that are", "generate them again"))]
    return [json.dumps(writing.as_json(), indent=1, ensure_ascii=False), gr.skip()]


def fit(service: Service, name: str, decoders: list[str], k: float, length: float) -> Shown:
    """What a pair offers: decoders, k and length; choices that it offers too are kept."""
    try:
        pair = service.pair(name)
    except KfError:  # told above the tabs
        return [gr.skip()] * 3
    most, longest = service.slots(pair), min(service.limits.new_tokens, pair.teacher.config.context - 1)
    return [
        offered_decoders(pair, decoders),
        fitted(k, min(k or most, most), maximum=most),
        fitted(length, min(length or 1, longest), maximum=longest),
    ]


def _buttons(writing: Writing | None) -> list[Any]:
    """Generate, Stop and Download, as they can be pressed."""
    over = writing is None or writing.is_over
    return [gr.update(interactive=on) for on in (over, not over, over and writing is not None)]


def _drawn(writing: Writing, underlined: bool) -> str:
    return texts_html(writing.written(), underlined, hints=writing.is_over)


def _mistaken(error: KfError, held: Writing | None) -> str:
    """A mistake, and of which prompt the texts are that stay below it."""
    return failed(error) + (_status(held, "The texts below are still of this prompt.") if held else "")


def _status(writing: Writing, more: str = "") -> str:
    config, prompt = writing.config, writing.config.prompt
    cut = f"… {prompt[-LONGEST_PROMPT_SHOWN:]}" if len(prompt) > LONGEST_PROMPT_SHOWN else prompt
    seeds = f"seed {config.seed}"
    if not config.same_noise:
        seeds = ", ".join(f"seed {config.seed_of(name)} of {DECODERS[name].label}" for name in config.decoders)
    batch = f", {config.samples} samples at once" if config.samples > 1 else ""
    facts = f"{config.pair} on {writing.environment['device']}, float32{batch}, {seeds}."
    asks_student = any("student" in DECODERS[name].models for name in config.decoders)
    low, high = writing.pair.temperatures
    off = writing.pair.untrained if asks_student and not low <= config.temperature <= high else ""
    full = f"No more than {writing.room} new tokens fit after this prompt." if config.new_tokens == writing.room else ""
    late = f"Stopped after {writing.most_seconds} s, the most on this page." if writing.is_late else ""
    notes = " ".join(markup.escape(each) for each in (facts, writing.note, full, off, late, more) if each)
    return boxed(
        f'<p>After “<b>{markup.escape(cut)}</b>” ({len(writing.ids)} tokens)</p><p class="kf-prose-reading">{notes}</p>'
    )
