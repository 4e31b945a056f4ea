"""Figures of a replication: our numbers with their intervals, beside the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import plotly.graph_objects as go

from analysis.published import (
    AGREEMENT,
    DISTINCT,
    ENTROPY,
    GEN_PPL,
    SPEED_UP,
    WIN_RATE,
    Compared,
    Source,
)
from kfexplore.figures.page import axis_style, blank, dotted, titled, whiskers
from kfexplore.figures.palette import Theme, colours

NAMES: Final = {"lm1b": "LM1B", "owt": "OpenWebText"}
SHOWN: Final = (AGREEMENT, GEN_PPL, ENTROPY, DISTINCT[1], WIN_RATE, SPEED_UP)
"""Quantities that have a panel; the others are in the table."""
_LINES: Final = {WIN_RATE: 50.0, SPEED_UP: 1.0}
"""Values at which a decoder equals AR."""
_BESIDE: Final[dict[Source, tuple[str, str]]] = {
    "paper": ("the paper", "diamond-open"),
    "replication": ("independent replication", "square-open"),
}
_NOTES: Final = {
    "agreement": "Bars: 95 % intervals over text windows.",
    "quality": "Bars: 95 % intervals over samples. A Gen-PPL below AR's is not better: see what diversity it costs.",
    "judge": "Bars: 95 % intervals. At the dotted line the judge has no preference. Each pair is shown in both orders, "
    "and counts half a win where the order decides.",
    "throughput": "Bars: from the slowest to the fastest repeat. Our AR is decoded as well as the student, the paper's "
    "is bound by launches, so that a smaller gain is no contradiction.",
}


def part_figure(rows: Sequence[Compared], theme: Theme = "light") -> go.Figure:
    """One panel per quantity or batch of one part of one task, one row per decoder or slot.

    Args:
        rows: At least one of a quantity that is shown.
        theme: light or dark.
    """
    palette, rows = colours(theme), [row for row in rows if row.quantity in SHOWN]
    figure = blank(palette, _finding(rows), _reading(rows))
    names = list(dict.fromkeys(row.of for row in rows))
    panels = list(dict.fromkeys((row.quantity, row.batch) for row in rows))
    for n, (quantity, batch) in enumerate(panels):
        inside, axis = [row for row in rows if (row.quantity, row.batch) == (quantity, batch)], str(n + 1) if n else ""
        shared = {"xaxis": f"x{axis}", "yaxis": "y", "cliponaxis": False}
        colour = [palette.exact if row.of == "AR" else palette.learned for row in inside]
        figure.add_scatter(
            x=[row.ours.value for row in inside],
            y=[row.of for row in inside],
            error_x=whiskers([row.ours for row in inside], palette.learned),
            mode="markers+text",
            marker={"size": 11, "color": colour},
            text=[f"{row.ours.value:.{row.digits}f}" for row in inside],
            textposition="top center",
            textfont={"color": palette.muted, "size": 12},
            name="ours",
            showlegend=n == 0,
            hovertemplate="%{y}: %{text}<extra>ours</extra>",
            **shared,
        )
        for source, (name, symbol) in _BESIDE.items():
            known = [row for row in inside if source in row.published]
            figure.add_scatter(
                x=[row.published[source] for row in known],
                y=[row.of for row in known],
                mode="markers",
                marker={
                    "size": 12,
                    "symbol": symbol,
                    "color": palette.differ,
                    "line": {"width": 2, "color": palette.differ},
                },
                name=name,
                showlegend=bool(known) and not any(trace.name == name and trace.showlegend for trace in figure.data),
                hovertemplate="%{y}: %{x}<extra>" + name + "</extra>",
                **shared,
            )
        if quantity in _LINES:
            at = {"x0": _LINES[quantity], "x1": _LINES[quantity], "y0": 0, "y1": 1, "yref": "y domain"}
            figure.add_shape(type="line", xref=f"x{axis}", line=dotted(palette), **at)
        width, unit = 1 / len(panels), f" ({inside[0].unit})" if inside[0].unit else ""
        figure.update_layout(
            {
                f"xaxis{axis}": {
                    **axis_style(figure, "x"),
                    "domain": [n * width + 0.02 * bool(n), (n + 1) * width - 0.03],
                    "anchor": "y",
                    **({"matches": "x"} if batch and n else {}),
                    "zeroline": False,
                    "title": titled(f"{quantity}{unit}" + (f", batch {batch}" if batch else "")),
                }
            }
        )
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=names, autorange="reversed", showgrid=False
    )
    return figure.update_layout(height=figure.layout.margin.t + 150 + 52 * len(names), legend={"y": -0.3})


def _finding(rows: Sequence[Compared]) -> str:
    task, part, last = NAMES[rows[0].task], rows[0].part, rows[-1].of
    of = {(row.quantity, row.of): _beside(row) for row in rows}
    if part == "agreement":
        first, block = _beside(rows[0]), _beside(rows[-1])
        return f"{task}: the student gives the exact token of {rows[0].of} on {first}, of a {last} on {block}"
    if part == "judge":
        return f"{task}: {last} is preferred to AR on {of[WIN_RATE, last]} of prefixes"
    if part == "throughput":
        gains = [f"{_beside(row)} at batch {row.batch}" for row in rows if row.of == last]
        return f"{task}: speed of {last} over AR's: {', '.join(gains)}"
    variety = f"distinct-2 {of[DISTINCT[1], 'AR']} and {of[DISTINCT[1], last]}"
    if (GEN_PPL, last) not in of:
        return f"{task}: of AR's and {last}'s samples, {variety}"
    return f"{task}: Gen-PPL is {of[GEN_PPL, 'AR']} for AR and {of[GEN_PPL, last]} at {last}; {variety}"


def _beside(row: Compared) -> str:
    """A number and the published number for comparison."""
    unit = " %" if row.unit == "%" else ""
    beside = f" ({_BESIDE[row.against[0]][0]}: {row.against[1]:g}{unit})" if row.against else ""
    return f"{row.ours.value:.{row.digits}f}{unit}{beside}"


def _reading(rows: Sequence[Compared]) -> str:
    judged = [row.verdict for row in rows if row.verdict]
    words = f"Filled: ours. Open: published, without intervals. {_NOTES[rows[0].part]}"
    if judged:
        words += f" {judged.count('consistent')} of {len(judged)} published numbers lie within ours."
    reasons = dict.fromkeys(row.unlike for row in rows if row.unlike and row.against)
    return words + "".join(f" Not the published measurement: {reason}." for reason in reasons)
