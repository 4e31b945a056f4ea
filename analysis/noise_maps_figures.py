"""Figures of the maps: areas against probabilities, where the two maps part, resolution, reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import plotly.graph_objects as go

from analysis.grid_figures import Text, heading, label
from kfexplore.figures.page import axis_style, blank, titled, whiskers
from kfexplore.figures.palette import Theme, colours
from kfexplore.results import Bin, Estimate, Floats, Ints


@dataclass(frozen=True)
class Sample:
    """Both maps under one noise, M noise vectors after each of C contexts, and what was known of each slot."""

    u: Floats
    """(C, M, K) noise."""
    teacher: Ints
    """(C, M, K) exact tokens."""
    student: Ints
    """(C, M, K) learned tokens."""
    margin: Floats
    """(C, M, K) student's largest logit less its second largest, nats."""
    edge: Floats
    """(C, M, K) distance of u from the nearer edge of its exact cell, units of u."""
    width: Floats
    """(C, M, K) width of that cell: the probability of the exact token, given the exact tokens before it."""
    entropy: Floats
    """(C, M, K) entropy of the law that the cell is of, nats."""
    frequency: Floats
    """(C, M, K) how often the teacher writes the exact token: mean of its probability over the laws of all slots."""


@dataclass(frozen=True)
class SlotAgreement:
    """How often one slot's learned token is exact."""

    slot: int
    """From 0."""
    all: Estimate
    after_exact: Estimate | None
    """Where all slots before it are exact; None for the first."""
    after_wrong: Estimate | None
    """Where one before it is not."""


@dataclass(frozen=True)
class AgreementBy:
    """Share of exact tokens by fifths of a quantity, taken over all slots together."""

    quantity: str
    """With its unit."""
    slots: list[list[Bin]]
    """(K, up to 5) of each slot."""
    all: list[Bin]
    """(up to 5) of all slots together."""


@dataclass(frozen=True)
class Areas:
    """Pairs of tokens: the share of the square that each map gives them, beside the teacher's probability."""

    tokens: Ints
    """(P, 2) all pairs that have a cell in one of the maps, likeliest first."""
    probability: Floats
    """(P,) of each pair under the teacher."""
    exact: Floats
    """(P,) area in the exact map."""
    learned: Floats
    """(P,) area in the learned map."""
    points: int
    """N of the square at which the maps are asked: areas are multiples of 1 / N."""
    tv_exact: float
    """Total variation distance of the exact areas from the law: what N points leave open."""
    tv_learned: float
    """Of the learned areas."""


@dataclass(frozen=True)
class Resolution:
    """How finely the student can tell noise apart."""

    apart: Floats
    """(D,) distances of two noise values, units of u."""
    encoded: Floats
    """(D,) mean distance of their encodings, over that of two independent noise values."""
    by_width: list[Bin]
    """Share of exact tokens of slot 1 by the width of the exact cell."""
    shifts: Floats
    """(n,) how far each border of the exact map of slot 1 is moved in the learned one, units of u: F'(v) - F(v), where
    F' is the share of the slider on which the student's token is v or one before it."""


@dataclass(frozen=True)
class Reach:
    """How far one slot's noise reaches: (K, K) shares, row i the slot whose noise is drawn anew, column j the slot
    whose token then differs; the other noise is held, mean over contexts and noise."""

    exact: Floats
    learned: Floats


_SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")
_FEWEST_DRAWN: Final = 20
"""Slots of a bin; a share of fewer says little."""


