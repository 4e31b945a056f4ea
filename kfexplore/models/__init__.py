"""Tensors in, logits out."""

from __future__ import annotations

from kfexplore.config import ModelConfig
from kfexplore.models.attention import KVCache
from kfexplore.models.masked import MaskedModel
from kfexplore.models.student import Student
from kfexplore.models.teacher import Teacher

Model = Teacher | Student | MaskedModel

__all__ = ["KVCache", "MaskedModel", "Model", "Student", "Teacher", "build"]


def build(config: ModelConfig) -> Model:
    """A model with fresh weights."""
    kinds: dict[str, type[Model]] = {"teacher": Teacher, "student": Student, "masked": MaskedModel}
    return kinds[config.kind](config)
