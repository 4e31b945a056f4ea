"""Which safetensors files hold the weights of a folder of transformers, and what is in them."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from kfexplore.checkpoints.json_io import read_json_object
from kfexplore.checkpoints.quoting import shortened, shown
from kfexplore.checkpoints.reading import bare_name, read_tensors, weight_files
from kfexplore.errors import KfError

WHOLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 4 << 20
_SHARD = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors")
_PLAIN = re.compile(r"\w[\w.-]*\.safetensors")


def read_folder(folder: Path, left_out: re.Pattern[str]) -> dict[str, Tensor]:
    """The tensors of `model.safetensors`, else of the files that the index names, else of the only set of shards.

    Args:
        folder: As `save_pretrained` wrote it, or as the hub holds it. Files that belong to none of the three are
            not read: earlier models leave shards behind.
        left_out: As of `read_tensors`.

    Raises:
        KfError: a file is missing (it is named), two sets of shards and no index, a tensor in two files, an index
            that names other files than its tensors are in; as `read_tensors`.
    """
    places = {} if (folder / WHOLE_FILE).is_file() else _weight_map(folder)
    files = sorted(set(places.values())) or _unindexed(folder)
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise KfError(
            f"{folder} lacks {shortened(missing)}.", f"all of: {shortened(files)}", "fetch or copy the folder again"
        )
    tensors: dict[str, Tensor] = {}
    found: dict[str, str] = {}
    for file in files:
        for name, tensor in read_tensors(folder / file, left_out).items():
            if name in tensors:
                raise KfError(f"{folder} has {shown(name)} twice: in {found[name]} and in {file}.", "one of each")
            tensors[name], found[name] = tensor, file
    for name, file in places.items():
        if not left_out.search(name) and found.get(bare_name(name)) != file:
            raise KfError(
                f"{folder / INDEX_FILE} places {shown(name)} in {file}, which does not have it.",
                "an index that was saved with these weights",
                "fetch or copy the folder again",
            )
    return tensors


def _weight_map(folder: Path) -> dict[str, str]:
    """File by tensor, as the index says; {} without an index."""
    path = folder / INDEX_FILE
    if not path.exists():
        return {}
    places = read_json_object(path, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise KfError(f"{path} has no weight_map.", "a JSON object of file names by tensor")
    for file in places.values():
        if not isinstance(file, str) or not _PLAIN.fullmatch(file):
            raise KfError(f"{path} names the file {shown(repr(file))}.", "safetensors files in the same folder")
    return places


def _unindexed(folder: Path) -> list[str]:
    """`model.safetensors`, or a set of shards if it is the only one."""
    if (folder / WHOLE_FILE).is_file():
        return [WHOLE_FILE]
    there = weight_files(folder)
    counts = {shard[1] for name in there if (shard := _SHARD.fullmatch(name))}
    if not counts:
        raise KfError(
            f"{folder} has no {WHOLE_FILE}; it has {shortened(there) or 'no weights'}.",
            "a model of transformers in safetensors; pickled weights are not read",
            "save it with save_pretrained, which writes safetensors",
        )
    if len(counts) > 1:
        raise KfError(
            f"{folder} has shards of several models and no {INDEX_FILE}: {shortened(there)}.",
            "one set of shards, or the index",
            "remove the shards of the other model",
        )
    count = counts.pop()
    return [f"model-{number:05}-of-{count}.safetensors" for number in range(1, int(count) + 1)]
