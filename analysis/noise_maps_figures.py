"""Figures and results of both maps: areas, differences between the maps, resolution, reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import plotly.graph_objects as go

from analysis.grid_figures import heading
from kfexplore.figures.page import (
    Text,
    add_cell_values,
    add_panel,
    add_series,
    blank,
    dotted,
    titled,
    visible,
    whiskers,
)
from kfexplore.figures.palette import Theme, colours
from kfexplore.results import Bin, Estimate, Floats, Ints

_FEWEST_DRAWN: Final = 20
"""Fewest slots of a bin in a figure; a fraction of fewer is not informative."""


@dataclass(frozen=True)
class Sample:
    """Both maps for the same noise, M noise vectors after each of C contexts, with attributes of each slot."""

    u: Floats  # (C, M, K) noise
    teacher: Ints  # (C, M, K) exact tokens
    student: Ints  # (C, M, K) learned tokens
    margin: Floats  # (C, M, K) the student's largest logit minus its second largest, nats
    edge: Floats  # (C, M, K) distance of u from the nearer edge of its exact cell, units of u
    width: Floats  # (C, M, K) of that cell: the probability of the exact token, given the exact tokens before it
    entropy: Floats  # (C, M, K) entropy of the distribution to which the cell belongs, nats
    frequency: Floats  # (C, M, K) the exact token's mean probability over the distributions of all slots


@dataclass(frozen=True)
class SlotAgreement:
    """How often one slot's learned token is exact."""

    slot: int  # from 0
    all: Estimate
    after_exact: Estimate | None  # if all slots before it are exact; None for the first
    after_wrong: Estimate | None  # if one before it is not


@dataclass(frozen=True)
class AgreementBy:
    """Fraction of exact tokens by fifths of a quantity, taken over all slots together."""

    quantity: str  # with its unit
    slots: list[list[Bin]]  # (K, up to 5) of each slot
    all: list[Bin]  # (up to 5) of all slots together


@dataclass(frozen=True)
class Areas:
    """Pairs of tokens: the fraction of the grid that each map gives them, beside the teacher's probability."""

    tokens: Ints  # (P, 2) all pairs that occur in one of the maps, most likely first
    probability: Floats  # (P,) of each pair under the teacher
    exact: Floats  # (P,) area in the exact map
    learned: Floats  # (P,) area in the learned map
    points: int  # N evaluated noise vectors: areas are multiples of 1 / N
    tv_exact: float  # total variation distance of the exact areas from the teacher: the error of N points
    tv_learned: float  # of the learned areas


@dataclass(frozen=True)
class Resolution:
    """How finely the student resolves noise."""

    apart: Floats  # (D,) distances of two noise values, units of u
    encoded: Floats  # (D,) mean distance of their encodings, over that of two independent noise values
    by_width: list[Bin]  # exact tokens of slot 1 by the width of the exact cell
    shifts: Floats
    """(n,) shift of each border of slot 1's exact map in the learned map, units of u: F'(v) - F(v), where F' is the
    fraction of the slider on which the student's token is v or one before it."""


@dataclass(frozen=True)
class Reach:
    """How far one slot's noise reaches: (K, K) probabilities, row i the slot whose noise is redrawn, column j the
    slot whose token then differs; the other noise is fixed, mean over contexts and noise."""

    exact: Floats
    learned: Floats


def areas_figure(found: Areas, text: Text = str, theme: Theme = "light") -> go.Figure:
    """Areas of the pairs' regions against their probabilities; pairs with area 0 are on the lowest line."""
    palette, floor = colours(theme), 0.5 / found.points
    missing = float(found.probability[found.learned == 0].sum())
    figure = blank(
        palette,
        f"The exact map's areas are the probabilities (TV {found.tv_exact:.2f}, the sampling error of "
        f"{found.points:,} points); the learned map's are off by TV {found.tv_learned:.2f}",
        "A mark: one pair of tokens, on the dotted line if its area equals its probability. The lowest line holds "
        f"pairs that no point gives; in the learned map these have {missing:.0%} of the probability. TV: total "
        "variation distance between areas and probabilities.",
    )
    least = max(float(found.probability[found.probability > 0].min()), floor / 10)
    names = [" ".join(visible(text, token) for token in pair) for pair in found.tokens]
    ends = [least, 1]
    figure.add_scatter(x=ends, y=ends, mode="lines", line=dotted(palette), hoverinfo="skip", showlegend=False)
    for name, values, colour, symbol in (
        ("learned", found.learned, palette.learned, "circle-open"),
        ("exact", found.exact, palette.exact, "diamond"),
    ):
        figure.add_scatter(
            x=np.maximum(found.probability, least),
            y=np.maximum(values, floor),
            mode="markers",
            marker={"symbol": symbol, "size": 6, "color": colour, "opacity": 0.7},
            name=name,
            customdata=np.array(list(zip(names, values.tolist(), strict=True)), dtype=object),
            hovertemplate="%{customdata[0]}: probability %{x:.5f}, area %{customdata[1]:.5f}<extra>"
            + name
            + "</extra>",
        )
    for letter, low, title in (("x", least, "probability under the teacher"), ("y", floor, "area in the square")):
        log = {"type": "log", "range": [float(np.log10(low)) - 0.15, 0.1], "dtick": 1, "exponentformat": "none"}
        figure.update_layout({f"{letter}axis": {**log, "title": {"text": title}}})
    powers = [10.0**n for n in range(int(np.ceil(np.log10(floor))), 1)]
    return figure.update_yaxes(tickvals=[floor, *powers[1:]], ticktext=["none", *(f"{p:g}" for p in powers[1:])])


