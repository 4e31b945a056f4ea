"""The app as a child process on a port of this machine, for timings that talk to it from outside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Final

from kfexplore.errors import KfError

READY_AFTER: Final = 120.0
"""Seconds after which an app that does not answer is given up."""


class Child:
    """`kfexplore app`, started when a with-block begins and ended with it.

    Args:
        pair: Name or folder.
        device: Where its models run.
    """

    def __init__(self, pair: str, device: str = "cpu") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "kfexplore", "app", "--port", str(self.port)]
        self._command = [*command, "--pair", pair, "--device", device]
        self._app: subprocess.Popen[bytes] | None = None
        self._past = 0.0

    @property
    def url(self) -> str:
        """Where it answers, the same after each start."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> float:
        """Starts it; returns the seconds to its first answer.

        Raises:
            KfError: it ends, or does not answer in time.
        """
        started = time.perf_counter()
        app = self._app = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while time.perf_counter() - started < READY_AFTER and app.poll() is None:
            try:
                urllib.request.urlopen(self.url, timeout=READY_AFTER).read()
                return time.perf_counter() - started
            except OSError:
                time.sleep(0.05)
        raise KfError("The app did not start.", run="kfexplore app")

    def kill(self) -> None:
        """Ends it as a crash would, without a word to anybody."""
        if self._app is not None:
            used = self.usage()
            self._past = used[1] if used else self._past
            self._app.kill()
            self._app.wait()
            self._app = None

    def usage(self) -> tuple[int, float] | None:
        """Bytes in memory, and seconds of CPU since the first start; None where no /proc tells, or it is down."""
        if self._app is None:
            return None
        place = Path("/proc") / str(self._app.pid)
        try:
            pages = int((place / "statm").read_text().split()[1])
            ticks = (place / "stat").read_text().rpartition(")")[2].split()[11:13]
        except (OSError, IndexError):
            return None
        return pages * os.sysconf("SC_PAGE_SIZE"), self._past + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._app is not None:
            self._app.terminate()
            self._app.wait()
            self._app = None
