"""Figures of grids over the noise of two tokens: of a given distribution, and sections of both maps."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import torch

from kfexplore.decoding.cdf import invert
from kfexplore.errors import KfError
from kfexplore.figures.page import Text, add_panel, blank, titled, visible
from kfexplore.figures.palette import HUES, Colours, Theme, colours, hue_index
from kfexplore.results import Grid, Ints, steps

_LEAST_LABELLED: Final = 0.008
"""Fraction of the grid below which a region's label would not fit."""
_FAINT: Final = 0.5
_HATCHES: Final = 56


def closed_form_grid(first: npt.ArrayLike, given: npt.ArrayLike, resolution: int = 384) -> Ints:
    """The exact map of two tokens by inverse CDF in the order of token ids (paper, Appendix B), without any model.

    Args:
        first: (V,) distribution of the first token.
        given: (V, V) distribution of the second after each first; rows of first tokens of probability 0 are ignored.
        resolution: R steps per side, u = (r + 1/2) / R.

    Returns:
        (R, R, 2) tokens; the first axis is u_1.

    Raises:
        KfError: shapes that do not match, or probabilities that do not sum to one.
    """
    laws = np.vstack([np.asarray(first, dtype=np.float64)[None], np.asarray(given, dtype=np.float64)])
    if laws.shape != (laws.shape[1] + 1, laws.shape[1]):
        raise KfError(f"{len(laws) - 1} distributions of {laws.shape[1]} tokens were given.", "(V,) and (V, V)")
    if (laws < 0).any() or abs(laws[[True, *(laws[0] > 0)]].sum(axis=1) - 1).max() > 1e-9:
        raise KfError("These are not distributions.", "probabilities that sum to 1")
    cumulative = torch.from_numpy(laws.cumsum(axis=1))
    u = torch.from_numpy(steps(resolution))
    tokens, after = invert(cumulative[0], u), invert(cumulative[1:], u.expand(len(laws) - 1, -1))
    return torch.stack([tokens[:, None].expand(-1, resolution), after[tokens]], dim=-1).numpy()


def closed_form_figure(pairs: Ints, text: Text = str, theme: Theme = "light") -> go.Figure:
    """The exact map of two tokens over the whole unit square.

    Args:
        pairs: (R, R, 2) tokens, the first axis is u_1.
        text: A token id's text.
        theme: light or dark.
    """
    palette = colours(theme)
    found, counts = np.unique(pairs.reshape(-1, 2), axis=0, return_counts=True)
    figure = blank(
        palette,
        f"{len(found)} regions of the unit square, one per pair of tokens, of areas "
        + ", ".join(f"{area:.4f}" for area in counts / counts.sum()),
        "Across: the noise of the first token. Up: that of the second, whose cells depend on the first token. Colour "
        "is the second token's.",
    )
    _add_map(figure, palette, pairs, text, _add_axes(figure, 0, (0.22, 0.78), (0, 1)), with_area=True)
    return figure.update_layout(height=figure.layout.height + 40)


