"""Frozen settings. Every field is documented; an unknown key is an error that names similar ones."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from kfexplore.decoders import DECODERS, MODELS, Kind, find_decoder
from kfexplore.errors import KfError

ConfigT = TypeVar("ConfigT")
DEFAULT_PAIR = "stories"
"""The bundled pair that everything uses unless another is named."""
MAX_VOCABULARY = 1 << 19
"""Largest vocabulary of a model or tokenizer, twice that of Gemma 3. Float32 logits of 1,024 rows then take 2 GiB."""
STUDY_BLOCKS = 1024
"""Default number of blocks that each sampler draws."""
TEMPERATURES = (0.01, 10.0)
"""Lowest and highest temperature of a map. Lower, logits / temperature can overflow float32; higher, the mask token,
whose logit is -1000, gets a probability."""


def check_temperature(value: object) -> float:
    """The temperature as a float.

    Raises:
        KfError: not a number, or outside `TEMPERATURES`.
    """
    low, high = TEMPERATURES
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise KfError(f"The temperature is {value!r}.", f"a number from {low} to {high:g}")
    return float(value)


def from_dict(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Builds a config dataclass from plain values, as JSON or YAML have them; configs may hold configs.

    Raises:
        KfError: a key is unknown (similar ones are named) or given under both its old and new names, a required key is
            missing, or a value has the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    renamed: Mapping[str, str] = getattr(cls, "RENAMED", {})
    for old, new in renamed.items():
        if old in values and new in values:
            raise KfError(f"{cls.__name__} has both {old} and {new}.", f"{new} alone: {old} is its old name")
    values = {renamed.get(key, key): value for key, value in values.items()}
    for key in values:
        if key not in fields:
            near = ", ".join(difflib.get_close_matches(key, fields, n=3))
            valid = f"did you mean {near}?" if near else f"one of {', '.join(sorted(fields))}"
            raise KfError(f"{cls.__name__} has no setting {key[:80]!r}.", valid)
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise KfError(f"{cls.__name__} lacks {', '.join(missing)}.")
    hints = get_type_hints(cls)
    return cls(**{key: _typed(f"{cls.__name__}.{key}", hints[key], value) for key, value in values.items()})


def _typed(name: str, hint: Any, value: Any) -> Any:
    """Converts a plain value to its field's type: mappings to configs, lists to tuples, whole numbers to floats."""
    kind, inside = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value)  # type: ignore[arg-type]
    if kind is types.UnionType:
        return None if value is None else _typed(name, inside[0], value)
    if kind is tuple and isinstance(value, list | tuple):
        each = inside[:1] * len(value) if inside[-1] is Ellipsis else inside
        if len(each) == len(value):
            return tuple(_typed(name, one, item) for one, item in zip(each, value, strict=True))
    if kind is Literal:
        if value in inside:
            return value
        raise KfError(f"{name} is {value!r}.", ", ".join(map(str, inside)))
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4, which has no dot, as text
        except ValueError:
            pass
    if kind is None and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise KfError(f"{name} is {value!r}.", f"a value of type {getattr(hint, '__name__', hint) if not kind else hint}")


def differences(before: Any, now: Any) -> dict[str, str]:
    """The settings in which two configs of one class differ: dotted names, each with both values, `was (now is)`."""
    old, new = dict(_flat(dataclasses.asdict(before))), dict(_flat(dataclasses.asdict(now)))
    names = [name for name in old | new if old.get(name) != new.get(name)]
    return {name: f"{name} {old.get(name)} (now {new.get(name)})" for name in names}


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, tuple) else None
    if inner is None:
        yield name, values
    else:
        for key, value in inner:
            yield from _flat(value, f"{name}.{key}" if name else str(key))


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model. All but `context` and `block` can be inferred from the tensors of a checkpoint."""

    kind: Kind
    """teacher (autoregressive), student (push-forward) or masked (diffusion)."""
    vocab_size: int
    """Rows V of the embedding and of the output head, including the mask token's row."""
    width: int
    """Residual width H."""
    depth: int
    """Number of Transformer blocks L."""
    heads: int
    """Attention heads; the head width H / heads is even (rotary embedding)."""
    mask_id: int
    """The token that is never produced."""
    context: int = 1024
    """Longest sequence the model was trained on, in tokens."""
    block: int = 0
    """Largest number of noise slots K the student was trained on; 0 for other kinds."""
    cond_width: int = 0
    """Width C of the masked model's conditioning; 0 for other kinds."""

    @property
    def block_weights(self) -> int:
        """Weights of all blocks, without norms and biases."""
        return 12 * self.width**2 * self.depth

    def __post_init__(self) -> None:
        for name, least in (("vocab_size", 2), ("width", 1), ("depth", 1), ("heads", 1), ("context", 1)):
            if getattr(self, name) < least:
                raise KfError(f"{name} is {getattr(self, name)}.", f"a whole number of at least {least}")
        if self.width % (2 * self.heads):
            raise KfError(f"width {self.width} does not give {self.heads} heads of even width.")
        if not 0 <= self.mask_id < self.vocab_size:
            raise KfError(f"mask_id is {self.mask_id}.", f"0 to {self.vocab_size - 1}")


