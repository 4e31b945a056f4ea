"""Builds and serves the page: the fields above the tabs, and the tabs, one module each."""

from __future__ import annotations

import html as markup
import json
import os
import threading
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr

from kfexplore.bench.setting import facts
from kfexplore.checkpoints.hub import hub_name
from kfexplore.checkpoints.registry import NAMED, bundled_folder, bundled_pairs, fingerprint, pair_parts
from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import KfError
from kfexplore.figures.scripts import calling
from kfexplore.pair import Pair, load_pair, pair_from_files
from kfexplore.probe import load_untrusted
from kfexplore.ui.api import add_api
from kfexplore.ui.components import QUIET, boxed, button, failed, html, message
from kfexplore.ui.guard import serving
from kfexplore.ui.limits import DEFAULTS, ServerLimits, limits_from
from kfexplore.ui.links import TABS, follow_links, read_links
from kfexplore.ui.protocol import Json, Request
from kfexplore.ui.queueing import MOST_SESSIONS
from kfexplore.ui.server import DEFAULT_PORT, ROOT_VARIABLE, exempt_loopback, few_arenas, root_path
from kfexplore.ui.service import Service, local_service
from kfexplore.ui.studies import store_studies
from kfexplore.ui.tabs.generate import GenerateTab
from kfexplore.ui.tabs.joint import JointTab
from kfexplore.ui.tabs.scrub import CHOOSE, open_on, opening, scrub_view
from kfexplore.ui.tabs.timing import TimingTab
from kfexplore.ui.theme import STYLE, theme, use_preview
from kfexplore.ui.tour import head
from kfexplore.ui.zero import is_zero, zero_service

THREADS = 40
"""Server threads, besides those in which slider requests wait."""
FIRST_SCREEN = "first_screen.json"
"""File beside the weights of a bundled pair."""
WORDS = gr.I18n(en={"common.complete": "Done."})
"""Text that Gradio announces at the end of an event; its own translations lack it."""

Wanted = dict[str, bool]
"""Pairs that a session waits for -> whether `load` has started on them. Changed in place: several events of a session
can run at once, and the output of one would overwrite what another has just added."""


