"""Several decoders on one prompt, interleaved and each with its own clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import urlencode

import numpy as np
import torch

from kfexplore import noise
from kfexplore.bench.setting import environment, synchronise
from kfexplore.cancel import Cancelled, CancelToken
from kfexplore.checkpoints.tokenizers import Spelling, end_of_text
from kfexplore.config import DecodeConfig
from kfexplore.decoders import DECODERS, find_decoder
from kfexplore.decoding.buffers import TokenBuffer
from kfexplore.decoding.generate import Networks, decode, keyed_noise, keyed_order, resolve_k
from kfexplore.errors import KfError
from kfexplore.maps.context import block_limit
from kfexplore.models import AnyTeacher
from kfexplore.pair import Pair
from kfexplore.results import Ints, Line, Stage, Written
from kfexplore.ui.jobs import Job

TURN = 0.1
"""Seconds of steps per turn, after which other work may run."""
PAUSE: Final = 0.1
"""Seconds between two updates of growing texts, and more if they are long, so that a browser can keep up."""
PAUSE_PER_TOKEN: Final = 1 / 20_000

Clock = Callable[[], float]
Turn = Callable[[], AbstractContextManager[None]]
"""Waits for a turn to run the models, and holds it."""


@dataclass(frozen=True)
class WriteConfig:
    """A user's request for texts."""

    pair: str
    prompt: str
    decoders: tuple[str, ...]
    k: int
    """Tokens, or guesses, per pass; like temperature and penalty, ignored by decoders without this option."""
    new_tokens: int
    samples: int = 1
    temperature: float = 1.0
    frequency_penalty: float = 0.0
    seed: int = 0
    same_noise: bool = True
    """One noise for all decoders; otherwise seed + n for the n-th of `DECODERS`."""

    def __post_init__(self) -> None:
        for name in self.decoders:
            find_decoder(name)
        if not self.decoders:
            raise KfError("No decoder is chosen.", f"one or more of {', '.join(DECODERS)}")

    def of(self, decoder: str) -> DecodeConfig:
        """The settings that apply to one decoder."""
        taken = set(DECODERS[decoder].options) & {"k", "temperature", "frequency_penalty"}
        return DecodeConfig(decoder, **{name: getattr(self, name) for name in taken})

    def seed_of(self, decoder: str) -> int:
        """Seed of a decoder's noise."""
        return self.seed + (0 if self.same_noise else list(DECODERS).index(decoder))

    def as_json(self) -> dict[str, Any]:
        """Plain values under the keys of downloads: `tau` and `penalty` for temperature and frequency penalty."""
        old = {"temperature": "tau", "frequency_penalty": "penalty"}
        return {old.get(name, name): value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class DecoderOutput:
    """The tokens that one decoder has written so far."""

    decoder: str
    k: int
    seed: int
    tokens: Ints
    """(B, N)"""
    steps: Ints
    """(B, N) the step that wrote each token, from 1; 0: not written yet."""
    lengths: Ints
    """(B,) tokens up to the end of each text."""
    nfe: int = 0
    seconds: float = 0.0
    stage: Stage = "waiting"

    def row(self, row: int) -> tuple[list[int], list[int]]:
        """Tokens of a sample up to its end, and the step of each; a masked model's sample has gaps, with step 0."""
        length = int(self.lengths[row])
        if DECODERS[self.decoder].in_order:
            length = min(length, int((self.steps[row] > 0).sum()))
        return self.tokens[row, :length].tolist(), self.steps[row, :length].tolist()


@dataclass(frozen=True)
class Texts:
    """A snapshot of running decoders."""

    environment: dict[str, Any]
    """Conditions that affect their times."""
    outputs: tuple[DecoderOutput, ...]
    """In the order of `DECODERS`."""


class DecoderRun:
    """One running decoder.

    Raises:
        KfError: the pair lacks one of its models, or k exceeds the trained one.
    """

    def __init__(self, pair: Pair, ids: list[int], config: WriteConfig, decoder: str) -> None:
        networks = Networks(pair.teacher, pair.student, pair.masked)
        own, samples, new_tokens = config.of(decoder), range(config.samples), config.new_tokens
        self.decoder, self.seed, self.k = decoder, config.seed_of(decoder), resolve_k(own, networks)
        values = keyed_noise(self.seed, samples, own, networks, new_tokens)
        order = keyed_order(self.seed, samples, new_tokens)
        self.seconds, self.is_done = 0.0, False
        self._buffer = TokenBuffer(config.samples, new_tokens, end_of_text(pair.need_tokenizer()))
        self._numbers: Ints = np.zeros_like(self._buffer.tokens)
        self._count, self._nfe, self._stage = 0, 0, "waiting"
        self._device = pair.teacher.device
        self._steps = decode(own, networks, [ids] * config.samples, values, new_tokens, order)

    def prefill(self) -> None:
        """Prefills the prompt, before the clock starts."""
        next(self._steps)
        synchronise(self._device)
        self._stage = "writing"

    def step(self, clock: Clock) -> None:
        """One step on the decoder's own clock."""
        start = clock()
        step = next(self._steps, None)
        if step is not None:
            step.tokens.cpu()  # waits for the device
        self.seconds += clock() - start
        if step is not None:
            self._buffer.write(step)
            self._count += 1
            self._nfe += step.passes
            self._numbers[self._buffer.filled & (self._numbers == 0)] = self._count
        self.is_done = step is None or self._buffer.done

    @property
    def output(self) -> DecoderOutput:
        """A copy of what is written so far."""
        return DecoderOutput(
            self.decoder,
            self.k,
            self.seed,
            self._buffer.tokens.copy(),
            self._numbers.copy(),
            self._buffer.lengths.copy(),
            self._nfe,
            self.seconds,
            "done" if self.is_done else self._stage,  # type: ignore[arg-type]
        )

    def close(self) -> None:
        """Ends the decoder, which frees its cache."""
        self._steps.close()  # type: ignore[attr-defined]


def decoder_runs(pair: Pair, ids: list[int], config: WriteConfig) -> list[DecoderRun]:
    """The decoders of a text, before their first step.

    Raises:
        KfError: as `DecoderRun`; the new tokens do not fit the context.
    """
    room = pair.teacher.config.context - len(ids)
    if config.new_tokens > room:
        raise KfError(
            f"A prompt of {len(ids)} tokens and {config.new_tokens} new ones do not fit the context.",
            f"1 to {room} new tokens, or a shorter prompt",
        )
    return [DecoderRun(pair, ids, config, name) for name in DECODERS if name in config.decoders]


def snapshot(pair: Pair, runs: list[DecoderRun]) -> Texts:
    """What decoders have written so far, with their environment."""
    return Texts(environment(pair.teacher.device), tuple(run.output for run in runs))


def write(
    pair: Pair, ids: list[int], config: WriteConfig, cancel: CancelToken, turn: Turn, clock: Clock = time.perf_counter
) -> Iterator[Texts]:
    """Runs decoders to their ends, `TURN` seconds of steps per turn; yields a snapshot after each.

    The decoder with the least time goes next, so the order you see is the order they would finish in if run alone.

    Raises:
        Cancelled: `cancel` returned true.
        KfError: as `decoder_runs`; the device has too little memory.
    """
    runs = decoder_runs(pair, ids, config)
    try:
        for run in runs:
            with turn():
                run.prefill()
        while not all(run.is_done for run in runs):
            with turn():
                until = clock() + TURN
                while (left := [run for run in runs if not run.is_done]) and not cancel():
                    min(left, key=lambda run: run.seconds).step(clock)
                    if clock() >= until:
                        break
            yield snapshot(pair, runs)
            if cancel():
                raise Cancelled
    except torch.OutOfMemoryError:
        raise KfError("The device has too little memory.", "fewer samples, decoders or new tokens") from None
    finally:
        for run in runs:
            run.close()


class Writing:
    """The texts of some decoders after one prompt, as they grow and when they are done.

    Args:
        pair: Models and tokenizer.
        ids: The prompt's tokens.
        config: The request.
        job: Writes the texts; its first snapshot is empty.
        turn: A turn to run this process's models, for the teacher that scores the texts.
        note: Further notes on the prompt.
    """

    def __init__(
        self, pair: Pair, ids: list[int], config: WriteConfig, job: Job[Texts], turn: Turn, note: str = ""
    ) -> None:
        self.pair, self.ids, self.config, self.job, self.note = pair, ids, config, job, note
        self.is_underlined = False
        """Whether surprises are computed when the texts are done; may change while they grow."""
        self._spelling = Spelling(pair.need_tokenizer())
        self._eos = end_of_text(pair.need_tokenizer())
        self._surprises: dict[tuple[int, ...], list[float]] = {}
        self._linked: dict[tuple[str, int], list[bool]] = {}
        self._turn = turn

    @property
    def texts(self) -> Texts:
        """The last snapshot."""
        assert self.job.snapshot is not None
        return self.job.snapshot

    def frames(self, clock: Clock = time.perf_counter) -> Iterator[None]:
        """Runs the job; yields when it is time to draw, at most every `PAUSE` seconds."""
        due = clock() + PAUSE
        with closing(self.job.run()) as snapshots:
            for texts in snapshots:
                if clock() >= due:
                    yield
                    tokens = sum(np.count_nonzero(output.steps) for output in texts.outputs)
                    due = clock() + PAUSE + PAUSE_PER_TOKEN * tokens

    def surprises(self) -> Iterator[None]:
        """Computes the teacher's surprise for each complete text, one per turn; results are cached."""
        for output in self.texts.outputs:
            for row in range(self.config.samples):
                tokens, steps = output.row(row)
                if tokens and all(steps) and tuple(tokens) not in self._surprises:
                    with self._turn():
                        self._surprises[tuple(tokens)] = surprise(self.pair.teacher, self.ids, tokens)
                    yield

    def written(self) -> list[Written]:
        """The current state of all texts, in the order of `DECODERS`."""
        outputs, is_over = self.texts.outputs, self.job.is_over
        reference = next((each for each in outputs if DECODERS[each.decoder].exact), None)
        if not self.config.same_noise:
            reference = None
        found = []
        for output in outputs:
            # a masked model uses the noise to draw from marginals, so its text is not comparable with the exact map's
            compared = reference if output is not reference and DECODERS[output.decoder].in_order else None
            lines = [
                self._line(output, row, compared.row(row)[0] if compared else None)
                for row in range(self.config.samples)
            ]
            stage: Stage = "stopped" if is_over and output.stage != "done" else output.stage
            found.append(Written(output.decoder, lines, output.k, output.seed, output.nfe, output.seconds, stage))
        return found

    def as_json(self) -> dict[str, Any]:
        """Texts, tokens and times, with everything that affects them; plain values."""
        return {
            "prompt": self.config.prompt,
            "prompt_tokens": self.ids,
            "settings": self.config.as_json(),
            "environment": self.texts.environment,
            "decoders": [written.as_json() for written in self.written()],
        }

    def _line(self, output: DecoderOutput, row: int, exact: list[int] | None) -> Line:
        tokens, steps = output.row(row)
        shared, diverged = None, False
        if exact is not None:
            known = min(len(tokens), len(exact))
            shared = next((n for n in range(known) if tokens[n] != exact[n]), known)
            diverged = shared < known
        ended = self._eos is not None and bool(tokens) and steps[-1] > 0 and tokens[-1] == self._eos
        nats = self._surprises.get(tuple(tokens)) if all(steps) else None
        pieces = self._pieces(tokens, steps)
        links = self._links(output, row, tokens, pieces) if self.job.is_over else []
        return Line(tokens, steps, pieces, ended, nats, shared, diverged, links)

    def _links(self, output: DecoderOutput, row: int, tokens: list[int], pieces: list[str]) -> list[tuple[int, str]]:
        """Links to Scrub, block by block, for decoders that use the noise as the maps do.

        A link contains all text before its block. To save memory, only whether each link is possible is cached.
        """
        config, k = self.config.of(output.decoder), min(self.config.k, block_limit(self.pair.student))
        if not DECODERS[output.decoder].in_order or config.frequency_penalty:
            return []
        before = {first: self.config.prompt + "".join(pieces[:first]) for first in range(0, len(tokens), k)}
        if (output.decoder, row) not in self._linked:
            most = self.pair.teacher.config.context - len(self.ids) - k
            self._linked[output.decoder, row] = [
                first <= most and self.pair.encode(text)[0] == self.ids + tokens[:first]
                for first, text in before.items()
            ]
        u = noise.uniform(output.seed, [row], 0, len(tokens) + k)[0]
        heat = {} if config.temperature == 1 else {"temperature": config.temperature}
        found = []
        for (first, text), can_be in zip(before.items(), self._linked[output.decoder, row], strict=True):
            values = {"pair": self.config.pair, "prompt": text, "k": k, "u": ",".join(map(str, u[first : first + k]))}
            found.append((first, urlencode(values | heat) if can_be else ""))
        return found

    def _pieces(self, tokens: list[int], steps: list[int]) -> list[str]:
        """The text of each token, computed for each run of tokens between gaps."""
        pieces: list[str] = []
        while len(pieces) < len(tokens):
            start = end = len(pieces)
            while end < len(tokens) and steps[end]:
                end += 1
            before = [] if start else self.ids[-1:]
            pieces += self._spelling.pieces(tokens[start:end], before) if end > start else [""]
        return pieces


@torch.inference_mode()
def surprise(teacher: AnyTeacher, prompt: list[int], tokens: list[int]) -> list[float]:
    """-ln of the teacher's probability of each token after the prompt and those before it, in nats."""
    ids = torch.tensor([prompt + tokens], device=teacher.device)
    log_probs = teacher(ids, read=len(tokens) + 1)[0, :-1].log_softmax(dim=-1)
    return (-log_probs.gather(1, ids[0, len(prompt) :, None])[:, 0]).tolist()
