"""Imports point one way: the arrows of the package, read from its source."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "kfexplore"
BASE = {"errors", "cancel", "decoders", "config", "results"}
ORDER: list[set[str]] = [
    BASE,
    {"noise"},
    {"models"},
    {"checkpoints", "decoding", "distributed"},
    {"maps"},
    {"pair"},
    {"__init__"},
    {"training", "evaluate", "laws", "space", "probe"},
    {"bench"},
    {"batch"},
    {"ui"},
    {"cli"},
    {"__main__"},
]
"""A room may import itself and all rooms of earlier lines; `__init__` holds the public names and the version."""
ACROSS = {
    ("evaluate", "kfexplore.training.targets"),
    ("laws", "kfexplore.training.documents"),
    ("laws", "kfexplore.evaluate"),
    *((a, f"kfexplore.{b}") for a in BASE for b in BASE),
}
"""The only arrows within a line."""
ONLY = {"gradio": {"ui"}, "plotly": {"figures"}}
"""Libraries that one room alone may import."""
NOT_IN_FIGURES = {"torch", "gradio"}
OPTIONAL = {"flash_attn", "spaces", "trackio", "accelerate", "mauve", "datasets"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of what is imported anywhere in a tree; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import hides its arrow"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import_time(tree: ast.Module) -> Iterator[str]:
    """What is imported when the module is: all but the bodies of functions."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported(node)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def may_import(room: str) -> set[str]:
    """Rooms that `room` may import from."""
    if room == "figures":
        return {"figures", *BASE}
    line = next(n for n, rooms in enumerate(ORDER) if room in rooms)
    above = {"figures"} if room in {"ui", "cli"} else set()
    return {room}.union(above, *ORDER[:line])


def wrong(room: str, source: str) -> list[str]:
    """The imports of a source that break a rule."""
    tree = ast.parse(source)
    found = []
    for name in imported(tree):
        top, *inner = name.split(".")
        if top == "kfexplore":
            target = inner[0] if inner else "__init__"
            across = any(room == a and (name + ".").startswith(b + ".") for a, b in ACROSS)
            if target not in may_import(room) and not across:
                found.append(name)
        elif (
            (top in ONLY and room not in ONLY[top])
            or (room == "figures" and top in NOT_IN_FIGURES)
            or top in {"analysis", "tests", "tools"}
        ):
            found.append(name)
    return found + [name for name in at_import_time(tree) if name.split(".")[0] in OPTIONAL]


def room_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


MODULES = sorted(PACKAGE.rglob("*.py"))


def test_modules_import_only_what_comes_before_them() -> None:
    found = {str(path.relative_to(PACKAGE)): wrong(room_of(path), path.read_text(encoding="utf-8")) for path in MODULES}
    assert {name: names for name, names in found.items() if names} == {}


def test_the_app_is_a_front_of_ui() -> None:
    path = REPOSITORY / "app.py"
    assert wrong("ui", path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("models", "from kfexplore.decoding.cdf import cdf"),
        ("models", "from kfexplore import pair"),
        ("noise", "def late():\n    import kfexplore.models.layers"),
        ("decoding", "from kfexplore.checkpoints.registry import load_model"),
        ("maps", "from kfexplore.pair import Pair"),
        ("evaluate", "from kfexplore.training.loop import fit"),
        ("training", "from kfexplore.evaluate.agreement import agreement"),
        ("pair", "from kfexplore.figures.palette import colours"),
        ("figures", "from kfexplore.noise import checked"),
        ("figures", "import torch.nn"),
        ("pair", "import kfexplore"),
        ("bench", "import gradio as gr"),
        ("ui", "from plotly import graph_objects"),
        ("training", "from analysis.speed import table"),
        ("models", "try:\n    import flash_attn\nexcept ImportError:\n    pass"),
        ("training", "class A:\n    from accelerate import Accelerator"),
    ],
)
def test_a_broken_rule_is_seen(room: str, source: str) -> None:
    assert len(wrong(room, source)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("evaluate", "from kfexplore.training.targets import exact_targets"),
        ("config", "from kfexplore.errors import KfError"),
        ("training", "from kfexplore.checkpoints.saving import save_model"),
        ("models", "def fast():\n    import flash_attn"),
        ("figures", "import plotly.graph_objects"),
        ("ui", "from kfexplore.figures.scrub import scrub_css\nimport gradio"),
    ],
)
def test_allowed_imports_are_not_taken_for_broken_ones(room: str, source: str) -> None:
    assert wrong(room, source) == []


CLEAN = """
import json, os, sys
before = dict(os.environ)
import kfexplore.cli.main, kfexplore.checkpoints.registry
print(json.dumps([sorted({"gradio", "plotly", "transformers"} & set(sys.modules)), before == dict(os.environ)]))
sys.modules.update(dict.fromkeys(["gradio", "plotly", "transformers"]))  # an import of them fails
sys.argv = ["kfexplore", "doctor"]
kfexplore.cli.main.main()
"""


def test_a_fresh_process_imports_no_page_and_no_plots_and_needs_none_for_doctor() -> None:
    # What our own imports may have set here would hide what they set there.
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    command = [sys.executable, "-c", CLEAN]
    ended = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[0]) == [[], True]
    assert "cuda_graphs" in ended.stdout
