"""Figures of a block's exact distribution: joint and product, parts of the surprisal, comparison with samplers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import numpy as np
import plotly.graph_objects as go

from kfexplore.figures.page import Text, add_cell_values, blank, percent, visible
from kfexplore.figures.palette import Colours, Theme, colours
from kfexplore.results import BlockLaw, ContextStudy

Panel = Literal["joint", "product", "difference"]
_PATTERNS: Final = ("", "/", ".", "\\", "x", "-", "|", "+")
_GAP: Final = 0.25
"""Gap between groups of bars, as a fraction of their distance."""
_IMPOSSIBLE: Final = "✕"


def joint_figure(
    law: BlockLaw, panel: Panel = "joint", text: Text = str, theme: Theme = "light", most: int = 8
) -> go.Figure:
    """A heat map of pairs of tokens, with the most likely on the axes; all panels of a distribution share one scale.

    Args:
        law: Distribution of the next two tokens.
        panel: The joint distribution, the product of its marginals, or joint minus product.
        text: Gives the text of a token id.
        theme: light or dark.
        most: Maximum number of tokens on an axis.
    """
    palette = colours(theme)
    rows, second = min(most, len(law.first)), law.marginal_2
    columns = np.argsort(-second, kind="stable")[:most]
    first = 100 * law.marginal_1[law.first[:rows], None]
    joint, product = first * law.given[:rows, columns], first * second[columns]
    top = float(max(joint.max(), product.max()))
    one_way = [[0, palette.surface], [1, palette.exact]]
    finding, reading, values, least, scale = {
        "joint": (
            "Joint: what the teacher gives",
            "A cell: how often the row's token is followed by the column's, in per cent of all pairs.",
            joint,
            0.0,
            one_way,
        ),
        "product": (
            "Product: what its marginals give",
            "The same tokens drawn independently, each from its own exact marginal, on the same scale.",
            product,
            0.0,
            one_way,
        ),
        "difference": (
            f"Mutual information of the next two tokens: {law.mutual_information.value:.2f} nats. Sampling them "
            f"independently gives a total variation distance of {law.tv_product.value:.2f}",
            "Joint minus product, on the same scale. +: the product underestimates the pair's probability; −: it "
            "overestimates it.",
            joint - product,
            -top,
            [[0, palette.differ], [0.5, palette.surface], [1, palette.accent]],
        ),
    }[panel]
    figure = blank(palette, finding, reading)
    row_names, column_names = ([visible(text, i) for i in ids] for ids in (law.first[:rows], columns))
    figure.add_heatmap(
        z=values,
        zmin=least,
        zmax=top,
        colorscale=scale,
        xgap=1,
        ygap=1,
        showscale=False,
        customdata=[[f"{a} {b}" for b in column_names] for a in row_names],
        hovertemplate="%{customdata}: %{z:.3f} %<extra>" + panel + "</extra>",
    )
    sign = "+" if panel == "difference" else ""
    worth = np.abs(values) >= 0.2 * top  # numbers in all cells would be illegible
    texts = [
        [format(values[r, c], f"{sign}.1f") if worth[r, c] else "" for c in range(len(columns))] for r in range(rows)
    ]
    add_cell_values(figure, palette, texts, np.abs(values) > 0.5 * top, size=9)
    plain = {"showgrid": False, "zeroline": False, "ticks": ""}
    figure.update_layout(margin={"t": figure.layout.margin.t + 60})  # the column names are above the heat map
    figure.update_xaxes(
        tickvals=list(range(len(columns))),
        ticktext=column_names,
        tickangle=-90,
        side="top",
        range=[-0.5, len(columns) - 0.5],
        title={"text": "second token"},
        **plain,
    )
    return figure.update_yaxes(
        tickvals=list(range(rows)),
        ticktext=row_names,
        range=[rows - 0.5, -0.5],
        title={"text": "first token"},
        **plain,
    )


def surprise_figure(measured: ContextStudy, theme: Theme = "light") -> go.Figure:
    """Bars of nats: the block's own entropy, what the product adds, and what wrong marginals add."""
    palette, found, error = colours(theme), measured.correlation, measured.error
    product = found.total.value
    rows = ["teacher", "product of the<br>exact marginals"] + (["masked model,<br>one pass"] if error else [])
    wrong = sum(error.wrong_marginals) if error else 0.0
    parts: list[tuple[str, list[float], str, str]] = [
        ("the block's own entropy", [found.entropy] * len(rows), palette.exact, ""),
        ("total correlation", [0.0, *[product] * (len(rows) - 1)], palette.differ, "/"),
    ]
    if error:
        parts.append(("wrong marginals", [0.0, 0.0, wrong], palette.muted, "x"))
    figure = blank(
        palette,
        f"A product of marginals adds {product:.2f} nats to the {found.entropy:.2f} of the teacher's next {measured.k} "
        "tokens" + (f"; the masked model's wrong marginals add {wrong:.2f}" if error else ""),
        "A bar: mean surprisal of the teacher's own blocks under that distribution, in nats, split into parts that add "
        "up.",
    )
    for name, values, colour, pattern in parts:
        figure.add_bar(
            y=rows,
            x=values,
            orientation="h",
            name=name,
            marker={"color": colour, "line": {"width": 0}, "pattern": {"shape": pattern, "fgcolor": palette.surface}},
            hovertemplate=f"{name}: %{{x:.3f}} nats<extra></extra>",
        )
    figure.update_layout(barmode="stack", bargap=0.45, legend={"traceorder": "normal"})
    figure.update_xaxes(title_text="surprisal (nats)", rangemode="tozero")
    return figure.update_yaxes(autorange="reversed", showgrid=False)


