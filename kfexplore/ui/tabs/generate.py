"""The tab Generate: several decoders continue one prompt, side by side, shown while they write."""

from __future__ import annotations

import html as markup
import json
from collections.abc import Iterator
from typing import Any, Final

import gradio as gr

from kfexplore.decoders import DECODERS
from kfexplore.errors import KfError
from kfexplore.figures.scripts import calling, inlined
from kfexplore.figures.text import text_css, texts_html
from kfexplore.ui.components import (
    QUIET,
    REFUSED,
    Shown,
    boxed,
    button,
    chosen_decoders,
    decoder_field,
    failed,
    fitted,
    html,
    number,
    quoted,
    status_line,
    takers,
    whole,
)
from kfexplore.ui.links import Link
from kfexplore.ui.tabs.runs import RunTab
from kfexplore.ui.writing import WriteConfig, Writing

INTRO: Final = """AR, Verified and Jacobi write the exact map's text, the teacher's, token for token; the student (PFLM)
writes its own, K tokens per pass, from the same noise. Decoders are interleaved, so the order you see is the order they
would finish in if run alone. Prefill is excluded from their times."""
NOT_YET: Final = "<p>Press Generate: each decoder continues the prompt above.</p>"
WAITING: Final = "Waiting for its turn: texts of all visitors are written one after another."
ASKING: Final = "Requesting a GPU."
LONGEST_PROMPT_SHOWN: Final = 160
"""Number of last characters shown of a prompt."""


class GenerateTab(RunTab):
    """See `RunTab`."""

    not_yet = NOT_YET

    def build(self, k_max: int) -> None:
        """Fills the tab."""
        limits = self.service.limits
        self.most_tokens = limits.new_tokens
        with gr.Row(equal_height=True):
            self.decoders = decoder_field("generate-decoders")
            self.go = button("Generate", "generate-go", variant="primary")
            self.halt = button("Stop", "generate-stop", interactive=False)
            self.save = button("Download", "generate-save", interactive=False)
        with gr.Row():
            self.k = _slider("k", 1, k_max, k_max, "Tokens per pass, K")
            self.length = _slider("length", 1, min(255, limits.new_tokens), min(64, limits.new_tokens), "New tokens")
            samples = _slider("samples", 1, limits.samples, 1, "Samples")
        with gr.Accordion("Advanced", open=False, elem_id="generate-advanced"):
            with gr.Row():
                temperature = _slider("tau", 0.1, 2, 1, "Temperature", step=0.05, info=takers("temperature"))
                penalty = _slider("penalty", 0, 5, 0, "Frequency penalty", step=0.1, info=takers("frequency_penalty"))
                about = "The same seed gives the same texts."
                seed = gr.Number(0, label="Seed", info=about, elem_id="generate-seed", min_width=180)
            with gr.Row():
                same = gr.Checkbox(
                    True,
                    label="Same noise for all",
                    info="If off, each decoder uses its own seed.",
                    elem_id="generate-same",
                    min_width=240,
                )
                underlined = gr.Checkbox(
                    False,
                    label="Underline tokens the teacher finds unlikely",
                    info="You can switch this after a run; it takes none of the run's time.",
                    elem_id="generate-surprise",
                    min_width=240,
                )
        self.status = status_line(NOT_YET, "generate-status")
        self.texts = gr.HTML(
            "",
            html_template='<div class="kft-page"></div>',
            js_on_load=inlined("components.js") + "mountTexts(element, props, watch);",
            head=f"<style>{text_css()}</style>",  # a css_template would be scoped, and not know the page's theme
            apply_default_css=False,
            elem_id="generate-texts",
        )
        html(boxed(f'<p class="kf-prose-reading">{INTRO}</p>'))
        shown = [self.status, self.texts, self.held, self.go, self.halt, self.save]
        settings = [self.decoders, self.k, self.length, samples, temperature, penalty, seed, same, underlined]
        running = self.wire([*settings, self.held], shown, limits.at_once)
        drawn: dict[str, Any] = {"inputs": [self.held, underlined], "outputs": shown, "show_progress_on": self.texts}
        halted = self.halt.click(self.stop, [self.held, underlined], shown, cancels=running, **QUIET)
        halted.then(self.underline, **drawn)
        underlined.input(self.underline, **drawn, trigger_mode="always_last")
        saved = self.save.click(self.download, self.held, [self.document, self.status], **QUIET)
        save = calling("fields.js", "saveText", "kfexplore-generate.json", "application/json")
        saved.then(None, self.document, None, js=save)
        rest = (self.length, samples, temperature, penalty, seed, same, underlined)
        self.links = [Link(self.decoders), Link(self.k, {"maximum": limits.slots}), *map(Link, rest)]

    def start(
        self,
        pair: str,
        prompt: str,
        decoders: list[str],
        k: float,
        length: float,
        samples: float,
        temperature: float,
        penalty: float,
        seed: float,
        same: bool,
        underlined: bool,
        held: Writing | None = None,
        _dark: bool = False,
    ) -> Shown:
        """Sets up the decoders; `run` runs them. After an error, the previous texts stay."""
        try:
            config = WriteConfig(
                pair,
                prompt,
                chosen_decoders(decoders),
                whole("K", k),
                whole("The number of new tokens", length),
                whole("The number of samples", samples),
                number("The temperature", temperature),
                number("The penalty", penalty),
                whole("The seed", seed),
                bool(same),
            )
            writing = self.service.writing(config, cuts=True)
        except KfError as error:
            return {self.status: _mistaken(error, held)}
        if held is not None:
            held.job.stop()
        writing.is_underlined = underlined
        return {
            self.status: _status(writing, WAITING),
            self.texts: _drawn(writing, False),
            self.held: writing,
            **self._buttons(writing),
        }

    def run(self, writing: Writing | None) -> Iterator[Shown]:
        """Runs the job if it still waits; yields updates while the texts grow and when they are done."""
        if writing is None or not writing.job.is_waiting:
            yield {self.status: gr.skip()}
            return
        message = ""
        try:
            where = writing.texts.environment
            asking = ASKING if writing.job.is_remote else ""
            yield {self.status: _status(writing, asking), self.texts: _drawn(writing, False)}
            for _ in writing.frames():
                moved = writing.texts.environment != where
                where = writing.texts.environment
                yield {self.texts: _drawn(writing, False)} | ({self.status: _status(writing)} if moved else {})
            if writing.is_underlined and writing.job.state != "cancelled":
                yield {
                    self.status: _status(writing, "The teacher reads the texts …"),
                    self.texts: _drawn(writing, False),
                }
                for _ in writing.surprises():
                    pass
        except KfError as error:
            message = failed(error) + _status(writing)
        finally:
            writing.job.stop()
        texts = _drawn(writing, writing.is_underlined)
        yield {self.status: message or _status(writing), self.texts: texts, **self._buttons(writing)}

    def refuse(self, writing: Writing | None) -> Shown:
        """Handles a refusal by the server: the queue was full, or a newer request replaced this one."""
        if writing is None or writing.job.is_over:
            return {self.status: gr.skip()}
        shown = self.stop(writing, False)
        return {**shown, self.status: REFUSED + shown[self.status]}

    def stop(self, writing: Writing | None, underlined: bool) -> Shown:
        """Cancels, and shows what has been written."""
        if writing is None:
            return {self.status: boxed(NOT_YET), **self._buttons(None)}
        writing.job.stop()
        return {self.status: _status(writing), self.texts: _drawn(writing, underlined), **self._buttons(writing)}

    def underline(self, writing: Writing | None, underlined: bool) -> Iterator[Shown]:
        """Draws the texts with or without the teacher's surprise; growing texts get it once they are done."""
        if writing is not None:
            writing.is_underlined = underlined
        if writing is None or not writing.job.is_over:
            yield {self.status: gr.skip()}
            return
        try:
            for _ in writing.surprises() if underlined else ():
                yield {self.texts: _drawn(writing, True)}
            yield {self.status: _status(writing), self.texts: _drawn(writing, underlined)}
        except KfError as error:
            yield {self.status: _mistaken(error, writing)}

    def download(self, writing: Writing | None) -> Shown:
        """The text of the file, or "" and an error if the server no longer has the texts."""
        if writing is None:
            gone = KfError("The server no longer has the texts below.", "recent texts", "generate them again")
            return {self.document: "", self.status: failed(gone)}
        return {self.document: json.dumps(writing.as_json(), indent=1, ensure_ascii=False)}

    def fit_k(self, k: Any, most: int) -> dict[str, Any]:
        """See `RunTab`."""
        return fitted(k, min(k or most, most), maximum=most)

    def _buttons(self, writing: Writing | None) -> Shown:
        over = writing is None or writing.job.is_over
        able = {self.go: over, self.halt: not over, self.save: over and writing is not None}
        return {button: gr.update(interactive=on) for button, on in able.items()}


