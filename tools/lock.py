"""Locks all packages with their hashes: `make lock`, after a change of requirements.txt or requirements-dev.txt.

Writes requirements.lock (what the app needs), requirements-dev.lock (what development needs beside it) and
requirements-torch.lock (torch and its CUDA packages from PyPI; other indexes have other builds of torch). Together they
hold for all platforms and Pythons that the project supports. Needs uv and a connection. Versions that are locked stay,
unless --upgrade is given or a requirement asks for another.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from kfexplore.errors import KfError, reported

ROOT: Final = Path(__file__).resolve().parents[1]
PYTHON: Final = "3.11.5"
"""The oldest one that all packages of requirements-dev.txt support."""
FILES: Final = tuple(f"requirements{part}.lock" for part in ("", "-dev", "-torch"))
PACKAGE: Final = re.compile(r"^\w.*\n(?: .*\n)*", re.MULTILINE)
"""An entry of a lock file: a pin, and lines of hashes."""
TORCH: Final = re.compile(r"(torch|triton|(nvidia|cuda)-[\w-]+)==")


def locked(requirements: str, known: list[str]) -> list[str]:
    """The packages of a file and their dependencies, one text each: pin, marker and hashes.

    Args:
        requirements: Name of the file.
        known: Packages whose versions are preferred.

    Raises:
        KfError: uv finds no solution, or there is no uv.
    """
    with TemporaryDirectory() as folder:
        lock = Path(folder, "lock.txt")
        lock.write_text("".join(known), encoding="utf-8")
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
        command += ["--no-header", "--no-annotate", "--python-version", PYTHON, "-o", str(lock), requirements]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise KfError(f"{requirements} cannot be locked: {ran.stderr.strip()}", run="pip install uv")
        return PACKAGE.findall(lock.read_text(encoding="utf-8"))


def main() -> None:
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    files = [] if parser.parse_args().upgrade else [ROOT / name for name in FILES if (ROOT / name).is_file()]
    known = [package for file in files for package in PACKAGE.findall(file.read_text(encoding="utf-8"))]
    every = locked("requirements-dev.txt", known)
    app = {package.split("==")[0] for package in locked("requirements.txt", every)}
    parts: list[list[str]] = [[], [], []]
    for package in every:
        parts[2 if TORCH.match(package) else 0 if package.split("==")[0] in app else 1].append(package)
    for name, packages in zip(FILES, parts, strict=True):
        (ROOT / name).write_text("# Written by `make lock`.\n" + "".join(packages), encoding="utf-8")


if __name__ == "__main__":
    with reported():
        main()
