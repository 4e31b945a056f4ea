"""`kfexplore eval`: measures a pair on a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kfexplore.cli.options import DeviceOption, JsonFileOption, write_text


def eval_command(
    pair: Annotated[str, typer.Argument(help="stories, tales, owt, lm1b, or a folder.")],
    text: Annotated[Path, typer.Option(help="A text file or a folder of .txt files, not used for training.")],
    json_file: JsonFileOption = None,
    card: Annotated[Path | None, typer.Option(help="File for the model card, MODEL_CARD.md.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for evaluation.html.")] = None,
    windows: Annotated[int, typer.Option(help="Number of text windows, at least 2.")] = 64,
    samples: Annotated[int, typer.Option(help="Held-out prefixes that every decoder continues.")] = 64,
    prefix: Annotated[int | None, typer.Option(min=1, help="Tokens per prefix; by default up to 32.")] = None,
    new_tokens: Annotated[int | None, typer.Option(help="New tokens per sample; by default up to 64.")] = None,
    freq_penalty: Annotated[
        float, typer.Option("--freq-penalty", "--freq_penalty", help="Frequency penalty, at the largest K; 0: none.")
    ] = 0.5,
    dither: Annotated[int, typer.Option(help="Bits of the dithered readout compared at the largest K, 1 to 10.")] = 6,
    gen_ppl: Annotated[
        str | None,
        typer.Option("--gen-ppl", help="Causal model for Gen-PPL: a hub name or a folder; the paper uses gpt2-large."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Causal model that compares samples with AR's: a hub name or a folder.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed for prefixes and noise.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Measure a pair on a text: agreement with the exact map, the distribution of slot 1, sample quality."""
    from kfexplore.evaluate.card import model_card, summary
    from kfexplore.evaluate.evaluation import EvalSettings, evaluate
    from kfexplore.pair import load_pair
    from kfexplore.training.documents import read_text

    chosen = load_pair(pair, device=device)
    settings = EvalSettings(
        windows=windows,
        samples=samples,
        prefix=prefix,
        new_tokens=new_tokens,
        penalty=freq_penalty,
        dither=dither,
        seed=seed,
        gen_ppl=gen_ppl,
        judge=judge,
    )
    measured = evaluate(chosen, pair, read_text(text), text.name, settings)
    print(summary(measured))
    if json_file:
        write_text(json_file, json.dumps(measured.as_json(), indent=2, allow_nan=False) + "\n")
    if card:
        write_text(card, model_card(chosen, measured))
    if figures:
        from kfexplore.figures.evaluate import evaluation_page
        from kfexplore.figures.page import write

        write(evaluation_page(measured), figures / "evaluation.html")
