"""From a folder of texts, or a dataset of the hub, to a tokenizer and two arrays of token ids, one never trained on."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm

from kfexplore import noise
from kfexplore.checkpoints.files import TOKENIZER_FILE, read_json_object
from kfexplore.checkpoints.tokenizers import END_OF_TEXT, FRAMES, document_frame, highest_id, load_tokenizer
from kfexplore.config import DataConfig, StoriesConfig, differences, from_dict
from kfexplore.errors import KfError
from kfexplore.training.stories import stories

MASK = "[MASK]"
"""The mask of tokenizers that have one; a row of its own follows the others' tokens."""
HELD_OUT_STORY = "held-out"
TRAIN, HELD_OUT, INFO = "train.npy", "held_out.npy", "data.json"
REPLACED = {"dataset", "split", "column", "held_out_fraction"}
"""Settings that --text, --dataset and --held-out replace, so they are not compared."""
HELD_OUT_FRACTION = 0.05
"""Fraction of the documents that is held out where the settings name none of them."""
BATCH = 256
"""Documents that are encoded at once."""

Tokens = npt.NDArray[np.integer[Any]]
Document = tuple[str, str]
"""Name and text."""


@dataclass(frozen=True)
class DataInfo:
    """data.json: what a folder of token files was made of, and how."""

    settings: DataConfig
    """What was asked for."""
    source: str
    """The texts: a digest of a folder's, or where a dataset is."""
    documents: int
    """All of them, those kept back included."""
    tokens: int
    """In train.npy."""
    held_out_tokens: int
    """In held_out.npy."""
    held_out: tuple[str, ...]
    """Names of the documents that are kept back."""
    vocab_size: int
    """Rows V of a model of these tokens, the mask's included."""
    mask_id: int
    """The token that is never produced."""


def prepare(config: DataConfig, out: Path, least: int, text: Path | None = None) -> DataInfo:
    """Writes tokenizer.json, train.npy and held_out.npy (uint16 token ids, uint32 where they do not fit) and data.json.

    All four are written or none. Each document is closed by the tokenizer's end of text. A trained tokenizer sees the
    documents that are trained on only.

    Args:
        config: The tokenizer, the dataset and what is kept back.
        out: Where the files go; where they are, of the same texts and settings, they stay as they are.
        least: Tokens that training needs.
        text: Folder of `*.txt`, read instead of the config's dataset.

    Raises:
        KfError: `out` holds other texts or settings; no text in a part, or too little; a text or the dataset cannot
            be read; the disk is full.
    """
    config = dataclasses.replace(config, dataset=None if text else config.dataset)
    held_out, names = config.held_out, list[str]()
    if config.stories is not None:
        documents, source = _stories(config.stories)
        held_out = (HELD_OUT_STORY,)
        if text is not None or config.dataset is not None:
            raise KfError("The recipe generates its own stories.", "the command without --text and --dataset")
    elif text is not None:
        files = text_files(text)
        documents, source = _folder(files)
        names = [file.name for file in files]
    elif config.dataset is not None:
        documents, source = (lambda: hub_rows(config)), f"{config.dataset}, {config.split}, {config.column}"
    else:
        raise KfError("The recipe names no dataset.", "--text FOLDER of .txt files, or --dataset NAME")
    if (out / INFO).exists():
        return read_info(out, config, source)
    is_held_out = _selection(held_out, config.held_out_fraction, names)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".part-") as part:
            info = _write(config, documents, is_held_out, source, Path(part), least)
            for name in (TOKENIZER_FILE, TRAIN, HELD_OUT, INFO):  # data.json, the last, tells that all are there
                (Path(part) / name).replace(out / name)
    except OSError as error:
        raise KfError(
            f"The tokens cannot be written to {out}: {error}.", "a folder you may write to, with room"
        ) from error
    return info


def read_info(folder: Path, config: DataConfig | None, source: str | None = None) -> DataInfo:
    """What a prepared folder was made of.

    Args:
        folder: As `prepare` leaves it.
        config: What it must have been made by; where the texts come from is not compared. None: anything.
        source: The texts that it must have been made of; None: any.

    Raises:
        KfError: other settings or texts, or no readable data.json.
    """
    info = from_dict(DataInfo, read_json_object(folder / INFO, 1 << 24))
    changed = {} if config is None else differences(info.settings, config)
    differ = [text for key, text in changed.items() if key not in REPLACED]
    if source is not None and source != info.source:
        differ.append(f"made of {info.source} (now {source})")
    if differ:
        raise KfError(
            f"{folder} holds tokens of other settings or texts: {'; '.join(differ)}.",
            "the recipe and the texts that it was prepared with, or a new folder",
        )
    return info


