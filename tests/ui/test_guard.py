"""Requests made by hand: what is served and what is not, and that no answer tells of the machine."""

from __future__ import annotations

import asyncio
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import gradio as gr
import plotly
import pytest
from anyio.from_thread import BlockingPortal
from fastapi.testclient import TestClient
from PIL import Image

from kfexplore.figures.hints import READING
from kfexplore.pair import Pair
from kfexplore.ui import guard
from kfexplore.ui.app import build_app, fresh_first_payload
from kfexplore.ui.guard import serving
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.server import PLOTLY
from kfexplore.ui.service import local_service
from kfexplore.ui.theme import PREVIEW, use_preview

LIMITS = ServerLimits(request_bytes=4000, prompt_characters=100)
API = "/gradio_api"
REPOSITORY = Path(__file__).resolve().parents[2]
FILES = ["/etc/passwd", "../../etc/passwd", str(REPOSITORY / "pyproject.toml"), "pyproject.toml", "app.py"]


@pytest.fixture(scope="module")
def demo(pair: Pair) -> gr.Blocks:
    service = local_service({"small": lambda: pair}, LIMITS)
    return build_app(service, "small", fresh_first_payload(service, "small"))


@pytest.fixture(scope="module")
def client(demo: gr.Blocks) -> TestClient:
    demo.show_error = False  # as `launch` leaves it
    return TestClient(gr.routes.App.create_app(demo, app_kwargs=serving(LIMITS)), raise_server_exceptions=False)


def assert_tells_nothing(text: str) -> None:
    for word in ("Traceback", "site-packages", str(REPOSITORY), ".py", "root:x"):
        assert word not in text


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "path",
    ["{api}/file={file}", "{api}/file/{file}", "/file={file}", "/static/{file}", "/assets/{file}", "/svelte/{file}"],
)
def test_no_file_outside_the_served_ones_is_reached(client: TestClient, path: str, file: str) -> None:
    for name in (file, file.replace("/", "%2F"), file.replace("../", "..%2f")):
        answer = client.get(path.format(api=API, file=name))
        assert answer.status_code in (403, 404)
        assert_tells_nothing(answer.text)


