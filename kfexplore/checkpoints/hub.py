"""A pair as a repository of the hub: the folder that it is, how it is written, and how it is fetched."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from tokenizers import Tokenizer

from kfexplore.checkpoints.connection import fetching
from kfexplore.checkpoints.infer_config import CONFIG_FILE
from kfexplore.checkpoints.json_io import read_json_object, read_text
from kfexplore.checkpoints.paths import by_hand
from kfexplore.checkpoints.reading import WEIGHT_SUFFIXES
from kfexplore.checkpoints.registry import TRAINING_FILE
from kfexplore.checkpoints.saving import save_model, write_whole
from kfexplore.checkpoints.shards import INDEX_FILE, WHOLE_FILE
from kfexplore.checkpoints.tokenizers import SLOW_FILES, TOKENIZER_FILE, AnyTokenizer
from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import KfError
from kfexplore.models import Model

INFO_FILE = "info.json"
"""Beside the models of a saved pair: its info, but for what has a file of its own."""
CARD_FILES = ("MODEL_CARD.md", "README.md")
"""What tells of a pair in words: as `kfexplore eval` writes it, and as the hub shows it."""
MODELS = ("teacher", "student", "masked")
FETCHED = [f"{role}{rest}" for role in MODELS for rest in ("/*", ".*")] + [
    TOKENIZER_FILE,
    TRAINING_FILE,
    INFO_FILE,
    *CARD_FILES,
    CONFIG_FILE,
    WHOLE_FILE,
    INDEX_FILE,
    "model-*-of-*.safetensors",
    "model.safetensors-*-of-*.safetensors",
    *SLOW_FILES,
]
"""What of a repository is fetched; from config.json on, what a model of transformers has."""


def is_repository(name: str | Path) -> bool:
    """Whether a pair's name means `owner/name` on the hub, and not a path whose first folder is here."""
    if isinstance(name, Path) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        return False
    return not Path(name.split("/")[0]).exists() and not name.endswith(WEIGHT_SUFFIXES)


def fetch_pair(repository: str, **options: Any) -> Path:
    """The folder of a pair's repository: put there by hand (`places.by_hand`), or else fetched.

    Args:
        repository: `owner/name` on the hub.
        options: Of `huggingface_hub.snapshot_download`: revision, token, cache_dir, force_download, ...

    Raises:
        KfError: it is not here and cannot be fetched.
    """
    held = by_hand(repository)
    if held.is_dir():
        return held
    with fetching(
        f"There is no folder {repository}, and the hub's repository of that name cannot be fetched",
        f"a folder, a repository of a pair and a connection to the hub, or its files in {held}",
        f"use the pair {DEFAULT_PAIR}, which needs no download",
    ) as local:
        options |= {"local_files_only": True} if local else {}
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=FETCHED, **options))


def save_pair(
    folder: Path, models: Mapping[str, Model], tokenizer: AnyTokenizer | None, info: Mapping[str, Any]
) -> None:
    """Writes what `registry.pair_parts` and `stored_info` find again.

    Args:
        folder: Made if need be.
        models: By role, of `MODELS`. Weights that bfloat16 holds exactly are written in it, others in float32.
        tokenizer: As loaded; None: the pair has none.
        info: Its `folder` is left out.

    Raises:
        KfError: as `save_model`, or a tokenizer that has no file.
    """
    kept = {key: value for key, value in info.items() if key not in ("folder", "training")}
    texts = {INFO_FILE: json.dumps(kept, indent=1)}
    if "training" in info:
        texts[TRAINING_FILE] = json.dumps(info["training"], indent=1)
    if tokenizer is not None:
        fast = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(fast, Tokenizer):
            raise KfError("The pair's tokenizer has no fast version.", f"a tokenizer with a {TOKENIZER_FILE}")
        texts[TOKENIZER_FILE] = fast.to_str()
    for role, model in models.items():
        save_model(model, folder / role, dtype=_least_type(model))
    for name, text in texts.items():
        write_whole(folder / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))  # type: ignore[misc]


def stored_info(folder: str | None) -> dict[str, Any]:
    """What `save_pair` kept of the info of a folder's pair; {} for other folders, or none."""
    file = Path(folder or "") / INFO_FILE
    stored = read_json_object(file, 1 << 16) if folder and file.is_file() else {}
    stored.pop("folder", None)  # where a pair lies is not for a file to say
    return stored


def card_text(folder: str | None) -> str:
    """What tells of a folder's pair, without the hub's header; "" where nothing does."""
    files = [Path(folder) / name for name in CARD_FILES] if folder else []
    told = next((read_text(file, 1 << 20) for file in files if file.is_file()), "")
    return huggingface_hub.ModelCard(told).text.strip()


def _least_type(model: Model) -> torch.dtype:
    exact = all(torch.equal(tensor, tensor.to(torch.bfloat16).to(tensor.dtype)) for tensor in model.parameters())
    return torch.bfloat16 if exact else torch.float32