def areas_figure(found: Areas, text: Text = str, theme: Theme = "light") -> go.Figure:
    """Areas of the pairs' regions against their probabilities; a pair without area stands on the lowest line."""
    look, floor = colours(theme), 0.5 / found.points
    missing = float(found.probability[found.learned == 0].sum())
    figure = blank(
        look,
        f"The exact map's areas are the probabilities (TV {found.tv_exact:.2f}, as {found.points:,} points cannot tell "
        f"more); the learned map's are not (TV {found.tv_learned:.2f})",
        "A mark: one pair of tokens, on the dotted line if its area is its probability. On the lowest line stand pairs "
        f"that no point gives; in the learned map they hold {missing:.0%} of the probability. TV: total variation "
        "distance of areas and probabilities.",
    )
    least = max(float(found.probability[found.probability > 0].min()), floor / 10)
    names = [" ".join(label(text, token) for token in pair) for pair in found.tokens]
    figure.add_scatter(
        x=[least, 1],
        y=[least, 1],
        mode="lines",
        line={"color": look.muted, "dash": "dot", "width": 1},
        hoverinfo="skip",
        showlegend=False,
    )
    for name, values, colour, symbol in (
        ("learned", found.learned, look.learned, "circle-open"),
        ("exact", found.exact, look.exact, "diamond"),
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
    _log_axis(figure, "x", least, 1, "probability under the teacher")
    _log_axis(figure, "y", floor, 1, "area in the square")
    powers = [10.0**n for n in range(int(np.ceil(np.log10(floor))), 1)]
    return figure.update_yaxes(tickvals=[floor, *powers[1:]], ticktext=["none", *(f"{p:g}" for p in powers[1:])])


def slots_figure(rows: Sequence[SlotAgreement], theme: Theme = "light") -> go.Figure:
    """Bars of each slot's agreement: all noise vectors, and apart by whether the slots before it agree."""
    look, last = colours(theme), rows[-1]
    finding = f"Slot 1 is exact on {rows[0].all.value:.0%} of noise"
    if last.after_exact and last.after_wrong:
        finding += (
            f"; slot {last.slot + 1} on {last.all.value:.0%}: {last.after_exact.value:.0%} where all slots before it "
            f"are, {last.after_wrong.value:.0%} where one is not"
        )
    figure = blank(
        look,
        finding,
        "A bar: share of noise vectors on which the learned token is the exact one, with its 95 % interval over "
        "contexts.",
    )
    kinds: tuple[tuple[str, str, str, list[Estimate | None]], ...] = (
        ("all noise", look.exact, "", [row.all for row in rows]),
        ("slots before it exact", look.learned, "/", [row.after_exact for row in rows]),
        ("one before it is not", look.differ, "x", [row.after_wrong for row in rows]),
    )
    for name, colour, pattern, shares in kinds:
        known = [(row, share) for row, share in zip(rows, shares, strict=True) if share]
        figure.add_bar(
            x=[f"slot {row.slot + 1}" for row, _ in known],
            y=[100 * share.value for _, share in known],
            error_y=whiskers([share for _, share in known], look.ink, 100),
            marker={"color": colour, "line": {"width": 0}, "pattern": {"shape": pattern, "fgcolor": look.surface}},
            name=name,
            hovertemplate="%{x}: %{y:.1f} %<extra>" + name + "</extra>",
        )
    figure.update_layout(barmode="group", bargap=0.3)
    figure.update_xaxes(showgrid=False)
    return figure.update_yaxes(title=titled("exact tokens (%)"), rangemode="tozero")


def by_figure(found: Sequence[AgreementBy], theme: Theme = "light") -> go.Figure:
    """One panel a quantity: each slot's agreement over the quantity's fifths."""
    look = colours(theme)
    ranked = sorted(found, key=lambda by: -abs(_rise(by)))
    most, least = ranked[0], ranked[-1]
    ends = [(by.all[0].share.value, by.all[-1].share.value) for by in (most, least)]
    figure = blank(
        look,
        f"What tells most is {_bare(most)}: {ends[0][0]:.0%} exact in its lowest fifth, {ends[0][1]:.0%} in its "
        f"highest; what tells least is {_bare(least)} ({ends[1][0]:.0%}, {ends[1][1]:.0%})",
        "A panel: share of exact tokens over fifths of one quantity, lowest on the left, its limits below. "
        "Lines are slots, bars 95 % intervals over contexts.",
    )
    rows, columns = -(-len(found) // 3), min(3, len(found))
    for n, by in enumerate(ranked):
        axis, (row, column) = "" if n == 0 else str(n + 1), divmod(n, 3)
        for j, bins in enumerate(by.slots):
            drawn = [(b, _place(b, by)) for b in bins if b.blocks >= _FEWEST_DRAWN]
            colour = look.lines[(8 + 5 * j) % len(look.lines)]
            figure.add_scatter(
                x=[place + 0.08 * (j - (len(by.slots) - 1) / 2) for _, place in drawn],
                y=[100 * b.share.value for b, _ in drawn],
                error_y=whiskers([b.share for b, _ in drawn], colour, 100),
                xaxis=f"x{axis}",
                yaxis=f"y{axis}",
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker={"symbol": _SYMBOLS[j % len(_SYMBOLS)], "size": 7},
                name=f"slot {j + 1}",
                legendgroup=f"{j}",
                showlegend=n == 0,
                customdata=[[b.low, b.high, b.blocks] for b, _ in drawn],
                hovertemplate="%{y:.1f} % of %{customdata[2]}, %{customdata[0]:.3g} to %{customdata[1]:.3g}",
            )
        edges = [by.all[0].low, *(b.high for b in by.all)]
        width, height = 1 / columns, 1 / rows
        left, top = column * width, 1 - row * height
        figure.update_layout(
            {
                f"xaxis{axis}": {
                    **axis_style(figure, "x"),
                    "domain": [left + 0.02, left + width - 0.02],
                    "anchor": f"y{axis}",
                    "tickvals": [at + 0.5 for at in range(len(edges))],
                    "ticktext": ["0" if edge < 1e-3 * edges[-1] else f"{edge:.2g}" for edge in edges],
                    "tickangle": 0,
                    "tickfont": {"size": 11, "color": look.muted},
                    "range": [0.4, len(edges) - 0.4],
                    "title": {"text": by.quantity, "font": {"size": 12}, "standoff": 6},
                },
                f"yaxis{axis}": {
                    **axis_style(figure, "y"),
                    "domain": [top - height + (0.16 if rows > 1 else 0.02), top - 0.01],
                    "anchor": f"x{axis}",
                    "range": [0, 100],
                    "dtick": 25,
                    "showticklabels": column == 0,
                    "title": {"text": "exact (%)" if column == 0 else "", "font": {"size": 12}},
                },
            }
        )
    free = len(found) % 3
    place = {"x": free / 3 + 0.04, "y": 0.36, "orientation": "v"} if free and rows > 1 else {"y": -0.2}
    return figure.update_layout(height=figure.layout.height + 170 * (rows - 1), legend=place)


def resolution_figure(found: Resolution, theme: Theme = "light") -> go.Figure:
    """Left: how far apart the encoder puts near noise. Right: agreement of slot 1 by the width of the exact cell."""
    look = colours(theme)
    shift = float(np.median(np.abs(found.shifts)))
    bins = [b for b in found.by_width if b.blocks >= _FEWEST_DRAWN] or found.by_width
    narrow, wide = bins[0], bins[-1]
    figure = blank(
        look,
        f"Borders of slot 1 are moved by {shift:.3f} of the slider in the middle case; cells under {narrow.high:.2g} "
        f"wide are hit on {narrow.share.value:.0%} of their noise, those over {wide.low:.2g} on {wide.share.value:.0%}",
        "Left: distance of the encodings of two noise values, 1 being that of independent ones; the dotted line would "
        "be a distance in proportion. Right: share of exact tokens by cell width, with 95 % intervals; dashed: that "
        "middle shift.",
    )
    figure.add_scatter(
        x=found.apart,
        y=found.encoded,
        mode="lines+markers",
        line={"color": look.learned, "width": 2},
        marker={"symbol": "circle", "size": 8},
        hovertemplate="%{x:.5f} apart: %{y:.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=found.apart,
        y=found.encoded[-1] * found.apart / found.apart[-1],
        mode="lines",
        line={"color": look.muted, "dash": "dot", "width": 1},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[np.sqrt(b.low * b.high) for b in bins],
        y=[100 * b.share.value for b in bins],
        error_y=whiskers([b.share for b in bins], look.learned, 100),
        xaxis="x2",
        yaxis="y2",
        mode="lines+markers",
        line={"color": look.learned, "width": 2},
        marker={"symbol": "square", "size": 8},
        customdata=[[b.low, b.high, b.blocks] for b in bins],
        hovertemplate="%{y:.1f} % of %{customdata[2]}, %{customdata[0]:.3g} to %{customdata[1]:.3g}<extra></extra>",
    )
    figure.add_scatter(
        x=[shift, shift],
        y=[0, 100],
        xaxis="x2",
        yaxis="y2",
        mode="lines",
        line={"color": look.differ, "dash": "dash", "width": 1.5},
        hovertemplate=f"middle shift of a border: {shift:.4f}<extra></extra>",
    )
    plain = {"type": "log", "exponentformat": "none"}
    return figure.update_layout(
        showlegend=False,
        xaxis={**plain, "domain": [0, 0.44], "title": {"text": "distance of the noise (u)"}, "dtick": 1},
        yaxis={**plain, "title": {"text": "distance of the encodings"}, "dtick": 1},
        xaxis2={**axis_style(figure, "x"), **plain, "domain": [0.56, 1], "anchor": "y2", "dtick": 1}
        | {"title": titled("width of the exact cell (u)")},
        yaxis2={
            **axis_style(figure, "y"),
            "anchor": "x2",
            "range": [0, 102],
            "title": titled("exact tokens of slot 1 (%)"),
        },
    )


def reach_figure(found: Reach, theme: Theme = "light") -> go.Figure:
    """Two tables of shares: whose noise is drawn anew, and whose token then differs."""
    look, last = colours(theme), len(found.exact) - 1
    figure = blank(
        look,
        f"Noise 1 drawn anew changes token {last + 1} on {found.exact[0, last]:.0%} of draws in the exact map, on "
        f"{found.learned[0, last]:.0%} in the learned",
        "A cell: how often the column's token differs when the row's noise alone is drawn anew, in per cent. Below the "
        "diagonal nothing can change: a slot does not see later noise.",
    )
    names = [str(j + 1) for j in range(last + 1)]
    for n, (name, values) in enumerate((("exact", found.exact), ("learned", found.learned))):
        axis = "" if n == 0 else "2"
        figure.add_heatmap(
            z=100 * values,
            x=names,
            y=names,
            xaxis=f"x{axis}",
            yaxis=f"y{axis}",
            zmin=0,
            zmax=100,
            colorscale=[[0, look.surface], [1, look.exact if n == 0 else look.learned]],
            showscale=False,
            xgap=2,
            ygap=2,
            hovertemplate="noise %{y}, token %{x}: %{z:.1f} %<extra>" + name + "</extra>",
        )
        for ground, colour in ((values <= 0.5, look.ink), (values > 0.5, look.surface)):
            at = np.argwhere(ground)
            figure.add_scatter(
                x=[names[c] for _, c in at],
                y=[names[r] for r, _ in at],
                xaxis=f"x{axis}",
                yaxis=f"y{axis}",
                mode="text",
                text=[f"{100 * values[r, c]:.0f}" if c >= r else "0" for r, c in at],
                textfont={"color": colour, "size": 15},
                hoverinfo="skip",
                showlegend=False,
            )
        domain = (0, 0.46) if n == 0 else (0.54, 1)
        heading(figure, look, name, sum(domain) / 2)
        for letter, title in (("x", "token of slot"), ("y", "noise of slot")):
            figure.update_layout(
                {
                    f"{letter}axis{axis}": {
                        **axis_style(figure, letter),
                        **({"domain": domain} if letter == "x" else {"autorange": "reversed"}),
                        "anchor": f"{'y' if letter == 'x' else 'x'}{axis}",
                        "type": "category",
                        "showgrid": False,
                        "title": titled(title),
                    }
                }
            )
    return figure


def _log_axis(figure: go.Figure, letter: str, low: float, high: float, title: str) -> None:
    ends = [float(np.log10(low)) - 0.15, float(np.log10(high)) + 0.1]
    figure.update_layout({f"{letter}axis": {"type": "log", "range": ends, "title": {"text": title}, "dtick": 1}})
    figure.update_layout({f"{letter}axis": {"exponentformat": "none"}})


def _place(found: Bin, by: AgreementBy) -> int:
    """Which of the fifths a bin is, from 1."""
    return 1 + [b.low for b in by.all].index(found.low)


def _rise(by: AgreementBy) -> float:
    return by.all[-1].share.value - by.all[0].share.value


def _bare(by: AgreementBy) -> str:
    """A quantity without its unit."""
    return "the " + by.quantity.split(" (")[0]
