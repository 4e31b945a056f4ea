"""Input and output of every decoder: the sequences of a batch, the steps in which they grow, the new tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kfexplore.config import DecodeConfig
from kfexplore.results import Floats, Ints


@dataclass(frozen=True)
class Step:
    """Tokens of one step of a decoder. The first step of every decoder, `PREFILLED`, has none."""

    tokens: Tensor
    """(B, t) int64."""
    counts: Ints | None = None
    """(B,) how many of the t tokens each row keeps; None: all."""
    places: Tensor | None = None
    """(B, t) their positions among the new tokens; None: consecutive, after those written before."""
    passes: int = 1
    """Forward passes it took."""


PREFILLED = Step(torch.empty(0, 0, dtype=torch.int64), passes=0)
"""First step of every decoder: the prompts are prefilled."""


class Sequences:
    """Prompts and the tokens written after them, in a buffer allocated once, and where each row ends.

    Args:
        prompts: B lists of token ids, none empty.
        room: Tokens that can be appended to each, including a whole last block.
        device: Device of the tokens.
    """

    def __init__(self, prompts: list[list[int]], room: int, device: torch.device) -> None:
        self.prompt_lengths = np.array([len(prompt) for prompt in prompts])
        self.ends = self.prompt_lengths.copy()
        self.capacity = int(self.ends.max()) + room
        ids = np.zeros((len(prompts), self.capacity), dtype=np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        self.ids = torch.from_numpy(ids).to(device)
        self._level = bool((self.ends == self.ends[0]).all())

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def written(self) -> Ints:
        """(B,) new tokens of each row."""
        written: Ints = self.ends - self.prompt_lengths
        return written

    def row(self, number: int) -> Tensor:
        """(1, N) all tokens of one row."""
        return self.ids[number : number + 1, : self.ends[number]]

    def start(self, count: int) -> int | Tensor:
        """Where the last `count` tokens begin: one number if all rows end together, else (B,) int64."""
        if self._level:
            return int(self.ends[0]) - count
        return torch.from_numpy(self.ends - count).to(self.ids.device)

    def tail(self, count: int) -> Tensor:
        """(B, count) the last tokens of each row."""
        start = self.start(count)
        if isinstance(start, int):
            return self.ids[:, start : start + count]
        return self.ids.gather(1, start[:, None] + torch.arange(count, device=self.ids.device))

    def append(self, tokens: Tensor, counts: Ints | None = None) -> None:
        """Appends tokens (B, t); each row keeps its first `counts` (B,), or all by default."""
        start = self.start(0)
        if isinstance(start, int):
            self.ids[:, start : start + tokens.shape[1]] = tokens
        else:
            self.ids.scatter_(1, start[:, None] + torch.arange(tokens.shape[1], device=tokens.device), tokens)
        if counts is None:
            self.ends += tokens.shape[1]
        else:
            self.ends += counts
            self._level = bool((self.ends == self.ends[0]).all())


@dataclass(frozen=True)
class DecodeBatch:
    """A batch to decode: the argument of a decoder's steps."""

    config: DecodeConfig
    """Which decoder, and how."""
    models: tuple[Any, ...]
    """The models named in `config.models`, in that order."""
    sequences: Sequences
    """The prompts, to which the decoder appends."""
    noise: Tensor
    """(B, P) float64; value p belongs to new token p, and P tokens are written. If the config draws anew in every
    pass: (B, passes, P)."""
    k: int
    """Tokens, or guesses, per pass; with a student, at most the k it was trained on."""
    order: Floats | None = None
    """(B, P) ranks of the positions for mdlm's random order, lowest first; None: from left to right."""
    recheck: bool = True
    """Recheck near ties by a pass over the single row, so that neither batch nor cache changes a token."""
    use_cuda_graphs: bool | None = None
    """See `Passes`."""


def text_lengths(tokens: Ints, end: int | None, known: np.ndarray | None = None) -> Ints:
    """(B,) tokens of rows (B, n) up to and including the first `end`; n if there is none, or `end` is None.

    `known` (B, n) bool marks the tokens that are written; None: all.
    """
    if end is None:
        return np.full(len(tokens), tokens.shape[1])
    ended = (tokens == end) if known is None else (tokens == end) & known
    lengths: Ints = np.where(ended.any(axis=1), ended.argmax(axis=1) + 1, tokens.shape[1])
    return lengths


class TokenBuffer:
    """The new tokens of a batch, collected from its steps.

    Args:
        batch: Number of samples.
        new_tokens: Tokens per sample; further ones are dropped.
        eos: The token that ends a text; None: there is none.
    """

    def __init__(self, batch: int, new_tokens: int, eos: int | None = None) -> None:
        self.tokens: Ints = np.zeros((batch, new_tokens), dtype=np.int64)
        self.filled = np.zeros((batch, new_tokens), dtype=bool)
        self.eos = eos
        self._next = np.zeros(batch, dtype=np.int64)

    def write(self, step: Step) -> Ints:
        """Adds a step; returns how many tokens each row gained (B,), including dropped ones."""
        tokens = step.tokens.cpu().numpy()
        batch, width = len(self.tokens), self.tokens.shape[1]
        if not tokens.size:
            return np.zeros(batch, dtype=np.int64)
        counts = np.full(batch, tokens.shape[1]) if step.counts is None else step.counts
        if step.places is None:
            places = self._next[:, None] + np.arange(tokens.shape[1])
            places[np.arange(tokens.shape[1]) >= counts[:, None]] = width
            self._next += counts
        else:
            places = step.places.cpu().numpy()
        rows, columns = np.nonzero(places < width)
        self.tokens[rows, places[rows, columns]] = tokens[rows, columns]
        self.filled[rows, places[rows, columns]] = True
        gained: Ints = counts.copy()
        return gained

    @property
    def lengths(self) -> Ints:
        """(B,) tokens up to and including the end of each text; all of them if it does not end."""
        known = None if self.eos is None else np.logical_and.accumulate(self.filled, axis=1)
        return text_lengths(self.tokens, self.eos, known)

    @property
    def done(self) -> bool:
        """Whether every row is full or ended."""
        missing = ~self.filled & (np.arange(self.tokens.shape[1]) < self.lengths[:, None])
        return not missing.any()