def grid_figure(grid: Grid, text: Text = str, theme: Theme = "light") -> go.Figure:
    """A section of both maps, exact on the left and learned on the right; crosses mark where they differ."""
    palette, (i, j), side = colours(theme), grid.slots, len(grid.exact)
    figure = blank(
        palette,
        f"On {grid.agreement:.0%} of this square the learned pair of tokens is the exact one",
        f"Across: noise of slot {i + 1}. Up: noise of slot {j + 1}. A region gives one pair of tokens, its colour is "
        f"the token of slot {j + 1}; × marks where the learned pair is not the exact one.",
    )
    for n, (name, across, pairs) in enumerate(
        (("exact", (0.0, 0.48), grid.exact), ("learned", (0.52, 1.0), grid.learned))
    ):
        axes = _add_axes(figure, n, across, grid.slots)
        _add_map(figure, palette, pairs, text, axes, hatched=bool(n))
        heading(figure, palette, name, sum(across) / 2)
    spacing = max(1, side // 32)  # keeps crosses apart
    at = np.arange(spacing // 2, side, spacing)
    differ = np.argwhere((grid.exact != grid.learned).any(axis=-1)[np.ix_(at, at)])
    spots = (at + 0.5) / side
    figure.add_scatter(
        x=spots[differ[:, 0]],
        y=spots[differ[:, 1]],
        mode="markers",
        marker={"symbol": "x-thin-open", "size": 4}
        | {"color": palette.differ, "line": {"color": palette.differ, "width": 1.2}},
        hoverinfo="skip",
        showlegend=False,
        **axes,
    )
    figure.data = sorted(figure.data, key=lambda trace: getattr(trace, "mode", "") == "text")  # labels over crosses
    height = figure.layout.height + 50
    return figure.update_layout(height=height, yaxis2={"showticklabels": False, "title": None})


def heading(figure: go.Figure, palette: Colours, name: str, middle: float) -> None:
    """Names a panel above its middle."""
    figure.add_annotation(
        text=f"<b>{name}</b>",
        x=middle,
        y=1,
        xref="paper",
        yref="paper",
        yanchor="bottom",
        showarrow=False,
        font={"color": palette.exact if name == "exact" else palette.learned, "size": 14},
    )


def _add_axes(figure: go.Figure, n: int, across: tuple[float, float], slots: tuple[int, int]) -> dict[str, str]:
    """Axes of u from 0 to 1, with equal scales."""
    plain = {"range": [0, 1], "showgrid": False, "zeroline": False, "tickvals": [0, 0.25, 0.5, 0.75, 1]}
    plain |= {"constrain": "domain"}
    x, y = ({**plain, "title": titled(f"noise of slot {slot + 1}")} for slot in slots)
    return add_panel(figure, n, across, x, {**y, "scaleanchor": f"x{n + 1 if n else ''}"})


def _add_map(
    figure: go.Figure,
    palette: Colours,
    pairs: Ints,
    text: Text,
    axes: dict[str, str],
    hatched: bool = False,
    with_area: bool = False,
) -> None:
    """One map (R, R, 2): filled regions with hairlines between them, and labels in those with enough room."""
    side = len(pairs)
    keys = pairs[..., 0] * (int(pairs.max()) + 1) + pairs[..., 1]
    labels = {int(token): visible(text, token) for token in np.unique(pairs)}
    hues = {token: hue_index(token) + 0.5 for token in labels}
    figure.add_heatmap(
        x=steps(side),
        y=steps(side),
        z=np.vectorize(hues.get)(pairs[..., 1].T),
        zmin=0,
        zmax=HUES,
        colorscale=[[at / HUES, palette.fills[n]] for n in range(HUES) for at in (n, n + 1)],
        showscale=False,
        customdata=[[f"{labels[int(a)]} {labels[int(b)]}" for a, b in row] for row in pairs.transpose(1, 0, 2)],
        hovertemplate="%{x:.3f}, %{y:.3f}: %{customdata}<extra></extra>",
        **axes,
    )
    layers = [(_borders(keys), palette.ink, 1)]
    if hatched:
        at = np.arange(1, 2 * _HATCHES) / _HATCHES
        low, high = np.maximum(0, at - 1), np.minimum(1, at)
        layers.insert(
            0, (zip(zip(low, high, strict=True), zip(high, low, strict=True), strict=True), palette.surface, 2)
        )
    for segments, colour, width in layers:
        broken = [((None, None), *points) for points in segments]
        x, y = ([point[n] for ends in broken for point in ends] for n in (0, 1))
        line = {"color": colour, "width": width}
        figure.add_scatter(
            x=x, y=y, mode="lines", line=line, opacity=_FAINT, hoverinfo="skip", showlegend=False, **axes
        )
    for key, count in zip(*np.unique(keys, return_counts=True), strict=True):
        area = count / side**2
        words = " ".join(labels[int(token)] for token in pairs[tuple(np.argwhere(keys == key)[0])])
        place = _room(keys == key, len(html.unescape(words)) * 0.018 * side) if area >= _LEAST_LABELLED else None
        if place is not None:
            figure.add_scatter(
                x=[place[0]],
                y=[place[1]],
                mode="text",
                text=f"{words}<br>area {area:.4f}" if with_area else words,
                textfont={"color": palette.ink, "size": 15 if with_area else 12},
                hoverinfo="skip",
                showlegend=False,
                **axes,
            )


def _borders(keys: Ints) -> Iterator[Any]:
    """Segments ((x, y), (x, y)) between cells (R, R) of different keys."""
    side = len(keys)
    for turned in (False, True):
        edges = keys.T if turned else keys
        for line in range(1, side):
            for start, stop in zip(*_runs(edges[line] != edges[line - 1]), strict=True):
                ends = [(line / side, start / side), (line / side, stop / side)]
                yield [end[::-1] for end in ends] if turned else ends


def _runs(which: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Starts and stops of the stretches of True in (R,)."""
    change = np.diff(np.concatenate([[False], which, [False]]).astype(np.int8))
    return np.flatnonzero(change == 1), np.flatnonzero(change == -1)


def _room(inside: npt.NDArray[np.bool_], wide: float, tall: float = 0.05) -> tuple[float, float] | None:
    """The middle of the widest place for a label in a region (R, R); None if there is no room."""
    side, best = len(inside), wide
    places: list[tuple[float, float]] = []
    rows = max(1, round(tall * side))
    for low in range(side - rows + 1):
        starts, stops = _runs(inside[:, low : low + rows].all(axis=1))
        if len(starts) and (stops - starts).max() >= best:
            n = int((stops - starts).argmax())
            if stops[n] - starts[n] > best:
                places.clear()
            best = float(stops[n] - starts[n])
            places.append(((starts[n] + stops[n]) / 2 / side, (low + rows / 2) / side))
    return places[len(places) // 2] if places else None
