"""Proxies around the page: those of the environment, and one in front of it that shows it under a prefix."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import gradio as gr
import httpx
import pytest
from documents import ROOT, fenced

from kfexplore.errors import KfError
from kfexplore.ui.app import serve
from kfexplore.ui.server import PLOTLY, ROOT_VARIABLE, exempt_loopback, root_path
from kfexplore.ui.service import Service

PROXIES = [
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
]
HEADERS = {"X-Forwarded-Host": "example.org", "X-Forwarded-Proto": "https"}


@pytest.fixture(autouse=True)
def _no_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, ROOT_VARIABLE):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


@contextmanager
def served(service: Service) -> Iterator[tuple[gr.Blocks, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    demo = serve(service, "small", server_port=port, prevent_thread_lock=True, quiet=True)
    yield demo, f"http://127.0.0.1:{port}"
    demo.close()


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_the_page_starts_where_a_proxy_is_named(service: Service, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    with served(service) as (_, url):
        assert httpx.get(f"{url}/config").status_code == 200


@pytest.mark.skipif(find_spec("socksio") is not None, reason="SOCKS proxies can be used here")
def test_a_proxy_that_cannot_be_used_is_one_message(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(KfError, match=r"proxy set in the environment .* cannot be used") as caught:
        serve(service, "small")
    assert "unset ALL_PROXY" in caught.value.run


def test_hosts_that_need_no_proxy_are_kept() -> None:
    environment = {"NO_PROXY": ".corp, [::1]", "http_proxy": "http://127.0.0.1:9"}
    exempt_loopback("192.0.2.7", environment)
    assert environment["no_proxy"] == environment["NO_PROXY"] == ".corp,::1,127.0.0.1,localhost,192.0.2.7"


def proxied() -> dict[str, tuple[str, str]]:
    """Of the two examples in SERVING.md: the prefix, and what the page is asked for instead of it."""
    (text,) = fenced(ROOT / "docs" / "SERVING.md", "nginx")
    found = re.findall(r"location (\S+) \{ proxy_pass http://127\.0\.0\.1:7860(/?);", text)
    return {"strips" if slash else "keeps": (prefix, slash or prefix) for prefix, slash in found}


@pytest.mark.parametrize("how", ["keeps", "strips"])
@pytest.mark.parametrize("root", ["/demo", "demo/", "/kf", "/monitoring", "https://example.org/demo/"])
def test_a_page_under_a_prefix(service: Service, monkeypatch: pytest.MonkeyPatch, how: str, root: str) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, root)
    prefix = f"/{root.strip('/').rsplit('/', 1)[-1]}/"
    documented, instead = proxied()[how]
    assert documented == "/demo/"
    instead = instead.replace(documented, prefix)
    with served(service) as (_, url), httpx.Client(base_url=url + instead, headers=HEADERS) as behind:
        assert behind.get("config").json()["root"] == f"https://example.org{prefix}".rstrip("/")
        for path in ("", PLOTLY, "monitoring/summary", "gradio_api/info", "gradio_api/mcp/schema"):
            assert behind.get(path).status_code == 200, path
        assert behind.get("nothing").status_code == 404
        begun = behind.post("gradio_api/call/v2/map", json={"prompt": "a b", "u": [0.1]}).json()
        assert "event: complete" in behind.get(f"gradio_api/call/v2/map/{begun['event_id']}").text
        assert behind.post("gradio_api/upload").status_code == 404


def test_a_prefix_without_its_slash_leads_to_the_page(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, "/demo")
    with served(service) as (_, url):
        answer = httpx.get(f"{url}/demo?prompt=a%20b")
        assert (answer.status_code, answer.headers["location"]) == (307, "/demo/?prompt=a%20b")


@pytest.mark.parametrize("text", ["/config", "static/demo", "https://example.org/gradio_api"])
def test_a_prefix_that_is_a_path_of_the_page_is_refused(text: str) -> None:
    with pytest.raises(KfError, match="one of the page's own paths"):
        root_path(text)


@pytest.mark.parametrize("text", ["", "/", " / "])
def test_no_prefix_is_none(text: str) -> None:
    assert root_path(text) == ""