def test_the_script_of_the_figures_is_served(client: TestClient) -> None:
    answer = client.get(f"/{PLOTLY}")
    assert answer.content == (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_bytes()
    assert "default-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{API}/upload"),
        ("GET", f"{API}/deep_link?session_hash=a"),
        ("GET", f"{API}/proxy=https://example.com"),
        ("GET", f"{API}/file=https://example.com"),
        ("GET", "/monitoring"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("POST", f"{API}/vibe-edit"),
        ("POST", f"{API}/call/linked"),
        ("POST", f"{API}/call/v2/nothing"),
        ("GET", f"{API}/mcp/sse"),
        ("POST", f"{API}/mcp/messages/"),
        ("POST", f"{API}/mcp/http"),
        ("GET", "/nothing"),
    ],
)
def test_what_the_page_does_not_need_is_not_there(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.text) == (404, "Not found.")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/", "GET, HEAD"),
        ("PUT", f"{API}/queue/join", "POST"),
        ("GET", f"{API}/mcp/", "POST"),
        ("DELETE", f"{API}/mcp", "POST"),
        ("POST", f"{API}/mcp/schema", "GET, HEAD"),
    ],
)
def test_a_refused_method_names_the_one_that_is_served(
    client: TestClient, method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("path", ["run/predict", "queue/join", "call/map", "call/v2/map", "component_server", "mcp/"])
@pytest.mark.parametrize(
    "spelt",
    [
        '{"path": "%s", "meta": {"_type": "gradio.FileData"}}',
        '{"path": "%s", "m\\u0065ta": {"\\u005ftype": "gradio.FileD\\u0061ta"}}',
    ],
)
def test_what_gradio_would_take_for_a_file_is_refused_before_it_fetches_it(
    client: TestClient, demo: gr.Blocks, monkeypatch: pytest.MonkeyPatch, path: str, spelt: str
) -> None:
    fetched: list[str] = []

    async def fetch(url: str, *_: Any, **__: Any) -> str:
        fetched.append(url)
        return "/tmp/a"

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", fetch)
    number = next(n for n, fn in demo.fns.items() if fn.api_name == "fit")
    file = spelt % "https://example.com/"
    body = f'{{"fn_index": {number}, "session_hash": "a", "data": [{file}, ["ar"], 1, 1]}}'
    answer = client.post(f"{API}/{path}", content=body, headers={"Content-Type": "application/json"})
    assert fetched == []
    assert (answer.status_code, answer.text) == (400, "Files are not accepted.")


@pytest.mark.parametrize(
    "body",
    ["", "{", "[" * 3000, "[" * 700 + "]" * 700, '"' + chr(0xD800).encode("utf-8", "surrogatepass").decode("latin-1")],
)
def test_a_body_that_is_no_question_is_refused_without_a_word(client: TestClient, body: str) -> None:
    answer = client.post(
        f"{API}/run/predict", content=body.encode("latin-1"), headers={"Content-Type": "application/json"}
    )
    assert 400 <= answer.status_code < 500
    assert_tells_nothing(answer.text)


def test_a_long_request_is_refused_unread(client: TestClient) -> None:
    question = {"data": "x" * 4000, "fn_name": "tables", "component_id": 0, "session_hash": "a"}
    answer = client.post(f"{API}/component_server", json=question)
    assert (answer.status_code, answer.text) == (413, "The request is too long.")
    parts = (b"x" * 100 for _ in range(50))  # without a Content-Length
    sent = client.post(f"{API}/component_server", content=parts, headers={"Content-Type": "application/json"})
    assert sent.status_code == 413


def scrub(demo: gr.Blocks) -> int:
    return next(number for number, block in demo.blocks.items() if getattr(block, "elem_id", None) == "scrub")


@pytest.mark.parametrize("name", ["tables", "point", "grid"])
@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"pair": "../..", "prompt": "a"}, "no pair '../..'"),
        ({"pair": "small", "prompt": "x" * 101}, "101 characters"),
        ({"pair": "small", "prompt": "a", "resolution": 10**9}, "steps"),
        ({"pair": "small", "prompt": "a", "k": [1]}, "K is [1]"),
        ([], "not a JSON object"),
        ("a", "not a JSON object"),
    ],
)
def test_the_sliders_questions_are_checked_by_the_server(
    client: TestClient, demo: gr.Blocks, name: str, asked: Any, told: str
) -> None:
    question = {"data": asked, "fn_name": name, "component_id": scrub(demo), "session_hash": "a"}
    answer = client.post(f"{API}/component_server", json=question)
    assert answer.status_code == 200
    assert told in answer.json()["failed"]


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"data": 1, "fn_name": "nothing", "component_id": 10**9, "session_hash": "a"},
        {"data": 1, "fn_name": "__class__", "component_id": 1, "session_hash": "a"},
    ],
)
def test_a_broken_question_is_refused_without_a_word(client: TestClient, question: dict[str, Any]) -> None:
    answer = client.post(f"{API}/component_server", json=question)
    assert answer.status_code in (400, 404, 500)
    assert_tells_nothing(answer.text)


def called(client: TestClient, demo: gr.Blocks, name: str, *data: Any) -> Any:
    """A direct call of the handler of that name."""
    number = next(n for n, fn in demo.fns.items() if fn.api_name == name)
    return client.post(f"{API}/run/predict", json={"fn_index": number, "data": data, "session_hash": "a"})


@pytest.mark.parametrize("at", [None, "a", 1.5, True, -1, 10**9, [0], {"a": 1}])
def test_a_prompt_that_is_not_offered_is_refused(client: TestClient, demo: gr.Blocks, at: object) -> None:
    answer = called(client, demo, "pick", at)
    assert answer.status_code == 200
    assert "There is no such prompt." in answer.text


def test_the_queue_cannot_be_passed_by(client: TestClient, demo: gr.Blocks) -> None:
    queued = {fn.api_name for fn in demo.fns.values() if fn.fn is not None and fn.queue}
    assert {name.rstrip("_0123456789") for name in queued} == {"run", "underline", "laws", "generate"}
    for name in queued:
        assert called(client, demo, name).status_code == 404


def test_a_handler_that_fails_reveals_nothing(
    client: TestClient, demo: gr.Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError(f"in {REPOSITORY}/secret.py")

    fn = next(fn for fn in demo.fns.values() if fn.api_name == "sliders")
    monkeypatch.setattr(fn, "fn", broken)
    answer = called(client, demo, "sliders")
    assert (answer.status_code, json.loads(answer.text)) == (500, {"error": None})


def sent(client: TestClient, body: bytes, **headers: str) -> Any:
    return client.post(f"{API}/component_server", content=body, headers={"Content-Type": "application/json"} | headers)


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * 1_300 + b"[]]",
        b"[" + b"1," * 1_300 + b"1]",
        b"[" * 1_300,
        b'{"a":' * 1_300,
        b'["' + b'\\"",' * 1_300,
    ],
)
def test_json_of_many_values_is_refused_before_it_is_parsed(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(guard, "MOST_NODES", 700)
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("it was parsed"))
    assert sent(client, body).status_code == 413


