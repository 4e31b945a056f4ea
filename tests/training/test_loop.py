"""Training: a killed run goes on as if nothing had happened, a bad one stops, and losses fall."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import student, teacher
from torch import Tensor

from kfexplore import distributed
from kfexplore.errors import KfError
from kfexplore.models import Student, Teacher
from kfexplore.training import loop
from kfexplore.training.config import TrainConfig
from kfexplore.training.data import Corpus
from kfexplore.training.loop import fit, lr_fraction, make_optimizers, tokens_per_step
from kfexplore.training.losses import student_loss, teacher_loss

Loss = Callable[[int, slice], Tensor]
CORPUS = Corpus(np.random.default_rng(0).integers(0, 7, 400).astype(np.uint16))
CONFIG = TrainConfig(steps=6, batch=2, context=8, groups=4, block=2, warmup=2, save_every=-1.0)


def small_teacher(seed: int = 0) -> Teacher:
    return teacher(seed, vocab_size=8).requires_grad_(True)


def small_student(seed: int = 1) -> Student:
    return student(seed, vocab_size=8, block=2).requires_grad_(True)


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "state.pt", weights_only=True)


class Killed(Exception):
    """As the process would be."""


def until(stop: int, loss: Loss, end: Callable[[], Tensor]) -> Loss:
    return lambda step, rows: end() if step == stop else loss(step, rows)


def kill() -> Tensor:
    raise Killed


@pytest.mark.parametrize(("stage", "optimizer"), [("teacher", "adamw"), ("student", "muon")])
def test_a_killed_run_goes_on_to_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, stage: str, optimizer: str
) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    source = small_teacher(5).requires_grad_(False)

    def start(seed: int) -> tuple[Teacher | Student, Loss]:
        if stage == "teacher":
            one = small_teacher(seed)
            return one, lambda step, _: teacher_loss(one, CORPUS, config, step)
        other = small_student(seed)
        return other, lambda step, _: student_loss(other, source, CORPUS, config, step)

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
    fit(network, lambda step, _: teacher_loss(network, CORPUS, CONFIG, step), CONFIG, tmp_path)
    again = small_teacher(3)
    fit(again, lambda *_: kill(), CONFIG, tmp_path)
    assert torch.equal(again.vocab_embed.embedding, network.vocab_embed.embedding)


@pytest.mark.parametrize("changed", [{"lr": 2e-3}, {"optimizer": "muon"}])
def test_a_state_of_other_settings_is_refused_and_named(tmp_path: Path, changed: dict[str, Any]) -> None:
    network = small_teacher()
    fit(network, lambda step, _: teacher_loss(network, CORPUS, CONFIG, step), CONFIG, tmp_path)
    with pytest.raises(KfError, match=f"other settings: {next(iter(changed))}"):
        fit(small_teacher(), lambda *_: kill(), dataclasses.replace(CONFIG, **changed), tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_with_the_last_good_state(tmp_path: Path, bad: float) -> None:
    network, config = small_teacher(), CONFIG

    def spoiled() -> Tensor:
        return network.vocab_embed.embedding.sum() * bad

    with pytest.raises(KfError, match="at step 3") as caught:
        fit(network, until(3, lambda step, _: teacher_loss(network, CORPUS, config, step), spoiled), config, tmp_path)
    assert "lower lr" in caught.value.run
    held = state(tmp_path)
    assert held["step"] == 3
    assert all(bool(tensor.isfinite().all()) for tensor in held["model"].values())
    assert torch.equal(held["model"]["vocab_embed.embedding"], network.vocab_embed.embedding)


def test_a_gradient_that_is_no_number_stops_with_the_last_good_state(tmp_path: Path) -> None:
    network = small_teacher()

    def spoiled() -> Tensor:  # finite, with an infinite slope
        return (network.vocab_embed.embedding * 0).abs().sqrt().sum()

    with pytest.raises(KfError, match=r"gradient norm nan at step 3"):
        fit(network, until(3, lambda step, _: teacher_loss(network, CORPUS, CONFIG, step), spoiled), CONFIG, tmp_path)
    assert all(bool(tensor.isfinite().all()) for tensor in state(tmp_path)["model"].values())


def test_what_is_read_between_steps_is_read_with_the_new_weights(tmp_path: Path) -> None:
    model, ids = small_teacher(), torch.tensor([[1, 2, 3], [4, 5, 6]])

    def loss(step: int, rows: slice) -> Tensor:
        with torch.no_grad():
            model(ids)  # packs the weights
        return teacher_loss(model, CORPUS, CONFIG, step, rows)

    fit(model, loss, CONFIG, tmp_path)
    plain = model(ids).detach()  # with gradient nothing is packed
    with torch.no_grad():
        assert torch.allclose(model(ids), plain, atol=1e-5)


def test_parts_of_a_step_are_that_step(tmp_path: Path) -> None:
    found = []
    for accumulate in (1, 4):
        config = dataclasses.replace(CONFIG, batch=4, accumulate=accumulate)
        learner, asked = small_student(), []
        loss = partial(student_loss, learner, small_teacher(5).requires_grad_(False), CORPUS, config)
        note = asked.append
        fit(learner, lambda *at, loss=loss, note=note: (note(at), loss(*at))[1], config, tmp_path / f"{accumulate}")
        assert asked == [(step, rows) for step in range(6) for rows in distributed.rows(4, accumulate)]
        found.append(learner.vocab_embed.embedding.detach())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    network = small_teacher()
    fit(network, lambda step, _: teacher_loss(network, CORPUS, CONFIG, step), CONFIG, tmp_path)
    path = tmp_path / "state.pt"
    for damaged in (path.read_bytes()[:1000], b"", b"nothing"):
        path.write_bytes(damaged)
        with pytest.raises(KfError, match=r"state\.pt cannot be read") as caught:
            fit(small_teacher(), lambda *_: kill(), CONFIG, tmp_path)
        assert "after removing" in caught.value.run


def test_fewer_steps_than_were_done_are_refused(tmp_path: Path) -> None:
    network = small_teacher()
    fit(network, lambda step, _: teacher_loss(network, CORPUS, CONFIG, step), CONFIG, tmp_path)
    with pytest.raises(KfError, match="a run of 6 steps"):
        fit(network, lambda *_: kill(), dataclasses.replace(CONFIG, steps=5), tmp_path)


def test_a_curve_that_a_full_disk_tore_is_read_up_to_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, config = torch.nn.Linear(1, 1), TrainConfig(steps=120, save_every=1e9)
    loss = lambda step, _: network.weight.sum() * 0 + step  # noqa: E731
    (tmp_path / "losses.jsonl").write_text('{"step": 50, "loss": 1.0}\n{"step": 100, "lo')
    assert loop.read_curve(tmp_path) == [{"step": 50, "loss": 1.0}]
    write, full = Path.write_text, OSError(28, "No space left on device")

    def failing(path: Path, text: str, **given: Any) -> int:
        if "100" in text:
            raise full
        return write(path, text, **given)

    monkeypatch.setattr(Path, "write_text", failing)
    with pytest.raises(KfError, match=r"curve cannot be saved: .*No space"):
        fit(network, loss, config, tmp_path)
    assert [point["step"] for point in loop.read_curve(tmp_path)] == [50]


def test_a_loss_by_slot_is_written_by_slot_and_its_mean_is_learned(tmp_path: Path) -> None:
    network, config = torch.nn.Linear(2, 1, bias=False), TrainConfig(steps=50, save_every=1e9, accumulate=2, batch=2)
    torch.nn.init.zeros_(network.weight)
    fit(network, lambda *_: network.weight[0] * torch.tensor([1.0, -3.0]) + torch.tensor([1.0, 4.0]), config, tmp_path)
    [line] = loop.read_curve(tmp_path)
    assert network.weight[0, 0] < 0 < network.weight[0, 1]
    assert line["loss_1"] < 1
    assert line["loss_2"] < 4
    assert line["loss"] == pytest.approx((line["loss_1"] + line["loss_2"]) / 2, abs=1e-4)


def test_a_curve_that_was_ahead_of_the_saved_state_is_not_written_twice(tmp_path: Path) -> None:
    network, config = torch.nn.Linear(1, 1), TrainConfig(steps=100, save_every=1e9)
    loss = lambda step, _: network.weight.sum() * 0 + step  # noqa: E731
    with pytest.raises(Killed):
        fit(network, until(70, loss, kill), config, tmp_path)  # killed after a point, before a state
    fit(network, loss, config, tmp_path)
    assert [line["step"] for line in loop.read_curve(tmp_path)] == [50, 100]


def test_a_step_of_a_student_counts_its_slots() -> None:
    config = dataclasses.replace(CONFIG, noises=3)  # 2 contexts of 8 tokens, 4 positions, 3 noise vectors, 2 slots
    assert tokens_per_step(small_teacher(), config) == 16
    assert tokens_per_step(small_student(), config) == 48


def test_a_full_disk_keeps_the_state_before_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, config = small_teacher(), CONFIG
    save = torch.save

    def full(content: dict[str, Any], path: Path) -> None:
        save(content, path)
        if content["step"] == 3:
            raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(KfError, match="after 3 steps cannot be saved") as caught:
        fit(network, lambda step, _: teacher_loss(network, CORPUS, config, step), config, tmp_path)
    assert "same command" in caught.value.run
    assert state(tmp_path)["step"] == 2
    assert not list(tmp_path.glob("*.tmp"))
    monkeypatch.undo()
    fit(network, lambda step, _: teacher_loss(network, CORPUS, config, step), config, tmp_path)
    assert state(tmp_path)["step"] == 6


def test_the_running_mean_is_what_is_kept_and_survives_a_kill(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, ema=0.999)

    def start() -> tuple[Teacher, Loss]:
        network = small_teacher()
        return network, lambda step, _: teacher_loss(network, CORPUS, config, step)

    whole, loss = start()
    seen: list[Tensor] = []

    def spied(step: int, rows: slice) -> Tensor:
        seen.append(whole.vocab_embed.embedding.detach().clone())
        return loss(step, rows)

    fit(whole, spied, config, tmp_path / "whole")
    last = state(tmp_path / "whole")["model"]["vocab_embed.embedding"]
    mean = seen[1]  # after the first step; the start does not count
    for n, weights in enumerate([*seen[2:], last], start=1):
        mean = torch.lerp(mean, weights, 1 - min(0.999, (1 + n) / (10 + n)))
    torch.testing.assert_close(whole.vocab_embed.embedding, mean)
    assert not torch.equal(whole.vocab_embed.embedding, last)
    killed, loss = start()
    with pytest.raises(Killed):
        fit(killed, until(4, loss, kill), config, tmp_path / "killed")
    resumed, loss = start()
    fit(resumed, loss, config, tmp_path / "killed")
    assert torch.equal(resumed.vocab_embed.embedding, whole.vocab_embed.embedding)


def test_weights_are_interpolated_with_the_initial_ones_also_after_a_kill(tmp_path: Path) -> None:
    def fitted(folder: str, share: float, stop: int = 99) -> Tensor:
        network, config = small_teacher(), dataclasses.replace(CONFIG, wise_ft_alpha=share)
        fit(
            network,
            until(stop, lambda step, _: teacher_loss(network, CORPUS, config, step), kill),
            config,
            tmp_path / folder,
        )
        return network.vocab_embed.embedding

    begun, trained = small_teacher().vocab_embed.embedding, fitted("whole", 0.0)
    assert not torch.equal(begun, trained)
    meant = 0.25 * begun + 0.75 * trained
    torch.testing.assert_close(fitted("at once", 0.25), meant)
    with pytest.raises(Killed):
        fitted("killed", 0.0, stop=4)
    torch.testing.assert_close(fitted("killed", 0.25), meant)  # and a begun run may still choose it
    torch.testing.assert_close(fitted("killed", 0.25), meant)  # cut off before its weights were saved: not mixed twice


def test_metrics_go_to_trackio_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    fake = types.SimpleNamespace(
        init=lambda **given: told.append((given["name"], given["config"]["steps"], sorted(given))),
        log=lambda values, step: told.append((step, values["loss"])),
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    network, config = torch.nn.Linear(1, 1), TrainConfig(steps=50, save_every=1e9)
    fit(network, lambda step, _: network.weight.sum() * 0 + step, config, tmp_path / "stage")
    assert told == [("stage", 50, ["config", "name", "project"]), (50, 24.5)]


def test_learning_rate_rises_stays_and_falls() -> None:
    config = TrainConfig(steps=20, warmup=4, decay=0.5)
    shares = [lr_fraction(step, config) for step in range(20)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1]
    assert shares[4:11] == [1] * 7
    assert shares[10:] == pytest.approx([1 - n / 10 for n in range(10)])
    plain = TrainConfig(steps=20, warmup=0, decay=0.0)
    assert [lr_fraction(step, plain) for step in range(20)] == [1] * 20


def test_the_learning_rate_reaches_every_parameter_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, made = small_teacher(), []
    config = dataclasses.replace(CONFIG, steps=1, warmup=4, decay=0.0, optimizer="muon")
    monkeypatch.setattr(
        "kfexplore.training.loop.make_optimizers", lambda *given: made.extend(make_optimizers(*given)) or made
    )
    fit(network, lambda step, _: teacher_loss(network, CORPUS, config, step), config, tmp_path)
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


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_student_learns_a_tiny_map(tmp_path: Path, optimizer: str) -> None:
    source, learner, losses = small_teacher(5).requires_grad_(False), small_student(), []
    config = TrainConfig(
        steps=80, batch=4, context=8, groups=8, block=2, optimizer=optimizer, lr=5e-3, warmup=5, save_every=1e9
    )

    def loss(step: int, _: slice) -> Tensor:
        value = student_loss(learner, source, CORPUS, config, step)
        losses.append(value.mean().item())
        return value

    fit(learner, loss, config, tmp_path)
    start, end = (np.mean(part) for part in (losses[:5], losses[-5:]))
    assert end < 0.75 * start
