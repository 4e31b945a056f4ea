"""Clients that click buttons in a served app: one generates texts in Generate, one races decoders in Timing."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

import httpx
from gradio_client import Client
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError

from kfexplore.errors import KfError

DECODERS: Final = ("ar", "pflm")
BATCHES: Final = (1, 4)
FAILED: Final = "kf-prose-failed"
BUSY: Final = "The server is busy."
"""Status of a tab after the server refused a request."""
PATIENCE: Final = 180.0
"""Seconds to wait for an answer, as in the page's session.js."""
REST: Final = 2.0
"""Seconds between two texts or races."""
DRAWN: Final = 3
"""Number of the first update that shows a result; the first two say that it waits, and that its turn has come."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a client."""

    what: str
    """Kind of request: move, move_asked, point, tables, open, text, text_first or race."""
    client: str
    at: float
    """Seconds since 1970."""
    ms: float | None = None
    how: Literal["done", "busy", "lost", "error"] = "done"
    why: str = ""


@dataclass(frozen=True)
class Text:
    """Tokens that a decoder wrote for a client, to compare with a run of the same seed alone."""

    prompt: str
    decoder: str
    seed: int
    new_tokens: int
    tokens: list[int]


class Lost(Exception):
    """No answer came."""


class Busy(Exception):
    """The server refused a request because it is busy."""


class Page:
    """One open page of a served app.

    Args:
        url: Address of the app.
        is_cut: Whether the app was down at a given time.

    Raises:
        KfError: no app answers there.
    """

    def __init__(self, url: str, is_cut: Callable[[float], bool] = lambda _: False) -> None:
        try:
            self.client = Client(url, verbose=False, download_files=False, analytics_enabled=False)
            self._parts = {part["id"]: part for part in self.client.config["components"]}
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError):
            raise KfError(f"No kfexplore app answers at {url}.", "its address", "kfexplore app") from None
        self._is_cut = is_cut
        self.ids = {part["props"]["elem_id"]: n for n, part in self._parts.items() if part["props"].get("elem_id")}

    def click(self, button: str, fields: Mapping[str, Any], drawn: Callable[[], None] = lambda: None) -> list[Any]:
        """Clicks a button, with all other fields at their defaults; returns the outputs.

        Args:
            button: Its elem_id.
            fields: Values of fields, by elem_id.
            drawn: Called once, when an update shows a result.

        Raises:
            Busy: the queue is full.
            Lost: no answer.
        """
        values = {self.ids[name]: value for name, value in fields.items()}
        found: list[Any] = []
        for step in chain(self.client.config["dependencies"], self.ids[button]):
            inputs = [self._parts[n] for n in step["inputs"] if self._parts[n]["type"] != "state"]
            given = [values.get(part["id"], part["props"].get("value")) for part in inputs]
            self.client.endpoints[step["id"]].is_valid = True  # buttons are private to the page, which this imitates
            try:
                found += self._pictures(self.client.submit(*given, fn_index=step["id"]), len(found), drawn)
            except QueueError:
                raise Busy from None
            except (AppError, httpx.HTTPError, ValueError) as error:
                raise Lost(f"{type(error).__name__}: {error}") from error
        return found

    def _pictures(self, job: Any, before: int, drawn: Callable[[], None]) -> list[Any]:
        """All outputs of a job, in order of arrival."""
        began, is_over = time.time(), False
        is_drawn = before >= DRAWN
        while not is_over:
            is_over = job.done()
            if not is_drawn and before + len(job.outputs()) >= DRAWN:
                is_drawn = True
                drawn()
            if not is_over and (time.time() - began > PATIENCE or self._is_cut(time.time())):
                raise Lost("no answer")
            time.sleep(0.0 if is_over else 0.02)
        job.result()
        return list(job.outputs())


def chain(events: list[dict[str, Any]], button: int) -> list[dict[str, Any]]:
    """The server's steps after a click, in order, without those that follow only a failure."""
    steps = [event for event in events if [button, "click"] in [list(target) for target in event["targets"]]]
    for step in steps:
        steps += [event for event in events if event["trigger_after"] == step["id"]]
    return [step for step in steps if step["backend_fn"] and not step["trigger_only_on_failure"]]


