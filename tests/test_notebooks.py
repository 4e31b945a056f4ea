"""The notebooks run from top to bottom, and what is committed is the clean result of such a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from notebooks.execute import PLOTLY, clean, execute, notebooks, read, source, weights

BOOKS = notebooks()
LARGEST = 1_000_000
"""Bytes."""
MACHINE = re.compile(r"(?:^|[\s\"'(=])/(?:home|root|work|tmp|usr|opt|Users|var|mnt)/|[A-Z]:\\\\|\bin \d+\.\d+ ?s\b")
NUMBER = re.compile(r"\d+\.\d+|\d+ ?%")
"""What a measured number in prose looks like."""
each = pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)


def outputs(book: NotebookNode) -> list[NotebookNode]:
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def words(output: NotebookNode) -> str:
    """The text of an output."""
    data = output.get("data", {})
    return output.get("text", "") + "".join(text for kind, text in data.items() if kind.startswith("text/"))


def test_there_are_notebooks() -> None:
    assert [path.stem[:2] for path in BOOKS] == ["01", "02", "03", "04", "05"]


@each
def test_committed_notebook_has_nothing_of_one_run_or_machine(path: Path) -> None:
    book = read(path)
    assert path.stat().st_size <= LARGEST
    assert [cell.execution_count for cell in book.cells if cell.cell_type == "code" and cell.execution_count] == []
    assert {output.output_type for output in outputs(book)} <= {"display_data", "stream"}
    assert not [output for output in outputs(book) if PLOTLY in output.get("data", {})]
    assert any("image/png" in output.get("data", {}) for output in outputs(book))
    everything = [words(output) for output in outputs(book)] + [cell.source for cell in book.cells]
    assert [found[0] for text in everything for found in MACHINE.finditer(text)] == []
    assert set(book.metadata) == {"kernelspec", "language_info", "kfexplore"}
    assert {name for cell in book.cells for name in cell.metadata} <= {"tags"}


@each
def test_outputs_are_of_these_cells_and_of_the_bundled_weights(path: Path) -> None:
    stamp = read(path).metadata.kfexplore
    assert stamp.source == source(read(path)), "run: make notebooks"
    assert stamp.weights == weights(), "run: make notebooks"


@each
def test_numbers_of_the_prose_are_among_the_outputs(path: Path) -> None:
    book = read(path)
    prose = " ".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    found = " ".join(words(output) for output in outputs(book))
    assert [number for number in NUMBER.findall(prose) if number not in found] == []


@pytest.mark.slow
@each
def test_notebook_runs_from_top_to_bottom(path: Path) -> None:
    committed, ran = read(path), execute(read(path))
    kinds = [sorted(output.get("data", {})) for output in outputs(ran) if output.output_type != "stream"]
    assert sum(PLOTLY in kind for kind in kinds) >= 5
    assert "plotly" not in "".join(words(output) for output in outputs(committed)).lower()


class Pictures:
    """Stands in for the camera."""

    def figure(self, _figure: object) -> bytes:
        return b"figure"

    def frame(self, _fragment: str) -> bytes:
        return b"frame"


def test_cleaning_keeps_results_and_drops_the_run() -> None:
    figure = {"data": [], "layout": {"title": {"text": "One<br>finding"}}}
    cell = new_code_cell("1", execution_count=3, metadata={"tags": ["parameters"], "execution": {"x": "12:00"}})
    cell.outputs = [
        new_output("stream", name="stderr", text="10 %"),
        new_output("stream", name="stdout", text="a table"),
        new_output("execute_result", {PLOTLY: figure, "text/html": "<script>"}, execution_count=3),
        new_output("execute_result", {"text/html": "<iframe></iframe>", "text/plain": "<HTML at 0x7f>"}),
        new_output("execute_result", {"text/markdown": "**1**", "text/plain": "<Markdown at 0x7f>"}),
    ]
    book = new_notebook(cells=[new_markdown_cell("Words."), cell], metadata={"widgets": {}})
    done = clean(book, Pictures())  # type: ignore[arg-type]
    assert done.cells[1].execution_count is None
    assert done.cells[1].metadata == {"tags": ["parameters"]}
    assert "widgets" not in done.metadata
    table, still, strip, strip_still, prose = done.cells[1].outputs
    assert table.text == "a table"
    assert set(still.data) == {"image/png", "text/plain"}
    assert still.data["text/plain"] == "One finding"
    assert strip.data == {"text/html": "<iframe></iframe>"}
    assert "image/png" in strip_still.data
    assert prose.data == {"text/markdown": "**1**"}
