"""Prepares a corpus: a tokenizer, and token ids for training and of held-out documents."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
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
from kfexplore.config import differences, from_dict
from kfexplore.errors import KfError, writing
from kfexplore.training.config import DataConfig
from kfexplore.training.documents import Documents, chosen

MASK = "[MASK]"
"""Mask token of tokenizers that have one; otherwise the mask is an additional row after the tokens."""
TRAIN, HELD_OUT, INFO = "train.npy", "held_out.npy", "data.json"
REPLACED = {"dataset", "split", "column", "held_out_fraction", "self_generated"}
"""Settings that --text, --dataset, --held-out and --self-generated override, and that are therefore not compared."""
HELD_OUT_FRACTION = 0.05
"""Default fraction of the documents to hold out, if the settings name none of them."""
BATCH = 256
"""Documents encoded at once."""

Tokens = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class DataInfo:
    """data.json: the source and settings of a folder of token files."""

    settings: DataConfig
    source: str
    """The texts: a digest of a folder's texts, or the name of a dataset."""
    documents: int
    """Number of documents, including held-out ones."""
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
    sampled: Documents | None = None,
) -> DataInfo:
    """Writes tokenizer.json, train.npy and held_out.npy (token ids in uint16, or uint32 if needed) and data.json.

    Either all four files are written or none. Each document ends with the tokenizer's end of text. A tokenizer is
    trained on the training documents only.

    Args:
        config: The tokenizer, the dataset and the held-out part.
        out: Folder for the files; files made from the same texts and settings are kept.
        least: Fewest tokens that training needs.
        text: Folder of `*.txt`, read instead of the config's dataset.
        sampled: Contexts sampled from a teacher, used instead of texts.

    Raises:
        KfError: `out` holds other texts or settings; too few texts to train on or to hold out; a text or the dataset
            cannot be read; the disk is full.
    """
    config = dataclasses.replace(config, dataset=None if text else config.dataset)
    documents = sampled or chosen(config, text)
    if (out / INFO).exists():
        return read_info(out, config, documents.source)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".part-") as part:
            info = _write(config, documents, Path(part), least)
            for name in (TOKENIZER_FILE, TRAIN, HELD_OUT, INFO):  # data.json comes last and marks the set as complete
                (Path(part) / name).replace(out / name)
    return info


def read_info(folder: Path, config: DataConfig | None, source: str | None = None) -> DataInfo:
    """Reads data.json of a prepared folder.

    Args:
        folder: As `prepare` writes it.
        config: Settings that it must match, except for the source of the texts; None: any.
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


@dataclass(frozen=True)
class Corpus:
    """Tokens to train on."""

    tokens: Tokens
    """(N,), memory-mapped if they are read from a file."""
    starts: Tokens | None = None
    """Positions at which windows may begin, ascending; None: anywhere."""

    @classmethod
    def read(cls, folder: Path) -> Corpus:
        """The tokens of a prepared folder; windows start with a document if its settings require whole documents."""
        try:
            tokens: Tokens = np.load(folder / TRAIN, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise KfError(f"{folder / TRAIN} cannot be read: {error}.", "the folder of kfexplore train data") from error
        if not read_info(folder, None).settings.whole_documents:
            return cls(tokens)
        _, end = document_frame(load_tokenizer(folder / TOKENIZER_FILE))
        first = np.flatnonzero(np.asarray(tokens) == end[0]) + 1
        return cls(tokens, np.concatenate([[0], first[:-1]]))

    def windows(self, batch: int, length: int, seed: int, step: int) -> Tensor:
        """`batch` random windows of `length` tokens, the same for the same (seed, step); (B, length) int64.

        Raises:
            KfError: fewer tokens than one window.
        """
        count = len(self.tokens) - length + 1
        if self.starts is not None:
            count = int(np.searchsorted(self.starts, count))
        if count < 1:
            raise KfError(f"The corpus has {len(self.tokens)} tokens.", f"at least one window of {length} tokens")
        chosen: Tokens = noise.generator(seed, "windows", step).integers(0, count, size=batch)
        if self.starts is not None:
            chosen = self.starts[chosen]
        return torch.from_numpy(np.stack([self.tokens[s : s + length] for s in chosen]).astype(np.int64))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with `vocab_size` tokens, `<|endoftext|>` first; it can encode any text."""
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


def _selection(config: DataConfig, documents: Documents) -> Callable[[str], bool]:
    """Returns the test whether a document is held out, by name. If all names are known, at least one is."""
    prefixes, known = documents.held_out or config.held_out, sorted(documents.names, key=_hash)
    by_name = prefixes and (not known or any(name.startswith(prefixes) for name in known))
    if by_name and not config.held_out_fraction:
        return lambda name: name.startswith(prefixes)
    fraction = config.held_out_fraction or HELD_OUT_FRACTION
    if not known:
        return lambda name: _hash(name) < fraction
    chosen = set(known[: max(1, round(fraction * len(known)))])
    return chosen.__contains__


def _hash(name: str) -> float:
    return zlib.crc32(name.encode()) / 2**32


def _write(config: DataConfig, documents: Documents, part: Path, least: int) -> DataInfo:
    is_held_out = _selection(config, documents)
    if config.tokenizer is None:
        if not config.vocab_size:
            raise KfError("The recipe has no tokenizer.", "vocab_size or tokenizer in its data, or --teacher with one")
        kept = (str(text) for name, text in documents.read() if not is_held_out(name))
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
    rows = iter(tqdm(documents.read(), unit="text", mininterval=5, disable=None))
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
        documents.source,
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
    """A one-dimensional .npy file to append to, so that a corpus need not fit into memory."""

    def __init__(self, path: Path, dtype: type[np.unsignedinteger[Any]]) -> None:
        self.dtype = np.dtype(dtype)
        self.count = 0
        self._file = path.open("wb")
        self._header()

    def append(self, ids: list[int]) -> None:
        self._file.write(np.array(ids, dtype=self.dtype).tobytes())
        self.count += len(ids)

    def _header(self) -> None:
        # NumPy pads the header so that the first axis can grow, and the header can be rewritten in place.
        described = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._file, described)

    def close(self) -> None:
        with self._file:
            self._file.seek(0)
            self._header()
