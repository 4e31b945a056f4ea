"""Paths, hub ids and names of pairs to models."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from kfexplore.checkpoints import registry
from kfexplore.checkpoints.registry import NAMED, bundled_pairs, check_pair, load_model, locate, pair_parts
from kfexplore.checkpoints.saving import save_model
from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import KfError
from kfexplore.models import MaskedModel, Student, Teacher

from .synthetic import config, model, tokenizer, weights, write_config

OWT = ("ar_openwebtxt.ckpt", "pflm_owt_k4.ckpt")
REVISION = "16b984316bdd4585f17b11d0e61a58d236c2febc"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str, str | None]]:
    """A hub that cannot be reached, and what it was asked for."""
    asked: list[tuple[str, str, str | None]] = []

    def unreachable(repository: str, file: str, revision: str | None = None, **_: Any) -> str:
        asked.append((repository, file, revision))
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nsecond line")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setattr("kfexplore.checkpoints.hub.check_hub", lambda: None)
    monkeypatch.setenv("KFEXPLORE_HOME", str(tmp_path / "home"))
    return asked


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder for files put there by hand."""
    return tmp_path / "home"


# load_model.


@pytest.mark.parametrize(
    ("kind", "cls", "suffix"),
    [
        ("teacher", Teacher, ".ckpt"),
        ("student", Student, ".pt"),
        ("masked", MaskedModel, ".safetensors"),
        ("teacher", Teacher, ".pth"),
        ("student", Student, ".bin"),
    ],
)
def test_the_kind_is_named_and_the_weights_are_those_of_the_file(
    tmp_path: Path, kind: Any, cls: type, suffix: str
) -> None:
    path, state = tmp_path / f"m{suffix}", weights(kind, seed=5, prefix="backbone.")
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    loaded = load_model(path, kind=kind)
    assert type(loaded) is cls
    assert loaded.config == config(kind)
    assert all(torch.equal(t, weights(kind, seed=5)[n]) for n, t in loaded.state_dict().items())


def test_a_loaded_model_is_ready_for_inference(tmp_path: Path) -> None:
    loaded = load_model(save_model(model("student"), tmp_path))
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not any(t.is_meta for t in [*loaded.parameters(), *loaded.buffers()])
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert {p.device.type for p in loaded.parameters()} == {"cpu"}


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    save_model(model(), tmp_path)
    before = torch.get_rng_state()
    load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", torch.float64, "float64"])
def test_another_type_is_had_on_request(tmp_path: Path, dtype: Any) -> None:
    loaded = load_model(save_model(model(), tmp_path), dtype=dtype)
    assert {str(p.dtype).removeprefix("torch.") for p in loaded.parameters()} == {str(dtype).removeprefix("torch.")}
    assert loaded.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.int64, "float", "__class__"])
def test_a_type_that_no_model_has_is_refused(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(KfError, match="cannot be loaded as"):
        load_model(tmp_path, dtype=dtype)


@pytest.mark.parametrize("device", ["cpux", "cuda:99", "meta:"])
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, device: str) -> None:
    with pytest.raises(KfError, match=r"device .* cannot be used"):
        load_model(tmp_path, device=device)


def test_rotary_frequencies_of_another_base_are_used_as_they_are(tmp_path: Path) -> None:
    state = weights()
    state["rotary_emb.inv_freq"] = state["rotary_emb.inv_freq"] * 0.25
    torch.save(state, tmp_path / "m.ckpt")
    loaded, usual = load_model(tmp_path / "m.ckpt"), model()
    assert torch.equal(loaded.rotary_emb.inv_freq, state["rotary_emb.inv_freq"])
    ids = torch.tensor([[1, 2, 3]])
    assert not torch.equal(loaded.log_probs(ids), usual.log_probs(ids))


def test_another_kind_than_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KfError, match=r"is a student \(push-forward\) checkpoint, not a teacher\."):
        load_model(save_model(model("student"), tmp_path), kind="teacher")


def test_the_config_beside_the_weights_is_read(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "m.ckpt")
    write_config(tmp_path, context=33)
    assert load_model(tmp_path / "m.ckpt").config.context == 33


