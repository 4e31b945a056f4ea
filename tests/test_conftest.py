"""Tests marked full run where what they protect changed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from conftest import ROOT, changed_files, protects


def item(*paths: str, full: bool = True) -> Any:
    mark = pytest.mark.full(*paths).mark if full else None
    return SimpleNamespace(path=ROOT / "tests" / "laws" / "test_x.py", get_closest_marker=lambda _: mark)


def test_files_since_a_commit_are_those_of_git(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        settings = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *settings, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        git("add", name)
        git("commit", "-m", name)
    (tmp_path / "a").write_text("changed")
    assert changed_files("HEAD", tmp_path) == {"a"}
    assert changed_files("HEAD~1", tmp_path) == {"a", "b"}
    assert changed_files("gone", tmp_path) is changed_files("all", tmp_path) is None
    assert changed_files("", tmp_path) == set()


@pytest.mark.parametrize(
    ("changed", "runs"),
    [("kfexplore/laws/toy.py", True), ("tests/laws/brute.py", True), ("kfexplore/noise.py", False), ("", False)],
)
def test_a_full_test_runs_where_its_paths_or_its_folder_changed(changed: str, runs: bool) -> None:
    assert protects(item("kfexplore/laws", "requirements.txt"), {changed} - {""}) is runs
    assert protects(cast(Any, item(full=False)), set())
