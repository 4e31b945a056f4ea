"""The losses of a step: what is shown to a model, and what it is asked for."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import masked, student, teacher
from torch import Tensor

from kfexplore import distributed
from kfexplore.errors import KfError
from kfexplore.maps import PrefilledContext
from kfexplore.models import MaskedModel, Student, Teacher
from kfexplore.training import losses
from kfexplore.training.config import TrainConfig
from kfexplore.training.data import Corpus
from kfexplore.training.loop import fit, read_curve
from kfexplore.training.losses import continued, masked_loss, student_loss, teacher_loss
from kfexplore.training.targets import exact_targets, self_targets

CORPUS = Corpus(np.random.default_rng(0).integers(0, 7, 400).astype(np.uint16))
CONFIG = TrainConfig(steps=6, batch=4, context=8, groups=4, block=2)
MASK = 7
FULL = pytest.mark.full("kfexplore/training", "kfexplore/distributed.py", "requirements-dev.txt")


def small_teacher(seed: int = 0) -> Teacher:
    return teacher(seed, vocab_size=8).requires_grad_(True)


def small_student(seed: int = 1, block: int = 2) -> Student:
    return student(seed, vocab_size=8, block=block).requires_grad_(True)


def test_groups_of_a_step_are_distinct_prefixes_and_keyed_by_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def spied(_: Teacher, ids: Tensor, u: Tensor, ends: Tensor, *_tau: float) -> Tensor:
        seen.append((ids, u, ends))
        return torch.zeros(u.shape, dtype=torch.int64)

    monkeypatch.setattr("kfexplore.training.losses.exact_targets", spied)
    config = dataclasses.replace(CONFIG, batch=2, groups=8)
    for step in (3, 3, 4):
        student_loss(small_student(), small_teacher(), CORPUS, config, step)
    for _, u, ends in seen:
        assert ends.sort(dim=1).values.tolist() == [list(range(1, 9))] * 2
        assert ((u >= 0) & (u < 1)).all()
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(seen[0][:2], seen[2][:2], strict=True))
    student_loss(small_student(), small_teacher(), CORPUS, dataclasses.replace(config, groups=4), 3)
    places = seen[3][2].tolist()
    assert all(row == sorted(set(row)) for row in places)
    assert places[0] != places[1]


def test_several_noise_vectors_stand_at_each_position(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def spied(_teacher: Teacher, _ids: Tensor, u: Tensor, ends: Tensor, *_tau: float) -> Tensor:
        seen.append((u, ends))
        return torch.zeros(u.shape, dtype=torch.int64)

    monkeypatch.setattr(losses, "exact_targets", spied)
    student_loss(small_student(), small_teacher(), CORPUS, dataclasses.replace(CONFIG, noises=3), 0)
    u, ends = seen[0]
    assert ends.shape == (4, 12)
    assert all(len(set(row.tolist())) == 4 for row in ends)
    assert len(u.unique()) == u.numel()


def test_the_loss_of_a_student_is_its_surprise_at_the_exact_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(losses, "exact_targets", lambda *given: kept.append(given) or exact_targets(*given))
    learner, source = small_student(), small_teacher()
    config = dataclasses.replace(CONFIG, tau_min=0.5, tau_max=2.0)
    loss = student_loss(learner, source, CORPUS, config, 0)
    _, ids, u, ends, tau = kept[0]
    assert 0.5 < tau < 2.0
    law = learner.group_logits(ids, u, ends, tau).log_softmax(dim=-1)
    right = law.gather(3, exact_targets(source, ids, u, ends, tau)[..., None])[..., 0]
    torch.testing.assert_close(loss, -right.mean(dim=(0, 1)), rtol=1e-5, atol=0.0)
    assert loss.shape == (config.block,)


def test_self_forcing_needs_the_student_of_half_the_block() -> None:
    config = dataclasses.replace(CONFIG, targets="self", block=4)
    for frozen in (None, small_student(block=4)):
        with pytest.raises(KfError, match="needs a student of 2"):
            student_loss(small_student(block=4), small_teacher(), CORPUS, config, 0, frozen=frozen)
    loss = student_loss(small_student(block=4), small_teacher(), CORPUS, config, 0, frozen=small_student())
    assert loss.isfinite().all()


def test_noise_inversion_asks_for_the_text_under_noise_of_its_own_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[Tensor, Tensor]] = []

    def spied(_self: Student, _cache: Any, u: Tensor, ends: Tensor, *_tau: float, **_: Any) -> Tensor:
        shown.append((u, ends))
        return torch.zeros(ends.numel(), u.shape[-1], 16, requires_grad=True)

    monkeypatch.setattr(Student, "group_slots", spied)
    asked: list[Tensor] = []
    monkeypatch.setattr(F, "cross_entropy", lambda logits, wanted, **_: asked.append(wanted) or logits.sum(dim=1))
    source = small_teacher()
    student_loss(small_student(), source, CORPUS, dataclasses.replace(CONFIG, targets="inversion"), 0)
    ids, (u, ends) = CORPUS.windows(CONFIG.batch, CONFIG.context, CONFIG.seed, 0), shown[0]
    text = torch.stack([ids.gather(1, ends), ids.gather(1, ends + 1)], dim=-1)
    assert torch.equal(asked[0].view(text.shape), text)
    # The noise is one that the exact map turns into the text: it follows the text, so prefixes agree too.
    assert torch.equal(exact_targets(source, ids, u, ends), text)


def test_the_next_token_distribution_is_learned_beside_the_map() -> None:
    source = small_teacher().requires_grad_(False)
    learner = small_student()
    learner.load_state_dict(source.state_dict(), strict=False)
    plain, both = (
        student_loss(learner, source, CORPUS, dataclasses.replace(CONFIG, ntp_loss_weight=weight), 0).mean().item()
        for weight in (0.0, 2.0)
    )
    ids = CORPUS.windows(CONFIG.batch, CONFIG.context, CONFIG.seed, 0)
    logits = learner.read(learner.run_blocks(learner.embed(ids), losses.KVCache(), keep=8))
    law = source.log_probs(ids)
    assert both - plain == pytest.approx(-2 * (law.exp() * logits.log_softmax(-1)).sum(-1).mean().item(), rel=1e-4)


def test_continued_contexts_keep_the_first_half_and_do_not_depend_on_the_corpus_after_it() -> None:
    learner, ids = small_student(), torch.randint(0, 7, (3, 8), generator=torch.Generator().manual_seed(0))
    other = torch.cat([ids[:, :4], (ids[:, 4:] + 1) % 7], dim=1)
    noise = torch.rand(3, 2, 2, dtype=torch.float64)  # two steps of two slots write the other half
    written = [continued(learner, context, noise) for context in (ids, other)]
    assert torch.equal(written[0][:, :4], ids[:, :4])
    assert torch.equal(written[0], written[1])
    first = learner.block_logits(ids[:, :4], noise[:, 0]).argmax(-1)
    assert torch.equal(written[0][:, 4:6], first)


@pytest.mark.parametrize(
    "changes", [{}, {"on_policy_fraction": 0.75}, {"targets": "inversion"}, {"ntp_loss_weight": 0.5}]
)
def test_the_parts_of_a_batch_add_up_to_it(changes: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, batch=4, **changes)
    learner, source = small_student(), small_teacher().requires_grad_(False)
    whole = student_loss(learner, source, CORPUS, config, 0).mean()
    parts = [student_loss(learner, source, CORPUS, config, 0, slice(n, n + 1)).mean() for n in range(4)]
    assert sum(part.item() for part in parts) / 4 == pytest.approx(whole.item(), rel=1e-5)
    assert len({part.item() for part in parts}) == 4
    network = masked(vocab_size=8)
    halves = [masked_loss(network, CORPUS, config, 0, rows).item() for rows in (slice(2), slice(2, 4))]
    assert sum(halves) / 2 == pytest.approx(masked_loss(network, CORPUS, config, 0).item(), rel=1e-5)


def test_a_fraction_of_the_contexts_is_written_by_the_student(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    monkeypatch.setattr(losses, "continued", lambda _, ids, _noise: rows.append(len(ids)) or ids)
    for share in (0.0, 0.5, 1.0):
        config = dataclasses.replace(CONFIG, on_policy_fraction=share)
        student_loss(small_student(), small_teacher(), CORPUS, config, 0)
    assert rows == [2, 4]


def test_the_masked_loss_weighs_hidden_tokens_by_one_over_their_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is uniform over V tokens has the bound ln V, whatever is hidden."""
    config = dataclasses.replace(CONFIG, batch=64)
    shown: list[Tensor] = []

    def uniform(_: MaskedModel, ids: Tensor) -> Tensor:
        shown.append(ids)
        return torch.zeros(*ids.shape, 8)

    monkeypatch.setattr(MaskedModel, "forward", uniform)
    found = [masked_loss(masked(vocab_size=8), CORPUS, config, step).item() for step in range(80)]
    assert np.mean(found) == pytest.approx(math.log(8), rel=0.05)
    hidden = (shown[0] == MASK).double().mean(dim=1)
    assert hidden.min() < 0.2
    assert hidden.max() > 0.8
    text = CORPUS.windows(64, 8, config.seed, 0)
    assert torch.equal(shown[0][shown[0] != MASK], text[shown[0] != MASK])