def build_app(service: Service, name: str, first: Json) -> gr.Blocks:
    """Builds the page.

    Args:
        service: Runs the models.
        name: The pair that is shown first.
        first: Tables of the first screen.
    """
    with gr.Blocks(title="kfexplore", analytics_enabled=False) as demo:
        top = head(service.models.loaders)
        with gr.Row(equal_height=True):
            prompt = gr.Textbox(
                first["prompt"],
                label="Prompt",
                lines=1,
                max_lines=4,
                scale=2,
                min_width=180,
                elem_id="prompt",
                placeholder="Type a text to continue, and press Enter.",
            )
            pair = gr.Dropdown(
                [(_described(each), each) for each in service.models.loaders],
                value=name,
                label="Models",
                info="Or a folder, or owner/name on the hub." if service.limits.other_checkpoints else None,
                allow_custom_value=service.limits.other_checkpoints,
                scale=1,
                min_width=130,
                elem_id="pair",
            )
            go = button("Show", min_width=90, variant="primary")
        loading, wanted = message("", visible=False, elem_id="loading"), gr.State({})
        mistaken, query = message("", visible=False, elem_id="mistaken"), gr.Textbox(visible=False)
        examples = gr.Examples([[text] for text in opening(name).prompts], [prompt], label="Try", elem_id="examples")
        pressed = partial(gr.on, [prompt.submit, go.click])
        asked = [pressed, examples.load_input_event.then]
        chosen = pair.input(  # before other listeners, which wait until it is loaded
            partial(announced, service),
            [pair, wanted],
            loading,
            **QUIET,
            trigger_mode="multiple",  # a new choice is accepted while this one is announced
        )
        with gr.Tabs() as tabs:
            with gr.Tab("Scrub", id="scrub") as scrub:
                scrub_view(service, first, [pair, prompt])
                open_on(asked, [pair, prompt])  # before other tabs': listeners of an event run one after another
                open_on([pair.input], [pair, prompt], CHOOSE)
            with gr.Tab("Generate", id="generate") as generate:
                generates = GenerateTab(service, asked, [pair, prompt], generate, first["k_max"])
            with gr.Tab("Joint vs marginal", id="joint") as joint:
                study = JointTab(service, [*asked, pair.input], [pair, prompt], joint)
                open_on(study.follows, [pair, prompt])
            with gr.Tab("Timing", id="timing") as timing:
                times = TimingTab(service, asked, [pair, prompt], timing, first["k_max"])
        footer = html(_footer(), elem_id="facts")
        demo.load(_footer, None, footer, **QUIET)  # fast paths are checked once models run

        links = [*generates.links, *study.links, *times.links]
        selected = [tab.select for tab in (scrub, generate, joint, timing)] + study.selected
        followed = follow_links(links, selected)

        def linked(usual: str, query: str, waiting: Wanted) -> dict[Any, Any]:
            """Updates from a link for the fields above and inside the tabs; other fields are unchanged.

            A link without a tab opens `usual`; "" keeps the current tab, as the user may already have clicked another.
            """
            link = dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True))
            shown, mistakes = read_links(links, link)
            name, tab = link.get("pair", ""), link.get("tab", usual)
            if mistakes:
                shown[mistaken] = gr.update(value="".join(map(failed, mistakes)), visible=True)
            if service.models.offers(name):
                shown |= {pair: name, loading: announced(service, name, waiting)}
            if tab in TABS:
                shown[tabs] = gr.Tabs(selected=TABS[tab])
            if TABS.get(tab) == "joint":
                shown[study.tabs] = gr.Tabs(selected=tab)
            return {prompt: link.get("prompt", gr.skip()), **shown}

        pressed(lambda: [closed()] * 2, None, [loading, mistaken], **QUIET)
        outputs = [pair, prompt, loading, mistaken, tabs, study.tabs, *(link.field for link in links)]
        named = [chosen]
        # Steps of the tour are links as well.
        for event, usual in ((demo.load, ""), (top.submit, "scrub")):
            opened = event(
                partial(linked, usual),
                [query, wanted],
                outputs,
                js=calling("pagefields.js", "queried"),
                trigger_mode="always_last",  # a step of the tour may be left before it is shown
                **QUIET,
            )
            opened.then(None, [pair, prompt], [pair, prompt], js=calling("pagefields.js", "linked"))
            opened.then(None, [link.field for link in links], None, js=followed)
            named.append(opened)
        for each in named:
            each.then(partial(load, service), wanted, loading, **QUIET)
        top.copy(None, [pair, prompt], None, js=calling("pagefields.js", "copyLink"))
        add_api(demo, service)
    return demo.queue(max_size=MOST_SESSIONS, api_open=False)  # FairQueue limits the places


def announced(service: Service, name: str, wanted: Wanted) -> dict[str, Any]:
    """Adds a pair to `wanted` and returns the update that announces its loading.

    A dropdown fires again when it loses focus, perhaps with a pair that is loaded by then: nothing changes.
    """
    if service.models.holds(name):
        return gr.skip()
    wanted.setdefault(name, False)
    from_hub = name in NAMED and NAMED[name].repository is not None
    more = f" The first time, this downloads over a gigabyte from {hub_name()}." if from_hub else ""
    return gr.update(value=boxed(f"<p>Loading {markup.escape(name)} …{more}</p>"), visible=True)


def load(service: Service, wanted: Wanted) -> dict[str, Any]:
    """Loads the next pair in `wanted`, if there is one; an error is shown whichever tab is open."""
    name = next((each for each, begun in wanted.items() if not begun), None)
    if name is None:
        return gr.skip()
    wanted[name] = True
    try:
        service.models.pair(name)
    except KfError as error:
        return gr.update(value=failed(error), visible=True)
    finally:
        del wanted[name]
    return closed()


def closed() -> dict[str, Any]:
    """The update that hides a message."""
    return gr.update(visible=False)


def first_payload(service: Service, name: str) -> Json:
    """The stored first screen if it matches weights, prompt and limits, else a new one."""
    if name in bundled_pairs() and (file := bundled_folder(name) / FIRST_SCREEN).is_file():
        stored = json.loads(file.read_text())
        fits = stored["resolution"] <= service.limits.sweep_steps and stored["k_max"] <= service.limits.slots
        is_current = stored["weights"] == fingerprint(pair_parts(file.parent))
        if fits and is_current and stored["prompt"] == opening(name).prompts[0]:
            return {**stored, "stored": True}
    return fresh_first_payload(service, name)


