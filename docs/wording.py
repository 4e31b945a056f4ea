"""Searches the documents and the package for phrases that are wrong everywhere; `make lint` runs it.

The list is short on purpose: a phrase belongs here only if no sentence of the project needs it. Notebooks are not
searched: their words change only when they are executed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
INSTEAD = {
    r"h(?:ang|angs|ung) on": "depends on",
    r"(?:is|are|was|were) told": "is given, receives; or say who says it",
    r"told of": "knows, learns about",
    r"held against": "compared with",
    r"means nothing to": "cannot be used with",
    r"(?<!there\s)is no (?:integer|JSON|object|list)": "is not an integer; or: expected an integer",
    r"be it (?:a|an|the)": "whether",
    r"(?:is|are) dear": "is expensive",
    r"(?:tokens?|samples?|rows?|passes) a (?:pass|token|step|round)": "per pass, per token",
    r"noise numbers?": "noise value",
    r"not to be read as": "common misreading",
    r"only as honest as": "depends on",
    r"the fuller": "denser",
    r"all but impossible": "almost impossible",
    r"(?:the|margin:) lead of": "the gap between",
    r"(?:can|that|who) means? harm": "hostile",
    r"the most on this page": "the limit of this page",
    r"independent given nothing": "marginally independent",
    r"(?:they|texts|maps) part": "differ, diverge",
}
"""A phrase, as a regular expression of words -> what to write."""
BETWEEN = r"""[\s"'#*/]+(?:f")?"""
"""Between two words: white space, the marks of a comment, and where a string goes on in the next line."""
PHRASES = {re.compile(rf"\b{key.replace(' ', BETWEEN)}\b", re.IGNORECASE): write for key, write in INSTEAD.items()}
SEARCHED = (
    *("*.md", "docs/*.md", "checkpoints/*/*.md", "analysis/*.py", "tools/*.py", "kfexplore/**/*.html"),
    *("kfexplore/**/*.py", "kfexplore/**/*.js"),
)


def found(text: str) -> list[tuple[int, str, str]]:
    """Every phrase of a text: its line, its words, what to write instead."""
    hits = ((match, write) for phrase, write in PHRASES.items() for match in phrase.finditer(text))
    return sorted((text.count("\n", 0, hit.start()) + 1, " ".join(hit[0].split()), write) for hit, write in hits)


def main() -> int:
    """Prints each phrase with its place; 1 if there are any."""
    paths = sorted(path for kind in SEARCHED for path in ROOT.glob(kind))
    hits = [(path, *hit) for path in paths for hit in found(path.read_text(encoding="utf-8"))]
    for path, line, words, write in hits:
        print(f"{path.relative_to(ROOT)}:{line}: {words!r}: {write}")
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main())