@dataclass
class Clicker(ABC):
    """Clicks the buttons of a tab, and checks in its download that the results are its own."""

    name: str
    pair: str
    prompt: str
    """Distinct for each client."""
    record: Callable[[Event], None]
    what: ClassVar[str]
    """`Event.what`; with the suffix `_first` for the first update that shows a result."""
    buttons: ClassVar[tuple[str, str]]
    """The buttons that start a run and download its result."""

    def run(self, opened: Callable[[], Page], until: float) -> None:
        """Clicks until a time, then waits for the running job. Reopens a page that lost its connection."""
        page, n = None, 0
        while time.time() < until:
            try:
                page = page or opened()
                if wrong := self.wrong(self._document(page, n), n):
                    self._tell(how="error", why=f"not its own: {wrong}")
            except Busy:
                self._tell(how="busy")
            except (Lost, KfError) as lost:
                self._tell(how="lost", why=str(lost))
                page = None
            n += 1
            time.sleep(min(REST, max(0.0, until - time.time())))

    @abstractmethod
    def fields(self, n: int) -> dict[str, Any]:
        """Values of the tab's fields, by elem_id, in round n."""

    @abstractmethod
    def wrong(self, document: dict[str, Any], n: int) -> Any:
        """The part of a document that does not belong to round n, or None."""

    def _document(self, page: Page, n: int) -> dict[str, Any]:
        start = time.time()
        fields = {"pair": self.pair, "prompt": self.prompt, **self.fields(n)}
        pictures = page.click(self.buttons[0], fields, lambda: self._tell("_first", ms=1e3 * (time.time() - start)))
        ms = 1e3 * (time.time() - start)
        if FAILED in (status := pictures[0][0]):
            raise Busy if BUSY in status else Lost(status)
        (saved,) = page.click(self.buttons[1], {})
        text = saved if isinstance(saved, str) else saved[0]
        if not text:
            raise Lost("there is no document")
        self._tell(ms=ms)
        return dict(json.loads(text))

    def _tell(self, suffix: str = "", **values: Any) -> None:
        self.record(Event(self.what + suffix, self.name, time.time(), **values))


@dataclass
class Writer(Clicker):
    """Continues its prompt, each time from another seed."""

    seed: int
    new_tokens: int = 64
    texts: list[Text] = field(default_factory=list)
    what, buttons = "text", ("generate-go", "generate-save")

    def fields(self, n: int) -> dict[str, Any]:
        chosen = {"generate-decoders": list(DECODERS), "generate-length": self.new_tokens}
        return {**chosen, "generate-seed": self.seed + n}

    def wrong(self, document: dict[str, Any], n: int) -> Any:
        seed, written = self.seed + n, document["decoders"]
        found = document["prompt"], document["settings"]["seed"], {each["decoder"]: each["stage"] for each in written}
        if found != (self.prompt, seed, dict.fromkeys(DECODERS, "done")):
            return found
        tokens = {each["decoder"]: each["lines"][0]["tokens"] for each in written}
        self.texts += [Text(self.prompt, decoder, seed, self.new_tokens, tokens[decoder]) for decoder in DECODERS]
        return None


@dataclass
class Racer(Clicker):
    """Races decoders, each time with another number of new tokens."""

    what, buttons = "race", ("timing-go", "timing-json")

    def fields(self, n: int) -> dict[str, Any]:
        chosen = {"timing-decoders": list(DECODERS), "timing-batches": list(BATCHES), "timing-repeats": 1}
        return {**chosen, "timing-length": 16 + n % 8}

    def wrong(self, document: dict[str, Any], n: int) -> Any:
        found = {(row["decoder"], row["batch"], row["new_tokens"], row["error"]) for row in document["rows"]}
        return None if found == {(name, batch, 16 + n % 8, None) for name in DECODERS for batch in BATCHES} else found
