"""What an open page says to the server over HTTP, without a browser: its components' questions and its buttons."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx

from kfexplore.errors import KfError

PATIENCE: Final = 180.0
"""Seconds after which an answer is no longer waited for, as in channel.js; a stream says at least that it lives."""
API: Final = "gradio_api"

Json = dict[str, Any]


class Lost(Exception):
    """No answer came: refused, cut, timeout, or what the server said instead of one."""


class Full(Exception):
    """The queue of the page has no place."""


@dataclass(frozen=True)
class Layout:
    """Components and events of a page, as its config has them."""

    ids: Mapping[str, int]
    """Of components, by their elem_id."""
    values: Mapping[int, Any]
    """That fields have at first."""
    events: list[Json]

    @classmethod
    def of(cls, config: Json) -> Layout:
        """Reads a config."""
        parts = config["components"]
        ids = {part["props"]["elem_id"]: part["id"] for part in parts if part["props"].get("elem_id")}
        values = {part["id"]: part["props"].get("value") for part in parts}
        return cls(ids, values, config["dependencies"])

    def clicked(self, button: str) -> list[Json]:
        """The server's part of what a button sets off, in order; a step that follows on failures alone is left out."""
        at = [self.ids[button], "click"]
        steps = [event for event in self.events if at in event["targets"]]
        for step in steps:
            steps += [event for event in self.events if event["trigger_after"] == step["id"]]
        return [step for step in steps if step["backend_fn"] and not step["trigger_only_on_failure"]]


class Session:
    """One open page.

    Args:
        http: Sends; may be shared.
        layout: Of the page.
        name: Tells it apart from all others.
    """

    def __init__(self, http: httpx.AsyncClient, layout: Layout, name: str) -> None:
        self._http, self._layout, self._name = http, layout, name

    async def ask(self, function: str, question: Json) -> Json:
        """What a server function of the Scrub component replies.

        Raises:
            Lost: nothing, or no object.
        """
        body = {"component_id": self._layout.ids["scrub"], "fn_name": function, "data": question}
        reply = await self._post("component_server/", body)
        if not isinstance(reply, dict):
            raise Lost(f"no object but {reply!r}")
        return reply

    async def press(self, button: str, fields: Mapping[str, Any]) -> AsyncGenerator[list[Any], None]:
        """Presses a button, other fields as the page has them at first; yields each picture that comes back.

        A picture is a list of values, one an output; of a stream all but the first are what has changed.

        Raises:
            Lost: no answer.
            Full: the queue has no place.
        """
        values = {**self._layout.values, **{self._layout.ids[name]: value for name, value in fields.items()}}
        for event in self._layout.clicked(button):
            body = {"data": [values[each] for each in event["inputs"]], "fn_index": event["id"], "event_data": None}
            if not event["queue"]:
                yield (await self._post(f"run/{event['api_name']}", body))["data"]
                continue
            joined = (await self._post("queue/join", body))["event_id"]
            async with aclosing(self._stream()) as stream:
                async for told in stream:
                    if told.get("event_id") != joined:
                        continue
                    if told["msg"] == "process_generating":
                        yield told["output"]["data"]
                    elif told["msg"] == "process_completed":
                        if not told["success"]:
                            raise Lost(f"an error: {told['output'].get('error')}")
                        break
                else:
                    raise Lost("cut")

    @asynccontextmanager
    async def kept_alive(self) -> AsyncIterator[None]:
        """Holds the connection by which the server knows that the page is open."""
        beat = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            beat.cancel()
            with suppress(asyncio.CancelledError):
                await beat

    async def _beat(self) -> None:
        with suppress(Lost):
            async for _ in self._lines(f"heartbeat/{self._name}"):
                pass

    async def _post(self, path: str, body: Json) -> Any:
        with _losses():
            reply = await self._http.post(f"{API}/{path}", json={**body, "session_hash": self._name})
            if reply.status_code == 503 and path == "queue/join":
                raise Full
            reply.raise_for_status()
            return reply.json()

    async def _stream(self) -> AsyncGenerator[Json, None]:
        async for line in self._lines(f"queue/data?session_hash={self._name}"):
            if line.startswith("data:"):
                yield json.loads(line[5:])

    async def _lines(self, path: str) -> AsyncIterator[str]:
        with _losses():
            async with self._http.stream("GET", f"{API}/{path}") as stream:
                stream.raise_for_status()
                async for line in stream.aiter_lines():
                    yield line


@contextmanager
def _losses() -> Iterator[None]:
    """Turns what httpx raises where no answer came into a `Lost`."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise Lost(f"HTTP {error.response.status_code}") from error
    except httpx.TimeoutException as error:
        raise Lost("timeout") from error
    except httpx.ConnectError as error:
        raise Lost("refused") from error
    except (httpx.TransportError, json.JSONDecodeError) as error:
        raise Lost("cut") from error


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Layout]]:
    """A client for any number of pages of a served app, and their layout.

    Raises:
        KfError: no app answers there.
    """
    # Idle connections end here before the server ends them (after 5 s): a question never meets one that is closing.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits, trust_env=False) as http:
        try:
            layout = Layout.of((await http.get("config")).raise_for_status().json())
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError):
            raise KfError(f"No kfexplore app answers at {url}.", "its address", "kfexplore app") from None
        yield http, layout