def slots_figure(rows: Sequence[SlotAgreement], theme: Theme = "light") -> go.Figure:
    """Bars of each slot's agreement: all noise vectors, and split by whether the slots before it agree."""
    palette, last = colours(theme), rows[-1]
    finding = f"Slot 1 is exact for {rows[0].all.value:.0%} of noise"
    if last.after_exact and last.after_wrong:
        finding += (
            f"; slot {last.slot + 1} for {last.all.value:.0%}: {last.after_exact.value:.0%} after exact slots, "
            f"{last.after_wrong.value:.0%} after a wrong one"
        )
    figure = blank(
        palette,
        finding,
        "A bar: fraction of noise vectors for which the learned token is the exact one, with its 95 % interval over "
        "contexts.",
    )
    kinds: tuple[tuple[str, str, str, list[Estimate | None]], ...] = (
        ("all noise", palette.exact, "", [row.all for row in rows]),
        ("all earlier slots exact", palette.learned, "/", [row.after_exact for row in rows]),
        ("an earlier slot wrong", palette.differ, "x", [row.after_wrong for row in rows]),
    )
    for name, colour, pattern, values in kinds:
        known = [(row, value) for row, value in zip(rows, values, strict=True) if value]
        figure.add_bar(
            x=[f"slot {row.slot + 1}" for row, _ in known],
            y=[100 * value.value for _, value in known],
            error_y=whiskers([value for _, value in known], palette.ink, 100),
            marker={"color": colour, "line": {"width": 0}, "pattern": {"shape": pattern, "fgcolor": palette.surface}},
            name=name,
            hovertemplate="%{x}: %{y:.1f} %<extra>" + name + "</extra>",
        )
    figure.update_layout(barmode="group", bargap=0.3)
    figure.update_xaxes(showgrid=False)
    return figure.update_yaxes(title=titled("exact tokens (%)"), rangemode="tozero")