def test_a_folder_has_one_clear_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(KfError, match="no checkpoint file"):
        locate(tmp_path)
    for name in ("a.ckpt", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert locate(tmp_path) == tmp_path / "a.ckpt"
    (tmp_path / "b.ckpt").write_bytes(b"x")
    with pytest.raises(KfError, match=r"several(.|\n)*a\.ckpt, b\.ckpt"):
        locate(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert locate(tmp_path) == tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    "name", ["gone.ckpt", "gone/m.ckpt", "./a/b/m.ckpt", "../a/b.ckpt", "a/b/notes", "tests/x/m.ckpt"]
)
def test_a_missing_path_is_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: list[Any], name: str
) -> None:
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    for path in (name, Path("owner/name/m.ckpt")):
        with pytest.raises(KfError, match="no file"):
            load_model(path)
    assert hub == []


# The hub.


def test_what_is_held_of_a_commit_asks_no_hub(hub: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save_model(model(), tmp_path / "cache") / "model.safetensors"

    def held(repository: str, name: str, revision: str) -> str | None:
        return str(file) if (repository, name, revision) == ("zwave/K-Forcing", OWT[0], REVISION) else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", held)
    assert locate(f"zwave/K-Forcing/{OWT[0]}") == file
    assert hub == []
    with pytest.raises(KfError, match="no connection"):  # the other one is not held
        pair_parts("owt")


@pytest.mark.usefixtures("hub")
def test_a_hub_file_is_fetched_at_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save_model(model(), tmp_path / "cache") / "model.safetensors"
    asked: list[Any] = []

    def download(*arguments: Any, **options: Any) -> str:
        asked.append((*arguments, options["revision"]))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    load_model(f"zwave/K-Forcing/{OWT[0]}")
    load_model("someone/else/folder/m.safetensors")
    load_model("kuleshov-group/mdlm-owt")
    assert asked[0] == ("zwave/K-Forcing", OWT[0], REVISION)
    assert asked[1] == ("someone/else", "folder/m.safetensors", None)
    assert asked[2][:2] == ("kuleshov-group/mdlm-owt", "model.safetensors")
    assert len(asked[2][2]) == 40


def test_a_repository_of_several_checkpoints_lists_them(hub: list[Any]) -> None:
    with pytest.raises(KfError, match=r"several checkpoints(.|\n)*zwave/K-Forcing/pflm_lm1b_k4\.ckpt"):
        load_model("zwave/K-Forcing")
    assert hub == []


def test_files_put_there_by_hand_come_before_the_hub(hub: list[Any], home: Path) -> None:
    for folder in (home / "owt", home / "someone" / "else"):
        folder.mkdir(parents=True)
    torch.save(weights(), home / "owt" / OWT[0])
    torch.save(weights(), home / "someone" / "else" / "m.ckpt")
    assert locate(f"zwave/K-Forcing/{OWT[0]}") == home / "owt" / OWT[0]
    assert isinstance(load_model("someone/else/m.ckpt"), Teacher)
    assert hub == []


def test_without_a_connection_the_message_says_what_to_put_where(hub: list[Any], home: Path) -> None:
    with pytest.raises(KfError, match="no connection") as caught:
        pair_parts("owt")
    message = str(caught.value)
    assert ", ".join(OWT) in message
    assert f"https://huggingface.co/zwave/K-Forcing/tree/{REVISION}" in message
    assert str(home / "owt") in message
    assert "second line" not in message
    assert hub == [("zwave/K-Forcing", OWT[0], REVISION)]


def test_the_default_folder_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KFEXPLORE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    folder = tmp_path / ".cache" / "kfexplore" / "lm1b"
    folder.mkdir(parents=True)
    for name in ("ar_best_lm1b.ckpt", "pflm_lm1b_k4.ckpt"):
        (folder / name).write_bytes(b"x")
    assert pair_parts("lm1b").teacher.parent == folder


# Pairs.


@pytest.mark.parametrize(
    ("name", "files", "hub_tokenizer"),
    [("owt", OWT, "gpt2"), ("lm1b", ("ar_best_lm1b.ckpt", "pflm_lm1b_k4.ckpt"), "bert-base-uncased")],
)
def test_a_published_pair_has_its_files(
    name: str, files: tuple[str, str], hub_tokenizer: str, hub: list[Any], home: Path
) -> None:
    (home / name).mkdir(parents=True)
    for file in files:
        (home / name / file).write_bytes(b"x")
    parts = pair_parts(name)
    assert (parts.teacher, parts.student) == tuple(home / name / file for file in files)
    assert (parts.masked, parts.tokenizer) == (None, hub_tokenizer)
    assert parts.info["name"] == name
    assert parts.info["revision"] == REVISION
    tokenizer().save(str(home / name / "tokenizer.json"))
    assert pair_parts(name).tokenizer == home / name / "tokenizer.json"
    assert hub == []


def bundle(place: Path, masked: bool = False) -> Path:
    """A pair as it is bundled."""
    save_model(model("teacher"), place / "teacher")
    save_model(model("student"), place / "student")
    if masked:
        save_model(model("masked"), place / "masked")
    tokenizer().save(str(place / "tokenizer.json"))
    return place


@pytest.mark.parametrize("where", ["checkpoints/tales", "kfexplore/bundled/tales"])
def test_the_bundled_pair_is_found_in_a_working_copy_and_in_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(registry, "PACKAGE", tmp_path / "kfexplore")
    with pytest.raises(KfError, match="bundled pair tales is missing"):
        pair_parts("tales")
    place = bundle(tmp_path / where, masked=True)
    parts = pair_parts("tales")
    assert parts.teacher == place / "teacher"
    assert parts.masked == place / "masked"
    assert parts.tokenizer == place / "tokenizer.json"
    assert parts.info["name"] == "tales"


def test_a_folder_of_files_is_a_pair(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "teacher.ckpt")
    save_file(weights("student"), tmp_path / "student.safetensors")
    save_file(weights("masked"), tmp_path / "masked.safetensors")
    parts = pair_parts(str(tmp_path))
    assert isinstance(load_model(parts.teacher), Teacher)
    assert isinstance(load_model(parts.student), Student)
    assert parts.masked == tmp_path / "masked.safetensors"
    assert parts.tokenizer is None


def test_a_folder_without_a_part_says_which_and_what_it_has(tmp_path: Path) -> None:
    torch.save(weights("student"), tmp_path / "student.ckpt")
    with pytest.raises(KfError, match=r"has no teacher(.|\n)*student\.ckpt"):
        pair_parts(tmp_path)
    torch.save(weights(), tmp_path / "teacher.ckpt")
    assert pair_parts(tmp_path).student == tmp_path / "student.ckpt"
    torch.save(weights(), tmp_path / "teacher.pt")
    with pytest.raises(KfError, match=r"several files for its teacher: teacher\.ckpt, teacher\.pt"):
        pair_parts(tmp_path)


def test_an_unknown_name_names_the_valid_and_the_near_ones() -> None:
    with pytest.raises(KfError, match=r"no pair 'tale'; did you mean tales\?") as caught:
        pair_parts("tale")
    assert "stories, tales, owt, lm1b" in str(caught.value)
    with pytest.raises(KfError, match=r"no pair 'zzz'\."):
        pair_parts("zzz")
    assert list(NAMED) == ["stories", "tales", "owt", "lm1b"]


def test_bundled_pairs_are_those_that_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert DEFAULT_PAIR in bundled_pairs()
    assert all(NAMED[name].about for name in NAMED)
    monkeypatch.setattr(registry, "PACKAGE", tmp_path / "kfexplore")
    assert bundled_pairs() == []
    (tmp_path / "checkpoints" / "owt").mkdir(parents=True)  # a name of the hub
    (tmp_path / "checkpoints" / "stories").mkdir()
    (tmp_path / "kfexplore" / "bundled" / "tales").mkdir(parents=True)
    assert bundled_pairs() == ["stories", "tales"]


def test_a_folder_named_like_a_pair_needs_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PACKAGE", tmp_path / "kfexplore")
    monkeypatch.chdir(tmp_path)
    bundle(tmp_path / "checkpoints" / "tales")
    shutil.copytree(tmp_path / "checkpoints" / "tales", tmp_path / "tales")
    assert pair_parts("tales").teacher == tmp_path / "checkpoints" / "tales" / "teacher"
    assert pair_parts("./tales").teacher.resolve() == tmp_path / "tales" / "teacher"


# check_pair.


@pytest.mark.parametrize("change", [{"vocab_size": 41}, {"mask_id": 3}])
def test_models_of_two_vocabularies_are_refused(change: dict[str, int]) -> None:
    (name, value), *_ = change.items()
    with pytest.raises(KfError, match=rf"teacher and the student .*{name} is .* and {value}\."):
        check_pair(config(), {"student": replace(config("student"), **change)})


def test_a_tokenizer_of_a_larger_vocabulary_is_refused() -> None:
    made = tokenizer()  # highest id 11
    check_pair(config(rows=12), {}, made)
    with pytest.raises(KfError, match="tokenizer does not fit the model: its highest id is 11, but the model has 11"):
        check_pair(config(rows=11), {}, made)
