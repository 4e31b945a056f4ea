"""The lock files: every package of the requirements, at its version, with hashes; torch apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kfexplore.errors import KfError
from tools import lock

ROOT = Path(__file__).resolve().parents[1]


def pins(text: str) -> set[str]:
    return {f"{name}=={version}".lower() for name, version in re.findall(r"^([\w-]+)==([^\s;]+)", text, re.MULTILINE)}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("requirements", "files"),
    [
        ("requirements.txt", ["requirements.lock", "requirements-torch.lock"]),
        ("requirements-dev.txt", ["requirements.lock", "requirements-dev.lock"]),
    ],
)
def test_what_is_required_is_locked_at_that_version(requirements: str, files: list[str]) -> None:
    missing = pins(read(requirements)) - set[str]().union(*(pins(read(file)) for file in files))
    assert missing == set(), "run make lock"


@pytest.mark.parametrize("file", lock.FILES)
def test_every_locked_package_has_hashes(file: str) -> None:
    packages = lock.PACKAGE.findall(read(file))
    assert len(packages) == len(re.findall(r"^\w", read(file), re.MULTILINE)) > 10
    assert [package for package in packages if "--hash=sha256:" not in package] == []


def test_torch_and_what_only_it_needs_are_apart() -> None:
    assert [
        name for name in pins(read("requirements.lock") + read("requirements-dev.lock")) if lock.TORCH.match(name)
    ] == []
    assert any(name.startswith("torch==") for name in pins(read("requirements-torch.lock")))


def test_requirements_that_cannot_be_locked_are_told() -> None:
    with pytest.raises(KfError, match=r"nothing\.txt cannot be locked"):
        lock.locked("nothing.txt", [])
