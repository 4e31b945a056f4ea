"""A language of simple stories, generated from the grammar in stories.yaml, with the entropy of its choices.

A story is a deterministic function of (seed, number): its choices are the inverse CDF of keyed uniform noise
(`kfexplore.noise.uniform`), so it is the same on every machine and Python version.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from kfexplore import noise
from kfexplore.errors import KfError, writing

GRAMMAR = Path(__file__).with_name("stories.yaml")
MOST_STORIES = 1_000_000
RICHNESS = (0.1, 10.0)
"""Smallest and largest richness."""
WORDS = (60, 120)
"""Fewest and most words of a story; stories of other lengths are redrawn with the next noise values."""
CHOICES = 512
"""Noise values per story: a story takes about 70, and one in 200 is redrawn."""
SPEECH = {".": "statement", "?": "question", "!": "exclamation"}
"""Parts of the grammar that hold direct speech, by the sign that ends it."""
BLANKS = re.compile(" +")
MARK = re.compile(r"([\[|\]]|<[a-z]+\d*(?:\.[a-z_]+)?>|\{[a-z_]+\})")
SENTENCE = re.compile(r'(^|[.!?] |(?:^| )")([a-z])')
ARTICLE = re.compile(r"\b([Aa])( (?:[aeiou]|hon|hour))")

Sequence = list[Any]
"""A parsed template: literal text, a <fact>, a {part}, or a choice, which is a list of sequences."""


@dataclass(frozen=True)
class Story:
    """One story."""

    text: str
    nats: float
    """Surprisal of the choices. Different choices can give the same text, so the mean over many stories is an upper
    bound on the entropy of the language."""

    @property
    def words(self) -> int:
        """Number of words, separated by blanks."""
        return len(self.text.split())


@dataclass(frozen=True)
class Line:
    """A sentence of a plot."""

    template: str
    speaker: str = ""
    """Who says it; empty: the narrator."""
    optional: bool = False


@dataclass(frozen=True)
class Grammar:
    """stories.yaml, parsed."""

    plots: tuple[tuple[Line, ...], ...]
    """Lines of each plot."""
    parts: dict[str, str]
    """Texts that lines share, by name."""
    pools: dict[str, list[dict[str, str]]]
    """Entries by pool; an entry maps columns to texts; the first column is named ""."""
    roles: dict[str, str]
    """Names under which an entry of a pool is kept, besides the pool's own."""


@cache
def grammar() -> Grammar:
    """The grammar of stories.yaml."""
    read: dict[str, Any] = yaml.safe_load(GRAMMAR.read_text(encoding="utf-8"))
    pools = {}
    for name, table in read["pools"].items():
        (_, *columns), *rows = (line.split() for line in table.splitlines())
        cells = ([cell.replace("_", " ") for cell in row] for row in rows)
        pools[name] = [dict(zip(["", *columns], row, strict=True)) for row in cells]
    plots = tuple(tuple(map(_line, plot["lines"])) for plot in read["plots"])
    return Grammar(plots, read["parts"], pools, read["roles"])


def _line(line: str | dict[str, str]) -> Line:
    speaker, template = next(iter(line.items())) if isinstance(line, dict) else ("", line)
    return Line(template.removeprefix("? "), speaker, template.startswith("? "))


def stories(count: int, seed: int, richness: float = 1.0) -> Iterator[Story]:
    """The first stories of a seed.

    Args:
        count: Number of stories, 1 to 1,000,000.
        seed: Random seed of the noise; sets with different seeds are independent.
        richness: How evenly choices are made, 0.1 to 10: option n has weight n^(-1 / (2 richness)).

    Raises:
        KfError: count or richness out of range, or a seed that is not a 64-bit number.
    """
    if not 1 <= count <= MOST_STORIES:
        raise KfError(f"The number of stories is {count}.", f"1 to {MOST_STORIES:,}")
    if not RICHNESS[0] <= richness <= RICHNESS[1]:
        raise KfError(f"richness is {richness}.", f"{RICHNESS[0]} to {RICHNESS[1]}")
    for first in range(0, count, 1024):
        numbers = range(first, min(first + 1024, count))
        for values in noise.uniform(seed, numbers, 0, CHOICES):
            left = iter(values.tolist())
            story = _Writer(grammar(), left, richness).story()
            while not WORDS[0] <= story.words <= WORDS[1]:
                story = _Writer(grammar(), left, richness).story()
            yield story


