"""Several decoders at work on one prompt: they take turns, and each has a clock of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch

from kfexplore.bench.setting import environment, synchronise
from kfexplore.cancel import Cancelled, CancelToken
from kfexplore.checkpoints.tokenizers import Spelling, end_of_text
from kfexplore.config import DecodeConfig
from kfexplore.decoders import DECODERS, find_decoder
from kfexplore.decoding.buffers import Step, TokenBuffer
from kfexplore.decoding.generate import Networks, decode, keyed_noise, keyed_order, resolve_k
from kfexplore.errors import KfError
from kfexplore.models import AnyTeacher
from kfexplore.pair import Pair
from kfexplore.results import Ints, Line, Written
from kfexplore.results.text import Stage
from kfexplore.ui.jobs import Turns, few_threads

TURN = 0.1
"""Seconds of steps after which others may go first."""
PAUSE: Final = 0.1
"""Seconds between two pictures of texts that grow, and more where they are long: a browser must keep up."""
PAUSE_PER_TOKEN: Final = 1 / 20_000

Clock = Callable[[], float]
News = tuple[dict[str, Any], list["_Text"], bool]
"""Of decoders: where they work, what each has written, and whether their time is over."""


@dataclass(frozen=True)
class WriteConfig:
    """What is to be written."""

    pair: str
    prompt: str
    decoders: tuple[str, ...]
    k: int
    """Tokens, or guesses, per pass, for decoders that take it; so with temperature and frequency penalty."""
    new_tokens: int
    samples: int = 1
    temperature: float = 1.0
    frequency_penalty: float = 0.0
    seed: int = 0
    same_noise: bool = True
    """One noise for all decoders, or seed + n for the n-th of `DECODERS`."""

    def __post_init__(self) -> None:
        for name in self.decoders:
            find_decoder(name)
        if not self.decoders:
            raise KfError("No decoder is chosen.", f"one or more of {', '.join(DECODERS)}")

    def of(self, decoder: str) -> DecodeConfig:
        """The settings that mean something to one decoder."""
        taken = set(DECODERS[decoder].options) & {"k", "temperature", "frequency_penalty"}
        return DecodeConfig(decoder, **{name: getattr(self, name) for name in taken})

    def seed_of(self, decoder: str) -> int:
        """Keys a decoder's noise."""
        return self.seed + (0 if self.same_noise else list(DECODERS).index(decoder))


