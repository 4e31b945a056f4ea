"""A transformers model as a teacher or a student: config.json of a known family, weights from safetensors only.

The library builds what the config says, so only settings that passed `families.checked_settings` are passed on, and the
weights must be exactly those of the resulting network. No code comes from a repository.

A student's config.json has `STUDENT_KEYS`; `network` is the config.json of its teacher.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from kfexplore.checkpoints.families import FAMILIES, checked_settings
from kfexplore.checkpoints.files import (
    CONFIG_FILE,
    INDEX_FILE,
    WEIGHTS_FILE,
    given,
    read_json_object,
    shortened,
    shown,
    weight_files,
)
from kfexplore.checkpoints.infer_config import MAX_CONFIG_BYTES, MOST, check_shapes
from kfexplore.checkpoints.reading import bare_name, read_tensors
from kfexplore.errors import KfError
from kfexplore.models import (
    CausalConfig,
    CausalLM,
    CausalStudent,
    causal_network,
    place_weights,
    window,
)

MAX_INDEX_BYTES = 4 << 20
_SHARD = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors", re.ASCII)
_PLAIN = re.compile(r"\w[\w.-]{0,200}\.safetensors", re.ASCII)
HEAD = "lm_head.weight"
STUDENT_KEYS = {"kind", "block", "origin", "network"}
NETWORK, ENCODER = "network.", "noise_encoder."
"""Prefixes of a student's weights."""
LEFT_OUT = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.rotary_emb\.inv_freq$")
"""Masks and frequencies saved by earlier versions of the library; they follow from the config."""

CausalT = TypeVar("CausalT", CausalLM, CausalStudent)


def is_causal(path: str | Path, key: str = "model_type") -> bool:
    """Whether a path is the folder of a transformers model, or, with the key `network`, of a student over one."""
    file = given(path) / CONFIG_FILE
    return file.is_file() and key in read_json_object(file, MAX_CONFIG_BYTES)


def load_causal(path: str | Path, device: torch.device) -> CausalLM:
    """Loads a transformers model from a folder for which `is_causal` holds, in float32 and without gradients.

    Raises:
        KfError: an unknown family, custom code, weights that are missing, pickled, unsound or do not match the config,
            or settings out of range.
    """
    folder = given(path)
    shape, network = empty_network(folder)
    _place(folder, shape, network, read_folder(folder))
    return _tried(folder, CausalLM(network, dataclasses.replace(shape, origin=identity(network))), device)


def load_causal_student(path: str | Path, device: torch.device) -> CausalStudent:
    """Loads a student over a transformers model, saved with the config of `described`; else as `load_causal`."""
    folder = given(path)
    stated = read_json_object(folder / CONFIG_FILE, MAX_CONFIG_BYTES)
    block, origin, inner = (cast(Any, stated.get(name)) for name in ("block", "origin", "network"))
    whole = stated.keys() == STUDENT_KEYS and stated["kind"] == "student" and isinstance(origin, str)
    if not whole or not isinstance(inner, dict) or "model_type" not in inner or type(block) is not int:
        raise KfError(
            f"{folder / CONFIG_FILE} does not describe a student over a transformers model.",
            f"exactly the settings {', '.join(sorted(STUDENT_KEYS))}, as they were saved with the weights",
        )
    shape, network = empty_network(folder, inner)
    if not 1 <= block <= min(MOST["block"], shape.context - 1):
        raise KfError(f"{folder}: block is {block}.", f"1 to {min(MOST['block'], shape.context - 1)}")
    tensors = read_folder(folder)
    own = {name.removeprefix(ENCODER): weight for name, weight in tensors.items() if name.startswith(ENCODER)}
    with torch.device("meta"):
        student = CausalStudent(network, dataclasses.replace(shape, block=block, origin=origin))
    check_shapes(own, student.noise_encoder.state_dict(), str(folder), "noise encoder")
    rest = {name.removeprefix(NETWORK): weight for name, weight in tensors.items() if not name.startswith(ENCODER)}
    _place(folder, shape, network, rest)
    student.noise_encoder.load_state_dict({name: weight.float() for name, weight in own.items()}, assign=True)
    return _tried(folder, student.requires_grad_(False), device)


def empty_network(folder: Path, stated: Mapping[str, Any] | None = None) -> tuple[CausalConfig, Any]:
    """The shape of a folder's model and its network on the meta device, from `stated` settings or its config.json.

    Raises:
        KfError: the settings are invalid, as in `load_causal`.
    """
    stated = read_json_object(folder / CONFIG_FILE, MAX_CONFIG_BYTES) if stated is None else stated
    family, settings = checked_settings(folder, stated)
    tied = settings.pop("tie_word_embeddings", None)
    tied = FAMILIES[family].tied if tied is None else bool(tied)
    with _building(folder, family):
        config = importlib.import_module("transformers").AutoConfig.for_model(
            family, tie_word_embeddings=tied, bos_token_id=None, eos_token_id=None, **settings
        )
        context = min(config.max_position_embeddings, window(config) or config.max_position_embeddings)
        shape = CausalConfig(
            family,
            config.vocab_size,
            config.hidden_size,
            config.num_hidden_layers,
            context,
            heads=config.num_attention_heads,
            settings=settings | {"tie_word_embeddings": tied},
        )
        return shape, causal_network(config)


def described(model: CausalLM | CausalStudent) -> dict[str, Any]:
    """The config.json of a model; transformers can read a teacher's as well."""
    config = model.config
    network = {"model_type": config.family, **config.settings}
    if isinstance(model, CausalLM):
        return network
    return {"kind": "student", "block": config.block, "origin": config.origin, "network": network}


