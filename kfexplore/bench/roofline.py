"""Roofline model: the shortest time that decoding can take on a device, from counted bytes and operations.

A pass over B rows of t tokens reads every weight and the cached keys and values once, and computes 2 operations per
weight and token; the head is counted only at the positions that are read. Smaller terms (norms, positions, the readout
in float64) are left out, so this is a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kfexplore.config import DecodeConfig, ModelConfig
from kfexplore.decoders import DECODERS
from kfexplore.models import CausalConfig
from kfexplore.results import Cost, DevicePeaks, Gain

LOGIT_BYTES = 4
Shape = ModelConfig | CausalConfig


def pass_cost(shape: Shape, batch: int, tokens: float, keys: float, read: int, slots: int = 0, width: int = 4) -> Cost:
    """Cost of one forward pass.

    Args:
        batch: Rows B.
        tokens: Tokens t per row, noise slots included.
        keys: Mean number of keys that a query sees.
        read: Positions per row at which the head is read.
        slots: Noise slots among the tokens, which pass through the noise encoder (10 H^2 weights).
        width: Bytes per weight.
    """
    h, layers, v = shape.width, shape.depth, shape.vocab_size
    block, head, encoder = shape.block_weights, h * v, 10 * h * h if slots else 0
    weights = block + head + encoder
    cached = 2 * layers * h * batch * (keys + tokens)
    bytes_moved = width * (weights + cached + batch * tokens * h) + LOGIT_BYTES * batch * read * v
    products = block * tokens + head * read + encoder * slots + 2 * layers * h * keys * tokens
    return Cost(bytes_moved, 2 * batch * products)


def decode_cost(
    config: DecodeConfig,
    shapes: Mapping[str, Shape],
    batch: int,
    prompt: int,
    new_tokens: int,
    k: int,
    rounds: int | None = None,
    drafts: int = 0,
    width: int = 4,
    catch_up: float | None = None,
) -> Cost:
    """Total cost of a decoder's passes, prefill excluded.

    Args:
        shapes: Shapes of the networks, by kind.
        batch: Samples.
        prompt: Tokens per prompt.
        new_tokens: New tokens per sample.
        k: Tokens, or guesses, per pass.
        rounds: Counted passes of the decoder's first model; None: one per k tokens.
        drafts: Counted passes of the student that guesses.
        width: Bytes per weight.
        catch_up: Mean number of tokens that a draft feeds before its slots: those added to the rows since the previous
            draft. None: the most that a round can add, k + 1.
    """
    keys = prompt + new_tokens / 2
    kind = config.models[0]
    count = -(-new_tokens // k) if rounds is None else rounds
    if kind == "student":  # the first pass feeds the prompt's last token, every later one the previous block
        first = pass_cost(shapes[kind], batch, 1 + k, keys, k, slots=k, width=width)
        passes = first + pass_cost(shapes[kind], batch, 2 * k, keys, k, slots=k, width=width).scaled(count - 1)
    elif kind == "masked":
        whole, passes = prompt + new_tokens, Cost(0, 0)
        for still in range(new_tokens, 0, -k):  # masked positions before a pass
            read = still if config.draws_anew else min(k, still)
            passes += pass_cost(shapes[kind], batch, whole, whole, read, width=width)
    else:  # guesses are fed and read after the last token
        fed = k + 1 if DECODERS[config.decoder].takes_k else 1
        passes = pass_cost(shapes[kind], batch, fed, keys, fed, width=width).scaled(count)
    if not drafts:
        return passes
    drafted = k + (k + 1 if catch_up is None else catch_up)
    return passes + pass_cost(shapes["student"], batch, drafted, keys, k, slots=k, width=width).scaled(drafts)


def gains(
    teacher: Shape,
    student: Shape,
    peaks: DevicePeaks,
    batches: Iterable[int],
    ks: Iterable[int],
    keys: float,
    width: int = 4,
) -> list[Gain]:
    """Upper limit on the speed-up from K tokens per pass: every pass after the first feeds 2 K tokens to gain K.

    While both passes are bound by reading the weights, K tokens cost as much as one and the gain is K. Once both are
    bound by arithmetic, it tends to 1/2 for the blocks and 1 for the head, for any K. In contexts so long that AR is
    bound by each sample's keys and values, the gain levels off higher: a pass of K tokens reads them once.

    Args:
        ks: Tokens per pass; also beyond what the student was trained on.
        keys: Mean number of keys that a query sees.
        width: Bytes per weight.
    """
    found = []
    for batch in batches:
        ar = pass_cost(teacher, batch, 1, keys, 1, width=width).least_seconds(peaks)
        for k in ks:
            cost = pass_cost(student, batch, 2 * k, keys, k, slots=k, width=width)
            arithmetic = cost.flops / peaks.flops_per_second > cost.bytes / peaks.bytes_per_second
            bound = "arithmetic" if arithmetic else "memory"
            found.append(Gain(batch, k, 1e3 * ar, 1e3 * cost.least_seconds(peaks), bound))
    return found
