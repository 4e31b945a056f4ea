"""The API, asked as strangers ask it, over the wire: what it answers and refuses, and that nothing else is listed."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any, get_type_hints

import gradio as gr
import httpx
import numpy as np
import pytest
from anyio.from_thread import start_blocking_portal
from documents import ROOT, fenced, read
from gradio_client import Client
from mcp import ClientSession, types
from mcp.client.streamable_http import streamable_http_client

from kfexplore.config import DecodeConfig
from kfexplore.decoders import DECODERS
from kfexplore.decoding.generate import Networks, generate, keyed_noise, keyed_order
from kfexplore.laws.study import finished, study_steps
from kfexplore.pair import Pair
from kfexplore.ui import api
from kfexplore.ui.api import Api, Refused
from kfexplore.ui.app import serve
from kfexplore.ui.cache import Sessions
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.service import Service, local_service

NAMES = ["map", "laws", "generate"]
PROMPT, U = "a b c", [0.1, 0.7, 0.3, 0.9]
USUAL: dict[str, dict[str, Any]] = {
    "map": {"prompt": PROMPT, "u": U},
    "laws": {"prompt": PROMPT},
    "generate": {"prompt": PROMPT},
}
DOCUMENT = ROOT / "docs" / "API.md"
WRITTEN_AT = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def service(pair: Pair) -> Service:
    return local_service({"small": lambda: pair}, ServerLimits(prompt_characters=100))


@pytest.fixture(scope="module")
def demo(service: Service) -> Iterator[gr.Blocks]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    served = serve(service, "small", server_port=port, prevent_thread_lock=True, quiet=True)
    yield served
    served.close()


@pytest.fixture(scope="module")
def url(demo: gr.Blocks) -> str:
    return str(demo.local_url).rstrip("/")


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Client]:
    client = Client(url, verbose=False, analytics_enabled=False)
    yield client
    client.close()


def asked(url: str, name: str, body: str) -> tuple[str, Any]:
    """The event and its data that a program receives over plain HTTP."""
    begun = httpx.post(f"{url}/gradio_api/call/v2/{name}", content=body, headers={"Content-Type": "application/json"})
    told = httpx.get(f"{url}/gradio_api/call/v2/{name}/{begun.json()['event_id']}", timeout=60).text
    (event, data), *more = re.findall(r"event: (complete|error)\ndata: (.*)\n", told)
    assert not more
    return event, json.loads(data)


def by_mcp(url: str, *work: Callable[[ClientSession], Awaitable[Any]]) -> list[Any]:
    """What an MCP client receives, in one session."""

    async def session() -> list[Any]:
        async with streamable_http_client(url) as (reading, writing, _), ClientSession(reading, writing) as opened:
            await opened.initialize()
            return [await each(opened) for each in work]

    with start_blocking_portal() as portal:
        return portal.call(session)


def tool(name: str, **arguments: Any) -> Callable[[ClientSession], Awaitable[types.CallToolResult]]:
    return lambda session: session.call_tool(name, arguments)


def text(answer: types.CallToolResult) -> str:
    (part,) = answer.content
    assert isinstance(part, types.TextContent)
    return part.text


# What is listed.


def test_three_endpoints_are_listed_and_no_listener_of_the_page(url: str) -> None:
    info = httpx.get(f"{url}/gradio_api/info").json()
    assert list(info["named_endpoints"]) == [f"/{name}" for name in NAMES]
    assert info["unnamed_endpoints"] == {}
    listed = [each for each in httpx.get(f"{url}/config").json()["dependencies"] if each["api_visibility"] != "private"]
    assert [each["api_name"] for each in listed] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_has_a_type_an_example_and_a_word(url: str, name: str) -> None:
    told = httpx.get(f"{url}/gradio_api/info").json()["named_endpoints"][f"/{name}"]
    arguments = inspect.signature(getattr(Api, name)).parameters
    assert [each["parameter_name"] for each in told["parameters"]] == list(arguments)[1:]
    for each in told["parameters"]:
        assert len(each["label"]) > 20
        assert each["type"]
        default = arguments[each["parameter_name"]].default
        assert each["parameter_has_default"] == (default is not inspect.Parameter.empty)
        assert each["example_input"] == (
            default if each["parameter_has_default"] else api.EXAMPLES[each["parameter_name"]]
        )
    (answer,) = told["returns"]
    fields = get_type_hints(get_type_hints(getattr(Api, name))["return"])
    assert list(answer["type"]["properties"]) == list(fields)


def test_the_decoders_are_those_of_the_package(url: str) -> None:
    told = httpx.get(f"{url}/gradio_api/info").json()["named_endpoints"]["/generate"]["parameters"]
    assert next(each for each in told if each["parameter_name"] == "decoder")["type"] == {"enum": list(DECODERS)}


def test_long_work_has_its_place_in_the_queue_of_the_page(demo: gr.Blocks) -> None:
    places = {fn.api_name: (fn.queue, fn.concurrency_id, fn.concurrency_limit) for fn in demo.fns.values()}
    assert places["laws"] == (True, "joint", 1)
    assert places["generate"] == (True, "generate", 1)
    queued = {place for name, place in places.items() if name and name.startswith("run")}
    assert queued == {(True, "joint", 1), (True, "generate", 1), (True, "timing", 1)}
    assert not places["map"][0]  # its turns are the sliders'


def test_sessions_with_work_in_the_queue_are_kept(demo: gr.Blocks) -> None:
    sessions = demo.app.state_holder.session_data
    assert isinstance(sessions, Sessions)
    assert sessions._events is demo._queue.event_ids_to_events


# What is answered.


def test_map_is_both_maps_at_that_noise(client: Client, pair: Pair) -> None:
    answer = client.predict(prompt=PROMPT, u=U, api_name="/map")
    ids = pair.encode(PROMPT)[0]
    block = pair.block([ids], [U])
    assert (answer["pair"], answer["prompt_tokens"]) == ("small", ids)
    assert [slot["u"] for slot in answer["slots"]] == U
    for which, tokens in (("exact", block.teacher[0].tolist()), ("learned", block.student[0].tolist())):
        assert [slot[which]["id"] for slot in answer["slots"]] == tokens
        assert [slot[which]["text"] for slot in answer["slots"]] == pair.texts(tokens)
    assert [slot["margin"] for slot in answer["slots"]] == block.margins[0].tolist()
    assert [slot["edge"] for slot in answer["slots"]] == block.edges[0].tolist()


def test_map_and_generate_take_a_temperature(client: Client, pair: Pair) -> None:
    answer = client.predict(prompt=PROMPT, u=U, temperature=0.5, api_name="/map")
    block = pair.block([pair.encode(PROMPT)[0]], [U], temperature=0.5)
    assert [slot["edge"] for slot in answer["slots"]] == block.edges[0].tolist()
    assert [slot["learned"]["id"] for slot in answer["slots"]] == block.student[0].tolist()
    text = client.predict(prompt=PROMPT, decoder="ar", new_tokens=10, seed=5, temperature=0.3, api_name="/generate")
    networks, own = Networks(pair.teacher, pair.student, pair.masked), DecodeConfig("ar", temperature=0.3)
    noise, ids = keyed_noise(5, range(1), own, networks, 10), pair.encode(PROMPT)[0]
    expected = generate(own, networks, [ids], noise, 10, keyed_order(5, range(1), 10))
    assert [token["id"] for token in text["tokens"]] == expected.tokens[0].tolist()


def test_laws_takes_a_temperature(client: Client, pair: Pair) -> None:
    answer = client.predict(prompt=PROMPT, blocks=200, temperature=0.5, api_name="/laws")
    found = finished(study_steps(pair, pair.encode(PROMPT)[0], 2, 200, temperature=0.5))
    assert (answer["temperature"], answer["notes"]) == (0.5, found.notes)
    assert answer["total_correlation"] == found.as_json()["total_correlation"]
    assert [row["tv"] for row in answer["samplers"]] == [dataclasses.asdict(row.tv) for row in found.samplers]


def test_a_prompt_too_long_says_what_was_read(client: Client, pair: Pair) -> None:
    prompt = " ".join("abcde" * 10)
    ids, cut = pair.encode(prompt)
    assert cut
    assert client.predict(prompt=prompt, u=[0.5], api_name="/map")["prompt_tokens"] == ids


def test_laws_is_the_study(client: Client, pair: Pair) -> None:
    answer = client.predict(prompt=PROMPT, blocks=400, seed=3, pair="small", api_name="/laws")
    found = finished(study_steps(pair, pair.encode(PROMPT)[0], 2, 400, 3))
    told = found.as_json()
    assert answer["total_correlation"] == told["total_correlation"]
    assert (answer["entropy"], answer["k"], answer["notes"]) == (told["entropy"], 2, found.notes)
    bounds = [told["tv_product"], *told["tv_product_bounds"]]
    assert [answer["irreducible_tv"][name] for name in ("value", "low", "high")] == bounds
    for row, expected in zip(answer["samplers"], told["samplers"], strict=True):
        assert (row["name"], row["passes"], row["blocks"]) == (expected["sampler"], expected["nfe"], expected["blocks"])
        assert (row["tv"], row["tv_by_chance"]) == (expected["tv"], expected["tv_expected"])
        assert (row["kl"], row["impossible"]) == (expected["kl"], expected["impossible"]["value"])
    joint = np.zeros((24, 24))
    joint[found.law.first] = found.law.joint
    drawn = {row.sampler: row.blocks.tolist() for row in found.samplers}
    assert 1 < len(answer["likely"]) <= api.LIKELY_BLOCKS
    for row, probability in zip(answer["likely"], sorted(joint.ravel(), reverse=True), strict=False):
        block = [token["id"] for token in row["tokens"]]
        assert row["probability"] == pytest.approx(joint[tuple(block)])
        assert row["probability"] == pytest.approx(probability)
        assert row["shares"] == {name: blocks.count(block) / len(blocks) for name, blocks in drawn.items()}


@pytest.mark.parametrize("decoder", DECODERS)
def test_generate_is_the_decoders_text(client: Client, pair: Pair, decoder: Any) -> None:
    k = None if decoder == "ar" else 3
    answer = client.predict(prompt=PROMPT, decoder=decoder, k=k, new_tokens=10, seed=5, api_name="/generate")
    networks, own = Networks(pair.teacher, pair.student, pair.masked), DecodeConfig(decoder, k=k)
    noise, ids = keyed_noise(5, range(1), own, networks, 10), pair.encode(PROMPT)[0]
    expected = generate(own, networks, [ids], noise, 10, keyed_order(5, range(1), 10))
    assert [token["id"] for token in answer["tokens"]] == expected.tokens[0].tolist()
    assert answer["text"] == "".join(token["text"] for token in answer["tokens"])
    assert answer["passes"] == expected.nfe
    assert answer["complete"]
    assert min(token["step"] for token in answer["tokens"]) == 1


def test_without_k_a_pass_has_as_many_tokens_as_the_student(client: Client, pair: Pair) -> None:
    assert client.predict(prompt=PROMPT, new_tokens=8, api_name="/generate")["k"] == pair.student.config.block


# What is refused.


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("map", {"prompt": 5}, "The prompt is not text. Valid: whole characters"),
        ("map", {"prompt": "\ud800"}, "The prompt is not text."),
        ("map", {"prompt": "a" * 101}, "The prompt has 101 characters. Valid: at most 100"),
        ("map", {"u": "x"}, "Noise 'x' is not a list of numbers."),
        ("map", {"u": ["y" * 100_000]}, "Noise … Valid: numbers from 0 up to, not including, 1"),
        ("map", {"u": [float("nan")]}, "Noise value nan is outside [0, 1)."),
        ("map", {"u": [10**400]}, "Noise … Valid: numbers from 0"),
        ("map", {"u": [0.1] * 1_000}, "The noise has the shape (1000,). Valid: a list of 1 to 4 numbers"),
        ("map", {"u": [[0.1, 0.2]]}, "The noise has the shape (1, 2)."),
        ("map", {"u": []}, "The noise has the shape (0,)."),
        ("map", {"pair": "../.."}, "There is no pair '../..'. Valid: small"),
        ("map", {"pair": ["small"]}, "There is no pair \"['small']\"."),
        ("laws", {"k": 10**9}, "k is 1000000000. Valid: 2 to 4"),
        ("laws", {"k": "two"}, "K is 'two'. Valid: a whole number"),
        ("laws", {"k": 10**400}, "Valid: a whole number"),
        ("laws", {"k": True}, "K is True. Valid: a whole number"),
        ("generate", {"k": True}, "K is True. Valid: a whole number"),
        ("map", {"u": [False, False]}, "Noise [False, False] is not a list of numbers."),
        ("laws", {"blocks": 10**9}, "1,000,000,000 blocks were requested. Valid: 100 to 4,096 on this page"),
        ("laws", {"blocks": 150.5}, "The number of blocks is 150.5. Valid: a whole number"),
        ("laws", {"blocks": 1}, "1 blocks were requested. Valid: 100 to 4,096 on this page"),
        ("laws", {"seed": -1}, "seed is -1."),
        ("laws", {"temperature": "hot"}, "The temperature is 'hot'. Valid: a number from 0.01 to 10"),
        ("laws", {"seed": 2**64}, "seed is 18446744073709551616."),
        ("laws", {"pair": {}}, "There is no pair '{}'."),
        ("generate", {"prompt": [PROMPT]}, "The prompt is not text."),
        ("generate", {"decoder": "gpt"}, "There is no decoder 'gpt'. Valid: ar, pflm"),
        ("generate", {"decoder": ["ar"]}, "There is no decoder ['ar']."),
        ("generate", {"k": 10**9}, "1,000,000,000 tokens per pass, K, were requested. Valid: 1 to 16"),
        ("generate", {"decoder": "ar", "k": 4}, "ar draws one token per pass from the teacher's own distribution."),
        ("generate", {"new_tokens": 10**9}, "1,000,000,000 new tokens were requested."),
        ("generate", {"new_tokens": 100}, "do not fit the context."),
        ("generate", {"new_tokens": None}, "The number of new tokens is empty."),
        ("generate", {"seed": float("inf")}, "The seed is inf."),
    ],
)
def test_what_is_wrong_is_said_in_one_line(url: str, name: str, given: dict[str, Any], told: str) -> None:
    event, data = asked(url, name, json.dumps({**USUAL[name], **given}))
    assert event == "error"
    assert told in data["error"]
    assert "\n" not in data["error"]
    assert len(data["error"]) < 600


@pytest.mark.parametrize(
    ("call", "body", "told"),
    [
        ("call/v2/map", {"u": U}, "map lacks prompt. Valid: prompt, u, pair"),
        ("call/v2/map/", {}, "map lacks prompt, u. Valid: prompt, u, pair"),
        ("call/v2/map", {"prompt": PROMPT, "u": U, "x": 1}, "map takes no x. Valid: prompt, u, pair"),
        ("call/v2/laws", {"k": 2}, "laws lacks prompt."),
        ("call/v2/generate", {"seed": 2}, "generate lacks prompt."),
        ("call/map", {"data": [PROMPT]}, "map lacks u, pair, temperature. Valid: prompt, u, pair, temperature"),
        ("run/map", {"data": []}, "map lacks prompt, u, pair, temperature."),
    ],
)
def test_an_argument_that_is_missing_or_unknown_is_named(url: str, call: str, body: dict[str, Any], told: str) -> None:
    answer = httpx.post(f"{url}/gradio_api/{call}", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(told)


def test_a_mistake_of_the_server_tells_nothing(
    client: Client, url: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"in {ROOT}/secret.py")

    for asks in ("point", "study", "writing"):
        monkeypatch.setattr(service, asks, broken)
    for name in NAMES:
        with pytest.raises(ValueError, match=r"^The server failed to answer\.$"):
            client.predict(**USUAL[name], api_name=f"/{name}")
    for answer in by_mcp(f"{url}/gradio_api/mcp/", *(tool(name, **USUAL[name]) for name in NAMES)):
        assert (answer.isError, text(answer)) == (True, "The server failed to answer.")


def test_a_text_whose_time_is_over_is_returned_as_far_as_it_is(pair: Pair) -> None:
    now = count()
    limited = local_service({"small": lambda: pair}, ServerLimits(run_seconds=30), clock=lambda: float(next(now)))
    answer = Api(limited).generate(PROMPT, "ar", new_tokens=40)
    assert not answer["complete"]
    assert 0 < len(answer["tokens"]) < 40


def test_laws_whose_time_is_over_say_so(pair: Pair) -> None:
    now = count()
    limited = local_service({"small": lambda: pair}, ServerLimits(run_seconds=1), clock=lambda: float(next(now)))
    with pytest.raises(Refused, match=r"^Stopped after 1 s, the limit of this page\. Valid: fewer blocks$"):
        Api(limited).laws(PROMPT)


@pytest.mark.parametrize("name", ["laws", "generate"])
def test_a_call_that_nobody_waits_for_is_cancelled(pair: Pair, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(api, "is_abandoned", lambda: True)
    with pytest.raises(Refused, match=r"^The call was cancelled\."):
        getattr(Api(local_service({"small": lambda: pair})), name)(PROMPT)


# Assistants.


def test_an_assistant_finds_three_tools_that_say_what_they_do(url: str) -> None:
    (found,) = by_mcp(f"{url}/gradio_api/mcp/", lambda session: session.list_tools())
    assert [each.name for each in found.tools] == NAMES
    for each in found.tools:
        assert each.description.startswith(inspect.getdoc(getattr(Api, each.name)).splitlines()[0])
        assert {"map": "margin: gap", "laws": "tv_by_chance: mean", "generate": "complete: false"}[
            each.name
        ] in each.description
        assert all(len(argument["description"]) > 20 for argument in each.inputSchema["properties"].values())
    assert found.tools[0].inputSchema["required"] == ["prompt", "u"]


def test_an_assistant_gets_the_same_in_json(url: str, client: Client) -> None:
    given = {**USUAL, "laws": {"prompt": PROMPT, "blocks": 100}}
    answers = by_mcp(f"{url}/gradio_api/mcp/", *(tool(name, **given[name]) for name in NAMES))
    for name, answer in zip(NAMES, answers, strict=True):
        expected = client.predict(**given[name], api_name=f"/{name}")
        assert {**json.loads(text(answer)), "seconds": 0} == {**expected, "seconds": 0}


def test_an_assistant_is_refused_likewise(url: str) -> None:
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("map", {"u": [2]}, "Noise value 2.0 is outside [0, 1). Valid: numbers"),
        ("map", {"prompt": {"path": "/etc/passwd"}}, "is not of type 'string'"),
        ("laws", {"pair": ["small"]}, "is not valid under any of the given schemas"),
        ("generate", {"k": 10**9}, "Valid: 1 to 16 on this page"),
        ("generate", {"file": "a"}, "`file` is not a valid key-word argument"),
    ]
    work = [tool(name, **{**USUAL[name], **given}) for name, given, _ in refused]
    *answers, unknown = by_mcp(f"{url}/gradio_api/mcp/", *work, tool("upload_file_to_gradio", file="a"))
    for answer, (_, _, told) in zip(answers, refused, strict=True):
        assert answer.isError
        assert told in text(answer)
    assert text(unknown) == "Unknown tool for this Gradio app: upload_file_to_gradio"


# The document.


def test_the_document_has_every_function_as_it_is_called() -> None:
    for name in NAMES:
        _, *arguments = inspect.signature(getattr(Api, name)).parameters.values()
        bare = [argument.replace(annotation=inspect.Parameter.empty) for argument in arguments]
        assert f"| `{name}{inspect.Signature(bare)}` |" in read(DOCUMENT)


def test_the_documents_python_runs(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (source,) = fenced(DOCUMENT, "python")
    assert WRITTEN_AT in source
    exec(compile(source.replace(WRITTEN_AT, url), str(DOCUMENT), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-6:-2]] == [str(u) for u in U]
    assert "'student'" in lines[-2]
    assert lines[-1].endswith("16")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the example is one of curl")
def test_the_documents_curl_runs(url: str, client: Client) -> None:
    (source,) = fenced(DOCUMENT, "bash")
    ended = subprocess.run(
        ["bash", "-c", source.replace(WRITTEN_AT, url)], capture_output=True, text=True, timeout=60, check=True
    )
    event, data, *_ = ended.stdout.splitlines()
    assert event == "event: complete"
    asked = {"prompt": "Once upon a time", "u": U}
    assert json.loads(data.removeprefix("data: ")) == [client.predict(**asked, api_name="/map")]


def test_the_documents_configuration_leads_to_the_tools(url: str) -> None:
    (server,) = json.loads(*fenced(DOCUMENT, "json"))["mcpServers"].values()
    (found,) = by_mcp(server["url"].replace(WRITTEN_AT, url), lambda session: session.list_tools())
    assert [each.name for each in found.tools] == NAMES
