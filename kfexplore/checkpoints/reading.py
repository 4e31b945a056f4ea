"""Tensors of a checkpoint file. Nothing in the file is executed; sizes are checked before anything is allocated."""

from __future__ import annotations

import io
import math
import mmap
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kfexplore.checkpoints.pickles import PickleError, StorageRef, TensorRef, UnsafeName, read_pickle
from kfexplore.errors import KfError

WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
FLOAT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MAX_PICKLE_BYTES = 64 << 20
"""Of the pickle alone, without the elements of tensors, which lie beside it."""

_PREFIX = "backbone."
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LFS_POINTER = b"version https://git-lfs"

Fetch = Callable[[StorageRef], bytearray]


class _Damaged(Exception):
    """The file is not what it says it is; the message completes 'FILE cannot be read: ...'."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a `.safetensors` file or of a file that `torch.save` wrote (zip, or the older format).

    Of a file with training state the tensors under `state_dict` are taken, and those of nothing else: an average
    under `ema`, optimizer moments and the like are not even read. A file without `state_dict` is itself the state
    dictionary. The prefix `backbone.` is dropped wherever a name has it.

    Args:
        path: The file; what it is is told from its content.

    Returns:
        Tensors on the CPU in the type they were saved in (float32, bfloat16, float16 or float64), all finite.

    Raises:
        KfError: the file is missing, damaged, no checkpoint, names something dangerous (see `pickles`), declares
            tensors that do not fit in it, or has weights that are not finite floating-point numbers.
    """
    path = Path(path).expanduser()
    _check_is_file(path)
    try:
        tensors = _read(path)
    except UnsafeName as error:
        raise KfError(
            f"{path} is refused: its pickle names {error}, which no checkpoint needs and which could run code.",
            "a checkpoint of tensors and training state; nothing in this file was executed",
            "get the file from its publisher again, or ask there for .safetensors",
        ) from error
    except (_Damaged, PickleError, SafetensorError, zipfile.BadZipFile, OSError, RuntimeError) as error:
        raise KfError(
            f"{path} cannot be read: {error}.",
            "a .safetensors file, or a .ckpt or .pt file written by torch.save",
            "download or copy the file again; it may be incomplete",
        ) from error
    tensors = _without_prefix(path, tensors)
    check_finite(str(path), tensors)
    return tensors


def weight_files(folder: Path) -> list[str]:
    """Names of the checkpoint files in a folder, sorted; [] where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(f.name for f in folder.iterdir() if f.suffix in WEIGHT_SUFFIXES and f.is_file())


def shortened(names: Iterable[str], most: int = 8) -> str:
    """The first few names, and how many more there are."""
    listed = [name if len(name) <= 80 else name[:77] + "..." for name in names]
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest


def check_finite(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Raises KfError that names the first tensor with a NaN or an infinity."""
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise KfError(
                f"{where}: {name} has values that are not finite (NaN or infinity).",
                "finite weights",
                "use an earlier checkpoint of that training run",
            )


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise KfError(
            f"{path} is a folder.", f"one of its files: {shortened(weight_files(path)) or 'none is a checkpoint'}"
        )
    if not path.exists():
        found = shortened(weight_files(path.parent))
        there = f"checkpoint files in {path.parent}: {found}" if found else f"none is in {path.parent} either"
        raise KfError(f"There is no file {path}.", there, "check the path")
    if path.stat().st_size == 0:
        raise KfError(f"{path} is empty.", "a checkpoint file", "download or copy the file again")


def _read(path: Path) -> dict[str, Tensor]:
    """Tells the format from the content, as suffixes are given freely."""
    with path.open("rb") as stream:
        head = stream.read(len(_LFS_POINTER))
    if head == _LFS_POINTER:
        raise _Damaged("it is a Git LFS pointer, not the weights (git lfs pull fetches them)")
    if head.startswith(b"PK"):
        return _read_zip(path)
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _checked_types(load_file(path))
    return _read_legacy(path)


def _read_zip(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        root = _checked_root(entries)
        _check_entries(archive.infolist(), path.stat().st_size)
        if entries[root + "data.pkl"].file_size > MAX_PICKLE_BYTES:
            raise _Damaged(f"its pickle is larger than {MAX_PICKLE_BYTES >> 20} MiB")
        if root + "byteorder" in entries and archive.read(root + "byteorder") != b"little":
            raise _Damaged("it was written on a big-endian machine")
        value = read_pickle(io.BytesIO(archive.read(root + "data.pkl")))

        def fetch(storage: StorageRef) -> bytearray:
            info = entries.get(f"{root}data/{storage.key}")
            declared = storage.numel * storage.dtype.itemsize
            if info is None or info.file_size != declared:
                held = "none" if info is None else f"{info.file_size} bytes"
                raise _Damaged(f"storage {storage.key!r} should hold {declared} bytes, the file has {held}")
            return bytearray(archive.read(info))

        return _materialise(_weights(value), fetch, path.stat().st_size)


def _checked_root(entries: Mapping[str, zipfile.ZipInfo]) -> str:
    """The folder, with its slash, that torch put everything in."""
    roots = [name.removesuffix("data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise _Damaged("it is a zip file that torch.save did not write (no data.pkl)")
    if roots[0] + "constants.pkl" in entries:
        raise _Damaged("it is a TorchScript archive, a program with weights; a state dictionary is needed")
    return roots[0]


def _check_entries(infos: list[zipfile.ZipInfo], file_size: int) -> None:
    """torch.save stores without compression, so honest sizes add up to less than the file."""
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED:
            raise _Damaged(f"its entry {info.filename[:80]} is compressed, which torch.save never does")
    if sum(info.file_size for info in infos) > file_size:
        raise _Damaged("its entries declare more bytes than the file has")


def _read_legacy(path: Path) -> dict[str, Tensor]:
    """The format before torch 1.6: pickles of magic, version, system, value and storage keys; then the storages."""
    # A map rather than a stream: reading a declared length allocates no more than there is.
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        value = read_pickle(data)  # type: ignore[arg-type]
        if value != _LEGACY_MAGIC:
            raise _Damaged("it was not written by torch.save")
        version, system, value, keys = (read_pickle(data) for _ in range(4))  # type: ignore[arg-type]
        if version != _LEGACY_PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
            raise _Damaged("its header is not that of torch.save")
        if system.get("little_endian") is not True:
            raise _Damaged("it was written on a big-endian machine")
        weights = _weights(value)
        places = _legacy_places(data, keys, {})
        return _materialise(weights, lambda storage: _legacy_storage(data, places, storage), len(data))
