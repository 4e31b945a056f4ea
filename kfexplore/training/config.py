"""Recipes: the settings of data, shapes and stages, read from YAML files, bundled in recipes/ or the user's own."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import yaml

from kfexplore.config import ModelConfig, from_dict
from kfexplore.decoders import Kind
from kfexplore.errors import KfError
from kfexplore.models import CausalConfig

RECIPES = Path(__file__).parent / "recipes"
MIN_VOCAB = 257
"""Tokens of a byte-level tokenizer before any merge: the bytes and the end of a text."""


_RANGES: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
    ("steps batch accumulate block groups noises", "a whole number of at least 1", lambda value: value >= 1),
    ("on_policy_fraction prefix_fraction ema decay wise_ft_alpha", "0 to 1", lambda value: 0 <= value <= 1),
    ("lr eps clip", "a number above 0", lambda value: 0 < value < math.inf),
    ("warmup weight_decay ntp_loss_weight", "0 or more", lambda value: 0 <= value < math.inf),
)
"""Settings of a stage, what is valid, and the check."""


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
    """Contexts per step, over all processes."""
    accumulate: int = 1
    """Gradient accumulation: equal parts of a step's contexts, one after another. Less memory, the same step."""
    context: int = 0
    """Tokens per context; 0: the context length of the recipe's models."""
    block: int = 1
    """Student: noise slots per group, the k it is trained for."""
    groups: int = 128
    """Student: random positions per context at which groups of noise slots are placed."""
    noises: int = 1
    """Student: groups (noise vectors) per position."""
    targets: Literal["exact", "self", "inversion"] = "exact"
    """Student: its targets. exact: the teacher unrolled; self: a frozen student of half the slots, in two rounds
    (progressive self-forcing); inversion: the text itself, under noise drawn from its cells."""
    causal: bool = True
    """Student: a slot sees the slots before it; false: only itself and the context (multi-token heads)."""
    ntp_loss_weight: float = 0.0
    """Student: weight of the next-token loss at the context's positions, added to the loss of the map."""
    on_policy_fraction: float = 0.0
    """Student: fraction of the contexts that end in the student's own samples instead of corpus text."""
    prefix_fraction: float = 0.0
    """Masked: fraction of the steps in which the text is cut at a random place and only its last 1 to 64 tokens may be
    masked, as when a prompt is continued."""
    tau_min: float = 1.0
    """Student: lowest temperature; each step draws one from tau_min .. tau_max."""
    tau_max: float = 1.0
    """Student: highest temperature."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon orthogonalises the updates of the blocks' matrices (torch 2.9 or newer); the rest stays with AdamW."""
    lr: float = 1e-3
    """Peak learning rate of AdamW; Muon's is scaled to updates of the same size."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Betas of AdamW."""
    eps: float = 1e-8
    """Epsilon of AdamW."""
    warmup: int = 100
    """Steps of linear warm-up."""
    decay: float = 0.3
    """Fraction of the steps, at the end, over which the learning rate falls linearly to zero."""
    weight_decay: float = 0.01
    """Weight decay of the matrices in the blocks."""
    clip: float = 1.0
    """Gradient clipping: largest norm."""
    ema: float = 0.0
    """Decay per step of the moving average of the weights, which is saved as the model; 0: the weights themselves."""
    wise_ft_alpha: float = 0.0
    """Weight interpolation (WiSE-FT, arXiv 2109.01903): saves alpha * initial + (1 - alpha) * trained weights. Brief
    continued training can forget more than it gains; the mean keeps both."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """bf16: autocast for the pass with gradient; auto: if the device has instructions for it. Targets are always
    computed in fp32."""
    train_embeddings: bool = True
    """Student over a transformers model; false: embedding and head stay those of the teacher, and use memory once."""
    recompute: bool = False
    """Gradient checkpointing: backward recomputes each block's activations. Less memory, a third more time."""
    seed: int = 0
    """Random seed; all random numbers are keyed by it and the step."""
    save_every: float = 120.0
    """Seconds between saved states."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))  # a list in YAML
        for names, valid, accepts in _RANGES:
            for name in names.split():
                if not accepts(getattr(self, name)):
                    raise KfError(f"{name} is {getattr(self, name)}.", valid)
        if self.context < 0:
            raise KfError(f"context is {self.context}.", "a whole number of at least 1, or 0 for the recipe's own")
        if self.batch % self.accumulate:
            raise KfError(f"accumulate is {self.accumulate}.", f"a divisor of the batch, {self.batch}")
        if self.targets == "self" and self.block % 2:
            raise KfError(f"block is {self.block} for targets self.", "an even number, twice the block before")
        if not 0 < self.tau_min <= self.tau_max:
            raise KfError(f"tau_min is {self.tau_min}, tau_max {self.tau_max}.", "0 < tau_min <= tau_max")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise KfError(f"betas is {self.betas}.", "two numbers of at least 0 and below 1")

    @property
    def places(self) -> int:
        """Student: positions of a context at which a group of noise slots can be placed.

        One after every token; for noise inversion the text must contain the block as well.
        """
        return self.context - self.block if self.targets == "inversion" else self.context


@dataclass(frozen=True)
class StoriesConfig:
    """Stories generated while the data are prepared (`training/stories.py`)."""

    count: int = 40_000
    """Stories to train on."""
    held_out: int = 2_000
    """Held-out stories, from another seed."""
    seed: int = 0
    """Seed of the training stories; held-out stories use the next one."""
    richness: float = 1.0
    """How evenly choices are made: near 0 all stories are equal, at 1 options have weights 1 / sqrt(rank)."""


@dataclass(frozen=True)
class DataConfig:
    """The data of a recipe. A document is a text file, or a row of a hub dataset."""

    vocab_size: int = 0
    """Size of a tokenizer to train on the documents, without the mask; 0: `tokenizer` names one."""
    tokenizer: str | None = None
    """Hub name of a tokenizer, or a folder with its tokenizer.json. With neither, it is that of the given teacher."""
    dataset: str | None = None
    """Hub dataset; None: a folder of texts is given when the data are prepared."""
    split: str = "train"
    """Split of the hub dataset."""
    column: str = "text"
    """Column of the hub dataset that holds the texts."""
    stories: StoriesConfig | None = None
    """Generated stories instead of texts; they need neither a folder nor a network."""
    held_out: tuple[str, ...] = ()
    """Prefixes of the names of held-out documents. A document is named by its file, or by its number among the rows of
    a hub dataset in eight digits: `00000` holds out the first thousand. Not for generated stories."""
    held_out_fraction: float = 0.0
    """Hold out this fraction of the documents, chosen by a hash of their names, instead of those in `held_out`;
    0: by name, or 5 % if no name matches."""
    whole_documents: bool = False
    """Whether training contexts start at the beginning of a document; otherwise anywhere."""

    self_generated: int = 0
    """Number of contexts that the teacher samples, used instead of texts; they need neither texts nor a network."""

    def __post_init__(self) -> None:
        if self.vocab_size > 0 and self.tokenizer is not None:
            raise KfError("The recipe needs one tokenizer.", "vocab_size to train one, or tokenizer to name one")
        if self.self_generated < 0:
            raise KfError(f"self_generated is {self.self_generated}.", "a number of contexts, at least 1")
        if self.vocab_size and self.vocab_size < MIN_VOCAB:
            raise KfError(f"vocab_size is {self.vocab_size}.", f"at least {MIN_VOCAB}: bytes and the end of a text")
        if not 0 <= self.held_out_fraction < 1:
            raise KfError(f"The held-out fraction is {self.held_out_fraction}.", "above 0 and below 1")

    @property
    def needs_texts(self) -> bool:
        """Whether the recipe names no corpus, so that texts must be given."""
        return not (self.dataset or self.stories or self.self_generated)


def _with_context(stage: TrainConfig, context: int) -> TrainConfig:
    return stage if stage.context else dataclasses.replace(stage, context=context)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A pair to train: its data, its shape and its stages."""

    name: str
    """Value of `--recipe`: the name of a bundled recipe, or the path of a file."""
    about: str
    """One sentence that helps to choose a recipe."""
    data: DataConfig
    """The data."""
    width: int = 0
    """Residual width H of all models; 0: the shape is that of a given teacher (`--teacher`)."""
    depth: int = 0
    """Number of Transformer blocks L."""
    heads: int = 0
    """Attention heads."""
    context: int = 0
    """Longest sequence of all models, in tokens."""
    teacher: TrainConfig | None = None
    """The autoregressive stage; None: the teacher is given."""
    students: tuple[TrainConfig, ...]
    """Stages AR -> PFLM(k) -> PFLM(larger k): each student starts from the weights of the stage before."""
    student_depth: int = 0
    """Blocks of the students, at least `depth`; 0: as many. Blocks beyond the teacher's start as the identity."""
    masked: TrainConfig | None = None
    """The masked diffusion model's stage; None: the pair has none."""
    cond_width: int = 0
    """Width C of the masked model's conditioning; 0 without one."""

    def __post_init__(self) -> None:
        missing = [name for name in ("width", "depth", "heads", "context") if not getattr(self, name)]
        if missing and (len(missing) < 4 or self.teacher or self.masked):
            raise KfError(f"Recipe lacks {', '.join(missing)}.", "all four, or none and no stage teacher or masked")
        if self.teacher and not (self.data.vocab_size or self.data.tokenizer):
            raise KfError("The recipe needs one tokenizer.", "vocab_size to train one, or tokenizer to name one")
        if self.width:
            self.shape("teacher", vocab_size=2, mask_id=1)  # rejects widths and heads that do not match
            for name in ("teacher", "masked"):
                object.__setattr__(self, name, (stage := getattr(self, name)) and _with_context(stage, self.context))
            object.__setattr__(self, "students", tuple(_with_context(stage, self.context) for stage in self.students))
        if self.student_depth and self.student_depth < self.depth:
            raise KfError(f"student_depth is {self.student_depth}.", f"0, or at least the teacher's {self.depth}")
        if self.teacher and self.teacher.wise_ft_alpha:
            raise KfError(
                f"wise_ft_alpha of the teacher is {self.teacher.wise_ft_alpha}.", "0: it starts from random weights"
            )
        for name, stage in self.stages().items():
            if stage.context > self.context and self.width:
                raise KfError(f"The context of {name} is {stage.context}.", f"1 to the models' own, {self.context}")
        if not self.students:
            raise KfError("The recipe has no student.", "at least one stage in students")
        blocks = [0, *(stage.block for stage in self.students)]
        for before, stage in zip(blocks, self.students, strict=False):
            if stage.context and stage.groups > stage.places:
                raise KfError(f"groups is {stage.groups} in student{stage.block}.", f"1 to {stage.places} positions")
            if stage.block <= before:
                raise KfError(f"The students' blocks are {blocks[1:]}.", "each larger than the one before")
            if stage.targets == "self" and stage.block != 2 * before:
                raise KfError(
                    f"A student of block {stage.block} with targets self follows a stage of block {before}.",
                    "half its block in the stage before, or targets exact",
                )
        if (self.masked is None) != (self.cond_width == 0):
            raise KfError(f"cond_width is {self.cond_width}.", "at least 1 with a stage masked, 0 without")

    def stages(self) -> dict[str, TrainConfig]:
        """All stages by name, in the order in which they are trained: teacher, student1, .., masked."""
        students = {f"student{stage.block}": stage for stage in self.students}
        first = {"teacher": self.teacher} if self.teacher else {}
        return {**first, **students, **({"masked": self.masked} if self.masked else {})}

    def fitted(self, teacher: ModelConfig | CausalConfig) -> Recipe:
        """The recipe with the shape of a given teacher, if it has none of its own.

        A transformers model has no positions beyond its context, so a block must fit behind the longest prefix.

        Raises:
            KfError: a stage's context is longer than the teacher's allows.
        """
        if self.width:
            return self
        students = self.students
        if isinstance(teacher, CausalConfig):
            for stage in students:
                if not 1 <= stage.context + stage.block <= teacher.context and (
                    stage.context or stage.block >= teacher.context
                ):
                    raise KfError(
                        f"A context of {stage.context} tokens and a block of {stage.block} do not fit the teacher,"
                        f" whose longest text has {teacher.context} tokens.",
                        f"context: at most {teacher.context - stage.block} in that stage, or 0 for the longest",
                    )
            students = tuple(_with_context(stage, teacher.context - stage.block) for stage in students)
        shape = {name: getattr(teacher, name) for name in ("width", "depth", "heads", "context")}
        return dataclasses.replace(self, students=students, **shape)

    def shape(self, kind: Kind, vocab_size: int, mask_id: int, block: int = 0) -> ModelConfig:
        """The shape of a model of this recipe.

        Raises:
            KfError: the recipe has no shape and was not fitted to a teacher.
        """
        if not self.width:
            raise KfError(
                f"The recipe {self.name} has the shape of the teacher that it is given.",
                "a recipe with width, depth, heads and context",
            )
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