def by_figure(found: Sequence[AgreementBy], theme: Theme = "light") -> go.Figure:
    """One panel per quantity: each slot's agreement over the quantity's fifths."""
    palette = colours(theme)
    ends = {by.quantity: (by.all[0].share.value, by.all[-1].share.value) for by in found}
    ranked = sorted(found, key=lambda by: -abs(ends[by.quantity][1] - ends[by.quantity][0]))
    (most, high), (least, low) = (
        ("the " + by.quantity.split(" (")[0], ends[by.quantity]) for by in (ranked[0], ranked[-1])
    )
    figure = blank(
        palette,
        f"The best predictor is {most}: {high[0]:.0%} exact in its lowest fifth, {high[1]:.0%} in its highest; the "
        f"weakest is {least} ({low[0]:.0%}, {low[1]:.0%})",
        "One panel per quantity: fraction of exact tokens in each fifth of the quantity, its limits on the axis. "
        "One line per slot; bars are 95 % intervals over contexts.",
    )
    rows, columns = -(-len(found) // 3), min(3, len(found))
    width, height = 1 / columns, 1 / rows
    for n, by in enumerate(ranked):
        row, column = divmod(n, 3)
        left, top = column * width, 1 - row * height
        edges = [by.all[0].low, *(b.high for b in by.all)]
        axes = add_panel(
            figure,
            n,
            (left + 0.02, left + width - 0.02),
            {
                "tickvals": [at + 0.5 for at in range(len(edges))],
                "ticktext": ["0" if edge < 1e-3 * edges[-1] else f"{edge:.2g}" for edge in edges],
                "tickangle": 0,
                "tickfont": {"size": 11, "color": palette.muted},
                "range": [0.4, len(edges) - 0.4],
                "title": {"text": by.quantity, "font": {"size": 12}, "standoff": 6},
            },
            {
                "range": [0, 100],
                "dtick": 25,
                "showticklabels": column == 0,
                "title": {"text": "exact (%)" if column == 0 else "", "font": {"size": 12}},
            },
            (top - height + (0.16 if rows > 1 else 0.02), top - 0.01),
        )
        places = {b.low: 1 + at for at, b in enumerate(by.all)}
        for j, bins in enumerate(by.slots):
            drawn = [b for b in bins if b.blocks >= _FEWEST_DRAWN]
            add_series(
                figure,
                palette,
                j,
                [places[b.low] + 0.08 * (j - (len(by.slots) - 1) / 2) for b in drawn],
                [b.share for b in drawn],
                scale=100,
                size=7,
                name=f"slot {j + 1}",
                legendgroup=f"{j}",
                showlegend=n == 0,
                customdata=[[b.low, b.high, b.blocks] for b in drawn],
                hovertemplate="%{y:.1f} % of %{customdata[2]}, %{customdata[0]:.3g} to %{customdata[1]:.3g}",
                **axes,
            )
    free = len(found) % 3
    place = {"x": free / 3 + 0.04, "y": 0.36, "orientation": "v"} if free and rows > 1 else {"y": -0.2}
    return figure.update_layout(height=figure.layout.height + 170 * (rows - 1), legend=place)


def resolution_figure(found: Resolution, theme: Theme = "light") -> go.Figure:
    """Left: distance between encodings of close noise values. Right: agreement of slot 1 by width of the exact cell."""
    palette = colours(theme)
    shift = float(np.median(np.abs(found.shifts)))
    bins = [b for b in found.by_width if b.blocks >= _FEWEST_DRAWN] or found.by_width
    narrow, wide = bins[0], bins[-1]
    figure = blank(
        palette,
        f"The median border of slot 1 is displaced by {shift:.3f}; agreement is {narrow.share.value:.0%} in cells "
        f"under {narrow.high:.2g} wide, {wide.share.value:.0%} in cells over {wide.low:.2g}",
        "Left: distance between the encodings of two noise values, 1 for independent ones; dotted: proportional to "
        "the distance of the noise. Right: fraction of exact tokens by cell width, with 95 % intervals; dashed: the "
        "median displacement.",
    )
    log = {"type": "log", "exponentformat": "none", "dtick": 1}
    x, y = ({**log, "title": titled(f"distance of the {what}")} for what in ("noise (u)", "encodings"))
    left = add_panel(figure, 0, (0, 0.44), x, y)
    exact = {"range": [0, 102], "title": titled("exact tokens of slot 1 (%)")}
    right = add_panel(figure, 1, (0.56, 1), {**log, "title": titled("width of the exact cell (u)")}, exact)
    line = {"color": palette.learned, "width": 2}
    figure.add_scatter(
        x=found.apart,
        y=found.encoded,
        mode="lines+markers",
        line=line,
        marker={"symbol": "circle", "size": 8},
        hovertemplate="%{x:.5f} apart: %{y:.4f}<extra></extra>",
        **left,
    )
    proportional = found.encoded[-1] * found.apart / found.apart[-1]
    figure.add_scatter(x=found.apart, y=proportional, mode="lines", line=dotted(palette), hoverinfo="skip", **left)
    figure.add_scatter(
        x=[np.sqrt(b.low * b.high) for b in bins],
        y=[100 * b.share.value for b in bins],
        error_y=whiskers([b.share for b in bins], palette.learned, 100),
        mode="lines+markers",
        line=line,
        marker={"symbol": "square", "size": 8},
        customdata=[[b.low, b.high, b.blocks] for b in bins],
        hovertemplate="%{y:.1f} % of %{customdata[2]}, %{customdata[0]:.3g} to %{customdata[1]:.3g}<extra></extra>",
        **right,
    )
    figure.add_scatter(
        x=[shift, shift],
        y=[0, 100],
        mode="lines",
        line={"color": palette.differ, "dash": "dash", "width": 1.5},
        hovertemplate=f"median displacement of a border: {shift:.4f}<extra></extra>",
        **right,
    )
    return figure.update_layout(showlegend=False)


def reach_figure(found: Reach, theme: Theme = "light") -> go.Figure:
    """Two tables of probabilities: which noise value is redrawn, and which token then changes."""
    palette, last = colours(theme), len(found.exact) - 1
    figure = blank(
        palette,
        f"Redrawing noise value 1 changes token {last + 1} in {found.exact[0, last]:.0%} of draws in the exact map, in "
        f"{found.learned[0, last]:.0%} in the learned map",
        "A cell: how often the column's token changes when only the row's noise value is redrawn, in percent. Below "
        "the diagonal nothing can change: a slot does not see later noise.",
    )
    names = [str(j + 1) for j in range(last + 1)]
    for n, (name, values) in enumerate((("exact", found.exact), ("learned", found.learned))):
        across = (0.54, 1.0) if n else (0.0, 0.46)
        plain = {"type": "category", "showgrid": False}
        y_axis = {**plain, "title": titled("noise of slot"), "autorange": "reversed"}
        axes = add_panel(figure, n, across, {**plain, "title": titled("token of slot")}, y_axis)
        figure.add_heatmap(
            z=100 * values,
            x=names,
            y=names,
            zmin=0,
            zmax=100,
            colorscale=[[0, palette.surface], [1, palette.learned if n else palette.exact]],
            showscale=False,
            xgap=2,
            ygap=2,
            hovertemplate="noise %{y}, token %{x}: %{z:.1f} %<extra>" + name + "</extra>",
            **axes,
        )
        texts = [[f"{100 * value:.0f}" for value in row] for row in values]
        add_cell_values(figure, palette, texts, values > 0.5, size=15, x=names, y=names, **axes)
        heading(figure, palette, name, sum(across) / 2)
    return figure
