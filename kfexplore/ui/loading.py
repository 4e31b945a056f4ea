"""The line above the tabs: which pair is being loaded, or why it is not there."""

from __future__ import annotations

import html as markup
from typing import Any

import gradio as gr

from kfexplore.checkpoints.connection import hub_name
from kfexplore.checkpoints.registry import NAMED
from kfexplore.errors import KfError
from kfexplore.ui.explorer import Explorer
from kfexplore.ui.fields import failed
from kfexplore.ui.prose import boxed


def announced(explorer: Explorer, name: str) -> list[Any]:
    """Says at once what takes a while: the line, and the name for `load`.

    Where a pair cannot be loaded, the field goes back to the one that is shown. That is no choice: the mistake stays.
    """
    if explorer.holds(name):
        return [gr.skip(), None]
    from_hub = name in NAMED and NAMED[name].repository is not None
    more = f" The first time, over a gigabyte is fetched from {hub_name()}." if from_hub else ""
    return [gr.update(value=boxed(f"<p>Loading {markup.escape(name)} …{more}</p>"), visible=True), name]


def load(explorer: Explorer, name: str | None) -> dict[str, Any]:
    """Loads a pair, if one was named; a mistake is told whichever tab is open."""
    if name is None:
        return gr.skip()
    try:
        explorer.pair(name)
    except KfError as error:
        return gr.update(value=failed(error), visible=True)
    return closed()


def closed() -> dict[str, Any]:
    """Nothing is loaded, and nothing went wrong lately."""
    return gr.update(visible=False)
