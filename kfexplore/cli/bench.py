"""`kfexplore bench VERB`: timings, each a JSON document."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from kfexplore.cli.options import DeviceOption, JsonFileOption, PairOption, load_chosen, numbers, write_text
from kfexplore.config import DEFAULT_PAIR
from kfexplore.decoders import DECODERS
from kfexplore.errors import KfError

if TYPE_CHECKING:
    from kfexplore.bench.throughput import Progress
    from kfexplore.pair import Pair

bench = typer.Typer(help="Time decoders, sliders or training; prints tables and JSON.", no_args_is_help=True)
SizeOption = Annotated[str | None, typer.Option(help="owt or lm1b: random weights of that size.")]


@bench.command("scrub")
def bench_scrub_command(
    pair: PairOption = None,
    size: SizeOption = None,
    context: Annotated[int, typer.Option(help="Context length in tokens.")] = 64,
    page: Annotated[bool, typer.Option(help="Moved: `python -m tools.page` times the app in Chromium.")] = False,
    repeats: Annotated[int, typer.Option(help="Timed repeats.")] = 5,
    device: DeviceOption = None,
    json_file: JsonFileOption = None,
) -> None:
    """Time the work behind a slider: prefill, blocks, and unless --size is given, sweeps and grids."""
    from kfexplore.bench.scrub import bench_scrub

    if page:
        raise KfError("A separate tool in the repository times the page.", run="python -m tools.page --help")
    chosen = _models(pair, size, device)
    _say(f"{'what':<14}{'steps':>6}{'median ms':>12}{'least':>12}{'largest':>12}")
    _publish(bench_scrub(chosen, context, repeats, tables=size is None, report=_show_scrub), json_file)


@bench.command("train")
def bench_train_command(
    recipe: Annotated[str, typer.Option(help="Recipe whose model shape and last student stage are timed.")],
    vocab_size: Annotated[int, typer.Option(help="Rows of the embedding, mask token included.")] = 513,
    repeats: Annotated[int, typer.Option(help="Timed steps.")] = 5,
    device: DeviceOption = None,
    json_file: JsonFileOption = None,
) -> None:
    """Time training steps with random weights: the teacher, and students of 1, 2, 4 and 8 slots."""
    from kfexplore.bench.train import bench_train
    from kfexplore.training.config import load_recipe

    chosen = load_recipe(recipe)
    teacher, student = (chosen.shape(kind, vocab_size, vocab_size - 1) for kind in ("teacher", "student"))
    _say(f"{'model':<9}{'k':>3}{'ms/step':>10}{'tokens/s':>10}{'/teacher':>10}{'of peak':>9}")
    _publish(bench_train(teacher, student, chosen.students[-1], repeats, device, report=_show_train), json_file)


@bench.command("throughput")
def bench_throughput_command(
    pair: PairOption = None,
    size: SizeOption = None,
    decoders: Annotated[
        str | None,
        typer.Option(help=f"Any of {','.join(DECODERS)}; default: ar,pflm, as far as the pair has their models."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Samples at once: 1,4,16.")] = "1,4,16",
    k: Annotated[str, typer.Option("--k", "--K", help="Tokens, or guesses, per pass: 4, or 2,4.")] = "4",
    max_new_tokens: Annotated[int, typer.Option(help="New tokens per sample.")] = 64,
    prompt_tokens: Annotated[int, typer.Option(help="Prompt length in tokens, with random weights.")] = 32,
    prompt: Annotated[str, typer.Option(help="The prompt, with a pair.")] = "Once upon a time",
    repeats: Annotated[int, typer.Option(help="Timed repeats, after one warm-up.")] = 5,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    dtype: Annotated[str, typer.Option(help="Type of the weights: float32, bfloat16 or float16.")] = "float32",
    roofline: Annotated[bool, typer.Option(help="Only the shortest times this device allows, by batch and K.")] = False,
    figures: Annotated[Path | None, typer.Option(help="Folder for throughput.html.")] = None,
    device: DeviceOption = None,
    json_file: JsonFileOption = None,
) -> None:
    """Time decoders against each other: tokens per second, passes, and how close they come to the device's limit."""
    from kfexplore.bench.setting import in_dtype
    from kfexplore.bench.throughput import RaceSettings, bench_roofline, bench_throughput
    from kfexplore.checkpoints.tokenizers import end_of_text
    from kfexplore.decoding.generate import Networks

    chosen = _models(pair, size, device)
    for model in (chosen.teacher, chosen.student, chosen.masked):
        if model is not None:
            in_dtype(model, _dtype(dtype))
    networks = Networks(chosen.teacher, chosen.student, chosen.masked)
    usual = tuple(name for name in RaceSettings.decoders if name in networks.decoders)
    settings = RaceSettings(
        decoders=usual if decoders is None else tuple(name.strip() for name in decoders.split(",")),
        batches=tuple(numbers(batch, int, "--batch")),
        ks=tuple(numbers(k, int, "--k")),
        prompt=prompt_tokens,
        new_tokens=max_new_tokens,
        repeats=repeats,
        seed=seed,
    )
    name = size or pair or DEFAULT_PAIR
    if roofline:
        result = bench_roofline(networks, settings, name)
        _show_roofline(result["limits"], result["gains"])
    else:
        ids = chosen.encode(prompt)[0] if chosen.tokenizer is not None else None
        eos = end_of_text(chosen.tokenizer) if chosen.tokenizer is not None else None
        recheck = False if size else None  # distributions of random weights are flat: everything would be a near tie
        result = bench_throughput(networks, settings, name, ids, eos, recheck, partial(_show_race, [HEAD]))
        if all(row["error"] for row in result["rows"]):
            raise KfError(f"No decoder could be timed. {result['rows'][0]['error']}")
    if figures:
        from kfexplore.figures.page import write
        from kfexplore.figures.timing import timing_page

        write(timing_page(result), figures / "throughput.html")
    if json_file:
        write_text(json_file, _document(result))


