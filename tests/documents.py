"""What the documents say, read from their Markdown, and whether what they name is there."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import typer

from kfexplore.checkpoints.registry import NAMED
from kfexplore.cli.main import app
from kfexplore.decoders import DECODERS
from kfexplore.laws.toy import TOYS
from kfexplore.training.config import recipe_names as recipes

ROOT = Path(__file__).parents[1]
EXTENDING = ROOT / "docs" / "EXTENDING.md"
OURS = ("kfexplore", "analysis", "tools", "tests", "notebooks", "docs")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^ {4}(\S.*)$", re.MULTILINE)
QUOTED = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
BOLD = re.compile(r"\*\*(.+?)\*\*", re.DOTALL)
PATH = re.compile(r"[\w.-]*/[\w./*-]*|[\w-]+\.(?:py|md|yaml|jsonl?|toml|txt|css|js|cff)")
NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?:\(.*\))?")
VARIABLE = re.compile(r"KFEXPLORE_\w+")
OUTSIDE = {
    *("owner/name", "zwave/K-Forcing", "mine.yaml", "runs/mine"),
    *("MODEL_CARD.md", "tokenizer.json", "samples.jsonl", "throughput.json"),
}
"""Paths of what a user has, a hub holds or a command writes."""
WORDS = {
    *(*DECODERS, *NAMED, *TOYS, *recipes()),
    *("slow", "full", "browser", "accelerate", "transformers", "gradio_client"),
}
"""Words that no code defines: values of options, marks of tests, libraries."""


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """A document without its blocks, in one line."""
    return " ".join(FENCE.sub("", read(path)).split())


def fenced(path: Path, language: str) -> list[str]:
    """Its blocks of one language."""
    return [text for kind, text in FENCE.findall(read(path)) if kind == language]


def example_source(beginning: str) -> str:
    """The module of EXTENDING.md whose docstring begins so."""
    (source,) = (text for text in fenced(EXTENDING, "python") if text.startswith(f'"""{beginning}'))
    return source


def example(beginning: str) -> dict[str, Any]:
    """What that module defines."""
    names: dict[str, Any] = {}
    exec(compile(example_source(beginning), beginning, "exec"), names)
    return names


def quoted(path: Path) -> list[str]:
    """What stands between back quotes, outside of blocks."""
    return [" ".join(text.split()) for text in QUOTED.findall(INDENTED.sub("", FENCE.sub("", read(path))))]


def bold(path: Path) -> list[str]:
    return [" ".join(text.split()) for text in BOLD.findall(FENCE.sub("", read(path)))]


def links(path: Path) -> list[str]:
    return LINK.findall(FENCE.sub("", read(path)))


def anchors(path: Path) -> set[str]:
    """Of the headings, as code hosts make them."""
    headings = HEADING.findall(FENCE.sub("", read(path)))
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def lines(path: Path) -> Iterator[str]:
    """Command lines: between back quotes, indented by four, and after a $ in blocks of a console."""
    yield from quoted(path)
    for line in INDENTED.findall(FENCE.sub("", read(path))):
        yield from line.split(" && ")
    yield from (line[2:] for text in fenced(path, "console") for line in text.splitlines() if line.startswith("$ "))


def missing_path(text: str) -> bool:
    """Whether a path from the root, with or without its ending, leads nowhere."""
    return text not in OUTSIDE and not any(ROOT.glob(f"{text.rstrip('/')}*"))


def unknown_name(text: str) -> bool:
    """Whether a plain name is defined nowhere, or a dotted one not there (`laws.joint_figure`: in the figures)."""
    parts = text.split("(")[0].split(".")
    if len(parts) == 1:
        return parts[0] not in _defined()
    try:
        found: Any = importlib.import_module(parts[0] if parts[0] in OURS else f"kfexplore.figures.{parts[0]}")
    except ImportError:
        return True
    for n, part in enumerate(parts[1:], start=2):
        if not hasattr(found, part) and hasattr(found, "__path__"):
            with suppress(ImportError):
                importlib.import_module(".".join(parts[:n]))
        if not hasattr(found, part):
            return True
        found = getattr(found, part)
    return False


def trouble(line: str) -> str:
    """Why a command line cannot be meant; "" for one that can, and for what is no command of ours."""
    try:
        given = shlex.split(line, comments=True)
    except ValueError:
        return ""
    while given and re.fullmatch(r"[A-Z_]+=.*", given[0]):
        del given[0]
    if given[:1] == ["torchrun"] and "-m" in given:
        given = ["python", *given[given.index("-m") :]]
    if given[:1] == ["kfexplore"]:
        return _trouble_with_verb(given[1:])
    if given[:1] == ["make"]:
        targets = re.findall(r"^([\w-]+):", read(ROOT / "Makefile"), re.MULTILINE)
        return next((f"no target {target}" for target in given[1:] if "=" not in target and target not in targets), "")
    is_ours = given[:1] == ["python"] and (given[1:2] == ["-m"] or "/" in "".join(given[1:2]))
    return _trouble_with_python(given[1:]) if is_ours else ""


def _trouble_with_verb(given: list[str]) -> str:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and given and not given[0].startswith("-"):
        if given[0].isupper() or given[0] == "...":  # stands for any
            return ""
        if given[0] not in command.commands:
            return f"no command {given[0]}"
        command, given = command.commands[given[0]], given[1:]
    options = {name for each in command.params for name in each.opts} | {"--help"}
    return next((f"no option {each}" for each in _options(given) if each not in options), "")


def _trouble_with_python(given: list[str]) -> str:
    """Of `-m MODULE ...` and `FILE ...`."""
    if given[:2] == ["-m", "kfexplore"]:
        return _trouble_with_verb(given[2:])
    if given[0] == "-m":
        spec = importlib.util.find_spec(given[1])
        source, given = Path(spec.origin if spec and spec.origin else given[1]), given[1:]
    else:
        source = ROOT / given[0]
    if not source.is_file():
        return f"no file {source}"
    return next((f"no option {each}" for each in _options(given) if f'"{each}"' not in read(source)), "")


def _options(given: list[str]) -> list[str]:
    return [word.split("=")[0] for word in given if word.startswith("--") and word != "--help"]


@cache
def _defined() -> set[str]:
    """All names of the code: of modules, functions, classes, fields, arguments, variables, and of the environment."""
    found = set(WORDS)
    for path in [ROOT / "app.py", *(path for room in OURS for path in (ROOT / room).rglob("*.py"))]:
        found |= {path.stem, path.parent.name}
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Constant) and VARIABLE.fullmatch(str(node.value)):
                found.add(str(node.value))
    return found
