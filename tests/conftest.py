"""Options and fixtures of all tests."""

import os

# Set before torch is imported: otherwise waiting threads spin, and tests beside other work take ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import subprocess
from pathlib import Path

import pytest
from hypothesis import settings
from shell import Shell, write_pair

ROOT = Path(__file__).parents[1]

# The same examples each time, as many as a test says.
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", default="", help="tests marked full: all, or a commit since which their files changed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out tests marked full, but for those that `--full` asks for."""
    changed = changed_files(config.getoption("full"))
    left_out = [item for item in items if changed is not None and not protects(item, changed)]
    items[:] = [item for item in items if item not in set(left_out)]
    config.hook.pytest_deselected(items=left_out)


def changed_files(since: str, root: Path = ROOT) -> set[str] | None:
    """Paths that differ from a commit, none for ""; None where all count as changed: "all", or no such commit here."""
    if since in ("", "all"):
        return None if since else set()
    command = ["git", "diff", "--name-only", since, "--"]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return None if ended.returncode else set(ended.stdout.splitlines())


def protects(item: pytest.Item, changed: set[str]) -> bool:
    """Whether a test runs: it is not marked full, or one of the paths that its mark names, or its folder, changed."""
    mark = item.get_closest_marker("full")
    folder = str(item.path.parent.relative_to(ROOT))
    return mark is None or any(name.startswith((*mark.args, folder)) for name in changed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `write_pair`."""
    folder = tmp_path_factory.mktemp("pair")
    write_pair(folder)
    return folder


@pytest.fixture
def shell(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(folder, monkeypatch, capsys)
