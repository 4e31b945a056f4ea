"""Held-out text: read, encoded, and cut into evenly spaced windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kfexplore.checkpoints.tokenizers import document_frame, encode_ids
from kfexplore.errors import KfError
from kfexplore.pair import Pair
from kfexplore.results import Ints
from kfexplore.training.documents import read_file, text_files


def read_text(path: Path) -> list[str]:
    """The texts of a file, or of a folder's .txt files, as training reads them.

    Raises:
        KfError: the path does not exist, or holds no text.
    """
    if not path.exists():
        raise KfError(f"There is no text in {path}.", "a text file, or a folder of .txt files")
    return [read_file(file) for file in (text_files(path) if path.is_dir() else [path])]


def text_ids(pair: Pair, texts: list[str]) -> tuple[Ints, Ints]:
    """Token ids of all texts, concatenated (T,) and framed as in training; and where each text begins.

    Raises:
        KfError: the pair has no tokenizer.
    """
    tokenizer = pair.need_tokenizer()
    opening, closing = document_frame(tokenizer)
    coded = [np.array([*opening, *encode_ids(tokenizer, text), *closing], dtype=np.int64) for text in texts]
    return np.concatenate(coded), np.cumsum([0, *map(len, coded[:-1])])


def text_windows(ids: Ints, begins: Ints, count: int, length: int) -> Ints:
    """Evenly spaced windows of a text, `count` or as many as fit without overlap; (count, length).

    If texts are shorter than a window, each window starts with a text, as a prompt does.

    Args:
        ids: (T,), from `text_ids`.
        begins: Where each text begins, ascending.

    Raises:
        KfError: fewer than two were requested, or fit.
    """
    if count < 2 or len(ids) < 2 * length:
        raise KfError(
            f"{count} windows of {length} tokens were requested; the text has {len(ids)} tokens.",
            "at least 2 that fit in the text",
        )
    starts = np.linspace(0, len(ids) - length, min(count, len(ids) // length)).astype(int)
    if len(ids) < length * len(begins):
        starts = np.unique(begins[np.searchsorted(begins, starts, side="right") - 1])
    return np.stack([ids[start : start + length] for start in starts])
