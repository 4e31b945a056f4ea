"""`kfexplore generate`: samples by every decoder, of one prompt or of a file of prefixes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kfexplore.cli.options import (
    IdsOption,
    JsonFlag,
    PairOption,
    PromptOption,
    StudentOption,
    TeacherOption,
    TokenizerOption,
    pair_files,
    refuse,
)
from kfexplore.cli.prefixes import complete_prefixes
from kfexplore.cli.prompt import NEW_TOKENS, continue_prompt
from kfexplore.decoders import DECODERS
from kfexplore.errors import KfError

FILE = "A file of prefixes (the published script's options)"


def _decoders() -> str:
    """All of them, who writes how, and which are ways to one text."""
    *others, last = (f"{name} ({each.how.format(k='K')})" for name, each in DECODERS.items())
    *exact, other = (name for name, each in DECODERS.items() if each.exact)
    return f"{', '.join(others)} or {last}. {', '.join(exact)} and {other} write one text."


def generate(
    model: Annotated[str, typer.Option(help=_decoders())],
    pair: PairOption = None,
    teacher: TeacherOption = None,
    student: StudentOption = None,
    tokenizer: TokenizerOption = None,
    ckpt_path: Annotated[
        Path | None,
        typer.Option("--ckpt_path", "--ckpt-path", help="One checkpoint instead of a pair; not for verified."),
    ] = None,
    prompt: PromptOption = None,
    token_ids: IdsOption = None,
    noise_file: Annotated[
        Path | None,
        typer.Option(
            help="(steps, B, k) float32 .npy; row s is used at step s. --order confident: k is the new tokens."
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("--k", "--K", help="Tokens or guesses a pass; by default all trained, for mdlm 1 (a file: 4)."),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens", help=f"New tokens a sample; by default {NEW_TOKENS}, for a file all there is room for."
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples",
            "--n_per_prefix",
            "--n-per-prefix",
            "--num_samples",
            "--num-samples",
            help="Samples of each prompt, each with noise of its own.",
        ),
    ] = 1,
    seed: Annotated[int, typer.Option(help="Keys the noise, with sample and position.")] = 0,
    tau: Annotated[
        float,
        typer.Option("--temperature", "--tau", help="Temperature; pflm: as given to the noise encoder. Not of mdlm."),
    ] = 1.0,
    freq_penalty: Annotated[
        float | None,
        typer.Option(
            "--freq-penalty",
            "--freq_penalty",
            help="pflm: argmax of logits - penalty x counts; by default 0, with --task 0.5.",
        ),
    ] = None,
    dither: Annotated[
        int | None,
        typer.Option(help="pflm: draw from the student's distribution with the bits of u below 2^-DITHER, 1 to 10."),
    ] = None,
    exact_first: Annotated[
        bool, typer.Option("--exact-first", help="pflm: slot 1 from the student's own next-token law.")
    ] = False,
    order: Annotated[
        Literal["random", "confident"] | None,
        typer.Option(help="mdlm: positions filled first, by default random; confident draws anew in every pass."),
    ] = None,
    guess: Annotated[Literal["student", "nothing"], typer.Option(help="jacobi: what a block begins with.")] = "student",
    stop_at_eos: Annotated[
        bool, typer.Option("--stop-at-eos", help="Cut each sample behind its end-of-text token.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; by default cpu, for a file cuda where there is one.")
    ] = None,
    as_json: JsonFlag = False,
    task: Annotated[
        str | None, typer.Option(help="owt or lm1b: tokenizer, lengths, published models.", rich_help_panel=FILE)
    ] = None,
    prefix_file: Annotated[
        Path | None,
        typer.Option(
            "--prefix_file",
            "--prefix-file",
            help='JSON lines {"prefix": text}; by default assets/prefix_examples.jsonl.',
            rich_help_panel=FILE,
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output_dir",
            "--output-dir",
            help="Gets samples.jsonl and throughput.json; by default outputs.",
            rich_help_panel=FILE,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch_size", "--batch-size", help="Samples at once; by default 16.", rich_help_panel=FILE),
    ] = None,
    warmup_steps: Annotated[
        int | None,
        typer.Option(
            "--warmup_steps",
            "--warmup-steps",
            help="Batches written before the clock starts; by default 1.",
            rich_help_panel=FILE,
        ),
    ] = None,
    mdlm_greedy: Annotated[
        bool,
        typer.Option("--mdlm_greedy", "--mdlm-greedy", help="mdlm: --order confident.", rich_help_panel=FILE),
    ] = False,
    prefix_len: Annotated[
        int | None,
        typer.Option(
            "--prefix-len",
            "--prefix_len",
            help="Tokens kept of a prefix; by default all, with --task 6.",
            rich_help_panel=FILE,
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(help="Processes, one a GPU, that share the batches (needs accelerate).", rich_help_panel=FILE),
    ] = None,
) -> None:
    """Continue a prompt, or every prefix of a file, by any of the five decoders.

    Noise is keyed by seed, sample and position, or read from --noise-file.

    With --task, --prefix_file or --output_dir a file of prefixes is completed
    and timed: the options, files and keys are those of the published script
    batch_inference_with_prefix.py. Without --task the pair says tokenizer and
    lengths.

    What is put right there:
    - the clock holds whole batches, prefill included, but neither text
      decoding nor writing files;
    - a short prefix, or a line that is not JSON, is an error with its number;
    - the last batch may be smaller, and is counted as it is;
    - --seed repeats a run, on any batch size or number of devices;
    - a K beyond the trained one is refused;
    - tokens behind the end of a text are counted apart (tokens_after_eos);
    - both files are written whole or not at all; fp32, no flash-attn needed.
    """
    from kfexplore.batch.source import Source

    if model not in DECODERS:
        raise KfError(f"There is no model {model!r}.", ", ".join(DECODERS))
    asked: dict[str, Any] = {"decoder": model, "k": k, "tau": tau, "penalty": freq_penalty, "dither": dither}
    asked |= {"exact_first": exact_first, "order": order, "guess": guess}
    source = Source(pair, pair_files(pair, teacher, student), ckpt_path, task, tokenizer)
    if task is None and prefix_file is None and output_dir is None:
        of_file = {"--batch_size": batch_size, "--warmup_steps": warmup_steps, "--prefix-len": prefix_len}
        refuse({**of_file, "--devices": devices, "--mdlm_greedy": mdlm_greedy}, "one prompt", "--prefix_file FILE")
        new = NEW_TOKENS if max_new_tokens is None else max_new_tokens
        continue_prompt(source, asked, prompt, token_ids, noise_file, new, samples, seed, stop_at_eos, device, as_json)
        return
    of_prompt = {"--prompt": prompt, "--token-ids": token_ids, "--noise-file": noise_file, "--stop-at-eos": stop_at_eos}
    refuse(of_prompt, "a file of prefixes", "neither --task nor --prefix_file nor --output_dir")
    values: dict[str, Any] = {
        "batch_size": batch_size,
        "warmup": warmup_steps,
        "prefix_length": prefix_len,
        "devices": devices,
    }
    values |= {"new_tokens": max_new_tokens, "per_prefix": samples, "seed": seed, "device": device}
    complete_prefixes(source, asked, mdlm_greedy, prefix_file, output_dir, values, as_json)
