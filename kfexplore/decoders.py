"""The registry of decoders: names, models, options and plot marks, without torch. Their code is in decoding/."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from kfexplore.errors import KfError

Kind = Literal["teacher", "student", "masked"]
MODELS: Final[dict[Kind, str]] = {"teacher": "teacher", "student": "student", "masked": "masked model"}
"""The name of each kind of model in a sentence."""


@dataclass(frozen=True)
class Decoder:
    """Static description of a decoder."""

    label: str
    """Its name on the page."""
    how: str
    """A short description; {k} stands for its tokens, or guesses, per pass."""
    steps: str
    """`module:function` of its steps, a `kfexplore.decoding.generate.Steps`; imported at the first use."""
    reference: str = ""
    """`module:function` of its slow twin, a `kfexplore.decoding.generate.Reference`; exact decoders share AR's."""
    models: tuple[Kind, ...] = ("teacher",)
    """The models it uses. The vocabulary and context are those of the first; a second is the student, which guesses."""
    options: tuple[str, ...] = ()
    """The fields of DecodeConfig that it uses; without k, it writes one token per pass."""
    exact: bool = False
    """Whether it writes the tokens of the exact map."""
    in_order: bool = True
    """Whether it writes from left to right; if not, its noise does not define a map to the whole text."""
    pattern: str = "+"
    """Fill pattern of its bars in figures, a name of Plotly."""
    symbol: str = "star"
    """Marker of its points in figures, a name of Plotly."""

    def __post_init__(self) -> None:
        if self.models[1:] not in ((), ("student",)):
            raise KfError(
                f"{self.label} uses {' and '.join(self.models)}.", "one model, or a second that is the student"
            )

    @property
    def takes_k(self) -> bool:
        """Whether a pass can have several tokens or guesses."""
        return "k" in self.options

    @property
    def checks(self) -> bool:
        """Whether it guesses several tokens and keeps the right ones."""
        return self.exact and self.takes_k


_AR, _PFLM, _MDLM, _LOSSLESS = (f"kfexplore.decoding.{module}" for module in ("ar", "pflm", "mdlm", "lossless"))
DECODERS: Final[dict[str, Decoder]] = {
    "ar": Decoder(
        "AR",
        "the teacher, one token per pass",
        f"{_AR}:steps",
        f"{_AR}:reference",
        options=("temperature",),
        exact=True,
        pattern="",
        symbol="circle",
    ),
    "pflm": Decoder(
        "PFLM",
        "the student, {k} per pass",
        f"{_PFLM}:steps",
        f"{_PFLM}:reference",
        models=("student",),
        options=("k", "temperature", "frequency_penalty", "dither", "exact_first"),
        pattern="/",
        symbol="circle",
    ),
    "mdlm": Decoder(
        "MDLM",
        "the masked model, {k} per pass",
        f"{_MDLM}:steps",
        f"{_MDLM}:reference",
        models=("masked",),
        options=("k", "order"),
        in_order=False,
        pattern="-",
        symbol="diamond",
    ),
    "verified": Decoder(
        "Verified",
        "{k} guesses, checked by the teacher",
        f"{_LOSSLESS}:verified_steps",
        models=("teacher", "student"),
        options=("k", "temperature"),
        exact=True,
        pattern="x",
        symbol="square",
    ),
    "jacobi": Decoder(
        "Jacobi",
        "{k} guesses, iterated by the teacher",
        f"{_LOSSLESS}:jacobi_steps",
        models=("teacher", "student"),
        options=("k", "temperature", "guess"),
        exact=True,
        pattern=".",
        symbol="triangle-up",
    ),
}
"""By name, in display order."""


def possible(there: Collection[Kind]) -> list[str]:
    """Names of the decoders that need only these models."""
    return [name for name, each in DECODERS.items() if set(each.models) <= set(there)]


def find_decoder(name: str) -> Decoder:
    """The decoder with a given name.

    Raises:
        KfError: unknown name.
    """
    if name not in list(DECODERS):  # a value from JSON may not be hashable
        raise KfError(f"There is no decoder {name!r}.", ", ".join(DECODERS))
    return DECODERS[name]
