"""The Scrub figure: sliders whose tracks are the noise map, exact beside learned, for app and notebooks.

Python inlines the scripts and styles of `assets/` and the palette; the browser draws the figure from one payload, a
plain dict (sweeps as base64 strings, see `standalone_html`).
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from kfexplore.figures.hints import hint
from kfexplore.figures.palette import palette_css, palette_data
from kfexplore.figures.scripts import asset, inlined, script_json

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


@cache
def scrub_css() -> str:
    """The figure's style sheet, including the palette; all rules are under `.kfs`."""
    return palette_css(".kfs") + asset("scrub.css") + asset("hint.css")


def script(module: str) -> str:
    """A module of the figure, inlined, with the palette: plain declarations for one function scope.

    Pages call `mountScrub(root, first, transport)` of scrub.js; the app calls `mountInPage` of gradio.js.
    """
    return f"{inlined(module)}\nusePalette({script_json(palette_data())});\n"


@cache
def scrub_markup() -> str:
    """The figure's HTML without data: one `<section class="kfs">` that `mountScrub` fills."""
    marked = asset("scrub.html")
    for term in ("margin", "edge"):
        marked = marked.replace(f"<!--{term}-->", hint(term, "scrub"))
    return marked


def standalone_html(payload: Mapping[str, Any], height: int | None = None) -> str:
    """The interactive figure without a server: everything it shows comes from the payload.

    Args:
        payload: A tables reply. `teacher` and `student` are base64 of little-endian uint16 [slot moved][step]
            [slot read], `margin` (logits) and `edge` (units of u) base64 of float32 of that shape; step r
            stands for u = (r + 0.5) / resolution. `u` has K values in [0, 1), `point` is the answer at exactly
            that noise, `texts` the decoded text of every id. A key `grid` (a grid reply) adds the map of two
            slots.
        height: Height of the frame in CSS pixels until the page inside reports its own; None: no frame.

    Returns:
        A self-contained fragment of style, markup and script, which can be on a page several times. With a height,
        an `<iframe>` around it separates its styles from those of a notebook.
    """
    data = script_json(dict(payload))
    name = "kfs-" + hashlib.sha256(data.encode()).hexdigest()[:12]
    fit = "" if height is None else "fitFrame();\n"
    fragment = (
        f'<div class="kfs-page" data-theme-from="system" data-kfs="{name}">\n'
        f"<style>\n{scrub_css()}</style>\n{scrub_markup()}</div>\n"
        f"<script>\n(() => {{\n{script('scrub.js')}\n"
        f"""const page = document.querySelector('[data-kfs="{name}"]:not([data-mounted])');\n"""
        f"page.dataset.mounted = 'true';\nmountScrub(page, {data}, null);\n{fit}}})();\n</script>\n"
    )
    if height is None:
        return fragment
    document = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>kfexplore: scrub</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width"><style>body {{ margin: 0; }}</style></head><body>'
        f"{fragment}</body></html>"
    )
    return (
        f'<iframe title="Scrub the noise of a block" srcdoc="{html.escape(document)}" '
        f'style="width:100%;height:{height}px;border:0"></iframe>'
    )
