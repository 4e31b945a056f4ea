"""The whole page: what stands above the tabs, and one module a tab."""

from __future__ import annotations

import ctypes
import html as markup
import json
import os
import sys
import threading
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr

from kfexplore.bench.setting import facts
from kfexplore.checkpoints.registry import NAMED, bundled_folder, bundled_pairs, fingerprint, pair_parts
from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import KfError
from kfexplore.figures.scripts import calling
from kfexplore.pair import Pair, load_pair, pair_from_files
from kfexplore.ui.api import add_api
from kfexplore.ui.explorer import Explorer, Json
from kfexplore.ui.generate import build_generate_tab
from kfexplore.ui.guard import serving
from kfexplore.ui.html import boxed, html, told
from kfexplore.ui.joint import build_joint_tab
from kfexplore.ui.limits import DEFAULTS, ServerLimits, limits_from
from kfexplore.ui.loading import Wanted, announced, closed, load
from kfexplore.ui.port import DEFAULT
from kfexplore.ui.proxies import ROOT_VARIABLE, exempt_loopback, root_path
from kfexplore.ui.scrub import CHOOSE, LINKED, open_on, opening, scrub_view
from kfexplore.ui.theme import STYLE, theme
from kfexplore.ui.timing import build_timing_tab
from kfexplore.ui.zero import LentExplorer, is_zero

INTRO = """# kfexplore
Move K random numbers and watch the K tokens that they choose. **Exact**: the teacher, token by token. **Learned**: the
student, all K in one pass."""

M_ARENA_MAX = -8
"""Of glibc's malloc.h."""
THREADS = 40
"""Of the server, beside those in which questions of sliders wait."""
FIRST_SCREEN = "first_screen.json"
"""Beside the weights of a bundled pair."""
WORDS = gr.I18n(en={"common.complete": "Done."})
"""What Gradio reads out at the end of an event, and has no word for."""


def build_app(explorer: Explorer, name: str, first: Json) -> gr.Blocks:
    """The page.

    Args:
        explorer: Answers for the models.
        name: The pair that is shown first.
        first: The tables drawn at once.
    """
    with gr.Blocks(title="kfexplore", analytics_enabled=False) as demo:
        gr.Markdown(INTRO, elem_id="intro")
        with gr.Row(equal_height=True):
            prompt = gr.Textbox(
                first["prompt"],
                label="Prompt",
                lines=1,
                max_lines=4,
                scale=2,
                min_width=180,
                elem_id="prompt",
                placeholder="Press Enter to continue another text.",
            )
            pair = gr.Dropdown(
                [(_described(each), each) for each in explorer.loaders],
                value=name,
                label="Models",
                info="Or a folder, or an id of the hub." if explorer.limits.other_checkpoints else None,
                allow_custom_value=explorer.limits.other_checkpoints,
                scale=1,
                min_width=130,
                elem_id="pair",
            )
            go = gr.Button("Show", scale=0, min_width=90, variant="primary", elem_classes="kf-beside")
        loading, wanted = told("", visible=False, elem_id="loading"), gr.State({})
        examples = gr.Examples([[text] for text in opening(name).prompts], [prompt], label="Try", elem_id="examples")
        asked = [prompt.submit, go.click, examples.load_input_event.then]
        chosen = pair.input(  # before other listeners, which wait until it is loaded
            partial(announced, explorer),
            [pair, wanted],
            loading,
            queue=False,
            show_progress="hidden",
            trigger_mode="multiple",  # the next choice counts while this one is announced
        )
        with gr.Tabs():
            with gr.Tab("Scrub", id="scrub") as scrub:
                scrub_view(explorer, first, [pair, prompt])
            with gr.Tab("Generate", id="generate") as generate:
                build_generate_tab(explorer, [pair, prompt], generate, first["k_max"])
            with gr.Tab("Joint vs marginal", id="joint") as joint:
                pass  # filled below: it closes when any other tab is opened
            with gr.Tab("Timing", id="timing") as timing:
                build_timing_tab(explorer, [pair, prompt], timing, first["k_max"])
            with joint:
                open_on(asked, [pair, prompt])  # before the study's: listeners of an event run one after another
                open_on([pair.input], [pair, prompt], CHOOSE)
                others = [scrub, generate, timing]
                study = build_joint_tab(explorer, [*asked, pair.input], [pair, prompt], (joint, others))
                open_on(study, [pair, prompt])
        footer = html(_footer(), elem_id="facts")
        demo.load(_footer, None, footer, queue=False, show_progress="hidden")  # paths are checked once models run

        def linked(waiting: Wanted, request: gr.Request) -> list[Any]:
            """Pair and prompt of a copied link, for the fields above the tabs; what has been typed stays otherwise."""
            link = request.query_params
            name, text = link.get("pair", ""), link.get("prompt", gr.skip())
            known = explorer.offers(name)
            return [name, text, announced(explorer, name, waiting)] if known else [gr.skip(), text, gr.skip()]

        for event in (prompt.submit, go.click):
            event(closed, None, loading, queue=False, show_progress="hidden")
        opened = demo.load(linked, wanted, [pair, prompt, loading], queue=False)
        for named in (chosen, opened):
            named.then(partial(load, explorer), wanted, loading, queue=False, show_progress="hidden")
        opened.then(None, [pair, prompt], [pair, prompt], js=LINKED)
        add_api(demo, explorer)
    return demo.queue(max_size=explorer.limits.queue, api_open=False)


