"""Tensors of checkpoint files: the published forms, and files that are not what they say."""

from __future__ import annotations

import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kfexplore.checkpoints import reading
from kfexplore.checkpoints.files import shortened, weight_files
from kfexplore.checkpoints.reading import read_tensors
from kfexplore.errors import KfError

from .synthetic import save_zip, tensor_pickle, weights

SIX = np.arange(6, dtype=np.float32).tobytes()


def assert_equal(read: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(read[name], tensor), name


def refused(path: Path, match: str) -> str:
    with pytest.raises(KfError, match=match) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def zipped(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def made_up() -> Iterator[types.ModuleType]:
    """A module of classes that exists while a file is written and is gone when it is read."""
    module = types.ModuleType("made_up_training")
    body = """
class Plain:
    def __init__(self): self.value = [1]
class WithState:
    def __getstate__(self): return {"x": 1}
    def __setstate__(self, state): raise RuntimeError("state was set")
class WithSlots:
    __slots__ = ("a",)
    def __init__(self): self.a = 1
class Mapping(dict): pass
class Sequence(list): pass
class WithNew:
    def __new__(cls, a, *, b=0): return object.__new__(cls)
    def __getnewargs_ex__(self): return (1,), {"b": 2}
def function(): pass
"""
    exec(body, module.__dict__)
    sys.modules[module.__name__] = module
    yield module
    sys.modules.pop(module.__name__, None)


@pytest.mark.parametrize(
    ("kind", "prefix", "nested"),
    [("teacher", "", True), ("student", "backbone.", False), ("masked", "backbone.", True)],
)
def test_a_state_dictionary_is_read_as_it_was(
    tmp_path: Path, kind: Any, prefix: str, nested: bool, zipped: bool
) -> None:
    state = weights(kind, prefix=prefix)
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state} if nested else state, path, _use_new_zipfile_serialization=zipped)
    assert_equal(read_tensors(path), weights(kind))


def test_the_format_is_inferred_from_the_content(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "model.bin")
    assert_equal(read_tensors(tmp_path / "model.bin"), weights())


def test_training_state_around_the_weights_is_skipped(tmp_path: Path, made_up: types.ModuleType, zipped: bool) -> None:
    layer = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    mapping, sequence = made_up.Mapping(a=1), made_up.Sequence([1, 2])
    path = tmp_path / "model.ckpt"
    saved = {
        "epoch": 3,
        "callbacks": {"made": made_up.Plain(), "state": made_up.WithState(), "new": made_up.WithNew(1)},
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": [made_up.WithSlots(), mapping, sequence, made_up.function, made_up.Plain, {1, 2}],
        "ema": {"shadow_params": [torch.full((4,), 9.0)]},
        "path": Path("x"),
        "numpy": [np.float64(1.5), np.ones(3)],
        "dtype": [torch.float32, torch.device("cpu"), torch.Size([1])],
        "small": torch.ones(2, dtype=torch.uint16),
        "random": torch.get_rng_state(),
        "state_dict": OrderedDict(weights(prefix="backbone.")),
    }
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    del sys.modules["made_up_training"]
    assert_equal(read_tensors(path), weights())
    assert "made_up_training" not in sys.modules


