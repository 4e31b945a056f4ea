"""Figures of the exact law of a block: joint beside product, what the surprise is made of, samplers against the law."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Final, Literal

import numpy as np
import plotly.graph_objects as go

from kfexplore.figures.page import blank
from kfexplore.figures.palette import Colours, Theme, colours, token_label
from kfexplore.results import BlockLaw, ContextStudy

Panel = Literal["joint", "product", "difference"]
Text = Callable[[int], str]
"""A token's own text."""
_PATTERNS: Final = ("", "/", ".", "\\", "x", "-", "|", "+")
_GAP: Final = 0.25
"""Of the room of a group of bars."""


def joint_figure(
    law: BlockLaw, panel: Panel = "joint", text: Text = str, theme: Theme = "light", most: int = 8
) -> go.Figure:
    """A heat map of pairs of tokens, the likeliest on the axes; all panels of a law have one scale.

    Args:
        law: Of the next two tokens.
        panel: The joint law, the product of its marginals, or joint less product.
        text: A token id's text.
        theme: Colours.
        most: Tokens on an axis.
    """
    look = colours(theme)
    rows, second = min(most, len(law.first)), law.marginal_2
    columns = np.argsort(-second, kind="stable")[:most]
    first = 100 * law.marginal_1[law.first[:rows], None]
    joint, product = first * law.given[:rows, columns], first * second[columns]
    top = float(max(joint.max(), product.max()))
    finding = (
        f"Mutual information of the next two tokens: {law.mutual_information.value:.2f} nats. Sampling them "
        f"independently gives a total variation distance of {law.tv_product.value:.2f}"
    )
    finding, reading, values, least, scale = {
        "joint": (
            "Joint: what the teacher gives",
            "A cell: how often the row's token is followed by the column's, in per cent of all pairs.",
            joint,
            0.0,
            [[0, look.surface], [1, look.exact]],
        ),
        "product": (
            "Product: what its marginals give",
            "The same tokens drawn apart, each from its own exact marginal, on the same scale.",
            product,
            0.0,
            [[0, look.surface], [1, look.exact]],
        ),
        "difference": (
            finding,
            "Joint less product, on that scale: + is given too rarely by the product, − too often.",
            joint - product,
            -top,
            [[0, look.differ], [0.5, look.surface], [1, look.accent]],
        ),
    }[panel]
    figure = blank(look, finding, reading)
    names = [[_label(text, i) for i in ids] for ids in (law.first[:rows], columns)]
    worth = np.abs(values) >= 0.2 * top  # a number in every cell could not be read
    figure.add_heatmap(
        z=values,
        zmin=least,
        zmax=top,
        colorscale=scale,
        xgap=1,
        ygap=1,
        showscale=False,
        customdata=[[f"{a} {b}" for b in names[1]] for a in names[0]],
        hovertemplate="%{customdata}: %{z:.3f} %<extra>" + panel + "</extra>",
    )
    dark = np.abs(values) > 0.5 * top
    for ground, colour in ((~dark, look.ink), (dark, look.surface)):
        at = np.argwhere(ground & worth)
        figure.add_scatter(
            x=at[:, 1],
            y=at[:, 0],
            mode="text",
            text=[f"{values[r, c]:+.1f}" if panel == "difference" else f"{values[r, c]:.1f}" for r, c in at],
            textfont={"color": colour, "size": 9},
            hoverinfo="skip",
            showlegend=False,
        )
    plain = {"showgrid": False, "zeroline": False, "ticks": ""}
    figure.update_layout(margin={"t": figure.layout.margin.t + 60})  # the names of the columns stand above
    figure.update_xaxes(
        tickvals=list(range(len(columns))),
        ticktext=names[1],
        tickangle=-90,
        side="top",
        range=[-0.5, len(columns) - 0.5],
        title={"text": "second token"},
        **plain,
    )
    return figure.update_yaxes(
        tickvals=list(range(rows)),
        ticktext=names[0],
        range=[rows - 0.5, -0.5],
        title={"text": "first token"},
        **plain,
    )


