"""The page's style: the figures' palette under Gradio's names, and a visible focus. Also the preview of a shared link:
title, description and picture instead of Gradio's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import gradio as gr
from jinja2 import ChoiceLoader, DictLoader

from kfexplore.figures.palette import colours
from kfexplore.figures.scripts import asset

_LIGHT: Final = colours("light")
_DARK: Final = colours("dark")
_COLOURS: Final = {
    "body_text_color_subdued": "muted",
    "button_primary_background_fill": "accent",
    "button_primary_text_color": "on_accent",
    "input_border_color": "edge",
    "checkbox_border_color": "muted",
    "checkbox_border_color_hover": "accent",
}
"""Colours of the palette in each theme, by Gradio's name."""

PREVIEW: Final = "kf/preview.png"
"""Path of the preview's picture, relative to the page."""
PICTURE: Final = Path(__file__).parent / "preview.png"
"""Taken by docs/screenshots.py; 1200 by 630 pixels."""
_PAGE: Final = "frontend/index.html"
_ROOT: Final = "{{ config['root'] }}/"
_SAID: Final = {
    "title": "kfexplore: K noise values in, K tokens out",
    "description": "Move a noise value and watch a sentence change. See why one pass of a language model can write "
    "several tokens that fit together, and what it costs.",
    "url": _ROOT,
    "image": _ROOT + PREVIEW,
    "creator": "",
}


def theme() -> gr.themes.Base:
    """Gradio's plainest theme with one accent colour and readable secondary text."""
    made = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    for name, colour in _COLOURS.items():
        made.set(**{name: getattr(_LIGHT, colour), f"{name}_dark": getattr(_DARK, colour)})
    made.set(
        color_accent=_LIGHT.accent,
        button_primary_background_fill_hover=f"color-mix(in srgb, {_LIGHT.accent} 85%, black)",
        button_primary_background_fill_hover_dark=f"color-mix(in srgb, {_DARK.accent} 85%, white)",
        input_border_width="1px",
        input_border_width_dark="1px",
        checkbox_border_width="1px",
        checkbox_border_width_dark="1px",
        checkbox_background_color_selected_dark=_LIGHT.accent,  # under a white tick
        checkbox_border_color_selected_dark=_DARK.accent,
    )
    made.color_accent_dark = _DARK.accent  # which `set` does not know
    return made


