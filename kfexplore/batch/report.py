"""The two files of a run: samples.jsonl, and throughput.json with the published script's keys and more."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from kfexplore.batch.request import Request, Shape
from kfexplore.bench.setting import environment
from kfexplore.checkpoints.files import write_whole
from kfexplore.checkpoints.tokenizers import continuation, decode_ids
from kfexplore.decoders import DECODERS
from kfexplore.errors import writing
from kfexplore.results import Ints

SAMPLES_FILE, THROUGHPUT_FILE = "samples.jsonl", "throughput.json"
CLOCK = "whole batches: noise, prefill, decoding, tokens on the host; not text decoding, not writing files"


@dataclass(frozen=True)
class Batch:
    """A batch of completions."""

    samples: range
    """Numbers of the B samples."""
    tokens: Ints
    """(B, n) new tokens."""
    lengths: Ints
    """(B,) number of new tokens up to and including the end-of-text token."""
    nfe: int
    """Forward passes over the batch, prefill excluded."""
    right: tuple[int, int]
    """Result of `right_guesses`."""
    seconds: float
    """Decoding time, prefill included."""


@dataclass(frozen=True)
class Part:
    """Batches of one process."""

    batches: list[Batch]
    warmed: int
    """Warm-up batches before the clock started."""
    seconds: float
    """From the start of the first batch to the end of the last."""


def right_guesses(kept: Ints, new_tokens: int) -> tuple[int, int]:
    """The correct guesses of a decoder that checks guesses, and its rounds, summed over rows.

    A row's last round is not counted, because it is cut off when the row is full.

    Args:
        kept: (steps, B) tokens per row and round: its correct guesses and the token after them.
        new_tokens: Tokens of a full row.
    """
    whole = (kept > 0) & (kept.cumsum(axis=0) < new_tokens)
    return int((kept - 1)[whole].sum()), int(whole.sum())


def acceptance(right: int, rounds: int, k: int) -> float | None:
    """Fraction of the k guesses per round that were correct; None if there was no complete round."""
    return right / (rounds * k) if rounds else None


def document(
    request: Request, name: str, form: Shape, k: int, parts: list[Part], place: torch.device, cut: int
) -> dict[str, Any]:
    """The contents of throughput.json: the published keys with their published meaning, then additional keys.

    Differences: `total_elapsed_sec` excludes text decoding and writing files, and is that of the slowest process;
    `throughput_tok_per_sec_avg_batch` uses the mean number of tokens per batch, including a smaller last one;
    `n_warmup_batches` counts the warm-up batches that the first process ran.

    Args:
        request: The request.
        name: Name of the task or the models.
        form: Lengths, in tokens.
        k: Tokens or guesses per pass.
        parts: One per process.
        place: Device of the first process.
        cut: Number of prefixes that were cut.
    """
    batches = [batch for part in parts for batch in part.batches]
    decoder, seconds = request.decoder, [batch.seconds for batch in batches]
    known, samples = DECODERS[decoder.decoder], sum(len(batch.tokens) for batch in batches)
    tokens, elapsed = samples * form.new, max(part.seconds for part in parts)
    within = sum(int(batch.lengths.sum()) for batch in batches)
    passes = sum(batch.nfe * len(batch.tokens) for batch in batches)
    mean_batch = sum(seconds) / len(seconds)
    published = {
        "model": decoder.decoder,
        "task": name,
        "batch_size": request.batch_size,
        "num_samples": samples,
        "max_new_tokens": form.new,
        "K_per_step": k,
        "prefix_len": form.prefix,
        "n_batches": len(batches),
        "n_warmup_batches": parts[0].warmed,
        "total_elapsed_sec": elapsed,
        "avg_batch_time_sec": mean_batch,
        "throughput_tok_per_sec_total": tokens / elapsed,
        "throughput_tok_per_sec_avg_batch": tokens / len(batches) / mean_batch,
        "total_nfe": passes,
        "nfe_per_token": passes / tokens,
        "device": place.type,
    }
    own: dict[str, Any] = {
        "clock": CLOCK,
        "tokens_after_eos": tokens - within,
        "throughput_tok_per_sec_until_eos": within / elapsed,
        "last_batch_size": len(max(batches, key=lambda batch: batch.samples.start).tokens),
        "n_per_prefix": request.per_prefix,
        "prefixes_cut": cut,
        "devices": len(parts),
        "seed": request.seed,
        "tau": decoder.temperature,
        "freq_penalty": decoder.frequency_penalty,
        "dither": decoder.dither,
        "exact_first": decoder.exact_first,
        "order": decoder.order if "order" in known.options else None,
        "guess": decoder.guess if "guess" in known.options else None,
    }
    if known.checks:
        right, rounds = (sum(batch.right[n] for batch in batches) for n in range(2))
        own["acceptance"] = acceptance(right, rounds, k)
    return published | own | environment(place)


def prepare(folder: Path) -> None:
    """Creates the folder; raises KfError if it cannot be written to, before hours of decoding."""
    with writing(folder, run="--output_dir FOLDER"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def write_files(
    folder: Path, tokenizer: Tokenizer, prefixes: list[list[int]], parts: list[Part], throughput: dict[str, Any]
) -> None:
    """Writes both files completely, or neither.

    Raises:
        KfError: the folder cannot be written, or the disk is full.
    """
    rows = []
    for batch in sorted((batch for part in parts for batch in part.batches), key=lambda batch: batch.samples.start):
        for sample, tokens, length in zip(batch.samples, batch.tokens, batch.lengths, strict=True):
            before = prefixes[sample % len(prefixes)]
            texts = {
                "prefix": decode_ids(tokenizer, before),
                "completion": continuation(tokenizer, tokens[:length].tolist(), before),
            }
            rows.append(json.dumps(texts, ensure_ascii=False) + "\n")
    text = json.dumps(throughput, indent=2) + "\n"

    def both(samples: Path) -> None:
        samples.write_text("".join(rows), encoding="utf-8")
        # Nested, so that samples.jsonl is renamed into place only after throughput.json was written.
        write_whole(folder / THROUGHPUT_FILE, text)

    with writing(folder, run="--output_dir FOLDER"):
        write_whole(folder / SAMPLES_FILE, both)
