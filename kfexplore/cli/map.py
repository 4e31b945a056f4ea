"""`kfexplore map`: the tokens of both maps for given noise."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from kfexplore.cli.options import (
    DeviceOption,
    IdsOption,
    JsonFlag,
    PairOption,
    PromptOption,
    StudentOption,
    TeacherOption,
    TokenizerOption,
    load_chosen,
    numbers,
    read_context,
)


def map_command(
    noise: Annotated[str, typer.Option(help="One number in [0, 1) per slot: 0.1,0.7,..")],
    pair: PairOption = None,
    teacher: TeacherOption = None,
    student: StudentOption = None,
    tokenizer: TokenizerOption = None,
    prompt: PromptOption = None,
    token_ids: IdsOption = None,
    temperature: Annotated[
        float, typer.Option(help="Temperature of both maps, 0.01 to 10; most students are trained at 1 only.")
    ] = 1.0,
    device: DeviceOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the tokens that noise chooses after a context: exact, and learned if there is a student."""
    chosen = load_chosen(pair, teacher, student, tokenizer, device)
    ids = read_context(chosen, prompt, token_ids)
    block = chosen.block([ids], [numbers(noise, float, "--noise")], temperature)
    tokens = {"teacher": block.exact[0].tolist()}
    if block.has_student:
        tokens = {"student": block.learned[0].tolist(), **tokens}
    if as_json:
        result: dict[str, Any] = {**tokens, "edges": block.edges[0].tolist()}
        if block.has_student:
            result["margins"] = block.margins[0].tolist()
        if chosen.tokenizer is not None:
            result |= {f"{which}_text": chosen.texts(ids) for which, ids in tokens.items()}
        print(json.dumps(result))
        return
    names = {which: [repr(t) for t in chosen.texts(ids)] or [*map(str, ids)] for which, ids in tokens.items()}
    print(f"{'slot':>4}  {'u':>8}  {'exact':<20}" + (f" {'learned':<20} {'margin':>7}" if block.has_student else ""))
    for j, u in enumerate(block.u[0]):
        line = f"{j + 1:>4}  {u:>8.5f}  {names['teacher'][j]:<18}"
        if block.has_student:
            sign = "=" if tokens["student"][j] == tokens["teacher"][j] else "≠"
            line += f" {sign} {names['student'][j]:<20} {block.margins[0, j]:>7.3f}"
        print(line if block.has_student else line.rstrip())