MOST_DITHER_BITS = 10
"""Noise is a multiple of 2^-24, so a dither of m bits leaves a grid of 2^(24 - m) values to draw with. For the next
token of `tales` (512 tokens) that grid adds a TV of 0.0002 at 6 bits, 0.0024 at 10, 0.023 at 14 and 0.067 at 16."""


@dataclass(frozen=True)
class DecodeConfig:
    """Settings of a decoder."""

    RENAMED: ClassVar = {"tau": "temperature", "penalty": "frequency_penalty"}
    """Old names, still read from saved settings."""

    decoder: str = "ar"
    """A name of `DECODERS`. ar: the teacher, one token per pass; pflm: the student, k per pass; mdlm: the masked model,
    k per pass; verified: the student guesses, the teacher checks; jacobi: the teacher iterates on k guesses. ar,
    verified and jacobi write the same text."""
    k: int | None = None
    """Tokens, or guesses, per pass; None: the student's trained k, for mdlm 1."""
    temperature: float = 1.0
    """Divides the teacher's logits; an input of the student's noise encoder. Not for mdlm."""
    frequency_penalty: float = 0.0
    """pflm: frequency penalty of the published sampler."""
    dither: int | None = None
    """pflm: draw from a slot's distribution with the bits of u below 2^-dither; 1 to `MOST_DITHER_BITS`."""
    exact_first: bool = False
    """pflm: slot 1 from the student's own next-token distribution (trained with `ntp_loss_weight`)."""
    order: Literal["random", "confident"] = "random"
    """mdlm: which positions are filled first. random: an order drawn for each sample. confident: in each pass, the
    positions whose newly drawn tokens are the most likely, as in MaskGIT."""
    guess: Literal["student", "nothing"] = "student"
    """jacobi: first guesses of a block, from the student or (nothing) the last token repeated."""

    def __post_init__(self) -> None:
        chosen = find_decoder(self.decoder)
        if self.k is not None and (isinstance(self.k, bool) or self.k < 1):
            raise KfError(f"k is {self.k}.", "a whole number of at least 1")
        if not chosen.takes_k and self.k not in (None, 1):
            source = f"the {MODELS[chosen.models[0]]}'s own distribution"
            raise KfError(f"{self.decoder} draws one token per pass from {source}.", "k with the other decoders")
        if not 0 < self.temperature < math.inf:
            raise KfError(f"The temperature is {self.temperature}.", "a number above 0")
        if not 0 <= self.frequency_penalty < math.inf:
            raise KfError(f"The frequency penalty is {self.frequency_penalty}.", "0 or more")
        if self.dither is not None and not 1 <= self.dither <= MOST_DITHER_BITS:
            raise KfError(f"dither is {self.dither} bits.", f"1 to {MOST_DITHER_BITS}")
        if self.frequency_penalty and (self.dither is not None or self.exact_first):
            other = "exact_first" if self.exact_first else f"a dither ({self.dither})"
            raise KfError(
                f"A frequency penalty ({self.frequency_penalty}) cannot be used with {other}.", "one of the two"
            )
        _, _, *options = dataclasses.fields(self)  # besides decoder and k
        for name, usual in ((field.name, field.default) for field in options):
            takers = [taker for taker, each in DECODERS.items() if name in each.options]
            if getattr(self, name) != usual and self.decoder not in takers:
                word = name.replace("_", " ")
                raise KfError(f"{word} cannot be used with {self.decoder}.", f"{word} with {' or '.join(takers)}")

    @property
    def draws_anew(self) -> bool:
        """Whether every pass draws a token for each open position, and so needs its own noise."""
        return self.order == "confident"

    @property
    def models(self) -> tuple[Kind, ...]:
        """The models it uses; the vocabulary and context are those of the first."""
        every = DECODERS[self.decoder].models
        return every if self.guess == "student" else every[:1]
