"""Frozen settings. Every field is documented; an unknown key is an error that names the near ones."""

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
STUDY_BLOCKS = 1024
"""Blocks that each sampler of a law draws, where nobody says how many."""
TEMPERATURES = (0.01, 10.0)
"""Least and greatest temperature of a map. Below, logits / temperature leave the range of float32; above, the mask
token, whose logit is -1000, gets a probability."""
MIN_VOCAB = 257
"""Tokens of a byte-level tokenizer before any merge: the bytes and the end of a text."""


def check_temperature(value: object) -> float:
    """The temperature, if it is one.

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
        KfError: a key is unknown (near ones are named), a required one is missing, or a value has another type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    renamed: Mapping[str, str] = getattr(cls, "RENAMED", {})
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
    """A plain value as its field's type: mappings become configs, lists tuples, whole numbers floats."""
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


def differences(held: Any, now: Any) -> dict[str, str]:
    """The settings in which two configs of one class differ: dotted names, each with both values, `was (now is)`."""
    before, after = dict(_flat(dataclasses.asdict(held))), dict(_flat(dataclasses.asdict(now)))
    names = [name for name in before | after if before.get(name) != after.get(name)]
    return {name: f"{name} {before.get(name)} (now {after.get(name)})" for name in names}


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, tuple) else None
    if inner is None:
        yield name, values
    else:
        for key, value in inner:
            yield from _flat(value, f"{name}.{key}" if name else str(key))


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model; everything here can be told from the tensors of a checkpoint except `context` and `block`."""

    kind: Kind
    """teacher (autoregressive), student (push-forward) or masked (diffusion)."""
    vocab_size: int
    """Rows V of the embedding and of the output head, the mask token's row included."""
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
        """Weights of all blocks, those of norms and biases left out."""
        return 12 * self.width**2 * self.depth

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "depth", "heads", "context"):
            if getattr(self, name) < 1:
                raise KfError(f"{name} is {getattr(self, name)}.", "a whole number of at least 1")
        if self.width % (2 * self.heads):
            raise KfError(f"width {self.width} does not give {self.heads} heads of even width.")
        if not 0 <= self.mask_id < self.vocab_size:
            raise KfError(f"mask_id is {self.mask_id}.", f"0 to {self.vocab_size - 1}")


