"""Infers the config of a checkpoint from its tensors and from a config.json beside them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from kfexplore.checkpoints.files import CONFIG_FILE, read_json_object, shortened, shown
from kfexplore.config import MAX_VOCABULARY, ModelConfig, from_dict
from kfexplore.decoders import Kind
from kfexplore.errors import KfError
from kfexplore.models import build

MAX_CONFIG_BYTES = 1 << 20
MOST = {"vocab_size": MAX_VOCABULARY, "width": 1 << 17, "depth": 256, "heads": 256, "context": 1 << 20, "block": 64}
"""Largest accepted settings: a small file can claim any, and each costs time and memory later. No published model comes
near."""
OWT_ROWS, LM1B_ROWS = 50258, 30522
"""Embedding rows of the published models: gpt2 and one mask token, and bert-base-uncased."""

KIND_NAMES: dict[Kind, str] = {
    "teacher": "teacher (autoregressive)",
    "student": "student (push-forward)",
    "masked": "masked (diffusion)",
}
_PUBLISHED_MASK = {OWT_ROWS: 50257, LM1B_ROWS: 103}
_PUBLISHED_CONTEXT = {OWT_ROWS: 1024, LM1B_ROWS: 128}
_PUBLISHED_BLOCK = 4


def describe(
    tensors: Mapping[str, Tensor], stated: Mapping[str, Any] | None = None, where: str = "the checkpoint"
) -> ModelConfig:
    """The config of the model whose complete state dictionary is `tensors`.

    Kind, sizes and depth follow from names and shapes. The mask token is that of the published models if the vocabulary
    has their size (50258 rows: 50257; 30522 rows: 103), else the last row. Context (1024, or 128 for 30522 rows) and
    block (4 for students) are those of the published models unless stated.

    Args:
        tensors: Name to tensor, from `reading.read_tensors`.
        stated: Values of a config.json (`stated_settings`); any part of a ModelConfig.
        where: The checkpoint's name for error messages.

    Raises:
        KfError: names or shapes fit none of the three kinds, a stated value contradicts the tensors or is not a
            setting, or a size exceeds `MOST`. The message names them.
    """
    inferred = _inferred(tensors, where)
    rows = inferred["vocab_size"]
    defaults = {
        "mask_id": _PUBLISHED_MASK.get(rows, rows - 1),
        "context": _PUBLISHED_CONTEXT.get(rows, 1024),
        "block": _PUBLISHED_BLOCK if inferred["kind"] == "student" else 0,
    }
    try:
        config = from_dict(ModelConfig, {**inferred, **defaults, **(stated or {})})
    except KfError as error:
        raise KfError(f"{where}: {error.failed}", error.valid, error.run) from error
    for name, most in MOST.items():
        if getattr(config, name) > most:
            raise KfError(f"{where}: {name} is {getattr(config, name)}.", f"at most {most}")
    for name, value in inferred.items():
        if getattr(config, name) != value:
            raise KfError(
                f"{CONFIG_FILE} has {name} {getattr(config, name)}, but the tensors of {where} have {value}.",
                "a config.json that belongs to the weights beside it",
                f"remove {CONFIG_FILE} or put the right one there",
            )
    if (config.kind == "student") != (config.block > 0):
        raise KfError(
            f"{CONFIG_FILE} has block {config.block} for a {KIND_NAMES[config.kind]} model.",
            "at least 1 for a student, 0 for the others",
        )
    with torch.device("meta"):  # names and shapes of the module, without memory for it
        expected = build(config).state_dict()
    check_shapes(tensors, expected, where, f"{KIND_NAMES[config.kind]} checkpoint")
    return config


def stated_settings(weights: Path) -> dict[str, Any]:
    """Settings of the config.json beside a weights file; {} if there is none, or one of a transformers model.

    Raises:
        KfError: it is not a JSON object, or a value has a wrong type.
    """
    path = weights.parent / CONFIG_FILE
    if not os.path.lexists(path):
        return {}
    stated = read_json_object(path, MAX_CONFIG_BYTES)
    # For example beside the published masked model: it describes a transformers class, not these tensors.
    if "model_type" in stated:
        return {}
    # `describe` refuses unknown keys; types are checked here.
    for name in stated.keys() & {field.name for field in dataclasses.fields(ModelConfig)}:
        value = stated[name]
        if name == "kind" and value not in get_args(Kind):
            raise KfError(f"{path}: kind is {shown(repr(value))}.", ", ".join(get_args(Kind)))
        if name != "kind" and not (type(value) is int and abs(value) < 1 << 31):
            raise KfError(f"{path}: {name} is {shown(repr(value))}.", "a whole number below 2^31")
    return stated


def _inferred(tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """The settings that follow from a few tensors; `describe` checks all others against them."""
    rows, width = _shape(tensors, "vocab_embed.embedding", 2, where)
    (frequencies,) = _shape(tensors, "rotary_emb.inv_freq", 1, where)
    if frequencies == 0 or width % (2 * frequencies):
        raise KfError(
            f"{where}: {frequencies} frequencies in rotary_emb.inv_freq do not divide width {width} into heads.",
            "half the width of a head, which divides the width",
        )
    if not bool(torch.isfinite(tensors["rotary_emb.inv_freq"]).all()):
        raise KfError(f"{where}: rotary_emb.inv_freq is not finite.", "finite frequencies")
    kind: Kind = "teacher"
    if any(name.startswith("noise_encoder.") for name in tensors):
        kind = "student"
    elif any(name.startswith("sigma_map.") for name in tensors):
        kind = "masked"
    cond_width = _shape(tensors, "sigma_map.mlp.0.weight", 2, where)[0] if kind == "masked" else 0
    # Blocks are counted, so that one high index does not claim a deep model; `check_shapes` reports missing ones.
    depth = len({found[1] for name in tensors if (found := re.match(r"blocks\.(\d{1,6})\.", name))})
    return {
        "kind": kind,
        "vocab_size": rows,
        "width": width,
        "depth": max(depth, 1),
        "heads": width // (2 * frequencies),
        "cond_width": cond_width,
    }


def _shape(tensors: Mapping[str, Tensor], name: str, dimensions: int, where: str) -> tuple[int, ...]:
    if name not in tensors:
        raise KfError(
            f"{where} is not a checkpoint of a K-Forcing model: it has no {name}.",
            f"the published layout; found: {shortened(tensors) or 'no tensors'}",
        )
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions:
        raise KfError(f"{where}: {name} has shape {shown(shape)}.", f"{dimensions} dimensions")
    return shape


def check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str, what: str) -> None:
    """Raises KfError unless names and shapes are the expected ones; `where` and `what` describe the tensors."""
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(own.shape)}"
        for name, own in expected.items()
        if name in tensors and tensors[name].shape != own.shape
    ]
    found = [("missing", missing), ("unexpected", unexpected), ("of wrong shape", wrong)]
    problems = [f"{how}: {shortened(names)}" for how, names in found if names]
    if problems:
        raise KfError(
            f"{where} looks like a {what} but does not match one. {'; '.join(problems)}.",
            f"exactly the {len(expected)} tensors of the model that its settings describe",
        )
