"""`kfexplore generate` of one prompt."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfexplore.cli.options import read_context
from kfexplore.errors import KfError

if TYPE_CHECKING:
    from kfexplore.batch.source import Loaded, Source
    from kfexplore.config import DecodeConfig
    from kfexplore.results import Decoded

NEW_TOKENS = 64


def continue_prompt(
    source: Source,
    asked: dict[str, Any],
    prompt: str | None,
    token_ids: str | None,
    noise_file: Path | None,
    new_tokens: int,
    samples: int,
    seed: int,
    stop_at_eos: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Prints samples of a prompt, as one JSON document or for people.

    Args:
        source: Models and tokenizer.
        asked: Fields of DecodeConfig; None: its default.
        prompt: The prompt as text.
        token_ids: Or as token ids, with commas between them.
        noise_file: Noise (steps, B, k) to be replayed; None: it is keyed.
        new_tokens: New tokens a sample.
        samples: Samples, where the noise is keyed.
        seed: Keys it.
        stop_at_eos: Cut each sample behind its end-of-text token.
        device: cpu (None) or cuda.
        as_json: `{"tokens", "text", "nfe", "seconds"}`, and of verified and jacobi `kept` and `acceptance`.

    Raises:
        KfError: no sample is asked for; as DecodeConfig, `load` and `generate`.
    """
    from kfexplore import noise
    from kfexplore.batch.memory import room_for, row_bytes
    from kfexplore.batch.source import load
    from kfexplore.config import DecodeConfig
    from kfexplore.decoding.generate import check_prompts, generate, keyed_noise, keyed_order, replayed_noise, slots

    if samples < 1:
        raise KfError(f"--samples is {samples}.", "at least 1")
    config = DecodeConfig(**{name: value for name, value in asked.items() if value is not None})
    loaded = load(source, config, device)
    networks, end = loaded.networks, _end(loaded) if stop_at_eos else None
    ids = _context(loaded, prompt, token_ids)
    check_prompts(config, networks, [ids], new_tokens)
    replayed = replayed_noise(noise.load(noise_file), config, networks, new_tokens) if noise_file else None
    rows = samples if replayed is None else len(replayed)
    warm = min(new_tokens, slots(config, networks))
    with room_for(rows, "--samples", row_bytes(config, networks, len(ids) + new_tokens)):
        values = keyed_noise(seed, range(rows), config, networks, new_tokens) if replayed is None else replayed
        order = keyed_order(seed, range(rows), new_tokens)
        # Once before the clock: a process's first pass packs weights and makes buffers.
        generate(config, networks, [ids] * len(values), values, warm, order[:, :warm])
        result = generate(config, networks, [ids] * len(values), values, new_tokens, order, end)
    _print(result, ids, config, loaded, as_json)


def _print(result: Decoded, ids: list[int], config: DecodeConfig, loaded: Loaded, as_json: bool) -> None:
    from kfexplore.batch.report import acceptance, right_guesses
    from kfexplore.checkpoints.tokenizers import continuation
    from kfexplore.decoders import DECODERS
    from kfexplore.decoding.generate import slots

    rows = [row[:length].tolist() for row, length in zip(result.tokens, result.lengths, strict=True)]
    texts = [continuation(loaded.tokenizer, row, ids) for row in rows] if loaded.tokenizer is not None else []
    more: dict[str, Any] = {}
    if DECODERS[config.decoder].checks:
        right, rounds = right_guesses(result.kept, result.tokens.shape[1])
        more = {
            "kept": result.kept.tolist(),
            "acceptance": acceptance(right, rounds, slots(config, loaded.networks)),
        }
    if as_json:
        print(json.dumps({"tokens": rows, "text": texts, "nfe": result.nfe, "seconds": result.seconds, **more}))
        return
    for row in texts or rows:
        print(row)
    mean = result.lengths.mean() / result.nfe
    said = "" if more.get("acceptance") is None else f", {more['acceptance']:.0%} of guesses right"
    print(f"[{result.nfe} passes, {mean:.2f} tokens a pass{said}, {result.seconds:.2f} s]", file=sys.stderr)


def _context(loaded: Loaded, prompt: str | None, token_ids: str | None) -> list[int]:
    """The prompt's token ids; one checkpoint may have a tokenizer without being a pair."""
    from kfexplore.checkpoints.tokenizers import encode_ids

    if loaded.pair is None and loaded.tokenizer is not None and prompt and token_ids is None:
        return encode_ids(loaded.tokenizer, prompt)
    return read_context(loaded.pair, prompt, token_ids)


def _end(loaded: Loaded) -> int:
    from kfexplore.checkpoints.tokenizers import ENDS_OF_TEXT, end_of_text

    end = None if loaded.tokenizer is None else end_of_text(loaded.tokenizer)
    if end is None:
        raise KfError("No tokenizer here has a token that ends a text.", f"one of {', '.join(ENDS_OF_TEXT)}")
    return end
