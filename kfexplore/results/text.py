"""Texts as decoders write them, token by token: what a page shows while they grow, and keeps when they are done."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Stage = Literal["waiting", "writing", "done", "stopped"]


@dataclass(frozen=True)
class Line:
    """One sample: what follows the prompt, no further than the end of its text."""

    tokens: list[int]
    """Ids; 0 where none is yet."""
    steps: list[int]
    """The step that wrote each token, from 1; 0: none is there yet (a masked model fills in any order)."""
    pieces: list[str]
    """Each token's part of the text; "" for one whose character a later token completes."""
    ended: bool = False
    """Whether the last token is the end of the text."""
    surprise: list[float] | None = None
    """Of each token to the teacher, -ln p in nats; None: not asked for."""
    shared: int | None = None
    """First tokens that are also the exact map's under the same noise; None: nothing to compare with."""
    parted: bool = False
    """Whether a token that differs follows those."""

    @property
    def filled(self) -> int:
        """Tokens that are there."""
        return sum(step > 0 for step in self.steps)


@dataclass(frozen=True)
class Written:
    """What one decoder has written so far, and what it took."""

    decoder: str
    lines: list[Line]
    """One a sample."""
    k: int
    """Tokens, or guesses, a pass."""
    seed: int
    """Keys its noise."""
    nfe: int
    """Forward passes over the batch; reading the prompts is not among them."""
    seconds: float
    """Wall-clock time of its own steps alone, those of other decoders and the drawing of the page left out."""
    stage: Stage

    @property
    def tokens(self) -> int:
        """Tokens of all lines."""
        return sum(line.filled for line in self.lines)

    @property
    def loss(self) -> float | None:
        """Mean surprise of all tokens in nats a token, at the teacher's own temperature of 1; None: not known."""
        nats = [nats for line in self.lines for nats in line.surprise or ()]
        return sum(nats) / len(nats) if nats else None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        values["lines"] = [{**line, "text": "".join(line["pieces"])} for line in values["lines"]]
        speed = self.tokens / self.seconds if self.seconds else None
        return {**values, "tokens": self.tokens, "tokens_per_second": speed, "nats_per_token": self.loss}
