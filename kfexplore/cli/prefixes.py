"""`kfexplore generate` of a file of prefixes: the interface of the published script."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfexplore.errors import KfError

if TYPE_CHECKING:
    from kfexplore.batch.source import Source
    from kfexplore.config import DecodeConfig

PREFIX_FILE, OUTPUT_DIR = Path("assets/prefix_examples.jsonl"), Path("outputs")
PENALTY = 0.5
"""Of pflm with --task, as in the published script."""
MASKED_K = 4
"""Positions a pass of mdlm, as there; pflm takes what it was trained on."""


def complete_prefixes(
    source: Source,
    asked: dict[str, Any],
    greedy: bool,
    prefix_file: Path | None,
    output_dir: Path | None,
    values: dict[str, Any],
    as_json: bool,
) -> None:
    """Completes the file and prints what throughput.json holds.

    Args:
        source: Models and tokenizer.
        asked: Fields of DecodeConfig; None: the default of this mode.
        greedy: mdlm fills positions by confidence.
        prefix_file: JSON lines with `prefix`.
        output_dir: Where the two files go.
        values: More fields of Request; None: its default.
        as_json: The document alone.
    """
    import torch

    from kfexplore.batch.batches import complete
    from kfexplore.batch.report import SAMPLES_FILE, THROUGHPUT_FILE
    from kfexplore.batch.request import Request

    given = {name: value for name, value in values.items() if value is not None}
    if torch.cuda.is_available():
        given.setdefault("device", "cuda")
    folder = output_dir or OUTPUT_DIR
    chosen = decoder(asked, greedy, published=source.task is not None)
    found = complete(Request(source, chosen, prefix_file or PREFIX_FILE, folder, **given))
    if found is None:  # another process has the whole
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
        f"{found['throughput_tok_per_sec_total']:,.1f} tokens a second, {found['nfe_per_token']:.3f} passes a token, "
        f"{found['tokens_after_eos']} tokens behind the end of a text: {folder / THROUGHPUT_FILE}"
    )


def decoder(asked: dict[str, Any], greedy: bool, published: bool) -> DecodeConfig:
    """The decoder; options that the published script ignores are left out, with a line on stderr.

    Args:
        asked: Fields of DecodeConfig; None: the default of this mode.
        greedy: mdlm fills positions by confidence.
        published: Of a task: pflm has the published penalty.

    Raises:
        KfError: --mdlm_greedy beside another order; as DecodeConfig.
    """
    from kfexplore.config import DecodeConfig
    from kfexplore.decoders import DECODERS

    name, found = asked["decoder"], dict(asked)
    if greedy and found["order"] == "random":
        raise KfError("--mdlm_greedy is --order confident, and --order random was asked for.", "one of the two")
    if greedy:
        found["order"] = "confident"
    if name == "mdlm" and found["k"] is None:
        found["k"] = MASKED_K
    usual = found["dither"] is None and not found["exact_first"]
    if published and name == "pflm" and found["penalty"] is None and usual:
        found["penalty"] = PENALTY
    options = {"k": "--K", "penalty": "--freq_penalty", **({"order": "--mdlm_greedy"} if greedy else {})}
    for field, option in options.items():
        if field not in DECODERS[name].options and found[field] is not None:
            print(f"kfexplore: {option} means nothing to {name}; it is left out.", file=sys.stderr)
            found[field] = None
    return DecodeConfig(**{field: value for field, value in found.items() if value is not None})
