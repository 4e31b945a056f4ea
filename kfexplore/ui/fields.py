"""What tabs that run decoders share: fields that a pair has its say in, the numbers in them, and a mistake told."""

from __future__ import annotations

import html as markup
import math
from collections.abc import Sequence
from typing import Any, Final

import gradio as gr

from kfexplore.decoders import DECODERS, MODELS, Kind, possible
from kfexplore.errors import KfError
from kfexplore.figures.scripts import calling
from kfexplore.pair import Pair
from kfexplore.ui.html import mistake

REFUSED: Final = mistake(
    "<p>The server did not take this on: too many pages wait, or it made a mistake. Try again in a while.</p>"
)


def decoder_choices(missing: Sequence[Kind] = ()) -> list[tuple[str, str]]:
    """Names and values of the decoders, but for those that ask a model which is missing."""
    return [(DECODERS[name].label, name) for name in possible([kind for kind in MODELS if kind not in missing])]


def takers(option: str) -> str:
    """Which decoders an option is for, in words."""
    those = [decoder.label for decoder in DECODERS.values() if option in decoder.options]
    others = [decoder.label for decoder in DECODERS.values() if option not in decoder.options]
    return f"{', '.join(those)} only." if len(those) < len(others) else f"Not of {', '.join(others)}."


def offered_decoders(pair: Pair, held: Sequence[str]) -> dict[str, Any]:
    """The field of decoders as a pair offers them."""
    missing: list[Kind] = [kind for kind in ("student", "masked") if getattr(pair, kind) is None]
    choices = decoder_choices(missing)
    offered = [name for _, name in choices]
    gone = [each.label for name, each in DECODERS.items() if name not in offered]
    without, are = " and no ".join(MODELS[kind] for kind in missing), "is" if len(gone) == 1 else "are"
    return fitted(
        held,
        [name for name in held if name in offered],
        choices=choices,
        info=f"This pair has no {without}, so {', '.join(gone)} {are} not offered." if gone else "",
    )


def fitted(held: object, fitting: object, **changes: Any) -> dict[str, Any]:
    """A field's update; a value that fits is not sent back, as a reader may have changed it since."""
    update: dict[str, Any] = gr.update(**changes) if fitting == held else gr.update(value=fitting, **changes)
    return update


def sent(fields: Sequence[gr.Component]) -> str:
    """As `DARK`, for fields among which are sliders: their numbers are sent within their ends."""
    ends = [[field.minimum, field.maximum] if isinstance(field, gr.Slider) else None for field in fields]
    return calling("fields.js", "withinEnds", ends)


def number(what: str, value: object) -> float:
    """What a field holds.

    Raises:
        KfError: no number.
    """
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return value
    except OverflowError:  # a whole number beyond all floats
        pass
    raise KfError(f"{what} is {'empty' if value is None else repr(value)}.", "a number")


def whole(what: str, value: object, least: int = 0) -> int:
    """What a field of whole numbers holds.

    Raises:
        KfError: no whole number, or less than `least`.
    """
    valid = f"a whole number, {least} or more"
    try:
        found = number(what, value)
    except KfError as error:
        raise KfError(error.failed, valid) from None
    if found != int(found) or found < least:
        raise KfError(f"{what} is {value}.", valid)
    return int(found)


def failed(error: KfError) -> str:
    """A mistake as a box of HTML: what failed, what would be valid, what to run."""
    return mistake("".join(f"<p>{markup.escape(line)}</p>" for line in str(error).splitlines()))
