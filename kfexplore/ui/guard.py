"""Middleware that accepts only the paths that page and API need, with JSON of bounded size, and sets safe headers."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from gradio_client.utils import is_file_obj_with_meta, traverse
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kfexplore.checkpoints.files import shortened, shown
from kfexplore.figures.hints import READING
from kfexplore.figures.page import plotly_script
from kfexplore.ui.api import Api
from kfexplore.ui.cache import Sessions
from kfexplore.ui.clients import CLIENT, Places, TooMany, client_of
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.queueing import FairQueue
from kfexplore.ui.server import PLOTLY, close_silent, log_failure, log_in_lines
from kfexplore.ui.theme import PICTURE, PREVIEW

USAGE: Final = "monitoring/summary"
"""Path at which Gradio's page about the API requests the number of calls per function."""
STRING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A string in JSON; the last one may be unterminated."""
MOST_NODES: Final = 2_000
"""Values in a request's JSON; the page sends fewer than a hundred. Gradio traverses all of them several times."""
MOST_DEPTH: Final = 20
"""Nesting levels of lists and objects in a request's JSON."""
BODY_SECONDS: Final = 10.0
"""Seconds in which a request's body must have arrived."""
LONGEST_SESSION: Final = 64
"""Characters of a session's hash, which the server stores; Gradio's own have up to 36."""
WATCH_EVERY: Final = 1.0
"""Seconds between checks for unread messages and silent connections."""
CALL: Final = r"call/(v2/)?(map|laws|generate)"
"""API calls without a Gradio client; for other function names, Gradio would fail."""
CALLED: Final = re.compile(r"/(call/(?P<named>v2/)?|run/)(?P<name>map|laws|generate)/?$")
FILES: Final = {
    PLOTLY: (plotly_script(), "text/javascript"),
    PREVIEW: (PICTURE, "image/png"),
    READING: (Path(__file__).parents[2] / "docs" / "FIGURES.md", "text/plain"),
}
"""Files that the page needs besides Gradio's own, each with its media type."""
READ: Final = re.compile(
    r"/(|config|theme\.css|robots\.txt|favicon\.ico|manifest\.json|pwa_icon(/\d+)?"
    rf"|{'|'.join(map(re.escape, [*FILES, USAGE]))}"
    r"|(assets|static|svelte)/.+"
    r"|gradio_api/(info|theme\.css|startup-events|app_id|user|queue/(data|status)|heartbeat/[\w-]+|mcp/schema"
    rf"|{CALL}/[0-9a-f]{{32}}))/?"
)
HELD: Final = re.compile(r"/gradio_api/(component_server|run/.+)/?")
"""Requests that are answered when their work is done; others are answered when it is queued."""
WRITE: Final = re.compile(rf"/gradio_api/(queue/join|cancel|reset|component_server|run/.+|{CALL}|mcp)/?")
"""Paths for POST. Gradio has more, which neither the page nor its API needs: uploads, files of its cache, saved states,
a proxy, monitoring, older transports of MCP."""
HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
        b"form-action 'self'",
    ),
)
"""With this policy a browser contacts no other host, whatever a page contains. Gradio compiles functions with eval."""


