"""What the scrub figure is drawn from, packed: the tables of all sliders and the section of two, as plain values."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kfexplore.results import Block, Grid, Sweep

Texts = Callable[[list[int]], list[str]]
"""Each token's own text."""


def tables(
    moved: Sequence[Sweep], point: Block, prompt: Sequence[int], texts: Texts, /, **about: Any
) -> dict[str, Any]:
    """The payload of `figures.scrub.standalone_html`, the same as the app's reply.

    Args:
        moved: One sweep a slot, in order, all of one resolution and one held noise.
        point: Both maps at just that noise, one row.
        prompt: Token ids of the context.
        texts: Of token ids.
        about: More to show or to overwrite: pair, prompt (its text), device, dtype.
    """
    steps = [part.block for part in moved]
    teacher, student = (np.stack([getattr(part, which) for part in steps]) for which in ("teacher", "student"))
    prompt_ids = [int(token) for token in prompt]
    return {
        "ok": True,
        "prompt": "".join(texts(prompt_ids)),
        "prompt_tokens": [list(item) for item in zip(prompt_ids, texts(prompt_ids), strict=True)],
        "note": "",
        "k": len(moved),
        "k_max": len(moved),
        "resolution": len(steps[0].u),
        "u": moved[0].u.tolist(),
        "teacher": packed(teacher, "<u2"),
        "student": packed(student, "<u2"),
        "margin": packed(np.stack([part.margins for part in steps]), "<f4"),
        "edge": packed(np.stack([part.edges for part in steps]), "<f4"),
        "point": {
            "teacher": point.teacher[0].tolist(),
            "student": point.student[0].tolist(),
            "margin": point.margins[0].tolist(),
            "edge": point.edges[0].tolist(),
        },
        "texts": token_texts(texts, teacher, student, point.teacher, point.student),
        "device": "cpu",
        "dtype": "float32",
        "stored": False,
        **about,
    }


def section(square: Grid, texts: Texts) -> dict[str, Any]:
    """The payload's key `grid`."""
    return {
        "slots": list(square.slots),
        "resolution": len(square.teacher),
        "u": square.u.tolist(),
        "teacher": packed(square.teacher, "<u2"),
        "student": packed(square.student, "<u2"),
        "agreement": square.agreement,
        "texts": token_texts(texts, square.teacher, square.student),
    }


def packed(values: npt.NDArray[Any], dtype: str) -> str:
    """Base64 of the little-endian values: large lists in JSON are slow on both sides."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()


def token_texts(texts: Texts, *tokens: npt.NDArray[np.int64]) -> dict[str, str]:
    """The text of every token that occurs, by its id in decimals."""
    ids = np.unique(np.concatenate([part.ravel() for part in tokens])).tolist()
    return dict(zip(map(str, ids), texts(ids), strict=True))
