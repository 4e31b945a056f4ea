"""The page under load: many clients on loopback, each as a page is, against one server that is watched.

Every reply is checked to be its client's own, and some are held against the exact answer when the run is over.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Final

from kfexplore import noise
from kfexplore.bench.child import Child
from kfexplore.bench.pressers import Presser, Racer, Text, Writer
from kfexplore.bench.scrubber import Answer, Scrubber
from kfexplore.bench.setting import environment
from kfexplore.bench.tally import FLAT, Memory, Tally, spread
from kfexplore.bench.wire import Lost, Session, connected
from kfexplore.checkpoints.tokenizers import end_of_text
from kfexplore.config import DecodeConfig
from kfexplore.decoders import DECODERS
from kfexplore.decoding.generate import Networks, generate, keyed_noise
from kfexplore.errors import KfError
from kfexplore.laws.ranking import own_sentences
from kfexplore.pair import Pair

P95_MS: Final = 250.0
"""Bound of a move, in milliseconds."""
GRACE: Final = 120.0
"""Seconds after the end in which the last answers may come."""
ANSWERS: Final = 20
TEXTS: Final = 10
"""Of each client, that are held against the exact ones."""
NEW_TOKENS: Final = 64
"""Of a text."""
RACE_TOKENS: Final = 16
"""New tokens of a client's first race."""
WORDS: Final = 6
"""Of a client's prompt."""
BEGIN_WITHIN: Final = 0.05
"""Share of the time in which the clients begin, one after the other."""


@dataclass(frozen=True)
class LoadSettings:
    """Who asks, and for how long."""

    clients: int = 50
    """All of them; those that neither write nor time scrub."""
    seconds: float = 600.0
    writing: int = 4
    """Clients that have texts written."""
    timing: int = 1
    """Clients that race decoders."""
    restart: bool = False
    """Whether the server is killed and started again at half time."""
    seed: int = 0
    """Keys drags, and which answers are checked."""

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise KfError(f"The load lasts {self.seconds} s.", "more than 0")
        if min(self.writing, self.timing) < 0 or self.scrubbing < 1:
            raise KfError(
                f"Of {self.clients} clients {self.writing} write and {self.timing} time.", "one that scrubs, at least"
            )

    @property
    def scrubbing(self) -> int:
        """Clients that drag sliders."""
        return self.clients - self.writing - self.timing


def bench_load(pair: Pair, name: str, settings: LoadSettings, url: str | None = None) -> dict[str, Any]:
    """Drives an app, its own child or the one at an address.

    Args:
        pair: What the app has, too: answers are held against it.
        name: Of that pair, or its folder.
        settings: Who asks.
        url: Of an app that runs already; nothing is known of its memory then, and it cannot be killed.

    Returns:
        The document of `kfexplore bench load`.

    Raises:
        KfError: no app answers, or one is to be killed that is not ours.
    """
    if url:
        if settings.restart:
            raise KfError("Only an app that was started here is killed.", "--restart without --url")
        return asyncio.run(_Load(pair, name, settings, url).run())
    with Child(name) as app:
        app.start()
        return asyncio.run(_Load(pair, name, settings, app.url, app).run())


def wrong_answers(pair: Pair, answers: Sequence[Answer]) -> list[str]:
    """Those that differ from what both maps give after that prompt under that noise, in words."""
    wrong = []
    alike = defaultdict(list)
    for answer in answers:
        alike[answer.prompt, len(answer.u)].append(answer)
    for (prompt, _), group in alike.items():
        block = pair.block([pair.encode(prompt)[0]] * len(group), [answer.u for answer in group])
        for answer, *exact in zip(group, block.exact.tolist(), block.learned.tolist(), strict=True):
            if [answer.teacher, answer.student] != exact:
                wrong.append(f"after {prompt!r} at {answer.u}: {answer.teacher}, {answer.student}; it is {exact}")
    return wrong


def wrong_texts(pair: Pair, texts: Sequence[Text]) -> list[str]:
    """Those that differ from what the same decoder writes alone under the same seed, in words."""
    networks, eos = Networks(pair.teacher, pair.student, pair.masked), end_of_text(pair.need_tokenizer())
    wrong = []
    for text in texts:
        config = DecodeConfig(text.decoder, k=pair.k_max if DECODERS[text.decoder].takes_k else None)
        u = keyed_noise(text.seed, range(1), config, networks, text.new_tokens)
        alone = generate(config, networks, [pair.encode(text.prompt)[0]], u, text.new_tokens, eos=eos)
        if text.tokens != (exact := alone.tokens[0, : alone.lengths[0]].tolist()):
            wrong.append(f"{text.decoder} after {text.prompt!r}, seed {text.seed}: {text.tokens}; it is {exact}")
    return wrong


