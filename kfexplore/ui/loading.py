"""The line above the tabs: which pair is being loaded, or why it is not there."""

from __future__ import annotations

import html as markup
from typing import Any

import gradio as gr

from kfexplore.checkpoints.hub import hub_name
from kfexplore.checkpoints.registry import NAMED
from kfexplore.errors import KfError
from kfexplore.ui.explorer import Explorer
from kfexplore.ui.fields import failed
from kfexplore.ui.html import boxed

Wanted = dict[str, bool]
"""The pairs that one session waits for, and whether `load` has begun with each. Changed in place: several events of a
session can run at the same time, and an output of one would overwrite what another has just added."""


def announced(explorer: Explorer, name: str, wanted: Wanted) -> dict[str, Any]:
    """Returns the line that announces a load at once, and adds the name to `wanted`.

    A dropdown fires again when it loses the focus, by then perhaps with the pair that is shown: the line stays.
    """
    if explorer.holds(name):
        return gr.skip()
    wanted.setdefault(name, False)
    from_hub = name in NAMED and NAMED[name].repository is not None
    more = f" The first time, over a gigabyte is fetched from {hub_name()}." if from_hub else ""
    return gr.update(value=boxed(f"<p>Loading {markup.escape(name)} …{more}</p>"), visible=True)


def load(explorer: Explorer, wanted: Wanted) -> dict[str, Any]:
    """Loads the next pair in `wanted`, if there is one; an error is shown whichever tab is open."""
    name = next((each for each, begun in wanted.items() if not begun), None)
    if name is None:
        return gr.skip()
    wanted[name] = True
    try:
        explorer.pair(name)
    except KfError as error:
        return gr.update(value=failed(error), visible=True)
    finally:
        del wanted[name]
    return closed()


def closed() -> dict[str, Any]:
    """Nothing is loaded, and nothing went wrong lately."""
    return gr.update(visible=False)
