"""Families of transformers models: which settings of a config.json are passed on to the library, and their ranges.

The library allocates what the settings ask for before the weights show that they are wrong, and a small file can state
sizes that need gigabytes per token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfexplore.checkpoints.files import CONFIG_FILE, shown
from kfexplore.checkpoints.infer_config import MOST
from kfexplore.errors import KfError


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
"""Families with grouped-query attention."""
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

LAYER_TYPES = ("full_attention", "sliding_attention")
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu")
_ROPE_TYPES = ("default", "linear", "llama3")
"""Kinds whose rotary angles depend only on the position."""
_CHOICES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("activation_function", "hidden_act", "hidden_activation"), _ACTIVATIONS),
    **dict.fromkeys(("rope_type", "type"), _ROPE_TYPES),
}
_ROPE = {"rope_type", "type", "rope_theta", "factor", "partial_rotary_factor"}
_ROPE |= {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
RANGES: dict[type, dict[str, tuple[float, float]]] = {
    int: {
        "vocab_size": (2, MOST["vocab_size"]),
        **dict.fromkeys(("n_layer", "num_hidden_layers"), (1, MOST["depth"])),
        **dict.fromkeys(("n_head", "num_attention_heads", "num_key_value_heads"), (1, MOST["heads"])),
        **dict.fromkeys(("n_embd", "hidden_size", "n_inner", "intermediate_size"), (1, MOST["width"])),
        "head_dim": (1, 512),
        **dict.fromkeys(("n_positions", "max_position_embeddings"), (1, MOST["context"])),
        "original_max_position_embeddings": (1, MOST["context"]),
        "sliding_window": (2, 1 << 31),
        **dict.fromkeys(("sliding_window_pattern", "max_window_layers"), (0, 1 << 31)),
    },
    float: {
        **dict.fromkeys(("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps"), (1e-12, 1)),
        **dict.fromkeys(("rope_theta", "rope_local_base_freq", "rotary_emb_base"), (1, 1e12)),  # Llama 3 has 5e5
        **dict.fromkeys(("rotary_pct", "partial_rotary_factor"), (0.001, 1)),
        **dict.fromkeys(("factor", "low_freq_factor", "high_freq_factor"), (0.001, 1e6)),
        **dict.fromkeys(("final_logit_softcapping", "attn_logit_softcapping"), (0.001, 1e6)),
        "query_pre_attn_scalar": (0.001, 1e6),
    },
}
"""Smallest and largest value of each numeric setting. Without a range, choices or a case in `_rule`: a boolean."""
_UNREAD = {
    "auto_map": "code of its own",
    "quantization_config": "weights that are not plain numbers",
    "transformers_weights": "weights in a file of another name",
    "use_bidirectional_attention": "attention to later tokens",
}
"""Settings that change what is computed in ways that are not supported."""


def checked_settings(folder: Path, stated: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The family and the settings that affect what is computed, from a folder's config.json with a `model_type`.

    Raises:
        KfError: the family is unknown, or a setting is not supported or out of range.
    """
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
        valid, accepts = _rule(name)
        if value is not None and not accepts(value):
            raise KfError(f"{folder / CONFIG_FILE}: {name} is {shown(repr(value))}.", valid)
    return family, taken


def _rule(name: str) -> tuple[str, Callable[[Any], bool]]:
    """The valid values of a setting besides null: a description and a check."""
    if name in ("rope_parameters", "rope_scaling"):
        listed = f"numbers under some of {', '.join(sorted(_ROPE))}; types: {', '.join(_ROPE_TYPES)}"
        return listed, lambda value: _is_rope(value) or _is_rope_by_layer(value)
    if name == "layer_types":
        return f"a list of {' and '.join(LAYER_TYPES)}", _is_layer_types
    if name in _CHOICES:
        return ", ".join(_CHOICES[name]), _CHOICES[name].__contains__
    kind = next((kind for kind, ranges in RANGES.items() if name in ranges), None)
    if kind is None:
        return "true or false", lambda value: isinstance(value, bool)
    low, high = RANGES[kind][name]
    valid = f"null, or a {'whole ' if kind is int else ''}number from {low:g} to {high:g}"
    return valid, lambda value: type(value) in (int, kind) and low <= value <= high


def _is_rope(value: Any) -> bool:
    """Whether the value describes rotary angles."""
    if not isinstance(value, dict) or not value.keys() <= _ROPE:
        return False
    return all(inside is None or _rule(name)[1](inside) for name, inside in value.items())


def _is_rope_by_layer(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() <= {*LAYER_TYPES} and all(map(_is_rope, value.values()))


def _is_layer_types(value: Any) -> bool:
    return isinstance(value, list) and all(each in LAYER_TYPES for each in value)
