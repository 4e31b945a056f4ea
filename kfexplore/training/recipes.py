"""Recipes: YAML files checked against the config dataclasses, bundled in recipes/ or the user's own."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path

import yaml

from kfexplore.config import from_dict
from kfexplore.errors import KfError
from kfexplore.training.config import Recipe

FOLDER = Path(__file__).parent / "recipes"


def names() -> list[str]:
    """Names of the bundled recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A bundled recipe by its name, or one from a YAML file.

    Args:
        name_or_path: A name of `names()`, or a path that ends in .yaml or .yml; it becomes the recipe's name.

    Raises:
        KfError: no such recipe (near ones are named), invalid YAML, an unknown or contradictory setting.
    """
    name = str(name_or_path)
    own = Path(name).suffix in {".yaml", ".yml"}
    if not own and name not in names():
        near = difflib.get_close_matches(name, names(), n=2)
        raise KfError(
            f"There is no recipe {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else "."),
            f"{', '.join(names())}, or the path of a .yaml file",
        )
    path = Path(name).expanduser() if own else FOLDER / f"{name}.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise KfError(f"The recipe {path} cannot be read: {error}", "a YAML file") from error
    if not isinstance(values, dict) or "name" in values:
        raise KfError(f"The recipe {path} is not a mapping of settings, or sets a name.", "about: .., data: ..")
    return from_dict(Recipe, {"name": name, **values})


def with_held_out(recipe: Recipe, fraction: float) -> Recipe:
    """The recipe with a fraction of the documents held out instead of those that it names.

    Raises:
        KfError: not above 0 and below 1.
    """
    if not fraction:
        raise KfError(f"The held-out fraction is {fraction}.", "above 0 and below 1")
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, held_out_fraction=fraction))


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with `steps` optimizer steps in every stage, for trials."""
    return dataclasses.replace(
        recipe,
        teacher=recipe.teacher and dataclasses.replace(recipe.teacher, steps=steps),
        students=tuple(dataclasses.replace(stage, steps=steps) for stage in recipe.students),
        masked=recipe.masked and dataclasses.replace(recipe.masked, steps=steps),
    )
