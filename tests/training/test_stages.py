"""Stages: each is trained once, after those it builds on, and never taken for one of other settings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from torch import Tensor

from kfexplore.checkpoints.registry import load_model, pair_parts
from kfexplore.errors import KfError
from kfexplore.models import MaskedModel, Student, Teacher
from kfexplore.pair import load_pair
from kfexplore.training import losses as real_losses
from kfexplore.training.config import DataConfig, Recipe, StoriesConfig, TrainConfig
from kfexplore.training.stages import Run

STAGE = TrainConfig(steps=2, batch=2, context=8, groups=4, warmup=1, decay=0.0)
RECIPE = Recipe(
    name="small",
    about="",
    data=DataConfig(vocab_size=260, held_out=("3-",)),
    width=8,
    depth=1,
    heads=2,
    context=8,
    cond_width=4,
    teacher=STAGE,
    students=(
        dataclasses.replace(STAGE, block=1),
        dataclasses.replace(STAGE, block=2, targets="self"),
        dataclasses.replace(STAGE, block=4),
    ),
    masked=STAGE,
)
STAGES = ["teacher", "student1", "student2", "student4", "masked"]


class Losses:
    """Stands in for the losses: notes what each step was given, and moves every weight."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, dict[str, Any]]] = []
        self.starts: dict[str, dict[str, Tensor]] = {}

    def of(self, kind: str) -> Callable[..., Tensor]:
        def loss(model: Any, *, step: int, **given: Any) -> Tensor:
            name = kind + (str(model.config.block) if kind == "student" else "")
            self.seen.append((name, step, {k: v for k, v in given.items() if k != "rows"}))
            if step == 0:
                self.starts[name] = {key: tensor.clone() for key, tensor in model.state_dict().items()}
            return sum((p**2).sum() for p in model.parameters())

        return loss

    @property
    def trained(self) -> list[str]:
        return [name for name, step, _ in self.seen if step == 0]


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Losses:
    made = Losses()
    for kind in ("teacher", "student", "masked"):
        monkeypatch.setattr(real_losses, f"{kind}_loss", made.of(kind))
    return made


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("1-owl", "2-rain", "3-kept"):
        (folder / f"{name}.txt").write_text(f"The old owl went home, {name}. " * 5)
    return folder


