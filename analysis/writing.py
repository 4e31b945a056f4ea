"""What a study leaves in its folder: a JSON document, rows as CSV, a page in both themes, and an image a figure."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from kfexplore.errors import KfError
from kfexplore.figures.page import page, themed, write
from kfexplore.figures.palette import Theme
from kfexplore.figures.still import write_stills

Draw = Callable[[Theme], Mapping[str, go.Figure]]
"""All figures of a study by name, in one theme."""


def write_document(name: str, document: Mapping[str, Any], folder: Path) -> None:
    """Writes folder/NAME.json; the folder is made.

    Raises:
        KfError: it cannot be written.
    """
    write(json.dumps(document, indent=2, allow_nan=False) + "\n", folder / f"{name}.json")


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Writes rows of one form as CSV; the first row's keys are the head.

    Raises:
        KfError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            for n, row in enumerate(rows):
                if n == 0:
                    writer = csv.DictWriter(file, list(row))
                    writer.writeheader()
                writer.writerow(row)
    except OSError as error:
        raise KfError(f"{path} cannot be written: {error}.", "a folder you may write to") from None


def write_figures(name: str, draw: Draw, folder: Path, title: str, foot: str) -> None:
    """Writes folder/NAME.html and folder/FIGURE.png for each figure; without a browser, a word instead of images.

    Raises:
        KfError: the folder cannot be written.
    """
    print(write(page(themed(draw), title, foot), folder / f"{name}.html"))
    try:
        write_stills(draw("light"), folder)
    except KfError as error:
        print(f"No images: {error}")