def saved_weights(model: CausalLM | CausalStudent) -> dict[str, Tensor]:
    """The weights of a model under their names in the file, without a tied head."""
    prefix = NETWORK if isinstance(model, CausalLM) else ""
    tied = model.config.settings["tie_word_embeddings"]
    named = {name.removeprefix(prefix): weight for name, weight in model.state_dict().items()}
    return {name: weight for name, weight in named.items() if not (tied and name.endswith(HEAD))}


def identity(network: Any) -> str:
    """Identifies a network's weights: 16 hexadecimal digits from a sample of each tensor's values."""
    digest = hashlib.sha256()
    for name, weight in sorted(network.named_parameters()):
        some = weight.detach().flatten()[:: max(1, weight.numel() // 64)]
        digest.update(name.encode() + some.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _place(folder: Path, shape: CausalConfig, network: Any, tensors: Mapping[str, Tensor]) -> None:
    """Sets the weights of an empty network from a file's tensors."""
    tied = shape.settings["tie_word_embeddings"]
    with _building(folder, shape.family):
        named = _named(folder, network, tensors, tied)
        check_shapes(named, network.state_dict(), str(folder), f"{shape.family} model")
        place_weights(network, {name: tensor.float() for name, tensor in named.items()}, tied)


def _tried(folder: Path, model: CausalT, device: torch.device) -> CausalT:
    """Moves the model to its device and runs one pass, which fails for head counts that do not divide."""
    with _building(folder, model.config.family), torch.inference_mode():
        model.to(device).prefill(torch.zeros(1, 1, dtype=torch.int64, device=device))
    return model


@contextmanager
def _building(folder: Path, family: str) -> Iterator[None]:
    """Turns whatever the library raises for invalid settings into a KfError."""
    try:
        yield
    except KfError:
        raise
    except Exception as error:
        raise KfError(
            f"{folder / CONFIG_FILE}: no {family} model can be built from it: {shown(error, 300).rstrip('.')}.",
            "the config.json that was saved with these weights",
        ) from error


def _named(folder: Path, network: Any, tensors: Mapping[str, Tensor], tied: bool) -> dict[str, Tensor]:
    """The weights under the network's names: some files omit the body's prefix or name the head differently."""
    body = f"{network.base_model_prefix}."
    named = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^embed_out\.", "lm_head.", name)
        named[name if name.startswith((body, "lm_head.")) else body + name] = tensor
    if len(named) != len(tensors):
        raise KfError(f"{folder} has weights both with and without {body!r}.", "one of each")
    inputs = network.get_input_embeddings()
    embedding = next(name for name, module in network.named_modules() if module is inputs) + ".weight"
    for one, other in ((HEAD, embedding), (embedding, HEAD)):
        if tied and one not in named and other in named:
            named[one] = named[other]
    return named


def read_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of `model.safetensors`, else of the files that the index names, else of the only set of shards.

    Args:
        folder: As `save_pretrained` writes it. Other files are not read: earlier models may leave shards behind.

    Raises:
        KfError: a file is missing, there are two sets of shards and no index, a tensor is in two files, or the index
            names a wrong file for a tensor; and as `read_tensors`.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return read_tensors(folder / WEIGHTS_FILE, LEFT_OUT)
    places = _weight_map(folder)
    files = sorted(set(places.values())) or _shards(folder)
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise KfError(
            f"{folder} lacks {shortened(missing)}.", f"all of: {shortened(files)}", "fetch or copy the folder again"
        )
    tensors: dict[str, Tensor] = {}
    found: dict[str, str] = {}
    for file in files:
        for name, tensor in read_tensors(folder / file, LEFT_OUT).items():
            if name in tensors:
                raise KfError(f"{folder} has {shown(name)} twice: in {found[name]} and in {file}.", "one of each")
            tensors[name], found[name] = tensor, file
    for name, file in places.items():
        if not LEFT_OUT.search(name) and found.get(bare_name(name)) != file:
            raise KfError(
                f"{folder / INDEX_FILE} places {shown(name)} in {file}, which does not have it.",
                "an index that was saved with these weights",
                "fetch or copy the folder again",
            )
    return tensors


def _weight_map(folder: Path) -> dict[str, str]:
    """File name by tensor name, from the index; {} without an index."""
    path = folder / INDEX_FILE
    if not path.exists():
        return {}
    places = read_json_object(path, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise KfError(f"{path} has no weight_map.", "a JSON object of file names by tensor")
    for file in places.values():
        if not isinstance(file, str) or not _PLAIN.fullmatch(file):
            raise KfError(f"{path} names the file {shown(repr(file))}.", "safetensors files in the same folder")
    return places


def _shards(folder: Path) -> list[str]:
    """File names of the only set of shards."""
    there = weight_files(folder)
    counts = {shard[1] for name in there if (shard := _SHARD.fullmatch(name))}
    if not counts:
        raise KfError(
            f"{folder} has no {WEIGHTS_FILE}; it has {shortened(there) or 'no weights'}.",
            "a transformers model in safetensors; pickled weights are not read",
            "save it with save_pretrained, which writes safetensors",
        )
    if len(counts) > 1:
        raise KfError(
            f"{folder} has shards of several models and no {INDEX_FILE}: {shortened(there)}.",
            "one set of shards, or the index",
            "remove the shards of the other model",
        )
    count = counts.pop()
    return [f"model-{number:05}-of-{count}.safetensors" for number in range(1, int(count) + 1)]
