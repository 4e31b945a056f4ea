"""Still images of figures, taken in a headless Chromium: for code hosts, papers and READMEs, which run no scripts.

Requires playwright (requirements-dev.txt) and a Chromium; fetches nothing.
"""

from __future__ import annotations

import importlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import plotly.graph_objects as go
from PIL import Image

from kfexplore.errors import KfError
from kfexplore.figures.page import plotly_script, write

WIDTH: Final = 960
"""Width of every image, in CSS pixels."""
SCALE: Final = 1.25
"""Pixels per CSS pixel in images of figures; frames, which are long, use 1."""
COLOURS: Final = 128
"""Colours per image: figures have few, and images look the same at a quarter of the file size."""
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS: Final = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
_DRAW: Final = """async ([data, layout]) => {
  const place = document.getElementById("figure");
  Plotly.purge(place);
  await Plotly.newPlot(place, data, {...layout, width: undefined, autosize: true}, {staticPlot: true});
}"""


class Camera:
    """Takes PNG images; a context manager that keeps a browser open. Cannot be used in a running event loop.

    Raises:
        KfError: no playwright, or no Chromium.
    """

    def __enter__(self) -> Camera:
        try:
            api = importlib.import_module("playwright.sync_api")
        except ImportError:
            raise KfError("Images need playwright, which is not installed.", run="make setup") from None
        self._engine = api.sync_playwright().start()
        system = next(filter(None, map(shutil.which, _BROWSERS)), None)
        try:
            self._browser = self._engine.chromium.launch(executable_path=system, args=_ARGUMENTS)
        except api.Error:
            self._engine.stop()
            raise KfError("Images need Chromium, which cannot be started.", run="playwright install chromium") from None
        self._plots: Any = None
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.close()
        self._engine.stop()

    def figure(self, figure: go.Figure | Mapping[str, Any]) -> bytes:
        """A Plotly figure, or its JSON values, as PNG."""
        values = figure.to_plotly_json() if isinstance(figure, go.Figure) else figure
        plain = json.loads(go.Figure(values["data"], values["layout"]).to_json())
        if self._plots is None:  # kept open: loading the library takes longer than drawing a figure
            self._plots = self._page("")
            self._plots.add_script_tag(path=plotly_script())
        self._plots.evaluate(_DRAW, [plain["data"], plain["layout"]])
        return _taken(self._plots, "#figure")

    def frame(self, fragment: str, ready: str = "[data-id]") -> bytes:
        """An `<iframe>` as PNG, once something inside matches the selector `ready`."""
        page = self._page(fragment, 1)
        page.frame_locator("iframe").locator(ready).first.wait_for()
        page.wait_for_timeout(300)  # until the frame has its height and canvases are painted
        image = _taken(page, "iframe")
        page.close()
        return image

    def _page(self, body: str, scale: float = SCALE) -> Any:
        page = self._browser.new_page(viewport={"width": WIDTH, "height": 800}, device_scale_factor=scale)
        page.set_content(f'<!doctype html><body style="margin:0"><div id="figure">{body}</div></body>')
        return page


def _taken(page: Any, selector: str) -> bytes:
    """An element as PNG with an adaptive palette."""
    png = page.locator(selector).screenshot(type="png")
    image, kept = Image.open(io.BytesIO(png)).convert("RGB"), io.BytesIO()
    image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(kept, "PNG", optimize=True)
    return kept.getvalue()


def write_stills(figures: Mapping[str, go.Figure], folder: Path) -> list[Path]:
    """Each figure as folder/NAME.png.

    Raises:
        KfError: no browser, or a folder that cannot be written.
    """
    with Camera() as camera:
        return [write(camera.figure(figure), folder / f"{name}.png") for name, figure in figures.items()]
