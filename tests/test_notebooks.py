"""The notebooks run from top to bottom, and what is committed is the clean result of such a run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from notebooks import execute as module
from notebooks.execute import PLOTLY, clean, documents, execute, notebooks, read, stamp

BOOKS = notebooks()
LARGEST = 1_000_000
"""Bytes."""
MACHINE = re.compile(r"(?:^|[\s\"'(=])/(?:home|root|work|tmp|usr|opt|Users|var|mnt)/|[A-Z]:\\\\|\bin \d+\.\d+ ?s\b")
FIGURE = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d+)?"
NUMBER = re.compile(rf"(?<![\w.,^])(?=\d[.,]?\d|\d\s?%)({FIGURE})(?!\w)")
"""What a measured number looks like: two digits or more, a decimal, a percentage; whole, and no part of a name (K4)."""
UNREAD = re.compile(r"\$[^$]*\$|`[^`]*`")
"""Mathematics and code in prose."""
KNOWN = re.compile(r"notebook 0\d|\b01 and 10\b", re.IGNORECASE)
"""Numbers in prose that are no measurements: of a notebook, and the two blocks of Theorem 1's example."""
RACES = "03_throughput"
"""Its outputs are times of the machine that ran it."""
SHORT = next(path for path in BOOKS if path.stem == "05_distillation")
SMALL = {"LENGTH": 16, "STEPS": 2, "EVERY": 1}
"""The one that runs without `--full`, and its parameters there; the studies of the others have tests of their own."""
FULL = pytest.mark.full("notebooks", "analysis", "kfexplore", "checkpoints", "docs/bench", "requirements")
each = pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)


def outputs(book: NotebookNode) -> list[NotebookNode]:
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def words(output: NotebookNode) -> str:
    """The text of an output."""
    data = output.get("data", {})
    return output.get("text", "") + "".join(text for kind, text in data.items() if kind.startswith("text/"))


def told(book: NotebookNode) -> list[str]:
    """Titles, tables and sentences of the outputs; not the tables behind a strip."""
    kinds = ("text/plain", "text/markdown")
    return [
        output.get("text", "") + "".join(output.get("data", {}).get(kind, "") for kind in kinds)
        for output in outputs(book)
    ]


def numbers(text: str) -> list[str]:
    """All of a text, one thousand being 1000."""
    return [number.replace(",", "") for number in NUMBER.findall(text)]


