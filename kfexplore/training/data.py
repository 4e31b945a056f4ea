"""Prepares a folder of texts or a hub dataset: a tokenizer, and token ids for training and held out."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm

from kfexplore import noise
from kfexplore.checkpoints.files import TOKENIZER_FILE, read_json_object
from kfexplore.checkpoints.tokenizers import (
    END_OF_TEXT,
    FRAMES,
    document_frame,
    highest_id,
    load_tokenizer,
)
from kfexplore.config import DecodeConfig, differences, from_dict
from kfexplore.decoding.generate import Networks, generate, keyed_noise
from kfexplore.errors import KfError, writing
from kfexplore.models import AnyTeacher
from kfexplore.training.config import DataConfig, StoriesConfig
from kfexplore.training.stories import stories

MASK = "[MASK]"
"""Mask token of tokenizers that have one; otherwise the mask is one more row after the tokens."""
HELD_OUT_STORY = "held-out"
TRAIN, HELD_OUT, INFO = "train.npy", "held_out.npy", "data.json"
REPLACED = {"dataset", "split", "column", "held_out_fraction", "self_generated"}
"""Settings that --text, --dataset, --held-out and --self-generated replace; they are not compared."""
HELD_OUT_FRACTION = 0.05
"""Default fraction of the documents to hold out, where the settings name none of them."""
BATCH = 256
"""Documents encoded at once."""
SAMPLED = 64
"""Contexts that a teacher writes at once."""

Tokens = npt.NDArray[np.integer[Any]]
Document = tuple[str, str | list[int]]
"""Name and text, or the token ids of a context."""
Documents = Callable[[], Iterator[Document]]


@dataclass(frozen=True)
class DataInfo:
    """data.json: the source and settings of a folder of token files."""

    settings: DataConfig
    source: str
    """The texts: a digest of a folder's texts, or the name of a dataset."""
    documents: int
    """Number of documents, held-out ones included."""
    tokens: int
    """Tokens in train.npy."""
    held_out_tokens: int
    """Tokens in held_out.npy."""
    held_out: tuple[str, ...]
    """Names of the held-out documents."""
    vocab_size: int
    """Vocabulary size V of a model of these tokens, mask included."""
    mask_id: int
    """The token that is never generated."""


def prepare(
    config: DataConfig,
    out: Path,
    least: int,
    text: Path | None = None,
    sampled: Sampled | None = None,
) -> DataInfo:
    """Writes tokenizer.json, train.npy and held_out.npy (uint16 token ids, uint32 where they do not fit) and data.json.

    All four are written or none. Each document ends with the tokenizer's end of text. A tokenizer is trained on the
    training documents only.

    Args:
        config: The tokenizer, the dataset and the held-out part.
        out: Folder for the files; files made from the same texts and settings are kept.
        least: Fewest tokens that training needs.
        text: Folder of `*.txt`, read instead of the config's dataset.
        sampled: Contexts that a teacher writes, used instead of texts.

    Raises:
        KfError: `out` holds other texts or settings; too few texts to train on or to hold out; a text or the dataset
            cannot be read; the disk is full.
    """
    config = dataclasses.replace(config, dataset=None if text else config.dataset)
    held_out, names = config.held_out, list[str]()
    documents: Documents
    if sampled is not None:
        source, documents, names = sampled.source, sampled.documents, sampled.names
    elif config.stories is not None:
        if text is not None or config.dataset is not None:
            raise KfError("The recipe generates its own stories.", "the command without --text and --dataset")
        documents, source, held_out = partial(_stories, config.stories), f"stories {config.stories}", (HELD_OUT_STORY,)
    elif text is not None:
        files = text_files(text)
        documents, names = partial(_texts, files), [file.name for file in files]
        digest = hashlib.sha256()
        for name, each in documents():
            digest.update(f"{name}\0{each}\0".encode())
        source = f"{len(files)} texts, sha256 {digest.hexdigest()}"
    elif config.dataset is not None:
        documents, source = partial(hub_rows, config), f"{config.dataset}, {config.split}, {config.column}"
    else:
        raise KfError(
            "The recipe names no dataset.",
            "--text FOLDER of .txt files, --dataset NAME, or --self-generated N with a given teacher",
        )
    if (out / INFO).exists():
        return read_info(out, config, source)
    is_held_out = _selection(held_out, config.held_out_fraction, names)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".part-") as part:
            info = _write(config, documents, is_held_out, source, Path(part), least)
            for name in (TOKENIZER_FILE, TRAIN, HELD_OUT, INFO):  # data.json, the last, marks the set as complete
                (Path(part) / name).replace(out / name)
    return info


