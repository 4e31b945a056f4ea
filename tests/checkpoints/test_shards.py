"""Folders of several files: weights come from the files that the index names, as transformers reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import save_causal
from safetensors.torch import load_file, save_file
from torch import Tensor

from kfexplore.checkpoints.causal import load_causal
from kfexplore.checkpoints.files import INDEX_FILE
from kfexplore.errors import KfError

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
CPU = torch.device("cpu")


def write(folder: Path, state: dict[str, Tensor], count: int, style: str = "model-{}-of-{}.safetensors") -> None:
    """Shards of a state and their index, in place of model.safetensors."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    names, places = sorted(state), {}
    for n in range(count):
        file = style.format(f"{n + 1:05}", f"{count:05}")
        save_file({name: state[name] for name in names[n::count]}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(names[n::count], file)
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": places}))


@pytest.fixture
def state(tmp_path: Path) -> dict[str, Tensor]:
    """A GPT-2 in three shards, beside its state."""
    save_causal(tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    write(tmp_path, found, 3)
    return found


def theirs(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()(IDS).logits.detach()


def assert_as_transformers(folder: Path) -> None:
    assert torch.allclose(load_causal(folder, CPU)(IDS), theirs(folder), atol=2e-4)


def changed_index(folder: Path, name: str, file: Any) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    index["weight_map"][name] = file
    (folder / INDEX_FILE).write_text(json.dumps(index))


@pytest.mark.parametrize("style", ["model-{}-of-{}.safetensors", "model.safetensors-{}-of-{}.safetensors"])
def test_shards_of_an_earlier_model_are_not_read(tmp_path: Path, state: dict[str, Tensor], style: str) -> None:
    write(tmp_path, {name: tensor + 1 for name, tensor in state.items()}, 4)
    write(tmp_path, state, 3, style)
    assert len(list(tmp_path.glob("model-*-of-00004.safetensors"))) == 4
    assert_as_transformers(tmp_path)


def test_one_whole_file_comes_before_an_index(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file({name: 2 * tensor for name, tensor in state.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    assert_as_transformers(tmp_path)


@pytest.mark.usefixtures("state")
def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    for _ in range(2):  # with the index, and without
        with pytest.raises(KfError, match=r"lacks model-00002-of-00003\.safetensors\."):
            load_causal(tmp_path, CPU)
        (tmp_path / INDEX_FILE).unlink(missing_ok=True)


@pytest.mark.usefixtures("state")
def test_without_an_index_there_is_one_whole_set_of_shards(tmp_path: Path) -> None:
    expected = theirs(tmp_path)
    (tmp_path / INDEX_FILE).unlink()
    assert torch.allclose(load_causal(tmp_path, CPU)(IDS), expected, atol=2e-4)
    save_file({"x": torch.ones(1)}, tmp_path / "model-00004-of-00004.safetensors")
    with pytest.raises(KfError, match=r"several models and no model\.safetensors\.index\.json"):
        load_causal(tmp_path, CPU)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    name, path = sorted(state)[0], tmp_path / "model-00003-of-00003.safetensors"
    save_file(load_file(path) | {name: state[name] + 1}, path, {"format": "pt"})
    with pytest.raises(KfError, match="twice: in model-00001-of-00003"):
        load_causal(tmp_path, CPU)


def test_an_index_of_other_weights_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    changed_index(tmp_path, sorted(state)[0], "model-00003-of-00003.safetensors")
    with pytest.raises(KfError, match="which does not have it"):
        load_causal(tmp_path, CPU)


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "model.bin", 3, None])
def test_an_index_names_files_of_its_folder(tmp_path: Path, file: Any) -> None:
    changed_index(tmp_path, "x", file)
    with pytest.raises(KfError, match="names the file"):
        load_causal(tmp_path, CPU)


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("text", ["{}", '{"weight_map": {}}', '{"weight_map": [1]}', "[", "version https://git-lfs"])
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX_FILE).write_text(text)
    with pytest.raises(KfError, match=r"model\.safetensors\.index\.json"):
        load_causal(tmp_path, CPU)
