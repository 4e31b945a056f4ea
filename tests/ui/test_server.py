"""The server around the page: a port that cannot be used is one message, and threads share freed memory."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shell import Shell

from kfexplore import KfError
from kfexplore.ui.server import PORT_VARIABLE, free_port

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which something listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_a_port_in_use_is_reported_before_anything_is_loaded(shell: Shell, taken: int) -> None:
    told = shell.refused(f"app --port {taken} --pair nothing")
    assert f"Port {taken} is in use." in told
    assert "kfexplore app --port 8001" in told


@pytest.mark.parametrize(
    ("host", "port", "told"),
    [
        ("127.0.0.1", 99_999, "Port 99999 does not exist"),
        ("127.0.0.1", -1, "Port -1"),
        ("127.0.0.1", 0, "Port 0"),
        ("203.0.113.1", 7860, "203.0.113.1"),
    ],
)
def test_what_cannot_be_listened_on_is_refused(host: str, port: int, told: str) -> None:
    with pytest.raises(KfError, match=told) as caught:
        free_port(host, port, {})
    assert "1 to 65535" in caught.value.valid


def test_app_py_names_the_variable_as_it_takes_no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/app.py"])
    with pytest.raises(KfError) as caught:
        free_port("127.0.0.1", 0, {})
    assert caught.value.run == f"{PORT_VARIABLE}=8001 python app.py"


def test_a_port_in_use_on_one_address_is_in_use_on_all(taken: int) -> None:
    for host in ("0.0.0.0", "127.0.0.1"):
        with pytest.raises(KfError, match="is in use"):
            free_port(host, taken, {})


def test_the_one_asked_for_goes_before_that_of_the_environment(taken: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
    assert free_port("127.0.0.1", None, {PORT_VARIABLE: str(free)}) == free
    assert free_port("127.0.0.1", free, {PORT_VARIABLE: str(taken)}) == free
    with pytest.raises(KfError, match=f"Port {taken} is in use"):
        free_port("127.0.0.1", None, {PORT_VARIABLE: str(taken)})
    for asked in (None, free):  # Gradio would read it in any case
        with pytest.raises(KfError, match="'abc'"):
            free_port("127.0.0.1", asked, {PORT_VARIABLE: "abc"})


def test_a_port_that_is_no_number_is_one_message(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PORT_VARIABLE, "abc")
    assert f"{PORT_VARIABLE} is 'abc'." in shell.refused("app --port 9000")
    ran = subprocess.run([sys.executable, "app.py"], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"kfexplore: {PORT_VARIABLE} is 'abc'.")
    assert "Traceback" not in ran.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_threads_share_memory_that_was_freed() -> None:
    code = """
import ctypes, threading
from kfexplore.ui.server import few_arenas
assert few_arenas(2)
def use():
    held = bytes(100_000)  # too large for Python's own store, too small for a mapping
    ready.wait()
ready = threading.Barrier(12)
threads = [threading.Thread(target=use) for _ in range(12)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
ctypes.CDLL(None).malloc_stats()
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stderr
    assert told.count("Arena") <= 2
