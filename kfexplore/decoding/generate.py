"""Decoding as a generator of steps, one family a function; `collect` makes a batch of them.

A *noise source* gives the noise of step s as (B, k) float64: a keyed one, or the rows of a file. AR draws by inverse
CDF from it, the push-forward model maps it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kfexplore import noise
from kfexplore.decoding.cdf import inverse_cdf
from kfexplore.errors import KfError
from kfexplore.models import KVCache, Student, Teacher
from kfexplore.results import Decoded, Floats

NoiseSource = Callable[[int], Tensor]

MOST_DITHER_BITS = 16
"""Noise is a multiple of 2^-24: eight bits or more are left to choose with."""


@dataclass(frozen=True)
class Step:
    """What one forward pass gave: tokens (B, t)."""

    tokens: Tensor


def keyed_noise(seed: int, batch: int, k: int, first: int = 0) -> NoiseSource:
    """Noise of samples first .. first + batch - 1: step s holds positions s * k .. s * k + k - 1."""
    return lambda step: torch.from_numpy(noise.uniform(seed, range(first, first + batch), step * k, k))


def replayed_noise(values: Floats, k: int) -> NoiseSource:
    """Noise (steps, B, >= k) of a file; row s is used at step s.

    Raises:
        KfError: the file has fewer slots than k; at a step that it does not have.
    """
    if values.shape[2] < k:
        raise KfError(f"The noise has {values.shape[2]} slots a step.", f"{k}, the tokens of a pass")

    def at(step: int) -> Tensor:
        if step >= len(values):
            raise KfError(
                f"The noise ends after {len(values)} steps.", "one row a step; fewer new tokens, or more rows"
            )
        return torch.from_numpy(np.ascontiguousarray(values[step, :, :k]))

    return at


def checked_slots(student: Student, k: int | None) -> int:
    """k, or the trained K for None.

    Raises:
        KfError: k is 0 or beyond the trained one.
    """
    trained = student.config.block
    if k is not None and not 1 <= k <= trained:
        raise KfError(f"k is {k}.", f"1 to {trained}, the block this student was trained on")
    return k or trained


def generate(
    network: Teacher | Student,
    contexts: list[list[int]],
    source: NoiseSource,
    new_tokens: int,
    tau: float = 1.0,
    penalty: float = 0.0,
    dither: int | None = None,
) -> Decoded:
    """Continues contexts of one length by `new_tokens` tokens each, with the steps of the network's family.

    `tau`, `penalty` and `dither` are the student's, see `pflm_steps`.

    Raises:
        KfError: no tokens asked for, more than the context holds with the prompt, ids outside the vocabulary, or
            a readout that `pflm_steps` refuses.
    """
    config = network.config
    if not contexts or not contexts[0]:
        raise KfError("There is no prompt to continue.", "at least one sample, and at least one token")
    if new_tokens < 1:
        raise KfError(f"{new_tokens} new tokens were asked for.", "at least 1")
    if len(contexts[0]) + new_tokens > config.context:
        raise KfError(
            f"{len(contexts[0])} tokens of prompt and {new_tokens} new ones exceed the context.",
            f"{config.context} tokens in all",
        )
    if not all(0 <= token < config.vocab_size for context in contexts for token in context):
        raise KfError("A token id of the prompt is not in the vocabulary.", f"0 to {config.vocab_size - 1}")
    ids = torch.tensor(contexts, device=network.device)
    if isinstance(network, Student):
        return collect(pflm_steps(network, ids, source, tau, penalty, dither), new_tokens)
    return collect(ar_steps(network, ids, source), new_tokens)


@torch.inference_mode()
def ar_steps(teacher: Teacher, ids: Tensor, source: NoiseSource) -> Iterator[Step]:
    """Autoregressive sampling, one token a pass, without end: ids (B, N), noise (B, 1) a step."""
    cache = KVCache(capacity=teacher.config.context)
    fed = ids
    for step in itertools.count():
        logits = teacher(fed, cache, read=1)[:, 0]
        fed = inverse_cdf(logits, source(step)[:, 0].to(ids.device))[:, None]
        yield Step(fed)


@torch.inference_mode()
def pflm_steps(
    student: Student,
    ids: Tensor,
    source: NoiseSource,
    tau: float = 1.0,
    penalty: float = 0.0,
    dither: int | None = None,
) -> Iterator[Step]:
    """Push-forward decoding, k tokens a pass, without end: ids (B, N), noise (B, k) a step.

    Each pass after the first feeds the k tokens just chosen and k fresh noise slots; the cache keeps the tokens only.

    Args:
        student: The student.
        ids: (B, N) prompts of one length.
        source: Noise of each step.
        tau: Temperature given to the noise encoder.
        penalty: The published sampler's frequency penalty: slot by slot, argmax of logits - penalty x counts of the
            tokens generated so far (the prompt does not count). 0 gives the map itself.
        dither: None: the argmax. m: the token is drawn from the slot's distribution with the bits of u below 2^-m,
            see `dithered`; still a map of the noise alone.

    Raises:
        KfError: at the first step: a penalty and a dither, or a dither that is not 1 .. 16.
    """
    if dither is not None and penalty:
        raise KfError(
            f"Both a penalty ({penalty}) and a dither ({dither}) were asked for.", "one of the two readouts, or none"
        )
    cache = KVCache(capacity=student.config.context + student.config.block)
    counts = torch.zeros(ids.shape[0], student.config.vocab_size, device=ids.device)
    fed = ids
    for step in itertools.count():
        u = source(step).to(ids.device)
        logits = student(fed, u, cache, tau)
        if dither is not None:
            fed = dithered(logits, u, dither)
        else:
            fed = penalised_argmax(logits, counts, penalty) if penalty else logits.argmax(dim=-1)
        yield Step(fed)


def penalised_argmax(logits: Tensor, counts: Tensor, penalty: float) -> Tensor:
    """Slot by slot argmax of logits (B, k, V) - penalty x counts (B, V), which grow in place; (B, k)."""
    chosen = []
    for slot in logits.unbind(dim=1):
        token = (slot - penalty * counts).argmax(dim=-1, keepdim=True)
        counts.scatter_add_(1, token, torch.ones_like(token, dtype=counts.dtype))
        chosen.append(token)
    return torch.cat(chosen, dim=1)


def dithered(logits: Tensor, u: Tensor, bits: int) -> Tensor:
    """Tokens by inverse CDF of the student's own distribution, with the low bits of the noise it was given.

    A student that has resolved u is sure, and gives the token it would have given anyway; one that has not spreads its
    distribution, and the bits of u that it did not use draw from it, where the argmax would take the mode each time.

    Args:
        logits: (B, k, V) of the slots.
        u: (B, k) noise in [0, 1), a multiple of 2^-24.
        bits: m; the draw uses frac(2^m u), which is exact in float64.

    Returns:
        (B, k) int64.

    Raises:
        KfError: bits is not 1 .. 16.
    """
    if not 1 <= bits <= MOST_DITHER_BITS:
        raise KfError(f"dither is {bits} bits.", f"1 to {MOST_DITHER_BITS}")
    return inverse_cdf(logits, torch.frac(u.double() * 2.0**bits))


def collect(steps: Iterator[Step], new_tokens: int) -> Decoded:
    """Runs a decoder until `new_tokens` tokens a row are there; a last block is cut to fit."""
    start, parts, length = time.perf_counter(), [], 0
    while length < new_tokens:
        parts.append(next(steps).tokens)
        length += parts[-1].shape[1]
    tokens = torch.cat(parts, dim=1)[:, :new_tokens].cpu()
    return Decoded(tokens.numpy(), len(parts), time.perf_counter() - start)
