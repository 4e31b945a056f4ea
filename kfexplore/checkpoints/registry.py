"""Finds and loads models from a path, a hub id or the name of a pair, and checks that they fit together."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from kfexplore.checkpoints.causal import empty_network, is_causal, load_causal, load_causal_student
from kfexplore.checkpoints.files import (
    TOKENIZER_FILE,
    TRAINING_FILE,
    WEIGHT_SUFFIXES,
    WEIGHTS_FILE,
    by_hand,
    given,
    read_json_object,
    shortened,
    shown,
    weight_files,
)
from kfexplore.checkpoints.hub import ROLES, fetch_file
from kfexplore.checkpoints.infer_config import KIND_NAMES, describe, stated_settings
from kfexplore.checkpoints.reading import read_tensors
from kfexplore.checkpoints.tokenizers import highest_id
from kfexplore.config import DEFAULT_PAIR, ModelConfig
from kfexplore.decoders import Kind
from kfexplore.errors import KfError, reason
from kfexplore.models import AnyModel, CausalConfig, CausalLM, Model, Network, build

PACKAGE = Path(__file__).resolve().parents[1]
DTYPES = {str(t).removeprefix("torch."): t for t in (torch.float32, torch.bfloat16, torch.float16, torch.float64)}


@dataclass(frozen=True)
class HubRepository:
    """A hub repository `owner/name` at one commit, and its checkpoint files."""

    name: str
    revision: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class NamedPair:
    """A pair that can be loaded by name."""

    teacher: str = "teacher"
    """File in the repository, or folder in the bundled pair."""
    student: str = "student"
    tokenizer: str = TOKENIZER_FILE
    """A file of the bundled pair, or a hub name."""
    repository: HubRepository | None = None
    """None: bundled with the package."""
    about: str = ""
    """Short description for lists."""
    info: dict[str, Any] = field(default_factory=dict)
    """Training data, licence and similar facts."""


K_FORCING = HubRepository(
    "zwave/K-Forcing",
    "16b984316bdd4585f17b11d0e61a58d236c2febc",
    ("ar_openwebtxt.ckpt", "pflm_owt_k4.ckpt", "ar_best_lm1b.ckpt", "pflm_lm1b_k4.ckpt"),
)
MDLM = HubRepository("kuleshov-group/mdlm-owt", "25ce5c5910fcbc5435ce208a27a5c75308eab4d2", ("model.safetensors",))
REPOSITORIES = {repository.name: repository for repository in (K_FORCING, MDLM)}
"""Repositories that may be named as 'owner/name' if they have one file."""

LICENCE = "MIT (model card of the hub repository)"
NAMED = {
    "stories": NamedPair(about="simple stories", info={"data": "generated simple stories"}),
    "tales": NamedPair(about="real books: harder", info={"data": "the bundled corpus of tales"}),
    "owt": NamedPair(
        K_FORCING.files[0],
        K_FORCING.files[1],
        tokenizer="gpt2",
        repository=K_FORCING,
        about="web texts (hub)",
        info={"data": "OpenWebText", "licence": LICENCE},
    ),
    "lm1b": NamedPair(
        K_FORCING.files[2],
        K_FORCING.files[3],
        tokenizer="bert-base-uncased",
        repository=K_FORCING,
        about="news (hub)",
        info={"data": "LM1B", "licence": LICENCE},
    ),
}


@dataclass(frozen=True)
class PairParts:
    """Paths of a pair: models for `load_model`, a tokenizer for `load_tokenizer`."""

    teacher: Path
    """Or the folder of a transformers model, for `load_causal`."""
    student: Path | None
    masked: Path | None
    tokenizer: Path | str | None
    info: dict[str, Any]


def load_model(
    path_or_id: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    kind: Kind | None = None,
) -> AnyModel:
    """Loads a teacher, student or masked model, recognised by the checkpoint's tensors; without gradients.

    Args:
        path_or_id: A checkpoint file, a folder with one (as `saving.save_model` writes), the folder of a transformers
            model or of a student over one, a hub id `owner/name/file`, or `owner/name` of a known repository with one
            file.
        device: None: the CPU.
        dtype: None: float32, whatever the file has; the rotary frequencies keep the file's type. A
            transformers model is always float32.
        kind: What the checkpoint must hold; None: any.

    Raises:
        KfError: there is no checkpoint, it cannot be read safely (`reading.read_tensors`), is not a model of this kind
            (`infer_config.describe`), or the device or dtype is not available.
    """
    target, number = usable_device(device), DTYPES.get(str(dtype or torch.float32).removeprefix("torch."))
    if number is None:
        raise KfError(f"A model cannot be loaded as {dtype}.", ", ".join(DTYPES))
    if is_causal(path_or_id):
        _check_kind(path_or_id, "teacher", kind)
        return load_causal(path_or_id, target)
    if is_causal(path_or_id, "network"):
        _check_kind(path_or_id, "student", kind)
        return load_causal_student(path_or_id, target)
    path = locate(path_or_id)
    tensors = read_tensors(path)
    model = _empty(path, tensors)
    _check_kind(path, model.config.kind, kind)
    placed = {
        name: tensor.to(target) if name.endswith("inv_freq") else tensor.to(target, number)
        for name, tensor in tensors.items()
    }
    model.load_state_dict(placed, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def empty_teacher(path: Path) -> Network:
    """The teacher of `PairParts` on the meta device, without its weights; KfError as `load_model`."""
    if is_causal(path):
        config, network = empty_network(path)
        return CausalLM(network, config).requires_grad_(False)
    path = locate(path)
    return _empty(path, read_tensors(path))


def _empty(path: Path, tensors: Mapping[str, Tensor]) -> Model:
    """The model of a file on the meta device, where no weights are initialised."""
    config = describe(tensors, stated_settings(path), str(path))
    with torch.device("meta"):
        return build(config)


def _check_kind(path: str | Path, found: Kind, wanted: Kind | None) -> None:
    if wanted not in (None, found):
        raise KfError(
            f"{path} is a {KIND_NAMES[found]} checkpoint, not a {KIND_NAMES[wanted].split()[0]}.",
            f"a {KIND_NAMES[wanted]} checkpoint",
        )


def locate(path_or_id: str | Path) -> Path:
    """The checkpoint file of a path or a hub id; fetched if necessary.

    Raises:
        KfError: a folder without one clear checkpoint; a hub file that is not stored here and cannot be fetched.
    """
    path = given(path_or_id)
    if path.is_dir():
        return _file_in(path)
    name = str(path_or_id)
    if path.exists() or isinstance(path_or_id, Path) or not _is_hub_id(name):
        return path  # `read_tensors` reports a missing file
    owner, repository, *file = name.split("/", 2)
    return _hub_file(f"{owner}/{repository}", file[0] if file else None)


def pair_parts(name_or_folder: str | Path) -> PairParts:
    """Paths of the models and the tokenizer of a pair; published ones are fetched on first use.

    Args:
        name_or_folder: A name of `NAMED`, or a folder with `teacher` and optionally `student` and `masked`:
            each a folder that `save_model` wrote or a checkpoint file (teacher.ckpt); and optionally a
            tokenizer.json and a training.json. A folder without `teacher` may be a transformers model.
            A name takes precedence over a folder of that name; write `./tales` for the folder.

    Raises:
        KfError: no such name (near ones are suggested) or folder, a part is missing, or the hub does
            not answer.
    """
    if name_or_folder in NAMED:
        name = str(name_or_folder)
        pair = NAMED[name]
        info = {"name": name, **pair.info}
        return _published(name, pair, info) if pair.repository else _in_folder(bundled_folder(name), info)
    folder = given(name_or_folder)
    if folder.is_dir():
        return _in_folder(folder, {"name": folder.resolve().name})
    near = difflib.get_close_matches(str(name_or_folder), NAMED, n=2)
    raise KfError(
        f"There is no pair {str(name_or_folder)!r}" + (f"; did you mean {' or '.join(near)}?" if near else "."),
        f"{', '.join(NAMED)}, a folder with a teacher and, for a learned map, a student, or a transformers model",
        f"use the pair {DEFAULT_PAIR}, which needs no download",
    )


def fingerprint(parts: PairParts) -> str:
    """sha256 of the weight files of teacher and student, in hexadecimal."""
    digest = hashlib.sha256()
    for path in filter(None, (parts.teacher, parts.student)):
        for file in [path / name for name in weight_files(path)] if is_causal(path) else [locate(path)]:
            with file.open("rb") as stream:
                while part := stream.read(1 << 24):
                    digest.update(part)
    return digest.hexdigest()


def check_pair(
    teacher: ModelConfig | CausalConfig,
    others: Mapping[str, ModelConfig | CausalConfig],
    tokenizer: Tokenizer | None = None,
) -> None:
    """Raises KfError unless models and tokenizer share one vocabulary; a transformers model has no mask token.

    A student over a transformers model fits only the teacher that it was distilled from.
    """
    for name, config in others.items():
        for setting in ("vocab_size", "mask_id", "family", "width", "depth", "origin"):
            if setting in ("width", "depth") and isinstance(config, ModelConfig):
                continue  # may be deeper than its teacher
            ours, theirs = getattr(teacher, setting, None), getattr(config, setting, None)
            if ours != theirs and setting == "origin":
                raise KfError(
                    f"The {name} was distilled from another teacher than this one ({shown(theirs)} instead of {ours}).",
                    "a student with the teacher that gave its targets",
                    "keep the folders teacher and student of one training run together",
                )
            if ours != theirs:
                raise KfError(
                    f"The teacher and the {name} do not fit together: {setting} is {ours} and {theirs}.",
                    "models of one vocabulary",
                )
    # An added token beyond the embedding rows, such as padding, may stay unused: a prompt with it is refused.
    if tokenizer is not None and (highest := highest_id(tokenizer, added=False)) >= teacher.vocab_size:
        raise KfError(
            f"The tokenizer does not fit the model: its highest id is {highest}, "
            f"but the model has {teacher.vocab_size} tokens.",
            f"a tokenizer with ids up to {teacher.vocab_size - 1}",
        )


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device, checked by reading a number from it; KfError if that fails."""
    try:
        found = torch.device("cpu" if device is None else device)
        if found.type not in ("cpu", "cuda"):  # MPS has no float64, in which distributions are summed
            raise RuntimeError("it is not supported.")
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        why = reason(error)
        listed = why.startswith("Expected one of")  # lists all twenty devices that torch knows
        raise KfError(
            f"The device {str(device)!r} cannot be used" + ("." if listed else f": {why}"),
            "cpu" + (", cuda" if torch.cuda.is_available() else " (no CUDA device is visible)"),
        ) from error
    return found


