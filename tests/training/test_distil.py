"""The recipe distil: any transformers teacher becomes a pair, in little memory, and wrong input is one message."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import save_causal, student, teacher

from kfexplore import distributed
from kfexplore.checkpoints.registry import load_model
from kfexplore.checkpoints.saving import save_model
from kfexplore.errors import KfError
from kfexplore.evaluate.agreement import agreement
from kfexplore.models import CausalLM, CausalStudent, share_embeddings
from kfexplore.pair import load_pair
from kfexplore.training import memory, targets
from kfexplore.training.config import Recipe, TrainConfig, load_recipe, with_steps
from kfexplore.training.data import Corpus, train_tokenizer
from kfexplore.training.loop import fit
from kfexplore.training.losses import student_loss, teacher_loss
from kfexplore.training.memory import check_memory, needs
from kfexplore.training.stages import Run
from kfexplore.training.targets import exact_targets, inverted_noise, self_targets

CORPUS = Corpus(np.random.default_rng(0).integers(0, 24, 400).astype(np.uint16))
CONFIG = TrainConfig(steps=50, batch=4, context=8, groups=4, block=2, optimizer="muon", lr=5e-3, warmup=2)
TEXT = "The old owl went home, number {}. " * 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tiny Llama with its tokenizer, and a folder of texts beside it."""
    folder, texts = tmp_path / "model", tmp_path / "texts"
    texts.mkdir()
    for n in range(10):
        (texts / f"{n}.txt").write_text(TEXT.replace("{}", str(n)))
    tokenizer = train_tokenizer([TEXT], 270)
    save_causal(folder, "llama", vocab_size=tokenizer.get_vocab_size() + 2)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def small(**changes: Any) -> Recipe:
    """The bundled recipe, in two steps per stage."""
    recipe = with_steps(load_recipe("distil"), 2)
    stages = tuple(dataclasses.replace(stage, groups=8, **changes) for stage in recipe.students)
    return dataclasses.replace(recipe, students=stages)


FAMILIES = [("gpt2", False), ("gpt2", True), ("llama", False), ("llama", True), ("qwen2", False), ("qwen3", True)]


@pytest.mark.parametrize(("family", "tied"), FAMILIES)
def test_a_few_steps_lower_the_loss(tmp_path: Path, family: str, tied: bool) -> None:
    save_causal(tmp_path / "model", family, tie_word_embeddings=tied)
    given: Any = load_model(tmp_path / "model")
    torch.manual_seed(1)
    learner = CausalStudent.after(given, 2)
    before = [student_loss(learner, given, CORPUS, CONFIG, step).mean().item() for step in range(90, 94)]
    fit(learner, lambda step, rows: student_loss(learner, given, CORPUS, CONFIG, step, rows), CONFIG, tmp_path)
    after = [student_loss(learner, given, CORPUS, CONFIG, step).mean().item() for step in range(90, 94)]
    assert np.mean(after) < 0.9 * np.mean(before)
    network = learner.network
    assert tied == (network.get_output_embeddings().weight is network.get_input_embeddings().weight)


@pytest.mark.parametrize(("family", "tied"), [("gpt2", True), ("llama", False)])
def test_embedding_and_head_can_stay_the_teachers_in_the_same_memory(tmp_path: Path, family: str, tied: bool) -> None:
    save_causal(tmp_path / "model", family, tie_word_embeddings=tied)
    given: Any = load_model(tmp_path / "model")
    before = {name: weight.clone() for name, weight in given.state_dict().items()}
    torch.manual_seed(1)
    learner = CausalStudent.after(given, 2)
    share_embeddings(learner, given)
    theirs = {weight.data_ptr() for weight in given.parameters()}
    own = [weight for weight in learner.parameters() if weight.data_ptr() not in theirs]
    assert len(list(learner.parameters())) - len(own) == 2 - tied
    found = needs(given, learner, dataclasses.replace(CONFIG, optimizer="adamw"))
    assert found.student + found.gradients + found.optimizer == 16 * sum(weight.numel() for weight in own)

    def loss(step: int, rows: slice = slice(None)) -> torch.Tensor:
        return student_loss(learner, given, CORPUS, CONFIG, step, rows)

    first = np.mean([loss(step).mean().item() for step in range(90, 94)])
    fit(learner, loss, CONFIG, tmp_path / "stage")
    assert np.mean([loss(step).mean().item() for step in range(90, 94)]) < 0.9 * first
    assert all(torch.equal(weight, before[name]) for name, weight in given.state_dict().items())
    assert {weight.data_ptr() for weight in own}.isdisjoint(theirs)
    assert sum(weight.data_ptr() in theirs for weight in learner.parameters()) == 2 - tied


