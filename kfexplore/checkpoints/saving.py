"""Saves models and pairs, each file atomically, and reads a saved pair's info and card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from kfexplore.checkpoints.causal import described, saved_weights
from kfexplore.checkpoints.files import (
    CARD_FILES,
    CONFIG_FILE,
    INFO_FILE,
    TOKENIZER_FILE,
    TRAINING_FILE,
    WEIGHTS_FILE,
    read_json_object,
    read_text,
    write_whole,
)
from kfexplore.checkpoints.reading import check_values
from kfexplore.errors import KfError, writing
from kfexplore.models import AnyModel, CausalLM, CausalStudent

SAVED_TYPES = (torch.float32, torch.bfloat16)


def save_model(model: AnyModel, folder: str | Path, dtype: torch.dtype | None = torch.float32) -> Path:
    """Saves model.safetensors and config.json for `registry.load_model`; replaces an earlier model there.

    Args:
        folder: Created if missing.
        dtype: float32 or bfloat16 (half the size; the map changes where margins are small). None: bfloat16 if all
            weights are exact in it, else float32.

    Returns:
        The folder.

    Raises:
        KfError: another dtype, weights that fail `reading.check_values`, or a folder that cannot be written.
    """
    if dtype is None:
        exact = all(torch.equal(tensor, tensor.to(torch.bfloat16).to(tensor.dtype)) for tensor in model.parameters())
        dtype = torch.bfloat16 if exact else torch.float32
    if dtype not in SAVED_TYPES:
        raise KfError(f"A model cannot be saved as {dtype}.", "torch.float32 or torch.bfloat16")
    if isinstance(model, CausalLM | CausalStudent):
        settings, weights = described(model), saved_weights(model)
    else:
        settings, weights = dataclasses.asdict(model.config), model.state_dict()
    tensors = {name: _saved(name, tensor, dtype) for name, tensor in weights.items()}
    check_values("the model to be saved", tensors)
    folder = Path(folder)
    with writing(folder, SafetensorError):  # safetensors has its own error for a full disk
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / WEIGHTS_FILE, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
        write_whole(folder / CONFIG_FILE, json.dumps(settings, indent=2) + "\n")
    return folder


def _saved(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Rounded rotary frequencies would give wrong angles at far positions.
    kept = torch.float32 if name.endswith("inv_freq") else dtype
    return tensor.detach().to("cpu", kept).contiguous()


def save_pair(
    folder: Path, models: Mapping[str, AnyModel], tokenizer: Tokenizer | None, info: Mapping[str, Any]
) -> None:
    """Writes a pair for `registry.pair_parts` and `stored_info`.

    Args:
        folder: Created if missing.
        models: By role (`hub.ROLES`). Weights that are exact in bfloat16 are written in it, others in float32.
        tokenizer: None: the pair has none.
        info: `folder` is left out; `training` is written to a separate file.

    Raises:
        KfError: as `save_model`.
    """
    kept = {key: value for key, value in info.items() if key not in ("folder", "training")}
    texts = {INFO_FILE: json.dumps(kept, indent=1)} if kept else {}
    if "training" in info:
        texts[TRAINING_FILE] = json.dumps(info["training"], indent=1)
    if tokenizer is not None:
        texts[TOKENIZER_FILE] = tokenizer.to_str()
    for role, model in models.items():
        save_model(model, folder / role, dtype=None)
    with writing(folder):
        for name, text in texts.items():
            write_whole(folder / name, text)


def stored_info(folder: str | None) -> dict[str, Any]:
    """The info that `save_pair` stored in a folder; {} for other folders and for None."""
    file = Path(folder or "") / INFO_FILE
    stored = read_json_object(file, 1 << 16) if folder and file.is_file() else {}
    stored.pop("folder", None)  # a pair's location never comes from a file
    return stored


def card_text(folder: str | None) -> str:
    """The model card of a folder's pair without the hub's header; "" if there is none."""
    files = [Path(folder) / name for name in CARD_FILES] if folder else []
    text = next((read_text(file, 1 << 20) for file in files if file.is_file()), "")
    return huggingface_hub.ModelCard(text).text.strip()
