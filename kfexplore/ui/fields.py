"""What tabs that run decoders share: fields that a pair has its say in, the numbers in them, and a mistake told."""

from __future__ import annotations

import html as markup
import math
from collections.abc import Sequence
from typing import Any, Final

import gradio as gr

from kfexplore.config import DECODERS, DecoderName
from kfexplore.errors import KfError
from kfexplore.figures.text import NAMES
from kfexplore.pair import Pair
from kfexplore.ui.prose import boxed

REFUSED: Final = boxed(
    "<p>The server did not take this on: too many pages wait, or it made a mistake. Try again in a while.</p>",
    "kf-prose-failed",
)


def decoder_choices(with_masked: bool) -> list[tuple[str, str]]:
    """Names and values of the decoders, mdlm only where there is a masked model."""
    return [(NAMES[name][0], name) for name in DECODERS if with_masked or name != "mdlm"]


def offered_decoders(pair: Pair, held: Sequence[DecoderName]) -> dict[str, Any]:
    """The field of decoders as a pair offers them."""
    with_masked = pair.masked is not None
    return fitted(
        held,
        [each for each in held if with_masked or each != "mdlm"],
        choices=decoder_choices(with_masked),
        info="" if with_masked else "This pair has no masked model, so MDLM is not offered.",
    )


def fitted(held: object, fitting: object, **changes: Any) -> dict[str, Any]:
    """A field's update; a value that fits is not sent back, as a reader may have changed it since."""
    update: dict[str, Any] = gr.update(**changes) if fitting == held else gr.update(value=fitting, **changes)
    return update


def number(what: str, value: object) -> float:
    """What a field holds.

    Raises:
        KfError: no number.
    """
    try:
        if isinstance(value, int | float) and math.isfinite(value):
            return value
    except OverflowError:  # a whole number beyond all floats
        pass
    raise KfError(f"{what} is {'empty' if value is None else repr(value)}.", "a number")


def whole(what: str, value: object) -> int:
    """What a field of whole numbers holds.

    Raises:
        KfError: no whole number.
    """
    found = number(what, value)
    if found != int(found):
        raise KfError(f"{what} is {value}.", "a whole number")
    return int(found)


def failed(error: KfError) -> str:
    """A mistake as a box of HTML: what failed, what would be valid, what to run."""
    return boxed("".join(f"<p>{markup.escape(line)}</p>" for line in str(error).splitlines()), "kf-prose-failed")
