"""A client that scrubs as a page does: what it asks of a server whose models are on a CPU, and when, is what rows.js,
scrub.js and channel.js do.

A slider's row is asked for when a hand is laid on it; a move that it holds then costs nothing, and before it has come a
point is asked for. When a drag ends, the rows are whose tracks it has changed.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from kfexplore.bench.tally import Tally
from kfexplore.bench.wire import PATIENCE, Json, Lost, Session

FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 4.0
"""Seconds, about, before a question is asked again that the server was too busy for; each pause is twice the last."""
ASKED_AGAIN: Final = 1.0
"""Seconds after which a page that could not be opened is opened again."""
RESOLUTION: Final = 512
MOVE_EVERY: Final = 0.1
"""Seconds between two moves of a drag."""
DRAG: Final = (2.0, 4.0)
REST: Final = (1.0, 3.0)
"""Seconds that a drag takes, and from one to the next: the shortest and the longest."""

Function = Literal["point", "tables"]
Kind = Literal["hand", "track"]
Ask = Callable[[str, Json], Awaitable[Json]]


@dataclass(frozen=True)
class Answer:
    """Tokens that the server gave, to be held against the exact ones."""

    prompt: str
    u: list[float]
    teacher: list[int]
    student: list[int]


def crossed(function: Function, question: Json, reply: Json) -> str | None:
    """In which way a reply is not the one to this question; None where it is."""
    echoes = ["seq", "u"] if function == "point" else ["seq", "u", "pair", "prompt"]
    for name in echoes:
        if reply.get(name) != question[name]:
            return f"{name} is {reply.get(name)!r}, not {question[name]!r}"
    k = len(question["u"])
    if function == "point":
        wrong = {len(reply[model]) for model in ("teacher", "student")} != {k}
    else:
        wrong = (reply["k"], reply["slots"]) != (k, question.get("slots", list(range(k))))
    return "tokens of other slots" if wrong else None


@dataclass(frozen=True)
class Row:
    """What a page holds of one slider: good for any noise that differs from `u` in that slot alone.

    One of the slots up to its own is but its track.
    """

    slot: int
    u: list[float]
    every: int
    """It knows the middle one of so many steps."""

    def fits(self, u: list[float]) -> bool:
        """Whether it is of that noise, all of it."""
        return len(self.u) == len(u) and all(
            slot == self.slot or now == then for slot, (now, then) in enumerate(zip(u, self.u, strict=True))
        )

    def track_fits(self, u: list[float]) -> bool:
        """Whether what the slider's own slot becomes is of that noise: it hangs on the slots before it."""
        return u[: self.slot] == self.u[: self.slot]

    def snapped(self, value: float) -> float:
        """The nearest noise that it knows."""
        step = int(value * RESOLUTION)
        return float((step - step % self.every + self.every // 2 + 0.5) / RESOLUTION)


class Channel:
    """One question in flight and one that waits; a newer one takes the place of the one that waits.

    Args:
        send: Asks until there is an answer; told whether another question waits.
        take: Gets every answer but those that were too busy.
        group: Runs the questions.
    """

    def __init__(
        self,
        send: Callable[[Json, Callable[[], bool]], Awaitable[Json]],
        take: Callable[[Json, Json], None],
        group: asyncio.TaskGroup,
    ) -> None:
        self._send, self._take, self._group = send, take, group
        self._waiting: Json | None = None
        self.is_flying = False

    def post(self, question: Json) -> None:
        """Asks, or waits."""
        if self.is_flying:
            self._waiting = question
        else:
            self.is_flying = True
            self._group.create_task(self._fly(question))

    def drop(self) -> None:
        """The question that waits is not asked."""
        self._waiting = None

    async def _fly(self, question: Json) -> None:
        reply = await self._send(question, lambda: self._waiting is not None)
        following, self._waiting, self.is_flying = self._waiting, None, False
        if following is not None:
            self.post(following)
        if not reply.get("busy"):
            self._take(reply, question)


class Scrubber:
    """A page whose sliders are dragged, one after the other.

    Args:
        name: Of the client.
        tally: Counts.
        pair: Name of the pair.
        prompt: Its own.
        k: Slots.
        random: Chooses drags, and which answers are kept.
        kept: Most answers that are kept.
    """

    def __init__(
        self, name: str, tally: Tally, pair: str, prompt: str, k: int, random: np.random.Generator, kept: int
    ) -> None:
        self._name, self._tally, self._random, self._most = name, tally, random, kept
        self._about, self._k = {"pair": pair, "prompt": prompt}, k
        self._u: list[float] = []
        self._rows: list[Row] = []
        self._hand: int | None = None
        self._settled = True
        self._fetching: set[Kind] = set()
        self._seq = self._drawn_seq = 0
        self._drawn_u: list[float] = []
        self._open: list[tuple[int, float]] = []
        """Moves whose tokens are not known yet: their numbers, and when they were made."""
        self.answers: list[Answer] = []

    async def run(self, opened: Callable[[], Session], until: float) -> None:
        """Opens a page and scrubs until that time of the tally's clock."""
        session = opened()
        async with session.kept_alive():
            await self.scrub(session.ask, until)

    async def scrub(self, ask: Ask, until: float) -> None:
        """Asks for its prompt's tables and drags; at the end its last questions are answered.

        Args:
            ask: Asks a function of the server; raises Lost.
            until: When nothing more is begun.
        """
        self._ask, clock = ask, self._tally.clock
        async with asyncio.TaskGroup() as group:
            self._points = Channel(lambda *given: self._answered("point", *given), self._take_point, group)
            self._group = group
            while not await self._opened() and clock() < until:
                await asyncio.sleep(ASKED_AGAIN)
            while self._rows and clock() < until:
                await self._drag(until)
                await asyncio.sleep(min(self._random.uniform(*REST), max(0.0, until - clock())))
        for _ in self._open:
            self._tally.wrong("move", "its tokens never came")

    async def _opened(self) -> bool:
        """Asks for the tables of its prompt, as a page does for another prompt; whether they came."""
        start = self._tally.clock()
        steps = self._random.integers(RESOLUTION, size=self._k)
        question = self._question(u=((steps + 0.5) / RESOLUTION).tolist(), resolution=RESOLUTION)
        reply = await self._answered("tables", question, lambda: False)
        if reply.get("ok"):
            self._u = self._drawn_u = question["u"]
            self._rows = [Row(slot, self._u, reply["every"]) for slot in reply["slots"]]
            self._tally.took("open", self._tally.clock() - start)
        return bool(reply.get("ok"))

    async def _drag(self, until: float) -> None:
        """Moves one slider to another place, a step every tenth of a second, and lets it go."""
        slot, target = int(self._random.integers(len(self._u))), int(self._random.integers(RESOLUTION))
        moves = int(self._random.uniform(*DRAG) / MOVE_EVERY)
        start = int(self._u[slot] * RESOLUTION)
        self._hand = slot
        self._refresh()
        due = self._tally.clock()
        for step in np.linspace(start, target, moves + 1).astype(int)[1:].tolist():
            if due >= until:
                break
            self._move(slot, (step + 0.5) / RESOLUTION)
            due += MOVE_EVERY
            await asyncio.sleep(max(0.0, due - self._tally.clock()))
        self._settled = True
        self._refresh()

    def _move(self, slot: int, value: float) -> None:
        row = self._rows[slot]
        self._seq, self._settled = self._seq + 1, False
        self._stand(slot, row.snapped(value) if row.fits(self._u) else value)
        self._open.append((self._seq, self._tally.clock()))
        self._answer(at_once=True)

    def _stand(self, slot: int, value: float) -> None:
        self._u = [value if at == slot else u for at, u in enumerate(self._u)]

    def _answer(self, at_once: bool = False) -> None:
        if any(row.fits(self._u) and row.snapped(self._u[row.slot]) == self._u[row.slot] for row in self._rows):
            self._points.drop()
            self._draw(self._seq, self._u, at_once)
        elif self._needed()["hand"] is None or all(row.every == 1 for row in self._rows):
            self._points.post(self._question())

    def _needed(self) -> dict[Kind, int | None]:
        """What is out of date: of the slider under the hand its row; at rest, the first track no longer right."""
        hand = self._hand if self._hand is not None and not self._rows[self._hand].fits(self._u) else None
        stale = (row.slot for row in self._rows if row.slot != hand and not row.track_fits(self._u))
        return {"hand": hand, "track": next(stale, None) if self._settled else None}

    def _refresh(self) -> None:
        for kind, slot in self._needed().items():
            if slot is not None and kind not in self._fetching:
                self._fetching.add(kind)
                self._group.create_task(self._fetch(kind, slot, len(self._u) if kind == "hand" else slot + 1))

    async def _fetch(self, kind: Kind, slot: int, k: int) -> None:
        question = self._question(slots=[slot], resolution=RESOLUTION, yields=kind == "track")
        question |= {"u": self._u[:k], "k": k}

        def newer() -> bool:
            moved = any(at != slot and u != self._u[at] for at, u in enumerate(question["u"]))
            return moved or self._needed()[kind] != slot

        reply = await self._answered("tables", question, newer)
        self._fetching.remove(kind)
        if reply.get("busy") or self._take_rows(reply, question):
            self._refresh()

    def _question(self, **more: Any) -> Json:
        return {"seq": self._seq, **self._about, "u": self._u, **more}

    async def _answered(self, function: Function, question: Json, newer: Callable[[], bool]) -> Json:
        """The answer to a question, asked again while the server is busy; {} where none came, or not its own."""
        pause, first = FIRST_PAUSE, self._tally.clock()
        while True:
            start = self._tally.clock()
            try:
                reply = await self._ask(function, question)
            except Lost as lost:
                self._tally.lost(function, str(lost))
                return {}
            if not reply.get("busy"):
                break
            self._tally.busy(function)
            if self._tally.clock() - first > PATIENCE:
                self._tally.wrong(function, "too busy for too long")
                return {}
            await asyncio.sleep(pause * self._random.uniform(0.5, 1.5))
            pause = min(2 * pause, LONGEST_PAUSE)
            if newer():
                return reply
        if not reply.get("ok"):
            self._tally.wrong(function, str(reply.get("failed")))
            return {}
        if wrong := crossed(function, question, reply):
            self._tally.wrong(function, f"not its own answer: {wrong}")
            return {}
        self._tally.took(function, self._tally.clock() - start)
        self._tally.well(self._name)
        self._keep(function, question, reply)
        return reply

    def _take_point(self, reply: Json, question: Json) -> None:
        if question["seq"] < self._drawn_seq:
            return
        if reply:
            self._draw(question["seq"], question["u"])
        elif question["seq"] == self._seq:
            self._restore()

    def _take_rows(self, reply: Json, question: Json) -> bool:
        """Whether there were any."""
        for slot in reply.get("slots", []):
            self._rows[slot] = Row(slot, question["u"], reply["every"])
        if not reply:
            if self._open and not self._points.is_flying:
                self._restore()
        elif self._open:
            if not self._settled and self._hand is not None and (row := self._rows[self._hand]).fits(self._u):
                self._seq += 1
                self._stand(row.slot, row.snapped(self._u[row.slot]))
            self._answer()
        return bool(reply)

    def _draw(self, seq: int, u: list[float], at_once: bool = False) -> None:
        """Tokens of a move are on the page; those of earlier moves that were waited for are out of date with them."""
        now = self._tally.clock()
        for number, began in self._open:
            if number <= seq:
                self._tally.took("move", now - began)
                if not (at_once and number == seq):
                    self._tally.took("move_asked", now - began)
        self._open = [move for move in self._open if move[0] > seq]
        self._drawn_seq, self._drawn_u = seq, u

    def _restore(self) -> None:
        """After a failure: back to the noise whose tokens are on the page."""
        for _ in self._open:
            self._tally.lost("move", "no tokens came")
        self._open = []
        self._seq += 1
        self._drawn_seq, self._settled = self._seq, True
        self._u = self._drawn_u

    def _keep(self, function: Function, question: Json, reply: Json) -> None:
        """One answer in some, until there are enough; of tables, one of their rows."""
        if len(self.answers) >= self._most or self._random.random() > 0.1:
            return
        prompt, u = self._about["prompt"], question["u"]
        if function == "point":
            self.answers.append(Answer(prompt, u, reply["teacher"], reply["student"]))
            return
        k, every, resolution = len(u), reply["every"], reply["resolution"]
        row, step = int(self._random.integers(len(reply["slots"]))), int(self._random.integers(resolution // every))
        there = (step * every + every // 2 + 0.5) / resolution
        moved = [there if at == reply["slots"][row] else value for at, value in enumerate(u)]
        tokens = (_row(reply[model], k, resolution // every)[row, step].tolist() for model in ("teacher", "student"))
        self.answers.append(Answer(prompt, moved, *tokens))


def _row(packed: str, k: int, steps: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    return np.frombuffer(base64.b64decode(packed), dtype="<u2").reshape(-1, steps, k)
