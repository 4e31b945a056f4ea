"""Shared parts of all figures: titles that state the finding, axes, lines, whiskers, and the page of figures."""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from math import ceil, floor, log10
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import plotly
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from kfexplore.errors import writing
from kfexplore.figures.palette import Colours, Theme, colours, token_label
from kfexplore.results import Estimate, Spread

Text = Callable[[int], str]
"""Gives the text of a token id."""
THEMES: Final[tuple[Theme, ...]] = ("light", "dark")
SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "triangle-down")
"""Markers of the lines of a figure, to distinguish them without colour."""
CLEAR: Final = "rgba(0,0,0,0)"
_FONT: Final = 'system-ui, -apple-system, "Segoe UI", sans-serif'


def blank(palette: Colours, finding: str, reading: str) -> go.Figure:
    """An empty figure in the palette's colours; the title states the finding, the subtitle how to read the figure."""
    axis = {
        "gridcolor": palette.rule,
        "linecolor": palette.rule,
        "zerolinecolor": palette.rule,
        "tickfont": {"color": palette.muted, "size": 13},
        "title": {"font": {"size": 14}},
        "automargin": True,
    }
    unbroken = html.escape(finding, quote=False).replace(" = ", "\u00a0=\u00a0")  # "K = 4" stays on one line
    title = "<br>".join(textwrap.wrap(unbroken, 84)).replace("\u00a0", " ")
    subtitle = "<br>".join(textwrap.wrap(html.escape(reading, quote=False), 120))
    lines = title.count("<br>") + subtitle.count("<br>")
    return go.Figure(
        layout={
            "title": {
                "text": title,
                "font": {"size": 17},
                "subtitle": {"text": subtitle, "font": {"size": 13, "color": palette.muted}},
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "pad": {"t": 24},
            },
            "font": {"family": _FONT, "size": 14, "color": palette.ink},
            "paper_bgcolor": palette.surface,
            "plot_bgcolor": palette.surface,
            "hoverlabel": {"bgcolor": palette.raised, "bordercolor": palette.rule, "font": {"color": palette.ink}},
            "margin": {"t": 92 + 22 * lines, "r": 16, "b": 16, "l": 16},
            "height": 470 + 22 * lines,
            "legend": {"orientation": "h", "yanchor": "top", "y": -0.18, "x": 0},
            "xaxis": axis,
            "yaxis": axis,
        }
    )


def bare(figure: go.Figure, height: int = 340) -> tuple[tuple[str, str], str]:
    """Splits a figure for a page with its own headings and background.

    Returns:
        Title and subtitle (the finding and how to read the figure), and the rest as Plotly's JSON.
    """
    head = figure.layout.title
    words = head.text.replace("<br>", " "), head.subtitle.text.replace("<br>", " ")
    figure.update_layout(
        title=None,
        meta={"name": f"{words[0]}. {words[1]}"},
        height=height,
        margin={"t": 0},
        legend={"y": 1.04, "yanchor": "bottom", "font": {"size": 13}},
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
    )
    return words, figure.to_json()


def axis_style(figure: go.Figure, letter: str) -> dict[str, Any]:
    """The style that `blank` gives an axis, for another panel."""
    values = figure.layout[f"{letter}axis"].to_plotly_json()
    return {name: values[name] for name in ("gridcolor", "linecolor", "zerolinecolor", "tickfont", "automargin")}


def titled(words: str) -> dict[str, Any]:
    """An axis title in the style of `blank`."""
    return {"text": words, "font": {"size": 14}}


def add_panel(
    figure: go.Figure,
    n: int,
    across: tuple[float, float],
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    up: tuple[float, float] = (0, 1),
) -> dict[str, str]:
    """Adds the axes of a figure's n-th panel; returns the axes for traces in it.

    Args:
        figure: From `blank`.
        n: Number of the panel; 0 is the one from `blank`.
        across: Left and right end of the panel, as fractions of the figure.
        x: Properties of the x axis beyond those of `blank`; y: those of the y axis.
        up: Lower and upper end.
    """
    name = str(n + 1) if n else ""
    axes = {
        f"xaxis{name}": {**axis_style(figure, "x"), "domain": across, "anchor": f"y{name}", **x},
        f"yaxis{name}": {**axis_style(figure, "y"), "domain": up, "anchor": f"x{name}", **y},
    }
    figure.update_layout(axes)
    return {"xaxis": f"x{name}", "yaxis": f"y{name}"}


def add_series(
    figure: go.Figure,
    palette: Colours,
    n: int,
    x: Sequence[float],
    y: Sequence[Estimate] | Sequence[float],
    **trace: Any,
) -> None:
    """Draws the n-th of several lines with markers, in its own colour and symbol; estimates get whiskers.

    `trace` holds more properties: `name`, `hovertemplate`, ...; `scale` multiplies y, `size` is the marker size.
    """
    scale, size, colour = trace.pop("scale", 1.0), trace.pop("size", 8), palette.series(n)
    if estimates := [value for value in y if isinstance(value, Estimate)]:
        trace["error_y"] = whiskers(estimates, colour, scale)
    figure.add_scatter(
        x=x,
        y=[scale * (value.value if isinstance(value, Estimate) else value) for value in y],
        **{"mode": "lines+markers", "line": {"color": colour, "width": 2}}
        | {"marker": {"symbol": SYMBOLS[n % len(SYMBOLS)], "size": size, "color": colour}}
        | trace,
    )


