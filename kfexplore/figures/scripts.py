"""The files in `assets/` as text. Scripts are ES modules; a page inlines them, so it needs no build step or request."""

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
def inlined(module: str) -> str:
    """The declarations of a module and of all that it imports, for one function scope; imported ones come first.

    Modules share that scope, so no two of them may declare the same name; imports may not rename.
    """
    declared: dict[str, str] = {}

    def add(name: str) -> None:
        if name not in declared:
            source = asset(name)
            for imported in _IMPORT.findall(source):
                add(imported)
            declared[name] = _EXPORT.sub("", _IMPORT.sub("", source))

    add(module)
    return "\n".join(declared.values())


def calling(module: str, function: str, *given: object) -> str:
    """A JavaScript function for Gradio's `js`: calls an exported function with `given`, then an event's fields."""
    arguments = ", ".join([*map(script_json, given), "...fields"])
    return f"(...fields) => {{\n{inlined(module)}\nreturn {function}({arguments});\n}}"


def script_json(value: object) -> str:
    """JSON that cannot end a script element or open a comment in it."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
