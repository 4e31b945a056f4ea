"""Decoding as a generator of steps: `decode` starts any decoder, `collect` runs it to the end.

Noise is data: (B, P) values in [0, 1), keyed or read from a file; value p of a row is for its new token p. `ar`,
`verified` and `jacobi` write the same text under the same noise. Only `mdlm` with order `confident` draws a position
more than once, so it has one value per pass and position: value s n + p is for new token p of n in pass s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name

import numpy as np
import torch

from kfexplore import noise as noises
from kfexplore.config import DecodeConfig
from kfexplore.decoders import DECODERS, MODELS, find_decoder, possible
from kfexplore.decoding.buffers import DecodeBatch, Sequences, Step, TokenBuffer
from kfexplore.errors import KfError
from kfexplore.models import AnyModel, AnyStudent, AnyTeacher, MaskedModel
from kfexplore.results import Decoded, Floats, Ints

ORDER_NOISE = 2**32
"""First noise position of the masked model's random order, beyond all noise positions of tokens."""
JACOBI_GUESSES = 64
"""Largest k of `jacobi` when it guesses without the student."""
Steps = Callable[[DecodeBatch], Iterator[Step]]
"""How a decoder writes a batch. Its first step is `PREFILLED`."""
Reference = Callable[[DecodeBatch], list[int]]
"""The slow twin of a decoder: new tokens of a batch of one sample; no cache, each pass reads the whole row."""


@dataclass(frozen=True)
class Networks:
    """The models available to decoders; each decoder needs some of them."""

    teacher: AnyTeacher | None = None
    student: AnyStudent | None = None
    masked: MaskedModel | None = None

    @property
    def decoders(self) -> list[str]:
        """Names of the decoders that these models allow."""
        return possible([kind for kind in MODELS if getattr(self, kind) is not None])


def resolve_k(config: DecodeConfig, networks: Networks) -> int:
    """Tokens, or guesses, per pass.

    Raises:
        KfError: k is above the student's trained block, or above `JACOBI_GUESSES`.
    """
    student, decoder = networks.student, DECODERS[config.decoder]
    if not decoder.takes_k:
        return 1
    if "student" not in decoder.models:
        return config.k or 1
    from_nothing = "student" not in config.models
    k_max = JACOBI_GUESSES if from_nothing or student is None else student.config.block
    k = config.k or (student.config.block if student is not None else 4)
    if k > k_max:
        reason = "guesses per pass" if from_nothing else "the block this student was trained on"
        raise KfError(f"k is {k}.", f"1 to {k_max}, {reason}")
    return k