def test_json_of_many_levels_is_refused_before_it_is_walked(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "traverse", lambda *_: pytest.fail("it was walked"))
    assert sent(client, b"[" * 30 + b"]" * 30).status_code == 413


@pytest.mark.parametrize("body", [b'["' + b'[,\\"{' * 200 + b'"]', b'"\\', '["∢,,"]'.encode("utf-16"), b'"' * 9])
def test_what_strings_hold_counts_as_one_value(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(guard, "MOST_NODES", 10)
    assert sent(client, body).status_code in (400, 422)  # not what the page sends, but not too long


@pytest.mark.parametrize("part", ['"', '\\"', "\\", '"a', '"\\\\'])
def test_strings_without_an_end_are_checked_quickly(part: str) -> None:
    started = time.process_time()
    guard._check_size(part * 100_000)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("session", ["x" * 65, ["a"], {"a": 1}, 5])
def test_a_session_that_is_no_short_text_is_refused(client: TestClient, session: Any) -> None:
    question = {"data": {}, "fn_name": "tables", "component_id": 1, "session_hash": session}
    assert sent(client, json.dumps(question).encode()).status_code == 400


def test_multipart_is_refused_before_it_is_parsed(client: TestClient) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\nleft'
    answer = sent(client, body, **{"Content-Type": "multipart/form-data; boundary=b"})
    assert (answer.status_code, answer.text) == (415, "Only application/json is accepted.")


def test_a_length_beside_an_encoding_is_refused(client: TestClient) -> None:
    answer = sent(client, b"{}", **{"Content-Length": "2", "Transfer-Encoding": "chunked"})
    assert answer.status_code == 400


def test_a_body_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch, portal: BlockingPortal) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.01)
    answers: list[Any] = []

    async def never() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        answers.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"9")]
    scope = {"type": "http", "method": "POST", "path": f"{API}/queue/join", "query_string": b"", "headers": headers}
    portal.call(guard.Guard(lambda *_: pytest.fail("it was let through"), LIMITS), scope, never, send)
    assert answers[0]["status"] == 408


@pytest.mark.parametrize("seq", [10**300, "1", [1], True])
def test_a_number_of_a_question_that_is_none_is_not_repeated(client: TestClient, demo: gr.Blocks, seq: Any) -> None:
    data = {"seq": seq, "pair": "small", "prompt": ""}
    question = {"data": data, "fn_name": "tables", "component_id": scrub(demo), "session_hash": "a"}
    answer = client.post(f"{API}/component_server", json=question)
    assert answer.status_code == 200
    assert answer.json()["seq"] is None
    assert not answer.json()["ok"]


def test_a_request_that_gradio_fails_on_is_one_line_in_the_log(
    client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    question = {"data": 1, "fn_name": "tables", "component_id": 999999999, "session_hash": "a"}
    answer = client.post(f"{API}/component_server", json=question)
    assert 400 <= answer.status_code < 500
    assert len(capsys.readouterr().err.splitlines()) <= 1
    assert client.get(f"{API}/call/map/abc").status_code == 404


def test_no_origin_is_given_credentials(client: TestClient) -> None:
    with client:  # as a server that runs
        answer = client.get("/robots.txt", headers={"Origin": "https://example.com"})
    assert answer.headers["access-control-allow-origin"] == "https://example.com"
    assert "access-control-allow-credentials" not in answer.headers


def test_a_shared_link_has_a_title_and_a_picture_of_its_own(client: TestClient) -> None:
    use_preview()
    root = "https://example.org/demo"
    page = gr.routes.templates.get_template("frontend/index.html").render(config={"root": root}, gradio_api_info={})
    said = dict(re.findall(r'<meta\s+(?:property|name)="(?:og|twitter):(\w+)"\s+content="([^"]*)"', page))
    assert said["title"].startswith("kfexplore: ")
    assert "Gradio" not in " ".join(said.values())
    assert "noise value" in said["description"]
    assert said["image"] == f"{root}/{PREVIEW}"
    picture = client.get(f"/{PREVIEW}")
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).size == (1200, 630)


def test_hints_lead_to_the_document_that_explains_figures(client: TestClient) -> None:
    assert client.get(f"/{READING}").text.startswith("# How to read each figure")
