"""`kfexplore generate`: samples from any decoder, for one prompt or a file of prefixes (the published script)."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    read_context,
    refuse,
)
from kfexplore.decoders import DECODERS
from kfexplore.errors import KfError

if TYPE_CHECKING:
    from kfexplore.batch.request import Loaded, Request, Source
    from kfexplore.config import DecodeConfig
    from kfexplore.results import Decoded

NEW_TOKENS = 64
PREFIX_FILE, OUTPUT_DIR = Path("assets/prefix_examples.jsonl"), Path("outputs")
PENALTY = 0.5
"""Default frequency penalty of pflm with --task, as in the published script."""
MASKED_K = 4
"""Default positions per pass of mdlm for a file, as in the published script; pflm uses its trained K."""
_file_option = partial(typer.Option, rich_help_panel="A file of prefixes (the published script's options)")


def _decoders() -> str:
    *others, last = (f"{name} ({each.how.format(k='K')})" for name, each in DECODERS.items())
    *exact, other = (name for name, each in DECODERS.items() if each.exact)
    return f"{', '.join(others)} or {last}. {', '.join(exact)} and {other} write the same text."


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
        typer.Option(help=".npy, (steps, B, k) float32; step s uses row s. --order confident: k = --max-new-tokens."),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("--k", "--K", help="Tokens or guesses per pass; default: the trained K; mdlm: 1, with a file 4."),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", help=f"New tokens per sample; default: {NEW_TOKENS}; a file: all that fit."),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            *("--samples", "--n_per_prefix", "--n-per-prefix", "--num_samples", "--num-samples"),
            help="Samples per prompt, each with its own noise.",
        ),
    ] = 1,
    seed: Annotated[int, typer.Option(help="Random seed; noise is keyed by seed, sample and position.")] = 0,
    tau: Annotated[
        float,
        typer.Option("--temperature", "--tau", help="Temperature; pflm: input of the noise encoder; not for mdlm."),
    ] = 1.0,
    freq_penalty: Annotated[
        float | None,
        typer.Option(
            *("--freq-penalty", "--freq_penalty"),
            help="pflm: frequency penalty, argmax of logits - penalty x counts; default: 0; with --task, 0.5.",
        ),
    ] = None,
    dither: Annotated[
        int | None,
        typer.Option(help="pflm: draw from the student's distribution with the bits of u below 2^-DITHER, 1 to 10."),
    ] = None,
    exact_first: Annotated[
        bool, typer.Option("--exact-first", help="pflm: slot 1 from the student's own next-token distribution.")
    ] = False,
    order: Annotated[
        Literal["random", "confident"] | None,
        typer.Option(help="mdlm: positions filled first; default: random. confident redraws in every pass."),
    ] = None,
    guess: Annotated[Literal["student", "nothing"], typer.Option(help="jacobi: initial guess of a block.")] = "student",
    stop_at_eos: Annotated[
        bool, typer.Option("--stop-at-eos", help="Cut each sample after its end-of-text token.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; default: cpu; with a file, cuda if available.")
    ] = None,
    as_json: JsonFlag = False,
    task: Annotated[str | None, _file_option(help="owt or lm1b: tokenizer, lengths, published models.")] = None,
    prefix_file: Annotated[
        Path | None,
        _file_option(
            *("--prefix_file", "--prefix-file"),
            help=f'JSON lines {{"prefix": text}}; default: {PREFIX_FILE}.',
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        _file_option(
            *("--output_dir", "--output-dir"),
            help=f"Folder for samples.jsonl and throughput.json; default: {OUTPUT_DIR}.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, _file_option("--batch_size", "--batch-size", help="Samples per batch; default: 16.")
    ] = None,
    warmup_steps: Annotated[
        int | None,
        _file_option("--warmup_steps", "--warmup-steps", help="Batches decoded before the clock starts; default: 1."),
    ] = None,
    mdlm_greedy: Annotated[
        bool, _file_option("--mdlm_greedy", "--mdlm-greedy", help="mdlm: --order confident.")
    ] = False,
    prefix_len: Annotated[
        int | None,
        _file_option("--prefix-len", "--prefix_len", help="Tokens kept per prefix; default: all; with --task, 6."),
    ] = None,
    devices: Annotated[
        int | None, _file_option(help="Processes, one per GPU, that share the batches; default: 1.")
    ] = None,
) -> None:
    """Continue a prompt, or every prefix in a file, with any of the five decoders.

    Noise is keyed by seed, sample and position, or read from --noise-file.

    With --task, --prefix_file or --output_dir, a file of prefixes is completed
    and timed: options, files and keys are those of the published script
    batch_inference_with_prefix.py. Without --task, the pair sets tokenizer and
    lengths.

    Differences from the published script:
    - the clock covers whole batches, prefill included, but neither text
      decoding nor writing files;
    - a short prefix, or a line that is not JSON, is an error with the line's
      number;
    - the last batch may be smaller, and is counted as it is;
    - --seed repeats a run, on any batch size or number of devices;
    - a K beyond the trained one is refused;
    - tokens after the end of a text are counted separately (tokens_after_eos);
    - both files are written whole or not at all; fp32, no flash-attn needed.
    """
    from kfexplore.batch.request import Request, Source
    from kfexplore.config import DecodeConfig

    if model not in DECODERS:
        raise KfError(f"There is no model {model!r}.", ", ".join(DECODERS))
    asked = {"decoder": model, "k": k, "temperature": tau, "frequency_penalty": freq_penalty}
    asked |= {"dither": dither, "exact_first": exact_first, "order": order, "guess": guess}
    source = Source(pair, pair_files(pair, teacher, student), ckpt_path, task, tokenizer)
    if task is None and prefix_file is None and output_dir is None:
        of_file = {"--batch_size": batch_size, "--warmup_steps": warmup_steps, "--prefix-len": prefix_len}
        refuse({**of_file, "--devices": devices, "--mdlm_greedy": mdlm_greedy}, "one prompt", "--prefix_file FILE")
        new = NEW_TOKENS if max_new_tokens is None else max_new_tokens
        config = DecodeConfig(**_given(asked))
        asked_prompt = PromptRequest(
            source, config, prompt, token_ids, noise_file, new, samples, seed, stop_at_eos, device
        )
        continue_prompt(asked_prompt, as_json)
        return
    of_prompt = {"--prompt": prompt, "--token-ids": token_ids, "--noise-file": noise_file, "--stop-at-eos": stop_at_eos}
    refuse(of_prompt, "a file of prefixes", "neither --task nor --prefix_file nor --output_dir")
    values = {"batch_size": batch_size, "warmup": warmup_steps, "prefix_length": prefix_len, "devices": devices}
    values |= {"new_tokens": max_new_tokens, "per_prefix": samples, "seed": seed}
    config = file_decoder(asked, mdlm_greedy, published=task is not None)
    files = prefix_file or PREFIX_FILE, output_dir or OUTPUT_DIR
    complete_file(Request(source, config, *files, device=device or _usual_device(), **_given(values)), as_json)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _usual_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class PromptRequest:
    """One prompt to continue."""

    source: Source
    """Models and tokenizer."""
    decoder: DecodeConfig
    """The decoder and its settings."""
    prompt: str | None
    """The prompt as text."""
    token_ids: str | None
    """The prompt as comma-separated token ids."""
    noise_file: Path | None
    """Noise (steps, B, k) to replay; None: keyed noise."""
    new_tokens: int
    """New tokens per sample."""
    samples: int
    """Number of samples, with keyed noise."""
    seed: int
    """Random seed."""
    stop_at_eos: bool
    """Cut each sample after its end-of-text token."""
    device: str | None
    """cpu (None) or cuda."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise KfError(f"--samples is {self.samples}.", "at least 1")


