"""Assembles a Hugging Face Space: the app, the package, the bundled pairs, requirements and README."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from kfexplore.checkpoints.registry import PACKAGE, bundled_folder, bundled_pairs
from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import KfError, writing

PYTHON: Final = "3.12"
"""Python version of the Space, as required by ZeroGPU."""
TORCH: Final = "2.11.0"
"""torch version of the Space, the latest on ZeroGPU; elsewhere requirements.txt sets it."""
LOCK: Final = "requirements.lock"
"""Pinned versions of all packages except torch, with hashes."""
MARK: Final = "Assembled by `kfexplore export space`."
"""Marks the README.md of an export, so that a later export may overwrite it."""
README: Final = f"""---
title: kfexplore
emoji: 🎲
colorFrom: indigo
colorTo: gray
sdk: gradio
sdk_version: "{{gradio}}"
python_version: "{PYTHON}"
app_file: app.py
suggested_hardware: cpu-basic
license: mit
short_description: "K-Forcing: noise values in, tokens out, in one pass"
tags:
  - k-forcing
---

# kfexplore

K-Forcing ([arXiv 2606.10820](https://arxiv.org/abs/2606.10820)) turns an autoregressive teacher into a student that
maps K uniform noise values to K tokens in one pass. Move the noise values and watch the tokens: exact, as the teacher
decodes token by token from your noise, beside learned, as the student predicts from the same noise in one forward
pass.

The bundled pairs need no GPU. On hardware with a GPU, set the variable `KFEXPLORE_DEVICE` to `cuda`; on ZeroGPU leave
it unset, since large pairs get a GPU per request. `KFEXPLORE_PAIR` is the pair that is shown first: `stories`, `tales`,
`owt`, `lm1b`, or `owner/name` of a pair on the hub.

{MARK} Code and weights: MIT.
"""
"""README.md of a Space. The repository's own README has no such header, since GitHub would show it as a table."""

Part = tuple[str, list[Path]]
"""A name in the exported folder, and its files."""


def write_space(folder: Path) -> list[Part]:
    """Writes exactly what a Space needs; replaces an earlier export.

    Args:
        folder: New, empty, or an earlier export; other files there, such as .git, are kept.

    Returns:
        The written parts.

    Raises:
        KfError: the folder holds something else or cannot be written, or this is not a complete working copy.
    """
    sources = {name: PACKAGE.parent / name for name in ("app.py", "LICENSE", "docs/FIGURES.md", LOCK)}
    pairs = {DEFAULT_PAIR, *bundled_pairs()}
    sources |= {"kfexplore": PACKAGE, **{f"checkpoints/{pair}": bundled_folder(pair) for pair in pairs}}
    missing = [name for name, source in sources.items() if not source.exists()]
    if missing:
        raise KfError(
            f"{', '.join(missing)} is not beside the package, in {PACKAGE.parent}.",
            "a whole working copy of the repository, installed with pip install -e .",
        )
    _check_target(folder)
    requirements = space_requirements(sources.pop(LOCK).read_text(encoding="utf-8"))
    texts = {"requirements.txt": requirements, "README.md": space_readme(requirements)}
    with writing(folder):
        for name, source in sources.items():
            _copy(source, folder / name)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    return [(name, _files(folder / name)) for name in sorted({*sources, *texts})]


def space_requirements(lock: str) -> str:
    """The requirements of a Space: its own torch version, and all locked versions without hashes.

    If one package has hashes, pip requires them for all, including the packages that a Space's builder adds.
    """
    pins = re.findall(r"^\w[^\\\n]*(?<! )", lock, re.MULTILINE)
    return "\n".join([f"torch=={TORCH}", *pins]) + "\n"


def space_readme(requirements: str) -> str:
    """README.md of a Space; its header names the pinned Gradio version."""
    pinned = re.search(r"^gradio==(\S+)$", requirements, re.MULTILINE)
    if pinned is None:
        raise KfError(f"{LOCK} pins no gradio.", "a line gradio==X.Y.Z")
    return README.format(gradio=pinned[1])


def summary(folder: Path, parts: list[Part]) -> str:
    """A summary of the written parts with sizes, and the commands that push them."""
    rows = [(name, len(files), sum(file.stat().st_size for file in files)) for name, files in parts]
    rows.append(("total", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    table = [
        f"  {name:<20} {count:>4} file{'s' if count > 1 else ' '} {size / 1e3:>8,.0f} kB" for name, count, size in rows
    ]
    push = [
        "  hf repos create OWNER/kfexplore --repo-type space --space-sdk gradio --exist-ok",
        f"  hf upload OWNER/kfexplore {folder} . --repo-type space",
    ]
    return "\n".join([f"Written to {folder}:", *table, "", "To push it (after `hf auth login`):", *push])


def _check_target(folder: Path) -> None:
    try:
        there = sorted(file.name for file in folder.iterdir()) if folder.exists() else []
        readme = folder / "README.md"
        earlier = readme.is_file() and MARK in readme.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise KfError(f"{folder} cannot be written to: {error}.", "a new or empty folder") from error
    if there and not earlier:
        raise KfError(
            f"{folder} is not empty: it has {', '.join(there[:3])}{', ...' if len(there) > 3 else ''}.",
            "a new or empty folder, or an earlier export",
        )


def _copy(source: Path, target: Path) -> None:
    """Copies a file, or a folder without Python's compiled files; replaces an existing target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)
        return
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*"))


def _files(place: Path) -> list[Path]:
    return sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