def write_stories(folder: Path, count: int, seed: int, richness: float = 1.0) -> str:
    """Writes stories to story-000000.txt, ..; returns a line on their number, words and entropy.

    Args:
        folder: Created if missing; it must not hold other texts.
        count, seed, richness: As in `stories`.

    Raises:
        KfError: as `stories`; the folder already holds texts or cannot be written to.
    """
    words = nats = 0.0
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("*.txt")):
            raise KfError(f"{folder} already holds texts.", "a new folder")
        for number, story in enumerate(stories(count, seed, richness)):
            (folder / f"story-{number:06d}.txt").write_text(story.text, encoding="utf-8")
            words, nats = words + story.words, nats + story.nats
    return f"{count:,} stories, {words:,.0f} words, entropy at most {nats / words:.3f} nats per word, in {folder}"


class _Writer:
    """Writes one story: turns noise values into choices and remembers the facts drawn."""

    def __init__(self, rules: Grammar, values: Iterator[float], richness: float) -> None:
        self.rules, self.values, self.richness = rules, values, richness
        self.nats = 0.0
        self.entries: dict[str, dict[str, str]] = {}
        self.facts: dict[tuple[str, str], str] = {}

    def story(self) -> Story:
        """The whole story."""
        lines = filter(None, map(self.line, self.rules.plots[self.choose(len(self.rules.plots))]))
        text = BLANKS.sub(
            " ", " ".join(SENTENCE.sub(lambda found: found[1] + found[2].upper(), line) for line in lines)
        )
        return Story(ARTICLE.sub(r"\1n\2", text), self.nats)

    def line(self, line: Line) -> str:
        """A sentence; empty if it is left out."""
        if line.optional and not self.choose(2):
            return ""
        if not line.speaker:
            return self.expand(line.template)
        speaker, words = self.expand(line.speaker), self.expand(line.template)
        self.facts |= {("speaker", ""): speaker, ("quote", ""): words[:-1]}
        return self.expand(self.rules.parts[SPEECH[words[-1]]])

    def choose(self, count: int) -> int:
        """One of `count` options, by inverse CDF of the next noise value."""
        if count == 1:
            return 0
        bounds, u = _cumulative(count, self.richness), next(self.values)
        chosen = sum(u >= bound for bound in bounds[:-1])
        self.nats -= math.log(bounds[chosen] - (bounds[chosen - 1] if chosen else 0.0))
        return chosen

    def expand(self, template: str) -> str:
        """The text of a template."""
        return self.write(_parse(template))

    def write(self, sequence: Sequence) -> str:
        """The text of a parsed template."""
        return "".join(map(self.node, sequence))

    def node(self, node: str | list[Sequence]) -> str:
        """The text of a literal, a <fact>, a {part}, or one alternative of a choice; others are not expanded."""
        if isinstance(node, list):
            return self.write(node[self.choose(len(node))])
        if node[0] == "<":
            role, _, column = node[1:-1].partition(".")
            return self.fact(role, column)
        return self.expand(self.rules.parts[node[1:-1]]) if node[0] == "{" else node

    def fact(self, role: str, column: str) -> str:
        """A column of the entry of a role; both are drawn once per story."""
        if (role, column) in self.facts:
            return self.facts[role, column]
        if role not in self.entries:
            base = role.rstrip("0123456789")
            taken = list(self.entries.values())
            free = [entry for entry in self.rules.pools[self.rules.roles.get(base, base)] if entry not in taken]
            self.entries[role] = free[self.choose(len(free))]
        values = self.entries[role][column].split("/")
        self.facts[role, column] = values[self.choose(len(values))]
        return self.facts[role, column]


@cache
def _parse(template: str) -> Sequence:
    sequence, end = _sequence(iter(MARK.split(template)))
    assert not end, f"a bracket too many in {template!r}"
    return sequence


def _sequence(tokens: Iterator[str]) -> tuple[Sequence, str]:
    """Nodes up to a |, a ] or the end of the template, and which of these ended them."""
    nodes: Sequence = []
    for token in tokens:
        if token == "[":
            options, end = [], "|"
            while end == "|":
                option, end = _sequence(tokens)
                options.append(option)
            assert end == "]", f"an open bracket before {options}"
            nodes.append(options)
        elif token in ("|", "]"):
            return nodes, token
        elif token:
            nodes.append(token)
    return nodes, ""


@cache
def _cumulative(count: int, richness: float) -> tuple[float, ...]:
    """CDF of a choice among `count` options."""
    weights = [n ** (-0.5 / richness) for n in range(1, count + 1)]
    return tuple(total / sum(weights) for total in accumulate(weights))