def needed_noise(config: DecodeConfig, networks: Networks, new_tokens: int) -> int:
    """Noise values per row: one per new token (pflm: of whole blocks), or per new token and pass if drawn anew."""
    k = resolve_k(config, networks)
    passes = -(-new_tokens // k)
    if config.draws_anew:
        return passes * new_tokens
    return passes * k if config.models[0] == "student" else new_tokens


def keyed_noise(seed: int, samples: Sequence[int], config: DecodeConfig, networks: Networks, new_tokens: int) -> Floats:
    """Noise (B, P) for samples, keyed by (seed, sample, position)."""
    return noises.uniform(seed, samples, 0, needed_noise(config, networks, new_tokens))


def replayed_noise(values: Floats, config: DecodeConfig, networks: Networks, new_tokens: int) -> Floats:
    """Noise (B, P) from a file's (steps, B, >= k): step s reads the first k values of row s.

    `mdlm` with order `confident` reads a value for each new token at every step.

    Raises:
        KfError: the file has too few slots, or fewer steps than are needed.
    """
    width = new_tokens if config.draws_anew else resolve_k(config, networks)
    if values.shape[2] < width:
        what = "one for each new token" if config.draws_anew else "the tokens of a pass"
        raise KfError(f"The noise has {values.shape[2]} slots per step.", f"{width}, {what}")
    length = needed_noise(config, networks, new_tokens)
    if len(values) * width < length:
        raise KfError(f"The noise ends after {len(values)} steps.", "one row per step; fewer new tokens, or more rows")
    return values[:, :, :width].transpose(1, 0, 2).reshape(values.shape[1], -1)[:, :length]


def decode(
    config: DecodeConfig,
    networks: Networks,
    prompts: list[list[int]],
    noise: Floats,
    new_tokens: int,
    order: Floats | None = None,
    recheck: bool | None = None,
    use_cuda_graphs: bool | None = None,
) -> Iterator[Step]:
    """The steps in which every prompt grows by `new_tokens` tokens; a last block may be longer.

    The first step is `PREFILLED`. Closing the generator stops at any step.

    Args:
        config: Which decoder, and how.
        networks: The models it needs.
        prompts: Token ids of B samples, of any lengths.
        noise: (B, P) float64, see `needed_noise`.
        new_tokens: New tokens of each sample.
        order: (B, new_tokens) ranks in which mdlm fills positions, lowest first, for `order` random; None: from left
            to right.
        recheck: See `DecodeBatch`; None: for fp32 models on a CPU.
        use_cuda_graphs: See `Passes`.

    Raises:
        KfError: a missing model, no prompt, ids outside the vocabulary, more tokens than the context holds, too little
            noise.
    """
    steps: Steps = resolve_name(DECODERS[config.decoder].steps)
    return steps(_batch(config, networks, prompts, noise, new_tokens, order, recheck, use_cuda_graphs))


def _batch(
    config: DecodeConfig,
    networks: Networks,
    prompts: list[list[int]],
    noise: Floats,
    new_tokens: int,
    order: Floats | None,
    recheck: bool | None = None,
    use_cuda_graphs: bool | None = None,
) -> DecodeBatch:
    models = _models(config, networks)
    network = models[0]
    check_prompts(config, networks, prompts, new_tokens)
    k = resolve_k(config, networks)
    needed = len(prompts), needed_noise(config, networks, new_tokens)
    if noise.shape[0] != needed[0] or noise.shape[1] < needed[1]:
        raise KfError(f"The noise has the shape {noise.shape}.", f"{needed}: a row per sample, and its values")
    if recheck is None:
        recheck = network.device.type == "cpu" and network.dtype == torch.float32
    u = torch.from_numpy(np.ascontiguousarray(noise[:, : needed[1]])).to(network.device)
    if config.draws_anew:
        u = u.view(len(prompts), -1, new_tokens)
    sequences = Sequences(prompts, u.shape[-1] + k + 1, network.device)
    return DecodeBatch(config, models, sequences, u, k, order, recheck, use_cuda_graphs)


def generate(
    config: DecodeConfig,
    networks: Networks,
    prompts: list[list[int]],
    noise: Floats,
    new_tokens: int,
    order: Floats | None = None,
    eos: int | None = None,
    recheck: bool | None = None,
) -> Decoded:
    """The tokens of `decode`, collected; with `eos`, up to the step in which the last sample ends."""
    steps = decode(config, networks, prompts, noise, new_tokens, order, recheck)
    return collect(steps, len(prompts), new_tokens, eos)


@torch.inference_mode()
def reference(
    config: DecodeConfig,
    networks: Networks,
    prompts: list[list[int]],
    noise: Floats,
    new_tokens: int,
    order: Floats | None = None,
) -> Ints:
    """The tokens of `generate`, (B, new_tokens), by the decoder's slow twin, one sample at a time."""
    decoder = find_decoder(config.decoder)
    twin: Reference = resolve_name(decoder.reference or DECODERS["ar"].reference)
    ranks = [None] * len(prompts) if order is None else order[:, None]
    samples = zip(prompts, noise[:, None], ranks, strict=True)
    return np.array([twin(_batch(config, networks, [p], u, new_tokens, r))[:new_tokens] for p, u, r in samples])


def keyed_order(seed: int, samples: Sequence[int], new_tokens: int) -> Floats:
    """Ranks for mdlm's random order, keyed by (seed, sample, position)."""
    return noises.uniform(seed, samples, ORDER_NOISE, new_tokens)


def collect(steps: Iterator[Step], batch: int, new_tokens: int, eos: int | None = None) -> Decoded:
    """Runs a decoder until every row has `new_tokens` tokens or has ended; drops further tokens."""
    written = TokenBuffer(batch, new_tokens, eos)
    next(steps)  # the prompts
    kept, passes, start = [], 0, time.perf_counter()
    for step in steps:
        kept.append(written.write(step))
        passes += step.passes
        if written.done:
            break
    return Decoded(written.tokens, written.lengths, passes, np.array(kept), time.perf_counter() - start)


def _models(config: DecodeConfig, networks: Networks) -> tuple[AnyModel, ...]:
    """The models of a decoder.

    Raises:
        KfError: one of them is missing.
    """
    first, *more = config.models
    if getattr(networks, first) is None:
        what = f"{config.decoder} needs a {MODELS[first]}, but there is none."
        raise KfError(what, ", ".join(networks.decoders))
    for name in more:
        if getattr(networks, name) is None:
            valid = "a pair; jacobi with guess nothing needs the teacher only"
            raise KfError(f"{config.decoder} needs a {MODELS[name]}.", valid)
    return tuple(getattr(networks, name) for name in config.models)


def check_prompts(config: DecodeConfig, networks: Networks, prompts: list[list[int]], new_tokens: int) -> None:
    """Raises KfError unless there are prompts from the vocabulary, and the context has room for the new tokens."""
    shape = _models(config, networks)[0].config
    if not prompts or not all(prompts):
        raise KfError("There is no prompt to continue.", "at least one sample, and at least one token")
    if new_tokens < 1:
        raise KfError(f"{new_tokens} new tokens were requested.", "at least 1")
    longest = max(len(prompt) for prompt in prompts)
    if longest + new_tokens > shape.context:
        raise KfError(
            f"{longest} prompt tokens and {new_tokens} new tokens exceed the context.",
            f"{shape.context} tokens in all",
        )
    if not all(0 <= token < shape.vocab_size for prompt in prompts for token in prompt):
        raise KfError("A token id of the prompt is not in the vocabulary.", f"0 to {shape.vocab_size - 1}")
