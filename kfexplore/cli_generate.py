"""`kfexplore generate`: samples by every decoder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from kfexplore.cli_options import (
    DeviceOption,
    IdsOption,
    JsonFlag,
    PairOption,
    PromptOption,
    StudentOption,
    TeacherOption,
    TokenizerOption,
    load_chosen,
    read_context,
)
from kfexplore.errors import KfError

if TYPE_CHECKING:
    from kfexplore.config import Kind
    from kfexplore.decoding.generate import Networks
    from kfexplore.pair import Pair


def generate(
    model: Annotated[str, typer.Option(help="ar or pflm.")],
    pair: PairOption = None,
    teacher: TeacherOption = None,
    student: StudentOption = None,
    tokenizer: TokenizerOption = None,
    prompt: PromptOption = None,
    token_ids: IdsOption = None,
    ckpt_path: Annotated[
        Path | None, typer.Option("--ckpt_path", "--ckpt-path", help="One checkpoint instead of a pair.")
    ] = None,
    noise_file: Annotated[
        Path | None, typer.Option(help="(steps, B, k) float32 .npy; row s is used at step s.")
    ] = None,
    freq_penalty: Annotated[
        float,
        typer.Option("--freq-penalty", "--freq_penalty", help="pflm: argmax of logits - penalty x counts."),
    ] = 0.0,
    dither: Annotated[
        int | None,
        typer.Option(help="pflm: draw from the student's distribution with the bits of u below 2^-DITHER, 1 to 16."),
    ] = None,
    k: Annotated[int | None, typer.Option("--k", "--K", help="pflm: tokens a pass; by default all trained.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="New tokens a sample.")] = 64,
    samples: Annotated[int, typer.Option(help="Samples of the prompt, each with noise of its own.")] = 1,
    seed: Annotated[int, typer.Option(help="Keys the noise, with sample and position.")] = 0,
    tau: Annotated[float, typer.Option(help="pflm: temperature given to the noise encoder.")] = 1.0,
    device: DeviceOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Continue a prompt, autoregressively (ar) or K tokens a pass (pflm), from noise that is given or keyed."""
    from kfexplore import noise
    from kfexplore.config import DECODERS, DecodeConfig
    from kfexplore.decoding.generate import Networks, keyed_noise, keyed_order, replayed_noise
    from kfexplore.decoding.generate import generate as decode

    if model not in DECODERS:
        raise KfError(f"There is no model {model!r}.", ", ".join(DECODERS))
    config = DecodeConfig(cast(Any, model), k, tau=tau, penalty=freq_penalty, dither=dither)
    both: Pair | None = None
    if ckpt_path is not None:
        if pair or teacher or student or tokenizer:
            raise KfError("A model is named in two ways.", "--ckpt_path alone, or a pair")
        networks = _alone(model, ckpt_path, device)
    else:
        both = load_chosen(pair, teacher, student, tokenizer, device)
        networks = Networks(both.teacher, both.student, both.masked)
    ids = read_context(both, prompt, token_ids)
    if noise_file:
        values = replayed_noise(noise.load(noise_file), config, networks, max_new_tokens)
    else:
        values = keyed_noise(seed, range(samples), config, networks, max_new_tokens)
    order = keyed_order(seed, range(len(values)), max_new_tokens)
    result = decode(config, networks, [ids] * len(values), values, max_new_tokens, order)
    rows = result.tokens.tolist()
    texts = ["".join(both.texts(row)) for row in rows] if both and both.tokenizer else []
    if as_json:
        print(json.dumps({"tokens": rows, "text": texts, "nfe": result.nfe, "seconds": result.seconds}))
        return
    for row in texts or rows:
        print(row)
    print(f"[{result.nfe} passes, {result.seconds:.2f} s]", file=sys.stderr)


def _alone(model: str, path: Path, device: str | None) -> Networks:
    """The one network of --ckpt_path."""
    from kfexplore.checkpoints.registry import load_model
    from kfexplore.decoding.generate import Networks

    kinds: dict[str, Kind] = {"pflm": "student", "mdlm": "masked"}
    kind = kinds.get(model, "teacher")
    network: Any = load_model(path, device=device, kind=kind)
    return Networks(**{kind: network})
