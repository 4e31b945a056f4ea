"""`kfexplore VERB`: one thin function a verb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from kfexplore.cli.bench import bench
from kfexplore.cli.doctor import doctor
from kfexplore.cli.generate import generate
from kfexplore.cli.laws import laws
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
    pair_files,
    read_context,
    write_text,
)
from kfexplore.cli.train import train
from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import told

app = typer.Typer(
    help="Explore K-Forcing: K uniform noise variables to K tokens in one pass.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")
app.add_typer(train, name="train")
export = typer.Typer(help="Write files that the app or others use.", no_args_is_help=True)
app.add_typer(export, name="export")


def main() -> None:
    """Runs the command line; a user error is printed and exits with 2."""
    with told():
        app()


@app.command("app")
def app_command(
    pair: PairOption = None,
    teacher: TeacherOption = None,
    student: StudentOption = None,
    tokenizer: TokenizerOption = None,
    port: Annotated[int | None, typer.Option(help="Port of the page; by default 7860, or GRADIO_SERVER_PORT.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    device: DeviceOption = None,
) -> None:
    """Open the app in a browser."""
    from kfexplore.ui.port import free_port

    port = free_port(host, port)  # before Gradio is imported
    from kfexplore.ui.app import launch

    files = pair_files(pair, teacher, student)
    launch(pair=pair or DEFAULT_PAIR, files=(*files, tokenizer) if files else None, device=device, host=host, port=port)


@app.command("map")
def map_command(
    noise: Annotated[str, typer.Option(help="One number in [0, 1) a slot: 0.1,0.7,..")],
    pair: PairOption = None,
    teacher: TeacherOption = None,
    student: StudentOption = None,
    tokenizer: TokenizerOption = None,
    prompt: PromptOption = None,
    token_ids: IdsOption = None,
    temperature: Annotated[float, typer.Option(help="Of both maps; most students know 1 alone.")] = 1.0,
    device: DeviceOption = None,
    as_json: JsonFlag = False,
) -> None:
    """The tokens that noise chooses after a context: exact (G*), beside learned where there is a student."""
    chosen = load_chosen(pair, teacher, student, tokenizer, device)
    ids = read_context(chosen, prompt, token_ids)
    block = chosen.block([ids], [numbers(noise, float, "--noise")], temperature)
    tokens = {"teacher": block.teacher[0].tolist()}
    if block.learned:
        tokens = {"student": block.student[0].tolist(), **tokens}
    if as_json:
        result: dict[str, Any] = {**tokens, "edges": block.edges[0].tolist()}
        if block.learned:
            result["margins"] = block.margins[0].tolist()
        if chosen.tokenizer is not None:
            result |= {f"{which}_text": chosen.texts(ids) for which, ids in tokens.items()}
        print(json.dumps(result))
        return
    names = {which: [repr(t) for t in chosen.texts(ids)] or [*map(str, ids)] for which, ids in tokens.items()}
    print(f"{'slot':>4}  {'u':>8}  {'exact':<20}" + (f" {'learned':<20} {'margin':>7}" if block.learned else ""))
    for j, u in enumerate(block.u[0]):
        line = f"{j + 1:>4}  {u:>8.5f}  {names['teacher'][j]:<18}"
        if block.learned:
            sign = "=" if tokens["student"][j] == tokens["teacher"][j] else "≠"
            line += f" {sign} {names['student'][j]:<20} {block.margins[0, j]:>7.3f}"
        print(line.rstrip() if not block.learned else line)


app.command("generate")(generate)


@app.command("eval")
def eval_command(
    pair: Annotated[str, typer.Argument(help="stories, tales, owt, lm1b, or a folder.")],
    text: Annotated[Path, typer.Option(help="A text file or a folder of .txt files, not trained on.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Where the JSON document goes.")] = None,
    card: Annotated[Path | None, typer.Option(help="Where MODEL_CARD.md goes.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for evaluation.html.")] = None,
    windows: Annotated[int, typer.Option(help="Stretches of text.")] = 64,
    samples: Annotated[int, typer.Option(help="Held-out prefixes that every decoder continues.")] = 64,
    prefix: Annotated[int | None, typer.Option(min=1, help="Tokens of a prefix; by default up to 32.")] = None,
    new_tokens: Annotated[int | None, typer.Option(help="Tokens written after it; by default up to 64.")] = None,
    freq_penalty: Annotated[
        float, typer.Option("--freq-penalty", "--freq_penalty", help="Penalty compared at the largest K; 0: none.")
    ] = 0.5,
    dither: Annotated[int, typer.Option(help="Bits of the dithered readout compared at the largest K.")] = 6,
    gen_ppl: Annotated[
        str | None, typer.Option("--gen-ppl", help="Causal model of the hub, or its folder; the paper's is gpt2-large.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Causal model of the hub, or its folder, that compares samples with AR's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Keys prefixes and noise.")] = 0,
    device: DeviceOption = None,
) -> None:
    """What a pair is worth on a text: agreement with the exact map, the law of slot 1, quality of samples."""
    from kfexplore.evaluate.card import model_card, summary
    from kfexplore.evaluate.evaluation import EvalSettings, evaluate
    from kfexplore.evaluate.text import read_text
    from kfexplore.pair import load_pair

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
        from kfexplore.figures.evaluate import write_page

        write_page(measured, figures)


app.command("laws")(laws)
app.command("doctor")(doctor)


BundledOption = Annotated[str, typer.Option("--pair", help="A bundled pair.")]


@export.command("first-screen")
def export_first_screen_command(pair: BundledOption = DEFAULT_PAIR) -> None:
    """Store what the app draws at once, beside a bundled pair; run it after its weights change."""
    from kfexplore.ui.app import store_first_screen

    print(store_first_screen(pair))


@export.command("contexts")
def export_contexts_command(
    pair: BundledOption = DEFAULT_PAIR,
    text: Annotated[Path | None, typer.Option(help="Sentences, one a line; by default our own, of tales.")] = None,
) -> None:
    """Rank contexts by the mutual information of the next two tokens, and store them beside a bundled pair."""
    from kfexplore.laws.ranking import store_contexts

    print(store_contexts(pair, text))


@export.command("space")
def export_space_command(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder, or an earlier export.")],
) -> None:
    """Assemble what a Hugging Face Space is made of, and say how to push it."""
    from kfexplore.space import summary, write_space

    print(summary(folder, write_space(folder)))


if __name__ == "__main__":
    main()