def test_the_masked_loss_does_not_count_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def knows_what_it_sees(_: MaskedModel, ids: Tensor) -> Tensor:
        return F.one_hot(ids, 8).double() * 1e4  # hidden tokens are sure to be the mask: infinitely wrong there

    monkeypatch.setattr(MaskedModel, "forward", knows_what_it_sees)
    assert masked_loss(masked(vocab_size=8), CORPUS, CONFIG, 0) > 100
    monkeypatch.setattr(losses.noise, "generator", lambda *_: NothingHidden())
    monkeypatch.setattr(Corpus, "windows", lambda *_: torch.arange(7)[None].repeat(4, 1))
    assert masked_loss(masked(vocab_size=8), CORPUS, CONFIG, 0) == 0


def test_behind_a_prefix_only_the_last_tokens_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Tensor] = []

    def uniform(_: MaskedModel, ids: Tensor) -> Tensor:
        shown.append(ids == MASK)
        return torch.zeros(*ids.shape, 8)

    monkeypatch.setattr(MaskedModel, "forward", uniform)
    config = dataclasses.replace(CONFIG, batch=64, prefix_fraction=1.0)
    found = [masked_loss(masked(vocab_size=8), CORPUS, config, step).item() for step in range(100)]
    assert np.mean(found) == pytest.approx(math.log(8), rel=0.05)
    assert {hidden.shape[1] for hidden in shown} == set(range(2, config.context + 1))
    assert not any(hidden[:, 0].any() for hidden in shown)
    assert any(hidden[:, -1].any() for hidden in shown)


