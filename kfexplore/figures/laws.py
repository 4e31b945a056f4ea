"""Figures of the exact law of a block: joint beside product, what the surprise is made of, samplers against the law."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Final, Literal

import numpy as np
import plotly.graph_objects as go

from kfexplore.figures.page import blank, whiskers
from kfexplore.figures.palette import Colours, Theme, colours, token_label
from kfexplore.results import BlockLaw, ClassInformation, ContextStudy, Estimate, Floats, SamplerError

Panel = Literal["joint", "product", "difference"]
Text = Callable[[int], str]
"""A token's own text."""
_SYMBOLS: Final = {"teacher": "diamond", "student": "circle", "ideal MDLM": "square-open"}
_OTHER_SYMBOLS: Final = ("square", "triangle-up", "triangle-down", "cross", "x")
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
                    "color": _colour(row.sampler, n, look),
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


def passes_figure(rows: Sequence[SamplerError], theme: Theme = "light") -> go.Figure:
    """Distance from the teacher's law against forward passes per block."""
    look = colours(theme)
    ideal = next((row for row in rows if row.sampler.startswith("ideal")), rows[-1])
    student = next((row for row in rows if row.sampler == "student"), None)
    is_known = student is not None and student.tv.is_known and ideal.tv.is_known
    beside = f", the student {student.tv.words}" if student is not None and is_known else ""
    figure = blank(
        look,
        f"In one pass, perfect marginals are {ideal.tv.words} from the teacher's distribution{beside}",
        "A mark: total variation distance from the teacher's distribution, with its limits: the error for one context, "
        "or the 95 % t interval of the mean over contexts. An open mark with an arrow is a 95 % lower limit: the "
        "distance may be any larger. Compare samplers by paired differences, not by whiskers. Marks are drawn slightly "
        "apart.",
    )
    for n, row in enumerate(rows):
        colour, symbol = _colour(row.sampler, n, look), _SYMBOLS.get(row.sampler, _OTHER_SYMBOLS[n % 5])
        x, y = row.nfe + 0.05 * (n - (len(rows) - 1) / 2), row.tv.value if row.tv.is_known else row.tv.low
        figure.add_scatter(
            x=[x],
            y=[y],
            error_y=whiskers([Estimate(y, row.tv.low, y if row.tv.high is None else row.tv.high)], colour),
            mode="markers",
            marker={"symbol": symbol if row.tv.is_known else f"{symbol.removesuffix('-open')}-open", "size": 11}
            | {"color": colour},
            name=row.sampler if row.tv.is_known else f"{row.sampler} (lower bound)",
            customdata=[_hover(row)],
            hovertemplate="%{customdata}<extra></extra>",
        )
        if not row.tv.is_known:
            arrow = {"arrowhead": 2, "arrowwidth": 1.2, "arrowcolor": colour, "ax": 0, "ay": 26, "standoff": 0}
            figure.add_annotation(x=x, y=y, yshift=26, showarrow=True, text="", **arrow)
    figure.update_xaxes(title_text="forward passes per block", dtick=1, range=[0.5, max(row.nfe for row in rows) + 0.5])
    return figure.update_yaxes(title_text="distance from the teacher (TV)", rangemode="tozero")


def information_figure(values: Floats, theme: Theme = "light") -> go.Figure:
    """Distribution of the mutual information of the next two tokens over contexts (n,)."""
    look = colours(theme)
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    figure = blank(
        look,
        f"Mutual information of the next two tokens: median {middle:.2f} nats, {high:.2f} or more in one of ten",
        f"A bar: number of the {len(values)} contexts whose mutual information lies there; nine in ten have more than "
        f"{low:.2f} nats.",
    )
    bars = {"color": look.exact, "line": {"color": look.surface, "width": 1}}
    figure.add_histogram(x=values, nbinsx=min(30, max(5, len(values) // 3)), marker=bars)
    figure.update_xaxes(title_text="mutual information of the next two tokens (nats)", rangemode="tozero")
    return figure.update_yaxes(title_text="contexts")


def classes_figure(classes: Sequence[ClassInformation], theme: Theme = "light") -> go.Figure:
    """Bars of what a first token says of the second, by its class."""
    look = colours(theme)
    ranked = sorted(classes, key=lambda c: -c.information.value)
    figure = blank(
        look,
        f"A first token that is {ranked[0].name} says most of the second: {ranked[0].information.value:.2f} nats",
        "A bar: mean over the teacher's first tokens of that class of KL(law of the second token given it || "
        "marginal), with its 95 % interval over contexts; in brackets, how often the class comes first.",
    )
    figure.add_bar(
        x=[f"{c.name} ({c.share:.0%})" for c in ranked],
        y=[c.information.value for c in ranked],
        error_y={
            "array": [c.information.high - c.information.value for c in ranked],
            "arrayminus": [c.information.value - c.information.low for c in ranked],
            "color": look.ink,
            "thickness": 1.5,
            "width": 5,
        },
        marker={"color": look.exact, "line": {"width": 0}},
        width=0.55,
        hovertemplate="%{x}: %{y:.3f} nats<extra></extra>",
    )
    figure.update_xaxes(showgrid=False)
    return figure.update_yaxes(title_text="information about the second token (nats)", rangemode="tozero")


def _label(text: Text, token: int) -> str:
    """A token's visible text; Plotly would read tags in it."""
    return html.escape(token_label(text(int(token))), quote=False)


def _colour(sampler: str, n: int, look: Colours) -> str:
    fixed = {"teacher": look.exact, "student": look.learned, "ideal MDLM": look.muted}
    return fixed.get(sampler, look.lines[(5 * n) % len(look.lines)])


def _hover(row: SamplerError) -> str:
    kl = "" if row.kl is None else f", KL {row.kl.value:.3f} nats"
    return f"{row.sampler}: TV {row.tv.words} ({row.tv.limits}){kl}"