def counts_figure(measured: ContextStudy, text: Text = str, theme: Theme = "light", most: int = 8) -> go.Figure:
    """Bars of each sampler's blocks against expectation: the most likely and the almost impossible ones."""
    palette, teacher = colours(theme), measured.samplers[0]
    blocks = teacher.cells.blocks[:most]
    names = [" ".join(visible(text, token) for token in block) for block in blocks]
    places = list(range(len(names)))  # several blocks may have the same label
    expected = teacher.cells.probability[: len(blocks)].tolist()
    worst = max(measured.samplers[1:], key=lambda row: row.impossible.value)
    figure = blank(
        palette,
        f"{percent(worst.impossible.value)} of the samples of {worst.sampler} are as unlikely as the teacher's rarest "
        f"{percent(0.001)}",
        "Bars: fraction of a sampler's blocks that are one of the most likely, under the line that the teacher's exact "
        f"distribution expects; on the right ({_IMPOSSIBLE}), on a scale of its own, the fraction of blocks that are "
        "almost impossible.",
    )

    def panels(likely: Iterable[float], impossible: float) -> list[tuple[list[int], list[float], list[str], Any]]:
        """Positions, percentages and names for the traces of the left and the right panel."""
        left, right = ({"xaxis": f"x{axis}", "yaxis": f"y{axis}", "showlegend": not axis} for axis in ("", "2"))
        return [
            (places, [100 * value for value in likely], names, left),
            ([0], [100 * impossible], [_IMPOSSIBLE], right),
        ]

    for n, row in enumerate(measured.samplers):
        pattern = {"shape": _PATTERNS[n % len(_PATTERNS)], "fgcolor": palette.surface, "size": 5}
        found = [float((row.blocks == block).all(axis=1).mean()) for block in blocks]
        for x, y, labels, where in panels(found, row.impossible.value):
            figure.add_bar(
                x=x,
                y=y,
                offsetgroup=row.sampler,
                name=row.sampler,
                legendgroup=row.sampler,
                marker={"color": sampler_colour(row.sampler, n, palette), "line": {"width": 0}, "pattern": pattern},
                customdata=labels,
                hovertemplate=f"{row.sampler}, %{{customdata}}: %{{y:.2f}} % of {row.size:,}<extra></extra>",
                **where,
            )
    half = (1 - _GAP) / 2  # half the width of a group of bars
    for x, y, labels, where in panels(expected, measured.impossible_expected):
        figure.add_scatter(
            x=[end for place in x for end in (place - half, place, place + half, None)],
            y=[end for value in y for end in (value, value, value, None)],
            mode="lines",
            name="expected",
            legendgroup="expected",
            line={"color": palette.ink, "width": 2},
            customdata=[label for label in labels for _ in range(4)],
            hovertemplate="expected, %{customdata}: %{y:.2f} %<extra></extra>",
            **where,
        )
    figure.update_layout(barmode="group", bargap=_GAP, xaxis2=figure.layout.xaxis, yaxis2=figure.layout.yaxis)
    figure.update_layout(
        xaxis={"domain": [0, 0.76], "tickvals": places, "ticktext": names},
        xaxis2={"domain": [0.86, 1], "anchor": "y2", "tickvals": [0], "ticktext": [_IMPOSSIBLE]},
        yaxis={"title": {"text": "blocks (%)"}},
        yaxis2={"anchor": "x2"},
    )
    figure.update_xaxes(showgrid=False, zeroline=False)
    return figure.update_yaxes(rangemode="tozero")


def sampler_colour(sampler: str, n: int, palette: Colours) -> str:
    """The colour of a sampler, the n-th of its figure."""
    fixed = {"teacher": palette.exact, "student": palette.learned, "ideal MDLM": palette.muted}
    return fixed.get(sampler, palette.lines[(5 * n) % len(palette.lines)])
