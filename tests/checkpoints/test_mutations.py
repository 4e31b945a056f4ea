"""Sound files that are changed at random: what comes out is a KfError or a sound model or tokenizer."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from kfexplore.checkpoints.registry import load_model
from kfexplore.checkpoints.tokenizers import decode_ids, encode_ids, highest_id, load_tokenizer
from kfexplore.errors import KfError
from kfexplore.models import Model

from .hostile import json_tokenizer
from .hostile_weights import saved, written
from .synthetic import config, weights

Change = tuple[str, int, bytes]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["put", "drop", "repeat", "cut"]), st.integers(-1500, 1500), st.binary(min_size=1, max_size=9)
    ),
    min_size=1,
    max_size=3,
)
"""What is done, where (from the beginning or the end, as there the structure is), and with which bytes."""
VALUES = st.sampled_from([None, True, -1, 0, 3, 10**12, 2**63, 1e300, "", "F32", "../x", [], [0], [-1], {}, {"a": 1}])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound file of each format."""
    home = tmp_path_factory.mktemp("sound")
    builds: dict[str, Callable[[Path], Path]] = {
        "zip": saved(lambda s, _: {"state_dict": s}),
        "legacy": saved(lambda s, _: {"state_dict": s}, zip_format=False),
        "safetensors": lambda folder: written(folder / "model.safetensors", save(weights())),
        "tokenizer": json_tokenizer(),
    }
    for name in builds:
        (home / name).mkdir()
    return {name: build(home / name) for name, build in builds.items()}


def changed(data: bytes, changes: list[Change]) -> bytes:
    for what, at, some in changes:
        at = max(0, min(len(data) + at if at < 0 else at, len(data)))
        end = min(at + len(some), len(data))
        data = {
            "put": data[:at] + some + data[end:],
            "drop": data[:at] + data[end:],
            "repeat": data[:end] + data[at:end] * 3 + data[end:],
            "cut": data[:at],
        }[what]
    return data


def with_values(document: Any, places: list[int], values: list[Any]) -> Any:
    """A JSON document in which some places, counted from the top, hold other values."""
    for place, value in zip(places, values, strict=False):
        found, waiting = [], [document]
        while waiting:
            node = waiting.pop(0)
            keys = list(node) if isinstance(node, dict) else range(len(node))
            found += [(node, key) for key in keys]
            waiting += [node[key] for key in keys if isinstance(node[key], dict | list)]
        node, key = found[place % len(found)]
        node[key] = copy.deepcopy(value)  # an example changes no other, and holds no value within itself
    return document


def sound_model(path: Path) -> Model | None:
    """The model of a file; None: it was refused."""
    try:
        loaded = load_model(path)
    except KfError:
        return None
    assert all(torch.isfinite(tensor).all() for tensor in loaded.state_dict().values())
    return loaded


def check_model(path: Path) -> None:
    loaded = sound_model(path)
    assert loaded is None or loaded.config == config()


def check_tokenizer(path: Path) -> None:
    try:
        tokenizer = load_tokenizer(path)
        ids = encode_ids(tokenizer, "ab abc, é")
        decode_ids(tokenizer, ids)
    except KfError:
        return
    assert all(0 <= i <= highest_id(tokenizer) for i in ids)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@settings(max_examples=40)
@given(CHANGES)
def test_changed_bytes_of_a_checkpoint(files: dict[str, Path], kind: str, changes: list[Change]) -> None:
    path = files[kind]
    check_model(written(path.with_name("changed.ckpt"), changed(path.read_bytes(), changes)))


@settings(max_examples=60)
@given(CHANGES)
def test_changed_bytes_of_a_tokenizer(files: dict[str, Path], changes: list[Change]) -> None:
    path = files["tokenizer"]
    changed_path = path.parent / "changed" / path.name
    changed_path.parent.mkdir(exist_ok=True)
    check_tokenizer(written(changed_path, changed(path.read_bytes(), changes)))


@settings(max_examples=60)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=2), st.lists(VALUES, min_size=2, max_size=2))
def test_other_values_in_a_header(files: dict[str, Path], places: list[int], values: list[Any]) -> None:
    data = files["safetensors"].read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(with_values(json.loads(data[8 : 8 + length]), places, values)).encode()
    whole = len(header).to_bytes(8, "little") + header + data[8 + length :]
    check_model(written(files["safetensors"].with_name("changed.safetensors"), whole))


@settings(max_examples=80)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=2), st.lists(VALUES, min_size=2, max_size=2))
def test_other_values_in_a_tokenizer(files: dict[str, Path], places: list[int], values: list[Any]) -> None:
    document = with_values(json.loads(files["tokenizer"].read_text()), places, values)
    path = files["tokenizer"].parent / "other" / "tokenizer.json"
    path.parent.mkdir(exist_ok=True)
    check_tokenizer(written(path, json.dumps(document).encode()))


SETTINGS = ["kind", "vocab_size", "width", "depth", "heads", "mask_id", "context", "block", "cond_width", "../x"]


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(SETTINGS), VALUES, max_size=3))
def test_other_values_in_a_config(files: dict[str, Path], stated: dict[str, Any]) -> None:
    folder = files["safetensors"].parent / "config"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(stated))
    path = written(folder / "model.safetensors", files["safetensors"].read_bytes())
    loaded = sound_model(path)
    if loaded is not None:
        assert all(getattr(loaded.config, name) == value for name, value in stated.items())
        assert loaded.config.context <= 1 << 20
