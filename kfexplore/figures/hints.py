"""The "?" buttons, which open two lines about a term with a link to more, or the rest of an explanation."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

READING: Final = "kf/FIGURES.md"
"""Where the app serves docs/FIGURES.md, relative to the page."""

HINTS: Final = {
    "margin": (
        "The gap between the student's two largest logits in this slot. Near 0 the student is undecided, and a small "
        "change of the noise changes its token.",
        "The numbers below a slot",
    ),
    "edge": (
        "The distance of the noise value from the nearest border of the exact token's band, in units of u. Near 0 a "
        "slightly different noise value selects another exact token.",
        "The numbers below a slot",
    ),
    "nats": (
        "The unit of information with natural logarithms. A token with probability p has a surprisal of -ln p nats: "
        "0.7 nats for one chance in two, 2.3 for one in ten.",
        "nats",
    ),
    "NFE": (
        "Number of function evaluations: forward passes of the model. AR needs one per token; a student that writes K "
        "tokens per pass needs K times fewer.",
        "passes",
    ),
    "total variation": (
        "The largest difference between the probabilities that two distributions give to any event. 0: the same "
        "distribution; 1: nothing in common.",
        "total variation",
    ),
    "device limit": (
        "The speed if memory and arithmetic of this device were fully used, computed from the bytes and FLOPs of a "
        "pass. What is measured stays below it, as a pass has other costs.",
        "limit",
    ),
}
"""By term: two lines, and a phrase that leads to more in docs/FIGURES.md."""


def hint(term: str, place: str) -> str:
    """The button for a key of `HINTS`, and what it opens, as HTML; term and `place` give an id unique on the page."""
    words, found = HINTS[term]
    more = f'{words} <a href="{READING}#:~:text={quote(found)}" target="_blank">More</a>'
    return _opened(f"What is {term}?", more, f"{place}-{term.replace(' ', '-')}")


def brief(words: str, place: str) -> str:
    """The first sentence of an explanation, and a button that opens the rest, as HTML; `place` as for `hint`."""
    first, _, rest = words.partition(". ")
    return f"{first}. {_opened('What does this mean?', rest, place)}" if rest else words


def _opened(label: str, words: str, place: str) -> str:
    name = f"kfs-hint-{place}"
    return (
        f'<button type="button" class="kfs-hint" popovertarget="{name}" aria-label="{label}">?</button>'
        f'<span popover id="{name}" class="kfs-hint-text" role="note">{words}</span>'
    )