def weights(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def with_teacher(**changes: Any) -> Recipe:
    return dataclasses.replace(RECIPE, teacher=dataclasses.replace(STAGE, **changes))


def with_student(**changes: Any) -> Recipe:
    first, *others = RECIPE.students
    return dataclasses.replace(RECIPE, students=(dataclasses.replace(first, **changes), *others))


def test_a_pair_goes_through_all_stages_once_and_is_one_to_load(losses: Losses, texts: Path, tmp_path: Path) -> None:
    run = Run(RECIPE, tmp_path / "out")
    assert run.pair(texts) == tmp_path / "out" / "pair"
    assert losses.trained == STAGES
    assert [step for name, step, _ in losses.seen if name == "student2"] == [0, 1]
    pair = load_pair(tmp_path / "out" / "pair")
    assert isinstance(pair.teacher, Teacher)
    assert isinstance(pair.student, Student)
    assert isinstance(pair.masked, MaskedModel)
    assert (pair.student.config.block, pair.student.config.context, pair.masked.config.cond_width) == (4, 8, 4)
    assert pair.encode("owl")[0]
    (made,) = {id(given["teacher"]): given["teacher"] for name, _, given in losses.seen if name == "student1"}.values()
    for way in ("pair/teacher", "teacher"):  # the published weights are those that the student was taught by
        stored = load_file(tmp_path / "out" / way / "model.safetensors")["vocab_embed.embedding"]
        assert stored.dtype == torch.bfloat16
        assert torch.equal(stored.float(), made.vocab_embed.embedding)
    told = pair.info["training"]
    assert told["recipe"] == "small"
    assert told["student2"].startswith(f"2 steps of {STAGE.batch} x {STAGE.context} tokens, ")
    assert "targets self" in told["student2"]
    before = weights(tmp_path / "out")
    assert run.pair() == run.pair(texts)  # neither needs nor minds the texts
    assert losses.trained == STAGES
    assert weights(tmp_path / "out") == before


def test_a_student_begins_where_the_stage_before_ended_and_self_targets_are_that_one_s(
    losses: Losses, texts: Path, tmp_path: Path
) -> None:
    run = Run(RECIPE, tmp_path / "out")
    run.prepare(texts)
    teacher = run.teacher()
    last = run.students()
    assert losses.trained == STAGES[:4]
    ended = {name: load_model(tmp_path / "out" / name).state_dict() for name in STAGES[:4]}
    for name, before in (("student1", "teacher"), ("student2", "student1"), ("student4", "student2")):
        for key, tensor in ended[before].items():
            assert torch.equal(losses.starts[name][key], tensor), (name, key)
    assert losses.starts["student1"]["noise_encoder.combined_proj.weight"].std() > 0
    assert torch.equal(last.state_dict()["vocab_embed.embedding"], ended["student4"]["vocab_embed.embedding"])
    given = {name: made for name, _, made in losses.seen}
    seeds = {given["teacher"]["config"].seed}
    for block, frozen in ((1, None), (2, "student1"), (4, None)):
        made = given[f"student{block}"]
        assert set(made) == {"corpus", "config", "teacher", "frozen"}
        assert made["config"].block == block
        seeds.add(made["config"].seed)
        assert torch.equal(made["teacher"].vocab_embed.embedding, teacher.vocab_embed.embedding)
        assert not made["teacher"].vocab_embed.embedding.requires_grad
        held = made["frozen"]
        assert (held is None) == (frozen is None)
        if frozen:
            assert torch.equal(held.vocab_embed.embedding, ended[frozen]["vocab_embed.embedding"])
            assert held.config.block == 1
    assert len(seeds) == 4  # no stage sees the noise of another


def test_the_masked_model_begins_with_the_teacher_s_weights(losses: Losses, texts: Path, tmp_path: Path) -> None:
    run = Run(RECIPE, tmp_path / "out")
    run.prepare(texts)
    teacher = run.teacher().state_dict()
    run.masked()
    assert all(torch.equal(losses.starts["masked"][key], tensor) for key, tensor in teacher.items())


def test_a_pair_is_trained_further_from_its_own_weights(losses: Losses, texts: Path, tmp_path: Path) -> None:
    first = Run(RECIPE, tmp_path / "first").pair(texts)
    whole, held = load_pair(first), losses.trained
    changed = dataclasses.replace(RECIPE, students=(*RECIPE.students[:2], dataclasses.replace(STAGE, block=4, seed=9)))
    run = Run(changed, tmp_path / "further", init_from=first)
    out = run.pair(texts)
    assert losses.trained == [*held, "student4", "masked"]
    for name, model in (("student4", whole.student), ("masked", whole.masked)):
        for key, tensor in model.state_dict().items():
            assert torch.equal(losses.starts[name][key], tensor), (name, key)
    assert torch.equal(load_pair(out).teacher.vocab_embed.embedding, whole.teacher.vocab_embed.embedding)
    assert not torch.equal(load_pair(out).student.vocab_embed.embedding, whole.student.vocab_embed.embedding)
    with pytest.raises(KfError, match="student4 holds a model from other settings or data: init_from"):
        Run(changed, tmp_path / "further", init_from=out).students()
    for other, said in (({"width": 16}, "recipe small has 16, 1 and 2"), ({"heads": 1}, "recipe small has 8, 1 and 1")):
        with pytest.raises(KfError, match=said):
            Run(dataclasses.replace(changed, **other), tmp_path / said[-9:], init_from=first).pair(texts)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("3-new", "4-new"):
        (other / f"{name}.txt").write_text("A quiet jury met in the fog. " * 9)
    again = load_pair(Run(changed, tmp_path / "texts of its own", init_from=first).pair(other))
    assert again.encode("owl") == whole.encode("owl")  # the tokenizer stays
    told, before = again.info["training"], whole.info["training"]
    assert told["teacher"] == before["teacher"]
    assert told["recipe"] == "small; then small"
    assert told["student4"].startswith(f"{before['student4']}; then 2 steps")
    mean = dataclasses.replace(
        changed, students=(*RECIPE.students[:2], dataclasses.replace(STAGE, block=4, wise_ft_alpha=1.0))
    )
    kept = load_pair(Run(mean, tmp_path / "mean", init_from=first).pair(texts))
    assert torch.equal(kept.student.vocab_embed.embedding, whole.student.vocab_embed.embedding)
    assert kept.info["training"]["student4"].endswith("; weights interpolated with 100% of the initial ones")
    with pytest.raises(KfError, match="no longer has"):
        Run(dataclasses.replace(changed, students=RECIPE.students[:2]), tmp_path / "self", init_from=first).pair(texts)
    mixed = tmp_path / "mixed"
    Run(changed, mixed).prepare(other)
    with pytest.raises(KfError, match="from another tokenizer") as caught:
        Run(changed, mixed, init_from=first).students()
    assert f"train data --recipe small --out {mixed} --init-from {first}" in caught.value.run


def test_a_recipe_without_a_masked_model_leaves_the_one_that_is_there(
    losses: Losses, texts: Path, tmp_path: Path
) -> None:
    first = Run(RECIPE, tmp_path / "first").pair(texts)
    alone = dataclasses.replace(RECIPE, masked=None, cond_width=0)
    again = load_pair(Run(alone, tmp_path / "further", init_from=first).pair(texts))
    whole = load_pair(first)
    assert losses.trained[-2:] == ["masked", "student4"]
    for name, tensor in whole.masked.state_dict().items():
        assert torch.equal(again.masked.state_dict()[name], tensor), name
    assert again.info["training"]["masked"] == whole.info["training"]["masked"]


def test_students_may_be_deeper_and_grow(losses: Losses, texts: Path, tmp_path: Path) -> None:
    first = Run(RECIPE, tmp_path / "first").pair(texts)
    deeper = dataclasses.replace(RECIPE, student_depth=3)
    pair = load_pair(Run(deeper, tmp_path / "further", init_from=first).pair(texts))
    assert (pair.teacher.config.depth, pair.student.config.depth, pair.masked.config.depth) == (1, 3, 1)
    assert not losses.starts["student4"]["blocks.2.attn_out.weight"].any()
    with pytest.raises(KfError, match="depth 3 and 2 heads; the recipe small has 8, 1 and 2"):
        Run(RECIPE, tmp_path / "back", init_from=tmp_path / "further" / "pair").pair(texts)


def test_curves_of_the_stages_so_far(tmp_path: Path) -> None:
    run = Run(RECIPE, tmp_path / "out")
    with pytest.raises(KfError, match=r"No stage in .* has a curve") as caught:
        run.curves()
    assert "student4" in caught.value.valid
    (tmp_path / "out" / "teacher").mkdir(parents=True)
    (tmp_path / "out" / "teacher" / "losses.jsonl").write_text('{"step": 50, "loss": 2.5}\n')
    assert run.curves() == {name: [{"step": 50, "loss": 2.5}] if name == "teacher" else [] for name in STAGES}


def test_first_weights_come_from_the_seed_alone(losses: Losses, texts: Path, tmp_path: Path) -> None:
    def start(name: str, seed: int) -> Tensor:
        run = Run(with_teacher(seed=seed), tmp_path / name)
        run.prepare(texts)
        run.teacher()
        return losses.starts["teacher"]["vocab_embed.embedding"]

    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = start("a", 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(start("b", 1), one)
    assert not torch.equal(start("c", 2), one)


def test_stages_that_are_missing_name_the_command(losses: Losses, texts: Path, tmp_path: Path) -> None:
    run = Run(RECIPE, tmp_path / "my out")
    for verb in (run.teacher, run.students):
        with pytest.raises(KfError, match="no tokens in") as caught:
            verb()
        assert caught.value.run == f"kfexplore train data --recipe small --out '{tmp_path}/my out' --text FOLDER"
    with pytest.raises(KfError, match="no dataset"):
        run.pair()
    run.prepare(texts)
    for verb in (run.students, run.masked):
        with pytest.raises(KfError, match=r"teacher in .* is not trained yet") as caught:
            verb()
    assert caught.value.run == f"kfexplore train teacher --recipe small --out '{tmp_path}/my out'"
    assert losses.seen == []
    with pytest.raises(KfError, match="Both --text and --dataset were given"):
        run.prepare(texts, "some/tales")
    with pytest.raises(KfError, match="has no masked model"):
        Run(dataclasses.replace(RECIPE, masked=None, cond_width=0), tmp_path / "my out").masked()


@pytest.mark.parametrize(
    "corpus", [{"stories": StoriesConfig(count=9, held_out=1)}, {"dataset": "some/tales"}, {"self_generated": 9}]
)
def test_a_recipe_with_a_corpus_of_its_own_is_prepared_without_texts(
    tmp_path: Path, corpus: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(dataclasses.replace(RECIPE, data=DataConfig(vocab_size=260, **corpus)), tmp_path / "out")
    command = f"kfexplore train data --recipe small --out {tmp_path}/out"
    with pytest.raises(KfError, match="no tokens in") as caught:
        run.students()
    assert caught.value.run == command
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(KfError, match="Several processes cannot prepare") as caught:
        run.pair()
    assert caught.value.run == command


def test_a_pair_without_a_masked_model_has_none(losses: Losses, texts: Path, tmp_path: Path) -> None:
    warm = dataclasses.replace(RECIPE.students[-1], tau_min=0.3)
    recipe = dataclasses.replace(RECIPE, masked=None, cond_width=0, students=(*RECIPE.students[:-1], warm))
    out = Run(recipe, tmp_path / "out").pair(texts)
    assert pair_parts(out).info["training"]["student_temperatures"] == [0.3, 1.0]
    assert sorted(f.name for f in out.iterdir()) == ["student", "teacher", "tokenizer.json", "training.json"]
    assert losses.trained == STAGES[:4]


@pytest.mark.parametrize(
    ("recipe", "folder", "named"),
    [
        (with_teacher(lr=0.5), "teacher", r"teacher.lr 0.001 \(now 0.5\)"),
        (with_teacher(steps=9), "teacher", r"teacher.steps 2 \(now 9\)"),
        (dataclasses.replace(RECIPE, width=16), "teacher", r"model.width 8 \(now 16\)"),
        (dataclasses.replace(RECIPE, students=RECIPE.students[:1] + RECIPE.students[2:]), "student4", "students.1"),
        (dataclasses.replace(RECIPE, masked=dataclasses.replace(STAGE, seed=4)), "masked", "masked.seed"),
        (dataclasses.replace(RECIPE, cond_width=8), "masked", "model.cond_width"),
        (dataclasses.replace(RECIPE, data=DataConfig(vocab_size=270, held_out=("3-",))), "data", "vocab_size 260"),
    ],
)
def test_a_finished_stage_of_other_settings_is_refused_and_kept(
    losses: Losses, texts: Path, tmp_path: Path, recipe: Recipe, folder: str, named: str
) -> None:
    Run(RECIPE, tmp_path / "out").pair(texts)
    before = weights(tmp_path / "out")
    with pytest.raises(KfError, match=named) as caught:
        Run(recipe, tmp_path / "out").pair()
    assert str(tmp_path / "out" / folder) in caught.value.failed
    assert weights(tmp_path / "out") == before
    assert losses.trained == STAGES


def test_a_student_of_another_teacher_is_refused(losses: Losses, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Run(RECIPE, out).pair(texts)
    for file in (out / "teacher").iterdir():
        file.unlink()
    with pytest.raises(KfError, match=r"student1 holds .* teacher.lr 0.001 \(now 0.5\)"):
        Run(with_teacher(lr=0.5), out).pair()
    assert losses.trained == [*STAGES, "teacher"]


def test_stages_of_other_texts_are_refused(losses: Losses, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = Run(RECIPE, out)
    run.prepare(texts)
    run.teacher()
    (texts / "2-rain.txt").write_text("Other rain. " * 20)
    with pytest.raises(KfError, match="other settings or texts"):
        run.pair(texts)
    for file in (out / "data").iterdir():
        file.unlink()
    run.prepare(texts)
    with pytest.raises(KfError, match=r"teacher holds .* data.source"):
        run.teacher()
    assert losses.trained == ["teacher"]


def test_how_often_it_is_saved_may_change(losses: Losses, texts: Path, tmp_path: Path) -> None:
    Run(RECIPE, tmp_path / "out").pair(texts)
    Run(with_teacher(save_every=1.0), tmp_path / "out").pair()
    assert losses.trained == STAGES


class Killed(Exception):
    """As the process would be."""


def killed_at(monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    """The teacher's next training ends before step `stop`, once the steps before are saved."""
    going = real_losses.teacher_loss

    def loss(model: Any, *, step: int, **given: Any) -> Tensor:
        if step == stop:
            raise Killed
        return going(model, step=step, **given)

    monkeypatch.setattr(real_losses, "teacher_loss", loss)


def test_a_killed_stage_goes_on_also_with_more_steps(
    losses: Losses, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, often = tmp_path / "out", {"save_every": -1.0}
    Run(RECIPE, out).prepare(texts)
    with monkeypatch.context() as patch:
        killed_at(patch, 1)
        with pytest.raises(Killed):
            Run(with_teacher(**often), out).teacher()
    assert (out / "teacher" / "state.pt").exists()
    with pytest.raises(KfError, match=r"teacher\.lr"):
        Run(with_teacher(**often, lr=0.5), out).teacher()
    Run(with_teacher(**often, steps=4), out).teacher()
    assert [step for _, step, _ in losses.seen] == [0, 1, 2, 3]
    with pytest.raises(KfError, match=r"teacher.steps 4 \(now 2\)"):
        Run(RECIPE, out).teacher()


def test_a_stage_that_ended_before_its_first_state_may_begin_anew(
    losses: Losses, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    Run(RECIPE, out).prepare(texts)
    with monkeypatch.context() as patch:
        killed_at(patch, 0)
        with pytest.raises(Killed):
            Run(RECIPE, out).teacher()
    Run(with_teacher(batch=1), out).teacher()
    assert json.loads((out / "teacher" / "stage.json").read_text())["teacher"]["batch"] == 1
    assert losses.trained == ["teacher"]


def test_weights_without_their_settings_are_refused(losses: Losses, texts: Path, tmp_path: Path) -> None:
    run = Run(RECIPE, tmp_path / "out")
    run.prepare(texts)
    run.teacher()
    (tmp_path / "out" / "teacher" / "stage.json").unlink()
    with pytest.raises(KfError, match="there is no stage"):
        run.teacher()
    assert losses.trained == ["teacher"]


OLD = {"wise_ft_alpha": "start_share", "on_policy_fraction": "own_contexts", "ntp_loss_weight": "context_loss"}


def test_a_stage_file_with_the_old_names_of_settings_still_loads(losses: Losses, texts: Path, tmp_path: Path) -> None:
    run = Run(with_student(wise_ft_alpha=0.5, on_policy_fraction=0.25, ntp_loss_weight=0.1), tmp_path / "out")
    run.pair(texts)
    trained, path = list(losses.trained), tmp_path / "out" / "student1" / "stage.json"
    text = path.read_text().replace('"init_from"', '"start"')
    for new, old in OLD.items():
        assert f'"{new}"' in text
        text = text.replace(f'"{new}"', f'"{old}"')
    path.write_text(text)
    run.students()
    assert losses.trained == trained
    with pytest.raises(KfError, match=r"students.0.on_policy_fraction 0.25 \(now 0.0\)"):
        Run(with_student(wise_ft_alpha=0.5, ntp_loss_weight=0.1), tmp_path / "out").students()


def test_a_stage_whose_saving_was_cut_off_is_saved_again(losses: Losses, texts: Path, tmp_path: Path) -> None:
    run = Run(RECIPE, tmp_path / "out")
    run.prepare(texts)
    first = run.teacher()
    (tmp_path / "out" / "teacher" / "config.json").unlink()  # written after the weights
    again = run.teacher()
    assert again.config == first.config
    assert losses.trained == ["teacher"]


def test_a_work_folder_belongs_to_one_run_at_a_time(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    Run(RECIPE, out).prepare(texts)
    with FileLock(out / ".lock"):  # as another process holds it
        with pytest.raises(KfError, match="Another run is training") as caught:
            Run(RECIPE, out).teacher()
        assert "--out" in caught.value.run
    assert Run(RECIPE, out).teacher().config.kind == "teacher"


def test_a_folder_that_cannot_be_written_is_an_error(losses: Losses, texts: Path, tmp_path: Path) -> None:
    run = Run(RECIPE, tmp_path / "out")
    run.prepare(texts)
    (tmp_path / "out" / "teacher").write_text("")
    with pytest.raises(KfError, match=r"stage\.json cannot be written"):
        run.teacher()
    assert losses.seen == []
