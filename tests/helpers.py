"""Small checkpoints of the published layout, the same on every machine: numpy's RandomState draws them by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from kfexplore.checkpoints.registry import load_model
from kfexplore.config import ModelConfig
from kfexplore.decoders import Kind
from kfexplore.models import CausalStudent, MaskedModel, Model, Student, Teacher, build
from kfexplore.pair import Pair
from kfexplore.training.data import train_tokenizer

DATA = Path(__file__).parent / "data"
Shapes = list[tuple[str, tuple[int, ...]]]


def backbone_shapes(rows: int, width: int, heads: int, depth: int, cond: int = 0) -> Shapes:
    """Names and shapes in the order in which they are drawn; `cond` adds the masked model's conditioning."""
    shapes: Shapes = [("vocab_embed.embedding", (rows, width)), ("rotary_emb.inv_freq", (width // heads // 2,))]
    for block in (f"blocks.{i}." for i in range(depth)):
        shapes += [
            (block + "norm1.weight", (width,)),
            (block + "attn_qkv.weight", (3 * width, width)),
            (block + "attn_out.weight", (width, width)),
            (block + "norm2.weight", (width,)),
            *_mlp_shapes(block + "mlp", width, 4 * width, width),
        ]
        if cond:
            shapes += _linear_shapes(block + "adaLN_modulation", cond, 6 * width)
    shapes += [("output_layer.norm_final.weight", (width,)), *_linear_shapes("output_layer.linear", width, rows)]
    if cond:
        shapes += _linear_shapes("output_layer.adaLN_modulation", cond, 2 * width)
        shapes += _mlp_shapes("sigma_map.mlp", 256, cond, cond)
    return shapes


def noise_shapes(width: int) -> Shapes:
    """What the student adds to the backbone."""
    norm: Shapes = [("noise_encoder.norm.weight", (width,)), ("noise_encoder.norm.bias", (width,))]
    projection = _linear_shapes("noise_encoder.combined_proj", 2 * width, width)
    return projection + norm + _mlp_shapes("noise_encoder.mlp", width, 4 * width, width)


def draw(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Weights from one RandomState, drawn in the order of the shapes."""
    random = np.random.RandomState(seed)  # a frozen stream: the parity data come from it
    return {name: torch.from_numpy(_values(name, shape, random)) for name, shape in shapes}


def weights(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """The whole state of a model of this shape."""
    shapes = backbone_shapes(config.vocab_size, config.width, config.heads, config.depth, config.cond_width)
    return draw(shapes + (noise_shapes(config.width) if config.kind == "student" else []), seed)


def built(config: ModelConfig, seed: int) -> Model:
    """The model that has these weights and no others."""
    made = build(config)
    made.load_state_dict(weights(config, seed))
    return made.eval().requires_grad_(False)


def model(kind: Kind, seed: int = 0, peaky: float = 1.0, **changes: Any) -> Model:
    """A tiny model in which tokens and noise matter; `peaky` scales its logits, so that cells of noise are narrow."""
    values: dict[str, Any] = {
        "vocab_size": 24,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "context": 48,
        "block": 4 if kind == "student" else 0,
        "cond_width": 8 if kind == "masked" else 0,
        **changes,
    }
    made = built(ModelConfig(kind=kind, **{"mask_id": values["vocab_size"] - 1, **values}), seed)
    made.vocab_embed.embedding *= 3
    made.output_layer.linear.weight *= peaky
    if isinstance(made, Student):
        made.noise_encoder.combined_proj.weight *= 3
    return made


def teacher(seed: int = 0, peaky: float = 1.0, **changes: Any) -> Teacher:
    return cast(Teacher, model("teacher", seed, peaky, **changes))


def student(seed: int = 1, peaky: float = 1.0, **changes: Any) -> Student:
    return cast(Student, model("student", seed, peaky, **changes))


def masked(seed: int = 2, peaky: float = 1.0, **changes: Any) -> MaskedModel:
    return cast(MaskedModel, model("masked", seed, peaky, **changes))


def save_gpt2(folder: Path, text: str, positions: int) -> None:
    """A tiny GPT-2 of transformers with a tokenizer trained on a text, as a judge is saved."""
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=train_tokenizer([text], 280))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=positions, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)


CAUSAL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48},
    "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40},
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 40,
    },
}
CAUSAL |= dict.fromkeys(("mistral", "qwen2"), CAUSAL["llama"])
CAUSAL |= {family: CAUSAL["llama"] | {"head_dim": 16} for family in ("qwen3", "gemma2", "gemma3_text")}
"""Tiny transformers models, by family."""


def save_causal(folder: Path, family: str = "gpt2", **changes: Any) -> Any:
    """Writes a tiny transformers model with peaky distributions, and returns it with that library's own attention."""
    from transformers import AutoConfig, AutoModelForCausalLM

    context = {} if family == "gpt2" else {"max_position_embeddings": 48}
    shape = CAUSAL.get(family, CAUSAL["llama"])
    settings = {"vocab_size": 24, "bos_token_id": 0, "eos_token_id": 0, **shape, **context, **changes}
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings), attn_implementation="eager")
    for parameter in made.parameters():
        parameter.data *= 12 if parameter.ndim > 1 else 1
    made.save_pretrained(folder)
    return made.eval().requires_grad_(False)


def distilled(folder: Path, family: str = "llama", **changes: Any) -> Pair:
    """A tiny transformers teacher, written to a folder, and its student, not trained, which reads its noise."""
    save_causal(folder, family, **changes)
    given: Any = load_model(folder)
    torch.manual_seed(1)
    learner = CausalStudent.after(given, 4).requires_grad_(False)
    learner.noise_encoder.combined_proj.weight *= 30
    tokenizer = Tokenizer(models.WordLevel({chr(97 + n): n for n in range(24)}, "a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Pair(given, learner, tokenizer=tokenizer)


def _linear_shapes(name: str, inputs: int, outputs: int) -> Shapes:
    return [(name + ".weight", (outputs, inputs)), (name + ".bias", (outputs,))]


def _mlp_shapes(name: str, inputs: int, hidden: int, outputs: int) -> Shapes:
    return _linear_shapes(name + ".0", inputs, hidden) + _linear_shapes(name + ".2", hidden, outputs)


def _values(name: str, shape: tuple[int, ...], random: np.random.RandomState) -> np.ndarray:
    if name.endswith("inv_freq"):
        width = 2 * shape[0]
        return (1.0 / (10000 ** (np.arange(0, width, 2, dtype=np.float32) / width))).astype(np.float32)
    drawn = random.randn(*shape)
    if "norm" in name and name.endswith("weight"):
        drawn = 1 + 0.1 * drawn
    elif name.endswith("bias"):
        drawn = 0.05 * drawn
    elif name == "output_layer.linear.weight":
        drawn = 0.35 * drawn
    else:
        drawn = drawn / np.sqrt(shape[-1]) * 1.2
    return drawn.astype(np.float32)


def written_pair(texts: list[str], size: int = 262, peaky: float = 2.0, **changes: Any) -> Pair:
    """A small pair whose tokenizer was trained on the texts."""
    tokenizer = train_tokenizer(texts, size)
    changes["vocab_size"] = tokenizer.get_vocab_size() + 1
    return Pair(teacher(1, peaky, **changes), student(11, peaky, **changes), tokenizer=tokenizer)
