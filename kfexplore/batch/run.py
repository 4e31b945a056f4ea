"""Completes a file of prefixes batch by batch, and times it.

The clock covers whole batches, as in the published script: noise, prefill, decoding, tokens on the host. Text decoding
and writing files come after all batches and are excluded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from kfexplore import distributed
from kfexplore.batch.report import Batch, Part, document, prepare, right_guesses, write_files
from kfexplore.batch.request import Request, Shape, load, read_prefixes, shape
from kfexplore.checkpoints.registry import usable_device
from kfexplore.config import DecodeConfig
from kfexplore.decoders import DECODERS
from kfexplore.decoding.buffers import text_lengths
from kfexplore.decoding.generate import Networks, generate, keyed_noise, keyed_order, resolve_k
from kfexplore.errors import KfError

OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory")
"""Parts of the messages of failed allocations, which are plain RuntimeErrors on a CPU."""
ROW = 1 << 10
"""Bytes of Python objects per row."""


def complete(request: Request) -> dict[str, Any] | None:
    """Writes completions of all prefixes and their timing: samples.jsonl and throughput.json, or neither.

    Returns:
        The contents of throughput.json; None in a process that is not the first.

    Raises:
        KfError: invalid models, prefixes, lengths, devices or folder; no memory for a batch.
    """
    device = request.device or "cpu"
    count = request.devices or distributed.count()
    distributed.check_devices(count, device)
    if count > distributed.count():
        answer: dict[str, Any] | None = distributed.in_processes(complete, request, count)
        return answer
    with distributed.joined(device) as team:
        return in_team(request, team)


def in_team(request: Request, team: distributed.Team) -> dict[str, Any] | None:
    """Runs `complete` in one process of a team."""
    place = usable_device(team.device)
    loaded = load(request.source, request.decoder, team.device)
    tokenizer, keep = loaded.tokenizer, request.kept_tokens
    if tokenizer is None:
        raise KfError(f"{loaded.name} has no tokenizer to read prefixes with.", "--tokenizer FILE, or --task")
    form = shape(request, loaded, tokenizer, keep) if keep else None  # refuses invalid lengths before the file is read
    k = resolve_k(request.decoder, loaded.networks)
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


def share_batches(samples: int, batch_size: int, rank: int, count: int) -> list[range]:
    """The batches of one process (every `count`-th), as ranges of sample numbers; the last of all may be smaller.

    Raises:
        KfError: a process would have no batch.
    """
    firsts = range(0, samples, batch_size)
    if len(firsts) < count:
        failed = f"{len(firsts)} batches are too few for {count} devices."
        raise KfError(failed, f"1 to {len(firsts)} devices", "a smaller --batch_size")
    return [range(first, min(first + batch_size, samples)) for first in firsts[rank::count]]


def write_batch(
    decoder: DecodeConfig, networks: Networks, prompts: list[list[int]], samples: range, seed: int, form: Shape
) -> Batch:
    """Completes prompts with the noise of their sample numbers."""
    start = time.perf_counter()
    noise = keyed_noise(seed, samples, decoder, networks, form.new)
    order = keyed_order(seed, samples, form.new) if "order" in DECODERS[decoder.decoder].options else None
    result = generate(decoder, networks, prompts, noise, form.new, order)
    seconds = time.perf_counter() - start
    right = right_guesses(result.kept, form.new)
    return Batch(samples, result.tokens, text_lengths(result.tokens, form.end), result.nfe, right, seconds)


def _timed(
    request: Request, networks: Networks, prefixes: list[list[int]], form: Shape, batches: list[range], quiet: bool
) -> Part:
    """Decodes the batches of this process: a warm-up, then all of them inside the clock."""

    def write(samples: range) -> Batch:
        # Cycles through the prefixes, so that a sample's number and noise do not depend on --n_per_prefix.
        prompts = [prefixes[sample % len(prefixes)] for sample in samples]
        tokens = max(map(len, prompts)) + form.new
        with room_for(len(samples), "--batch_size", row_bytes(request.decoder, networks, tokens)):
            return write_batch(request.decoder, networks, prompts, samples, request.seed, form)

    warm = batches[: request.warmup]
    for samples in tqdm(warm, desc="warm-up", unit="batch", leave=False, disable=quiet):
        write(samples)
    start = time.perf_counter()
    written = [write(samples) for samples in tqdm(batches, desc="batches", unit="batch", disable=quiet)]
    return Part(written, len(warm), time.perf_counter() - start)


@contextmanager
def room_for(rows: int, option: str, each: int = 0) -> Iterator[None]:
    """Refuses a batch that cannot fit in memory, and turns a failed allocation into a KfError.

    Linux overcommits memory and kills the process that then uses it, so the check comes first.

    Args:
        rows: Samples in the batch.
        option: The option that sets `rows`.
        each: Lower bound on the bytes per sample on the host (`row_bytes`).
    """
    free = free_bytes()
    if free is not None and rows * each > free:
        raise KfError(
            f"{rows:,} samples do not fit in memory: they need at least {rows * each / 2**30:,.1f} GiB, "
            f"{free / 2**30:,.1f} GiB are free.",
            "fewer or shorter samples",
            f"a smaller {option}" if rows > 1 else "fewer --max-new-tokens",
        )
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not memory and not any(text in str(error).lower() for text in OUT_OF_MEMORY):
            raise
        fewer = f"{option} {rows // 2} (half of it, not tried)" if rows > 1 else "fewer --max-new-tokens"
        raise KfError(f"A batch of {rows} does not fit in memory.", "a smaller one", fewer) from error


def row_bytes(config: DecodeConfig, networks: Networks, tokens: int) -> int:
    """Lower bound on the host bytes for a row of `tokens` tokens: noise, and on a CPU the models' tensors."""
    each = ROW + 24 * tokens  # noise as drawn, as numbers, and as a tensor
    for network in (getattr(networks, kind) for kind in config.models):
        if network is not None and network.device.type == "cpu":
            kept = 8 if network is networks.masked else 2 * network.config.depth  # widest layer, or keys and values
            each += kept * network.config.width * tokens * network.dtype.itemsize
    return each


def free_bytes() -> int | None:
    """The system's available memory in bytes, at most the container's limit; None: unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    try:
        return min(free, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return free
