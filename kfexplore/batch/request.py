"""Requests to complete a file of prefixes; loads their models and reads their prefixes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from kfexplore import noise
from kfexplore.checkpoints.registry import MDLM, NAMED, check_pair, load_model
from kfexplore.checkpoints.tokenizers import encode_ids, end_of_text, load_tokenizer
from kfexplore.config import DEFAULT_PAIR, DecodeConfig
from kfexplore.decoders import DECODERS
from kfexplore.decoding.generate import Networks
from kfexplore.errors import KfError
from kfexplore.pair import Pair, load_pair, pair_from_files

LINE = '{"prefix": "some words"}'


@dataclass(frozen=True)
class Task:
    """A task of the published script."""

    tokenizer: str
    """Hub name."""
    total: int
    """Tokens of a prefix and its completion together."""
    prefix: int
    """Tokens of a prefix."""
    end: str
    """The token that ends a text."""


TASKS = {"owt": Task("gpt2", 1024, 6, "<|endoftext|>"), "lm1b": Task("bert-base-uncased", 128, 6, "[SEP]")}


@dataclass(frozen=True)
class Source:
    """Where models and tokenizer come from, as plain values that can be sent to another process."""

    pair: str | None = None
    """A name or a folder; the default pair if no models and no task are given."""
    files: tuple[Path, Path | None] | None = None
    """Checkpoints of teacher and student; None: there is no student."""
    ckpt: Path | None = None
    """A single checkpoint: the model that the decoder uses."""
    task: str | None = None
    """A task of `TASKS`: its tokenizer, and its published checkpoints unless others are named."""
    tokenizer: Path | None = None
    """Replaces the tokenizer of the pair or the task."""

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in TASKS:
            raise KfError(f"There is no task {self.task!r}.", ", ".join(TASKS), "--pair for models of your own")
        if sum(each is not None for each in (self.pair, self.files, self.ckpt)) > 1:
            raise KfError("The models are given twice.", "--ckpt_path alone, or a pair")

    @property
    def limits(self) -> Task | None:
        """Lengths and tokenizer of the task, if there is one."""
        return TASKS[self.task] if self.task else None


@dataclass(frozen=True)
class Loaded:
    """Models in memory."""

    networks: Networks
    tokenizer: Tokenizer | None
    """None: only token ids can be used."""
    name: str
    """Name of the pair, the checkpoint or the task."""
    pair: Pair | None = None
    """None: a single checkpoint was loaded."""

    @property
    def context(self) -> int:
        """Longest sequence of all models, in tokens."""
        return min(network.config.context for network in _present(self.networks))


def load(source: Source, decoder: DecodeConfig, device: str | None = None) -> Loaded:
    """Loads what a decoder needs.

    Raises:
        KfError: as `load_pair` and `load_model`; a single checkpoint for a decoder with two models; a task whose model
            is not published; a tokenizer that does not fit the models.
    """
    pair: Pair | None = None
    if (single := _single(source, decoder)) is not None:
        kind = decoder.models[0]
        model: Any = load_model(single, device=device, kind=kind)
        networks, tokenizer, name = Networks(**{kind: model}), None, Path(single).stem
    else:
        if source.files:
            pair = pair_from_files(*source.files, source.tokenizer, device)
        else:
            pair = load_pair(source.pair or source.task or DEFAULT_PAIR, device=device)
        networks, tokenizer = Networks(pair.teacher, pair.student, pair.masked), pair.tokenizer
        name = str(pair.info.get("name"))
    if source.tokenizer:
        tokenizer = load_tokenizer(source.tokenizer)
    elif tokenizer is None and source.limits:
        tokenizer = load_tokenizer(source.limits.tokenizer)
    for network in _present(networks):
        check_pair(network.config, {}, tokenizer)
    if pair is not None:
        pair = dataclasses.replace(pair, tokenizer=tokenizer)
    return Loaded(networks, tokenizer, source.task or name, pair)


def _single(source: Source, decoder: DecodeConfig) -> Path | str | None:
    """The single checkpoint to load, or None to load a pair."""
    name, kind = decoder.decoder, decoder.models[0]
    several = len(decoder.models) > 1
    if source.ckpt is not None:
        if several:
            raise KfError(
                f"{name} needs a teacher and a student, but --ckpt_path is one model.",
                "--pair, or --teacher FILE --student FILE"
                + ("; --guess nothing" if "guess" in DECODERS[name].options else ""),
            )
        return source.ckpt
    if source.task is None or source.pair or source.files or several:
        return None
    published = NAMED[source.task]
    assert published.repository is not None  # every task has a published pair
    if kind == "masked":
        if source.task != "owt":
            raise KfError(f"No masked model is published for {source.task}.", "--ckpt_path FILE, or --task owt")
        return MDLM.name
    return f"{published.repository.name}/{published.student if kind == 'student' else published.teacher}"


def _present(networks: Networks) -> list[Any]:
    return [each for each in (networks.teacher, networks.student, networks.masked) if each is not None]


@dataclass(frozen=True)
class Request:
    """A file of prefixes to complete, as plain values that can be sent to another process."""

    source: Source
    """Models and tokenizer."""
    decoder: DecodeConfig
    """The decoder and its settings."""
    prefix_file: Path
    """JSON lines with `prefix`."""
    output_dir: Path
    """Folder for samples.jsonl and throughput.json."""
    batch_size: int = 16
    """Samples per batch; the last one may have fewer."""
    per_prefix: int = 1
    """Completions of each prefix, each with its own noise."""
    warmup: int = 1
    """Batches decoded and discarded before the clock starts."""
    prefix_length: int | None = None
    """Tokens kept per prefix; None: the task's number, or all without a task."""
    new_tokens: int | None = None
    """Tokens per completion; None: as many as fit the task or the context."""
    seed: int = 0
    """Random seed; noise is keyed by it, the sample and the position."""
    device: str | None = None
    """cpu or cuda; None: cpu."""
    devices: int | None = None
    """Processes, each with its own device; None: as many as were launched."""

    def __post_init__(self) -> None:
        least = {
            "batch_size": ("--batch_size", 1),
            "per_prefix": ("--n_per_prefix", 1),
            "warmup": ("--warmup_steps", 0),
            "prefix_length": ("--prefix-len", 1),
            "new_tokens": ("--max-new-tokens", 1),
            "devices": ("--devices", 1),
        }
        for field, (option, fewest) in least.items():
            value = getattr(self, field)
            if value is not None and value < fewest:
                raise KfError(f"{option} is {value}.", f"at least {fewest}")
        noise.uniform(self.seed, [], 0, 0)  # refuses an invalid seed

    @property
    def kept_tokens(self) -> int | None:
        """Tokens kept per prefix; None: all."""
        return self.prefix_length or (self.source.limits.prefix if self.source.limits else None)


