"""A Plotly figure that stays in its place: `gr.Plot` mounts a new one at each update, which takes ten times as long."""

from __future__ import annotations

from typing import Any

import gradio as gr

from kfexplore.ui.guard import PLOTLY

DRAW = """
const library = window.Plotly;
// Gradio's page has a base, and where there is one Plotly names patterns and clips by the page's whole address: they
// would be gone as soon as that changes.
const withoutBase = (work) => {
  const base = document.querySelector("base[href]");
  const href = base?.getAttribute("href");
  base?.removeAttribute("href");
  try { work(); } finally { base?.setAttribute("href", href); }
};
const draw = () => {
  if (!props.value) return;
  const figure = JSON.parse(props.value);
  const options = {responsive: true, displayModeBar: false};
  const place = element.querySelector(".kf-plot");
  withoutBase(() => library.react(place, figure.data, figure.layout, options));
  const name = figure.layout.meta?.name;
  place.ariaLabel = name ?? null;
  place.role = name ? "img" : null;
};
watch("value", draw);
draw();
"""
"""Runs in the browser once the library is there."""


def plot(figure: str, **options: Any) -> gr.HTML:
    """A component whose value is a figure as JSON (`go.Figure.to_json`); give it another to change the picture.

    Args:
        figure: What it shows first; its layout names a height.
        options: More arguments of `gr.HTML`.
    """
    return gr.HTML(
        figure,
        html_template='<div class="kf-plot"></div>',
        js_on_load=DRAW,
        head=f'<script src="{PLOTLY}"></script>',
        apply_default_css=False,
        **options,
    )
