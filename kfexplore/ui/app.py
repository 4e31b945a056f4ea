"""The whole page: what stands above the tabs, and one module a tab."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr

from kfexplore.checkpoints.registry import NAMED, bundled_folder, fingerprint, pair_parts
from kfexplore.errors import KfError
from kfexplore.pair import Pair, load_pair, pair_from_files
from kfexplore.ui.explorer import Explorer, Json
from kfexplore.ui.generate import build_generate_tab
from kfexplore.ui.joint import build_joint_tab
from kfexplore.ui.scrub import EXAMPLES, open_on, scrub_view
from kfexplore.ui.timing import build_timing_tab

INTRO = """# kfexplore
A push-forward language model turns K random numbers into K tokens in one pass. Move the numbers and watch the tokens:
**exact**, as the teacher would choose them one by one, beside **learned**, as the student chooses them all at once."""

FIRST_SCREEN = "first_screen.json"
"""Beside the weights of a bundled pair."""
FIRST_STEPS = (102, 71, 200, 360)
"""Steps of the first screen's noise: exact and learned agree on two slots of the bundled pair, and part on two."""
CSS = """
.gradio-container { max-width: 1132px !important; margin: 0 auto !important; }
@media (max-width: 600px) { .tab-container button { padding: 0 5px !important; font-size: 13px !important; } }
"""
"""On a narrow screen all tabs stay in sight."""
THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def build_app(explorer: Explorer, name: str, first: Json) -> gr.Blocks:
    """The page.

    Args:
        explorer: Answers for the models.
        name: The pair that is shown first.
        first: The tables drawn at once.
    """
    with gr.Blocks(title="kfexplore", analytics_enabled=False) as demo:
        gr.Markdown(INTRO)
        with gr.Row(equal_height=True):
            prompt = gr.Textbox(
                first["prompt"],
                label="Prompt",
                lines=1,
                max_lines=4,
                scale=5,
                elem_id="prompt",
                info="Press Enter to continue another text.",
            )
            pair = gr.Dropdown(
                list(explorer.loaders), value=name, label="Models", scale=1, min_width=140, elem_id="pair"
            )
            go = gr.Button("Show", scale=0, min_width=90, variant="primary")
        examples = gr.Examples([[text] for text in EXAMPLES], [prompt], label="Try one of these")
        asked = [prompt.submit, go.click, pair.input, examples.load_input_event.then]
        with gr.Tabs():
            with gr.Tab("Scrub", id="scrub") as scrub:
                scrub_view(explorer, first)
            with gr.Tab("Generate", id="generate") as generate:
                build_generate_tab(explorer, [pair, prompt], generate, first["k_max"])
            with gr.Tab("Joint vs marginal", id="joint") as joint:
                pass  # filled below: it closes when any other tab is opened
            with gr.Tab("Timing", id="timing") as timing:
                build_timing_tab(explorer, [pair, prompt], timing, first["k_max"])
            with joint:
                open_on(asked, [pair, prompt])  # before the study's: listeners of an event run one after another
                others = [scrub, generate, timing]
                open_on(build_joint_tab(explorer, asked, [pair, prompt], (joint, others)), [pair, prompt])

        def linked(request: gr.Request) -> tuple[Any, Any]:
            """Pair and prompt of a copied link, for the fields above the tabs; what has been typed stays otherwise."""
            link = request.query_params
            known = link["pair"] if link.get("pair") in explorer.loaders else gr.skip()
            return known, link.get("prompt", gr.skip())

        demo.load(linked, None, [pair, prompt])
    return demo


def first_payload(explorer: Explorer, name: str) -> Json:
    """The stored first screen, where one is stored of these weights and this prompt, or else a fresh one."""
    if name == "tales" and (file := bundled_folder(name) / FIRST_SCREEN).is_file():
        stored = json.loads(file.read_text())
        if (stored["weights"], stored["prompt"]) == (fingerprint(pair_parts(file.parent)), EXAMPLES[0]):
            return {**stored, "stored": True}
    return fresh_first_payload(explorer, name)


def store_first_screen() -> Path:
    """Writes the first screen beside the bundled weights; returns the file."""
    folder = bundled_folder("tales")
    explorer, name = make_explorer("tales")
    payload = {**fresh_first_payload(explorer, name), "weights": fingerprint(pair_parts(folder))}
    (folder / FIRST_SCREEN).write_text(json.dumps(payload) + "\n")
    return folder / FIRST_SCREEN


def fresh_first_payload(explorer: Explorer, name: str) -> Json:
    """The first example at fixed noise, with its 2-D section.

    Raises:
        KfError: the pair cannot be loaded.
    """
    question = {"seq": 0, "pair": name, "prompt": EXAMPLES[0], "resolution": 512}
    slots = explorer.pair(name).student.config.block
    question["u"] = [*((0.5 + step) / 512 for step in FIRST_STEPS[:slots]), *[0.5] * (slots - len(FIRST_STEPS))]
    tables = explorer.tables(question)
    if not tables["ok"]:
        raise KfError(tables["failed"], tables["valid"], tables["run"])
    if slots > 1:
        tables["grid"] = explorer.grid({**question, "slots": [0, 1], "resolution": 64})
    return tables


def make_explorer(
    pair: str, files: tuple[Path, Path, Path | None] | None = None, device: str | None = None
) -> tuple[Explorer, str]:
    """An explorer of the named pairs and the one asked for, with the name of that one.

    Args:
        pair: A name or a folder.
        files: Teacher, student and tokenizer instead.
        device: Where models run; None: the CPU.
    """
    loaders: dict[str, Callable[[], Pair]] = {name: partial(load_pair, name, device) for name in NAMED}
    if files:
        loaders = {"your files": partial(pair_from_files, *files, device), **loaders}
        return Explorer(loaders), "your files"
    if pair not in loaders:
        loaders = {pair: partial(load_pair, pair, device), **loaders}
    return Explorer(loaders), pair


def launch(
    pair: str = "tales",
    files: tuple[Path, Path, Path | None] | None = None,
    device: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    **options: Any,
) -> gr.Blocks:
    """Builds and serves the page; the first screen is drawn from a stored result while the models load behind it.

    Args:
        pair: A named pair or a folder.
        files: Teacher, student and tokenizer instead.
        device: Where models run; None: the CPU.
        host: Address to listen on.
        port: Port.
        options: More options of `gr.Blocks.launch`.

    Raises:
        KfError: the pair cannot be loaded and no first screen of it is stored.
    """
    explorer, name = make_explorer(pair, files, device)
    first = first_payload(explorer, name)
    warm_up = {"seq": 0, "pair": name, "prompt": first["prompt"], "u": first["u"]}
    threading.Thread(target=explorer.tables, args=(warm_up,), daemon=True).start()
    demo = build_app(explorer, name, first)
    demo.launch(server_name=host, server_port=port, ssr_mode=False, run_history=False, theme=THEME, css=CSS, **options)
    return demo