def load_tokens(folder: Path) -> Tokens:
    """The tokens to train on, read from the disk as they are needed."""
    try:
        loaded: Tokens = np.load(folder / TRAIN, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise KfError(
            f"{folder / TRAIN} cannot be read: {error}.", f"what kfexplore train data wrote: {INFO}, .."
        ) from error
    return loaded


def document_starts(folder: Path, tokens: Tokens) -> Tokens | None:
    """Positions at which documents begin, where the settings of the data ask for whole documents; else None."""
    if not read_info(folder, None).settings.whole_documents:
        return None
    _, closing = document_frame(load_tokenizer(folder / TOKENIZER_FILE))
    first = np.flatnonzero(np.asarray(tokens) == closing[0]) + 1
    return np.concatenate([[0], first[:-1]])


def windows(tokens: Tokens, batch: int, length: int, seed: int, step: int, starts: Tokens | None = None) -> Tensor:
    """`batch` random stretches of `length` tokens, the same for the same (seed, step); (B, length) int64.

    Args:
        tokens: (N,) of the corpus.
        batch: B.
        length: Tokens per stretch.
        seed: Keys the choice, with the step.
        step: Number of the training step.
        starts: Positions at which a stretch may begin, ascending; None: anywhere.

    Raises:
        KfError: fewer tokens than one stretch.
    """
    count = len(tokens) - length + 1
    if starts is not None:
        count = int(np.searchsorted(starts, count))
    if count < 1:
        raise KfError(f"The corpus has {len(tokens)} tokens.", f"at least one stretch, {length}")
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
    """Which documents are held out, by their names.

    Args:
        names: Beginnings of the names of documents that are held out, unless a fraction is asked for.
        fraction: 0, or the fraction of the documents that is held out.
        documents: Names of all documents where they are known, so that at least one is held out; else empty.
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
    documents: Callable[[], Iterator[Document]],
    is_held_out: Callable[[str], bool],
    source: str,
    part: Path,
    least: int,
) -> DataInfo:
    """The four files, in a folder of their own."""
    if config.tokenizer is None:
        kept = (text for name, text in documents() if not is_held_out(name))
        tokenizer = train_tokenizer(kept, config.vocab_size)
    else:
        tokenizer = _named(config.tokenizer)
    (part / TOKENIZER_FILE).write_text(tokenizer.to_str(), encoding="utf-8")
    opening, closing = document_frame(tokenizer)
    if not closing:
        raise KfError("The tokenizer has no token that ends a text.", ", ".join(closing for _, closing in FRAMES))
    top, mask = highest_id(tokenizer), tokenizer.token_to_id(MASK)
    dtype = np.uint16 if top <= np.iinfo(np.uint16).max else np.uint32
    count, held_out = 0, []
    rows = iter(tqdm(documents(), unit="text", mininterval=5, disable=None))
    with TokenFile(part / TRAIN, dtype) as train, TokenFile(part / HELD_OUT, dtype) as held:
        while batch := list(islice(rows, BATCH)):
            encoded = tokenizer.encode_batch_fast([text for _, text in batch], add_special_tokens=False)
            for (name, _), one in zip(batch, encoded, strict=True):
                back = is_held_out(name)
                (held if back else train).append([*opening, *one.ids, *closing])
                held_out += [name] * back
            count += len(batch)
    if not held_out or count == len(held_out):
        raise KfError(
            f"There are {count - len(held_out)} texts to train on and {len(held_out)} held-out texts.",
            "at least two texts, one of them in each part",
            "the command with --held-out FRACTION, or a recipe of your own with held_out in its data",
        )
    if train.count < least:
        raise KfError(f"The texts to train on have {train.count} tokens.", f"at least {least}, a context and one more")
    info = DataInfo(
        config,
        source,
        documents=count,
        tokens=train.count,
        held_out_tokens=held.count,
        held_out=tuple(held_out),
        vocab_size=top + 2 if mask is None else top + 1,
        mask_id=top + 1 if mask is None else mask,
    )
    (part / INFO).write_text(json.dumps(dataclasses.asdict(info), indent=1) + "\n", encoding="utf-8")
    return info


class TokenFile:
    """A .npy file of one axis that grows by appending, so that a corpus need not fit into memory."""

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

    def __enter__(self) -> TokenFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._header()


def _folder(files: list[Path]) -> tuple[Callable[[], Iterator[Document]], str]:
    """The texts of files, and a digest of names and texts."""

    def documents() -> Iterator[Document]:
        return ((file.name, read_file(file)) for file in files)

    digest = hashlib.sha256()
    for name, text in documents():
        digest.update(f"{name}\0{text}\0".encode())
    return documents, f"{len(files)} texts, sha256 {digest.hexdigest()}"


def text_files(folder: Path) -> list[Path]:
    """The .txt files of a folder in the order of their names; empty ones are skipped with a message.

    Raises:
        KfError: there is none.
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


def _stories(config: StoriesConfig) -> tuple[Callable[[], Iterator[Document]], str]:
    """Generated stories, those to keep back first."""

    def documents() -> Iterator[Document]:
        for name, count, seed in (
            (HELD_OUT_STORY, config.held_out, config.seed + 1),
            ("story", config.count, config.seed),
        ):
            for n, story in enumerate(stories(count, seed, config.richness)):
                yield f"{name}-{n:06d}", story.text

    return documents, f"stories {config}"


def hub_rows(config: DataConfig) -> Iterator[Document]:
    """The rows of a hub dataset, streamed; each is named by its number."""
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
            f"The dataset {config.dataset} cannot be read beyond {number} rows of {config.split}: {reason}",
            "a connection to the hub and the name of a dataset, or a folder of .txt files (--text FOLDER)",
            "the same command again: what is already prepared or trained is kept",
        ) from error


def _named(name: str) -> Tokenizer:
    """A tokenizer of the hub or a folder, as the one of the tokenizers library that can be saved."""
    loaded: Any = load_tokenizer(name)
    tokenizer = getattr(loaded, "backend_tokenizer", loaded)
    if not isinstance(tokenizer, Tokenizer):
        raise KfError(f"The tokenizer {name} has no fast version.", f"a tokenizer with a {TOKENIZER_FILE}")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
