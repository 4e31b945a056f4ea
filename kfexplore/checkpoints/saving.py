"""Writes a model as model.safetensors and config.json, each whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from kfexplore.checkpoints.infer_config import CONFIG_FILE
from kfexplore.checkpoints.reading import check_values
from kfexplore.errors import KfError
from kfexplore.models import Model

WEIGHTS_FILE = "model.safetensors"
SAVED_TYPES = (torch.float32, torch.bfloat16)


def save_model(
    model: Model,
    folder: str | Path,
    context: int | None = None,
    block: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Saves a model where `registry.load_model` finds it again; an earlier one there is replaced.

    Args:
        model: Teacher, student or masked model.
        folder: Made if need be.
        context: Longest sequence it was trained on, in tokens; None: as in its config.
        block: Noise slots K it was trained on (students); None: as in its config.
        dtype: float32 or bfloat16 (half the size; the map changes where margins are small).

    Returns:
        The folder.

    Raises:
        KfError: another dtype, weights that are not sound (`reading.check_values`), or a folder that cannot be written.
    """
    if dtype not in SAVED_TYPES:
        raise KfError(f"A model cannot be saved as {dtype}.", "torch.float32 or torch.bfloat16")
    config = dataclasses.replace(
        model.config,
        context=model.config.context if context is None else context,
        block=model.config.block if block is None else block,
    )
    tensors = {name: _saved(name, tensor, dtype) for name, tensor in model.state_dict().items()}
    check_values("the model to be saved", tensors)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / WEIGHTS_FILE, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
        text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
        write_whole(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))
    except (OSError, SafetensorError) as error:  # a full disk is the library's own error
        raise KfError(f"The model cannot be written to {folder}: {error}.", "a folder you may write to") from error
    return folder


def _saved(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Rounded rotary frequencies would turn far positions by wrong angles.
    kept = torch.float32 if name.endswith("inv_freq") else dtype
    return tensor.detach().to("cpu", kept).contiguous()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside `path` and renames, so that a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.chmod(0o644)  # safetensors leaves files that their owner alone can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