class Guard:
    """Refuses requests that the page and its API do not need, before Gradio sees them.

    A proxy that serves the page under a prefix may keep the prefix or strip it. Either way, paths are matched without
    the prefix, and the app gets them with it.

    Args:
        app: Answers the accepted requests.
        limits: Limits on a request's body and on a client's requests.
    """

    def __init__(self, app: ASGIApp, limits: ServerLimits) -> None:
        self._app, self._most_bytes, self._places = app, limits.request_bytes, Places(limits.client_requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses a request, or passes it to the app with its body read."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        prefix = urlsplit(scope.get("root_path", "")).path
        if prefix and scope["path"] == prefix:  # without the slash, the page's relative URLs would be wrong
            question = scope["query_string"].decode("latin-1")
            await RedirectResponse(f"{prefix}/?{question}" if question else f"{prefix}/")(scope, receive, send)
            return
        path = _behind(prefix, scope["path"])
        scope = {**scope, "root_path": prefix, "path": prefix + path}
        served = {"GET": READ, "HEAD": READ, "POST": WRITE}.get(scope.get("method", ""))
        if served is None or not served.fullmatch(path):
            await _refusal(path)(scope, receive, send)
            return
        if served is READ:
            await self._answer(scope, receive, send)
            return
        try:
            body, session = await self._checked(Headers(scope=scope), path, receive)
        except _Refused as refused:
            await refused.answer(scope, receive, send)
            return
        client = client_of((scope.get("client") or ("",))[0], session)
        CLIENT.set(client)
        try:
            async with self._places.place(client) if HELD.fullmatch(path) else nullcontext():
                await self._answer(scope, _again(body, receive), send)
        except TooMany:
            await PlainTextResponse("Too many requests wait.", 429)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets the app answer; an exception is logged in one line, and answered without details if nothing was sent."""
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception as error:
            log_failure(shown(scope["path"], 100), error)
            if not begun:
                await PlainTextResponse("The request cannot be answered.", 400)(scope, receive, sent)

    async def _checked(self, headers: Headers, path: str, receive: Receive) -> tuple[bytes, str | None]:
        """Reads the body and checks that it is JSON of bounded size without files; returns it and its session hash.

        Raises:
            _Refused: a check failed, or the body did not arrive in time.
        """
        if "content-length" in headers and "transfer-encoding" in headers:
            raise _Refused("Content-Length and Transfer-Encoding were both given: send one of them.", 400)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise _Refused("Only application/json is accepted.", 415)
        try:
            body = await asyncio.wait_for(self._body(receive), BODY_SECONDS)
        except TimeoutError:
            raise _Refused("The request did not arrive in time.", 408) from None
        try:
            text = body.decode()
            _check_size(text)
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise _Refused("The request is not valid JSON.", 400) from None
        _check_depth(value)
        session = value.get("session_hash") if isinstance(value, dict) else None
        if not (session is None or (isinstance(session, str) and len(session) <= LONGEST_SESSION)):
            raise _Refused("The session_hash is not valid.", 400)
        if _has_file(value):
            raise _Refused("Files are not accepted.", 400)
        if wrong := _wrong_arguments(path, value):
            raise _Refused(wrong, 422, JSONResponse({"error": wrong}, 422))
        return body, session

    async def _body(self, receive: Receive) -> bytes:
        body, more = b"", True
        while more:
            part = await receive()
            body += part.get("body", b"")
            more = part.get("more_body", False)
            if len(body) > self._most_bytes:
                raise _Refused("The request is too long.", 413)
        return body


class _Refused(Exception):
    """A refused request, with its answer."""

    def __init__(self, why: str, status: int, answer: Response | None = None) -> None:
        super().__init__(why)
        self.answer = answer or PlainTextResponse(why, status, {"Connection": "close"} if status == 408 else None)


def serving(limits: ServerLimits) -> dict[str, Any]:
    """The `app_kwargs` for `gr.Blocks.launch`."""

    def file(path: Path, kind: str, _: Request) -> FileResponse:
        return FileResponse(path, media_type=kind, headers={"Cache-Control": "max-age=3600"})

    def usage(_: Request) -> JSONResponse:
        return JSONResponse({"functions": {}})  # calls are not counted

    return {
        "middleware": [Middleware(Guard, limits=limits)],
        "routes": [*(Route(f"/{name}", partial(file, *own)) for name, own in FILES.items()), Route(f"/{USAGE}", usage)],
        "lifespan": partial(_running, limits),
    }


@asynccontextmanager
async def _running(limits: ServerLimits, app: Any) -> AsyncIterator[None]:
    """While the server runs: MCP tools answer in JSON, busy sessions are kept, the queue is fair, unread events and
    silent connections end, failures are logged in one line, and no origin may send credentials.

    Gradio's outermost middleware allows any origin to send credentials. The page has none to protect, but an operator's
    proxy may have.
    """
    gc.freeze()  # a full collection of the objects that exist at start blocks everything for 0.3 s
    blocks = app.get_blocks()
    app.state_holder.session_data = Sessions(blocks._queue.event_ids_to_events)
    log_in_lines()
    inner = app.middleware_stack

    async def outermost(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["access-control-allow-credentials"]
            await send(message)

        await inner(scope, receive, sent)

    app.middleware_stack = outermost
    if server := blocks.mcp_server_obj:  # it would answer in Python syntax, and open files named in an answer
        text = server.types.TextContent
        server.postprocess_output_data = lambda data, _: [text(type="text", text=json.dumps(each)) for each in data]
    watching = asyncio.create_task(_watch(blocks, FairQueue(blocks._queue, limits.queue)))
    try:
        yield
    finally:
        watching.cancel()


async def _watch(blocks: Any, queue: FairQueue) -> None:
    silent: dict[Any, float] = {}
    while True:
        await asyncio.sleep(WATCH_EVERY)
        try:
            await queue.give_up_unread()
            silent = close_silent(blocks.server.server_state.connections, silent)
        except Exception as error:
            log_failure("Looking after the queue", error)


def _behind(prefix: str, path: str) -> str:
    """The path without its prefix; unchanged if the proxy has stripped the prefix."""
    if READ.fullmatch(path) or WRITE.fullmatch(path) or not path.startswith(f"{prefix}/"):
        return path
    return path[len(prefix) :]


def _check_size(text: str) -> None:
    """Refuses JSON of many values before it is parsed, because parsing or traversing it blocks all other requests.

    Outside strings, every value but the first follows a comma or an opening bracket.
    """
    bare = STRING.sub("", text)
    if sum(map(bare.count, ",[{")) >= MOST_NODES:
        raise _Refused(f"The request has more than {MOST_NODES} values.", 413)


def _check_depth(value: Any) -> None:
    """Refuses deeply nested JSON."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise _Refused(f"The request has more than {MOST_DEPTH} nested levels.", 413)
        level = [one for each in level if isinstance(each, dict | list) for one in _inside(each)]


def _inside(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _wrong_arguments(path: str, value: Any) -> str | None:
    """What is wrong with the arguments of an API call, or None. Gradio would fail without giving a reason."""
    called = CALLED.search(path)
    if called is None:
        return None
    parameters = inspect.signature(getattr(Api, called["name"])).parameters
    names = [name for name in parameters if name != "self"]
    if called["named"]:
        needed = [name for name in names if parameters[name].default is inspect.Parameter.empty]
        missing = [name for name in needed if name not in value] if isinstance(value, dict) else []
        unknown = [name for name in value if name not in names] if isinstance(value, dict) else []
    else:  # positional: all are needed
        given = value.get("data") if isinstance(value, dict) else None
        missing, unknown = names[len(given) :] if isinstance(given, list) else [], []
    if not missing and not unknown:
        return None
    failed = f"lacks {', '.join(missing)}" if missing else f"takes no {shortened(unknown)}"
    return f"{called['name']} {failed}. Valid: {', '.join(names)}"


def _refusal(path: str) -> PlainTextResponse:
    """The answer for an unknown path or a wrong method; MCP clients request a stream first, and continue after 405."""
    for method, served in (("GET, HEAD", READ), ("POST", WRITE)):
        if served.fullmatch(path):
            return PlainTextResponse("This method is not allowed.", 405, {"Allow": method})
    return PlainTextResponse("Not found.", 404)


def _has_file(value: Any) -> bool:
    """Whether Gradio would treat a part of it as an uploaded file, and fetch the address in it."""
    found: list[object] = []
    traverse(value, found.append, is_file_obj_with_meta)
    return bool(found)


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that replays the body, then continues with the original."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return first.pop() if first else await receive()

    return received
