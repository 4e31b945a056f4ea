"""Executes the notebooks and writes them back as they are committed: `python -m notebooks.execute [NAME ...]`.

What is committed has the outputs of one run from top to bottom, but no execution counts, times, warnings or machine
paths. Plotly figures become still images, as code hosts run no scripts; opened in JupyterLab and run, they are
interactive again. The scrub figure stays as it is (it needs no server), with a still image after it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_output

from analysis.images import Camera
from kfexplore.checkpoints.registry import bundled_folder, fingerprint, pair_parts
from kfexplore.config import DEFAULT_PAIR

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
PLOTLY = "application/vnd.plotly.v1+json"
LONGEST = 600
"""Seconds that a cell may take."""
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebooks() -> list[Path]:
    """All of them, in the order of their numbers."""
    return sorted(FOLDER.glob("[0-9]*.ipynb"))


def read(path: Path) -> NotebookNode:
    """A notebook of format 4."""
    return nbformat.read(path, as_version=4)


def execute(book: NotebookNode) -> NotebookNode:
    """Runs all cells in a kernel of this interpreter, in the notebooks' folder; figures are left as Plotly's JSON.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    os.environ |= {"PLOTLY_RENDERER": "plotly_mimetype", "TQDM_DISABLE": "1"}
    book.metadata.kernelspec = _KERNEL
    client = NotebookClient(book, timeout=LONGEST, resources={"metadata": {"path": str(FOLDER)}}, record_timing=False)
    return client.execute()


def clean(book: NotebookNode, camera: Camera) -> NotebookNode:
    """The notebook as it is committed."""
    book.metadata = NotebookNode(
        kernelspec=_KERNEL,
        language_info={"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
        kfexplore=stamp(book),
    )
    for cell in book.cells:
        cell.metadata = NotebookNode({name: cell.metadata[name] for name in ("tags",) if name in cell.metadata})
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [still for output in cell.outputs for still in _committed(output, camera)]
    return book


def stamp(book: NotebookNode) -> dict[str, str]:
    """Fingerprints of weights, code and documents: outputs are out of date where one differs. Prose is not hashed."""
    code = "\0".join(cell.source for cell in book.cells if cell.cell_type == "code")
    pair = re.search(r'^PAIR = "(\w+)"', code, re.MULTILINE)
    named = [(path.name.encode(), path.read_bytes()) for path in documents(book)]
    return {
        "weights": fingerprint(pair_parts(bundled_folder(pair[1] if pair else DEFAULT_PAIR))),
        "code": hashlib.sha256(code.encode()).hexdigest(),
        "documents": hashlib.sha256(b"\0".join(part for pair in named for part in pair)).hexdigest(),
    }


def documents(book: NotebookNode) -> list[Path]:
    """The files of docs/bench whose names occur in the code cells, or in the studies of analysis/ that these import."""
    code = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")
    studies = re.findall(r"^from analysis import (\w+)$", code, re.MULTILINE)
    read_from = [code, *((ROOT / "analysis" / f"{name}.py").read_text(encoding="utf-8") for name in studies)]
    return [path for path in sorted((ROOT / "docs" / "bench").glob("*.json")) if path.stem in "\n".join(read_from)]


def _committed(output: NotebookNode, camera: Camera) -> list[NotebookNode]:
    if output.output_type == "stream":
        return [output] if output.name == "stdout" else []  # progress bars and warnings are of this run alone
    data = output.data
    kept = "text/html" if "text/html" in data else "text/markdown" if "text/markdown" in data else "text/plain"
    if PLOTLY in data:
        return [_image(camera.figure(data[PLOTLY]), _title(data[PLOTLY]))]
    if "<iframe" in data.get("text/html", ""):
        strip = new_output("display_data", {"text/html": data["text/html"]})
        return [strip, _image(camera.frame(data["text/html"]), "The strip as a still image.")]
    return [new_output("display_data", {kept: data[kept]})]


def _image(png: bytes, words: str) -> NotebookNode:
    return new_output("display_data", {"image/png": base64.b64encode(png).decode(), "text/plain": words})


def _title(figure: dict[str, dict[str, dict[str, str]]]) -> str:
    return str(figure["layout"]["title"]["text"]).replace("<br>", " ")


def main() -> None:
    """Executes some or all and writes them back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of file names, as 01; none: all")
    asked = parser.parse_args()
    chosen = [path for path in notebooks() if not asked.names or path.name.startswith(tuple(asked.names))]
    if not chosen:
        parser.error(f"there are {', '.join(path.name for path in notebooks())}")
    for path in chosen:
        started = time.perf_counter()
        book = execute(read(path))  # before the camera opens: its event loop would be in the way
        seconds = time.perf_counter() - started
        with Camera() as camera:
            nbformat.write(clean(book, camera), path)
        size = path.stat().st_size
        print(f"{path.name}: {seconds:.0f} s, {size / 1e3:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
