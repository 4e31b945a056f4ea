"""Loads untrusted pairs in a child process first, so that a crash there does not end the server.

The checks in `checkpoints` reject all files known to be harmful. They cannot catch a fault inside a library that raises
no exception: an abort, or a file that is truncated while it is mapped into memory.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import torch

from kfexplore.checkpoints.files import shown
from kfexplore.checkpoints.hub import fetch_pair
from kfexplore.checkpoints.tokenizers import decode_ids, encode_ids
from kfexplore.errors import KfError
from kfexplore.pair import Pair, load_pair

CPU_SECONDS: Final = 120
"""Limit on the child's processor time, including imports."""
WALL_SECONDS: Final = 300
"""Limit on the child's wall-clock time: a child that waits uses no processor time."""
SPARE_BYTES: Final = 2 << 30
"""Memory allowed beyond what the process uses after its imports and six times the size of the files."""
TEXT: Final = "Once upon a time, 123 owls said “Hello”.\n" * 20
"""Sample text for the tokenizer."""


def load_untrusted(name_or_folder: str, device: str | torch.device | None = None, max_bytes: int | None = None) -> Pair:
    """As `load_pair`, for an untrusted pair: limits the download and loads it in a child process first.

    Args:
        name_or_folder: A folder, or `owner/name` of a hub repository.
        device: None: the CPU.
        max_bytes: Largest download; None: any size.

    Raises:
        KfError: as `load_pair`; or loading crashes, exceeds `CPU_SECONDS` or `WALL_SECONDS`, or needs too much memory.
    """
    where = str(fetch_pair(name_or_folder, max_bytes))
    run_child([sys.executable, "-m", "kfexplore.probe", where], where)
    return load_pair(where, device)


def run_child(command: list[str], what: str) -> None:
    """Runs a command that loads untrusted files.

    Args:
        command: To reject the files, it prints the parts of a KfError as a JSON list and exits with 2.
        what: The files, for messages.

    Raises:
        KfError: as the command printed it; or the command crashed or took longer than `WALL_SECONDS`.
    """
    try:
        done = subprocess.run(command, capture_output=True, timeout=WALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise KfError(f"Loading {shown(what)} takes more than {WALL_SECONDS} s.", "smaller files") from None
    if done.returncode == 2 and done.stdout:
        raise KfError(*json.loads(done.stdout.splitlines()[-1]))  # libraries may print before
    if done.returncode:
        code = -done.returncode
        why = signal.Signals(code).name if code in set(signal.Signals) else f"exit status {done.returncode}"
        raise KfError(f"Loading {shown(what)} ends the process ({why}).", "other files; these are damaged or hostile")


def limit_process(folder: Path) -> None:
    """Limits memory and time of this process, and makes it the kernel's first choice to kill if memory runs out."""
    import resource  # only Unix has it

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    files = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    limits = {
        resource.RLIMIT_AS: used + 6 * files + SPARE_BYTES,
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    with suppress(OSError):  # some containers have no such file
        Path("/proc/self/oom_score_adj").write_text("1000")


def main(folder: str) -> None:
    """In the child: loads the pair, computes one block, and encodes and decodes a text with its tokenizer."""
    torch.set_num_threads(1)
    if sys.platform == "linux":
        limit_process(Path(folder))
    try:
        pair = load_pair(folder)
        pair.block([[0]], np.full((1, pair.k_max), 0.5))
        if pair.tokenizer is not None:
            decode_ids(pair.tokenizer, encode_ids(pair.tokenizer, TEXT))
    except KfError as error:
        print(json.dumps([error.failed, error.valid, error.run]))
        sys.exit(2)
    except MemoryError:
        print(json.dumps([f"Loading {shown(folder)} takes too much memory.", "smaller files", ""]))
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1])