def first_payload(explorer: Explorer, name: str) -> Json:
    """The stored first screen, where one is stored of these weights and this prompt, or else a fresh one."""
    if name in bundled_pairs() and (file := bundled_folder(name) / FIRST_SCREEN).is_file():
        stored = json.loads(file.read_text())
        fits = stored["resolution"] <= explorer.limits.sweep_steps and stored["k_max"] <= explorer.limits.slots
        is_current = stored["weights"] == fingerprint(pair_parts(file.parent))
        if fits and is_current and stored["prompt"] == opening(name).prompts[0]:
            return {**stored, "stored": True}
    return fresh_first_payload(explorer, name)


def store_first_screen(name: str = DEFAULT_PAIR) -> Path:
    """Writes the first screen of a bundled pair beside its weights; returns the file."""
    folder, (explorer, _) = bundled_folder(name), make_explorer(name)
    payload = {**fresh_first_payload(explorer, name), "weights": fingerprint(pair_parts(folder))}
    (folder / FIRST_SCREEN).write_text(json.dumps(payload) + "\n")
    return folder / FIRST_SCREEN


def fresh_first_payload(explorer: Explorer, name: str) -> Json:
    """The first example at fixed noise, with its 2-D section.

    Raises:
        KfError: the pair cannot be loaded.
    """
    explorer.loaders[name]()  # the page would be told no more than that it cannot be loaded
    limits, pair, first = explorer.limits, explorer.pair(name), opening(name)
    question = {"seq": 0, "pair": name, "prompt": first.prompts[0], "resolution": min(512, limits.sweep_steps)}
    slots = explorer.slots(pair) if pair.student else min(limits.slots, len(first.steps))
    question["u"] = [*((0.5 + step) / 512 for step in first.steps[:slots]), *[0.5] * (slots - len(first.steps))]
    tables = explorer.tables(question)
    if not tables["ok"]:
        raise KfError(tables["failed"], tables["valid"], tables["run"])
    if slots > 1:
        tables["grid"] = explorer.grid({**question, "slots": [0, 1], "resolution": min(64, limits.grid_steps)})
    return tables


def make_explorer(
    pair: str,
    files: tuple[Path, Path | None, Path | None] | None = None,
    device: str | None = None,
    limits: ServerLimits = DEFAULTS,
) -> tuple[Explorer, str]:
    """An explorer of the pair asked for and those that the limits offer, with the name of the first.

    Args:
        pair: A name or a folder.
        files: Teacher, student and tokenizer instead.
        device: Where models run; None: the CPU. On ZeroGPU it is where they are, and a GPU is lent for large ones.
        limits: What the page may ask.
    """
    name, device = "your files" if files else pair, None if is_zero() else device
    own = partial(pair_from_files, *files, device) if files else partial(load_pair, pair, device)
    loaders: dict[str, Callable[[], Pair]] = {name: cache(own)}
    loaders |= {each: partial(load_pair, each, device) for each in limits.pairs if each != name}
    other = partial(load_pair, device=device) if limits.other_checkpoints else None
    return (LentExplorer if is_zero() else Explorer)(loaders, limits, other), name


def _footer() -> str:
    return boxed(f'<p class="kf-prose-reading">{markup.escape(facts())}</p>')


def _described(name: str) -> str:
    """A pair in the list of models: its name, and a few words where it is a named one."""
    return f"{name} · {NAMED[name].about}" if name in NAMED else name


def launch(
    pair: str = DEFAULT_PAIR,
    files: tuple[Path, Path | None, Path | None] | None = None,
    device: str | None = None,
    host: str = "127.0.0.1",
    port: int = DEFAULT,
    limits: ServerLimits | None = None,
    **options: Any,
) -> gr.Blocks:
    """Builds and serves the page; the first screen is drawn from a stored result while the models load behind it.

    Args:
        pair: A named pair or a folder.
        files: Teacher, student and tokenizer instead.
        device: Where models run; None: the CPU.
        host: Address to listen on.
        port: Port.
        limits: What the page may ask; None: as the environment says.
        options: More options of `gr.Blocks.launch`.

    Raises:
        KfError: the pair cannot be loaded and no first screen of it is stored, or a limit is none.
    """
    few_arenas()
    explorer, name = make_explorer(pair, files, device, limits or limits_from())
    return serve(explorer, name, server_name=host, server_port=port, **options)


def few_arenas(count: int = 2) -> bool:
    """Has the C library keep freed memory in a few places instead of one or more a thread.

    The server has some forty threads, each of which asks the models now and then: what they free would stay with each.

    Returns:
        Whether it could be told (glibc; elsewhere nothing needs it, or nothing is known to help).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and mallopt(M_ARENA_MAX, count) == 1


def serve(explorer: Explorer, name: str, **options: Any) -> gr.Blocks:
    """Serves the page of an explorer, which opens with the pair of that name; `options` are those of `launch`.

    Raises:
        KfError: as `launch`; a proxy that cannot be used, or a prefix that is one of Gradio's own paths.
    """
    exempt_loopback(str(options.get("server_name") or ""))
    root = root_path(options.pop("root_path", None) or os.environ.get(ROOT_VARIABLE, ""))
    first = first_payload(explorer, name)
    warm_up = {"seq": 0, "pair": name, "prompt": first["prompt"], "u": first["u"]}
    threading.Thread(target=explorer.point, args=(warm_up,), daemon=True).start()
    demo = build_app(explorer, name, first)
    demo.launch(
        ssr_mode=False,
        run_history=False,
        theme=theme(),
        head=STYLE,
        js=calling("accessibility.js", "addAccessibility"),
        i18n=WORDS,
        footer_links=["api", "gradio", "settings"],
        mcp_server=True,
        enable_monitoring=False,
        state_session_capacity=explorer.limits.pages,
        root_path=root,
        max_threads=THREADS + 2 * explorer.limits.questions,
        app_kwargs=serving(explorer.limits),
        **options,
    )
    return demo