def surprise_figure(measured: ContextStudy, theme: Theme = "light") -> go.Figure:
    """Bars of nats: the block's own entropy, what the product adds, and what wrong marginals add."""
    look, found, error = colours(theme), measured.correlation, measured.error
    product = found.total.value
    rows = ["teacher", "product of the<br>exact marginals"] + (["masked model,<br>one pass"] if error else [])
    wrong = sum(error.wrong_marginals) if error else 0.0
    parts: list[tuple[str, list[float], str, str]] = [
        ("the block's own entropy", [found.entropy] * len(rows), look.exact, ""),
        ("total correlation", [0.0, *[product] * (len(rows) - 1)], look.differ, "/"),
    ]
    if error:
        parts.append(("wrong marginals", [0.0, 0.0, wrong], look.muted, "x"))
    figure = blank(
        look,
        f"A product of marginals pays {product:.2f} nats more for the teacher's next {measured.k} tokens than the "
        f"{found.entropy:.2f} they have" + (f"; the masked model's wrong marginals add {wrong:.2f}" if error else ""),
        "A bar: mean surprise of the teacher's own blocks under that law, in nats, split into parts that add up.",
    )
    for name, values, colour, pattern in parts:
        figure.add_bar(
            y=rows,
            x=values,
            orientation="h",
            name=name,
            marker={"color": colour, "line": {"width": 0}, "pattern": {"shape": pattern, "fgcolor": look.surface}},
            hovertemplate=f"{name}: %{{x:.3f}} nats<extra></extra>",
        )
    figure.update_layout(barmode="stack", bargap=0.45, legend={"traceorder": "normal"})
    figure.update_xaxes(title_text="surprise (nats)", rangemode="tozero")
    return figure.update_yaxes(autorange="reversed", showgrid=False)


def counts_figure(measured: ContextStudy, text: Text = str, theme: Theme = "light", most: int = 8) -> go.Figure:
    """Bars of each sampler's blocks against expectation: the likeliest ones, and those that are all but impossible."""
    look = colours(theme)
    teacher = measured.samplers[0]
    blocks = teacher.cells.blocks[:most]
    names = [" ".join(_label(text, token) for token in block) for block in blocks]
    places = list(range(len(names)))  # two blocks may have one label
    last, half = "✕", (1 - _GAP) / 2
    expected = teacher.cells.probability[: len(blocks)].tolist()
    worst = max(measured.samplers[1:], key=lambda row: row.impossible.value)
    figure = blank(
        look,
        f"{worst.impossible.value:.1%} of the blocks of {worst.sampler} are rarer than one in a thousand of the "
        "teacher's own",
        "Bars: share of a sampler's blocks that are one of the likeliest, under the line that the teacher's exact law "
        "expects; on the right (✕), on a scale of its own, the share of blocks that are all but impossible.",
    )
    for n, row in enumerate(measured.samplers):
        shares = [float((row.blocks == block).all(axis=1).mean()) for block in blocks]
        for axis, x, y in (("", places, shares), ("2", [0], [row.impossible.value])):
            figure.add_bar(
                x=x,
                y=[100 * share for share in y],
                xaxis=f"x{axis}",
                yaxis=f"y{axis}",
                offsetgroup=row.sampler,
                name=row.sampler,
                legendgroup=row.sampler,
                showlegend=not axis,
                marker={
                    "color": sampler_colour(row.sampler, n, look),
                    "line": {"width": 0},
                    "pattern": {"shape": _PATTERNS[n % len(_PATTERNS)], "fgcolor": look.surface, "size": 5},
                },
                customdata=[last] if axis else names,
                hovertemplate=f"{row.sampler}, %{{customdata}}: %{{y:.2f}} % of {row.size:,}<extra></extra>",
            )
    for axis, x, y in (("", places, expected), ("2", [0], [measured.impossible_expected])):
        figure.add_scatter(
            x=[end for place in x for end in (place - half, place, place + half, None)],  # as wide as the bars below
            y=[end for share in y for end in (*[100 * share] * 3, None)],
            xaxis=f"x{axis}",
            yaxis=f"y{axis}",
            mode="lines",
            name="expected",
            legendgroup="expected",
            showlegend=not axis,
            line={"color": look.ink, "width": 2},
            customdata=[name for name in ([last] if axis else names) for _ in range(4)],
            hovertemplate="expected, %{customdata}: %{y:.2f} %<extra></extra>",
        )
    figure.update_layout(barmode="group", bargap=_GAP, xaxis2=figure.layout.xaxis, yaxis2=figure.layout.yaxis)
    figure.update_layout(
        xaxis={"domain": [0, 0.76], "tickvals": places, "ticktext": names},
        xaxis2={"domain": [0.86, 1], "anchor": "y2", "tickvals": [0], "ticktext": [last]},
        yaxis={"title": {"text": "blocks (%)"}},
        yaxis2={"anchor": "x2"},
    )
    figure.update_xaxes(showgrid=False, zeroline=False)
    return figure.update_yaxes(rangemode="tozero")


def _label(text: Text, token: int) -> str:
    """A token's visible text; Plotly would read tags in it."""
    return html.escape(token_label(text(int(token))), quote=False)


def sampler_colour(sampler: str, n: int, look: Colours) -> str:
    fixed = {"teacher": look.exact, "student": look.learned, "ideal MDLM": look.muted}
    return fixed.get(sampler, look.lines[(5 * n) % len(look.lines)])
