"""The files in `assets/` as text. Scripts are ES modules, inlined into a page: no build step and no requests."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Final

_ASSETS: Final = Path(__file__).parent / "assets"
_IMPORT: Final = re.compile(r'^import \{[^}]*\}\s+from "\./([\w.]+)";\n', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=(async function|function|const|class) )", re.MULTILINE)


@cache
def asset(name: str) -> str:
    """The text of one file."""
    return (_ASSETS / name).read_text(encoding="utf-8")


@cache
def modules(name: str) -> tuple[str, ...]:
    """A module and all modules that it imports, each after its own imports."""
    needed = (each for imported in _IMPORT.findall(asset(name)) for each in modules(imported))
    return tuple(dict.fromkeys([*needed, name]))


@cache
def inlined(name: str) -> str:
    """The declarations of a module and of all modules that it imports, for one function scope.

    The modules share that scope: no two of them may declare the same name, and imports must not rename.
    """
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", asset(each))) for each in modules(name))


def calling(module: str, function: str, *given: object) -> str:
    """A JavaScript function for Gradio's `js` that calls an exported function with `given` and the event's fields."""
    arguments = ", ".join([*map(script_json, given), "...fields"])
    return f"(...fields) => {{\n{inlined(module)}\nreturn {function}({arguments});\n}}"


def script_json(value: object) -> str:
    """JSON, escaped so that it cannot end a script element or open a comment in it."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
