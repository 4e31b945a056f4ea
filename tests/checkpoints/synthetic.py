"""Small deterministic checkpoints of the published layout, and pickles put together by hand."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from kfexplore.config import ModelConfig
from kfexplore.decoders import Kind
from kfexplore.models import Model, build

ROWS, WIDTH, DEPTH, HEADS = 40, 16, 2, 2


def config(kind: Kind = "teacher", rows: int = ROWS, **changes: Any) -> ModelConfig:
    """A tiny model of one kind."""
    values: dict[str, Any] = {
        "vocab_size": rows,
        "width": WIDTH,
        "depth": DEPTH,
        "heads": HEADS,
        "mask_id": rows - 1,
        "block": 4 if kind == "student" else 0,
        "cond_width": 8 if kind == "masked" else 0,
    }
    return ModelConfig(kind=kind, **{**values, **changes})


def model(kind: Kind = "teacher", seed: int = 0, rows: int = ROWS, **changes: Any) -> Model:
    """A tiny model whose weights depend on `seed` alone."""
    made = build(config(kind, rows, **changes)).eval().requires_grad_(False)
    drawn = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=drawn) * 0.3)
    return made


def weights(kind: Kind = "teacher", seed: int = 0, prefix: str = "", rows: int = ROWS) -> dict[str, Tensor]:
    """Its state dictionary."""
    return {prefix + name: tensor.clone() for name, tensor in model(kind, seed, rows).state_dict().items()}


def save_zip(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, **options: Any) -> Path:
    """A file as torch.save lays it out, around any pickle."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def tensor_pickle(
    size: tuple[int, ...],
    stride: tuple[int, ...],
    offset: int = 0,
    numel: int = 6,
    storage: str = "FloatStorage",
    persistent_id: Any = None,
) -> bytes:
    """A pickled {"w": tensor} whose parts are all given, whether they agree or not."""

    class Storage:
        pass

    class Rebuilt:
        def __reduce__(self) -> Any:
            arguments = (Storage(), offset, size, stride, False, {})
            return torch._utils._rebuild_tensor_v2, arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            default = ("storage", getattr(torch, storage), "0", "cpu", numel)
            return (persistent_id or default) if isinstance(obj, Storage) else None

    stream = io.BytesIO()
    Pickler(stream, 2).dump({"w": Rebuilt()})
    return stream.getvalue()


def tokenizer(tokens: int = 12) -> Tokenizer:
    """A byte-level tokenizer of a few letters; id 0 is special."""
    pieces = ["<|endoftext|>", "Ġ", "a", "b", "c", "d", "Ġa", "ab", "Ġab", "e", "f", "g", "h"][:tokens]
    merges = [("Ġ", "a"), ("a", "b"), ("Ġa", "b")]
    made = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>"])
    return made


def write_config(folder: Path, **values: Any) -> None:
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
