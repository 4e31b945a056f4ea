"""Texts as decoders write them, token by token."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Stage = Literal["waiting", "writing", "done", "stopped"]


@dataclass(frozen=True)
class Line:
    """One sample: what follows the prompt, no further than the end of its text."""

    tokens: list[int]  # ids; 0 where there is none yet
    steps: list[int]  # the step that wrote each token, from 1; 0: none yet (a masked model fills in any order)
    pieces: list[str]  # each token's part of the text; "" for one whose character a later token completes
    ended: bool = False  # whether the last token is the end of the text
    surprise: list[float] | None = None  # surprisal of each token under the teacher, nats; None: not requested
    shared: int | None = None  # first tokens that the exact map also gives for this noise; None: nothing to compare
    diverged: bool = False  # whether a token that differs follows them
    links: list[tuple[int, str]] = field(default_factory=list)
    """First token of each block, and the query of a link to its context and noise; "" where the text of the context
    gives other tokens."""


@dataclass(frozen=True)
class Written:
    """The texts of one decoder so far, and their cost."""

    decoder: str
    lines: list[Line]  # one per sample
    k: int  # tokens, or guesses, per pass
    seed: int  # of its noise
    nfe: int  # forward passes over the batch, without prefill
    seconds: float  # wall-clock time of its own steps alone
    stage: Stage

    @property
    def tokens(self) -> int:
        """Tokens of all lines."""
        return sum(step > 0 for line in self.lines for step in line.steps)

    @property
    def loss(self) -> float | None:
        """Mean surprisal of all tokens at temperature 1, nats per token; None: unknown."""
        nats = [nats for line in self.lines for nats in line.surprise or ()]
        return sum(nats) / len(nats) if nats else None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        for line in values["lines"]:
            del line["links"]
            line["text"] = "".join(line["pieces"])
        speed = self.tokens / self.seconds if self.seconds else None
        return {**values, "tokens": self.tokens, "tokens_per_second": speed, "nats_per_token": self.loss}
