"""Decoding as a generator of steps: `decode` starts one of any family, `collect` makes a batch of it.

Noise is data: (B, P) values in [0, 1), position p of a row for its new token p, keyed or read from a file. AR draws by
inverse CDF from it, the push-forward model maps it; so `ar`, `verified` and `jacobi` write one text under one noise.
Only `mdlm` with order `confident` draws a position more than once, so it has a value for each pass and position: number
s n + p for new token p of n in pass s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch

from kfexplore import noise as noises
from kfexplore.config import DecodeConfig
from kfexplore.decoders import DECODERS, MODELS, possible
from kfexplore.decoding.ar import ar_steps
from kfexplore.decoding.lossless import lossless_steps
from kfexplore.decoding.mdlm import mdlm_steps
from kfexplore.decoding.pflm import pflm_steps
from kfexplore.decoding.rows import Rows, Step, TokenBuffer
from kfexplore.decoding.work import DecodeBatch
from kfexplore.errors import KfError
from kfexplore.models import AnyModel, AnyTeacher, MaskedModel, Student
from kfexplore.results import Decoded, Floats

ORDER_NOISE = 2**32
"""Positions from here on order the masked model's slots, where noise of the tokens themselves never reaches."""
JACOBI_GUESSES = 64
"""Most positions guessed from nothing."""
STEPS: Final[dict[str, Callable[[DecodeBatch], Iterator[Step]]]] = {
    "ar": ar_steps,
    "pflm": pflm_steps,
    "mdlm": mdlm_steps,
    "verified": partial(lossless_steps, anew=True),
    "jacobi": partial(lossless_steps, anew=False),
}
"""How each of `DECODERS` decodes. The first step is `PREFILLED`."""


@dataclass(frozen=True)
class Networks:
    """The models that decoders ask; each needs only some."""

    teacher: AnyTeacher | None = None
    student: Student | None = None
    masked: MaskedModel | None = None

    @property
    def decoders(self) -> list[str]:
        """Those whose models are there."""
        return possible([kind for kind in MODELS if getattr(self, kind) is not None])


def slots(config: DecodeConfig, networks: Networks) -> int:
    """Tokens or guesses of a pass.

    Raises:
        KfError: k is beyond what the student was trained on.
    """
    student, decoder = networks.student, DECODERS[config.decoder]
    if not decoder.takes_k:
        return 1
    if "student" not in decoder.models:
        return config.k or 1
    from_nothing = "student" not in config.models
    most = JACOBI_GUESSES if from_nothing or student is None else student.config.block
    k = config.k or (student.config.block if student is not None else 4)
    if k > most:
        reason = "guesses of a pass" if from_nothing else "the block this student was trained on"
        raise KfError(f"k is {k}.", f"1 to {most}, {reason}")
    return k


