"""Frozen settings. Every field is documented; an unknown key is an error that names the near ones."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from kfexplore.errors import KfError

Kind = Literal["teacher", "student", "masked"]
ConfigT = TypeVar("ConfigT")


def from_dict(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Builds a config dataclass from plain values.

    Raises:
        KfError: a key is unknown (the near ones are named) or a required one is missing.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=3) or sorted(fields)
            raise KfError(f"{cls.__name__} has no setting {key!r}.", "did you mean " + ", ".join(near) + "?")
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise KfError(f"{cls.__name__} lacks {', '.join(missing)}.")
    return cls(**values)


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

    steps: int
    """Optimizer steps."""
    batch: int = 16
    """Contexts a step."""
    context: int = 256
    """Tokens a context."""
    groups: int = 128
    """Student: noise groups a context, at random positions."""
    block: int = 1
    """Student: noise slots K a group."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon orthogonalises the updates of the blocks' matrices (torch 2.9 or newer); the rest stays with AdamW."""
    lr: float = 1e-3
    """Peak learning rate of AdamW; Muon's is scaled to updates of the same size."""
    warmup: int = 100
    """Steps of linear rise."""
    decay: float = 0.3
    """Last share of the steps over which the learning rate falls linearly to zero; constant before."""
    weight_decay: float = 0.01
    """Of the matrices of the blocks."""
    clip: float = 1.0
    """Largest gradient norm."""
    seed: int = 0
    """Keys all random numbers, with the step."""
    save_every: float = 120.0
    """Seconds between saved states."""

    def __post_init__(self) -> None:
        if not 1 <= self.groups <= self.context:
            raise KfError(f"groups is {self.groups}.", f"1 to the context, {self.context}")
