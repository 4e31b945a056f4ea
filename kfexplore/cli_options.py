"""What the verbs of the command line share: options, and the context that they give."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kfexplore.errors import KfError

if TYPE_CHECKING:
    from kfexplore.pair import Pair

PairOption = Annotated[str | None, typer.Option("--pair", help="tales, owt, lm1b, or a folder.")]
PromptOption = Annotated[str | None, typer.Option("--prompt", help="The context, as text.")]
IdsOption = Annotated[str | None, typer.Option("--token-ids", help="The context, as token ids: 1,2,3.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
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
