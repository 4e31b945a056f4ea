"""A Plotly figure that stays in its place: `gr.Plot` mounts a new one at each update, which takes ten times as long."""

from __future__ import annotations

from typing import Any

import gradio as gr

from kfexplore.figures.scripts import inlined
from kfexplore.ui.guard import PLOTLY


def plot(figure: str, **options: Any) -> gr.HTML:
    """A component whose value is a figure as JSON (`go.Figure.to_json`); give it another to change the picture.

    Args:
        figure: What it shows first; its layout names a height.
        options: More arguments of `gr.HTML`.
    """
    return gr.HTML(
        figure,
        html_template='<div class="kf-plot"></div>',
        js_on_load=inlined("components.js") + "mountPlot(element, props, watch);",
        head=f'<script src="{PLOTLY}"></script>',
        apply_default_css=False,
        **options,
    )