@bench.command("load", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def bench_load_command() -> None:
    """Moved: `python -m tools.load` in the repository drives the app with many clients at once."""
    raise KfError("The load test is a separate tool in the repository.", run="python -m tools.load --help")


def _models(pair: str | None, size: str | None, device: str | None) -> Pair:
    """A pair, or random weights of a published size."""
    from kfexplore.bench.setting import random_pair

    if size and pair:
        raise KfError("Both --size and --pair were given.", "one of the two")
    return random_pair(size, device) if size else load_chosen(pair, None, None, None, device)


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)  # above the progress bar, if there is one


def _print(line: str) -> None:
    tqdm.write(line, file=sys.stdout)


def _show_scrub(row: dict[str, Any]) -> None:
    times = "".join(f"{1e3 * row[name]:>12,.2f}" for name in ("seconds", "least", "largest"))
    _say(f"{row['what']:<14}{row.get('resolution', ''):>6}{times}")


def _show_train(row: dict[str, Any]) -> None:
    _say(
        f"{row['model']:<9}{row['k'] or '':>3}{row['ms_per_step']:>10.1f}{row['tokens_per_second']:>10,.0f}"
        f"{row['relative']:>10.2f}{row['share_of_peak']:>9.0%}"
    )


HEAD = (
    f"{'decoder':<9}{'batch':>6}{'k':>3}{'passes':>8}{'ms/pass':>9}{'tokens/s':>10}{'GB/s':>7}{'GFLOP/s':>9}"
    f"{'at limit':>10}  over ar"
)
"""Table header; "at limit" is the speed-up over ar if both ran at the device's limit, from counted bytes and FLOPs."""


def _show_race(head: list[str], progress: Progress) -> None:
    """Prints a row on stdout, with the header before the first; failures go to stderr."""
    from kfexplore.figures.timing import over_ar

    row = progress.row
    if row is None:
        return
    if row.error or row.seconds is None:
        _say(f"{row.decoder:<9}{row.batch:>6}{row.k:>3}  {row.error}")
        return
    while head:
        _print(head.pop())
    limit = f"{row.roofline_speedup:.2f}" if row.roofline_speedup else ""
    moved, done = (row.bytes_per_second or 0) / 1e9, (row.flops_per_second or 0) / 1e9
    _print(
        f"{row.decoder:<9}{row.batch:>6}{row.k:>3}{row.nfe:>8}{row.ms_per_step:>9.2f}{row.tokens_per_second:>10,.0f}"
        f"{moved:>7.1f}{done:>9.0f}{limit:>10}  {over_ar(row)}".rstrip()
    )


def _show_roofline(peaks: dict[str, float], gains: list[dict[str, Any]]) -> None:
    _print(
        f"if both ran at this device's limit ({peaks['bytes_per_second'] / 1e9:.1f} GB/s, "
        f"{peaks['flops_per_second'] / 1e9:.0f} GFLOP/s), from counted bytes and FLOPs:\n"
        f"{'batch':>6}{'k':>4}{'ar ms':>9}{'pflm ms':>9}{'gain':>7}  pflm bound by"
    )
    for gain in gains:
        _print(
            f"{gain['batch']:>6}{gain['k']:>4}{gain['ar_ms']:>9.2f}{gain['pflm_ms']:>9.2f}{gain['speedup']:>7.2f}  "
            f"{gain['bound']}"
        )


def _dtype(name: str) -> Any:
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise KfError(f"There is no dtype {name!r}.", ", ".join(known))
    return known[name]


def _document(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=2, allow_nan=False) + "\n"


def _publish(result: dict[str, Any], json_file: Path | None) -> None:
    document = _document(result)
    if json_file:
        write_text(json_file, document)
    print(document, end="")
