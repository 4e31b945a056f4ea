"""`kfexplore train VERB`: fetches books, writes stories, prepares tokens, runs a recipe's stages, draws curves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kfexplore.cli.options import DeviceOption

if TYPE_CHECKING:
    from kfexplore.training.stages import Run

train = typer.Typer(help="Train a pair by a recipe.", no_args_is_help=True)
corpus = typer.Typer(help="Write a generated corpus.", no_args_is_help=True)
train.add_typer(corpus, name="corpus")

RecipeOption = Annotated[
    str,
    typer.Option("--recipe", help="distil, stories, tales-cpu, tales-gpu, tales-further, owt, lm1b, or a .yaml file."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Work folder; run the command again to resume.")]
TextOption = Annotated[Path | None, typer.Option("--text", help="Folder of .txt files.")]
DatasetOption = Annotated[str | None, typer.Option("--dataset", help="Hub dataset (needs the package datasets).")]
InitOption = Annotated[
    str | None,
    typer.Option(
        *("--init-from", "--from"),
        help="Pair to continue training from: keeps its tokenizer and teacher, starts the rest from its weights.",
    ),
]
TeacherOption = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        help="Teacher to distil: a transformers folder, a pair, or owner/name on the hub; its tokenizer is kept.",
    ),
]
SelfOption = Annotated[
    int | None,
    typer.Option("--self-generated", help="Number of contexts to sample from the teacher, instead of texts.", min=1),
]
HeldOutOption = Annotated[
    float | None,
    typer.Option("--held-out", help="Fraction of the texts to hold out, above 0; default: the recipe's choice."),
]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Number of steps in every stage, for a trial run.")]


@train.command("books")
def books_command(
    folder: Annotated[Path, typer.Argument(help="Folder for the texts.")],
    url: Annotated[str | None, typer.Option(help="A mirror: the folder of {id}/pg{id}.txt.")] = None,
) -> None:
    """Fetch the training texts of the pair tales from Project Gutenberg; skips books that are already there."""
    from kfexplore.training.books import GUTENBERG, fetch_books

    print(f"{fetch_books(folder, url or GUTENBERG)} books fetched into {folder}")


@corpus.command("stories")
def stories_command(
    folder: Annotated[Path, typer.Argument(help="Folder for the stories, one .txt file each.")],
    count: Annotated[int, typer.Option(help="Number of stories.")] = 1000,
    seed: Annotated[int, typer.Option(help="Random seed; the recipe trains on 0 and holds out 1.")] = 1,
    richness: Annotated[float, typer.Option(help="Evenness of the grammar's choices, 0.1 to 10.")] = 1.0,
) -> None:
    """Write simple stories from the bundled grammar, and print the entropy of its choices."""
    from kfexplore.training.stories import write_stories

    print(write_stories(folder, count, seed, richness))


@train.command("data")
def data_command(
    recipe: RecipeOption,
    out: OutOption,
    text: TextOption = None,
    dataset: DatasetOption = None,
    init_from: InitOption = None,
    held_out: HeldOutOption = None,
    teacher: TeacherOption = None,
    self_generated: SelfOption = None,
    device: DeviceOption = None,
) -> None:
    """Prepare the tokens: from a folder of texts, a hub dataset, the recipe's own source, or a given teacher."""
    run = _run(recipe, out, device, init_from=init_from, held_out=held_out, teacher=teacher)
    info = run.prepare(text, dataset, self_generated)
    print(f"{info.tokens:,} tokens to train on, {info.held_out_tokens:,} held out, in {out / 'data'}")


@train.command("teacher")
def teacher_command(
    recipe: RecipeOption, out: OutOption, device: DeviceOption = None, steps: StepsOption = None
) -> None:
    """Train the autoregressive teacher."""
    _run(recipe, out, device, steps).teacher()


def _stage(name: Literal["students", "masked"]) -> Callable[..., None]:
    """The command of a stage that can continue training a pair."""

    def command(
        recipe: RecipeOption,
        out: OutOption,
        device: DeviceOption = None,
        steps: StepsOption = None,
        init_from: InitOption = None,
        teacher: TeacherOption = None,
    ) -> None:
        getattr(_run(recipe, out, device, steps, init_from, teacher=teacher), name)()

    return command


students_help = "Train the students, each from the one before, up to the recipe's largest block."
train.command("student", help=students_help)(_stage("students"))
train.command("masked", help="Train the masked diffusion model.")(_stage("masked"))


@train.command("pair")
def pair_command(
    recipe: RecipeOption,
    out: OutOption,
    text: TextOption = None,
    dataset: DatasetOption = None,
    device: DeviceOption = None,
    steps: StepsOption = None,
    init_from: InitOption = None,
    held_out: HeldOutOption = None,
    teacher: TeacherOption = None,
    self_generated: SelfOption = None,
) -> None:
    """Run all stages that are not finished: tokens, teacher, students, masked model; writes OUT/pair."""
    print(_run(recipe, out, device, steps, init_from, held_out, teacher).pair(text, dataset, self_generated))


@train.command("curves")
def curves_command(
    recipe: RecipeOption,
    out: OutOption,
    html: Annotated[Path, typer.Option(help="The page to write.")] = Path("curves.html"),
    teacher: TeacherOption = None,
) -> None:
    """Draw the loss of every stage so far."""
    from kfexplore.figures.evaluate import curves_page
    from kfexplore.figures.page import write

    print(write(curves_page(_run(recipe, out, teacher=teacher).curves(), out.name), html))


def _run(
    recipe: str,
    out: Path,
    device: str | None = None,
    steps: int | None = None,
    init_from: str | None = None,
    held_out: float | None = None,
    teacher: str | None = None,
) -> Run:
    from kfexplore.training.config import load_recipe, with_held_out, with_steps
    from kfexplore.training.stages import Run

    chosen = load_recipe(recipe)
    if held_out is not None:
        chosen = with_held_out(chosen, held_out)
    return Run(chosen if steps is None else with_steps(chosen, steps), out, device, init_from, teacher)