def add_cell_values(
    figure: go.Figure, palette: Colours, texts: Sequence[Sequence[str]], dark: npt.NDArray[np.bool_], **trace: Any
) -> None:
    """Writes texts into the cells of a heat map, in a colour that is legible in each.

    Args:
        figure: The figure with the heat map.
        palette: Colours of its theme.
        texts: (rows, columns); empty ones are left out.
        dark: (rows, columns) cells whose background is dark in the light theme.
        trace: More properties: `size` of the text, the axes, and the names of the columns and rows as x and y.
    """
    size = trace.pop("size")
    columns, rows = (trace.pop(name, range(dark.shape[n])) for name, n in (("x", 1), ("y", 0)))
    for ground, colour in ((~dark, palette.ink), (dark, palette.surface)):
        at = [(r, c) for r, c in np.argwhere(ground).tolist() if texts[r][c]]
        figure.add_scatter(
            x=[columns[c] for _, c in at],
            y=[rows[r] for r, _ in at],
            mode="text",
            text=[texts[r][c] for r, c in at],
            textfont={"color": colour, "size": size},
            hoverinfo="skip",
            showlegend=False,
            **trace,
        )


def dotted(palette: Colours) -> dict[str, Any]:
    """Line style for a reference value."""
    return {"color": palette.muted, "dash": "dot", "width": 1}


def whiskers(found: Sequence[Estimate | Spread], colour: str, scale: float = 1.0) -> dict[str, Any]:
    """Intervals of estimates, or spreads, as Plotly error bars."""
    return {
        "array": [scale * (e.high - e.value) for e in found],
        "arrayminus": [scale * (e.value - e.low) for e in found],
        "color": colour,
        "thickness": 1.2,
        "width": 4,
    }


def half_widths(halves: Sequence[float], colour: str, scale: float = 1.0) -> dict[str, Any]:
    """Symmetric intervals as Plotly error bars."""
    return {"array": [scale * half for half in halves], "color": colour, "thickness": 1.2, "width": 4}


def percent(fraction: float) -> str:
    """A fraction in per cent with one decimal, unless that is 0; no line break before the sign."""
    return f"{100 * fraction:.1f}".removesuffix(".0") + "\N{NO-BREAK SPACE}%"


def visible(text: Text, token: int) -> str:
    """A token's label, escaped, since Plotly interprets tags."""
    return html.escape(token_label(text(int(token))), quote=False)


def log_axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis with ticks at 1, 2 and 5 of each decade, or only at powers of ten if it is long."""
    ends = [log10(low), log10(high)]
    steps = (1, 2, 5) if ends[1] - ends[0] < 2.5 else (1,)
    powers = range(floor(ends[0]), ceil(ends[1]) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return {
        "type": "log",
        "range": ends,
        "tickvals": ticks,
        "ticktext": [f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks],
        "zeroline": False,
    }


def themed(draw: Callable[[Theme], Mapping[str, go.Figure]]) -> list[dict[Theme, go.Figure]]:
    """The figures of `draw`, each in both themes, for `page`."""
    drawn = {theme: draw(theme) for theme in THEMES}
    return [{theme: drawn[theme][name] for theme in THEMES} for name in drawn["light"]]


def page(drawn: Sequence[dict[Theme, go.Figure]], title: str, foot: str) -> str:
    """Figures, each in both themes, as one HTML page, light or dark as the reader's system."""
    parts, data = [], []
    for n, figures in enumerate(drawn):
        head = figures["light"].layout.title
        finding, reading = (text.replace("<br>", " ") for text in (head.text, head.subtitle.text))
        named = f'<div class="figure" id="figure-{n}" role="img" aria-labelledby="finding-{n} reading-{n}"></div>'
        parts.append(f'<h2 id="finding-{n}">{finding}</h2><p id="reading-{n}">{reading}</p>{named}')
        data.append({theme: _untitled(figure) for theme, figure in figures.items()})
    return _PAGE.format(
        title=html.escape(title),
        css=_css(),
        library=get_plotlyjs(),
        body="\n".join(parts),
        foot=html.escape(foot),
        data=json.dumps(data).replace("<", "\\u003c"),
    )


def write(content: str | bytes, path: Path) -> Path:
    """Writes a page or an image; creates its folder.

    Raises:
        KfError: it cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def plotly_script() -> Path:
    """Plotly's script as a file, for pages that a server delivers."""
    return Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def _untitled(figure: go.Figure) -> dict[str, Any]:
    """The figure as JSON values without the title, which the page shows."""
    plain = go.Figure(figure).update_layout(title=None, margin={"t": 16}, height=400)
    return dict(json.loads(plain.to_json()))


def _css() -> str:
    def values(theme: Theme) -> str:
        palette = colours(theme)
        return f"color-scheme:{theme};--surface:{palette.surface};--ink:{palette.ink};--muted:{palette.muted}"

    return (
        f":root{{{values('light')}}}@media (prefers-color-scheme:dark){{:root{{{values('dark')}}}}}"
        "body{margin:0 auto;max-width:960px;padding:24px 16px;background:var(--surface);color:var(--ink);"
        f"font-family:{_FONT};line-height:1.5}}"
        "h2{font-size:1.15rem;margin:2.5rem 0 .25rem}h2:first-child{margin-top:0}"
        "p{margin:.25rem 0 .5rem;color:var(--muted);font-size:.9rem}"
    )


_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{css}</style>
<script>{library}</script>
</head>
<body>
{body}
<p>{foot}</p>
<script>
const figures = {data};
const dark = matchMedia("(prefers-color-scheme: dark)");
const draw = () => figures.forEach((themes, n) => {{
  const figure = themes[dark.matches ? "dark" : "light"];
  Plotly.react(`figure-${{n}}`, figure.data, figure.layout, {{responsive: true, displayModeBar: false}});
}});
dark.addEventListener("change", draw);
draw();
</script>
</body>
</html>
"""