def _file_in(folder: Path) -> Path:
    """The checkpoint of a folder: model.safetensors, else its only one."""
    found = weight_files(folder)
    if WEIGHTS_FILE in found:
        return folder / WEIGHTS_FILE
    if len(found) == 1:
        return folder / found[0]
    listed = f"one of: {shortened(found)}" if found else f"a folder with {WEIGHTS_FILE}"
    count = "several checkpoint files" if found else "no checkpoint file"
    raise KfError(f"The folder {folder} has {count}.", listed, "name the file")


def _is_hub_id(name: str) -> bool:
    """Whether it is `owner/name` or `owner/name/file` of a checkpoint, not a missing local path."""
    parts = name.split("/")
    if not all(re.fullmatch(r"[\w-][\w.-]*", part) for part in parts) or Path(parts[0]).exists():
        return False
    return name in REPOSITORIES or (len(parts) > 2 and name.endswith(WEIGHT_SUFFIXES))


def _hub_file(repository: str, file: str | None) -> Path:
    known = REPOSITORIES.get(repository)
    if file is None:
        assert known is not None  # _is_hub_id
        if len(known.files) > 1:
            listed = ", ".join(f"{repository}/{name}" for name in known.files)
            raise KfError(f"The repository {repository} has several checkpoints.", listed)
        file = known.files[0]
    pairs = [n for n, p in NAMED.items() if p.repository is known and file in (p.teacher, p.student)]
    folder = by_hand(pairs[0] if known and pairs else repository)
    return fetch_file(repository, known.revision if known else None, file, folder, [file])