class NothingHidden:
    """Draws that hide no token."""

    def random(self, shape: tuple[int, ...] | None = None) -> Any:
        return 0.5 if shape is None else np.ones(shape)


@pytest.mark.parametrize("kind", ["teacher", "student", "masked"])
def test_autocast_changes_a_loss_by_rounding_only_and_never_the_targets(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[Tensor] = []
    monkeypatch.setattr(losses, "exact_targets", lambda *given: wanted.append(exact_targets(*given)) or wanted[-1])
    config = dataclasses.replace(CONFIG, batch=8)

    def loss(precision: str) -> float:
        now = dataclasses.replace(config, precision=precision)
        if kind == "student":
            return student_loss(small_student(), small_teacher(), CORPUS, now, 0).mean().item()
        if kind == "masked":
            return masked_loss(masked(vocab_size=8), CORPUS, now, 0).item()
        return teacher_loss(small_teacher(), CORPUS, now, 0).item()

    full, half = loss("fp32"), loss("bf16")
    assert full != half
    assert full == pytest.approx(half, rel=0.02)
    assert all(torch.equal(one, wanted[0]) for one in wanted)


def test_noise_keeps_its_resolution_under_autocast() -> None:
    encoder = small_student().noise_encoder
    u = torch.tensor([[0.3, 0.3 + 2.0**-12]], dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = encoder(u)[0]
    assert near.dtype == torch.float32
    assert torch.equal(near, encoder(u)[0])
    assert not torch.equal(near[0], near[1])


def train(folder: Path) -> None:
    """Fifty steps of a student, alone or as one of several processes."""
    config = dataclasses.replace(CONFIG, steps=50, warmup=2, on_policy_fraction=0.75, ema=0.9)
    source, learner = small_teacher().requires_grad_(False), small_student()
    fit(learner, lambda step, rows: student_loss(learner, source, CORPUS, config, step, rows), config, folder)
    if distributed.rank() == 0:
        torch.save(learner.state_dict(), folder / "weights.pt")


LAUNCHERS = {
    "torchrun": "torch.distributed.run --standalone --nproc_per_node 2",
    "accelerate": "accelerate.commands.launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no --main_process_port 0",
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("accelerate", marks=FULL)])
def test_two_processes_get_the_loss_and_weights_of_one(tmp_path: Path, launcher: str) -> None:
    if launcher == "accelerate":
        pytest.importorskip("accelerate")
    script, tests = tmp_path / "worker.py", Path(__file__).parents[1]
    way = f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {str(tests)!r})\n"
    script.write_text(f"{way}from training.test_losses import train\ntrain(Path({str(tmp_path / 'two')!r}))\n")
    train(tmp_path / "one")
    command = [sys.executable, "-m", *LAUNCHERS[launcher].split(), str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("one", "two"))
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-3, atol=1e-4)
    (alone,), (shared,) = (read_curve(tmp_path / name) for name in ("one", "two"))
    for name in ("loss", "loss_1", "loss_2"):
        assert shared[name] == pytest.approx(alone[name], abs=2e-4)


