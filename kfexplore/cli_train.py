"""`kfexplore train VERB`: books, tokens, the stages of a recipe, or all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kfexplore.training.stages import Run

train = typer.Typer(help="Train a pair by a recipe.", no_args_is_help=True)

RecipeOption = Annotated[str, typer.Option("--recipe", help="tales-cpu, -gpu or -further, owt, lm1b, or a .yaml file.")]
OutOption = Annotated[Path, typer.Option("--out", help="Work folder; run again, it goes on where it stopped.")]
TextOption = Annotated[Path | None, typer.Option("--text", help="Folder of .txt files.")]
DatasetOption = Annotated[str | None, typer.Option("--dataset", help="Hub dataset (needs the package datasets).")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu (default) or cuda.")]
StartOption = Annotated[
    str | None,
    typer.Option("--from", help="A pair to train further: its tokenizer and teacher stay, the rest goes on from it."),
]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Steps of every stage, for a trial.")]


@train.command("books")
def books_command(
    folder: Annotated[Path, typer.Argument(help="Where the texts go.")],
    url: Annotated[str | None, typer.Option(help="A mirror, the folder of {id}/pg{id}.txt.")] = None,
) -> None:
    """Fetch the books of the bundled pair from Project Gutenberg; those that are there already are kept."""
    from kfexplore.training.books import GUTENBERG, fetch_books

    print(f"{fetch_books(folder, url or GUTENBERG)} books fetched into {folder}")


@train.command("data")
def data_command(
    recipe: RecipeOption,
    out: OutOption,
    text: TextOption = None,
    dataset: DatasetOption = None,
    start: StartOption = None,
) -> None:
    """Prepare the tokens: from a folder of texts, or from a hub dataset (by default the recipe's)."""
    info = _run(recipe, out, start=start).prepare(text, dataset)
    print(f"{info.tokens:,} tokens to train on, {info.held_out_tokens:,} kept back, in {out / 'data'}")


@train.command("teacher")
def teacher_command(
    recipe: RecipeOption, out: OutOption, device: DeviceOption = None, steps: StepsOption = None
) -> None:
    """Train the autoregressive teacher."""
    _run(recipe, out, device, steps).teacher()


@train.command("student")
def student_command(
    recipe: RecipeOption,
    out: OutOption,
    device: DeviceOption = None,
    steps: StepsOption = None,
    start: StartOption = None,
) -> None:
    """Train the students, each from the one before, up to the recipe's largest block."""
    _run(recipe, out, device, steps, start).students()


@train.command("masked")
def masked_command(
    recipe: RecipeOption,
    out: OutOption,
    device: DeviceOption = None,
    steps: StepsOption = None,
    start: StartOption = None,
) -> None:
    """Train the masked diffusion model."""
    _run(recipe, out, device, steps, start).masked()


@train.command("pair")
def pair_command(
    recipe: RecipeOption,
    out: OutOption,
    text: TextOption = None,
    dataset: DatasetOption = None,
    device: DeviceOption = None,
    steps: StepsOption = None,
    start: StartOption = None,
) -> None:
    """Run all that is not finished: tokens, teacher, students, masked model; leaves OUT/pair."""
    print(_run(recipe, out, device, steps, start).pair(text, dataset))


@train.command("curves")
def curves_command(
    recipe: RecipeOption,
    out: OutOption,
    html: Annotated[Path, typer.Option(help="The page to write.")] = Path("curves.html"),
) -> None:
    """Draw the loss of every stage so far."""
    from kfexplore.figures.page import write
    from kfexplore.figures.training import curves_page

    print(write(curves_page(_run(recipe, out).curves(), out.name), html))


def _run(recipe: str, out: Path, device: str | None = None, steps: int | None = None, start: str | None = None) -> Run:
    from kfexplore.training.recipes import load_recipe, with_steps
    from kfexplore.training.stages import Run

    chosen = load_recipe(recipe)
    return Run(chosen if steps is None else with_steps(chosen, steps), out, device, start)
