"""The square of noise drawn: a law of two tokens by hand, and sections of both maps over two slots."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import torch

from kfexplore.decoding.cdf import invert
from kfexplore.errors import KfError
from kfexplore.figures.page import axis_style, blank, titled
from kfexplore.figures.palette import HUES, Colours, Theme, colours, hue_index, token_label
from kfexplore.results import Grid, Ints, steps

Text = Callable[[int], str]
"""A token's own text."""
_LEAST_LABELLED: Final = 0.008
"""Share of the square; the label of a smaller region would not fit."""
_FAINT: Final = 0.5


def square(first: npt.ArrayLike, given: npt.ArrayLike, resolution: int = 384) -> Ints:
    """Pairs of tokens over the unit square, by inverse CDF in the order of token ids.

    Args:
        first: (V,) law of the first token.
        given: (V, V) law of the second after each first; a row whose first token never comes may be anything.
        resolution: R steps a side, u = (r + 1/2) / R.

    Returns:
        (R, R, 2) tokens; the first axis is u_1.

    Raises:
        KfError: shapes that do not fit, or a law that does not sum to one.
    """
    laws = np.vstack([np.asarray(first, dtype=np.float64)[None], np.asarray(given, dtype=np.float64)])
    if laws.shape != (laws.shape[1] + 1, laws.shape[1]):
        raise KfError(f"There are {len(laws) - 1} laws of {laws.shape[1]} tokens.", "(V,) and (V, V)")
    if (laws < 0).any() or abs(laws[[True, *(laws[0] > 0)]].sum(axis=1) - 1).max() > 1e-9:
        raise KfError("These are not laws.", "probabilities that sum to 1")
    cumulative = torch.from_numpy(laws.cumsum(axis=1))
    u = torch.from_numpy(steps(resolution))
    tokens, after = invert(cumulative[0], u), invert(cumulative[1:], u.expand(len(laws) - 1, -1))
    return torch.stack([tokens[:, None].expand(-1, resolution), after[tokens]], dim=-1).numpy()


def square_figure(pairs: Ints, text: Text = str, theme: Theme = "light") -> go.Figure:
    """The exact map of a law of two tokens over the whole unit square.

    Args:
        pairs: (R, R, 2) tokens, the first axis is u_1.
        text: A token id's text.
        theme: Colours.
    """
    look = colours(theme)
    found, counts = np.unique(pairs.reshape(-1, 2), axis=0, return_counts=True)
    shares = counts / counts.sum()
    figure = blank(
        look,
        f"{len(found)} regions of the unit square, one a pair of tokens, of areas "
        + ", ".join(f"{share:.4f}" for share in shares),
        "Across: the noise of the first token. Up: that of the second, whose cells depend on the first token. Colour "
        "is the second token's.",
    )
    _section(figure, look, pairs, text, "", with_area=True)
    figure.update_layout(height=figure.layout.height + 40)
    return _square_axes(figure, [("", (0.22, 0.78), "", (0, 1))])