def unfounded(book: NotebookNode) -> list[str]:
    """Numbers of the prose that are neither in the outputs nor among the parameters."""
    prose = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    parameters = [cell.source for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    known = {number for text in (*told(book), *parameters) for number in numbers(text)}
    return [number for number in numbers(KNOWN.sub("", UNREAD.sub("", prose))) if number not in known]


def differences(one: NotebookNode, other: NotebookNode) -> list[str]:
    """Where two runs of a notebook tell other things: the words must be the same, the numbers nearly so.

    A number may be off by a tenth of itself or by 0.1, and one in ten by more: another processor rounds otherwise,
    so that a token in many is another one.
    """
    figure, texts = re.compile(rf"(?<![\w.])[-+]?{FIGURE}"), (told(one), told(other))
    if len(texts[0]) != len(texts[1]):
        return [f"{len(texts[0])} outputs, and {len(texts[1])}"]
    found = [f"{a!r}, and {b!r}" for a, b in zip(*texts, strict=True) if figure.sub("0", a) != figure.sub("0", b)]
    if found:
        return found
    values = [[float(n.replace(",", "")) for n in figure.findall("\n".join(text))] for text in texts]
    off = [f"{a:g}, and {b:g}" for a, b in zip(*values, strict=True) if abs(a - b) > max(0.1, 0.1 * abs(a))]
    return off if len(off) > len(values[0]) / 10 else []


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
def test_outputs_are_of_these_cells_weights_and_documents(path: Path) -> None:
    assert read(path).metadata.kfexplore == stamp(read(path)), "run: make notebooks"


@each
def test_numbers_of_the_prose_are_among_the_outputs(path: Path) -> None:
    assert unfounded(read(path)) == []


@pytest.mark.slow
def test_a_notebook_runs_with_small_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; with its own parameters each runs under full."""
    monkeypatch.chdir(BOOKS[0].parent)
    book, names = read(SHORT), dict[str, Any]()
    for cell in (cell for cell in book.cells if cell.cell_type == "code"):
        exec(compile(cell.source, SHORT.name, "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            assert names.keys() >= SMALL.keys()
            names |= SMALL


@FULL
@each
def test_notebook_runs_from_top_to_bottom_and_tells_the_same(path: Path) -> None:
    committed, ran = read(path), execute(read(path))
    kinds = [sorted(output.get("data", {})) for output in outputs(ran) if output.output_type != "stream"]
    assert sum(PLOTLY in kind for kind in kinds) >= 5
    assert "plotly" not in "".join(words(output) for output in outputs(committed)).lower()
    if path.stem != RACES:
        assert differences(committed, clean(ran, Pictures())) == []  # type: ignore[arg-type]


def made(prose: str, *results: str, parameters: str = "") -> NotebookNode:
    """A notebook of one markdown cell, parameters, and a code cell with outputs."""
    cell = new_code_cell("1", outputs=[new_output("display_data", {"text/markdown": text}) for text in results])
    given = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    return new_notebook(cells=[new_markdown_cell(prose), given, cell])


@pytest.mark.parametrize(
    ("prose", "wrong"),
    [
        ("On 58 % of slot 1, on 7% of slot 4. It has 5.1 nats, 2,048 tokens, 96 steps, 1.6e+07 in all.", []),
        ("Only on 41.7 %.", ["41.7"]),
        ("Not 15.1, nor 58.0, nor 204 or 48.", ["15.1", "58.0", "204", "48"]),
        ("On 5 % of it, or on 4 in 10.", ["5", "10"]),
        ("See notebook 05, $x_{12} = 0.3$, `--k 32`, the H100; the blocks 01 and 10.", []),
    ],
)
def test_a_number_that_no_output_has_is_found(prose: str, wrong: list[str]) -> None:
    book = made(prose, "| 58.4 | 58% |", "On 7 % and 5.1 nats, 4 of 5", "1.6e+07", parameters="N = 2048\nSIDE = 96")
    assert unfounded(book) == wrong


def test_a_planted_number_is_found_in_every_notebook() -> None:
    for path in BOOKS:
        book = read(path)
        book.cells.append(new_markdown_cell("The learned map is exact on 123.4 % of noise."))
        assert unfounded(book)[-1:] == ["123.4"]


def test_runs_with_different_findings_are_distinguished() -> None:
    table = [f"slot {n}: {n}.0 nats, 5,{n}00 tokens" for n in range(1, 8)]
    one = made("", *table)
    near = [text.replace("1.0", "1.08").replace("5,1", "5,4") for text in table]
    assert differences(one, made("", *near)) == []
    assert differences(one, made("", *table[:-1])) == ["7 outputs, and 6"]
    assert differences(one, made("", *table[:-1], "slot 7: 7.0 bits, 5,700 tokens")) != []
    assert differences(one, made("", *table[:-1], "slot 7: 8.0 nats, 5,700 tokens")) == []  # one number of 21
    far = [text.replace(".0 nats", "9.0 nats") for text in table[:3]]
    assert differences(one, made("", *far, *table[3:])) == ["1, and 19", "2, and 29", "3, and 39"]


def test_another_document_makes_the_outputs_out_of_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs" / "bench").mkdir(parents=True)
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "learning.py").write_text('read("curve")')
    for name in ("curve", "speed", "other"):
        (tmp_path / "docs" / "bench" / f"{name}.json").write_text("1")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    book = made("The document other.json.", parameters='from analysis import learning\n\nread("docs/bench/speed.json")')
    assert [path.stem for path in documents(book)] == ["curve", "speed"]
    before = stamp(book)
    for name, same in (("other", True), ("speed", False), ("curve", False)):
        (tmp_path / "docs" / "bench" / f"{name}.json").write_text("2")
        assert (stamp(book) == before) == same
        before = stamp(book)


def test_notebooks_of_documents_depend_on_them() -> None:
    named = {path.stem[:2]: {document.stem for document in documents(read(path))} for path in BOOKS}
    assert "train-tales" in named["03"]
    assert {"tales-training", "tales-agreement", "ablation-tales", "ablation-options-tales"} <= named["05"]


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


def test_make_notebooks_finds_the_studies_where_no_path_is_set() -> None:
    rule = re.compile(r"^notebooks:.*\n\t\$\(BIN\)/python (.+)$", re.MULTILINE)
    (command,) = rule.findall((module.ROOT / "Makefile").read_text(encoding="utf-8"))
    given = [sys.executable, *command.split(), "--help"]
    run = subprocess.run(given, cwd=module.ROOT, env={}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
