"""What decoders write after the same held-out prefixes and noise: how likely to the teacher, and how varied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from kfexplore.config import DecodeConfig
from kfexplore.decoding.generate import Networks, generate, keyed_noise
from kfexplore.errors import KfError
from kfexplore.evaluate import diversity, intervals
from kfexplore.models import AnyTeacher
from kfexplore.pair import Pair
from kfexplore.results import Estimate, Floats, Ints, SampleQuality

ROWS_SCORED_AT_ONCE = 8
FEWEST_NEW = 4
"""A sample has at least one 4-gram."""


def name(config: DecodeConfig) -> str:
    """A decoder's name, as tables and figures show it."""
    first = "AR" if config.decoder == "ar" else f"K = {config.k}"
    tau = f", tau {config.temperature:g}" if config.temperature != 1 else ""
    penalty = f", penalty {config.frequency_penalty:g}" if config.frequency_penalty else ""
    dither = f", dither {config.dither} bits" if config.dither is not None else ""
    return first + tau + penalty + dither


def decoders(block: int, penalty: float, dither: int) -> list[DecodeConfig]:
    """The teacher; the plain argmax at every K; at the largest the published penalty and the dithered argmax."""
    plain = [DecodeConfig("pflm", k) for k in range(1, block + 1)]
    others = [DecodeConfig("pflm", block, frequency_penalty=penalty)] if penalty else []
    return [DecodeConfig("ar"), *plain, *others, DecodeConfig("pflm", block, dither=dither)]


@dataclass(frozen=True)
class Written:
    """The new tokens of one decoder (S, n) and its forward passes a sample."""

    decoder: DecodeConfig
    tokens: Ints
    nfe: int


def write(
    pair: Pair, prefixes: Ints, new_tokens: int, decoder: DecodeConfig, seed: int = 0, batch: int = 64
) -> Written:
    """Continues prefixes (S, N), noise keyed by (seed, sample, position): the batch size changes nothing.

    Raises:
        KfError: fewer than four new tokens, or more than the context holds; a readout that is no readout.
    """
    if new_tokens < FEWEST_NEW:
        raise KfError(f"Samples of {new_tokens} tokens were asked for.", f"at least {FEWEST_NEW} new tokens")
    networks = Networks(pair.teacher, pair.student)
    parts, passes = [], 0
    for first in range(0, len(prefixes), batch):
        rows = prefixes[first : first + batch].tolist()
        noise = keyed_noise(seed, range(first, first + len(rows)), decoder, networks, new_tokens)
        decoded = generate(decoder, networks, rows, noise, new_tokens)
        parts.append(decoded.tokens)
        passes = decoded.nfe
    return Written(decoder, np.concatenate(parts), passes)


@torch.inference_mode()
def token_losses(teacher: AnyTeacher, prefixes: Ints, tokens: Ints) -> Floats:
    """Teacher's loss of each new token (S, n) after prefixes (S, N), at temperature 1; (S, n) nats."""
    whole = torch.from_numpy(np.concatenate([prefixes, tokens], axis=1)).to(teacher.device)
    first, found = prefixes.shape[1], []
    for rows in whole.split(ROWS_SCORED_AT_ONCE):
        law = teacher.log_probs(rows)[:, first - 1 : -1]
        found.append(-law.gather(2, rows[:, first:, None])[..., 0].double().cpu().numpy())
    return np.concatenate(found)


def quality(written: list[Written], losses: list[Floats]) -> list[SampleQuality]:
    """Measures what was written after the same prefixes, given each one's `token_losses` (S, n); first the teacher's.

    Intervals are normal over samples (for self-BLEU, whose samples share references, that is an approximation); the
    ratio's pairs samples of one prefix.
    """
    means = [each.mean(axis=1) for each in losses]
    return [_measured(each, own, means[0]) for each, own in zip(written, means, strict=True)]


def scored(teacher: AnyTeacher, prefixes: Ints, written: list[Written]) -> list[SampleQuality]:
    """`quality` of what was written, scored by the teacher."""
    return quality(written, [token_losses(teacher, prefixes, each.tokens) for each in written])


def write_all(pair: Pair, prefixes: Ints, new_tokens: int, chosen: list[DecodeConfig], seed: int) -> list[Written]:
    """`write` for several decoders, with a bar."""
    return [write(pair, prefixes, new_tokens, d, seed) for d in tqdm(chosen, desc="samples", leave=False, delay=1)]


def _measured(written: Written, losses: Floats, own: Floats) -> SampleQuality:
    tokens, decoder = written.tokens, written.decoder

    def over_samples(statistic: Callable[[Ints], float]) -> Estimate:
        return intervals.fraction(np.array([statistic(row) for row in tokens]))

    return SampleQuality(
        decoder=name(decoder),
        k=decoder.k or 1,
        penalty=decoder.frequency_penalty,
        dither=decoder.dither,
        tau=decoder.temperature,
        nfe=written.nfe,
        teacher_nll=intervals.mean(losses),
        teacher_nll_ratio=intervals.ratio(losses, own),
        entropy=intervals.mean(np.array([diversity.unigram_entropy(row) for row in tokens])),
        distinct_1=over_samples(lambda row: diversity.distinct(row, 1)),
        distinct_2=over_samples(lambda row: diversity.distinct(row, 2)),
        distinct_3=over_samples(lambda row: diversity.distinct(row, 3)),
        repeated_4=over_samples(diversity.repeated),
        self_bleu=intervals.mean(diversity.self_bleu(tokens)),
    )
