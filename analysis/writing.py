"""Shared parts of studies: settings, texts, tables, and files (JSON document, CSV rows, page, one image per figure)."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch

from analysis.images import write_stills
from kfexplore import noise
from kfexplore.bench.setting import environment
from kfexplore.errors import KfError, writing
from kfexplore.figures.page import page, themed, write
from kfexplore.figures.palette import Theme
from kfexplore.laws.ranking import lines
from kfexplore.pair import Pair
from kfexplore.training.stories import stories

STORIES = "stories"
"""The pair whose training texts are generated."""
LEAST_PREFIX = 4
"""Fewest tokens of a prefix."""
Draw = Callable[[Theme], Mapping[str, go.Figure]]
"""All figures of a study by name, in one theme."""


def study_settings(asked: argparse.Namespace) -> dict[str, Any]:
    """All options except --out, with paths by name; without --text, it names the texts of `study_texts`."""
    values = {name: value.name if isinstance(value, Path) else value for name, value in vars(asked).items()}
    del values["out"]
    usual = "held-out stories" if asked.pair == STORIES else "own sentences"
    return values | ({"text": values["text"] or usual} if "text" in values else {})


def study_texts(pair: str, text: Path | None = None) -> list[str]:
    """Texts that a pair was not trained on: the lines of `text`; without it, sixty held-out stories for `stories`, else
    our own sentences.

    Raises:
        KfError: as `read_text`.
    """
    return [story.text for story in stories(60, seed=1)] if (pair, text) == (STORIES, None) else lines(text)


def prefixes(pair: Pair, texts: Sequence[str], seed: int, most: int | None = None) -> list[list[int]]:
    """A random prefix of each text, as token ids, for at most `most` evenly spaced texts.

    Raises:
        KfError: fewer than two texts have a prefix.
    """
    coded = [pair.encode(text)[0] for text in texts if text]
    long = [ids for ids in coded if len(ids) > LEAST_PREFIX]
    if len(long) < 2:
        raise KfError(f"{len(long)} texts have more than {LEAST_PREFIX} tokens.", "at least two")
    at = np.linspace(0, len(long) - 1, min(most or len(long), len(long))).astype(int)
    ends = [int(noise.generator(seed, "prefixes", int(n)).integers(LEAST_PREFIX, len(long[n]))) for n in at]
    return [long[n][:end] for n, end in zip(at, ends, strict=True)]


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A text table: the first column is left-aligned, all others are right-aligned."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ((line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])) for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in aligned)


def write_study(
    name: str,
    title: str,
    settings: Mapping[str, Any],
    found: Mapping[str, Any],
    draw: Draw,
    folder: Path,
    device: torch.device,
    rows: Iterable[Mapping[str, Any]] | None = None,
) -> None:
    """Writes all files of a study of one pair: NAME.json, NAME.csv if there are rows, NAME.html and its images.

    Args:
        name: Name of the study and its files.
        title: Title of the page.
        settings: Conditions of the numbers, for the document and below the figures.
        found: The document's own values.
        draw: Draws the figures.
        folder: Output folder; created.
        device: Device of the models.
        rows: Rows of the CSV file.

    Raises:
        KfError: the folder cannot be written.
    """
    document = {"study": name, **environment(device), **settings, **found}
    write_document(name, document, folder)
    if rows is not None:
        write_rows(rows, folder / f"{name}.csv")
    foot = ", ".join(f"{key} {value}" for key, value in settings.items()) + f"; {document['device']}, float32."
    write_figures(name, draw, folder, title, foot)


def write_document(name: str, document: Mapping[str, Any], folder: Path) -> None:
    """Writes folder/NAME.json; raises as `write_study`."""
    write(json.dumps(document, indent=2, allow_nan=False) + "\n", folder / f"{name}.json")


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Writes rows with the same keys as CSV; raises as `write_study`."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            for n, row in enumerate(rows):
                if n == 0:
                    writer = csv.DictWriter(file, list(row))
                    writer.writeheader()
                writer.writerow(row)


def write_figures(name: str, draw: Draw, folder: Path, title: str, foot: str) -> None:
    """Writes folder/NAME.html, and folder/FIGURE.png for each figure; without a browser, a message instead of images.

    Raises:
        KfError: the folder cannot be written.
    """
    print(write(page(themed(draw), title, foot), folder / f"{name}.html"))
    try:
        write_stills(draw("light"), folder)
    except KfError as error:
        print(f"No images: {error}")
