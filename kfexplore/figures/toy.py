"""Figures of the toy distributions: both samplers as unit squares, blocks in one pass, distance against passes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from kfexplore.figures.page import CLEAR, add_panel, blank, percent, titled
from kfexplore.figures.palette import Colours, Theme, colours
from kfexplore.results import Floats, Ints, ToyDraws, ToyLaw, Unmasking

MOST_BLOCKS: Final = 32
"""Maximum number of bars; of more blocks, the most likely are shown."""
EXACT: Final = 1e-12
"""Distances up to this are float64 rounding errors."""
_HUE: Final = 8


def squares_words(toy: ToyLaw, draws: ToyDraws) -> tuple[str, str]:
    """The finding of the figure of squares, and how to read it."""
    count, wrong = len(draws.u), int(_is_impossible(toy, draws.independent).sum())
    if toy.schedules[0].worst <= EXACT:
        finding = "The tokens are independent: both squares are the same"
    elif not toy.impossible:
        finding = (
            "No block is impossible here: independent draws err in how often each occurs (total variation distance "
            f"{toy.schedules[0].worst:.2f})"
        )
    elif count:
        finding = (
            f"{wrong} of {count:,} independent draws are impossible blocks (expected: {percent(toy.impossible)}); "
            f"the exact map gives {_is_impossible(toy, draws.exact).sum()}"
        )
    else:
        finding = f"Independent draws give impossible blocks {percent(toy.impossible)} of the time, the exact map never"
    tokens = "two tokens" if toy.law.ndim == 2 else "first two tokens"
    reading = f"Across: noise u₁; up: u₂. A region: the noise that gives these {tokens}"
    reading += "; ✕ marks blocks of probability 0" if toy.impossible else ""
    if count:
        reading += f". A dot: one block; both squares read the same noise (seed {draws.seed})"
        reading += ", and later tokens their own" if toy.law.ndim > 2 else ""
    if toy.law.ndim > 2 and toy.schedules[0].worst > EXACT and np.allclose(_pairs(toy.law), _pairs(toy.one_pass)):
        later = "token 3" if toy.law.ndim == 3 else "later tokens"
        reading += f". Both squares are the same: the samplers differ in {later}, given the first two"
    return finding, reading + "."


def squares_figure(toy: ToyLaw, draws: ToyDraws, theme: Theme = "light") -> go.Figure:
    """The exact map of the first two tokens beside two independent draws: regions of noise, and drawn blocks."""
    palette = colours(theme)
    figure = blank(palette, *squares_words(toy, draws))
    panels = (
        ("exact", toy.law, draws.exact, {"color": palette.exact, "opacity": 0.25}),
        ("independent", toy.one_pass, draws.independent, _hatched(palette.lines[_HUE])),
    )
    for n, (name, law, blocks, style) in enumerate(panels):
        wrong = _is_impossible(toy, blocks)
        words = f"{name}: {wrong.sum()} ✕" if toy.impossible and len(blocks) else name
        side = {"range": [0, 1], "tickvals": [0, 0.5, 1], "showgrid": False, "zeroline": False}
        up = {**side, "showticklabels": not n}
        axes = add_panel(figure, n, ((0, 0.47), (0.53, 1))[n], {"title": titled(words), **side}, up)
        _add_regions(figure, toy, law, name, style, palette, axes)
        for which, mark in (
            (~wrong, {"symbol": "circle", "size": 5, "color": palette.ink}),
            (wrong, {"symbol": "x", "size": 7, "color": palette.differ}),
        ):
            if which.any():
                figure.add_scatter(
                    x=draws.u[which, 0],
                    y=draws.u[which, 1],
                    mode="markers",
                    marker={**mark, "line": {"width": 1, "color": palette.surface}},
                    customdata=["".join(map(str, block)) for block in blocks[which]],
                    hovertemplate="%{customdata} from u₁ = %{x:.3f}, u₂ = %{y:.3f}<extra>" + name + "</extra>",
                    **axes,
                )
    return figure.update_layout(barmode="overlay", bargap=0, showlegend=False)


def _add_regions(
    figure: go.Figure,
    toy: ToyLaw,
    law: Floats,
    name: str,
    style: dict[str, Any],
    palette: Colours,
    axes: dict[str, str],
) -> None:
    """The region of noise (u1, u2) of each pair of first tokens; width and height are its probabilities."""
    pairs, possible = _pairs(law), _pairs(toy.law)
    first = pairs.sum(axis=1)
    starts = first.cumsum() - first
    for a in np.flatnonzero(first):
        given = pairs[a] / first[a]
        for b in np.flatnonzero(given):
            wrong = possible[a, b] == 0
            figure.add_bar(
                x=[starts[a] + first[a] / 2],
                width=[first[a]],
                base=[given[:b].sum()],
                y=[given[b]],
                marker={"line": {"width": 1, "color": palette.rule}, **(_hatched(palette.differ) if wrong else style)},
                hovertemplate=f"{a}{b}: {100 * pairs[a, b]:.3g} %<extra>{name}</extra>",
                **axes,
            )
            figure.add_annotation(
                x=starts[a] + first[a] / 2,
                y=given[:b].sum() + given[b] / 2,
                xref=axes["xaxis"],
                yref=axes["yaxis"],
                text=f"{a}{b} ✕" if wrong else f"{a}{b}",
                font={"size": 12, "color": palette.differ if wrong else palette.ink},
                bgcolor=palette.surface,
                showarrow=False,
            )


def passes_words(toy: ToyLaw) -> tuple[str, str]:
    """The finding of the figure of passes, and how to read it."""
    first, least, mixed = toy.schedules[0], fewest_exact(toy), exact_at_random(toy)
    passes = len(least.sizes)
    if passes == 1:
        finding = "The tokens are independent: one pass of marginals is exact"
    elif mixed is not None:
        finding = (
            f"Every fixed {mixed.name} order is off by {mixed.best:.2g} or more, yet a random {mixed.name} order is "
            "exact: the errors of the orders cancel"
        )
    elif passes == toy.law.ndim:
        finding = f"One pass of exact marginals is off by {first.best:.2g}; only one token per pass is exact"
    else:
        which = "in every order" if least.worst <= EXACT else "in the best order"
        finding = (
            f"One pass of exact marginals is off by {first.best:.2g}; {passes} passes of {toy.law.ndim} can be exact "
            f"({least.name}, {which})"
        )
    others = "diamonds are other splits, " if len(toy.schedules) > toy.law.ndim else ""
    if not least.even:
        others += f"the filled one is {least.name}, "
    return finding, (
        "Lower is closer to the distribution: lines join the best and the worst fixed order of the positions and a "
        "uniformly random order, with passes as even as can be, larger ones first; "
        f"{others}the star is the exact push-forward map."
    )


def passes_figure(toy: ToyLaw, theme: Theme = "light") -> go.Figure:
    """Exact distance of marginal unmasking over the number of passes, beside push-forward in one pass."""
    palette, passes, least = colours(theme), toy.passes, fewest_exact(toy)
    figure = blank(palette, *passes_words(toy))

    def add(name: str, points: list[tuple[int, float, str]], mode: str = "markers", **style: Any) -> None:
        """Marks at (passes, distance), each with the text shown on hover."""
        x, y, words = map(list, zip(*points, strict=True))
        hover = "%{x} passes: %{y:.4f}<br>%{customdata}<extra></extra>"
        figure.add_scatter(
            x=x, y=y, customdata=words, mode=mode, name=name, hovertemplate=hover, cliponaxis=False, **style
        )

    for name, dash, symbol, ends in (
        ("worst order", "solid", "square", [(s.worst, order_words(s.worst_order)) for s in passes]),
        ("best order", "dash", "circle", [(s.best, order_words(s.best_order)) for s in passes]),
        ("random order", "dot", "triangle-up", [(s.random, f"{s.name} in a random order") for s in passes]),
    ):
        style = {"line": {"color": palette.lines[_HUE], "width": 2, "dash": dash}}
        points = [(len(s.sizes), *end) for s, end in zip(passes, ends, strict=True)]
        add(name, points, "lines+markers", marker={"symbol": symbol, "size": 9}, **style)
    others = [
        (len(s.sizes), distance, f"{s.name}: {order_words(order)}")
        for s in toy.schedules
        if not s.even
        for distance, order in ((s.best, s.best_order), (s.worst, s.worst_order))
    ]
    if others:
        add("other splits", others, marker={"symbol": "diamond-open", "size": 8, "color": palette.muted})
    if not least.even:  # the split in the title lies on neither line
        point = (len(least.sizes), least.best, order_words(least.best_order))
        marker = {"symbol": "diamond", "size": 11, "color": palette.lines[_HUE]}
        add(f"{least.name}, best order", [point], marker=marker)
    marker = {"symbol": "star", "size": 15, "color": palette.exact}
    add("push-forward", [(1, toy.push_forward, "the exact map")], marker=marker)
    figure.update_xaxes(title=titled("passes"), dtick=1, range=[0.8, toy.law.ndim + 0.2], zeroline=False)
    top = max(0.1, 1.08 * toy.schedules[0].worst)
    return figure.update_yaxes(title=titled("total variation distance"), range=[0, top])


def blocks_words(toy: ToyLaw) -> tuple[str, str]:
    """The finding of the figure of blocks, and how to read it."""
    if toy.impossible:
        finding = f"{percent(toy.impossible)} of the blocks of one pass are impossible"
    elif toy.schedules[0].worst <= EXACT:
        finding = "One pass of marginals gives every block its exact probability"
    else:
        over = toy.schedules[0].worst
        finding = f"One pass gives {percent(over)} of the probability to the wrong blocks, though none is impossible"
    reading = "Solid bars are the exact distribution, hatched ones what one pass of its exact marginals gives"
    if toy.impossible:
        reading += "; ✕ marks a block of probability 0"
    shown = _shown(toy)
    if left := toy.law.size - len(shown):
        exact, drawn = (percent(abs(1 - values.reshape(-1)[shown].sum())) for values in (toy.law, toy.one_pass))
        reading += f"; the {left} blocks not drawn have {exact} of the probability and {drawn} of one pass"
    return finding, reading + "."


def blocks_figure(toy: ToyLaw, theme: Theme = "light") -> go.Figure:
    """The probability of each block, exact and in one pass of marginals; impossible blocks are marked.

    Of more than `MOST_BLOCKS` blocks, the most likely are drawn.
    """
    palette, shown = colours(theme), _shown(toy)
    names = np.array(["".join(map(str, np.unravel_index(block, toy.law.shape))) for block in shown])
    exact, drawn = (100 * values.reshape(-1)[shown] for values in (toy.law, toy.one_pass))
    wrong = (exact == 0) & (drawn > 0)
    figure = blank(palette, *blocks_words(toy))
    figure.add_bar(
        x=names,
        y=exact,
        offsetgroup="law",
        marker={"color": palette.exact, "line": {"width": 0}},
        name="exact distribution",
        hovertemplate="%{x}: %{y:.3f} %<extra>exact</extra>",
    )
    for name, which, colour, sign in (
        ("one pass", ~wrong, palette.lines[_HUE], None),
        ("one pass, impossible ✕", wrong, palette.differ, "✕"),
    ):
        if which.any():
            figure.add_bar(
                x=names[which],
                y=drawn[which],
                offsetgroup="marginals",
                marker=_hatched(colour),
                text=sign,
                textposition="outside",
                textangle=0,
                textfont={"color": colour},
                cliponaxis=False,
                name=name,
                hovertemplate="%{x}: %{y:.3f} %<extra>one pass</extra>",
            )
    figure.update_layout(barmode="group", bargap=0.25, bargroupgap=0.05, showlegend=True)
    order = {"type": "category", "categoryorder": "array", "categoryarray": names}
    figure.update_xaxes(title=titled("block"), showgrid=False, **order)
    return figure.update_yaxes(title=titled("probability (%)"), rangemode="tozero")


def fewest_exact(toy: ToyLaw) -> Unmasking:
    """The split with the fewest passes that is exact in some fixed order, preferably in all orders."""
    exact = [schedule for schedule in toy.schedules if schedule.best <= EXACT]
    return min(exact, key=lambda schedule: (len(schedule.sizes), schedule.worst > EXACT))


def exact_at_random(toy: ToyLaw) -> Unmasking | None:
    """A split that is exact in a uniformly random order with fewer passes than any fixed order, if there is one."""
    few = [s for s in toy.schedules if len(s.sizes) < len(fewest_exact(toy).sizes)]
    return next((s for s in few if s.random <= EXACT), None)


def order_words(order: tuple[tuple[int, ...], ...]) -> str:
    """The order in words, such as "x1 x2, then x3"."""
    return ", then ".join(" ".join(f"x{j + 1}" for j in group) for group in order)


def _hatched(colour: str) -> dict[str, Any]:
    """Bar style for results that are not exact."""
    pattern = {"shape": "/", "fgcolor": colour, "bgcolor": CLEAR, "size": 6}
    return {"color": colour, "line": {"width": 1, "color": colour}, "pattern": pattern}


def _pairs(law: Floats) -> Floats:
    """(V, V) the distribution of the first two tokens."""
    return law.sum(axis=tuple(range(2, law.ndim)))


def _is_impossible(toy: ToyLaw, blocks: Ints) -> npt.NDArray[np.bool_]:
    """(N,) whether each block has probability 0 under the distribution."""
    return toy.law[tuple(blocks.T)] == 0


def _shown(toy: ToyLaw) -> list[int]:
    """Flat indices of the blocks shown, in the order of their names."""
    likely = np.maximum(toy.law, toy.one_pass).reshape(-1)
    return sorted(np.argsort(-likely, kind="stable")[:MOST_BLOCKS].tolist())