def section_figure(section: Grid, text: Text = str, theme: Theme = "light") -> go.Figure:
    """A section of both maps, exact on the left and learned on the right; where they differ there are crosses."""
    look, (i, j) = colours(theme), section.slots
    figure = blank(
        look,
        f"On {section.agreement:.0%} of this square the learned pair of tokens is the exact one",
        f"Across: noise of slot {i + 1}. Up: noise of slot {j + 1}. A region gives one pair of tokens, its colour is "
        f"the token of slot {j + 1}; × marks where the learned pair is not the exact one.",
    )
    _section(figure, look, section.exact, text, "")
    _section(figure, look, section.learned, text, "2", hatched=True)
    differ = np.argwhere((section.exact != section.learned).any(axis=-1)[_lattice(len(section.exact))])
    spots = (_lattice(len(section.exact))[0].ravel() + 0.5) / len(section.exact)
    figure.add_scatter(
        x=spots[differ[:, 0]],
        y=spots[differ[:, 1]],
        xaxis="x2",
        yaxis="y2",
        mode="markers",
        marker={"symbol": "x-thin-open", "size": 4, "color": look.differ, "line": {"color": look.differ, "width": 1.2}},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.data = sorted(figure.data, key=lambda trace: getattr(trace, "mode", "") == "text")  # labels over crosses
    figure.update_layout(height=figure.layout.height + 50)
    ends = [("", (0, 0.48), "exact", (0, 1)), ("2", (0.52, 1), "learned", (0, 1))]
    _square_axes(figure, ends, slots=section.slots)
    for _, (left, right), name, _ in ends:
        heading(figure, look, name, (left + right) / 2)
    return figure.update_layout(yaxis2={"showticklabels": False, "title": None})


def heading(figure: go.Figure, look: Colours, name: str, middle: float) -> None:
    """Names a panel above its middle."""
    figure.add_annotation(
        text=f"<b>{name}</b>",
        x=middle,
        y=1,
        xref="paper",
        yref="paper",
        yanchor="bottom",
        showarrow=False,
        font={"color": look.exact if name == "exact" else look.learned, "size": 14},
    )


def label(text: Text, token: int) -> str:
    """A token's visible text; Plotly would read tags in it."""
    return html.escape(token_label(text(int(token))), quote=False)


def _section(
    figure: go.Figure,
    look: Colours,
    pairs: Ints,
    text: Text,
    axis: str,
    hatched: bool = False,
    with_area: bool = False,
) -> None:
    """One map (R, R, 2): filled regions with hairlines between them, and labels of those that have room."""
    side = len(pairs)
    keys = pairs[..., 0] * (int(pairs.max()) + 1) + pairs[..., 1]
    places = (np.arange(side) + 0.5) / side
    labels = {int(token): label(text, token) for token in np.unique(pairs)}
    fills = look.fills
    scale = [[at / HUES, fills[n]] for n in range(HUES) for at in (n, n + 1)]
    hues = {token: hue_index(token) + 0.5 for token in labels}
    axes = {"xaxis": f"x{axis}", "yaxis": f"y{axis}"}
    figure.add_heatmap(
        x=places,
        y=places,
        z=np.vectorize(hues.get)(pairs[..., 1].T),
        zmin=0,
        zmax=HUES,
        colorscale=scale,
        showscale=False,
        customdata=[[f"{labels[int(a)]} {labels[int(b)]}" for a, b in row] for row in pairs.transpose(1, 0, 2)],
        hovertemplate="%{x:.3f}, %{y:.3f}: %{customdata}<extra></extra>",
        **axes,
    )
    plain: dict[str, Any] = {"mode": "lines", "hoverinfo": "skip", "showlegend": False, **axes}
    if hatched:
        figure.add_scatter(**_hatching(), line={"color": look.surface, "width": 2}, opacity=_FAINT, **plain)
    figure.add_scatter(**_borders(keys), line={"color": look.ink, "width": 1}, opacity=_FAINT, **plain)
    for key, count in zip(*np.unique(keys, return_counts=True), strict=True):
        area = count / side**2
        at = np.argwhere(keys == key)[0]
        words = " ".join(labels[int(token)] for token in pairs[tuple(at)])
        place = _room(keys == key, len(html.unescape(words)) * 0.018 * side) if area >= _LEAST_LABELLED else None
        if place is not None:
            figure.add_scatter(
                x=[place[0]],
                y=[place[1]],
                mode="text",
                text=f"{words}<br>area {area:.4f}" if with_area else words,
                textfont={"color": look.ink, "size": 15 if with_area else 12},
                hoverinfo="skip",
                showlegend=False,
                **axes,
            )


def _borders(keys: Ints) -> dict[str, list[float | None]]:
    """Lines between cells (R, R) of different keys, as broken lines."""
    side = len(keys)
    x: list[float | None] = []
    y: list[float | None] = []
    for turned in (False, True):
        edges = keys.T if turned else keys
        for line in range(1, side):
            differ = np.concatenate([[False], edges[line] != edges[line - 1], [False]]).astype(np.int8)
            starts, stops = np.flatnonzero(np.diff(differ) == 1), np.flatnonzero(np.diff(differ) == -1)
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
                across, along = [line / side] * 2, [start / side, stop / side]
                x += [*(along if turned else across), None]
                y += [*(across if turned else along), None]
    return {"x": x, "y": y}


def _hatching(lines: int = 56) -> dict[str, list[float | None]]:
    """Diagonals of the unit square."""
    x: list[float | None] = []
    y: list[float | None] = []
    for n in range(1, 2 * lines):
        at = n / lines
        x += [max(0.0, at - 1), min(1.0, at), None]
        y += [min(1.0, at), max(0.0, at - 1), None]
    return {"x": x, "y": y}


def _room(inside: np.ndarray, wide: float, tall: float = 0.05) -> tuple[float, float] | None:
    """The middle of the widest place in a region (R, R) with room for a label; None where it has none."""
    side, best = len(inside), wide
    places: list[tuple[float, float]] = []
    rows = max(1, round(tall * side))
    for low in range(side - rows + 1):
        free = np.concatenate([[False], inside[:, low : low + rows].all(axis=1), [False]]).astype(np.int8)
        starts, stops = np.flatnonzero(np.diff(free) == 1), np.flatnonzero(np.diff(free) == -1)
        if len(starts) and (stops - starts).max() >= best:
            n, middle = int((stops - starts).argmax()), low + rows / 2
            if stops[n] - starts[n] > best:
                places.clear()
            best = float(stops[n] - starts[n])
            places.append(((starts[n] + stops[n]) / 2 / side, middle / side))
    return places[len(places) // 2] if places else None


def _square_axes(
    figure: go.Figure,
    panels: Sequence[tuple[str, tuple[float, float], str, tuple[float, float]]],
    slots: tuple[int, int] = (0, 1),
) -> go.Figure:
    """Axes of u from 0 to 1, as long as they are high."""
    for axis, across, _, up in panels:
        plain = {"range": [0, 1], "showgrid": False, "zeroline": False, "tickvals": [0, 0.25, 0.5, 0.75, 1]}
        plain |= {"constrain": "domain"}
        figure.update_layout(
            {
                f"xaxis{axis}": {**axis_style(figure, "x"), **plain, "domain": across, "anchor": f"y{axis}"}
                | {"title": titled(f"noise of slot {slots[0] + 1}")},
                f"yaxis{axis}": {**axis_style(figure, "y"), **plain, "domain": up, "anchor": f"x{axis}"}
                | {"title": titled(f"noise of slot {slots[1] + 1}"), "scaleanchor": f"x{axis}"},
            }
        )
    return figure


def _lattice(side: int) -> tuple[Ints, ...]:
    """Every few cells both ways, so that marks do not run together."""
    step = max(1, side // 32)
    at = np.arange(step // 2, side, step)
    return np.ix_(at, at)
