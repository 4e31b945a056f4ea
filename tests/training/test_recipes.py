"""Recipes: the bundled ones hold what they promise, and a mistake in one is an error that names what is near."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kfexplore.config import differences, from_dict
from kfexplore.errors import KfError
from kfexplore.models import build
from kfexplore.pair import load_pair
from kfexplore.training.config import RECIPES, Recipe, TrainConfig, load_recipe, recipe_names, with_steps

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "about": "Small.",
    "data": {"vocab_size": 280, "held_out": ["3-"]},
    "width": 8,
    "depth": 1,
    "heads": 2,
    "context": 8,
    "teacher": {"steps": 2, "context": 8, "groups": 4},
    "students": [
        {"steps": 2, "context": 8, "groups": 4, "block": 1},
        {"steps": 2, "context": 8, "groups": 4, "block": 2, "targets": "self"},
    ],
}


def changed(**values: Any) -> dict[str, Any]:
    """SMALL with other values; a dotted name, its dots written as __, goes into the settings below."""
    made = yaml.safe_load(yaml.safe_dump(SMALL))
    for name, value in values.items():
        *way, last = name.split("__")
        place = made
        for part in way:
            place = place[int(part) if part.isdigit() else part]
        place[last] = value
    return made


def written(folder: Path, values: Any) -> Path:
    path = folder / "own.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return path


def test_the_bundled_recipes_are_those_of_the_help() -> None:
    assert recipe_names() == ["distil", "lm1b", "owt", "stories", "tales-cpu", "tales-further", "tales-gpu"]
    assert [load_recipe(name).name for name in recipe_names()] == recipe_names()


@pytest.mark.parametrize(("name", "context", "tokenizer"), [("owt", 1024, "gpt2"), ("lm1b", 128, "bert-base-uncased")])
def test_published_settings(name: str, context: int, tokenizer: str) -> None:
    recipe = load_recipe(name)
    assert (recipe.width, recipe.depth, recipe.heads, recipe.context) == (768, 12, 12, context)
    assert recipe.data.tokenizer == tokenizer
    assert recipe.data.dataset
    for stage in recipe.stages().values():
        assert (stage.optimizer, stage.lr, stage.betas, stage.eps) == ("adamw", 1e-4, (0.9, 0.999), 1e-6)
        assert (stage.warmup, stage.decay, stage.batch, stage.clip, stage.ema) == (0, 0.0, 512, 1.0, 0.999)
        assert (stage.steps, stage.context, stage.precision) == (500_000, context, "fp32")
    assert [(s.block, s.targets, s.groups) for s in recipe.students] == [
        (1, "exact", context),
        (2, "self", context),
        (4, "self", context),
    ]


@pytest.mark.parametrize(
    ("name", "blocks", "least", "most"), [("tales-cpu", [1, 4], 2.5e6, 7.5e6), ("tales-gpu", [1, 2, 4], 9e6, 12e6)]
)
def test_sizes_of_the_bundled_pairs(name: str, blocks: list[int], least: float, most: float) -> None:
    recipe = load_recipe(name)
    assert recipe.data.held_out == ("00012", "00289", "07439")
    assert [stage.block for stage in recipe.students] == blocks
    for kind in ("teacher", "student", "masked"):
        with torch.device("meta"):
            model = build(recipe.shape(kind, recipe.data.vocab_size + 1, recipe.data.vocab_size, block=4))
        assert least < sum(p.numel() for p in model.parameters()) < most


def test_the_bundled_pair_can_be_trained_further() -> None:
    recipe, pair = load_recipe("tales-further"), load_pair("tales")
    for kind, model in (("teacher", pair.teacher), ("student", pair.student)):
        shape = recipe.shape(kind, recipe.data.vocab_size + 1, recipe.data.vocab_size, model.config.block)
        assert shape == model.config


def test_stages_take_the_context_of_the_models_unless_they_have_their_own(tmp_path: Path) -> None:
    own = {"width": 8, "depth": 1, "heads": 2, "context": 64, "about": "", "data": {"vocab_size": 300}}
    stages = {"teacher": {"steps": 1}, "students": [{"steps": 1, "groups": 8}, {"steps": 1, "groups": 8, "block": 2}]}
    stages["students"][1]["context"] = 32
    recipe = load_recipe(written(tmp_path, own | stages))
    assert [stage.context for stage in recipe.stages().values()] == [64, 64, 32]


def test_recipes_and_books_are_packed_with_the_package() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packed = {path for pattern in patterns["kfexplore.training"] for path in RECIPES.parent.glob(pattern)}
    assert packed == {
        *RECIPES.iterdir(),
        *(RECIPES.parent / name for name in ("books.json", "stories.yaml")),
    }


def test_a_recipe_of_ones_own_is_read_with_its_path_as_name(tmp_path: Path) -> None:
    path = written(tmp_path, changed(teacher__betas=[0.8, 0.9]))
    recipe = load_recipe(path)
    assert recipe.name == str(path)
    assert recipe.data.held_out == ("3-",)
    assert recipe.teacher == TrainConfig(steps=2, context=8, groups=4, betas=(0.8, 0.9))
    assert list(recipe.stages()) == ["teacher", "student1", "student2"]


def test_a_recipe_with_the_old_names_of_settings_still_loads(tmp_path: Path) -> None:
    old = changed(students__0__start_share=0.5, students__0__own_contexts=0.25, students__0__context_loss=0.1)
    stage = load_recipe(written(tmp_path, old)).students[0]
    assert (stage.wise_ft_alpha, stage.on_policy_fraction, stage.ntp_loss_weight) == (0.5, 0.25, 0.1)


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path: Path) -> None:
    text = yaml.safe_dump(SMALL).replace("steps: 2", "steps: 2\n  lr: 1e-4", 1)  # 1e-4 has no dot
    text = text.replace("teacher:", "cond_width: 4\nmasked: {steps: 3, context: 8, groups: 1, lr: 2e-4}\nteacher:")
    recipe = load_recipe(written(tmp_path, text))
    assert recipe.masked is not None
    assert recipe.masked.lr == 2e-4


def test_steps_of_a_trial_are_those_of_every_stage() -> None:
    recipe = with_steps(load_recipe("tales-cpu"), 7)
    assert {stage.steps for stage in recipe.stages().values()} == {7}
    assert len(recipe.stages()) == 4
    assert with_steps(load_recipe("owt"), 7).masked is None


@pytest.mark.parametrize(("name", "near"), [("tales", "tales-"), ("tale-cpu", "tales-cpu"), ("lm1", "lm1b")])
def test_an_unknown_name_names_the_near_ones(name: str, near: str) -> None:
    with pytest.raises(KfError, match=f"no recipe '{name}'; did you mean .*{near}") as caught:
        load_recipe(name)
    assert "lm1b, owt, stories, tales-cpu, tales-further, tales-gpu" in caught.value.valid


@pytest.mark.parametrize(
    ("values", "failed", "valid"),
    [
        ({"widht": 8}, "Recipe has no setting 'widht'", "did you mean width"),
        ({"data__colunm": "a"}, "DataConfig has no setting 'colunm'", "column"),
        ({"teacher__stepz": 2}, "TrainConfig has no setting 'stepz'", "steps"),
        ({"students__1__grups": 2}, "TrainConfig has no setting 'grups'", "groups"),
        ({"name": "mine"}, "or sets a name", ""),
        ({"teacher": 3}, "Recipe.teacher is 3", "TrainConfig"),
        ({"students": 3}, "Recipe.students is 3", "tuple"),
        ({"teacher__start_share": 0.5}, "wise_ft_alpha of the teacher is 0.5", "random weights"),
        ({"teacher__start_share": 2.0}, "wise_ft_alpha is 2.0", "0 to 1"),
        ({"teacher__steps": "many"}, "TrainConfig.steps is 'many'", "int"),
        ({"teacher__steps": True}, "TrainConfig.steps is True", "int"),
        ({"teacher__steps": 1.5}, "TrainConfig.steps is 1.5", "int"),
        ({"teacher__lr": "fast"}, "TrainConfig.lr is 'fast'", "float"),
        ({"teacher__causal": 1}, "TrainConfig.causal is 1", "bool"),
        ({"teacher__betas": [0.9]}, r"TrainConfig.betas is \[0.9\]", "tuple"),
        ({"teacher__optimizer": "sgd"}, "TrainConfig.optimizer is 'sgd'", "adamw, muon"),
        ({"teacher__groups": 0}, "groups is 0", ""),
        ({"width": 9}, "width 9", ""),
        ({"teacher__context": 9}, "context of teacher is 9", "the models' own, 8"),
        ({"students__0__context": 9}, "context of student1 is 9", "8"),
        ({"students": []}, "no student", ""),
        ({"students__0__block": 2}, r"blocks are \[2, 2\]", "larger"),
        ({"students__1__block": 4}, "block 4 with targets self follows a stage of block 1", "half its block"),
        ({"depth": 2, "student_depth": 1}, "student_depth is 1", "the teacher's 2"),
        ({"teacher__accumulate": 3}, "accumulate is 3", "divisor of the batch, 16"),
        ({"teacher__lr": -1.0}, "lr is -1", "above 0"),
        ({"teacher__clip": 0.0}, "clip is 0", "above 0"),
        ({"teacher__decay": 2.0}, "decay is 2", "0 to 1"),
        ({"teacher__warmup": -1}, "warmup is -1", "0 or more"),
        ({"teacher__betas": [0.9, 1.0]}, "betas is", "below 1"),
        ({"students__0__groups": 9}, "groups is 9 in student1", "1 to 8"),
        ({"students__0__targets": "inversion", "students__0__groups": 8}, "groups is 8 in student1", "1 to 7"),
        ({"cond_width": 4}, "cond_width is 4", "masked"),
        ({"masked": {"steps": 1, "context": 8, "groups": 1}}, "cond_width is 0", "at least 1"),
        ({"data__tokenizer": "gpt2"}, "needs one tokenizer", ""),
        ({"data__vocab_size": 0}, "needs one tokenizer", ""),
        ({"data__vocab_size": 100}, "vocab_size is 100", "257"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path: Path, values: dict[str, Any], failed: str, valid: str) -> None:
    with pytest.raises(KfError, match=failed) as caught:
        load_recipe(written(tmp_path, changed(**values)))
    assert valid in caught.value.valid


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\x00"])
def test_a_file_that_is_no_recipe_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(KfError, match=r"own\.yaml"):
        load_recipe(written(tmp_path, text))
    with pytest.raises(KfError, match=r"none\.yaml cannot be read"):
        load_recipe(tmp_path / "none.yaml")


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(KfError, match="Recipe lacks width, depth"):
        load_recipe(written(tmp_path, {k: v for k, v in SMALL.items() if k not in ("width", "depth")}))


def test_differences_are_named_with_both_values() -> None:
    held = from_dict(Recipe, {"name": "a", **SMALL})
    now = from_dict(Recipe, {"name": "a", **changed(teacher__lr=0.5, students__1__seed=3)})
    assert differences(held, held) == {}
    assert differences(held, now) == {
        "teacher.lr": "teacher.lr 0.001 (now 0.5)",
        "students.1.seed": "students.1.seed 0 (now 3)",
    }
