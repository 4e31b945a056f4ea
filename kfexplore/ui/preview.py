"""What a shared link shows of the page: its own title, description and picture in place of Gradio's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import gradio as gr
from jinja2 import ChoiceLoader, DictLoader

PREVIEW: Final = "kf/preview.png"
"""Where the page serves the picture, relative to itself."""
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


def use_preview() -> None:
    """Has Gradio write the tags; they are in its template as they are, and readers of links run no scripts."""
    templates = gr.routes.templates.env
    page, *_ = templates.loader.get_source(templates, _PAGE)
    for name, text in _SAID.items():
        tag = rf'(<meta\s+(?:property|name)="(?:og|twitter):{name}"\s+content=")[^"]*"'
        page = re.sub(tag, rf'\g<1>{text}"', page)
    templates.loader = ChoiceLoader([DictLoader({_PAGE: page}), templates.loader])
