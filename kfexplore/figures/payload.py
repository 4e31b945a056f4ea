"""The JSON payloads of the scrub figure, with packed arrays: sweeps of the sliders, points, grids."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kfexplore.results import Block, Grid, Sweep

Texts = Callable[[list[int]], list[str]]
"""Gives the texts of token ids."""


def scrub_payload(
    moved: Sequence[Sweep], point: Block, prompt: Sequence[int], texts: Texts, every: int = 1, /, **about: Any
) -> dict[str, Any]:
    """The payload of `figures.scrub.standalone_html`, equal to a reply of the app.

    Args:
        moved: One sweep per slot, in order, all with one resolution and the same fixed noise.
        point: Both maps at exactly that noise, one row.
        prompt: Token ids of the context.
        texts: Gives the texts of token ids.
        every: Slider steps per evaluated step, which is the middle one.
        about: More keys, or other values of keys: pair, prompt (its text), temperature, device, dtype.
    """
    prompt_ids = [int(token) for token in prompt]
    return {
        "ok": True,
        "prompt": "".join(texts(prompt_ids)),
        "prompt_tokens": [list(item) for item in zip(prompt_ids, texts(prompt_ids), strict=True)],
        "note": "",
        "temperature": 1.0,
        "k_max": len(moved),
        "point": point_payload(point),
        "device": "cpu",
        "dtype": "float32",
        "stored": False,
        **sweeps_payload(moved, texts, point, every=every),
        **about,
    }


def sweeps_payload(moved: Sequence[Sweep], texts: Texts, /, *also: Block, every: int = 1) -> dict[str, Any]:
    """Sweeps as the values of a payload, with the texts of their tokens and of those in `also`.

    As in `scrub_payload`, but `moved` can be the sweeps of any slots.
    """
    parts = [sweep.block for sweep in moved]
    learned = {}
    if parts[0].has_student:
        learned["student"] = packed(np.stack([part.learned for part in parts]), "<u2")
        learned["margin"] = packed(np.stack([part.margins for part in parts]), "<f4")
    return {
        "slots": [sweep.slot for sweep in moved],
        "k": len(moved[0].u),
        "u": moved[0].u.tolist(),
        "resolution": len(parts[0].u) * every,
        "every": every,
        "teacher": packed(np.stack([part.exact for part in parts]), "<u2"),
        "edge": packed(np.stack([part.edges for part in parts]), "<f4"),
        "texts": token_texts(texts, *parts, *also),
        **learned,
    }


def point_payload(answer: Block) -> dict[str, Any]:
    """The tokens of both maps at one noise vector; without a student, of the exact map."""
    learned = {}
    if answer.has_student:
        learned = {"student": answer.learned[0].tolist(), "margin": answer.margins[0].tolist()}
    return {"teacher": answer.exact[0].tolist(), "edge": answer.edges[0].tolist(), **learned}


def grid_payload(grid: Grid, texts: Texts) -> dict[str, Any]:
    """The value of the payload's key `grid`."""
    learned = {}
    if grid.has_student:
        learned = {"student": packed(grid.learned, "<u2"), "agreement": grid.agreement}
    return {
        "slots": list(grid.slots),
        "resolution": len(grid.exact),
        "u": grid.u.tolist(),
        "teacher": packed(grid.exact, "<u2"),
        "texts": token_texts(texts, grid),
        **learned,
    }


def packed(values: npt.NDArray[Any], dtype: str) -> str:
    """Base64 of the little-endian values, since large JSON lists are slow on both sides."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()


def token_texts(texts: Texts, *answers: Block | Grid) -> dict[str, str]:
    """The text of every token that occurs, by its decimal id."""
    tokens = [each.exact for each in answers] + [each.learned for each in answers if each.has_student]
    ids = np.unique(np.concatenate([part.ravel() for part in tokens])).tolist()
    return dict(zip(map(str, ids), texts(ids), strict=True))
