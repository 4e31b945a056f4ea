"""Completions of a file of prefixes, batch after batch, and the clock over them.

The clock holds whole batches, as in the published script: noise, reading the prompts (prefill), decoding, tokens on
the host. Text decoding and writing files come after all batches, outside.
"""

from __future__ import annotations

import time
from typing import Any

from tqdm import tqdm

from kfexplore.batch import devices
from kfexplore.batch.memory import ROW, room_for, row_bytes
from kfexplore.batch.prefixes import read_prefixes
from kfexplore.batch.report import Batch, Part, document, prepare, right_guesses, write_files
from kfexplore.batch.request import Request, Shape, kept_tokens, shape
from kfexplore.batch.source import load
from kfexplore.checkpoints.registry import usable_device
from kfexplore.config import DecodeConfig
from kfexplore.decoders import DECODERS
from kfexplore.decoding.generate import Networks, generate, keyed_noise, keyed_order, slots
from kfexplore.decoding.rows import text_lengths
from kfexplore.errors import KfError


def complete(request: Request) -> dict[str, Any] | None:
    """Writes completions of all prefixes and how long they took: samples.jsonl and throughput.json, or neither.

    Returns:
        What is in throughput.json; None in a process that is not the first.

    Raises:
        KfError: whatever is wrong with models, prefixes, lengths, devices or the folder; no memory for a batch.
    """
    device = request.device or "cpu"
    count = request.devices or devices.launched()
    devices.check_devices(count, device)
    if count > devices.launched():
        answer: dict[str, Any] | None = devices.in_processes(complete, request, count)
        return answer
    with devices.joined(device) as team:
        return in_team(request, team)


def in_team(request: Request, team: devices.Team) -> dict[str, Any] | None:
    """`complete`, as one process among those of a team."""
    place = usable_device(team.device)
    loaded = load(request.source, request.decoder, team.device)
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        raise KfError(f"{loaded.name} has no tokenizer to read prefixes with.", "--tokenizer FILE, or --task")
    keep = kept_tokens(request)
    form = shape(request, loaded, tokenizer, keep) if keep else None  # a length that cannot be, before the file
    k = slots(request.decoder, loaded.networks)
    prefixes, cut = read_prefixes(request.prefix_file, tokenizer, keep)
    form = form or shape(request, loaded, tokenizer, max(map(len, prefixes)))
    samples = len(prefixes) * request.per_prefix
    with room_for(samples, "--n_per_prefix", (ROW + 8 * form.new) // team.count):  # all are kept until they are written
        batches = share_batches(samples, request.batch_size, team.rank, team.count)
    if team.rank == 0:
        prepare(request.output_dir)
    parts: list[Part] = team.gather(_timed(request, loaded.networks, prefixes, form, batches, team.rank > 0))
    if team.rank:
        return None
    found = document(request, loaded.name, form, k, parts, place, cut)
    write_files(request.output_dir, tokenizer, prefixes, parts, found)
    return found


def share_batches(samples: int, batch_size: int, rank: int, processes: int) -> list[range]:
    """The batches of one process, as ranges of sample numbers; the last of all may be smaller.

    Raises:
        KfError: see `devices.share`.
    """
    firsts = range(0, samples, batch_size)
    mine = devices.share(len(firsts), rank, processes)
    return [range(firsts[n], min(firsts[n] + batch_size, samples)) for n in mine]


def write_batch(
    decoder: DecodeConfig, networks: Networks, prompts: list[list[int]], samples: range, seed: int, form: Shape
) -> Batch:
    """Completions of prompts under the noise of their numbers."""
    start = time.perf_counter()
    noise = keyed_noise(seed, samples, decoder, networks, form.new)
    order = keyed_order(seed, samples, form.new) if "order" in DECODERS[decoder.decoder].options else None
    result = generate(decoder, networks, prompts, noise, form.new, order)
    seconds = time.perf_counter() - start
    right = right_guesses(result.kept, form.new)
    return Batch(samples, result.tokens, text_lengths(result.tokens, form.end), result.nfe, right, seconds)


def _timed(
    request: Request,
    networks: Networks,
    prefixes: list[list[int]],
    form: Shape,
    batches: list[range],
    quiet: bool,
) -> Part:
    """The batches of this process: some to warm up with, then all of them."""

    def write(samples: range) -> Batch:
        # All prefixes, then all again: a sample's number, and so its noise, is the same however many come after it.
        prompts = [prefixes[sample % len(prefixes)] for sample in samples]
        tokens = max(map(len, prompts)) + form.new
        with room_for(len(samples), "--batch_size", row_bytes(request.decoder, networks, tokens)):
            return write_batch(request.decoder, networks, prompts, samples, request.seed, form)

    warm, written = batches[: request.warmup], []
    for samples in tqdm(warm, desc="warm-up", unit="batch", leave=False, disable=quiet):
        write(samples)
    start = time.perf_counter()
    for samples in tqdm(batches, desc="batches", unit="batch", disable=quiet):
        written.append(write(samples))
    return Part(written, len(warm), time.perf_counter() - start)
