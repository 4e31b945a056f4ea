"""The app as a child process on a port of this machine (127.0.0.1)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Final

from kfexplore.errors import KfError

READY_AFTER: Final = 300.0
"""Seconds within which an app must answer."""


class App:
    """`kfexplore app`; it ends with the `with` block.

    Args:
        pair: Name or folder.
        device: Device of its models.
    """

    def __init__(self, pair: str, device: str = "cpu") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{port}/"
        self._command = [sys.executable, "-m", "kfexplore", "app", "--port", port, "--pair", pair, "--device", device]
        self._process: subprocess.Popen[bytes] | None = None
        self._past_seconds = 0.0

    def start(self) -> float:
        """Starts the app; returns the seconds until its first answer.

        Raises:
            KfError: it exits, or does not answer in time.
        """
        started = time.perf_counter()
        app = self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while time.perf_counter() - started < READY_AFTER and app.poll() is None:
            try:
                urllib.request.urlopen(self.url, timeout=READY_AFTER).read()
                return time.perf_counter() - started
            except OSError:
                time.sleep(0.05)
        raise KfError("The app did not start.", run="kfexplore app")

    def kill(self) -> None:
        """Kills the app without a shutdown, as in a crash."""
        if self._process is not None:
            used = self.usage()
            self._past_seconds = used[1] if used else self._past_seconds
            self._process.kill()
            self._process.wait()
            self._process = None

    def usage(self) -> tuple[int, float] | None:
        """Bytes in memory, and seconds of CPU since the first start; None without /proc, or while it is down."""
        if self._process is None:
            return None
        folder = Path(f"/proc/{self._process.pid}")
        try:
            pages = int((folder / "statm").read_text().split()[1])
            ticks = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
        except (OSError, IndexError):
            return None
        return pages * os.sysconf("SC_PAGE_SIZE"), self._past_seconds + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> App:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