def recipe_names() -> list[str]:
    """Names of the bundled recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A bundled recipe by its name, or one from a YAML file.

    Args:
        name_or_path: A name of `recipe_names()`, or a path that ends in .yaml or .yml; it becomes the recipe's name.

    Raises:
        KfError: no such recipe (similar ones are named), invalid YAML, an unknown or contradictory setting.
    """
    name = str(name_or_path)
    own = Path(name).suffix in {".yaml", ".yml"}
    if not own and name not in recipe_names():
        near = difflib.get_close_matches(name, recipe_names(), n=2)
        raise KfError(
            f"There is no recipe {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else "."),
            f"{', '.join(recipe_names())}, or the path of a .yaml file",
        )
    path = Path(name).expanduser() if own else RECIPES / f"{name}.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise KfError(f"The recipe {path} cannot be read: {error}", "a YAML file") from error
    if not isinstance(values, dict) or "name" in values:
        raise KfError(f"The recipe {path} is not a mapping of settings, or sets a name.", "about: .., data: ..")
    return from_dict(Recipe, {"name": name, **values})


def with_held_out(recipe: Recipe, fraction: float) -> Recipe:
    """The recipe with a fraction of the documents held out instead of those that it names.

    Raises:
        KfError: the fraction is not above 0 and below 1.
    """
    if not fraction:
        raise KfError(f"The held-out fraction is {fraction}.", "above 0 and below 1")
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, held_out_fraction=fraction))


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with `steps` optimizer steps in every stage, for trials."""
    return dataclasses.replace(
        recipe,
        teacher=recipe.teacher and dataclasses.replace(recipe.teacher, steps=steps),
        students=tuple(dataclasses.replace(stage, steps=steps) for stage in recipe.students),
        masked=recipe.masked and dataclasses.replace(recipe.masked, steps=steps),
    )