def continue_prompt(asked: PromptRequest, as_json: bool) -> None:
    """Prints samples of a prompt, as one JSON document (`{"tokens", "text", "nfe", "seconds"}`) or as text.

    Raises:
        KfError: as `load`, `read_context` and `generate`.
    """
    from kfexplore import noise
    from kfexplore.batch.request import load
    from kfexplore.batch.run import room_for, row_bytes
    from kfexplore.checkpoints.tokenizers import ENDS_OF_TEXT, encode_ids, end_of_text
    from kfexplore.decoding.generate import check_prompts, generate, keyed_noise, keyed_order, replayed_noise, resolve_k

    config, new = asked.decoder, asked.new_tokens
    loaded = load(asked.source, config, asked.device)
    networks, tokenizer = loaded.networks, loaded.tokenizer
    end = end_of_text(tokenizer) if asked.stop_at_eos and tokenizer is not None else None
    if asked.stop_at_eos and end is None:
        raise KfError("There is no tokenizer with an end-of-text token.", f"one of {', '.join(ENDS_OF_TEXT)}")
    if loaded.pair is None and tokenizer is not None and asked.prompt and asked.token_ids is None:
        ids = encode_ids(tokenizer, asked.prompt)
    else:
        ids = read_context(loaded.pair, asked.prompt, asked.token_ids)
    check_prompts(config, networks, [ids], new)
    replayed = replayed_noise(noise.load(asked.noise_file), config, networks, new) if asked.noise_file else None
    rows = asked.samples if replayed is None else len(replayed)
    warm = min(new, resolve_k(config, networks))
    with room_for(rows, "--samples", row_bytes(config, networks, len(ids) + new)):
        values = keyed_noise(asked.seed, range(rows), config, networks, new) if replayed is None else replayed
        order = keyed_order(asked.seed, range(rows), new)
        # Warm-up, not timed: a process's first pass packs weights and allocates buffers.
        generate(config, networks, [ids] * len(values), values, warm, order[:, :warm])
        result = generate(config, networks, [ids] * len(values), values, new, order, end)
    _print_samples(result, ids, config, loaded, as_json)