def test_storages_of_training_state_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments of an optimizer are twice the weights: reading them would triple the memory."""
    path = tmp_path / "model.ckpt"
    torch.save({"moments": torch.zeros(1000), "state_dict": {"w": torch.ones(3)}}, path)
    read: list[str] = []
    original = zipfile.ZipFile.read

    def counted(archive: zipfile.ZipFile, name: Any, pwd: bytes | None = None) -> bytes:
        data = original(archive, name, pwd)
        read.append(f"{len(data)}")
        return data

    monkeypatch.setattr(zipfile.ZipFile, "read", counted)
    assert_equal(read_tensors(path), {"w": torch.ones(3)})
    assert "12" in read
    assert "4000" not in read


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_floating_type_keeps_its_values(tmp_path: Path, dtype: torch.dtype, zipped: bool) -> None:
    tensor = torch.linspace(-1, 1, 7).to(dtype)
    torch.save({"w": tensor}, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    read = read_tensors(tmp_path / "m.pt")["w"]
    assert read.dtype == dtype
    assert torch.equal(read, tensor)


def test_parameters_views_and_shared_storages_are_read_as_they_look(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(12.0).view(3, 4)
    saved = {"p": torch.nn.Parameter(base), "t": base.t(), "row": base[1], "again": base}
    torch.save(saved, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    read = read_tensors(tmp_path / "m.pt")
    assert_equal(read, {name: tensor.detach() for name, tensor in saved.items()})
    assert all(tensor.is_contiguous() for tensor in read.values())
    assert len({tensor.data_ptr() for tensor in read.values()}) == 4
    assert not read["p"].requires_grad


@pytest.mark.parametrize("view", [torch.arange(12.0).view(3, 4).t(), torch.arange(1000.0)[5:7]])
def test_a_view_is_read_without_the_rest_of_its_storage(tmp_path: Path, zipped: bool, view: Tensor) -> None:
    torch.save({"w": view}, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    read = read_tensors(tmp_path / "m.pt")["w"]
    assert torch.equal(read, view)
    assert read.is_contiguous()
    assert read.untyped_storage().nbytes() == view.numel() * 4


def test_both_prefixed_and_bare_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "backbone.w": torch.zeros(1)}, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", "both with and without")


@pytest.mark.parametrize("prefix", ["backbone.", "_orig_mod.", "module.", "model.", "module._orig_mod.backbone."])
def test_what_training_puts_around_a_model_is_dropped(tmp_path: Path, prefix: str) -> None:
    torch.save({f"{prefix}blocks.0._orig_mod.w": torch.ones(1), f"{prefix}x": torch.zeros(1)}, tmp_path / "m.pt")
    assert read_tensors(tmp_path / "m.pt").keys() == {"blocks.0.w", "x"}


# Files that are not there, not whole, or something else.


def test_a_file_that_may_not_be_read_is_not_called_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "m.safetensors").write_bytes(b"x")
    monkeypatch.setattr(Path, "open", denied)
    monkeypatch.setattr(Path, "iterdir", denied)
    for asked in (lambda: read_tensors(tmp_path / "m.safetensors"), lambda: weight_files(tmp_path)):
        with pytest.raises(KfError, match="permission denied") as caught:
            asked()
        assert "incomplete" not in str(caught.value)


def test_a_missing_file_lists_those_that_are_there(tmp_path: Path) -> None:
    for name in ("a.ckpt", "b.safetensors", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    message = refused(tmp_path / "c.ckpt", "no file")
    assert "a.ckpt, b.safetensors" in message
    assert "notes.txt" not in message
    refused(tmp_path / "nowhere" / "c.ckpt", "that folder has none")


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_empty_and_foreign_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"")
    refused(path, "is empty")
    for content in (b"<!doctype html><html>", b"hello", b"\x00" * 100, b"\xff" * 100, b"PK\x05\x06", b"(lp0\n."):
        path.write_bytes(content)
        refused(path, "cannot be read")


def test_a_git_lfs_pointer_is_called_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    refused(path, "git lfs pull")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, zipped: bool) -> None:
    whole, path = tmp_path / "whole.ckpt", tmp_path / "cut.ckpt"
    torch.save({"state_dict": {"w": torch.arange(50.0)}}, whole, _use_new_zipfile_serialization=zipped)
    data = whole.read_bytes()
    for length in range(1, len(data), 97):
        path.write_bytes(data[:length])
        refused(path, "cannot be read")
    path.write_bytes(data[:-1])
    refused(path, "cannot be read")


def test_a_flipped_bit_in_the_weights_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"w": torch.full((100,), 1.5)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(b"\x00\x00\xc0\x3f" * 100) + 40] ^= 1
    path.write_bytes(data)
    refused(path, "CRC")


@pytest.mark.parametrize(
    ("saved", "match"),
    [
        ({"epoch": 1, "model": {"w": 1}}, "no state dictionary.*epoch, model"),
        ({"state_dict": {}}, "no state dictionary"),
        ([torch.ones(1)], "no state dictionary"),
        (torch.ones(1), "no state dictionary"),
        ({"state_dict": {"w": torch.ones(1), "x": 3}}, "x in its state dictionary is not a tensor"),
        ({"w": torch.ones(3, dtype=torch.int64)}, "w has type int64"),
        ({"w": torch.ones(3, dtype=torch.complex64)}, "w has type complex64"),
        ({"w": torch.ones(0)}, "does not fit its storage"),
    ],
)
def test_what_is_no_dictionary_of_weights_is_refused(tmp_path: Path, saved: Any, match: str) -> None:
    torch.save(saved, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", match)


@pytest.mark.parametrize(
    ("bad", "suffix"), [(float("nan"), ".ckpt"), (float("inf"), ".safetensors"), (-float("inf"), ".ckpt")]
)
def test_weights_that_are_not_finite_are_named(tmp_path: Path, bad: float, suffix: str) -> None:
    state = {"fine": torch.ones(3), "w": torch.tensor([1.0, bad])}
    path = tmp_path / f"m{suffix}"
    if suffix == ".ckpt":
        torch.save(state, path)
    else:
        save_file(state, path)
    refused(path, "w has values that are not finite")


# Declared sizes that do not hold.


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((7,), (1,), 0),  # larger than its storage
        ((6,), (1,), 1),
        ((3,), (3,), 0),
        ((1,), (1,), 6),
        ((2, 4), (4, 1), 0),
        ((2,), (-1,), 1),  # before its storage
        ((2,), (1,), -1),
        ((-2,), (1,), 0),
        ((1000, 1000), (0, 0), 0),  # one element, shown a million times
        ((6, 2), (1, 0), 0),
        ((2, 3), (1,), 0),
        ((0,), (1,), 0),
        ((2**62, 2**62), (1, 1), 0),
        ((True,), (1,), 0),
        ((1,) * 9, (1,) * 9, 0),
        ([6], [1], 0),
        ((2.0,), (1,), 0),
        (None, None, 0),
        ((6,), (1,), None),
    ],
)
def test_a_tensor_that_leaves_its_storage_is_refused(tmp_path: Path, size: Any, stride: Any, offset: Any) -> None:
    path = save_zip(tmp_path / "m.pt", tensor_pickle(size, stride, offset), {"0": SIX})
    refused(path, "w (has|of shape)")


def test_a_tensor_that_fits_its_storage_is_read(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "m.pt", tensor_pickle((2, 2), (2, 2), 1), {"0": SIX})
    assert read_tensors(path)["w"].tolist() == [[1, 3], [3, 5]]


@pytest.mark.parametrize("numel", [5, 7, 2**40])
def test_a_storage_must_have_the_declared_size(tmp_path: Path, numel: int) -> None:
    pickled = tensor_pickle((5,), (1,), numel=numel)
    refused(save_zip(tmp_path / "m.pt", pickled, {"0": SIX}), "should have")


def test_many_views_of_one_storage_cannot_outgrow_the_file(tmp_path: Path) -> None:
    base = torch.zeros(10_000)
    torch.save({f"w{i}": base.view(100, 100) for i in range(20)}, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", "larger than the file")


def test_a_pickle_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "m.pt")
    read_tensors(tmp_path / "m.pt")
    monkeypatch.setattr(reading, "MAX_PICKLE_BYTES", 50)
    refused(tmp_path / "m.pt", "pickle is larger")


def test_other_zip_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    refused(path, "torch.save did not write")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", tensor_pickle((6,), (1,)))
        archive.writestr("a/constants.pkl", b"N.")
    refused(path, "TorchScript")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", tensor_pickle((6,), (1,)))
        archive.writestr("a/byteorder", "big")
    refused(path, "big-endian")


def test_a_legacy_header_must_be_torchs(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.save({"w": torch.ones(3)}, whole, _use_new_zipfile_serialization=False)
    data, path = whole.read_bytes(), tmp_path / "m.pt"
    for old, new, match in [
        (b"\x80\x02M\xe9\x03.", b"\x80\x02M\xea\x03.", "header"),
        (b"little_endianq\x02\x88", b"little_endianq\x02\x89", "big-endian"),
    ]:
        assert old in data
        path.write_bytes(data.replace(old, new))
        refused(path, match)
    listed = data.rindex(b"X", 0, data.rindex(b"a.")) + 5
    path.write_bytes(data[:listed] + b"?" + data[listed + 1 :])
    refused(path, "list of storages")
    path.write_bytes(data[:-1])
    refused(path, "cut short")
    path.write_bytes(pickle.dumps({"w": 1}))
    refused(path, "not written by torch")
    # The count before the elements must be the declared one.
    path.write_bytes(data.replace((3).to_bytes(8, "little"), (2).to_bytes(8, "little")))
    refused(path, "cut short")


def test_long_lists_are_shortened() -> None:
    assert shortened([]) == ""
    assert shortened(["a", "b"]) == "a, b"
    assert shortened([str(i) for i in range(20)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 12 more"
    assert len(shortened(["x" * 1000])) == 80
