"""Hostile and broken weights by name: pickles, archives and safetensors."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .synthetic import model, save_zip, tensor_pickle, weights

RAN = "ran"
"""The file that code of a hostile input would leave beside it."""
Build = Callable[[Path], Path]


@dataclass(frozen=True)
class Hostile:
    """One input."""

    build: Build
    """Writes it into a folder and returns what a user would name: a checkpoint, a tokenizer.json, or a pair."""
    says: str
    """Pattern of the refusal."""


# Pickles.


def text(value: str) -> bytes:
    """BINUNICODE."""
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def zipped(pickled: bytes, **storages: bytes) -> Build:
    return lambda folder: save_zip(folder / "m.ckpt", pickled, {"0": bytes(24), **storages})


def viewed(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, **options: Any) -> Build:
    """One tensor of a storage of six numbers."""
    return zipped(tensor_pickle(size, stride, offset, **options))


def call(folder: Path) -> Path:
    """A pickle that calls a function with a shell command."""
    return zipped(b"\x80\x04cos\nsystem\n" + text(f"touch '{folder / RAN}'") + b"\x85R.")(folder)


class Attack:
    """Runs a shell command where Python's unpickler builds it."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch '{folder / RAN}'"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def legacy(pickled: bytes, keys: list[str], rest: bytes = b"") -> bytes:
    """A file of the format before torch 1.6, around any pickle."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, system)]
    return b"".join([*head, pickled, pickle.dumps(keys, 2), rest])


def saved(change: Callable[[dict[str, Any], Path], Any], zip_format: bool = True) -> Build:
    """What torch.save writes of a sound state dictionary that was changed."""

    def build(folder: Path) -> Path:
        state: dict[str, Any] = weights()
        kept = change(state, folder)
        path = folder / "m.ckpt"
        torch.save(state if kept is None else kept, path, _use_new_zipfile_serialization=zip_format)
        return path

    return build


def with_value(value: float, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    state = weights()
    state["blocks.1.mlp.2.weight"] = state["blocks.1.mlp.2.weight"].to(dtype)
    state["blocks.1.mlp.2.weight"][3, 5] = value
    return state


def many_names(part: str, times: int, after: bytes = b"0") -> bytes:
    """One text, joined to itself as module and name again and again; `after` drops the name, or keeps it."""
    return text(part) + b"\x94" + (b"h\x00h\x00\x93" + after) * times + b"."


def many_attributes(length: int, times: int) -> bytes:
    get = b"cbuiltins\ngetattr\ncmade.up\nKind\nh\x00\x86R0"
    return text("a" * length) + b"\x94" + get * times + b"."


def long_number() -> bytes:
    """A storage of 2^8000000 elements, and a view whose size is a product of eight such numbers."""
    number = b"\x8b" + (1_000_001).to_bytes(4, "little") + bytes(1_000_000) + b"\x01" + b"\x94"
    pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number + b"tQ"
    sizes, strides = b"(" + b"h\x00" * 8 + b"t", b"(" + b"K\x01" * 8 + b"t"
    view = b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + b"K\x00" + sizes + strides + b"\x89}tR"
    return b"\x80\x02}" + text("w") + view + b"s."


def aliases(count: int) -> Build:
    """Many tensors that are one number of one storage."""

    def build(folder: Path) -> Path:
        head, tail = tensor_pickle((1,), (1,)).rsplit(b"s.", 1)[0], b"s."
        more = b"".join(b"s" + text(f"w{i}") + b"h\xfa" for i in range(count))
        return save_zip(folder / "m.ckpt", head + b"q\xfa" + more + tail, {"0": bytes(24)})

    return build


def deep(folder: Path) -> Path:
    """A model of many blocks of two numbers each way, which would be built before it is found out."""
    one = model(width=2, heads=1, depth=1).state_dict()
    state = {name: tensor for name, tensor in one.items() if not name.startswith("blocks.")}
    for i in range(600):
        state |= {f"blocks.{i}.{n[9:]}": t for n, t in one.items() if n.startswith("blocks.0.")}
    torch.save(state, folder / "m.ckpt")
    return folder / "m.ckpt"


PICKLES = {
    "a call by REDUCE": Hostile(call, r"names os\.system"),
    "a pickle within a pickle": Hostile(
        lambda f: zipped(b"ctorch.storage\n_load_from_bytes\n" + pickle.dumps(pickle.dumps(Attack(f)), 4)[2:])(f),
        r"names torch\.storage\._load_from_bytes",
    ),
    "an attack beside weights": Hostile(saved(lambda s, f: {"state_dict": s, "x": Attack(f)}), r"names \w+\.system"),
    "an attack in the older format": Hostile(
        saved(lambda s, f: {"state_dict": s, "x": Attack(f)}, zip_format=False), r"names \w+\.system"
    ),
    "a bare pickle": Hostile(lambda f: written(f / "m.ckpt", pickle.dumps(Attack(f), 0)), r"names \w+\.system"),
    "globals of a function": Hostile(
        zipped(b"cbuiltins\ngetattr\ncos.path\njoin\n" + text("__globals__") + b"\x86R."), r"names os\.path\.join"
    ),
    "a name of five million parts": Hostile(zipped(b"c" + b"a." * 5_000_000 + b"\na\n."), "damaged before byte 4,097"),
    "a long name joined again and again": Hostile(zipped(many_names("a" * 4_000_000, 500)), "name of more than 500"),
    "names of 240 parts": Hostile(zipped(many_names("a." * 120, 240_000)), "more than 1000000 operations"),
    "wide names that are kept": Hostile(
        zipped(many_names("\U0001f600" * 249, 330_000, b"")), "more than 1000000 operations"
    ),
    "a line of 40 MB": Hostile(zipped(b"S" + b"\xff" * (40 << 20) + b"\n."), "damaged before byte 4,097"),
    "a long attribute again and again": Hostile(zipped(many_attributes(4_000_000, 5000)), "name of more than 500"),
    "a number of millions of digits": Hostile(zipped(long_number()), "storage of unknown form"),
    "millions of empty lists": Hostile(zipped(b"]" * 2_000_000 + b"."), "more than 1000000 operations"),
    "nested 200,000 times": Hostile(zipped(b"]" + b"\x85" * 200_000 + b"."), "no state dictionary"),
    "a dictionary in itself": Hostile(
        zipped(tensor_pickle((6,), (1,))[:-1] + b"q\xfa" + text("x") + b"h\xfas."), "x in its state dictionary is not"
    ),
    "many aliases of one number": Hostile(aliases(20_000), "tensors, more than 10000"),
    "one number shown many times": Hostile(viewed((10**6, 10**6), (0, 0)), "does not fit its storage"),
    "a shape that overflows": Hostile(viewed((2**62, 2**62), (1, 1)), "does not fit its storage"),
    "a storage larger than the file": Hostile(viewed((2**40,), (1,), numel=2**40), "larger than the file"),
    "a storage that climbs": Hostile(
        viewed((6,), (1,), persistent_id=("storage", torch.FloatStorage, "../../../etc/passwd", "cpu", 6)),
        "the file has none",
    ),
    "NaN in a weight": Hostile(saved(lambda *_: with_value(float("nan"))), r"mlp\.2\.weight has values .* not finite"),
    "infinite once it is float32": Hostile(saved(lambda *_: with_value(1e300, torch.float64)), "beyond 10,000"),
    "logits that overflow": Hostile(saved(lambda *_: with_value(3e38)), "beyond 10,000"),
    "600 tiny blocks": Hostile(deep, "depth is 600"),
    "a name that a terminal obeys": Hostile(
        saved(lambda s, _: {**s, "\x1b[2J\n" + "x" * 10_000: torch.ones(2)}), r"unexpected: \\x1b\[2J\\nxxx"
    ),
}

# Zip files and other containers.


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def archive(*entries: tuple[str, bytes], **options: Any) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as made:
        for name, data in entries:
            made.writestr(name, data)
    return stream.getvalue()


def zip_file(*entries: tuple[str, bytes], **options: Any) -> Build:
    return lambda folder: written(folder / "m.ckpt", archive(*entries, **options))


def cut(build: Build, share: float) -> Build:
    def made(folder: Path) -> Path:
        path = build(folder)
        data = path.read_bytes()
        return written(path, data[: int(len(data) * share)])

    return made


def overlapping(folder: Path) -> Path:
    path = folder / "m.ckpt"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("archive/data.pkl", tensor_pickle((6,), (1,)))
        made.writestr("archive/data/0", bytes(100_000))
        made.filelist.extend([made.getinfo("archive/data/0")] * 500)
    return path


def encrypted(folder: Path) -> Path:
    data = bytearray(archive(("archive/data.pkl", b"N.")))
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    return written(folder / "m.ckpt", bytes(data))


SIX = ("archive/data.pkl", tensor_pickle((6,), (1,)))
BOMB = ("archive/data/0", bytes(32 << 20))
CONTAINERS = {
    "a zip bomb": Hostile(zip_file(SIX, BOMB, compression=zipfile.ZIP_DEFLATED), "is compressed"),
    "a bomb of overlapping entries": Hostile(overlapping, "more bytes than the file has"),
    "an archive in an archive": Hostile(zip_file(("archive/data.pkl", archive(SIX))), "pickle is damaged"),
    "entries that climb": Hostile(zip_file(("../../data.pkl", SIX[1])), "torch.save did not write"),
    "two checkpoints in one": Hostile(zip_file(SIX, ("b/data.pkl", b"N.")), "torch.save did not write"),
    "an encrypted archive": Hostile(encrypted, "encrypted"),
    "a zip file cut short": Hostile(cut(saved(lambda s, _: s), 0.7), "cannot be read"),
    "the older format cut short": Hostile(cut(saved(lambda s, _: s, zip_format=False), 0.7), "cut short"),
    "the older format with a huge count": Hostile(
        lambda f: written(f / "m.pt", legacy(tensor_pickle((6,), (1,)), ["0"], (2**62).to_bytes(8, "little"))),
        "cut short",
    ),
    "a million entries": Hostile(
        lambda f: written(f / "m.ckpt", archive(*[(f"archive/data/{n}", b"") for n in range(50_000)])),
        "list of entries is larger than 2 MiB",
    ),
    "the older format with one long key many times": Hostile(
        lambda f: written(f / "m.pt", legacy(tensor_pickle((6,), (1,)), ["k" * (4 << 20)] * 900_000)),
        "list of storages is not that of its tensors",
    ),
    "an empty file": Hostile(lambda f: written(f / "m.ckpt", b""), "is empty"),
}

# Safetensors.


def tensors(header: Any, data: bytes = b"", length: int | None = None) -> Build:
    """A safetensors file of any header."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = (len(head) if length is None else length).to_bytes(8, "little")
    return lambda folder: written(folder / "model.safetensors", size + head + data)


