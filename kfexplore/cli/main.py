"""`kfexplore VERB`: assembles the verbs, one file each."""

from __future__ import annotations

import typer

from kfexplore.cli.app import app_command, export
from kfexplore.cli.bench import bench
from kfexplore.cli.doctor import doctor
from kfexplore.cli.eval import eval_command
from kfexplore.cli.generate import generate
from kfexplore.cli.laws import laws
from kfexplore.cli.map import map_command
from kfexplore.cli.train import train
from kfexplore.errors import reported

app = typer.Typer(
    help="Explore K-Forcing: K uniform noise variables to K tokens in one pass.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("app")(app_command)
app.command("map")(map_command)
app.command("generate")(generate)
app.command("eval")(eval_command)
app.command("laws")(laws)
app.command("doctor")(doctor)
app.add_typer(bench, name="bench")
app.add_typer(train, name="train")
app.add_typer(export, name="export")


def main() -> None:
    """Runs the command line; a user error is printed and exits with 2."""
    with reported():
        app()
