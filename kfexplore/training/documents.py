"""Documents of a corpus: a folder of texts, a hub dataset, generated stories, or contexts sampled from a teacher."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer

from kfexplore.checkpoints.tokenizers import document_frame
from kfexplore.config import DecodeConfig
from kfexplore.decoding.generate import Networks, generate, keyed_noise
from kfexplore.errors import KfError, reason
from kfexplore.models import AnyTeacher
from kfexplore.training.config import DataConfig, StoriesConfig
from kfexplore.training.stories import stories

HELD_OUT_STORY = "held-out"
SAMPLED = 64
"""Contexts sampled from a teacher in one batch."""

Document = tuple[str, str | list[int]]
"""Name and text, or the token ids of a context."""


@dataclass(frozen=True)
class Documents:
    """The documents of a corpus."""

    source: str
    """Identifies them: a digest of a folder's texts, the name of a dataset, or how they were generated."""
    read: Callable[[], Iterator[Document]]
    """Returns a new iterator over all of them."""
    names: Sequence[str] = ()
    """Their names, if known in advance."""
    held_out: tuple[str, ...] = ()
    """Prefixes of the names to hold out; empty: those of the recipe."""


def chosen(config: DataConfig, text: Path | None) -> Documents:
    """The documents of a recipe, or of a folder of texts.

    Raises:
        KfError: the recipe names no documents, or generates its own although others are named; an unreadable text.
    """
    if config.stories is not None:
        if text is not None or config.dataset is not None:
            raise KfError("The recipe generates its own stories.", "the command without --text and --dataset")
        return Documents(f"stories {config.stories}", partial(_stories, config.stories), held_out=(HELD_OUT_STORY,))
    if text is not None:
        files = text_files(text)
        digest = hashlib.sha256()
        for name, content in _texts(files):
            digest.update(f"{name}\0{content}\0".encode())
        source = f"{len(files)} texts, sha256 {digest.hexdigest()}"
        return Documents(source, partial(_texts, files), [file.name for file in files])
    if config.dataset is not None:
        return Documents(f"{config.dataset}, {config.split}, {config.column}", partial(hub_rows, config))
    raise KfError(
        "The recipe names no dataset.",
        "--text FOLDER of .txt files, --dataset NAME, or --self-generated N with a given teacher",
    )


def sampled(teacher: AnyTeacher, origin: str, tokenizer: Tokenizer, count: int, length: int) -> Documents:
    """Contexts of `length` tokens sampled from a teacher, from the beginning of a text, by AR under keyed noise.

    `origin` identifies the teacher, so that contexts from another teacher are not reused.
    """
    names = [f"sample-{n:06d}" for n in range(count)]

    def documents() -> Iterator[Document]:
        begin, end = document_frame(tokenizer)
        start, config, networks = begin or end, DecodeConfig("ar"), Networks(teacher=teacher)
        new = length - len(start)
        for first in range(0, count, SAMPLED):
            numbers = range(first, min(first + SAMPLED, count))
            u = keyed_noise(0, numbers, config, networks, new)
            written = generate(config, networks, [start] * len(numbers), u, new).tokens
            yield from zip(names[first:], [[*start, *row] for row in written.tolist()], strict=False)

    return Documents(f"{count} contexts of {length} tokens, sampled from {origin}", documents, names)


def _texts(files: list[Path]) -> Iterator[tuple[str, str]]:
    return ((file.name, read_file(file)) for file in files)


def text_files(folder: Path) -> list[Path]:
    """The .txt files of a folder, sorted by name; empty ones are skipped with a message.

    Raises:
        KfError: there are none.
    """
    found = sorted(file for file in folder.glob("*") if file.suffix.lower() == ".txt" and file.is_file())
    files = [file for file in found if file.stat().st_size]
    if not files:
        raise KfError(f"There are no texts in {folder}.", "a folder of .txt files that are not empty")
    for file in found:
        if file not in files:
            print(f"Skipped {file}: it is empty.", file=sys.stderr)
    return files


def read_file(file: Path) -> str:
    """The text of a file, without a byte-order mark."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise KfError(f"{file} cannot be read: {error}.", "a text in UTF-8") from error


def read_text(path: Path) -> list[str]:
    """The texts of a file, or of a folder's .txt files, as training reads them.

    Raises:
        KfError: the path does not exist, or holds no text.
    """
    if not path.exists():
        raise KfError(f"There is no text in {path}.", "a text file, or a folder of .txt files")
    return [read_file(file) for file in (text_files(path) if path.is_dir() else [path])]


def _stories(config: StoriesConfig) -> Iterator[Document]:
    """Generated stories, held-out ones first."""
    parts = ((HELD_OUT_STORY, config.held_out, config.seed + 1), ("story", config.count, config.seed))
    for name, count, seed in parts:
        for n, story in enumerate(stories(count, seed, config.richness)):
            yield f"{name}-{n:06d}", story.text


def hub_rows(config: DataConfig) -> Iterator[Document]:
    """Streams the rows of a hub dataset; a row's name is its number."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise KfError(
            f"The package datasets, which reads {config.dataset}, is not installed.",
            "a folder of .txt files (--text FOLDER)",
            "pip install datasets",
        ) from error
    number = 0
    try:
        for row in datasets.load_dataset(config.dataset, split=config.split, streaming=True):
            if config.column not in row:
                raise KfError(f"{config.dataset} has no column {config.column!r}.", f"column: {', '.join(row)}")
            yield f"{number:08d}", str(row[config.column])
            number += 1
    except KfError:
        raise
    except Exception as error:  # no connection, no such dataset or split, a broken file
        raise KfError(
            f"The dataset {config.dataset} cannot be read after {number} rows of {config.split}: {reason(error)}",
            "a connection to the hub and the name of a dataset, or a folder of .txt files (--text FOLDER)",
            "the same command again: prepared tokens and trained stages are kept",
        ) from error
