"""Options that several verbs share, and the functions that interpret them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import KfError, writing

if TYPE_CHECKING:
    from kfexplore.pair import Pair

PAIR_HELP = "stories, tales, owt, lm1b, a folder, or owner/name on the hub; a transformers model is a teacher alone."
PairOption = Annotated[str | None, typer.Option("--pair", help=PAIR_HELP)]
TeacherOption = Annotated[
    Path | None, typer.Option("--teacher", help="Teacher checkpoint, or the folder of a transformers model.")
]
StudentOption = Annotated[
    Path | None, typer.Option("--student", help="Student checkpoint; without it there is only the exact map.")
]
TokenizerOption = Annotated[Path | None, typer.Option("--tokenizer", help="tokenizer.json for --teacher.")]
PromptOption = Annotated[str | None, typer.Option("--prompt", help="Context, as text.")]
IdsOption = Annotated[str | None, typer.Option("--token-ids", help="Context, as token ids: 1,2,3.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
JsonFileOption = Annotated[Path | None, typer.Option("--json", help="File for the JSON document.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu (default) or cuda.")]


def read_context(pair: Pair | None, prompt: str | None, token_ids: str | None) -> list[int]:
    """The context from --prompt or --token-ids; a prompt that is too long loses its first tokens, with a message.

    Raises:
        KfError: neither or both are given, ids are not whole numbers, or there is text but no tokenizer.
    """
    if (prompt is None) == (token_ids is None):
        failed = "The context is missing." if prompt is None else "The context is given twice."
        raise KfError(failed, "--prompt TEXT or --token-ids 1,2,3")
    if token_ids is not None:
        return numbers(token_ids, int, "--token-ids")
    if pair is None:
        raise KfError("A single checkpoint has no tokenizer.", "--token-ids 1,2,3, or --pair")
    ids, cut = pair.encode(prompt or "")
    if cut:
        print(f"kfexplore: the first {cut} tokens of the prompt were cut to fit the context.", file=sys.stderr)
    return ids


def numbers(text: str, kind: type[Any], option: str) -> list[Any]:
    """The comma-separated values of an option."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise KfError(f"{option} {text!r} is not a list of {what}.", f"{what} separated by commas") from None


def refuse(options: Mapping[str, Any], use: str, instead: str) -> None:
    """Raises KfError for the first option that was given and cannot be used here."""
    for option, value in options.items():
        if value is not None and value is not False:
            raise KfError(f"{option} cannot be used with {use}.", instead)


def load_chosen(
    name: str | None, teacher: Path | None, student: Path | None, tokenizer: Path | None, device: str | None
) -> Pair:
    """The pair named by --pair, or by --teacher and optionally --student."""
    from kfexplore.pair import load_pair, pair_from_files

    files = pair_files(name, teacher, student)
    return pair_from_files(*files, tokenizer, device) if files else load_pair(name or DEFAULT_PAIR, device=device)


def pair_files(name: str | None, teacher: Path | None, student: Path | None) -> tuple[Path, Path | None] | None:
    """The checkpoints of teacher and student; None: the pair is not given as files."""
    if teacher is None and student is None:
        return None
    if name or teacher is None:
        failed = "The pair is given twice." if name else "The pair has no teacher."
        raise KfError(failed, "--pair NAME, or --teacher FILE --student FILE")
    return teacher, student


def write_text(path: Path, text: str) -> None:
    """Writes a file; creates its folder."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
