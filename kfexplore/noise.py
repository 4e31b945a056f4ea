"""The only place that draws random numbers, each keyed by its purpose.

The noise of a token depends only on (seed, sample, position), not on the batch, the order of work or the device. Values
are multiples of 2^-24: float32 represents them exactly, and none rounds to 1. (The dice button of the page draws in the
browser.)
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from kfexplore.errors import KfError

Array = npt.NDArray[np.float64]


def uniform(seed: int, samples: Sequence[int], start: int, count: int) -> Array:
    """Noise of positions start .. start + count - 1 for several samples.

    Args:
        seed: Any non-negative integer below 2^64.
        samples: B sample numbers; a sample's noise is the same in every batch.
        start: First position.
        count: Number of positions.

    Returns:
        (B, count) float64 in [0, 1).
    """
    if not 0 <= seed < 2**64:
        raise KfError(f"seed is {seed}.", "a whole number from 0 to 2^64 - 1")
    keys = [np.array([seed, sample], dtype=np.uint64) for sample in samples]  # a list would go through float64
    rows = [_raw(np.random.Philox(key=key), start, count) for key in keys]
    bits = np.array(rows, dtype=np.uint64).reshape(len(samples), count)
    return (bits >> np.uint64(40)).astype(np.float64) * 2.0**-24


def _raw(source: np.random.Philox, start: int, count: int) -> npt.NDArray[np.uint64]:
    source.advance(start // 4)  # one advance skips four numbers
    return source.random_raw(start % 4 + count)[start % 4 :]


def generator(seed: int, *key: int | str) -> np.random.Generator:
    """A generator for one purpose: the same key always draws the same numbers, and a different key different ones.

    NumPy pads short seeds with zeros and splits large ones into words, so that 5 and (5, 0), or 2^32 and (0, 1), give
    the same stream. The whole key is hashed instead: the number, order, type and value of its parts all count.

    Args:
        seed: Any non-negative integer.
        key: The purpose in words, then numbers such as the training step.
    """
    if seed < 0:
        raise KfError(f"seed is {seed}.", "a whole number of at least 0")
    text = json.dumps([int(seed), *(part if isinstance(part, str) else int(part) for part in key)])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest(), "little"))


def load(path: Path) -> Array:
    """Noise (steps, B, k) from a .npy file.

    Raises:
        KfError: a missing or unreadable file, values that are not real numbers in [0, 1), or another shape.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise KfError(f"Noise file {path} cannot be read: {error}.", "a .npy file of shape (steps, B, k)") from None
    if not isinstance(values, np.ndarray) or values.ndim != 3 or not values.size:
        raise KfError(f"Noise file {path} has no array of three axes.", "shape (steps, B, k), none of them 0")
    if values.dtype.kind not in "fiu":
        raise KfError(f"Noise file {path} has values of type {values.dtype}.", "real numbers, such as float32")
    return checked(values)


def checked(values: object, slots: int | None = None) -> Array:
    """Noise from a user or a file, as float64 in [0, 1).

    Raises:
        KfError: not numbers, not in [0, 1), or not `slots` of them along the last axis.
    """
    try:
        given = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
        if given.dtype.kind not in "fiu":  # strings, booleans, complex numbers
            raise TypeError
        u = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise KfError(f"Noise {values!r} is not a list of numbers.", "numbers from 0 up to, not including, 1") from None
    if slots is not None and (u.ndim == 0 or u.shape[-1] != slots):
        count = u.shape[-1] if u.ndim else 1
        raise KfError(f"{count} noise values were given for {slots} slots.", f"{slots} numbers, one per slot")
    outside = u[~((u >= 0) & (u < 1))]
    if outside.size:
        raise KfError(f"Noise value {outside.flat[0]} is outside [0, 1).", "numbers from 0 up to, not including, 1")
    return u
