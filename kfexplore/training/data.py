"""From a folder of plain texts to a tokenizer and two arrays of token ids, one of them never trained on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from kfexplore import noise
from kfexplore.errors import KfError

END_OF_TEXT = "<|endoftext|>"


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


def prepare(folder: Path, out: Path, vocab_size: int, held_out: Iterable[str]) -> None:
    """Writes tokenizer.json, train.npy and held_out.npy (uint16 token ids, each text closed by `<|endoftext|>`).

    Args:
        folder: Plain texts, `*.txt`.
        out: Where the three files go.
        vocab_size: Tokens of the tokenizer, which sees the training texts only.
        held_out: Beginnings of the names of the texts that are kept back.
    """
    files = sorted(folder.glob("*.txt"))
    kept_back = [f for f in files if f.name.startswith(tuple(held_out))]
    trained_on = [f for f in files if f not in kept_back]
    if not trained_on or not kept_back:
        raise KfError(
            f"{folder} has {len(trained_on)} texts to train on and {len(kept_back)} to keep back.",
            "a folder of .txt files, at least one in each part",
        )
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer((f.read_text(encoding="utf-8") for f in trained_on), vocab_size)
    tokenizer.save(str(out / "tokenizer.json"))
    end = tokenizer.token_to_id(END_OF_TEXT)
    for name, part in (("held_out", kept_back), ("train", trained_on)):  # train.npy tells that all are there
        ids = [np.array([*tokenizer.encode(f.read_text(encoding="utf-8")).ids, end], dtype=np.uint16) for f in part]
        np.save(out / "part.npy", np.concatenate(ids))
        (out / "part.npy").replace(out / f"{name}.npy")


def windows(tokens: npt.NDArray[np.uint16], batch: int, length: int, seed: int, step: int) -> Tensor:
    """`batch` random stretches of `length` tokens, the same for the same (seed, step); (B, length) int64.

    Raises:
        KfError: fewer tokens than one stretch.
    """
    if len(tokens) < length:
        raise KfError(f"The corpus has {len(tokens)} tokens.", f"at least one stretch, {length}")
    starts = noise.generator(seed, step).integers(0, len(tokens) - length + 1, size=batch)
    return torch.from_numpy(np.stack([tokens[s : s + length] for s in starts]).astype(np.int64))
