"""`kfexplore app` opens the app; `kfexplore export` writes files for the app, or a Space."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kfexplore.cli.options import (
    DeviceOption,
    PairOption,
    StudentOption,
    TeacherOption,
    TokenizerOption,
    pair_files,
)
from kfexplore.config import DEFAULT_PAIR

export = typer.Typer(help="Write files for the app, or a Hugging Face Space.", no_args_is_help=True)
BundledOption = Annotated[str, typer.Option("--pair", help="A bundled pair.")]


def app_command(
    pair: PairOption = None,
    teacher: TeacherOption = None,
    student: StudentOption = None,
    tokenizer: TokenizerOption = None,
    port: Annotated[int | None, typer.Option(help="Port; by default 7860, or GRADIO_SERVER_PORT.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    device: DeviceOption = None,
) -> None:
    """Open the app in a browser."""
    from kfexplore.ui.server import free_port

    port = free_port(host, port)  # before Gradio is imported
    from kfexplore.ui.app import launch

    files = pair_files(pair, teacher, student)
    launch(pair=pair or DEFAULT_PAIR, files=(*files, tokenizer) if files else None, device=device, host=host, port=port)


@export.command("first-screen")
def export_first_screen_command(pair: BundledOption = DEFAULT_PAIR) -> None:
    """Store the app's first screen beside a bundled pair; run it after its weights change."""
    from kfexplore.ui.app import store_first_screen

    print(store_first_screen(pair))


@export.command("contexts")
def export_contexts_command(
    pair: BundledOption = DEFAULT_PAIR,
    text: Annotated[Path | None, typer.Option(help="Sentences, one per line; default: ours, for tales.")] = None,
) -> None:
    """Rank contexts by the mutual information of the next two tokens, and store them beside a bundled pair."""
    from kfexplore.laws.ranking import store_contexts

    print(store_contexts(pair, text))


@export.command("space")
def export_space_command(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder, or an earlier export.")],
) -> None:
    """Assemble a Hugging Face Space, and print how to push it."""
    from kfexplore.space import summary, write_space

    print(summary(folder, write_space(folder)))