def test_a_batch_that_cannot_be_divided_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    assert distributed.rows(12, 2) == [slice(4, 6), slice(6, 8)]
    with pytest.raises(KfError, match="4 cannot be divided among 3"):
        distributed.rows(4)
    with pytest.raises(KfError, match="9 cannot be divided among 3 processes in 2 parts"):
        distributed.rows(9, 2)


IDS = torch.randint(0, 23, (3, 9), generator=torch.Generator().manual_seed(0))
ENDS = torch.tensor([[9, 1, 4, 4], [2, 7, 9, 1], [5, 3, 8, 6]])
NOISE = torch.rand(3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_exact_targets_are_the_exact_map_after_each_prefix() -> None:
    source, learner = teacher(1), student()
    targets = exact_targets(source, IDS, NOISE, ENDS)
    for b, g in np.ndindex(3, 4):
        here = PrefilledContext(source, learner, IDS[b, : ENDS[b, g]])
        assert targets[b, g].tolist() == here.exact(NOISE[b, g][None].numpy())[0][0].tolist()


def test_self_targets_are_two_explicit_rounds_of_the_frozen_student() -> None:
    source = student(block=2)
    targets = self_targets(source, IDS, NOISE, ENDS)
    for b, g in np.ndindex(3, 4):
        ids, u = IDS[b : b + 1, : ENDS[b, g]], NOISE[b, g][None]
        first = source.block_logits(ids, u[:, :2]).argmax(dim=-1)
        second = source.block_logits(torch.cat([ids, first], dim=1), u[:, 2:]).argmax(dim=-1)
        assert targets[b, g].tolist() == [*first[0].tolist(), *second[0].tolist()]


def test_targets_carry_no_gradient() -> None:
    networks = teacher().requires_grad_(True), student(block=2).requires_grad_(True)
    for target in (exact_targets(networks[0], IDS, NOISE, ENDS), self_targets(networks[1], IDS, NOISE, ENDS)):
        assert target.shape == (3, 4, 4)
        assert target.dtype == torch.int64
        assert not target.requires_grad