def test_a_stage_holds_its_student_and_the_teacher_alone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    def networks() -> int:
        gc.collect()
        return sum(type(each) in (CausalLM, CausalStudent) for each in gc.get_objects())

    def counted(*given: Any) -> None:
        held.append(networks())
        fit(*given)

    monkeypatch.setattr("kfexplore.training.stages.fit", counted)
    run = Run(small(), tmp_path / "out", given_teacher=source)
    run.prepare(source.parent / "texts")
    before = networks()
    run.pair()
    assert [count - before for count in held] == [2, 2, 2]


def train(folder: Path) -> None:
    """A few steps of a student over a transformers model, alone or as one of several processes."""
    if not (folder / "model").exists():
        save_causal(folder / "model", "llama")
    given: Any = load_model(folder / "model")
    torch.manual_seed(1)
    learner = CausalStudent.after(given, 2)
    few = dataclasses.replace(CONFIG, steps=5)  # rounding grows from step to step
    fit(learner, lambda step, rows: student_loss(learner, given, CORPUS, few, step, rows), few, folder)
    if distributed.rank() == 0:
        torch.save(learner.state_dict(), folder / "weights.pt")


@pytest.mark.slow
def test_two_processes_get_the_weights_of_one(tmp_path: Path) -> None:
    train(tmp_path / "one")
    save_causal(tmp_path / "two" / "model", "llama")
    script, tests = tmp_path / "worker.py", Path(__file__).parents[1]
    way = f"import sys\nfrom pathlib import Path\nsys.path.insert(0, {str(tests)!r})\n"
    script.write_text(f"{way}from training.test_distil import train\ntrain(Path({str(tmp_path / 'two')!r}))\n")
    launcher = "torch.distributed.run --standalone --nproc_per_node 2"
    command = [sys.executable, "-m", *launcher.split(), str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("one", "two"))
    for key, tensor in one.items():
        # A step changes a weight by 5e-3; Muon amplifies rounding where a gradient is nearly 0.
        torch.testing.assert_close(two[key], tensor, rtol=1e-3, atol=5e-4)


