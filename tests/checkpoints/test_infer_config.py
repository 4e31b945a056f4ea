"""What a checkpoint is, inferred from its tensors and its config.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kfexplore.checkpoints.infer_config import describe, stated_settings
from kfexplore.errors import KfError

from .synthetic import config, weights, write_config


def shaped(*shape: int) -> Tensor:
    """A tensor of any size that takes no memory."""
    return torch.zeros(1).expand(shape)


@pytest.mark.parametrize("kind", ["teacher", "student", "masked"])
def test_every_setting_is_inferred_from_the_tensors(kind: Any) -> None:
    assert describe(weights(kind)) == config(kind)


@pytest.mark.parametrize(("rows", "mask_id", "context"), [(50258, 50257, 1024), (30522, 103, 128), (41, 40, 1024)])
def test_mask_and_context_of_the_published_vocabularies(rows: int, mask_id: int, context: int) -> None:
    state = weights("student")
    width = state["vocab_embed.embedding"].shape[1]
    state["vocab_embed.embedding"] = state["output_layer.linear.weight"] = shaped(rows, width)
    state["output_layer.linear.bias"] = shaped(rows)
    told = describe(state)
    assert (told.vocab_size, told.mask_id, told.context, told.block) == (rows, mask_id, context, 4)


def test_a_file_that_is_no_such_model_says_what_it_has() -> None:
    with pytest.raises(KfError, match=r"no vocab_embed\.embedding") as caught:
        describe({"lm_head.weight": torch.ones(2, 2)})
    assert "lm_head.weight" in str(caught.value)
    state = weights()
    del state["rotary_emb.inv_freq"]
    with pytest.raises(KfError, match=r"no rotary_emb\.inv_freq"):
        describe(state)


def test_missing_unexpected_and_misshapen_tensors_are_named() -> None:
    state = weights()
    del state["blocks.1.norm2.weight"]
    state["blocks.0.extra"] = torch.ones(1)
    state["blocks.0.mlp.0.bias"] = torch.ones(5)
    with pytest.raises(KfError) as caught:
        describe(state, where="f.ckpt")
    message = str(caught.value)
    assert "missing: blocks.1.norm2.weight;" in message
    assert "unexpected: blocks.0.extra;" in message
    assert "blocks.0.mlp.0.bias (5,) instead of (64,)" in message
    assert "f.ckpt looks like a teacher" in message


def test_a_far_block_index_makes_no_deep_model() -> None:
    state = weights()
    state["blocks.999999.norm1.weight"] = torch.ones(16)
    with pytest.raises(KfError, match=r"unexpected: blocks\.999999\.norm1\.weight") as caught:
        describe(state)
    assert "missing: blocks.2.norm1.weight" in str(caught.value)


def test_sizes_are_checked_against_each_other() -> None:
    state = weights("masked")
    state["sigma_map.mlp.0.weight"] = torch.ones(9, 256)
    with pytest.raises(KfError, match=r"adaLN_modulation\.weight \(96, 8\) instead of \(96, 9\)"):
        describe(state)
    state = weights()
    state["output_layer.linear.bias"] = torch.ones(41)
    with pytest.raises(KfError, match=r"output_layer\.linear\.bias \(41,\) instead of \(40,\)"):
        describe(state)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_the_rotary_frequencies_must_give_whole_heads(count: int) -> None:
    with pytest.raises(KfError, match="do not divide width"):
        describe({**weights(), "rotary_emb.inv_freq": torch.ones(count)})


def test_rotary_frequencies_are_finite_and_of_any_base() -> None:
    state = weights()
    assert describe({**state, "rotary_emb.inv_freq": state["rotary_emb.inv_freq"] * 0.5}).heads == 2
    with pytest.raises(KfError, match="not finite"):
        describe({**state, "rotary_emb.inv_freq": torch.full((4,), float("nan"))})


@pytest.mark.parametrize("name", ["vocab_embed.embedding", "rotary_emb.inv_freq"])
def test_what_tells_the_shape_must_have_the_right_dimensions(name: str) -> None:
    with pytest.raises(KfError, match="dimensions"):
        describe({**weights(), name: torch.ones(2, 2, 2)})


# config.json.


def test_context_block_and_mask_may_be_stated() -> None:
    told = describe(weights("student"), {"context": 77, "block": 3, "mask_id": 5})
    assert told == replace(config("student"), context=77, block=3, mask_id=5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("kind", "student"), ("vocab_size", 41), ("width", 32), ("depth", 3), ("heads", 4), ("cond_width", 1)],
)
def test_a_config_that_disagrees_names_both_values(name: str, value: Any) -> None:
    with pytest.raises(KfError, match=rf"has {name} {value}.* have {getattr(config(), name)}\."):
        describe(weights(), {name: value})


def test_an_unknown_setting_names_the_near_ones() -> None:
    with pytest.raises(KfError, match=r"'contxt'(.|\n)*did you mean context"):
        describe(weights(), {"contxt": 5})


@pytest.mark.parametrize(("kind", "block"), [("teacher", 4), ("student", 0), ("student", -1)])
def test_a_block_belongs_to_students(kind: Any, block: int) -> None:
    with pytest.raises(KfError, match=f"block {block}"):
        describe(weights(kind), {"block": block})


def test_settings_are_read_from_beside_the_weights(tmp_path: Path) -> None:
    assert stated_settings(tmp_path / "model.safetensors") == {}
    write_config(tmp_path, context=5, kind="teacher")
    assert stated_settings(tmp_path / "model.safetensors") == {"context": 5, "kind": "teacher"}


def test_the_config_of_another_library_is_no_statement(tmp_path: Path) -> None:
    """As in the published masked model's repository."""
    write_config(tmp_path, model_type="mdlm", hidden_dim=768, vocab_size=50258)
    assert stated_settings(tmp_path / "model.safetensors") == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [("context", "128"), ("context", 1.5), ("context", True), ("context", None), ("kind", "tutor"), ("kind", [])],
)
def test_a_setting_of_wrong_type_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    write_config(tmp_path, **{name: value})
    with pytest.raises(KfError, match=f"{name} is "):
        stated_settings(tmp_path / "model.safetensors")
