"""Reads the tensors of a checkpoint file: executes nothing, and checks sizes before it allocates memory."""

from __future__ import annotations

import io
import math
import mmap
import re
import struct
import zipfile
from collections.abc import Callable, Mapping, Sized
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kfexplore.checkpoints.files import given, json_object, shortened, shown, unreadable, weight_files
from kfexplore.checkpoints.pickles import PickleError, StorageRef, TensorRef, UnsafeName, read_pickle
from kfexplore.errors import KfError

FLOAT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MAX_PICKLE_BYTES = 64 << 20
"""Size of the pickle without tensor elements, which are stored separately; in the older format, of all five pickles."""
MAX_HEADER_BYTES = 1 << 20
"""Header of a safetensors file: names and offsets of some 10,000 tensors."""
MAX_DIRECTORY_BYTES = 2 << 20
"""Size of a zip file's list of entries: some 10,000 tensors. Each entry becomes an object of a kilobyte."""
MAX_TENSORS = 10_000
"""Entries of a state dictionary; the deepest accepted model has fewer than half as many."""
MAX_WEIGHT = 1e4
"""Largest absolute weight. No trained weight comes near it, and every accepted dtype can hold it."""

_WRAPPERS = re.compile(r"(?<![^.])_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
_PREFIXES = re.compile(r"((module|model|backbone)\.)+")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LFS_POINTER = b"version https://git-lfs"

Fetch = Callable[[StorageRef], bytearray]


class _Damaged(Exception):
    """The file is damaged or of another format; the message completes 'FILE cannot be read: ...'."""


# On a damaged file zipfile raises more than BadZipFile, for example for names that are not UTF-8.
_BROKEN = (
    _Damaged,
    PickleError,
    SafetensorError,
    zipfile.BadZipFile,
    OSError,
    EOFError,
    RuntimeError,
    TypeError,  # torch, for a shape of more than 64 bits
    ValueError,
    struct.error,
)


def read_tensors(path: str | Path, left_out: re.Pattern[str] | None = None) -> dict[str, Tensor]:
    """The named tensors of a `.safetensors` file or of one that torch.save wrote (zip, or the older format).

    From a file with training state only the tensors under `state_dict` are read: no average under `ema`, no optimizer
    moments. A file without `state_dict` is itself the state dictionary. Names are those of `bare_name`.

    Args:
        path: The file; its format is recognised by content.
        left_out: Names of safetensors tensors to ignore, whatever their dtype.

    Returns:
        Tensors on the CPU in their saved dtype (float32, bfloat16, float16 or float64), with values that pass
        `check_values`.

    Raises:
        KfError: the file is missing, damaged, not a checkpoint, names something dangerous (see `pickles`), declares
            tensors that do not fit in it or into memory, or has weights that fail `check_values`.
    """
    path = given(path)
    try:
        _check_is_file(path)
        tensors = _read(path, left_out)
    except UnsafeName as error:
        raise KfError(
            f"{path} is refused: its pickle names {shown(error, 200)}, which could run code; no checkpoint needs it.",
            "a checkpoint of tensors and training state; nothing in this file was executed",
            "get the file from its publisher again, or ask there for .safetensors",
        ) from error
    except PermissionError as error:
        raise unreadable(path) from error
    except _BROKEN as error:
        raise KfError(
            f"{path} cannot be read: {shown(error, 300).rstrip('.')}.",
            "a .safetensors file, or a .ckpt or .pt file written by torch.save",
            "download or copy the file again; it may be incomplete",
        ) from error
    except MemoryError as error:
        raise KfError(
            f"{path} does not fit into memory: it has {path.stat().st_size >> 20} MiB.", "a smaller checkpoint"
        ) from error
    tensors = _without_prefix(path, tensors)
    check_values(str(path), tensors)
    return tensors


def check_values(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Raises KfError for the first tensor with a NaN, an infinity, or a value beyond `MAX_WEIGHT`."""
    for name, tensor in tensors.items():
        if not tensor.numel():
            continue
        extremes = torch.stack(torch.aminmax(tensor))  # one pass without a copy; a NaN is both
        if not bool((extremes.abs() <= MAX_WEIGHT).all()):
            beyond = f"beyond {MAX_WEIGHT:,.0f}" if bool(extremes.isfinite().all()) else "not finite (NaN or infinity)"
            raise KfError(
                f"{where}: {shown(name)} has values that are {beyond}.",
                f"weights from -{MAX_WEIGHT:,.0f} to {MAX_WEIGHT:,.0f}",
                "use an earlier checkpoint of that training run",
            )


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise KfError(
            f"{path} is a folder.",
            f"one of its files: {shortened(weight_files(path)) or 'none is a checkpoint'}",
        )
    if not path.exists():
        found = shortened(weight_files(path.parent))
        there = f"one of those in {path.parent}: {found}" if found else "a checkpoint file; that folder has none"
        raise KfError(f"There is no file {path}.", there, "check the path")
    if path.stat().st_size == 0:
        raise KfError(f"{path} is empty.", "a checkpoint file", "download or copy the file again")


def _read(path: Path, left_out: re.Pattern[str] | None) -> dict[str, Tensor]:
    """Recognises the format by content, as any suffix may be used."""
    with path.open("rb") as stream:
        head = stream.read(len(_LFS_POINTER))
    if head == _LFS_POINTER:
        raise _Damaged("it is a Git LFS pointer, not the weights (git lfs pull fetches them)")
    if head.startswith(b"PK"):
        return _read_zip(path)
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        _check_header(path)
        tensors = {n: t for n, t in load_file(path).items() if left_out is None or not left_out.search(n)}
        for name, tensor in tensors.items():
            _check_type(name, tensor.dtype)
        return tensors
    return _read_legacy(path)


def _check_header(path: Path) -> None:
    """Refuses what the library accepts: headers of up to 100 MB, and two tensors of one name."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise _Damaged(f"it has no safetensors header, or one of more than {MAX_HEADER_BYTES >> 20} MiB")
        _check_count(json_object(stream.read(length).decode()))


def _check_count(tensors: Sized) -> None:
    if len(tensors) > MAX_TENSORS:
        raise _Damaged(f"it has {len(tensors)} tensors, more than {MAX_TENSORS}")


class _ZipStream(io.BufferedReader):
    """A file that limits each read to `most` bytes: `ZipFile` reads the whole list of entries at once when it opens."""

    most: float = MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > self.most:
            raise _Damaged(f"its list of entries is larger than {MAX_DIRECTORY_BYTES >> 20} MiB")
        return super().read(size)


def _read_zip(path: Path) -> dict[str, Tensor]:
    with _ZipStream(io.FileIO(path)) as stream, zipfile.ZipFile(stream) as archive:
        stream.most = math.inf
        entries = {info.filename: info for info in archive.infolist()}
        root = _checked_root(entries)
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise _Damaged(f"its entry {shown(info.filename)} is compressed, which torch.save never does")
        if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
            raise _Damaged("its entries declare more bytes than the file has")
        if entries[root + "data.pkl"].file_size > MAX_PICKLE_BYTES:
            raise _Damaged(f"its pickle is larger than {MAX_PICKLE_BYTES >> 20} MiB")
        if root + "byteorder" in entries and archive.read(root + "byteorder") != b"little":
            raise _Damaged("it was written on a big-endian machine")
        value = read_pickle(io.BytesIO(archive.read(root + "data.pkl")))

        def fetch(storage: StorageRef) -> bytearray:
            info = entries.get(f"{root}data/{storage.key}")
            declared = storage.numel * storage.dtype.itemsize
            if info is None or info.file_size != declared:
                found = "none" if info is None else f"{info.file_size} bytes"
                raise _Damaged(f"storage {storage.key[:80]!r} should have {declared} bytes, the file has {found}")
            return bytearray(archive.read(info))

        return _materialise(_weights(value), fetch, path.stat().st_size)


def _checked_root(entries: Mapping[str, zipfile.ZipInfo]) -> str:
    """Name of the archive's only top folder, with its slash."""
    roots = [name.removesuffix("data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise _Damaged("it is a zip file that torch.save did not write (no data.pkl)")
    if roots[0] + "constants.pkl" in entries:
        raise _Damaged("it is a TorchScript archive, a program with weights; a state dictionary is needed")
    return roots[0]


def _read_legacy(path: Path) -> dict[str, Tensor]:
    """The format before torch 1.6: pickles of magic number, version, system, value and storage keys; then storages."""
    # Memory-mapped, so that a declared length cannot allocate more than the file's size.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        stream = io.BytesIO(data[:MAX_PICKLE_BYTES])
        if read_pickle(stream) != _LEGACY_MAGIC:
            raise _Damaged("it was not written by torch.save")
        declared: dict[str, StorageRef] = {}
        version, system, value, keys = (read_pickle(stream, declared) for _ in range(4))
        if version != _LEGACY_PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
            raise _Damaged("its header is not that of torch.save")
        if system.get("little_endian") is not True:
            raise _Damaged("it was written on a big-endian machine")
        places = _legacy_places(data, stream.tell(), keys, declared)

        def fetch(storage: StorageRef) -> bytearray:
            return bytearray(data[places[storage.key]])

        return _materialise(_weights(value), fetch, len(data))


def _legacy_places(
    data: mmap.mmap, start: int, keys: list[Any], declared: Mapping[str, StorageRef]
) -> dict[str, slice]:
    """Byte range of each storage's elements, from `start` on in the order of `keys`, each preceded by its count."""
    places: dict[str, slice] = {}
    if len(keys) != len(declared) or not all(isinstance(key, str) for key in keys) or set(keys) != set(declared):
        raise _Damaged("its list of storages is not that of its tensors")
    for key in keys:
        count = int.from_bytes(data[start : start + 8], "little")
        end = start + 8 + count * declared[key].dtype.itemsize
        if count != declared[key].numel or end > len(data):
            raise _Damaged(f"storage {key[:80]!r} is cut short")
        places[key] = slice(start + 8, end)
        start = end
    return places


def _weights(value: Any) -> dict[str, TensorRef]:
    """The state dictionary of a saved value."""
    state = value.get("state_dict", value) if isinstance(value, dict) else value
    if not isinstance(state, dict) or not any(isinstance(v, TensorRef) for v in state.values()):
        keys = f"; its keys are {shortened(map(str, value))}" if isinstance(value, dict) and value else ""
        raise _Damaged(f"it has no state dictionary of tensors{keys}")
    _check_count(state)
    for name, tensor in state.items():
        if not isinstance(tensor, TensorRef):
            raise _Damaged(f"{shown(name)} in its state dictionary is not a tensor")
    return state


def _materialise(weights: Mapping[str, TensorRef], fetch: Fetch, file_size: int) -> dict[str, Tensor]:
    """Reads the storages of the weights, and only those."""
    for name, ref in weights.items():
        _check_view(name, ref)
    declared = sum(math.prod(ref.size) * ref.storage.dtype.itemsize for ref in weights.values())
    if declared > file_size:  # many views of one storage
        raise _Damaged("its weights are larger than the file")
    storages: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    for name, ref in weights.items():
        key, seen = ref.storage.key, ref.storage.key in storages
        if not seen:
            storages[key] = torch.frombuffer(fetch(ref.storage), dtype=ref.storage.dtype)
        tensor = storages[key].as_strided(ref.size, ref.stride, ref.offset)
        whole = tensor.is_contiguous() and tensor.numel() == ref.storage.numel
        # No two resulting tensors share memory.
        tensors[name] = tensor if whole and not seen else tensor.clone(memory_format=torch.contiguous_format)
    return tensors


def _check_view(name: str, ref: TensorRef) -> None:
    """Checks that a tensor lies within its storage and does not repeat elements (stride 0)."""
    storage = ref.storage
    _check_type(name, storage.dtype)
    name = shown(name)
    size, stride = ref.size, ref.stride
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 8):
        raise _Damaged(f"{name} has no proper shape")
    for number in (ref.offset, *size, *stride):
        # The upper bound also bounds the products below.
        if type(number) is not int or not 0 <= number <= storage.numel:
            raise _Damaged(f"{name} has a shape, stride or offset that does not fit its storage")
    last = ref.offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if not 0 < math.prod(size) <= storage.numel or last >= storage.numel:
        raise _Damaged(f"{name} of shape {size} does not fit its storage of {storage.numel} elements")


def _check_type(name: str, dtype: torch.dtype) -> None:
    if dtype not in FLOAT_TYPES:
        valid = ", ".join(str(t).removeprefix("torch.") for t in FLOAT_TYPES)
        raise _Damaged(f"{shown(name)} has type {str(dtype).removeprefix('torch.')}, weights are {valid}")


def bare_name(name: str) -> str:
    """A tensor's name without the prefixes of torch.compile, DDP, FSDP and Lightning."""
    name = _WRAPPERS.sub("", name)
    prefix = _PREFIXES.match(name)
    return name[prefix.end() :] if prefix else name


def _without_prefix(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    bare: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if (short := bare_name(name)) in bare:
            raise KfError(f"{path} has weights both with and without a prefix: {shown(short)}.", "one of each")
        bare[short] = tensor
    return bare
