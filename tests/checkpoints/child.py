"""Loads inputs one after another in a process of its own, under limits, and prints what came of each."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kfexplore
from kfexplore.checkpoints.tokenizers import decode_ids, encode_ids, load_tokenizer
from kfexplore.errors import KfError

MOST_MEMORY = 1 << 30
"""Address space beyond that of a process that has loaded sound files."""
MOST_SECONDS = 60
"""After which the process ends, and says where it was."""
CODE = ("os.", "subprocess.", "shutil.", "socket.", "ctypes.", "pickle.", "import")
"""Beginnings of the audit events that running code, or leaving something behind, raises."""
HARMLESS = ("os.listdir", "os.scandir", "import ('encodings.")


def load(path: Path) -> None:
    """Through the door that a user takes: a tokenizer is used as well."""
    if path.name == "tokenizer.json":
        tokenizer = load_tokenizer(path)
        decode_ids(tokenizer, encode_ids(tokenizer, "ab ab c, é"))
    elif path.name == "causal" or os.path.isdir(path / "teacher"):
        kfexplore.load_pair(path)
    else:
        kfexplore.load_model(path)


@contextmanager
def audited(seen: list[str]) -> Iterator[None]:
    """Notes what is run, and what is written, while it holds."""
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        told = f"{event} {arguments}"
        if writes or (event.startswith(CODE) and not told.startswith(HARMLESS)):
            seen.append(told[:200])

    sys.addaudithook(hook)
    try:
        yield
    finally:
        watching = False


def memory(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field + ":"))


def attempt(path: Path) -> dict[str, Any]:
    """Loads one input."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, started, seen = memory("VmRSS"), time.perf_counter(), list[str]()
    error, message = "", ""
    try:
        with audited(seen):
            load(path)
    except BaseException as raised:
        error, message = type(raised).__name__, str(raised)
        failed = raised.failed if isinstance(raised, KfError) else ""
        message = failed or message
    seconds = time.perf_counter() - started
    return {"error": error, "message": message, "seconds": seconds, "grown": memory("VmHWM") - before, "seen": seen}


def main() -> None:
    """Reads {name: path} of sound and of hostile inputs from stdin; prints a line of JSON for each."""
    sound, hostile = json.load(sys.stdin)
    for name, path in (*sound.items(), *sound.items()):  # twice: what is imported late is imported now
        print(json.dumps({"name": name, **attempt(Path(path))}), flush=True)
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + MOST_MEMORY,) * 2)
    for name, path in hostile.items():
        faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
        print(json.dumps({"name": name, **attempt(Path(path))}), flush=True)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
