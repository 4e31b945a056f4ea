"""The tour on the page: each step has a link, an element that it points at and a short text; see docs/TOUR.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Final

import gradio as gr

from kfexplore.figures.scripts import inlined, script_json
from kfexplore.ui.tabs.scrub import OPENINGS

PAIR: Final = "stories"
"""The pair that the texts describe."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One step; `TOUR.md` has a heading with the same title."""

    title: str
    text: str
    """One or two sentences."""
    at: str
    """CSS selector of the element that it points at."""
    link: dict[str, str]
    """Keys of the URL and their values."""


def _scrub(moved: dict[int, int] | None = None, prompt: int = 0, k: int = 8) -> dict[str, str]:
    """A link to Scrub: the noise of the first screen, except for `moved` slots (from 1) -> their step of 1/512."""
    opening = OPENINGS[PAIR]
    noise = [(0.5 + (moved or {}).get(n, step)) / 512 for n, step in enumerate(opening.steps[:k], start=1)]
    return {"pair": PAIR, "prompt": opening.prompts[prompt], "k": f"{k}", "u": ",".join(map(str, noise))}


STEPS: Final = (
    Step(
        "A noise value selects a token",
        "A noise value is a random number between 0 and 1; each of the eight here selects one token, that of its slot. "
        "The track of slot 1 shows which: the wider a band, the more probable its token.",
        ".kfs-row[data-slot='1']",
        _scrub(),
    ),
    Step(
        "One value changes what follows",
        "Slot 3 is now at 0.08: “little”, so a girl named Lily follows. The teacher reads each token before it writes "
        "the next; the student reads the noise values, which determine those tokens: one pass writes all.",
        ".kfs-sentence",
        _scrub({3: 40}),
    ),
    Step(
        "A slot never affects the ones before it",
        "Only slot 5 has moved: “boy” became “girl”, and the name after it follows. Slots 1 to 4 are as they were.",
        ".kfs-cells",
        _scrub({5: 153}),
    ),
    Step(
        "Where student and teacher differ, and why",
        "At the border between “kind” and “funny” the token changes at once, and the learned border lies a little off. "
        "Noise between the two borders gives different tokens, marked ≠. Thin bands suffer most.",
        ".kfs-row[data-slot='3']",
        _scrub({3: 267}),
    ),
    Step(
        "Two slots at once",
        "A point is a pair of noise values, a region a pair of tokens. Exact borders are straight; the student is "
        "smooth, so its borders bend. Click to move both sliders.",
        ".kfs-maps",
        _scrub({1: 260}, prompt=1, k=4),
    ),
    Step(
        "K passes against one",
        "AR, the teacher, needs one pass per token. PFLM, the student, writes eight tokens in one pass from the same "
        "noise.",
        "#generate-texts",
        {"tab": "generate", "generate-decoders": "ar,pflm", "generate-k": "8"},
    ),
    Step(
        "What marginals get wrong",
        "Only 01 and 10 occur, but two independent draws, each by its own probabilities (its marginal), cannot know of "
        "each other: half give 00 or 11. In a map, token 2 reads both noise values and fits. Press Draw 100.",
        "#toy-draw",
        {"tab": "toys", "toy-name": "permutation", "toy-length": "2"},
    ),
    Step(
        "How much faster",
        "Fewer passes are certain, but a pass of several tokens costs more than a pass of one. This race measures "
        "both on this machine; the result is outlined when it is ready.",
        "#timing-words:has(h2)",
        {"tab": "timing"},
    ),
)

_HEAD: Final = """<h1>kfexplore</h1>
<p>K noise values in, K tokens (words or their parts) out, in one pass; you set K.</p>
<div class="kf-tools"><span role="status"></span><button type="button" class="kf-start">Take the tour</button>
<button type="button" class="kf-copy">Copy link</button></div>
<div class="kf-tour" role="dialog" aria-label="Tour" hidden><div aria-live="polite"><p class="kf-count"></p>
<h2 class="kf-title"></h2><p class="kf-text"></p></div><div class="kf-tools">
<button type="button" class="kf-skip">Skip the tour</button><button type="button" class="kf-back">Back</button>
<button type="button" class="kf-next"></button></div></div>"""


def head(pairs: Collection[str]) -> gr.HTML:
    """The head of the page, with Copy link and the tour; it triggers `copy`, and `submit` when a step changes the URL.

    Args:
        pairs: Names of the offered pairs; without the tour's pair there is no tour.
    """
    steps = [dataclasses.asdict(step) for step in STEPS] if PAIR in pairs else []
    script = f"{inlined('tour.js')}\nmountHead(element, trigger, {script_json(steps)});"
    return gr.HTML(_HEAD, js_on_load=script, apply_default_css=False, elem_id="head")