@dataclass(frozen=True)
class TrainConfig:
    """One training stage."""

    RENAMED: ClassVar = {
        "context_loss": "ntp_loss_weight",
        "own_contexts": "on_policy_fraction",
        "start_share": "wise_ft_alpha",
    }
    """Old names, still read from recipes and stage.json."""

    steps: int
    """Optimizer steps."""
    batch: int = 16
    """Contexts a step, over all processes."""
    accumulate: int = 1
    """Equal parts in which a process takes its contexts of a step, one after another: less memory, the same step."""
    context: int = 0
    """Tokens per context; 0: as many as the recipe's models have."""
    block: int = 1
    """Student: noise slots K a group."""
    groups: int = 128
    """Student: random positions a context at which a group of noise slots stands."""
    noises: int = 1
    """Student: groups (noise vectors) at each of these positions."""
    targets: Literal["exact", "self", "inversion"] = "exact"
    """Student: what it learns. exact: the teacher unrolled; self: a frozen student of half the slots, in two rounds
    (progressive self-forcing); inversion: the text itself, under noise drawn from its cells."""
    causal: bool = True
    """Student: a slot sees the slots before it; false: itself and the context only (multi-token heads)."""
    ntp_loss_weight: float = 0.0
    """Student: weight of the next-token loss at the context's positions, added to the loss of the map."""
    on_policy_fraction: float = 0.0
    """Student: fraction of the contexts that end in the student's own samples instead of corpus text."""
    prefix_fraction: float = 0.0
    """Masked: fraction of the steps in which the text is cut at a random place and only its last 1 to 64 tokens may be
    masked, as when a prompt is continued."""
    tau_min: float = 1.0
    """Student: least temperature; a step draws one from tau_min .. tau_max."""
    tau_max: float = 1.0
    """Student: greatest temperature."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon orthogonalises the updates of the blocks' matrices (torch 2.9 or newer); the rest stays with AdamW."""
    lr: float = 1e-3
    """Peak learning rate of AdamW; Muon's is scaled to updates of the same size."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Of AdamW."""
    eps: float = 1e-8
    """Of AdamW."""
    warmup: int = 100
    """Steps of linear rise."""
    decay: float = 0.3
    """Last share of the steps over which the learning rate falls linearly to zero; constant before."""
    weight_decay: float = 0.01
    """Of the matrices of the blocks."""
    clip: float = 1.0
    """Largest gradient norm."""
    ema: float = 0.0
    """Decay a step of the running mean of the weights that is saved as the model; 0: the weights themselves."""
    wise_ft_alpha: float = 0.0
    """Weight interpolation (WiSE-FT, arXiv 2109.01903): saves alpha * initial + (1 - alpha) * trained weights. Brief
    continued training can forget more than it gains; the mean keeps both."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products of the pass with gradient under autocast. Targets are always computed in fp32."""
    seed: int = 0
    """Keys all random numbers, with the step."""
    save_every: float = 120.0
    """Seconds between saved states."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))  # a list in YAML
        for name in ("steps", "batch", "accumulate", "block", "groups", "noises"):
            if getattr(self, name) < 1:
                raise KfError(f"{name} is {getattr(self, name)}.", "a whole number of at least 1")
        if self.context < 0:
            raise KfError(f"context is {self.context}.", "a whole number of at least 1, or 0 for the recipe's own")
        if self.batch % self.accumulate:
            raise KfError(f"accumulate is {self.accumulate}.", f"a divisor of the batch, {self.batch}")
        if self.targets == "self" and self.block % 2:
            raise KfError(f"block is {self.block} for targets self.", "an even number, twice the block before")
        if not 0 < self.tau_min <= self.tau_max:
            raise KfError(f"tau_min is {self.tau_min}, tau_max {self.tau_max}.", "0 < tau_min <= tau_max")
        for name in ("on_policy_fraction", "prefix_fraction", "ema", "decay", "wise_ft_alpha"):
            if not 0 <= getattr(self, name) <= 1:
                raise KfError(f"{name} is {getattr(self, name)}.", "0 to 1")
        for name in ("lr", "eps", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise KfError(f"{name} is {getattr(self, name)}.", "a number above 0")
        for name in ("warmup", "weight_decay", "ntp_loss_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise KfError(f"{name} is {getattr(self, name)}.", "0 or more")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise KfError(f"betas is {self.betas}.", "two numbers from 0 to 1, 1 left out")

    @property
    def places(self) -> int:
        """Student: positions of a context at which a group of noise slots can stand.

        One after every token; for noise inversion the text must hold the block as well.
        """
        return self.context - self.block if self.targets == "inversion" else self.context


@dataclass(frozen=True)
class StoriesConfig:
    """Stories that are generated while the data are prepared (`training/stories.py`)."""

    count: int = 40_000
    """Stories to train on."""
    held_out: int = 2_000
    """Stories that are kept back, of another seed."""
    seed: int = 0
    """Keys the stories to train on; those kept back have the next one."""
    richness: float = 1.0
    """How evenly choices are made: near 0 every story is the same, at 1 options have weights 1 / sqrt(rank)."""


@dataclass(frozen=True)
class DataConfig:
    """What the tokens of a recipe are made of. A document is a text file, or a row of a hub dataset."""

    vocab_size: int = 0
    """Tokens of a tokenizer that is trained on the documents, the mask excluded; 0: `tokenizer` names one."""
    tokenizer: str | None = None
    """Hub name of a tokenizer, or a folder with its tokenizer.json."""
    dataset: str | None = None
    """Hub dataset; None: a folder of texts is given when the data are prepared."""
    split: str = "train"
    """Of the hub dataset."""
    column: str = "text"
    """Of the hub dataset: where its texts are."""
    stories: StoriesConfig | None = None
    """Generated stories instead of texts of others; they need neither a folder nor a network."""
    held_out: tuple[str, ...] = ()
    """Beginnings of the names of documents that are held out. A file has its own name, a row of a hub dataset its
    number in eight digits, from 00000000: `00000` holds out the first thousand. Not for generated stories."""
    held_out_fraction: float = 0.0
    """Hold out this fraction of the documents, chosen by a hash of their names, instead of those in `held_out`;
    0: by name, and 5 % where no name matches."""
    whole_documents: bool = False
    """Training contexts begin where a document begins; otherwise anywhere."""

    def __post_init__(self) -> None:
        if (self.vocab_size > 0) == (self.tokenizer is not None):
            raise KfError("The tokenizer is named in two ways, or in none.", "vocab_size to train one, or tokenizer")
        if self.tokenizer is None and self.vocab_size < MIN_VOCAB:
            raise KfError(f"vocab_size is {self.vocab_size}.", f"at least {MIN_VOCAB}: bytes and the end of a text")
        if not 0 <= self.held_out_fraction < 1:
            raise KfError(f"The held-out fraction is {self.held_out_fraction}.", "above 0 and below 1")


def _with_context(stage: TrainConfig, context: int) -> TrainConfig:
    return stage if stage.context else dataclasses.replace(stage, context=context)


@dataclass(frozen=True)
class Recipe:
    """A pair to be trained: its data, its shape and its stages."""

    name: str
    """What `--recipe` takes: the name of a bundled recipe, or the path of a file."""
    about: str
    """A sentence for those who choose."""
    data: DataConfig
    """What the tokens are made of."""
    width: int
    """Residual width H of all models."""
    depth: int
    """Number of Transformer blocks L."""
    heads: int
    """Attention heads."""
    context: int
    """Longest sequence of all models, in tokens."""
    teacher: TrainConfig
    """The autoregressive stage."""
    students: tuple[TrainConfig, ...]
    """Stages AR -> PFLM(k) -> PFLM(more): each student begins with the weights of the stage before."""
    student_depth: int = 0
    """Blocks of the students, at least `depth`; 0: as many. Blocks beyond the teacher's begin as the identity."""
    masked: TrainConfig | None = None
    """The masked diffusion model's stage; None: the pair has none."""
    cond_width: int = 0
    """Width C of the masked model's conditioning; 0 where there is none."""

    def __post_init__(self) -> None:
        self.shape("teacher", vocab_size=2, mask_id=1)  # refuses widths and heads that do not fit
        if self.student_depth and self.student_depth < self.depth:
            raise KfError(f"student_depth is {self.student_depth}.", f"0, or at least the teacher's {self.depth}")
        if self.teacher.wise_ft_alpha:
            raise KfError(f"wise_ft_alpha of the teacher is {self.teacher.wise_ft_alpha}.", "0: it begins as noise")
        object.__setattr__(self, "teacher", _with_context(self.teacher, self.context))
        object.__setattr__(self, "students", tuple(_with_context(stage, self.context) for stage in self.students))
        object.__setattr__(self, "masked", self.masked and _with_context(self.masked, self.context))
        for name, stage in self.stages().items():
            if stage.context > self.context:
                raise KfError(f"The context of {name} is {stage.context}.", f"1 to the models' own, {self.context}")
        if not self.students:
            raise KfError("The recipe has no student.", "at least one stage in students")
        blocks = [0, *(stage.block for stage in self.students)]
        for before, stage in zip(blocks, self.students, strict=False):
            if stage.groups > stage.places:
                raise KfError(f"groups is {stage.groups} in student{stage.block}.", f"1 to {stage.places} positions")
            if stage.block <= before:
                raise KfError(f"The students' blocks are {blocks[1:]}.", "each larger than the one before")
            if stage.targets == "self" and stage.block != 2 * before:
                raise KfError(
                    f"A student of block {stage.block} with targets self comes after block {before}.",
                    "a stage before it of half its block, or targets exact",
                )
        if (self.masked is None) != (self.cond_width == 0):
            raise KfError(f"cond_width is {self.cond_width}.", "at least 1 with a stage masked, 0 without")

    def stages(self) -> dict[str, TrainConfig]:
        """All stages by name, in the order in which they are trained: teacher, student1, .., masked."""
        students = {f"student{stage.block}": stage for stage in self.students}
        return {"teacher": self.teacher, **students, **({"masked": self.masked} if self.masked else {})}

    def shape(self, kind: Kind, vocab_size: int, mask_id: int, block: int = 0) -> ModelConfig:
        """The shape of a model of this recipe."""
        return ModelConfig(
            kind,
            vocab_size=vocab_size,
            width=self.width,
            depth=(kind == "student" and self.student_depth) or self.depth,
            heads=self.heads,
            mask_id=mask_id,
            context=self.context,
            block=block,
            cond_width=self.cond_width if kind == "masked" else 0,
        )


MOST_DITHER_BITS = 10
"""Noise is a multiple of 2^-24, so a dither of m bits leaves a grid of 2^(24 - m) values to draw with. For the next
token of `tales` (512 tokens) that grid adds a TV of 0.0002 at 6 bits, 0.0024 at 10, 0.023 at 14 and 0.067 at 16."""


@dataclass(frozen=True)
class DecodeConfig:
    """How a decoder writes."""

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
    """mdlm: which positions are filled first. random: in an order drawn for each sample. confident: in every pass those
    whose newly drawn tokens are the most likely, as in MaskGIT."""
    guess: Literal["student", "nothing"] = "student"
    """jacobi: what a block begins with."""

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
        """Whether every pass draws a token for each open position, and so needs noise of its own."""
        return self.order == "confident"

    @property
    def models(self) -> tuple[Kind, ...]:
        """The models it uses; the vocabulary and context are those of the first."""
        every = DECODERS[self.decoder].models
        return every if self.guess == "student" else every[:1]
