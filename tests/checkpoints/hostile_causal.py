"""Hostile and broken folders of transformers models by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from helpers import save_causal
from safetensors.torch import load_file, save_file
from torch import Tensor

from kfexplore.checkpoints.causal import load_causal
from kfexplore.checkpoints.saving import save_model
from kfexplore.models import CausalStudent

from .hostile_weights import Attack, Build, Hostile

Change = Callable[[dict[str, Tensor]], Any]


def causal(family: str = "gpt2", weights: Change | None = None, **settings: Any) -> Build:
    """A sound model with other weights, and other settings in its config.json."""

    def build(folder: Path) -> Path:
        made = folder / "causal"
        save_causal(made, family)
        config = json.loads((made / "config.json").read_text())
        (made / "config.json").write_text(json.dumps(config | settings))
        if weights is not None:
            state = load_file(made / "model.safetensors")
            weights(state)
            save_file(state, made / "model.safetensors")
        return made

    return build


def pickled(name: str) -> Build:
    """One whose weights are a pickle that runs code."""

    def build(folder: Path) -> Path:
        made = causal()(folder)
        (made / "model.safetensors").unlink()
        torch.save({"x": Attack(folder)}, made / name)
        return made

    return build


def with_code(folder: Path) -> Path:
    made = causal(auto_map={"AutoModelForCausalLM": "evil.Evil"})(folder)
    (made / "evil.py").write_text(f"import os\nos.system(\"touch '{folder / 'ran'}'\")\nclass Evil: pass\n")
    return made


def piped(folder: Path) -> Path:
    made = causal()(folder)
    (made / "model.safetensors").unlink()
    os.mkfifo(made / "model.safetensors")
    return made


def indexed(name: str) -> Build:
    """One whose weights are in another file, by its index."""

    def build(folder: Path) -> Path:
        made = causal()(folder)
        (made / "model.safetensors").unlink()
        places = {"weight_map": {"transformer.wte.weight": f"{name}.safetensors"}}
        (made / "model.safetensors.index.json").write_text(json.dumps(places))
        return made

    return build


def student(**settings: Any) -> Build:
    """A pair whose student has other settings in its config.json."""

    def build(folder: Path) -> Path:
        teacher = load_causal(causal("llama")(folder), torch.device("cpu"))
        save_model(teacher, folder / "pair" / "teacher")
        made = save_model(CausalStudent.after(teacher, 4), folder / "pair" / "student") / "config.json"
        made.write_text(json.dumps(json.loads(made.read_text()) | settings))
        return folder / "pair"

    return build


def nested(depth: int) -> dict[str, Any]:
    angles: dict[str, Any] = {"rope_theta": 1e4}
    for _ in range(depth):
        angles = {"full_attention": angles}
    return angles


def rope(**values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, **values}}


def infinite(state: dict[str, Tensor]) -> None:
    state["transformer.ln_f.bias"][0] = torch.inf


CAUSAL = {
    "transformers: weights that are a pickle": Hostile(pickled("pytorch_model.bin"), r"has no model\.safetensors"),
    "transformers: a pickle named as safetensors": Hostile(pickled("model.safetensors"), "is refused"),
    "transformers: a pipe for weights": Hostile(piped, r"has no model\.safetensors"),
    "transformers: code of its own": Hostile(with_code, "asks for code of its own"),
    "transformers: an unknown type": Hostile(causal(model_type="evil"), "of the type 'evil'"),
    "transformers: a type that is none": Hostile(causal(model_type=["gpt2"]), r"of the type \['gpt2'\]"),
    "transformers: a vocabulary of 10^9": Hostile(causal(vocab_size=10**9), "vocab_size is 1000000000"),
    "transformers: a vocabulary of 10^12": Hostile(causal(vocab_size=10**12), "vocab_size is 1000000000000"),
    "transformers: a depth of a million": Hostile(causal(n_layer=10**6), "n_layer is 1000000"),
    "transformers: a context of 2^30": Hostile(causal(n_positions=2**30), "n_positions is 1073741824"),
    "transformers: a depth of 2^31": Hostile(
        causal("qwen2", num_hidden_layers=2**31 - 1), "num_hidden_layers is 2147483647"
    ),
    "transformers: a window of nothing": Hostile(causal("mistral", sliding_window=0), "sliding_window is 0"),
    "transformers: layers of a kind of their own": Hostile(
        causal("gemma2", layer_types=["evil"] * 2), r"layer_types is \['evil'"
    ),
    "transformers: attention to later tokens": Hostile(
        causal("gemma2", use_bidirectional_attention=True), "attention to later tokens"
    ),
    "transformers: weights of another name": Hostile(
        causal(transformers_weights="x.safetensors"), "in a file of another name"
    ),
    "transformers: a width within of 2^30": Hostile(causal(n_inner=2**30), "n_inner is 1073741824"),
    "transformers: heads that do not divide": Hostile(causal(n_head=3), "no gpt2 model can be built"),
    "transformers: no heads": Hostile(causal(n_head=0), "n_head is 0"),
    "transformers: keys of heads that do not divide": Hostile(
        causal("llama", num_attention_heads=3, head_dim=8, num_key_value_heads=2), "no llama model|of wrong shape"
    ),
    "transformers: another head's width": Hostile(causal("llama", head_dim=2**30), "head_dim is 1073741824"),
    "transformers: an activation by name": Hostile(causal(activation_function="xielu"), "activation_function is"),
    "transformers: a number that is a word": Hostile(causal(n_embd="16"), "n_embd is '16'"),
    "transformers: no number": Hostile(causal(layer_norm_epsilon=float("nan")), "layer_norm_epsilon is nan"),
    "transformers: angles by length": Hostile(causal("llama", **rope(rope_type="dynamic")), "rope_parameters is"),
    "transformers: angles of 2^30 dimensions": Hostile(
        causal("gpt_neox", **rope(partial_rotary_factor=1e9)), "rope_parameters is"
    ),
    "transformers: a base of zero": Hostile(causal("llama", **rope(rope_theta=0)), "rope_parameters is"),
    "transformers: a base below zero": Hostile(causal("llama", rope_theta=-1.0), "rope_theta is -1"),
    "transformers: a base that is a truth value": Hostile(causal("llama", rope_theta=True), "rope_theta is True"),
    "transformers: angles of nothing": Hostile(
        causal("llama", **rope(rope_type="linear", factor=-1.0)), "rope_parameters is"
    ),
    "transformers: angles nested 600 times": Hostile(
        causal("llama", rope_parameters=nested(600)), "rope_parameters is"
    ),
    "transformers: a number that is a truth value": Hostile(causal(n_layer=True), "n_layer is True"),
    "transformers: a truth value that is a number": Hostile(
        causal(tie_word_embeddings=0.5), r"tie_word_embeddings is 0\.5"
    ),
    "transformers: an epsilon below zero": Hostile(causal("llama", rms_norm_eps=-5.0), r"rms_norm_eps is -5\.0"),
    "transformers: gigabytes for each token": Hostile(
        causal("llama", intermediate_size=2**22), "intermediate_size is 4194304"
    ),
    "transformers: no room for a block": Hostile(
        causal("llama", max_position_embeddings=5), "has no room for a prompt"
    ),
    "transformers: a student of a teacher that a terminal obeys": Hostile(
        student(origin="\x1b[2J\n"), r"another teacher than this one \(\\x1b"
    ),
    "transformers: a file of a long name": Hostile(indexed("x" * 300), "names the file 'xxx"),
    "transformers: quantised": Hostile(causal(quantization_config={"quant_method": "x"}), "not plain numbers"),
    "transformers: a weight too few": Hostile(
        causal(weights=lambda state: state.pop("transformer.wpe.weight")), r"missing: transformer\.wpe"
    ),
    "transformers: a weight too many": Hostile(
        causal(weights=lambda state: state.update({"transformer.h.9.x": torch.ones(1)})), "unexpected"
    ),
    "transformers: weights with and without the prefix": Hostile(
        causal(weights=lambda state: state.update({"ln_f.bias": torch.ones(16)})), "both with and without"
    ),
    "transformers: a weight without end": Hostile(causal(weights=infinite), "not finite"),
}
