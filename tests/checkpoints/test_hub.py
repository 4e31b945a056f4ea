"""A pair that goes to the hub comes back the same; the hub is a folder here."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from helpers import distilled, save_causal
from safetensors.torch import load_file, save_file
from shell import Shell
from tokenizers import Tokenizer

import kfexplore
from kfexplore import KfError, Pair, load_pair
from kfexplore.checkpoints.hub import is_repository
from kfexplore.checkpoints.registry import bundled_folder

NAME = "somebody/owls"


class Hub:
    """Repositories as folders, behind the three calls that the project makes to the hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[dict[str, Any]] = []

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        self.asked.append(options)
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        self.asked.append(options)
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)
        return f"https://huggingface.co/{repo_id}/commit/1"

    def snapshot_download(self, repo_id: str, *, allow_patterns: list[str], **options: Any) -> str:
        self.asked.append(options)
        if not (self.folder / repo_id).is_dir():
            raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nsecond line")
        there = [file for file in (self.folder / repo_id).rglob("*") if file.is_file()]
        names = [str(file.relative_to(self.folder / repo_id)) for file in there]
        for name in huggingface_hub.utils.filter_repo_objects(names, allow_patterns=allow_patterns):
            target = self.folder / "fetched" / repo_id / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / repo_id / name, target)
        return str(self.folder / "fetched" / repo_id)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda _, **options: made.create_repo(**options))
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda _, **options: made.upload_folder(**options))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    monkeypatch.setattr("kfexplore.checkpoints.hub.check_hub", lambda: None)
    monkeypatch.setenv("KFEXPLORE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return made


def assert_same(found: Pair, pair: Pair) -> None:
    for role in ("teacher", "student", "masked"):
        one, other = getattr(found, role), getattr(pair, role)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.config == other.config
            assert one.state_dict().keys() == other.state_dict().keys()
            for name, tensor in one.state_dict().items():
                assert tensor.dtype == other.state_dict()[name].dtype
                assert torch.equal(tensor, other.state_dict()[name]), name
    assert isinstance(found.tokenizer, Tokenizer)
    assert found.tokenizer.to_str() == pair.tokenizer.to_str()
    assert {**found.info, "folder": ""} == {**pair.info, "folder": ""}


def test_the_bundled_pair_comes_back_from_the_hub_byte_for_byte(hub: Hub) -> None:
    pair, bundled = load_pair("tales"), bundled_folder("tales")
    pair.push_to_hub(NAME, private=True)
    pushed = hub.folder / NAME
    assert sorted(file.name for file in pushed.iterdir()) == [
        "README.md",
        "info.json",
        "masked",
        "student",
        "teacher",
        "tokenizer.json",
        "training.json",
    ]
    for role in ("teacher", "student", "masked"):  # bfloat16 holds these weights, so they are not twice the size
        for name in ("model.safetensors", "config.json"):
            assert (pushed / role / name).read_bytes() == (bundled / role / name).read_bytes()
    assert hub.asked[0]["private"] is True
    assert str(bundled) not in "".join(file.read_text() for file in pushed.glob("*.json"))
    for found in (load_pair(NAME), Pair.from_pretrained(NAME), kfexplore.load_pair(pushed)):
        assert_same(found, pair)


def test_the_model_card_is_the_readme_of_the_repository_however_often_it_moves(hub: Hub) -> None:
    card = (bundled_folder("tales") / "MODEL_CARD.md").read_text()
    load_pair("tales").push_to_hub(NAME)
    load_pair(NAME).push_to_hub("another/owls")
    for name in (NAME, "another/owls"):
        readme = huggingface_hub.ModelCard.load(hub.folder / name / "README.md")
        assert readme.text.strip() == card.strip()
        assert readme.data.library_name == "kfexplore"
        assert readme.data.pipeline_tag == "text-generation"
        assert "k-forcing" in readme.data.tags


def test_weights_that_need_it_are_saved_in_float32(hub: Hub, shell: Shell) -> None:
    pair = replace(load_pair(shell.folder), info={"name": "owls", "data": "two sentences"})
    assert pair.push_to_hub(NAME) == f"https://huggingface.co/{NAME}/commit/1"
    assert_same(replace(load_pair(NAME), info=pair.info), pair)
    assert load_pair(NAME).info | {"folder": ""} == pair.info | {"folder": ""}
    assert "# Pair `owls`" in (hub.folder / NAME / "README.md").read_text()
    assert not (hub.folder / NAME / "masked").exists()


def test_options_of_the_hub_are_passed_on_and_nothing_else_is_fetched(hub: Hub, shell: Shell) -> None:
    load_pair(shell.folder).push_to_hub(NAME)
    (hub.folder / NAME / "optimizer.pt").write_bytes(b"gigabytes")
    (hub.folder / NAME / "checkpoints").mkdir()
    (hub.folder / NAME / "checkpoints" / "step.ckpt").write_bytes(b"gigabytes")
    Pair.from_pretrained(NAME, revision="v1", token="t")
    assert hub.asked[-1] == {"revision": "v1", "token": "t"}
    fetched = hub.folder / "fetched" / NAME
    assert {file.name for file in fetched.iterdir()} == {
        "README.md",
        "info.json",
        "student",
        "teacher",
        "tokenizer.json",
    }


def test_a_repository_is_measured_before_it_is_fetched(hub: Hub, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    load_pair(shell.folder).push_to_hub(NAME)
    sizes = {"teacher/model.safetensors": 700, "student/model.safetensors": 300, "data/huge.bin": 10**12}

    def model_info(_: Any, name: str, *, revision: str | None, files_metadata: bool) -> Any:
        assert (name, revision, files_metadata) == (NAME, None, True)
        return SimpleNamespace(
            sha="abc", siblings=[SimpleNamespace(rfilename=file, size=size) for file, size in sizes.items()]
        )

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    with pytest.raises(KfError, match=r"^The repository somebody/owls has 0\.0 GB of models"):
        Pair.from_pretrained(NAME, max_bytes=999)
    assert not (hub.folder / "fetched").exists()
    Pair.from_pretrained(NAME, max_bytes=1000)
    assert hub.asked[-1]["revision"] == "abc"
    sizes.update({f"teacher/{n}": 0 for n in range(300)})
    with pytest.raises(KfError, match="has 302 files of models"):
        Pair.from_pretrained(NAME, max_bytes=1000)


def test_a_repository_of_checkpoint_files_is_a_pair(hub: Hub, shell: Shell) -> None:
    made = hub.folder / NAME
    made.mkdir(parents=True)
    for role in ("teacher", "student"):
        shutil.copyfile(shell.folder / role / "model.safetensors", made / f"{role}.safetensors")
    assert load_pair(NAME).tokenizer is None


def test_a_distilled_pair_comes_back_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    pair = replace(distilled(tmp_path / "model"), info={"name": "owls"})
    pair.push_to_hub(NAME)
    assert_same(load_pair(NAME), replace(pair, info=load_pair(NAME).info))
    assert {file.name for file in (hub.folder / NAME / "student").iterdir()} == {"config.json", "model.safetensors"}


def test_shards_of_transformers_come_with_their_index(hub: Hub) -> None:
    made = hub.folder / NAME
    save_causal(made)
    state = load_file(made / "model.safetensors")
    (made / "model.safetensors").rename(made / "consolidated.safetensors")
    for n, names in enumerate((sorted(state)[::2], sorted(state)[1::2]), start=1):
        save_file({name: state[name] for name in names}, made / f"model-{n:05}-of-00002.safetensors")
    places = {name: f"model-{1 + n % 2:05}-of-00002.safetensors" for n, name in enumerate(sorted(state))}
    (made / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    save_file({"x": torch.ones(1)}, made / "model-00003-of-00003.safetensors")  # of an earlier model
    assert load_pair(NAME).student is None
    assert not (hub.folder / "fetched" / NAME / "consolidated.safetensors").exists()


def test_a_pair_that_cannot_be_fetched_says_what_to_do(hub: Hub, shell: Shell) -> None:
    assert "no connection" in shell.refused("train data --recipe distil --teacher nobody/owls --out run --text FOLDER")
    err = shell.refused("map --pair nobody/owls --token-ids 1 --noise 0.1")
    assert "no connection" in err
    assert "second line" not in err
    assert "home/nobody/owls" in err
    shutil.copytree(shell.folder, Path("home/nobody/owls"))
    assert load_pair("nobody/owls").info["folder"].endswith("home/nobody/owls")
    assert len(hub.asked) == 2


def test_an_info_does_not_say_where_its_pair_lies(hub: Hub, shell: Shell) -> None:
    load_pair(shell.folder).push_to_hub(NAME)
    (hub.folder / NAME / "info.json").write_text(json.dumps({"name": "owls", "folder": "/etc"}))
    assert load_pair(NAME).info["folder"] == str(hub.folder / "fetched" / NAME)


def test_an_info_that_is_no_object_is_a_user_error(hub: Hub, shell: Shell, tmp_path: Path) -> None:
    load_pair(shell.folder).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "info.json").write_text(json.dumps([1]))
    with pytest.raises(KfError, match=r"info\.json"):
        load_pair(tmp_path / "saved")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("owner/name", True),
        ("owner/name-1.5B", True),
        ("tales", False),
        ("owner/name/file", False),
        ("owner/m.ckpt", False),
        ("./owner/name", False),
        ("../name", False),
        ("~/name", False),
        ("owner/na me", False),
        ("here/name", False),  # a mistyped folder is not asked of the hub
        (Path("owner/name"), False),
    ],
)
def test_what_names_a_repository(name: str | Path, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert is_repository(name) is told