def _print_samples(result: Decoded, ids: list[int], config: DecodeConfig, loaded: Loaded, as_json: bool) -> None:
    from kfexplore.batch.report import acceptance, right_guesses
    from kfexplore.checkpoints.tokenizers import continuation
    from kfexplore.decoding.generate import resolve_k

    rows = [row[:length].tolist() for row, length in zip(result.tokens, result.lengths, strict=True)]
    texts = [continuation(loaded.tokenizer, row, ids) for row in rows] if loaded.tokenizer is not None else []
    more: dict[str, Any] = {}
    if DECODERS[config.decoder].checks:
        right, rounds = right_guesses(result.kept, result.tokens.shape[1])
        rate = acceptance(right, rounds, resolve_k(config, loaded.networks))
        more = {"kept": result.kept.tolist(), "acceptance": rate}
    if as_json:
        print(json.dumps({"tokens": rows, "text": texts, "nfe": result.nfe, "seconds": result.seconds, **more}))
        return
    for row in texts or rows:
        print(row)
    mean = result.lengths.mean() / result.nfe
    guesses = "" if more.get("acceptance") is None else f", {more['acceptance']:.0%} of guesses right"
    print(f"[{result.nfe} passes, {mean:.2f} tokens per pass{guesses}, {result.seconds:.2f} s]", file=sys.stderr)


def complete_file(request: Request, as_json: bool) -> None:
    """Completes a file of prefixes and prints a summary, or with `as_json` the contents of throughput.json."""
    from kfexplore.batch.report import SAMPLES_FILE, THROUGHPUT_FILE
    from kfexplore.batch.run import complete

    found, folder = complete(request), request.output_dir
    if found is None:  # not the first process
        return
    if found["prefixes_cut"]:
        prefixes = found["num_samples"] // found["n_per_prefix"]
        print(
            f"kfexplore: {found['prefixes_cut']} of {prefixes} prefixes were cut to {found['prefix_len']} tokens "
            "(--prefix-len).",
            file=sys.stderr,
        )
    if as_json:
        print(json.dumps(found))
        return
    penalty = f", frequency penalty {found['freq_penalty']:g} (--freq_penalty)" if found["freq_penalty"] else ""
    print(f"{found['num_samples']} completions of {found['max_new_tokens']} tokens{penalty}: {folder / SAMPLES_FILE}")
    print(
        f"{found['throughput_tok_per_sec_total']:,.1f} tokens per second, {found['nfe_per_token']:.3f} passes per "
        f"token, {found['tokens_after_eos']} tokens after the end of a text: {folder / THROUGHPUT_FILE}"
    )


def file_decoder(asked: dict[str, Any], greedy: bool, published: bool) -> DecodeConfig:
    """The decoder for a file; options that the published script ignores are left out, with a message on stderr.

    Args:
        asked: Fields of DecodeConfig; None: the default of this mode.
        greedy: mdlm fills positions by confidence.
        published: A task was given: by default, pflm uses the published penalty.

    Raises:
        KfError: --mdlm_greedy with --order random; and as DecodeConfig.
    """
    from kfexplore.config import DecodeConfig

    name, found = asked["decoder"], dict(asked)
    if greedy and found["order"] == "random":
        raise KfError("--mdlm_greedy means --order confident, but --order random was given.", "one of the two")
    if greedy:
        found["order"] = "confident"
    if name == "mdlm" and found["k"] is None:
        found["k"] = MASKED_K
    if (
        published
        and name == "pflm"
        and found["frequency_penalty"] is None
        and found["dither"] is None
        and not found["exact_first"]
    ):
        found["frequency_penalty"] = PENALTY
    options = {"k": "--K", "frequency_penalty": "--freq_penalty", **({"order": "--mdlm_greedy"} if greedy else {})}
    for field, option in options.items():
        if field not in DECODERS[name].options and found[field] is not None:
            print(f"kfexplore: {option} cannot be used with {name}; it is ignored.", file=sys.stderr)
            found[field] = None
    return DecodeConfig(**_given(found))
