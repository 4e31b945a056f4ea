"""Which models and tokenizer a command names, and what the published tasks are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfexplore.checkpoints.registry import MDLM, NAMED, check_pair, load_model
from kfexplore.checkpoints.tokenizers import AnyTokenizer, load_tokenizer
from kfexplore.config import DEFAULT_PAIR, DecodeConfig
from kfexplore.decoders import DECODERS
from kfexplore.decoding.generate import Networks
from kfexplore.errors import KfError
from kfexplore.pair import Pair, load_pair, pair_from_files


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
    """Where models and tokenizer come from: plain values, which another process can be told."""

    pair: str | None = None
    """A name or a folder; with neither this nor any below it is the default pair."""
    files: tuple[Path, Path | None] | None = None
    """Checkpoints of teacher and student; None: there is no student."""
    ckpt: Path | None = None
    """One checkpoint, of the model that the decoder asks."""
    task: str | None = None
    """A task of `TASKS`: its tokenizer, and where nothing else is named its published checkpoints."""
    tokenizer: Path | None = None
    """Instead of the pair's or the task's."""

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in TASKS:
            raise KfError(f"There is no task {self.task!r}.", ", ".join(TASKS), "--pair for models of your own")
        if sum(each is not None for each in (self.pair, self.files, self.ckpt)) > 1:
            raise KfError("A model is named in two ways.", "--ckpt_path alone, or a pair")


@dataclass(frozen=True)
class Loaded:
    """Models in memory."""

    networks: Networks
    tokenizer: AnyTokenizer | None
    """None: token ids are all there is."""
    name: str
    """Of the pair, the checkpoint or the task."""
    pair: Pair | None = None
    """The pair, where it is one."""

    @property
    def context(self) -> int:
        """Tokens that all the models can hold."""
        return min(network.config.context for network in _held(self.networks))


def load(source: Source, decoder: DecodeConfig, device: str | None = None) -> Loaded:
    """Loads what a decoder needs.

    Raises:
        KfError: as `load_pair` and `load_model`; one checkpoint for a decoder of two models; a task whose model is
            not published; a tokenizer that does not fit.
    """
    single = _single(source, decoder)
    pair: Pair | None = None
    if single is not None:
        kind = decoder.models[0]
        model: Any = load_model(single, device=device, kind=kind)
        networks, tokenizer = Networks(**{kind: model}), None
        name = Path(single).stem
    else:
        if source.files:
            pair = pair_from_files(*source.files, source.tokenizer, device)
        else:
            pair = load_pair(source.pair or source.task or DEFAULT_PAIR, device=device)
        networks, tokenizer = Networks(pair.teacher, pair.student, pair.masked), pair.tokenizer
        name = str(pair.info.get("name"))
    if source.tokenizer:
        tokenizer = load_tokenizer(source.tokenizer)
    elif tokenizer is None and source.task:
        tokenizer = load_tokenizer(TASKS[source.task].tokenizer)
    for network in _held(networks):
        check_pair(network.config, {}, tokenizer)
    if pair is not None:
        pair = dataclasses.replace(pair, tokenizer=tokenizer)
    return Loaded(networks, tokenizer, source.task or name, pair)


def _single(source: Source, decoder: DecodeConfig) -> Path | str | None:
    """The one checkpoint that is loaded; None: a pair is."""
    name, kind = decoder.decoder, decoder.models[0]
    several = len(decoder.models) > 1
    if source.ckpt is not None:
        if several:
            raise KfError(
                f"{name} needs a teacher and a student, and --ckpt_path is one model.",
                "--pair, or --teacher FILE --student FILE"
                + ("; --guess nothing" if "guess" in DECODERS[name].options else ""),
            )
        return source.ckpt
    if source.task is None or source.pair or source.files or several:
        return None
    published = NAMED[source.task]
    assert published.repository is not None  # the tasks are those of the published pairs
    if kind == "masked":
        if source.task != "owt":
            raise KfError(f"No masked model is published for {source.task}.", "--ckpt_path FILE, or --task owt")
        return MDLM.name
    return f"{published.repository.name}/{published.student if kind == 'student' else published.teacher}"


def _held(networks: Networks) -> list[Any]:
    return [each for each in (networks.teacher, networks.student, networks.masked) if each is not None]