def needed_noise(config: DecodeConfig, networks: Networks, new_tokens: int) -> int:
    """Noise values per row: one for each new token, those of a last block that is cut, or a row of them per pass."""
    k = slots(config, networks)
    passes = -(-new_tokens // k)
    if config.draws_anew:
        return passes * new_tokens
    return passes * k if config.models[0] == "student" else new_tokens


def _noise_per_step(config: DecodeConfig, networks: Networks, new_tokens: int) -> int:
    return new_tokens if config.draws_anew else slots(config, networks)


def keyed_noise(seed: int, samples: Sequence[int], config: DecodeConfig, networks: Networks, new_tokens: int) -> Floats:
    """Noise (B, P) of samples, keyed by (seed, sample, position)."""
    return noises.uniform(seed, samples, 0, needed_noise(config, networks, new_tokens))


def replayed_noise(values: Floats, config: DecodeConfig, networks: Networks, new_tokens: int) -> Floats:
    """Noise (B, P) out of a file's (steps, B, >= k): row s is used at step s, its first k slots.

    `mdlm` with order `confident` uses a slot for each new token at every step.

    Raises:
        KfError: the file has too few slots, or fewer steps than are needed.
    """
    width = _noise_per_step(config, networks, new_tokens)
    if values.shape[2] < width:
        what = "one for each new token" if config.draws_anew else "the tokens of a pass"
        raise KfError(f"The noise has {values.shape[2]} slots a step.", f"{width}, {what}")
    length = needed_noise(config, networks, new_tokens)
    if len(values) * width < length:
        raise KfError(f"The noise ends after {len(values)} steps.", "one row a step; fewer new tokens, or more rows")
    return values[:, :, :width].transpose(1, 0, 2).reshape(values.shape[1], -1)[:, :length]


def decode(
    config: DecodeConfig,
    networks: Networks,
    prompts: list[list[int]],
    noise: Floats,
    new_tokens: int,
    order: Floats | None = None,
    settle: bool | None = None,
    use_cuda_graphs: bool | None = None,
) -> Iterator[Step]:
    """The steps in which every prompt grows by `new_tokens` tokens; a last block may be longer.

    The first step comes when the prompts have been read and brings nothing; closing the generator stops at any step.

    Args:
        config: Which decoder, and how.
        networks: The models that it needs.
        prompts: Token ids of B samples, of any lengths.
        noise: (B, P) float64, see `needed_noise`.
        new_tokens: New tokens of each sample.
        order: (B, new_tokens) the order in which mdlm fills positions, least first, for `order` random; None: from left
            to right.
        settle: Decide near choices by the row alone, so that no batch or cache turns a token; None: for fp32 models
            on a CPU.
        use_cuda_graphs: CUDA graphs; None: where the models are on CUDA.

    Raises:
        KfError: a model that is not there, no prompt, ids outside the vocabulary, more than the context holds, too
            little noise.
    """
    models = _models(config, networks)
    network = models[0]
    check_prompts(config, networks, prompts, new_tokens)
    k = slots(config, networks)
    needed = len(prompts), needed_noise(config, networks, new_tokens)
    if noise.shape[0] != needed[0] or noise.shape[1] < needed[1]:
        raise KfError(f"The noise has the shape {noise.shape}.", f"{needed}: a row per sample, and its values")
    if settle is None:
        settle = network.device.type == "cpu" and network.dtype == torch.float32
    u = torch.from_numpy(np.ascontiguousarray(noise[:, : needed[1]])).to(network.device)
    if config.draws_anew:
        u = u.view(len(prompts), -1, new_tokens)
    rows = Rows(prompts, u.shape[-1] + k + 1, network.device)
    return STEPS[config.decoder](DecodeBatch(config, models, rows, u, k, order, settle, use_cuda_graphs))


def generate(
    config: DecodeConfig,
    networks: Networks,
    prompts: list[list[int]],
    noise: Floats,
    new_tokens: int,
    order: Floats | None = None,
    eos: int | None = None,
    settle: bool | None = None,
) -> Decoded:
    """What `decode` writes, collected; with `eos`, no further than the step in which the last sample ends."""
    steps = decode(config, networks, prompts, noise, new_tokens, order, settle)
    return collect(steps, len(prompts), new_tokens, eos)


def keyed_order(seed: int, samples: Sequence[int], new_tokens: int) -> Floats:
    """The random order of mdlm, keyed by (seed, sample, position)."""
    return noises.uniform(seed, samples, ORDER_NOISE, new_tokens)


def collect(steps: Iterator[Step], batch: int, new_tokens: int, eos: int | None = None) -> Decoded:
    """Runs a decoder until `new_tokens` tokens a row are there, or all rows have ended; what is over is cut."""
    sheet = TokenBuffer(batch, new_tokens, eos)
    next(steps)  # the prompts
    kept, passes, start = [], 0, time.perf_counter()
    for step in steps:
        kept.append(sheet.write(step))
        passes += step.passes
        if sheet.done:
            break
    return Decoded(sheet.tokens, sheet.lengths, passes, np.array(kept), time.perf_counter() - start)


def _models(config: DecodeConfig, networks: Networks) -> tuple[AnyModel, ...]:
    """The models that a decoder asks.

    Raises:
        KfError: one of them is not there.
    """
    first, *more = config.models
    if getattr(networks, first) is None:
        what = f"{config.decoder} needs a {MODELS[first]}, and there is none."
        raise KfError(what, ", ".join(networks.decoders))
    for name in more:
        if getattr(networks, name) is None:
            valid = "a pair; jacobi with guess nothing needs the teacher only"
            raise KfError(f"{config.decoder} needs a {MODELS[name]}.", valid)
    return tuple(getattr(networks, name) for name in config.models)


def check_prompts(config: DecodeConfig, networks: Networks, prompts: list[list[int]], new_tokens: int) -> None:
    """Raises KfError unless there are prompts, of the vocabulary, and new tokens that the context has room for."""
    shape = _models(config, networks)[0].config
    if not prompts or not all(prompts):
        raise KfError("There is no prompt to continue.", "at least one sample, and at least one token")
    if new_tokens < 1:
        raise KfError(f"{new_tokens} new tokens were asked for.", "at least 1")
    longest = max(len(prompt) for prompt in prompts)
    if longest + new_tokens > shape.context:
        raise KfError(
            f"{longest} tokens of prompt and {new_tokens} new ones exceed the context.",
            f"{shape.context} tokens in all",
        )
    if not all(0 <= token < shape.vocab_size for prompt in prompts for token in prompt):
        raise KfError("A token id of the prompt is not in the vocabulary.", f"0 to {shape.vocab_size - 1}")