def place(shape: list[Any], begin: int = 0, end: int = 8, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def sparse(folder: Path) -> Path:
    """A terabyte of nothing, which takes no room on a disk."""
    path = tensors({"w": place([1 << 38], 0, 1 << 40)})(folder)
    os.truncate(path, path.stat().st_size + (1 << 40))
    return path


def with_nan(folder: Path) -> Path:
    save_file(with_value(float("nan")), folder / "model.safetensors")
    return folder


TWICE = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
SAFETENSORS = {
    "a header of 2^60 bytes": Hostile(tensors(b"{}", length=2**60), "more than 1 MiB"),
    "a header of 100,000 tensors": Hostile(
        tensors({f"{i}": place([0], 0, 0) for i in range(100_000)}), "more than 1 MiB"
    ),
    "a header nested a million times": Hostile(tensors(b'{"__metadata__":' + b"[" * 1_000_000), "too deeply"),
    "two tensors of one name": Hostile(tensors(TWICE, bytes(8)), "has the key w twice"),
    "tensors that overlap": Hostile(tensors({"a": place([2]), "b": place([2])}, bytes(8)), "invalid offset"),
    "tensors with a hole": Hostile(tensors({"a": place([2], 8, 16)}, bytes(16)), "invalid offset"),
    "a shape below zero": Hostile(tensors({"a": place([-2])}, bytes(8)), "cannot be read"),
    "a product of shapes that overflows": Hostile(tensors({"a": place([2**32] * 3)}, bytes(8)), "overflow"),
    "a shape beyond 64 bits without elements": Hostile(
        tensors({"a": place([2**63, 0], 0, 0)}), "cannot be read.*Overflow"
    ),
    "a shape of 100,000 axes": Hostile(
        tensors({"vocab_embed.embedding": place([1] * 100_000 + [2])}, bytes(8)), r"has shape \(1, 1, .*\.\.\."
    ),
    "no rows": Hostile(
        tensors({"vocab_embed.embedding": place([0, 4], 0, 0), "rotary_emb.inv_freq": place([2])}, bytes(8)),
        "vocab_size is 0",
    ),
    "a type that is none": Hostile(tensors({"a": place([2], dtype="F99")}, bytes(8)), "unknown variant `F99`"),
    "numbers of eight bits": Hostile(tensors({"a": place([8], dtype="F8_E4M3")}, bytes(8)), "type float8_e4m3fn"),
    "more behind the tensors": Hostile(tensors({"a": place([2])}, bytes(80)), "not fully covered"),
    "tensors cut short": Hostile(tensors({"a": place([200], 0, 800)}, bytes(8)), "cannot be read"),
    "a terabyte of nothing": Hostile(sparse, "cannot be read|does not fit into memory"),
    "NaN in safetensors": Hostile(with_nan, r"mlp\.2\.weight has values .* not finite"),
}

WEIGHTS = {**PICKLES, **CONTAINERS, **SAFETENSORS}