@pytest.mark.parametrize("family", [None, "gpt2", "llama"])
def test_recomputing_and_chunks_of_logits_change_no_gradient(
    tmp_path: Path, family: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`family` None: the published layout."""
    if family is None:
        given: Any = teacher()
        learner: Any = student(block=2).requires_grad_(True)
    else:
        save_causal(tmp_path, family)
        given = load_model(tmp_path)
        learner = CausalStudent.after(given, 2)
    config = dataclasses.replace(CONFIG, ntp_loss_weight=0.5)

    def gradients() -> dict[str, torch.Tensor]:
        learner.zero_grad()
        student_loss(learner, given, CORPUS, config, 0).mean().backward()
        return {name: weight.grad.clone() for name, weight in learner.named_parameters()}

    plain, passes = gradients(), list[int]()
    next(learner.blocks[0].children()).register_forward_pre_hook(lambda *_: passes.append(1))
    gradients()
    once, largest = len(passes), list[int]()
    monkeypatch.setattr(targets, "LOGITS", 24 * 5)
    read = type(learner).read
    monkeypatch.setattr(type(learner), "read", lambda self, x: largest.append(x[..., 0].numel()) or read(self, x))
    learner.recompute = True
    passes.clear()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-6)
    assert max(largest) == 5
    assert len(passes) == 2 * once


def test_targets_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    given, learner = teacher(), student(block=2)
    ids = torch.randint(0, 23, (3, 9), generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([[6, 1], [2, 7], [5, 3]])
    u = torch.rand(3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def found() -> list[torch.Tensor]:
        inverted = inverted_noise(given, ids, u, ends)
        return [exact_targets(given, ids, u, ends), self_targets(learner, ids, u, ends), *inverted]

    whole = found()
    monkeypatch.setattr(targets, "LOGITS", 24 * 4)
    assert all(torch.equal(a, b) or torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, found(), strict=True))
    config = dataclasses.replace(CONFIG, steps=1)
    chunked = teacher_loss(given, CORPUS, config, 0)
    monkeypatch.setattr(targets, "LOGITS", 2**24)
    assert torch.allclose(chunked, teacher_loss(given, CORPUS, config, 0))


def test_a_teacher_becomes_a_pair(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(small(), tmp_path / "out", given_teacher=source)
    folder = run.pair(source.parent / "texts")
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("A teacher of ")
    assert "gradients" in first
    assert "are free" in first
    pair = load_pair(folder)
    learned = pair.need_student()
    assert isinstance(learned, CausalStudent)
    assert (learned.config.block, learned.config.context, pair.room) == (4, 48, 44)
    theirs: Any = load_model(source)
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), pair.teacher.parameters(), strict=True))
    found = agreement(pair, [TEXT.replace("{}", "77") * 3], windows=2, groups=8)
    assert len(found.agreement_by_slot) == 4
    assert Run(small(), tmp_path / "out", given_teacher=source).pair() == folder  # nothing is trained twice
    assert not capsys.readouterr().out
    further = Run(small(), tmp_path / "further", init_from=folder)
    further.prepare(source.parent / "texts")
    assert isinstance(further.students(), CausalStudent)
    assert not (tmp_path / "further" / "student1").exists()
    save_model(CausalLM(further.students().network, pair.teacher.config), folder / "teacher")
    with pytest.raises(KfError, match="distilled from another teacher"):
        Run(small(), tmp_path / "mixed", init_from=folder).pair(source.parent / "texts")
    assert not (tmp_path / "mixed" / "student4").exists()


def test_contexts_are_sampled_from_the_teacher_itself(source: Path, tmp_path: Path) -> None:
    run = Run(small(), tmp_path / "out", given_teacher=source)
    info = run.prepare(self_generated=20)
    assert info.source.startswith("20 contexts of 48 tokens, sampled from ")
    assert (info.documents, info.tokens, info.held_out_tokens) == (20, 19 * 48, 48)
    tokens = np.load(tmp_path / "out" / "data" / "train.npy").reshape(19, 48)
    assert (tokens[:, 0] == 0).all()  # the end of a text, which begins each
    assert len(np.unique(tokens[:, 1:], axis=0)) == 19
    run.students()


def test_a_teacher_of_the_published_layout_is_distilled_by_the_same_recipe(source: Path, tmp_path: Path) -> None:
    out = Run(small(), tmp_path / "first", given_teacher=source).prepare(source.parent / "texts")
    given = teacher(vocab_size=out.vocab_size, context=32)
    from kfexplore.pair import Pair
    from kfexplore.training.stages import load_tokenizer

    Pair(given, tokenizer=load_tokenizer(source)).save_pretrained(tmp_path / "pair")
    folder = Run(small(), tmp_path / "out", given_teacher=tmp_path / "pair").pair(source.parent / "texts")
    pair = load_pair(folder)
    assert (pair.need_student().config.width, pair.need_student().config.context) == (16, 32)
    info = Run(small(), tmp_path / "own", given_teacher=tmp_path / "pair").prepare(self_generated=20)
    assert info.source.startswith("20 contexts of 32 tokens")  # as many as the teacher has


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "olmo"}, "of the type 'olmo'"),
        ({"max_position_embeddings": 4}, r"block of 4 do not fit|groups is 8"),
        ({"vocab_size": 100}, "The tokenizer does not fit the model"),
    ],
)
def test_a_teacher_that_cannot_be_distilled(source: Path, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    path = source / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(KfError, match=says):
        Run(small(), tmp_path / "out", given_teacher=source).pair(source.parent / "texts")


def test_settings_that_do_not_fit(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = source.parent / "texts"
    with pytest.raises(KfError, match="The recipe distil trains no teacher"):
        Run(small(), tmp_path / "out")
    with pytest.raises(KfError, match="Both --init-from and --teacher"):
        Run(small(), tmp_path / "out", init_from="stories", given_teacher=source)
    with pytest.raises(KfError, match="--text and --self-generated were given"):
        Run(small(), tmp_path / "out", given_teacher=source).pair(texts, self_generated=5)
    with pytest.raises(KfError, match="A context of 45 tokens and a block of 4 do not fit the teacher"):
        Run(small(context=45), tmp_path / "out", given_teacher=source).pair(texts)
    run = Run(small(), tmp_path / "out", given_teacher=source)
    monkeypatch.setattr("kfexplore.training.memory.free_bytes", lambda _: 10**5)
    with pytest.raises(KfError, match=r"100? .*are free on cpu|0 MB are free on cpu") as refused:
        run.pair(texts)
    assert "recompute: true" in str(refused.value.valid)
    assert not (tmp_path / "out" / "student1").exists()
    (source / "tokenizer.json").unlink()
    with pytest.raises(KfError, match="has no tokenizer"):
        Run(small(), tmp_path / "new", given_teacher=source).pair(texts)


def test_the_memory_of_adamw_is_sixteen_bytes_per_weight() -> None:
    given, learner = teacher(), student().requires_grad_(True)
    found = needs(given, learner, dataclasses.replace(CONFIG, optimizer="adamw"))
    weights = sum(weight.numel() for weight in learner.parameters())
    assert found.student + found.gradients + found.optimizer == 16 * weights
    assert found.teacher == 4 * sum(weight.numel() for weight in given.parameters())
    assert needs(given, learner, dataclasses.replace(CONFIG, targets="self")).teacher == found.teacher + 4 * weights
    lighter = needs(given, learner, dataclasses.replace(CONFIG, recompute=True, accumulate=4))
    assert lighter.activations < found.activations / 4
    assert lighter.optimizer < found.optimizer
    assert check_memory(found, torch.device("cpu")).endswith("are free.")
    assert memory.LOGITS == targets.LOGITS
