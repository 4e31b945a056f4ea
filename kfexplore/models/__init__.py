"""Networks: token ids and noise in, logits out."""

from __future__ import annotations

import torch

from kfexplore.config import ModelConfig
from kfexplore.models.attention import KVCache
from kfexplore.models.causal import (
    CausalConfig,
    CausalLM,
    CausalStudent,
    causal_network,
    place_weights,
    share_embeddings,
    window,
)
from kfexplore.models.cpu_fast_path import cpu_blocks
from kfexplore.models.layers import Network
from kfexplore.models.networks import MaskedModel, NoiseEncoder, PushForward, Student, Teacher
from kfexplore.models.static_cache import StaticCache

Model = Teacher | Student | MaskedModel
"""Models in this package's own layout."""
AnyTeacher = Teacher | CausalLM
AnyStudent = Student | CausalStudent
AnyModel = Model | CausalLM | CausalStudent

__all__ = [
    "AnyModel",
    "AnyStudent",
    "AnyTeacher",
    "CausalConfig",
    "CausalLM",
    "CausalStudent",
    "KVCache",
    "MaskedModel",
    "Model",
    "Network",
    "NoiseEncoder",
    "PushForward",
    "StaticCache",
    "Student",
    "Teacher",
    "begin_from",
    "build",
    "causal_network",
    "cpu_blocks",
    "place_weights",
    "share_embeddings",
    "window",
]


def build(config: ModelConfig) -> Model:
    """A model with newly initialised weights."""
    kinds: dict[str, type[Model]] = {"teacher": Teacher, "student": Student, "masked": MaskedModel}
    return kinds[config.kind](config)


@torch.no_grad()
def begin_from(model: Model, source: Model) -> None:
    """Copies all weights of `source` to `model`, by name; additional blocks of `model` start as the identity.

    Parts that only `model` has (noise encoder, conditioning) keep their initial weights. Both have the same width.
    """
    model.load_state_dict({**model.state_dict(), **{name: w.cpu() for name, w in source.state_dict().items()}})
    for name, weights in model.blocks[source.config.depth :].named_parameters():
        if name.split(".", 1)[1] in ("attn_out.weight", "mlp.2.weight", "mlp.2.bias"):  # the last of each branch
            weights.zero_()