def _published(name: str, pair: NamedPair, info: dict[str, Any]) -> PairParts:
    repository = pair.repository
    assert repository is not None
    folder, needed = by_hand(name), [pair.teacher, pair.student]
    teacher, student = (fetch_file(repository.name, repository.revision, f, folder, needed) for f in needed)
    tokenizer = folder / TOKENIZER_FILE
    source = {"repository": repository.name, "revision": repository.revision, "files": needed}
    return PairParts(teacher, student, None, tokenizer if tokenizer.is_file() else pair.tokenizer, {**info, **source})


def bundled_pairs() -> list[str]:
    """Names of the bundled pairs whose folders exist."""
    return [name for name, pair in NAMED.items() if pair.repository is None and any(map(Path.is_dir, _places(name)))]


def bundled_folder(name: str) -> Path:
    """Folder of a bundled pair: beside the package in a working copy, or packed inside it.

    Raises:
        KfError: it is not a bundled pair, or its folder is missing.
    """
    bundled = [each for each, pair in NAMED.items() if pair.repository is None]
    if name not in bundled:
        valid = f"{' or '.join(bundled)}; results of other pairs are not stored"
        raise KfError(f"{name} is not a bundled pair.", valid)
    places = _places(name)
    if found := next(filter(Path.is_dir, places), None):
        return found
    raise KfError(
        f"The bundled pair {name} is missing from {places[0]}.",
        "a whole working copy of the repository, installed with pip install -e .",
        "git checkout checkpoints",
    )


def _places(name: str) -> list[Path]:
    return [PACKAGE.parent / "checkpoints" / name, PACKAGE / "bundled" / name]


def _in_folder(folder: Path, info: dict[str, Any]) -> PairParts:
    tokenizer, training = folder / TOKENIZER_FILE, folder / TRAINING_FILE
    if os.path.lexists(training):
        info = {**info, "training": read_json_object(training, 1 << 16)}
    teacher, student, masked = (_part(folder, role) for role in ROLES)
    if teacher is None and is_causal(folder):
        teacher = folder
    if teacher is None:
        there = sorted(f.name for f in folder.iterdir())
        raise KfError(
            f"The pair in {folder} has no teacher.",
            "a folder teacher/ or a file teacher.safetensors, teacher.ckpt, ...; or a transformers model",
            f"add it; the folder has: {shortened(there) or 'nothing'}",
        )
    found = tokenizer if os.path.lexists(tokenizer) else None
    return PairParts(teacher, student, masked, found, {**info, "folder": str(folder)})


def _part(folder: Path, role: str) -> Path | None:
    """`role/`, or the one checkpoint file called `role`."""
    if (folder / role).is_dir():
        return folder / role
    found = [name for name in weight_files(folder) if Path(name).stem == role]
    if len(found) > 1:
        raise KfError(f"The pair in {folder} has several files for its {role}: {shortened(found)}.", "one of them")
    return folder / found[0] if found else None