def client_prompts(count: int) -> list[str]:
    """A prompt of its own for each client: the first words of a sentence, and longer ones when all have been used."""
    sentences = [sentence.split() for sentence in own_sentences()]
    return [" ".join([*sentences[n % len(sentences)][:WORDS], *["and"] * (n // len(sentences))]) for n in range(count)]


class _Load:
    """One run."""

    def __init__(self, pair: Pair, name: str, settings: LoadSettings, url: str, app: Child | None = None) -> None:
        self._pair, self._name, self._settings, self._url, self._app = pair, name, settings, url, app
        self._tally = Tally()
        self._used: list[tuple[float, int, float]] = []
        """Of the server: seconds since the clients began, bytes, and seconds of CPU."""
        self._outage: tuple[float, float] | None = None
        """When the server was killed, and when it answered again."""

    async def run(self) -> dict[str, Any]:
        """Runs the clients, then checks what they kept; the document."""
        settings, tally = self._settings, self._tally
        about = environment(self._pair.teacher.device)
        about["versions"] |= {name: version(name) for name in ("gradio", "httpx")}
        async with connected(self._url) as (http, layout):
            numbers = itertools.count()

            def session() -> Session:
                return Session(http, layout, f"load{settings.seed}x{next(numbers)}")

            scrubbers, pressers = self._clients()
            await self._ready(session())
            began, own = tally.clock(), time.process_time()
            until = began + settings.seconds
            watching = asyncio.create_task(self._watch(began))
            everyone: list[Presser | Scrubber] = [*pressers, *scrubbers]
            pages = [client.run(session, until) for client in everyone]
            ramp = BEGIN_WITHIN * settings.seconds / settings.clients
            tasks = [asyncio.create_task(_later(n * ramp, page)) for n, page in enumerate(pages)]
            if settings.restart and self._app is not None:
                tasks.append(asyncio.create_task(self._restart(self._app)))
            done, late = await asyncio.wait(tasks, timeout=settings.seconds + GRACE)
            for task in late:
                task.cancel()
                tally.wrong("client", "it had no end")
            seconds, own = tally.clock() - began, time.process_time() - own
            watching.cancel()
            await asyncio.gather(*late, watching, return_exceptions=True)
            for task in done:
                task.result()
        answers = [answer for client in scrubbers for answer in client.answers]
        texts = [text for client in pressers if isinstance(client, Writer) for text in client.texts[:TEXTS]]
        for what, wrong in (("point", wrong_answers(self._pair, answers)), ("text", wrong_texts(self._pair, texts))):
            for each in wrong:
                tally.wrong(what, f"not the exact answer {each}")
        return {
            "bench": "load",
            **about,
            "pair": self._pair.info.get("name"),
            "settings": {**asdict(settings), "scrubbing": settings.scrubbing, "url": None if self._app else self._url},
            **self._measured(seconds, own),
            "checked": {"answers": len(answers), "texts": len(texts)},
        }

    def _clients(self) -> tuple[list[Scrubber], list[Presser]]:
        settings, tally, name = self._settings, self._tally, self._name
        prompts = client_prompts(settings.clients)
        k = self._pair.need_student().config.block
        pressers: list[Presser] = [
            *(Writer(f"writer {n}", tally, name, prompts.pop(), 1000 * n, NEW_TOKENS) for n in range(settings.writing)),
            *(Racer(f"racer {n}", tally, name, prompts.pop(), RACE_TOKENS) for n in range(settings.timing)),
        ]
        scrubbers = [
            Scrubber(f"scrubber {n}", tally, name, prompt, k, noise.generator(settings.seed, n), ANSWERS)
            for n, prompt in enumerate(prompts)
        ]
        return scrubbers, pressers

    async def _ready(self, page: Session) -> None:
        """Waits until the server has its models in memory.

        Raises:
            KfError: it has no such pair, or does not answer.
        """
        prompt = client_prompts(1)[0]
        try:
            reply = await page.ask("point", {"seq": 0, "pair": self._name, "prompt": prompt})
        except Lost as lost:
            raise KfError(f"The app at {self._url} does not answer: {lost}.", run="kfexplore app") from None
        if not reply["ok"]:
            raise KfError(f"The app at {self._url} says: {reply['failed']}", reply["valid"])

    async def _watch(self, began: float) -> None:
        """Takes the server's memory and time every second."""
        while self._app is not None:
            used = self._app.usage()
            if used is not None:
                self._used.append((self._tally.clock() - began, *used))
            await asyncio.sleep(1)

    async def _restart(self, app: Child) -> None:
        """Kills the server at half time and starts it again."""
        tally = self._tally
        await asyncio.sleep(self._settings.seconds / 2)
        tally.is_down = True
        killed = tally.clock()
        app.kill()
        tally.good.clear()
        await asyncio.to_thread(app.start)
        tally.is_down = False
        self._outage = killed, tally.clock()

    def _measured(self, seconds: float, own: float) -> dict[str, Any]:
        """Rows, memory, CPU, and whether the bounds hold; `own` is the CPU time of the clients."""
        settings, tally = self._settings, self._tally
        rows = [
            tally.row(what, clients)
            for whats, clients in (
                (("move", "move_asked", "point", "tables", "open"), settings.scrubbing),
                (("text", "text_first"), settings.writing),
                (("race",), settings.timing),
            )
            for what in whats
            if clients
        ]
        memory = Memory([(at, held) for at, held, _ in self._used], settings.seconds)
        server = (self._used[-1][2] - self._used[0][2]) / seconds if self._used else None
        return {
            "seconds": seconds,
            "cores": {"server": server, "clients": own / seconds},
            "rows": rows,
            "errors": tally.errors,
            "told": tally.told,
            "memory": memory.as_json() if self._used else None,
            "restart": self._recovery(),
            "verdicts": {
                "no error": tally.errors == 0,
                f"p95 of a move within {P95_MS:g} ms": (rows[0]["p95_ms"] or math.inf) <= P95_MS,
                f"memory within {FLAT:.0%} over the second half": memory.is_flat,
            },
        }

    def _recovery(self) -> dict[str, Any] | None:
        """How long the server was away, and until each client had an answer again."""
        if self._outage is None:
            return None
        killed, back = self._outage
        again = list(self._tally.good.values())
        return {
            "down_seconds": back - killed,
            "clients": self._settings.clients,
            "answered_again": len(again),
            "first_answer": spread([max(0.0, at - back) for at in again]),
        }


async def _later(seconds: float, page: Coroutine[Any, Any, None]) -> None:
    await asyncio.sleep(seconds)
    await page
