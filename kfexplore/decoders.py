"""The decoders: what each is called, which models it asks, what it writes. How they decode is in decoding/."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from kfexplore.errors import KfError

Kind = Literal["teacher", "student", "masked"]
MODELS: Final[dict[Kind, str]] = {"teacher": "teacher", "student": "student", "masked": "masked model"}
"""Each kind of model, as it is called in a sentence."""


@dataclass(frozen=True)
class Decoder:
    """What is known of a decoder without running it."""

    label: str
    """Its name on the page."""
    how: str
    """Who writes how; {k} stands for its tokens, or guesses, a pass."""
    models: tuple[Kind, ...] = ("teacher",)
    """The models that it asks; the first one's vocabulary and context hold. A second is the student, and guesses."""
    options: tuple[str, ...] = ()
    """The fields of DecodeConfig that it takes; without k, it writes one token a pass."""
    exact: bool = False
    """Whether it writes what the exact map writes, token for token."""
    in_order: bool = True
    """Whether it writes from left to right; if not, its noise is no map of the whole text."""

    def __post_init__(self) -> None:
        if self.models[1:] not in ((), ("student",)):
            raise KfError(
                f"{self.label} asks {' and '.join(self.models)}.", "one model, or a second that is the student"
            )

    @property
    def takes_k(self) -> bool:
        """Whether several tokens, or guesses, belong to a pass."""
        return "k" in self.options

    @property
    def checks(self) -> bool:
        """Whether it guesses, and keeps what is right."""
        return self.exact and self.takes_k


DECODERS: Final[dict[str, Decoder]] = {
    "ar": Decoder("AR", "the teacher, a token a pass", options=("tau",), exact=True),
    "pflm": Decoder(
        "PFLM", "the student, {k} a pass", ("student",), options=("k", "tau", "penalty", "dither", "exact_first")
    ),
    "mdlm": Decoder("MDLM", "the masked model, {k} a pass", ("masked",), options=("k", "order"), in_order=False),
    "verified": Decoder(
        "Verified", "{k} guessed, checked by the teacher", ("teacher", "student"), options=("k", "tau"), exact=True
    ),
    "jacobi": Decoder(
        "Jacobi",
        "{k} guesses, iterated by the teacher",
        ("teacher", "student"),
        options=("k", "tau", "guess"),
        exact=True,
    ),
}
"""By name, in the order in which they are listed everywhere."""


def possible(there: Collection[Kind]) -> list[str]:
    """The decoders that ask no other models than these."""
    return [name for name, each in DECODERS.items() if set(each.models) <= set(there)]


def find_decoder(name: str) -> Decoder:
    """The decoder of a name.

    Raises:
        KfError: there is none.
    """
    if name not in list(DECODERS):  # what JSON names may not be hashable
        raise KfError(f"There is no decoder {name!r}.", ", ".join(DECODERS))
    return DECODERS[name]