@dataclass(frozen=True)
class Shape:
    """Lengths of a sample, in tokens, and the token that ends its text."""

    prefix: int
    """Tokens of the longest prefix."""
    new: int
    end: int | None
    """Id of the token that ends a text; None: the tokenizer has none."""


def shape(request: Request, loaded: Loaded, tokenizer: Tokenizer, prefix: int) -> Shape:
    """The lengths that follow from task, models and request, for prefixes of at most `prefix` tokens.

    Raises:
        KfError: prefix and completion do not fit, or the tokenizer lacks the task's end-of-text token.
    """
    task = request.source.limits
    total = task.total if task else loaded.context
    room = min(total, loaded.context)
    if prefix >= room:
        raise KfError(f"A prefix of {prefix} tokens leaves no room in {room}.", f"--prefix-len 1 to {room - 1}")
    new = request.new_tokens or total - prefix
    if prefix + new > room:
        holder = "the model" if room < total else "the task" if task else "the models"
        raise KfError(
            f"{prefix} prefix tokens and {new} new tokens exceed the {room} tokens of {holder}.",
            f"--max-new-tokens 1 to {room - prefix}",
        )
    end = tokenizer.get_vocab().get(task.end) if task else end_of_text(tokenizer)
    if task and end is None:
        raise KfError(
            f"The tokenizer has no {task.end}, the end-of-text token of {request.source.task}.",
            "the task's own tokenizer",
        )
    return Shape(prefix, new, end)


def read_prefixes(path: Path, tokenizer: Tokenizer, length: int | None) -> tuple[list[list[int]], int]:
    """Reads JSON lines `{"prefix": text}`; skips empty lines.

    Returns:
        The first `length` tokens of every prefix (None: all), without special tokens; and how many prefixes had more.

    Raises:
        KfError: the file cannot be read or is empty; a line is not JSON, has no text `prefix`, or one with fewer than
            `length` tokens (None: 1). The message has the line's number.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise KfError(
            f"The prefix file {path} cannot be read: {error.strerror}.", f"JSON lines: {LINE}", "--prefix_file FILE"
        ) from None
    except UnicodeDecodeError as error:
        raise KfError(f"The prefix file {path} is not UTF-8: {error.reason}.", f"JSON lines: {LINE}") from None
    found = []
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would also split at U+2028 inside JSON
        if line.strip():
            found.append(_prefix(f"{path}, line {number}", line, tokenizer, length or 1))
    if not found:
        raise KfError(f"The prefix file {path} is empty.", f"JSON lines: {LINE}")
    return [ids[:length] for ids in found], sum(len(ids) > (length or len(ids)) for ids in found)


def _prefix(where: str, line: str, tokenizer: Tokenizer, length: int) -> list[int]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise KfError(f"{where}, is not JSON: {error}.", LINE) from None
    text = value.get("prefix") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise KfError(f'{where}, has no text "prefix".', LINE)
    try:
        ids = encode_ids(tokenizer, text)
    except KfError:  # an unpaired surrogate, which JSON can encode and UTF-8 cannot
        raise KfError(f"{where}, has a prefix that is not valid Unicode.", LINE) from None
    if len(ids) < length:
        raise KfError(
            f"{where}, has a prefix of {len(ids)} tokens.",
            f"at least {length}",
            f"a longer one, or --prefix-len {len(ids)}" if ids else "a longer one",
        )
    return ids
