"""Memory of the server's threads: what they free is shared."""

from __future__ import annotations

import subprocess
import sys

import pytest


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