def store_first_screen(name: str = DEFAULT_PAIR) -> Path:
    """Writes the first screen and the first studies of a bundled pair beside its weights; returns the first file."""
    folder, (service, _) = bundled_folder(name), make_service(name)
    store_studies(service, name)
    payload = {**fresh_first_payload(service, name), "weights": fingerprint(pair_parts(folder))}
    (folder / FIRST_SCREEN).write_text(json.dumps(payload) + "\n")
    return folder / FIRST_SCREEN


def fresh_first_payload(service: Service, name: str) -> Json:
    """The first example at fixed noise, with a grid of its first two slots.

    Raises:
        KfError: the pair cannot be loaded.
    """
    service.models.loaders[name]()  # raises the full reason, which the page only logs
    limits, pair, first = service.limits, service.models.pair(name), opening(name)
    question: Request = {"seq": 0, "pair": name, "prompt": first.prompts[0], "resolution": min(512, limits.sweep_steps)}
    slots = service.models.slots(pair) if pair.student else min(limits.slots, len(first.steps))
    question["u"] = [*((0.5 + step) / 512 for step in first.steps[:slots]), *[0.5] * (slots - len(first.steps))]
    tables = service.tables(question)
    if not tables["ok"]:
        raise KfError(tables["failed"], tables["valid"], tables["run"])
    payload: Json = {**tables}
    if slots > 1:
        payload["grid"] = service.grid({**question, "slots": [0, 1], "resolution": min(64, limits.grid_steps)})
    return payload


def make_service(
    pair: str,
    files: tuple[Path, Path | None, Path | None] | None = None,
    device: str | None = None,
    limits: ServerLimits = DEFAULTS,
) -> tuple[Service, str]:
    """A service for the requested pair and those that the limits offer, and the requested pair's name.

    Args:
        pair: A name or a folder.
        files: Files of teacher, student and tokenizer, instead of `pair`.
        device: Device of the models; None: the CPU. Ignored on ZeroGPU, where large models borrow a GPU.
        limits: Server limits.
    """
    name, device = "your files" if files else pair, None if is_zero() else device
    own = partial(pair_from_files, *files, device) if files else partial(load_pair, pair, device)
    loaders: dict[str, Callable[[], Pair]] = {name: cache(own)}
    loaders |= {each: partial(load_pair, each, device) for each in limits.pairs if each != name}
    untrusted = partial(load_untrusted, device=device, max_bytes=limits.download_bytes)
    other = untrusted if limits.other_checkpoints else None
    return (zero_service if is_zero() else local_service)(loaders, limits, other), name


def _footer() -> str:
    return boxed(f'<p class="kf-prose-reading">{markup.escape(facts())}</p>')


def _described(name: str) -> str:
    """Label of a pair in the list of models: its name and, for a named pair, a short description."""
    return f"{name} · {NAMED[name].about}" if name in NAMED else name


def launch(
    pair: str = DEFAULT_PAIR,
    files: tuple[Path, Path | None, Path | None] | None = None,
    device: str | None = None,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    limits: ServerLimits | None = None,
    **options: Any,
) -> gr.Blocks:
    """Builds and serves the page; a stored first screen is shown while the models load in the background.

    Args:
        pair, files, device: As for `make_service`.
        host: Address to listen on.
        port: Port.
        limits: Server limits; None: those of the environment (`limits_from`).
        options: Further options of `gr.Blocks.launch`.

    Raises:
        KfError: the pair cannot be loaded and no first screen of it is stored, or a limit is invalid.
    """
    few_arenas()
    service, name = make_service(pair, files, device, limits or limits_from())
    return serve(service, name, server_name=host, server_port=port, **options)


def serve(service: Service, name: str, **options: Any) -> gr.Blocks:
    """Serves a page that opens with the pair `name`; `options` are those of `launch`.

    Raises:
        KfError: as `launch`; a proxy cannot be used, or a prefix is one of Gradio's own paths.
    """
    exempt_loopback(str(options.get("server_name") or ""))
    root = root_path(options.pop("root_path", None) or os.environ.get(ROOT_VARIABLE, ""))
    first = first_payload(service, name)
    request = {"seq": 0, "pair": name, "prompt": first["prompt"], "u": first["u"]}
    threading.Thread(target=service.prepare, args=(request,), daemon=True).start()
    demo = build_app(service, name, first)
    use_preview()
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
        state_session_capacity=service.limits.pages,
        root_path=root,
        max_threads=THREADS + service.limits.questions,
        app_kwargs=serving(service.limits),
        **options,
    )
    return demo
