"""A hub that does not answer is reported within seconds, by its name, and not asked again and again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from kfexplore.checkpoints import hub
from kfexplore.checkpoints.hub import Unreachable, check_hub, fetch_pair, fetching
from kfexplore.checkpoints.registry import pair_parts
from kfexplore.checkpoints.tokenizers import load_tokenizer
from kfexplore.errors import KfError
from kfexplore.evaluate.judges import load_judge


@pytest.fixture(autouse=True)
def _no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFEXPLORE_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def stands_in(hub: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the hub, whatever proxy this machine has."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()  # one made before knows the proxy


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that takes a question and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as hub:
        stands_in(hub, monkeypatch)
        yield


@pytest.mark.usefixtures("silent")
def test_a_hub_that_says_nothing_is_not_waited_for() -> None:
    with pytest.raises(ConnectionError):
        check_hub(0.2)


def test_nor_is_one_whose_address_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: released.wait(30))
    with pytest.raises(ConnectionError, match=r"no answer within 0\.2 s"):
        check_hub(0.2)
    released.set()


def test_a_hub_that_refuses_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hub:
        stands_in(hub, monkeypatch)

        def refuse() -> None:
            asking, _ = hub.accept()
            with asking:
                asking.recv(4096)
                asking.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

        answering = threading.Thread(target=refuse, daemon=True)
        answering.start()
        check_hub()
        answering.join(30)


@pytest.mark.parametrize(
    "fetch",
    [
        lambda: pair_parts("owt"),
        lambda: load_tokenizer("gpt2"),
        lambda: load_tokenizer("a--b"),
        lambda: fetch_pair("nobody/owls"),
        lambda: load_judge("gpt2"),
        lambda: load_judge("/no/such/folder"),
    ],
)
def test_without_a_connection_nothing_is_tried_at_length(
    fetch: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead() -> None:
        raise ConnectionError("Name or service not known")

    def cut_off(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(hub, "check_hub", dead)
    monkeypatch.setattr(socket.socket, "connect", cut_off)
    with pytest.raises(Unreachable, match=r"huggingface\.co could not be reached \(Name or service"):
        fetch()


def test_an_earlier_copy_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def dead() -> None:
        raise ConnectionError

    def held(*_: Any, local_files_only: bool, **__: Any) -> str:
        assert local_files_only
        return "held"

    monkeypatch.setattr(hub, "check_hub", dead)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", held)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", held)
    assert pair_parts("owt").teacher == Path("held")
    assert fetch_pair("nobody/owls") == Path("held")


def test_a_repository_that_is_cut_off_meanwhile_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise huggingface_hub.errors.LocalEntryNotFoundError("cut off")

    monkeypatch.setattr(hub, "check_hub", lambda: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lost)
    with pytest.raises(Unreachable, match=r"huggingface\.co could not be reached"):
        fetch_pair("nobody/owls")


def test_other_mistakes_of_the_hub_are_not_called_a_lost_connection() -> None:
    with (
        pytest.raises(KfError, match="It is not here: gated") as caught,
        fetching("It is not here", "", "", asks=False),
    ):
        raise PermissionError("gated")
    assert not isinstance(caught.value, Unreachable)
