"""Links: fields of the tabs as keys of the page's URL. The widget handles pair, prompt and the state of Scrub."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import gradio as gr

from kfexplore.errors import KfError
from kfexplore.figures.scripts import calling
from kfexplore.ui.components import QUIET

TABS: Final = {"scrub": "scrub", "generate": "generate", "joint": "joint", "toys": "joint", "timing": "timing"}
"""Values of `tab` in a URL -> the tab of the page that it is, or is in."""


@dataclasses.dataclass(frozen=True)
class Link:
    """A field that a URL stores under the field's `elem_id`, unless it has its initial value."""

    field: gr.components.Component
    """A slider, number, checkbox, group of checkboxes or radio."""
    widest: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """`maximum` or `choices`, if it depends on the pair: as wide as for any pair. The field is fitted to it later."""

    @property
    def key(self) -> str:
        """Its key in the URL."""
        return str(self.field.elem_id)

    def read(self, text: str) -> dict[str, Any]:
        """The field's update.

        Raises:
            KfError: the field cannot have this value.
        """
        known = {**vars(self.field), **self.widest}
        value: Any
        if isinstance(self.field, gr.Slider | gr.Number):
            value, valid = _number(text, known["minimum"], known["maximum"])
        else:
            several = isinstance(self.field, gr.CheckboxGroup)
            offered = [True, False] if isinstance(self.field, gr.Checkbox) else [each for _, each in known["choices"]]
            by_text = {str(each).lower() if isinstance(each, bool) else str(each): each for each in offered}
            parts = text.split(",") if several and text else [] if several else [text]
            found = [by_text[part] for part in parts if part in by_text]
            value = None if len(found) < len(parts) else found if several else found[0]
            valid = f"{'any' if several else 'one'} of {', '.join(by_text)}"
        if value is None:
            raise KfError(f"The link has {text!r} for {self.key}.", valid)
        update: dict[str, Any] = gr.update(value=value, **self.widest)
        return update


def read_links(links: Sequence[Link], query: Mapping[str, str]) -> tuple[dict[Any, Any], list[KfError]]:
    """Updates of the fields that a URL names, and errors for invalid values, whose fields are unchanged."""
    updates: dict[Any, Any] = {}
    mistakes = []
    for link in links:
        try:
            if link.key in query:
                updates[link.field] = link.read(query[link.key])
        except KfError as error:
            mistakes.append(error)
    if query.get("tab", "scrub") not in TABS:
        mistakes.append(KfError(f"There is no tab {query['tab']!r}.", ", ".join(TABS)))
    return updates, mistakes


def follow_links(links: Sequence[Link], selected: Sequence[Callable[..., Any]]) -> str:
    """Keeps the URL in step with the fields.

    Args:
        links: The fields.
        selected: Events after which another tab is open.

    Returns:
        JavaScript for an event that has these fields as inputs: it writes them to the URL.
    """
    script = calling("pagefields.js", "follow", [[link.key, link.field.value] for link in links])
    fields = [link.field for link in links]
    events = [*(field.change for field in fields), *selected]
    gr.on(events, None, fields, None, js=script, trigger_mode="multiple", **QUIET)
    return script


def _number(text: str, minimum: float | None, maximum: float | None) -> tuple[float | None, str]:
    low, high = -math.inf if minimum is None else minimum, math.inf if maximum is None else maximum
    valid = "a number" if math.isinf(high) else f"a number from {low:g} to {high:g}"
    try:
        value = float(text)
    except ValueError:
        return None, valid
    if not math.isfinite(value) or not low <= value <= high:
        return None, valid
    return int(value) if value.is_integer() else value, valid