def read_info(folder: Path, config: DataConfig | None, source: str | None = None) -> DataInfo:
    """Reads data.json of a prepared folder.

    Args:
        folder: As `prepare` writes it.
        config: Settings that it must match, except for where the texts come from; None: any.
        source: Texts that it must match; None: any.

    Raises:
        KfError: other settings or texts, or no readable data.json.
    """
    info = from_dict(DataInfo, read_json_object(folder / INFO, 1 << 24))
    changed = {} if config is None else differences(info.settings, config)
    differ = [text for key, text in changed.items() if key not in REPLACED]
    if source is not None and source != info.source:
        differ.append(f"made from {info.source} (now {source})")
    if differ:
        raise KfError(
            f"{folder} holds tokens from other settings or texts: {'; '.join(differ)}.",
            "the recipe and the texts that it was prepared with, or a new folder",
        )
    return info


def load_tokens(folder: Path) -> Tokens:
    """The tokens to train on, memory-mapped."""
    try:
        loaded: Tokens = np.load(folder / TRAIN, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise KfError(f"{folder / TRAIN} cannot be read: {error}.", "the folder of kfexplore train data") from error
    return loaded


def document_starts(folder: Path, tokens: Tokens) -> Tokens | None:
    """Positions at which documents begin, if the settings ask for whole documents; else None."""
    if not read_info(folder, None).settings.whole_documents:
        return None
    _, end = document_frame(load_tokenizer(folder / TOKENIZER_FILE))
    first = np.flatnonzero(np.asarray(tokens) == end[0]) + 1
    return np.concatenate([[0], first[:-1]])


def windows(tokens: Tokens, batch: int, length: int, seed: int, step: int, starts: Tokens | None = None) -> Tensor:
    """`batch` random windows of `length` tokens, the same for the same (seed, step); (B, length) int64.

    Args:
        tokens: (N,) tokens of the corpus.
        batch: Number of windows B.
        length: Tokens per window.
        seed, step: Key the choice.
        starts: Positions at which a window may begin, ascending; None: anywhere.

    Raises:
        KfError: fewer tokens than one window.
    """
    count = len(tokens) - length + 1
    if starts is not None:
        count = int(np.searchsorted(starts, count))
    if count < 1:
        raise KfError(f"The corpus has {len(tokens)} tokens.", f"at least one window of {length} tokens")
    chosen: Tokens = noise.generator(seed, "windows", step).integers(0, count, size=batch)
    if starts is not None:
        chosen = starts[chosen]
    return torch.from_numpy(np.stack([tokens[s : s + length] for s in chosen]).astype(np.int64))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE of `vocab_size` tokens, `<|endoftext|>` first; any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _selection(names: tuple[str, ...], fraction: float, documents: Iterable[str]) -> Callable[[str], bool]:
    """Whether a document is held out, by its name.

    Args:
        names: Prefixes of the names of held-out documents, unless `fraction` is given.
        fraction: 0, or the fraction of the documents to hold out.
        documents: Names of all documents if they are known, so that at least one is held out; else empty.
    """
    known = sorted(documents, key=_hash)
    if not fraction and names and (not known or any(name.startswith(names) for name in known)):
        return lambda name: name.startswith(names)
    fraction = fraction or HELD_OUT_FRACTION
    if not known:
        return lambda name: _hash(name) < fraction
    chosen = set(known[: max(1, round(fraction * len(known)))])
    return chosen.__contains__


def _hash(name: str) -> float:
    return zlib.crc32(name.encode()) / 2**32


def _write(
    config: DataConfig,
    documents: Documents,
    is_held_out: Callable[[str], bool],
    source: str,
    part: Path,
    least: int,
) -> DataInfo:
    if config.tokenizer is None:
        if not config.vocab_size:
            raise KfError("The recipe has no tokenizer.", "vocab_size or tokenizer in its data, or --teacher with one")
        kept = (str(text) for name, text in documents() if not is_held_out(name))
        tokenizer = train_tokenizer(kept, config.vocab_size)
    else:
        tokenizer = load_tokenizer(config.tokenizer)
    (part / TOKENIZER_FILE).write_text(tokenizer.to_str(), encoding="utf-8")
    begin, end = document_frame(tokenizer)
    if not end:
        raise KfError("The tokenizer has no end-of-text token.", ", ".join(token for _, token in FRAMES))
    top, mask = highest_id(tokenizer), tokenizer.token_to_id(MASK)
    dtype = np.uint16 if top <= np.iinfo(np.uint16).max else np.uint32
    count, held_out = 0, []
    rows = iter(tqdm(documents(), unit="text", mininterval=5, disable=None))
    with closing(TokenFile(part / TRAIN, dtype)) as train, closing(TokenFile(part / HELD_OUT, dtype)) as other:
        while batch := list(islice(rows, BATCH)):
            texts = [text for _, text in batch if isinstance(text, str)]
            encoded = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
            for name, text in batch:
                is_other = is_held_out(name)
                ids = [*begin, *next(encoded).ids, *end] if isinstance(text, str) else text
                (other if is_other else train).append(ids)
                held_out += [name] * is_other
            count += len(batch)
    if not held_out or count == len(held_out):
        raise KfError(
            f"There are {count - len(held_out)} texts to train on and {len(held_out)} held-out texts.",
            "at least one text in each part",
            "the command with --held-out FRACTION, or a recipe of your own with held_out in its data",
        )
    if train.count < least:
        raise KfError(f"The texts to train on have {train.count} tokens.", f"at least {least}, a context and one more")
    info = DataInfo(
        config,
        source,
        documents=count,
        tokens=train.count,
        held_out_tokens=other.count,
        held_out=tuple(held_out),
        vocab_size=top + 2 if mask is None else top + 1,
        mask_id=top + 1 if mask is None else mask,
    )
    (part / INFO).write_text(json.dumps(dataclasses.asdict(info), indent=1) + "\n", encoding="utf-8")
    return info


class TokenFile:
    """A one-dimensional .npy file that grows by appending, so that a corpus need not fit into memory."""

    def __init__(self, path: Path, dtype: type[np.unsignedinteger[Any]]) -> None:
        self.dtype = np.dtype(dtype)
        self.count = 0
        self._file = path.open("wb")
        self._header()

    def append(self, ids: list[int]) -> None:
        self._file.write(np.array(ids, dtype=self.dtype).tobytes())
        self.count += len(ids)

    def _header(self) -> None:
        # Numpy pads the header for the first axis to grow, so that it can be written again in place.
        described = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._file, described)

    def close(self) -> None:
        with self._file:
            self._file.seek(0)
            self._header()


