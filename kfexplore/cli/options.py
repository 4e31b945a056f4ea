"""What the verbs of the command line share: options, and the context that they give."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import KfError

if TYPE_CHECKING:
    from kfexplore.pair import Pair

PairOption = Annotated[
    str | None,
    typer.Option(
        "--pair",
        help="stories, tales, owt, lm1b, a folder, or owner/name of the hub; a model of transformers is a teacher.",
    ),
]
TeacherOption = Annotated[
    Path | None,
    typer.Option("--teacher", help="Checkpoint of the teacher, or the folder of a model of transformers."),
]
StudentOption = Annotated[
    Path | None, typer.Option("--student", help="Checkpoint of the student; without it there are exact maps alone.")
]
TokenizerOption = Annotated[Path | None, typer.Option("--tokenizer", help="tokenizer.json of such a pair.")]
PromptOption = Annotated[str | None, typer.Option("--prompt", help="The context, as text.")]
IdsOption = Annotated[str | None, typer.Option("--token-ids", help="The context, as token ids: 1,2,3.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
JsonFileOption = Annotated[Path | None, typer.Option("--json", help="Where the JSON document goes.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu (default) or cuda.")]


def read_context(pair: Pair | None, prompt: str | None, token_ids: str | None) -> list[int]:
    """The context that --prompt or --token-ids gives; a prompt too long loses its first tokens, with a word.

    Raises:
        KfError: neither or both are given, ids that are no numbers, or text without a tokenizer.
    """
    if (prompt is None) == (token_ids is None):
        raise KfError("The context is missing, or given twice.", "--prompt TEXT or --token-ids 1,2,3")
    if token_ids is not None:
        return numbers(token_ids, int, "--token-ids")
    if pair is None:
        raise KfError("A single checkpoint has no tokenizer.", "--token-ids 1,2,3, or --pair")
    ids, cut = pair.encode(prompt or "")
    if cut:
        print(f"kfexplore: the first {cut} tokens of the prompt were cut to fit the context.", file=sys.stderr)
    return ids


def numbers(text: str, kind: type[Any], option: str) -> list[Any]:
    """The values of an option that has commas between them."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise KfError(f"{option} {text!r} is not a list of {what}.", f"{what} with commas between") from None


def refuse(options: Mapping[str, Any], by: str, instead: str) -> None:
    """Raises KfError for the first option that was given where it means nothing."""
    for option, value in options.items():
        if value is not None and value is not False:
            raise KfError(f"{option} means nothing to {by}.", instead)


def load_chosen(
    name: str | None, teacher: Path | None, student: Path | None, tokenizer: Path | None, device: str | None
) -> Pair:
    """The pair that --pair, or --teacher and maybe --student name."""
    from kfexplore.pair import load_pair, pair_from_files

    files = pair_files(name, teacher, student)
    return pair_from_files(*files, tokenizer, device) if files else load_pair(name or DEFAULT_PAIR, device=device)


def pair_files(name: str | None, teacher: Path | None, student: Path | None) -> tuple[Path, Path | None] | None:
    """The checkpoints of teacher and maybe student, where a pair is given so."""
    if teacher is None and student is None:
        return None
    if name or teacher is None:
        raise KfError(
            "A pair is named in two ways, or has no teacher.", "--pair NAME, or --teacher FILE --student FILE"
        )
    return teacher, student


def write_text(path: Path, text: str) -> None:
    """Writes a file, and the folder that it is in."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise KfError(f"{path} cannot be written: {error}.", "a file in a folder you may write to") from None
