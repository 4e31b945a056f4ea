"""Clients that press buttons: one has texts written in Generate, one races decoders in Timing."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from kfexplore.bench.tally import Tally
from kfexplore.bench.wire import Full, Json, Lost, Session

DECODERS: Final = ("ar", "pflm")
BATCHES: Final = (1, 4)
FAILED: Final = "kf-prose-failed"
BUSY: Final = "The server is busy."
"""In the status of a tab, where what was asked for was not taken on."""
READS: Final = 2.0
"""Seconds from one text or race to the next."""


@dataclass(frozen=True)
class Text:
    """Tokens that a decoder wrote for a client, to be held against those that the same seed gives alone."""

    prompt: str
    decoder: str
    seed: int
    new_tokens: int
    tokens: list[int]


class Presser(ABC):
    """Presses the buttons of a tab, and takes from its download whether what came back is its own.

    Args:
        name: Of the client.
        tally: Counts.
    """

    what: str
    """Of rows and errors; with `_first` when the first picture of something done came."""

    def __init__(self, name: str, tally: Tally) -> None:
        self._name, self._tally = name, tally
        self._round = 0

    async def run(self, opened: Callable[[], Session], until: float) -> None:
        """Goes on until that time of the tally's clock; what is under way then is waited for.

        Args:
            opened: Opens a page; one that has lost its connection is opened anew, as Gradio's does itself.
            until: When nothing more is begun.
        """
        while self._tally.clock() < until:
            session = opened()
            async with session.kept_alive():
                await self._stay(session, until)

    async def _stay(self, session: Session, until: float) -> None:
        """Presses again and again, until that time or as long as the connection lasts."""
        is_lost = False
        while not is_lost and self._tally.clock() < until:
            try:
                await self._once(session)
                self._tally.well(self._name)
            except Full:
                self._tally.busy(self.what)
            except Lost as lost:
                self._tally.lost(self.what, str(lost))
                is_lost = True
            self._round += 1
            await asyncio.sleep(min(READS, max(0.0, until - self._tally.clock())))

    @abstractmethod
    async def _once(self, session: Session) -> None:
        """Asks for one thing, and checks what came."""

    async def _pressed(self, session: Session, go: str, save: str, fields: Mapping[str, Any]) -> Json:
        """Presses one button, waits for its end and downloads; the document.

        Raises:
            Lost: no answer, or no document.
        """
        start, drawn = self._tally.clock(), 0
        async with aclosing(session.press(go, fields)) as pictures:
            async for picture in pictures:
                drawn += 1
                if drawn == 1 and FAILED in picture[0]:
                    raise Full if BUSY in picture[0] else Lost(picture[0])
                if drawn == 3:  # the first says that it waits, and the second that its turn has come
                    self._tally.took(f"{self.what}_first", self._tally.clock() - start)
        seconds = self._tally.clock() - start
        document = await _only(session.press(save, {}))
        if not document:
            raise Lost("nothing is held")
        self._tally.took(self.what, seconds)
        return json.loads(document)


class Writer(Presser):
    """Has its prompt continued, each time under another seed.

    Args:
        pair: Name of the pair.
        prompt: Its own.
        seed: Of its first text.
        new_tokens: Of each text.
    """

    what = "text"

    def __init__(self, name: str, tally: Tally, pair: str, prompt: str, seed: int, new_tokens: int) -> None:
        super().__init__(name, tally)
        self._pair, self._prompt, self._seed, self._new_tokens = pair, prompt, seed, new_tokens
        self.texts: list[Text] = []

    async def _once(self, session: Session) -> None:
        seed = self._seed + self._round
        fields = {
            "pair": self._pair,
            "prompt": self._prompt,
            "generate-seed": seed,
            "generate-decoders": list(DECODERS),
            "generate-length": self._new_tokens,
        }
        document = await self._pressed(session, "generate-go", "generate-save", fields)
        own = (document["prompt"], document["settings"]["seed"]) == (self._prompt, seed)
        if not own or [each["decoder"] for each in document["decoders"]] != list(DECODERS):
            self._tally.wrong(self.what, f"not its own: {document['prompt']!r}, {document['settings']}")
            return
        for each in document["decoders"]:
            if each["stage"] != "done":
                self._tally.wrong(self.what, f"{each['decoder']} is {each['stage']}")
            else:
                tokens = each["lines"][0]["tokens"]
                self.texts.append(Text(self._prompt, each["decoder"], seed, self._new_tokens, tokens))


class Racer(Presser):
    """Races decoders, each time with another number of new tokens.

    Args:
        pair: Name of the pair.
        prompt: Its own.
        new_tokens: Of the first race.
    """

    what = "race"

    def __init__(self, name: str, tally: Tally, pair: str, prompt: str, new_tokens: int) -> None:
        super().__init__(name, tally)
        self._pair, self._prompt, self._new_tokens = pair, prompt, new_tokens

    async def _once(self, session: Session) -> None:
        length = self._new_tokens + self._round % 8
        fields = {
            "pair": self._pair,
            "prompt": self._prompt,
            "timing-decoders": list(DECODERS),
            "timing-batches": list(BATCHES),
            "timing-length": length,
            "timing-repeats": 1,
        }
        document = await self._pressed(session, "timing-go", "timing-json", fields)
        found = [(row["decoder"], row["batch"], row["new_tokens"], row["error"]) for row in document["rows"]]
        if sorted(found) != sorted((decoder, batch, length, None) for decoder in DECODERS for batch in BATCHES):
            self._tally.wrong(self.what, f"not its own, or not all of it: {found}")


async def _only(pictures: AsyncGenerator[list[Any], None]) -> Any:
    """The one value of the one picture of a button."""
    async with aclosing(pictures):
        async for picture in pictures:
            return picture[0]
    raise Lost("no picture")
