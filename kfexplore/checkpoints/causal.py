"""A transformers model as a teacher or a student: config.json of a known family, weights from safetensors only.

The library builds what the config says, so only the settings in `FAMILIES` are passed on, each checked for its range,
and the weights must be exactly those of the resulting network. No code comes from a repository.

A student's config.json has `STUDENT_KEYS`; `network` is the config.json of its teacher.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

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
    NoiseEncoder,
    causal_network,
    place_weights,
    window,
)

MAX_INDEX_BYTES = 4 << 20
_SHARD = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors")
_PLAIN = re.compile(r"\w[\w.-]*\.safetensors")
HEAD = "lm_head.weight"
STUDENT_KEYS = {"kind", "block", "origin", "network"}
NETWORK, ENCODER = "network.", "noise_encoder."
"""Prefixes of a student's weights."""
LEFT_OUT = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.rotary_emb\.inv_freq$")
"""Masks and frequencies saved by earlier versions of the library; they follow from the config."""
ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu")
ROPE_TYPES = ("default", "linear", "llama3")
"""Kinds whose rotary angles depend only on the position."""
LAYER_TYPES = ("full_attention", "sliding_attention")
_ROPE = {"rope_type", "type", "rope_theta", "factor", "partial_rotary_factor"}
_ROPE |= {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
_BASES = ("rope_theta", "rope_local_base_freq", "rotary_emb_base")
MAX_BASE = 1e12
"""Base of the angles of positions; Llama 3 has 5e5."""
_UNREAD = {
    "auto_map": "code of its own",
    "quantization_config": "weights that are not plain numbers",
    "transformers_weights": "weights in a file of another name",
    "use_bidirectional_attention": "attention to later tokens",
}
"""Settings that change what is computed in ways that are not supported."""

CausalT = TypeVar("CausalT", CausalLM, CausalStudent)
_SIZES = {"n_layer": "depth", "num_hidden_layers": "depth", "n_positions": "context"}
_SIZES |= {"max_position_embeddings": "context"}


@dataclass(frozen=True)
class Family:
    """Models that differ only in size and weights."""

    settings: str
    """Names of the settings in config.json that affect what is computed."""
    tied: bool = False
    """Default of `tie_word_embeddings`."""


COMMON = "vocab_size tie_word_embeddings "
ROTARY = COMMON + (
    "max_position_embeddings hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
    "attention_bias rope_parameters rope_scaling partial_rotary_factor original_max_position_embeddings "
)
"""Families with rotary positions."""
GROUPED = ROTARY + "num_key_value_heads head_dim rms_norm_eps rope_theta "
"""Families that share keys between heads."""
WINDOWED = GROUPED + "use_sliding_window sliding_window max_window_layers layer_types "
"""Families whose layers may see only the last tokens (`models.causal.window`)."""
GEMMA = WINDOWED + "hidden_activation query_pre_attn_scalar final_logit_softcapping attn_logit_softcapping "
FAMILIES = {
    "gpt2": Family(
        COMMON + "n_positions n_embd n_layer n_head n_inner activation_function layer_norm_epsilon "
        "scale_attn_weights scale_attn_by_inverse_layer_idx",
        tied=True,
    ),
    "gpt_neox": Family(ROTARY + "layer_norm_eps use_parallel_residual rotary_pct rotary_emb_base"),
    "llama": Family(GROUPED + "mlp_bias"),
    "mistral": Family(GROUPED + "sliding_window"),
    "qwen2": Family(WINDOWED),
    "qwen3": Family(WINDOWED),
    "gemma2": Family(GEMMA, tied=True),
    "gemma3_text": Family(GEMMA + "sliding_window_pattern rope_local_base_freq", tied=True),
}
"""By `model_type`."""


def is_causal(path: str | Path, key: str = "model_type") -> bool:
    """Whether a path is the folder of a transformers model, or with the key `network` of a student over one."""
    file = given(path) / CONFIG_FILE
    return file.is_file() and key in read_json_object(file, MAX_CONFIG_BYTES)


def load_causal(path: str | Path, device: torch.device) -> CausalLM:
    """Loads a transformers model from a folder, in float32 and without gradients.

    Args:
        path: A folder for which `is_causal` holds.
        device: Its device.

    Raises:
        KfError: an unknown family, custom code, weights that are missing, pickled, unsound or do not match the config,
            or settings out of range.
    """
    folder = given(path)
    shape, network = empty_network(folder)
    _place(folder, shape, network, read_folder(folder, LEFT_OUT))
    return _tried(folder, CausalLM(network, dataclasses.replace(shape, origin=identity(network))), device)


def load_causal_student(path: str | Path, device: torch.device) -> CausalStudent:
    """Loads a student over a transformers model from a folder that `described` describes; as `load_causal`."""
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
    tensors = read_folder(folder, LEFT_OUT)
    own = {name.removeprefix(ENCODER): weight for name, weight in tensors.items() if name.startswith(ENCODER)}
    with torch.device("meta"):
        encoder = NoiseEncoder(shape.width)
    expected = {name: tuple(weight.shape) for name, weight in encoder.state_dict().items()}
    check_shapes(own, expected, str(folder), "noise encoder")
    rest = {name.removeprefix(NETWORK): weight for name, weight in tensors.items() if not name.startswith(ENCODER)}
    _place(folder, shape, network, rest)
    with torch.device("meta"):
        student = CausalStudent(network, dataclasses.replace(shape, block=block, origin=origin))
    student.noise_encoder.load_state_dict({name: weight.float() for name, weight in own.items()}, assign=True)
    return _tried(folder, student.requires_grad_(False), device)


def empty_network(folder: Path, stated: Mapping[str, Any] | None = None) -> tuple[CausalConfig, Any]:
    """The shape of the model that a config.json describes, and its network on the meta device.

    Args:
        folder: The model's.
        stated: The settings; None: those of its config.json.

    Raises:
        KfError: as `load_causal`, for what concerns the config.json.
    """
    stated = read_json_object(folder / CONFIG_FILE, MAX_CONFIG_BYTES) if stated is None else stated
    family, settings = _settings(folder, stated)
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
    """The config.json of a model: of a teacher, one that transformers reads as well."""
    config = model.config
    network = {"model_type": config.family, **config.settings}
    if isinstance(model, CausalLM):
        return network
    return {"kind": "student", "block": config.block, "origin": config.origin, "network": network}


def saved_weights(model: CausalLM | CausalStudent) -> dict[str, Tensor]:
    """The weights of a model under the names of its file, a tied head left out."""
    prefix = NETWORK if isinstance(model, CausalLM) else ""
    tied = model.config.settings["tie_word_embeddings"]
    named = {name.removeprefix(prefix): weight for name, weight in model.state_dict().items()}
    return {name: weight for name, weight in named.items() if not (tied and name.endswith(HEAD))}


def identity(network: Any) -> str:
    """Tells a network's weights from those of another training run: a digest of some of each tensor's values."""
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
        expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        check_shapes(named, expected, str(folder), f"{shape.family} model")
        place_weights(network, {name: tensor.float() for name, tensor in named.items()}, tied)


def _tried(folder: Path, model: CausalT, device: torch.device) -> CausalT:
    """The model on its device, after a first pass, which finds head counts that do not divide."""
    with _building(folder, model.config.family), torch.inference_mode():
        model.to(device).prefill(torch.zeros(1, 2, dtype=torch.int64, device=device))
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


def _settings(folder: Path, stated: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The family, and the settings of a config.json that affect what is computed."""
    family = stated["model_type"]
    if not isinstance(family, str) or family not in FAMILIES:
        raise KfError(
            f"{folder} has a transformers model of the type {shown(repr(family))}.",
            f"a causal language model of the type {', '.join(FAMILIES)}",
        )
    for name, what in _UNREAD.items():
        if stated.get(name):
            raise KfError(f"{folder} asks for {what} ({name}).", "a model with code in transformers, in floats")
    taken = {name: stated[name] for name in FAMILIES[family].settings.split() if name in stated}
    for name, value in taken.items():
        if not _is_plain(name, value):
            raise KfError(f"{folder / CONFIG_FILE}: {name} is {shown(repr(value))}.", _valid(name))
        # The library builds lists of these lengths before weights show that they are wrong.
        size = _SIZES.get(name)
        if size and value is not None and not 0 < value <= MOST[size]:
            raise KfError(f"{folder}: {size} is {value}.", f"1 to {MOST[size]}")
    return family, taken


def _is_plain(name: str, value: Any) -> bool:
    """Whether a setting's value may be passed to the library, as null always may."""
    if value is None:
        return True
    if name in LAYER_TYPES:
        name = "rope_parameters"
    if name in ("rope_parameters", "rope_scaling"):
        known = isinstance(value, dict) and (value.keys() <= _ROPE or value.keys() <= {*LAYER_TYPES})
        return known and all(_is_plain(*item) for item in value.items())
    if name == "sliding_window":
        return isinstance(value, int) and 1 < value < 1 << 31
    if name == "layer_types":
        return isinstance(value, list) and all(each in LAYER_TYPES for each in value)
    if name in ("rope_type", "type"):
        return value in ROPE_TYPES
    if name in ("activation_function", "hidden_act", "hidden_activation"):
        return value in ACTIVATIONS
    if name in ("rotary_pct", "partial_rotary_factor"):
        return type(value) in (int, float) and 0 < value <= 1
    if name in _BASES:
        return type(value) in (int, float) and 1 <= value <= MAX_BASE
    return isinstance(value, int | float) and abs(value) < 1 << 31


def _valid(name: str) -> str:
    if name in ("rope_parameters", "rope_scaling"):
        return f"numbers under some of {', '.join(sorted(_ROPE))}; types: {', '.join(ROPE_TYPES)}"
    if name == "layer_types":
        return f"a list of {' and '.join(LAYER_TYPES)}"
    if name in ("activation_function", "hidden_act", "hidden_activation"):
        return ", ".join(ACTIVATIONS)
    if name == "sliding_window":
        return "null, or at least 2 tokens"
    if name in _BASES:
        return f"a number from 1 to {MAX_BASE:.0e}"
    return "above 0, at most 1" if name in ("rotary_pct", "partial_rotary_factor") else "a number below 2^31"


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


def read_folder(folder: Path, left_out: re.Pattern[str]) -> dict[str, Tensor]:
    """The tensors of `model.safetensors`, else of the files that the index names, else of the only set of shards.

    Args:
        folder: As `save_pretrained` writes it. Other files are not read: earlier models may leave shards behind.
        left_out: As in `read_tensors`.

    Raises:
        KfError: a file is missing, there are two sets of shards and no index, a tensor is in two files, or the index
            names a wrong file for a tensor; as `read_tensors`.
    """
    places = {} if (folder / WEIGHTS_FILE).is_file() else _weight_map(folder)
    files = sorted(set(places.values())) or _unindexed(folder)
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise KfError(
            f"{folder} lacks {shortened(missing)}.", f"all of: {shortened(files)}", "fetch or copy the folder again"
        )
    tensors: dict[str, Tensor] = {}
    found: dict[str, str] = {}
    for file in files:
        for name, tensor in read_tensors(folder / file, left_out).items():
            if name in tensors:
                raise KfError(f"{folder} has {shown(name)} twice: in {found[name]} and in {file}.", "one of each")
            tensors[name], found[name] = tensor, file
    for name, file in places.items():
        if not left_out.search(name) and found.get(bare_name(name)) != file:
            raise KfError(
                f"{folder / INDEX_FILE} places {shown(name)} in {file}, which does not have it.",
                "an index that was saved with these weights",
                "fetch or copy the folder again",
            )
    return tensors


def _weight_map(folder: Path) -> dict[str, str]:
    """File by tensor, from the index; {} without an index."""
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


def _unindexed(folder: Path) -> list[str]:
    """`model.safetensors`, or a set of shards if it is the only one."""
    if (folder / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
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