class Writing:
    """The texts of some decoders after one prompt, as they grow and when they are done.

    One thread runs it; others may look at it and stop it.

    Args:
        pair: Models and tokenizer.
        ids: The prompt's tokens.
        config: What is to be written.
        note: What else is to be said of the prompt.
        stopped: Ends it; its time runs from the first step.
        turn: Held in each step, so that a clock of others can run undisturbed between two.

    Raises:
        KfError: a model that the pair has not, a k beyond the trained one, more tokens than the context holds.
    """

    def __init__(
        self,
        pair: Pair,
        ids: list[int],
        config: WriteConfig,
        note: str = "",
        stopped: CancelToken | None = None,
        turn: Turns | None = None,
    ) -> None:
        self.room = pair.teacher.config.context - len(ids)
        """New tokens that fit the context."""
        if config.new_tokens > self.room:
            raise KfError(
                f"A prompt of {len(ids)} tokens and {config.new_tokens} new ones do not fit the context.",
                f"1 to {self.room} new tokens, or a shorter prompt",
            )
        self.pair, self.ids, self.config, self.note = pair, ids, config, note
        self.environment = environment(pair.teacher.device)
        """Where the decoders work."""
        self.elsewhere: Callable[[WriteConfig], Iterator[News]] | None = None
        """Has the decoders run by another process, and gives their news; None: they run here. One that was called off
        ends at its next news."""
        self.underlined = False
        """Whether surprises are asked for when the texts are done; may change while they grow."""
        self._spelling = Spelling(pair.need_tokenizer())
        self._eos = end_of_text(pair.need_tokenizer())
        self._desks = [_Desk(pair, ids, config, name, self._eos) for name in DECODERS if name in config.decoders]
        self._reference = next((desk for desk in self._desks if DECODERS[desk.decoder].exact), None)
        self._nats: dict[tuple[int, ...], list[float]] = {}
        self._stopped, self._turn = stopped or CancelToken(), turn or Turns()
        self._lock = threading.Lock()

    def steps(self, clock: Clock = time.perf_counter) -> Iterator[None]:
        """Runs the decoders to their ends, some steps a turn; closing it, or `stop`, leaves what is there.

        The one whose clock is behind goes next, so that the texts race as they would on machines of their own.

        Raises:
            KfError: the device has too little memory.
        """
        try:
            yield from self._run(clock) if self.elsewhere is None else self._follow(self.elsewhere(self.config))
        except Cancelled:
            pass
        except torch.OutOfMemoryError:
            raise KfError("The device has too little memory.", "fewer samples, decoders or new tokens") from None
        finally:
            self.stop()
            for desk in self._desks:
                desk.close()

    def _run(self, clock: Clock) -> Iterator[None]:
        self._stopped.begin()
        for desk in self._desks:
            with self._turn.held(self._stopped, yields=True), few_threads(self.pair):
                desk.read_prompt()
        while self._growing:
            with self._turn.held(self._stopped, yields=True), few_threads(self.pair):
                until = clock() + TURN
                while (growing := self._growing) and not self._stopped():
                    self._step(min(growing, key=lambda desk: desk.text.seconds), clock)
                    if clock() >= until:
                        break
            if self._stopped():
                return
            yield

    def _follow(self, told: Iterator[News]) -> Iterator[None]:
        for where, texts, late in told:
            with self._lock:
                if self._stopped():
                    return
                self.environment = where
                for desk, text in zip(self._desks, texts, strict=True):
                    desk.text = text
                if late:
                    self._stopped.expire()
            yield

    @property
    def news(self) -> News:
        """Where the decoders work, and how far they are."""
        return self.environment, [desk.text for desk in self._desks], self._stopped.is_late

    def frames(self, clock: Clock = time.perf_counter) -> Iterator[None]:
        """As `steps`, but a caller that draws at each turn is not asked more often than is worth while."""
        due = clock() + PAUSE
        steps = self.steps()
        try:
            for _ in steps:
                if clock() >= due:
                    yield
                    due = (
                        clock()
                        + PAUSE
                        + PAUSE_PER_TOKEN * sum(np.count_nonzero(desk.text.numbers) for desk in self._desks)
                    )
        finally:
            steps.close()  # type: ignore[attr-defined]

    def stop(self) -> None:
        """Ends the writing; a step that is under way is thrown away."""
        with self._lock:
            self._stopped.set()
            for desk in self._desks:
                desk.text.stage = "done" if desk.text.stage == "done" else "stopped"

    @property
    def is_waiting(self) -> bool:
        """Whether nothing was done yet."""
        return all(desk.text.stage == "waiting" for desk in self._desks)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be written."""
        return all(desk.text.stage in ("done", "stopped") for desk in self._desks)

    @property
    def most_seconds(self) -> float:
        """From the first step to the last."""
        return self._stopped.seconds

    @property
    def is_late(self) -> bool:
        """Whether a text was stopped because its time was over."""
        return self._stopped.is_late and any(desk.text.stage == "stopped" for desk in self._desks)

    @property
    def was_called_off(self) -> bool:
        """Whether a text was stopped before its time was over."""
        return not self._stopped.is_late and any(desk.text.stage == "stopped" for desk in self._desks)

    def surprises(self) -> Iterator[None]:
        """Asks the teacher how likely each text is, one a turn; what it said once is kept."""
        for desk in self._desks:
            for row in range(self.config.samples):
                tokens, numbers = desk.text.row(row)
                if tokens and all(numbers) and tuple(tokens) not in self._nats:
                    with self._turn.held(yields=True), few_threads(self.pair):
                        self._nats[tuple(tokens)] = surprise(self.pair.teacher, self.ids, tokens)
                    yield

    def written(self) -> list[Written]:
        """All texts as they stand, in the order of `DECODERS`."""
        with self._lock:
            reference = self._reference if self.config.same_noise else None
            exact = [reference.text.row(row)[0] for row in range(self.config.samples)] if reference else None
            return [
                Written(
                    desk.decoder,
                    [
                        self._line(*desk.text.row(row), exact[row] if exact and desk.is_compared(reference) else None)
                        for row in range(self.config.samples)
                    ],
                    desk.k,
                    desk.seed,
                    desk.text.nfe,
                    desk.text.seconds,
                    desk.text.stage,
                )
                for desk in self._desks
            ]

    def as_json(self) -> dict[str, Any]:
        """Texts, tokens and times, with all that they hang on; plain values."""
        return {
            "prompt": self.config.prompt,
            "prompt_tokens": self.ids,
            "settings": asdict(self.config),
            "environment": self.environment,
            "decoders": [written.as_json() for written in self.written()],
        }

    @property
    def _growing(self) -> list[_Desk]:
        return [desk for desk in self._desks if desk.text.stage == "writing"]

    def _step(self, desk: _Desk, clock: Clock) -> None:
        start = clock()
        step = next(desk.steps, None)
        if step is not None:
            step.tokens.cpu()  # waits for the device
        took = clock() - start
        with self._lock:
            if not self._stopped():
                desk.text.take(step, took)

    def _line(self, tokens: list[int], numbers: list[int], exact: list[int] | None) -> Line:
        shared, parted = None, False
        if exact is not None:
            known = min(len(tokens), len(exact))
            shared = next((n for n in range(known) if tokens[n] != exact[n]), known)
            parted = shared < known
        ended = self._eos is not None and bool(tokens) and numbers[-1] > 0 and tokens[-1] == self._eos
        nats = self._nats.get(tuple(tokens)) if all(numbers) else None
        return Line(tokens, numbers, self._pieces(tokens, numbers), ended, nats, shared, parted)

    def _pieces(self, tokens: list[int], numbers: list[int]) -> list[str]:
        """Of each stretch without a gap."""
        pieces: list[str] = []
        while len(pieces) < len(tokens):
            start = end = len(pieces)
            while end < len(tokens) and numbers[end]:
                end += 1
            before = [] if start else self.ids[-1:]
            pieces += self._spelling.pieces(tokens[start:end], before) if end > start else [""]
        return pieces


class _Text:
    """What one decoder has written."""

    def __init__(self, decoder: str, sheet: TokenBuffer) -> None:
        self.decoder, self.sheet = decoder, sheet
        self.numbers: Ints = np.zeros_like(sheet.tokens)
        self.nfe, self.seconds = 0, 0.0
        self.stage: Stage = "waiting"
        self._count = 0

    def take(self, step: Step | None, seconds: float) -> None:
        """Writes a step down; None: there is no more."""
        self.seconds += seconds
        if step is not None:
            self.sheet.write(step)
            self._count += 1
            self.nfe += step.passes
            self.numbers[self.sheet.filled & (self.numbers == 0)] = self._count
        if step is None or self.sheet.done:
            self.stage = "done"

    def row(self, row: int) -> tuple[list[int], list[int]]:
        """Tokens of a sample up to its end, and the step of each; a masked model's has gaps, with step 0."""
        length = int(self.sheet.lengths[row])
        if DECODERS[self.decoder].in_order:
            length = min(length, int(self.sheet.filled[row].sum()))
        return self.sheet.tokens[row, :length].tolist(), self.numbers[row, :length].tolist()


