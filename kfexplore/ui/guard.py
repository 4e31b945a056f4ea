"""What the server answers at all: paths that page and API need, bodies of a bounded length, nothing from elsewhere."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from gradio_client.utils import is_file_obj_with_meta, traverse
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kfexplore.checkpoints.files import shortened
from kfexplore.figures.page import plotly_script
from kfexplore.ui.api import Api
from kfexplore.ui.limits import ServerLimits

PLOTLY: Final = "kf/plotly.min.js"
"""Where the page finds Plotly's script, the one file that it takes from outside Gradio's own."""
USAGE: Final = "monitoring/summary"
"""Where Gradio's page about the API asks how often each function was called."""
CALL: Final = r"call/(v2/)?(map|laws|generate)"
"""The API without a client of Gradio's; of another name, Gradio would fail."""
CALLED: Final = re.compile(r"/(call/(?P<named>v2/)?|run/)(?P<name>map|laws|generate)/?$")
READ: Final = re.compile(
    rf"/(|config|theme\.css|robots\.txt|favicon\.ico|manifest\.json|pwa_icon(/\d+)?|{re.escape(PLOTLY)}|{USAGE}"
    r"|(assets|static|svelte)/.+"
    r"|gradio_api/(info|theme\.css|startup-events|app_id|user|queue/(data|status)|heartbeat/[\w-]+|mcp/schema"
    rf"|{CALL}/\w+))/?"
)
WRITE: Final = re.compile(rf"/gradio_api/(queue/join|cancel|reset|component_server|run/.+|{CALL}|mcp)/?")
"""Gradio has more: uploads, files of its cache, saved states, a proxy, monitoring, older transports of MCP. Neither the
page nor its API needs them."""
HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
        b"form-action 'self'",
    ),
)
"""A browser then asks no other host for anything, whatever stands in a page. Gradio makes functions of text."""


class Guard:
    """Refuses what the page and its API do not need before anything of Gradio sees it.

    A proxy that shows the page under a prefix may keep the prefix or strip it. Either way the paths below are those
    behind it, and the app gets them with it.

    Args:
        app: What answers the rest.
        most_bytes: Of a request's body.
    """

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app, self._most_bytes = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or lets it through with its body read."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        prefix = urlsplit(scope.get("root_path", "")).path
        if prefix and scope["path"] == prefix:  # where the page's relative addresses would lead elsewhere
            question = scope["query_string"].decode("latin-1")
            await RedirectResponse(f"{prefix}/?{question}" if question else f"{prefix}/")(scope, receive, send)
            return
        path = _behind(prefix, scope["path"])
        scope = {**scope, "root_path": prefix, "path": prefix + path}
        served = {"GET": READ, "HEAD": READ, "POST": WRITE}.get(scope.get("method", ""))
        if served is None or not served.fullmatch(path):
            await _refusal(path)(scope, receive, send)
            return
        if served is WRITE:
            body = await self._body(receive)
            if body is None:
                await PlainTextResponse("The request is too long.", 413)(scope, receive, send)
                return
            if _has_file(body):
                await PlainTextResponse("No files are taken.", 400)(scope, receive, send)
                return
            if wrong := _wrong_arguments(path, body):
                await JSONResponse({"error": wrong}, 422)(scope, receive, send)
                return
            receive = _again(body, receive)
        await self._app(scope, receive, _with_headers(send))

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None where it is too long."""
        body, more = b"", True
        while more:
            part = await receive()
            body += part.get("body", b"")
            more = part.get("more_body", False)
            if len(body) > self._most_bytes:
                return None
        return body


def serving(limits: ServerLimits) -> dict[str, Any]:
    """`app_kwargs` of `gr.Blocks.launch`."""

    def plotly(_: Request) -> FileResponse:
        return FileResponse(plotly_script(), headers={"Cache-Control": "max-age=3600"})

    def usage(_: Request) -> JSONResponse:
        return JSONResponse({"functions": {}})  # nobody counts

    return {
        "middleware": [Middleware(Guard, most_bytes=limits.request_bytes)],
        "routes": [Route(f"/{PLOTLY}", plotly), Route(f"/{USAGE}", usage)],
    }


def _behind(prefix: str, path: str) -> str:
    """The path behind a prefix: as it is where the proxy has stripped the prefix."""
    if READ.fullmatch(path) or WRITE.fullmatch(path) or not path.startswith(f"{prefix}/"):
        return path
    return path[len(prefix) :]


def _wrong_arguments(path: str, body: bytes) -> str | None:
    """What is wrong with the arguments of a call of the API; None: nothing. Gradio would fail, and not say why."""
    called = CALLED.search(path)
    if called is None:
        return None
    parameters = inspect.signature(getattr(Api, called["name"])).parameters
    names = [name for name in parameters if name != "self"]
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None  # no JSON, as whoever reads it finds too
    if called["named"]:
        needed = [name for name in names if parameters[name].default is inspect.Parameter.empty]
        missing = [name for name in needed if name not in value] if isinstance(value, dict) else []
        unknown = [name for name in value if name not in names] if isinstance(value, dict) else []
    else:  # one after another, all of them
        given = value.get("data") if isinstance(value, dict) else None
        missing, unknown = names[len(given) :] if isinstance(given, list) else [], []
    if not missing and not unknown:
        return None
    failed = f"lacks {', '.join(missing)}" if missing else f"takes no {shortened(unknown)}"
    return f"{called['name']} {failed}. Valid: {', '.join(names)}"


def _refusal(path: str) -> PlainTextResponse:
    """Of a path that is not served, or not by this method: MCP clients ask for a stream first, and go on after 405."""
    for method, served in (("GET, HEAD", READ), ("POST", WRITE)):
        if served.fullmatch(path):
            return PlainTextResponse("Not by this method.", 405, {"Allow": method})
    return PlainTextResponse("Not found.", 404)


def _has_file(body: bytes) -> bool:
    """Whether Gradio would take a part of it for an uploaded file: it would fetch whatever address that names."""
    found: list[object] = []
    try:
        traverse(json.loads(body), found.append, is_file_obj_with_meta)
    except ValueError:
        return False  # no JSON, as whoever reads it finds too
    except RecursionError:
        return True
    return bool(found)


def _again(body: bytes, receive: Receive) -> Receive:
    """What has been read is received once more; then what else comes."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return first.pop() if first else await receive()

    return received


def _with_headers(send: Send) -> Callable[[Message], Any]:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
        await send(message)

    return sent