STYLE: Final = (
    f"<style>{asset('hint.css')}</style>"
    + """<style>
.gradio-container {
  max-width: 1132px !important; margin: 0 auto !important;
  overflow: clip !important; /* with Gradio's `hidden`, sticky elements would not stick */
}
@media (max-width: 600px) { /* keeps all tabs visible */
  .gradio-container > .main { padding-inline: 12px !important; }
  .tab-container button { padding: 0 5px !important; font-size: 13px !important; }
  /* The button shares a row with the examples; in a row of its own it would push the first track off the screen. */
  .gradio-container main > .column { flex-flow: row wrap; }
  .gradio-container main > .column > .row { display: contents; }
  .gradio-container main > .column > *, .gradio-container main > .column > .row > .form {
    flex: 0 0 100%; min-width: 0;
  }
  .gradio-container main > .column > #examples { flex: 1; align-self: center; }
  #head h1 + p { display: none; }
  #head h1 { flex: 1; }
  #head .kf-offered::after { content: none; }
}

.gradio-container :is(a, button, input, textarea, [tabindex]):focus-visible {
  outline: 2px solid var(--color-accent) !important; outline-offset: 2px !important;
}
.gradio-container input[type="range"]::-webkit-slider-thumb { border: 2px solid var(--color-accent); }
.gradio-container input[type="range"]::-moz-range-thumb { border: 2px solid var(--color-accent); }
.gradio-container .paginate button { min-width: 24px; min-height: 24px; }
.gradio-container [role="alert"] { scroll-margin: 12px; }
.gradio-container .kf-beside { align-self: center; }
/* Aligns figures side by side below captions of different length. */
/* Parts of a tab shrink with the tab, even before their figures do. */
.gradio-container .column > .column { contain: inline-size; }
.gradio-container .kf-figures { align-items: stretch; }
.gradio-container .kf-figures > .column { justify-content: space-between; gap: 0; }
/* Gradio's hover style would hide a choice just made. */
.gradio-container input:is([type="radio"], [type="checkbox"]):checked:hover {
  background-color: var(--checkbox-background-color-selected) !important;
  border-color: var(--checkbox-border-color-selected) !important;
}

/* A compact header, so that sliders and tokens fit on the first screen. */
.gradio-container main > .column, .gradio-container main > .column > .tabs { gap: 10px; }
.gradio-container main > .column > .tabs > .tab-wrapper { padding-bottom: 0; }
#head :has(> h1) { display: flex; flex-wrap: wrap; align-items: center; gap: 0 16px; }
#head :is(h1, h2, p) { margin: 0; }
#head h1 { font-size: 1.6rem; }
#head h1 + p { flex: 1; }
#head [hidden] { display: none; }
.kf-tools { display: flex; flex-wrap: wrap; align-items: center; justify-content: end; gap: 8px; }
.kf-tools button {
  padding: 0 14px; border: 1px solid var(--input-border-color); border-radius: 8px; font-size: 14px; line-height: 32px;
  white-space: nowrap; cursor: pointer;
}
.kf-tools button:enabled:hover { border-color: var(--color-accent); color: var(--color-accent); }
.kf-tools button:disabled { opacity: 0.45; cursor: default; }
.kf-tools .kf-next, .kf-tools .kf-offered {
  border-color: transparent; background: var(--button-primary-background-fill); color: var(--button-primary-text-color);
}
.kf-tools :is(.kf-next, .kf-offered):enabled:hover {
  background: var(--button-primary-background-fill-hover); color: var(--button-primary-text-color);
}
.kf-offered::after { content: ": two minutes"; }
.kf-tour {
  position: fixed; z-index: 20; right: 16px; bottom: 16px; width: min(600px, calc(100vw - 32px)); padding: 12px 16px;
  border: 1px solid var(--color-accent); border-radius: 10px; background: var(--body-background-fill);
  box-shadow: 0 6px 28px rgb(0 0 0 / 0.25); line-height: 1.45;
}
.kf-tour h2 { font-size: 1.05rem; font-weight: 600; }
.kf-tour .kf-count { float: right; padding-left: 12px; color: var(--body-text-color-subdued); font-size: 13px; }
.kf-tour .kf-tools { margin-top: 6px; }
@media (max-width: 600px) { .kf-tour { right: 8px; bottom: 8px; width: calc(100vw - 16px); padding: 10px 12px; } }
.kf-tour .kf-skip { margin-right: auto; border-color: transparent; }
[data-kf-tour] {
  outline: 3px solid var(--color-accent) !important; outline-offset: 5px; border-radius: 4px;
  scroll-margin: var(--kf-above) 0 var(--kf-below);
}
/* Leaves room to scroll what the tour points at above its card. */
.gradio-container:has(.kf-tour:not([hidden])) { padding-bottom: var(--kf-below); }
:is(#prompt, #pair) { padding-block: 6px; }
:is(#prompt, #pair) [data-testid="block-info"] { margin-bottom: 2px; }
#examples { display: flex; align-items: center; gap: 10px; contain: inline-size; }
#examples .label { margin: 0; }
#examples .label svg { display: none; }
#examples .gallery { flex-wrap: nowrap; gap: 4px; padding: 3px; overflow-x: auto; scrollbar-width: thin; }
#examples .gallery-item { flex: none; font-size: 13px; }
:is(#head, #scrub) .html-container { padding: 0; }
.gradio-container .tabitem { padding-top: 4px; }
/* Scrub shows this itself. */
.gradio-container:has([data-tab-id="scrub"].selected) #loading:has([role="alert"]) { display: none; }

.gradio-container .wrap:has(> .wrap-inner) { border-color: var(--input-border-color); } /* lists, as other fields */

@media (prefers-reduced-motion: reduce) {
  .gradio-container :not(.kfs *) {
    animation-duration: 1ms !important; animation-iteration-count: 1 !important; transition: none !important;
  }
}
</style>"""
)
"""For the page's head, where Gradio does not rewrite it. `kf-beside`: a button beside taller fields. `kf-figures`: a
row of figures."""


def use_preview() -> None:
    """Sets the preview's tags in Gradio's template, because services that preview links run no scripts."""
    templates = gr.routes.templates.env
    page, *_ = templates.loader.get_source(templates, _PAGE)
    for name, text in _SAID.items():
        tag = rf'(<meta\s+(?:property|name)="(?:og|twitter):{name}"\s+content=")[^"]*"'
        page = re.sub(tag, rf'\g<1>{text}"', page)
    templates.loader = ChoiceLoader([DictLoader({_PAGE: page}), templates.loader])
