"""Pairs of strangers are tried in a child process: whatever ends it leaves this one."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from shell import Shell

from kfexplore import probe
from kfexplore.errors import KfError
from kfexplore.pair import load_pair


def test_a_sound_pair_is_loaded(shell: Shell) -> None:
    found = probe.load_untrusted(str(shell.folder))
    assert found.teacher.config == load_pair(shell.folder).teacher.config


def test_what_the_child_refuses_is_the_error_here(shell: Shell, tmp_path: Path) -> None:
    pair = shutil.copytree(shell.folder, tmp_path / "pair")
    (pair / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "x": 1}}')
    with pytest.raises(KfError, match="unknown parameter, x"):
        probe.load_untrusted(str(pair))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import os; os.abort()", "ends the process (SIGABRT)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGBUS)", "ends the process (SIGBUS)"),
        ("import sys; sys.exit(7)", "ends the process (exit status 7)"),
        ("import sys; sys.exit(2)", "ends the process (exit status 2)"),
        ("import time; time.sleep(60)", "takes more than 1 s"),
    ],
)
def test_a_child_that_ends_badly_is_a_user_error(code: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "WALL_SECONDS", 1 if "sleep" in code else 60)
    with pytest.raises(KfError, match=re.escape(told)):
        probe.run_child([sys.executable, "-c", code], "FOLDER")


def test_what_fails_only_in_use_is_found(shell: Shell) -> None:
    """Whatever a pass over weights that pass all checks raises."""
    code = f"from kfexplore import probe, pair; pair.Pair.block = lambda *_: 1 / 0; probe.main({str(shell.folder)!r})"
    with pytest.raises(KfError, match="exit status 1"):
        probe.run_child([sys.executable, "-c", code], "FOLDER")


@pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")
def test_limits_of_the_server_hold_in_the_child(shell: Shell) -> None:
    """A service manager may set lower ones, which a process cannot raise."""
    code = f"""
import resource
from pathlib import Path
from kfexplore import probe
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
probe.limit_process(Path({str(shell.folder)!r}))
assert resource.getrlimit(resource.RLIMIT_CPU) == (60, 60)
assert Path("/proc/self/oom_score_adj").read_text() == "1000\\n"
"""
    probe.run_child([sys.executable, "-c", code], "FOLDER")


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are read from /proc")
def test_the_child_has_little_more_memory_than_its_files(shell: Shell) -> None:
    code = f"from pathlib import Path; from kfexplore import probe; probe.limit_process(Path({str(shell.folder)!r}))"
    with pytest.raises(KfError, match="exit status 1"):
        probe.run_child([sys.executable, "-c", f"{code}; bytearray(8 << 30)"], "FOLDER")
    probe.run_child([sys.executable, "-c", f"{code}; bytearray(1 << 30)"], "FOLDER")