class _Desk:
    """One decoder at work."""

    def __init__(self, pair: Pair, ids: list[int], config: WriteConfig, decoder: str, eos: int | None) -> None:
        networks = Networks(pair.teacher, pair.student, pair.masked)
        own, samples, new_tokens = config.of(decoder), range(config.samples), config.new_tokens
        self.decoder, self.seed, self.k = decoder, config.seed_of(decoder), resolve_k(own, networks)
        noise = keyed_noise(self.seed, samples, own, networks, new_tokens)
        order = keyed_order(self.seed, samples, new_tokens)
        self.steps = decode(own, networks, [ids] * config.samples, noise, new_tokens, order)
        self.text = _Text(decoder, TokenBuffer(config.samples, new_tokens, eos))
        self._place = pair.teacher.device

    def read_prompt(self) -> None:
        """What precedes the clock."""
        next(self.steps)
        synchronise(self._place)
        if self.text.stage == "waiting":
            self.text.stage = "writing"

    def is_compared(self, reference: _Desk | None) -> bool:
        """A masked model draws from marginals by that noise, which is no map of the whole text."""
        return self is not reference and DECODERS[self.decoder].in_order

    def close(self) -> None:
        """Ends the decoder, so that its cache is free."""
        self.steps.close()  # type: ignore[attr-defined]


@torch.inference_mode()
def surprise(teacher: AnyTeacher, prompt: list[int], tokens: list[int]) -> list[float]:
    """-ln of the teacher's probability of each token after the prompt and those before it, in nats."""
    ids = torch.tensor([prompt + tokens], device=teacher.device)
    law = teacher(ids, read=len(tokens) + 1)[0, :-1].log_softmax(dim=-1)
    return (-law.gather(1, ids[0, len(prompt) :, None])[:, 0]).tolist()