def _texts(files: list[Path]) -> Iterator[tuple[str, str]]:
    return ((file.name, read_file(file)) for file in files)


@dataclass(frozen=True)
class Sampled:
    """Contexts that a teacher writes from the beginning of a text, by AR under keyed noise."""

    teacher: AnyTeacher
    origin: str
    """Names the teacher."""
    tokenizer: Tokenizer
    """Has the tokens that frame a text."""
    count: int
    """Number of contexts."""
    length: int
    """Tokens per context."""

    @property
    def source(self) -> str:
        return f"{self.count} contexts of {self.length} tokens, sampled from {self.origin}"

    @property
    def names(self) -> list[str]:
        return [f"sample-{n:06d}" for n in range(self.count)]

    def documents(self) -> Iterator[Document]:
        begin, end = document_frame(self.tokenizer)
        start, config, networks = begin or end, DecodeConfig("ar"), Networks(teacher=self.teacher)
        new = self.length - len(start)
        for first in range(0, self.count, SAMPLED):
            numbers = range(first, min(first + SAMPLED, self.count))
            u = keyed_noise(0, numbers, config, networks, new)
            written = generate(config, networks, [start] * len(numbers), u, new).tokens
            yield from zip(self.names[first:], [[*start, *row] for row in written.tolist()], strict=False)


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
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise KfError(
            f"The dataset {config.dataset} cannot be read after {number} rows of {config.split}: {reason}",
            "a connection to the hub and the name of a dataset, or a folder of .txt files (--text FOLDER)",
            "the same command again: prepared tokens and trained stages are kept",
        ) from error
