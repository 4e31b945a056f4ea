"""What is saved is what is loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from kfexplore.checkpoints import saving
from kfexplore.checkpoints.registry import load_model
from kfexplore.checkpoints.saving import save_model
from kfexplore.errors import KfError
from kfexplore.models import Model, Student

from .synthetic import model


def logits(made: Model) -> Tensor:
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    if isinstance(made, Student):
        return made.block_logits(ids, torch.tensor([[0.1, 0.5, 0.9], [0.2, 0.4, 0.6]]))
    return made.log_probs(ids)


@pytest.mark.parametrize("kind", ["teacher", "student", "masked"])
def test_a_saved_model_gives_the_same_logits(tmp_path: Path, kind: Any) -> None:
    made = model(kind, seed=3, mask_id=7, context=99)
    folder = save_model(made, tmp_path / "new" / "folder")
    loaded = load_model(folder)
    assert torch.equal(logits(loaded), logits(made))
    assert loaded.config == made.config
    assert sorted(f.name for f in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_half_precision_halves_the_file_but_for_the_rotary_frequencies(tmp_path: Path) -> None:
    made = model()
    full = (save_model(made, tmp_path / "full") / "model.safetensors").stat().st_size
    half = save_model(made, tmp_path / "half", dtype=torch.bfloat16)
    assert (half / "model.safetensors").stat().st_size < 0.6 * full
    loaded = load_model(half)
    assert torch.equal(loaded.rotary_emb.inv_freq, made.rotary_emb.inv_freq)
    assert loaded.output_layer.linear.weight.dtype == torch.float32
    expected = made.output_layer.linear.weight.to(torch.bfloat16).float()
    assert torch.equal(loaded.output_layer.linear.weight, expected)


def test_other_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KfError, match="float16"):
        save_model(model(), tmp_path, dtype=torch.float16)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    made = model()
    made.output_layer.linear.bias[0] = float("nan")
    with pytest.raises(KfError, match=r"output_layer\.linear\.bias"):
        save_model(made, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [OSError, SafetensorError])  # the library has an error of its own
def test_a_write_that_fails_leaves_the_earlier_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    earlier = model(seed=1)
    save_model(earlier, tmp_path)

    def full_disk(_: Any, path: Path, **__: Any) -> None:
        Path(path).write_bytes(b"half")
        raise kind("No space left on device")

    monkeypatch.setattr(saving, "save_file", full_disk)
    with pytest.raises(KfError, match="No space left"):
        save_model(model(seed=2), tmp_path)
    assert torch.equal(logits(load_model(tmp_path)), logits(earlier))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KfError, match="cannot be written"):
        save_model(model(), tmp_path / "file" / "folder")


def test_the_config_is_plain_json(tmp_path: Path) -> None:
    save_model(model("student"), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "kind": "student",
        "vocab_size": 40,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "mask_id": 39,
        "context": 1024,
        "block": 4,
        "cond_width": 0,
    }