def _slider(name: str, low: float, high: float, value: float, label: str, step: float = 1, info: str = "") -> gr.Slider:
    elem_id = f"generate-{name}"
    return gr.Slider(low, high, value, step=step, label=label, info=info or None, elem_id=elem_id, min_width=180)


def _drawn(writing: Writing, underlined: bool) -> str:
    return texts_html(writing.written(), underlined, hints=writing.job.is_over)


def _mistaken(error: KfError, held: Writing | None) -> str:
    """An error, and the prompt of the texts that stay below it."""
    return failed(error) + (_status(held, "The texts below are still for this prompt.") if held else "")


def _status(writing: Writing, more: str = "") -> str:
    config, prompt = writing.config, writing.config.prompt
    cut = f"… {prompt[-LONGEST_PROMPT_SHOWN:]}" if len(prompt) > LONGEST_PROMPT_SHOWN else prompt
    seeds = f"seed {config.seed}"
    if not config.same_noise:
        seeds = ", ".join(f"seed {config.seed_of(name)} for {DECODERS[name].label}" for name in config.decoders)
    batch = f", {config.samples} samples at once" if config.samples > 1 else ""
    facts = f"{config.pair} on {writing.texts.environment['device']}, float32{batch}, {seeds}."
    asks_student = any("student" in DECODERS[name].models for name in config.decoders)
    low, high = writing.pair.temperatures
    off = writing.pair.untrained if asks_student and not low <= config.temperature <= high else ""
    room = writing.pair.teacher.config.context - len(writing.ids)
    full = f"No more than {room} new tokens fit after this prompt." if config.new_tokens == room else ""
    late = (
        f"Stopped after {writing.job.cancel.seconds} s, the limit of this page." if writing.job.state == "late" else ""
    )
    notes = " ".join(markup.escape(each) for each in (facts, writing.note, full, off, late, more) if each)
    return boxed(
        f'<p>After <b>{quoted(cut)}</b> ({len(writing.ids)} tokens)</p><p class="kf-prose-reading">{notes}</p>'
    )
