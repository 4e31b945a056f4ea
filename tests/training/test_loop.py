"""Training: a killed run goes on as if nothing had happened, a bad one stops, and losses fall."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import student, teacher
from tokenizers import Tokenizer
from torch import Tensor

from kfexplore.config import TrainConfig
from kfexplore.errors import KfError
from kfexplore.models import Student, Teacher
from kfexplore.training.data import END_OF_TEXT, prepare, windows
from kfexplore.training.loop import fit, lr_share, make_optimizers, student_loss, teacher_loss

TOKENS = np.random.default_rng(0).integers(0, 7, 400).astype(np.uint16)
CONFIG = TrainConfig(steps=6, batch=2, context=8, groups=4, block=2, warmup=2, save_every=-1.0)


def small_teacher(seed: int = 0) -> Teacher:
    return teacher(seed, vocab_size=8).requires_grad_(True)


def small_student(seed: int = 1) -> Student:
    return student(seed, vocab_size=8, block=2).requires_grad_(True)


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "state.pt", weights_only=True)


class Killed(Exception):
    """As the process would be."""


def until(stop: int, loss: Callable[[int], Tensor], end: Callable[[], Tensor]) -> Callable[[int], Tensor]:
    return lambda step: end() if step == stop else loss(step)


def kill() -> Tensor:
    raise Killed


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_a_killed_run_goes_on_to_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, optimizer: str, stage: str
) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    source = small_teacher(5).requires_grad_(False)

    def start(seed: int) -> tuple[Teacher | Student, Callable[[int], Tensor]]:
        if stage == "teacher":
            one = small_teacher(seed)
            return one, lambda step: teacher_loss(one, TOKENS, config, step)
        other = small_student(seed)
        return other, lambda step: student_loss(other, source, TOKENS, config, step)

    whole, loss = start(0)
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    fit(whole, loss, config, tmp_path / "whole")
    killed, loss = start(0)
    with pytest.raises(Killed):
        fit(killed, until(4, loss, kill), config, tmp_path / "killed")
    assert state(tmp_path / "killed")["step"] == 4
    resumed, loss = start(9)  # other weights: all must come from the state on disk
    fit(resumed, loss, config, tmp_path / "killed")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
        assert name.endswith("inv_freq") or not torch.equal(before[name], tensor), name


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    network = small_teacher()
    fit(network, lambda step: teacher_loss(network, TOKENS, CONFIG, step), CONFIG, tmp_path)
    again = small_teacher(3)
    fit(again, lambda _: kill(), CONFIG, tmp_path)
    assert torch.equal(again.vocab_embed.embedding, network.vocab_embed.embedding)


@pytest.mark.parametrize("changed", [{"lr": 2e-3}, {"batch": 3}, {"seed": 1}, {"optimizer": "muon"}])
def test_a_state_of_other_settings_is_refused_and_named(tmp_path: Path, changed: dict[str, Any]) -> None:
    network = small_teacher()
    fit(network, lambda step: teacher_loss(network, TOKENS, CONFIG, step), CONFIG, tmp_path)
    with pytest.raises(KfError, match=f"other settings: {next(iter(changed))}"):
        fit(small_teacher(), lambda _: kill(), dataclasses.replace(CONFIG, **changed), tmp_path)


def test_more_steps_continue_a_finished_run(tmp_path: Path) -> None:
    network = small_teacher()
    for steps in (4, 6):
        config = dataclasses.replace(CONFIG, steps=steps)
        fit(network, lambda step: teacher_loss(network, TOKENS, CONFIG, step), config, tmp_path)
        assert state(tmp_path)["step"] == steps


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_with_the_last_good_state(tmp_path: Path, bad: float) -> None:
    network, config = small_teacher(), CONFIG

    def spoiled() -> Tensor:
        return network.vocab_embed.embedding.sum() * bad

    with pytest.raises(KfError, match="at step 3") as caught:
        fit(network, until(3, lambda step: teacher_loss(network, TOKENS, config, step), spoiled), config, tmp_path)
    assert "lower lr" in caught.value.run
    held = state(tmp_path)
    assert held["step"] == 3
    assert all(bool(tensor.isfinite().all()) for tensor in held["model"].values())
    assert torch.equal(held["model"]["vocab_embed.embedding"], network.vocab_embed.embedding)


def test_losses_are_written_every_fifty_steps(tmp_path: Path) -> None:
    network, config = torch.nn.Linear(1, 1), TrainConfig(steps=120, save_every=1e9)
    fit(network, lambda step: network.weight.sum() * 0 + step, config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert lines == [{"step": 50, "loss": 24.5}, {"step": 100, "loss": 74.5}]


def test_learning_rate_rises_stays_and_falls() -> None:
    config = TrainConfig(steps=20, warmup=4, decay=0.5)
    shares = [lr_share(step, config) for step in range(20)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1]
    assert shares[4:11] == [1] * 7
    assert shares[10:] == pytest.approx([1 - n / 10 for n in range(10)])


def test_learning_rate_without_decay_stays() -> None:
    config = TrainConfig(steps=20, warmup=0, decay=0.0)
    assert [lr_share(step, config) for step in range(20)] == [1] * 20


def test_the_learning_rate_reaches_every_parameter_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, made = small_teacher(), []
    config = dataclasses.replace(CONFIG, steps=1, warmup=4, decay=0.0, optimizer="muon")
    monkeypatch.setattr(
        "kfexplore.training.loop.make_optimizers", lambda *given: made.extend(make_optimizers(*given)) or made
    )
    fit(network, lambda step: teacher_loss(network, TOKENS, config, step), config, tmp_path)
    assert {group["lr"] for optimizer in made for group in optimizer.param_groups} == {config.lr / 4}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_has_one_optimizer_and_only_matrices_of_blocks_decay(optimizer: str) -> None:
    network = small_student()
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    groups = [group for made in make_optimizers(network, config) for group in made.param_groups]
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in network.parameters())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    expected = {id(p) for name, p in network.named_parameters() if name.startswith("blocks.") and p.ndim == 2}
    assert decayed == expected


def test_groups_of_a_step_are_distinct_prefixes_and_keyed_by_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def spied(_: Teacher, ids: Tensor, u: Tensor, ends: Tensor) -> Tensor:
        seen.append((ids, u, ends))
        return torch.zeros(u.shape, dtype=torch.int64)

    monkeypatch.setattr("kfexplore.training.loop.exact_targets", spied)
    config = dataclasses.replace(CONFIG, groups=8)
    for step in (3, 3, 4):
        student_loss(small_student(), small_teacher(), TOKENS, config, step)
    for _, u, ends in seen:
        assert ends.sort(dim=1).values.tolist() == [list(range(1, 9))] * 2
        assert ((u >= 0) & (u < 1)).all()
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(seen[0], seen[2], strict=True))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_student_learns_a_tiny_map(tmp_path: Path, optimizer: str) -> None:
    source, learner, losses = small_teacher(5).requires_grad_(False), small_student(), []
    config = TrainConfig(
        steps=80, batch=4, context=8, groups=8, block=2, optimizer=optimizer, lr=5e-3, warmup=5, save_every=1e9
    )

    def loss(step: int) -> Tensor:
        value = student_loss(learner, source, TOKENS, config, step)
        losses.append(value.item())
        return value

    fit(learner, loss, config, tmp_path)
    start, end = (np.mean(part) for part in (losses[:5], losses[-5:]))
    assert end < 0.75 * start


def test_windows_are_stretches_of_the_text_keyed_by_seed_and_step() -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    drawn = windows(tokens, 16, 20, seed=1, step=2)
    assert drawn.shape == (16, 20)
    assert (drawn.diff(dim=1) == 1).all()
    assert torch.equal(drawn, windows(tokens, 16, 20, seed=1, step=2))
    assert not torch.equal(drawn, windows(tokens, 16, 20, seed=1, step=3))
    assert not torch.equal(drawn, windows(tokens, 16, 20, seed=2, step=2))


TEXTS = {
    "1-owl.txt": "The owl — went home.\n",
    "2-rain.txt": "Rain, rain on the old house.\n",
    "3-kept.txt": "zzzz " * 50,
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "notes.md").write_text("not a text to train on")
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_a_folder_of_texts_becomes_a_tokenizer_and_two_arrays(corpus: Path) -> None:
    out = corpus / "new" / "data"
    prepare(corpus, out, 280, ("3-",))
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    arrays = {name: np.load(out / f"{name}.npy") for name in ("train", "held_out")}
    texts = {name: tokenizer.decode(ids.tolist(), skip_special_tokens=False) for name, ids in arrays.items()}
    owl, rain, kept = TEXTS.values()
    assert texts == {"train": owl + END_OF_TEXT + rain + END_OF_TEXT, "held_out": kept + END_OF_TEXT}
    assert {ids.dtype for ids in arrays.values()} == {np.dtype(np.uint16)}
    assert tokenizer.token_to_id(END_OF_TEXT) == 0
    assert tokenizer.get_vocab_size() <= 280
    assert not any("zz" in token for token in tokenizer.get_vocab())  # it never saw the text that is kept back


@pytest.mark.parametrize("held_out", [(), ("9-",), ("1-", "2-", "3-")])
def test_a_corpus_needs_a_text_in_each_part(corpus: Path, held_out: tuple[str, ...]) -> None:
    with pytest.raises(KfError, match="texts to train on and"):
        prepare(corpus, corpus / "data", 280, held_out)
