"""The roofline figure: the gain of K tokens per pass at the device's limit, and the batch at which it ends."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import plotly.graph_objects as go

from kfexplore.config import from_dict
from kfexplore.figures.page import blank, log_axis
from kfexplore.figures.palette import Theme, colours
from kfexplore.results import Gain

LIMIT_NAME: Final = "at the device's limit"
"""Name of all roofline marks."""
WHAT_A_LIMIT_IS: Final = (
    "a model of the bytes and FLOPs of a pass, with this device's memory and arithmetic as measured, not a timing"
)
_K_SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")


def gain_figure(gains: Sequence[Gain], theme: Theme = "light", k: int | None = None) -> go.Figure:
    """The roofline's gain of K tokens per pass, over the batch; lines are dotted where arithmetic is the limit.

    `gains` are for several batches, ascending, and several K; the title is about `k`, as in `gain_words`.
    """
    look, ks = colours(theme), sorted({gain.k for gain in gains})
    figure = blank(
        look,
        gain_words(gains, k),
        "A line: the tokens per second of one K over those of AR, if both ran at the device's limit: "
        f"{WHAT_A_LIMIT_IS}. A measured ratio can be above it: AR pays the overhead of a call for every "
        "token, the student once for K tokens. Solid, with filled marks: reading the weights bounds the push-forward "
        "pass, and K tokens cost little more than one. Dotted, with open marks: arithmetic does, and 2K tokens are fed "
        "for K gained.",
    )
    figure.add_hline(1, line={"color": look.muted, "width": 1.5}, layer="below")
    for n, each in enumerate(ks):
        own = [gain for gain in gains if gain.k == each]
        colour, symbol = look.series(n), _K_SYMBOLS[n % len(_K_SYMBOLS)]
        for bound, dash in (("memory", "solid"), ("arithmetic", "dot")):
            steps = [(a, b) for a, b in pairwise(own) if b.bound == bound]
            figure.add_scatter(
                x=[x for a, b in steps for x in (a.batch, b.batch, None)],
                y=[y for a, b in steps for y in (a.speedup, b.speedup, None)],
                mode="lines",
                line={"color": colour, "width": 2, "dash": dash},
                legendgroup=str(each),
                showlegend=False,
                hoverinfo="skip",
                name=f"{bound}, K = {each}",
            )
        figure.add_scatter(
            x=[gain.batch for gain in own],
            y=[gain.speedup for gain in own],
            mode="markers",
            marker={
                "symbol": [symbol + ("" if gain.bound == "memory" else "-open") for gain in own],
                "size": 9,
                "color": colour,
                "line": {"width": 2, "color": colour},
            },
            legendgroup=str(each),
            name=f"K = {each}",
            showlegend=True,
            customdata=[[gain.bound, gain.ar_ms, gain.pflm_ms] for gain in own],
            hovertemplate="batch %{x}: %{y:.2f} × AR at the limit, bound by %{customdata[0]}<br>a pass of AR takes at "
            "least %{customdata[1]:.3g} ms, one of PFLM %{customdata[2]:.3g} ms<extra>K = " + str(each) + "</extra>",
            cliponaxis=False,
        )
    batches, values = sorted({gain.batch for gain in gains}), [gain.speedup for gain in gains]
    figure.update_xaxes(
        title={"text": "batch (samples at once)"},
        type="log",
        tickvals=batches if len(batches) <= 12 else None,
        ticktext=[f"{batch:,}" if n % 2 == 0 else "" for n, batch in enumerate(batches)]
        if len(batches) <= 12
        else None,
        tickangle=0,
        showgrid=False,
        zeroline=False,
    )
    return figure.update_layout(
        yaxis={
            "title": {"text": "speed-up at the device's limit (× AR)"},
            **log_axis(min([0.5, *values]) / 1.2, 1.2 * max([2.0, *values])),
        }
    )


def gain_words(gains: Sequence[Gain], k: int | None = None) -> str:
    """A sentence on where the gain of `k` tokens per pass ends; None: 4 if there are gains for it, else the largest."""
    ks = {gain.k for gain in gains}
    if k is None:
        k = 4 if 4 in ks else max(ks)
    own = sorted((gain for gain in gains if gain.k == k), key=lambda gain: gain.batch)
    begin, end = own[0], own[-1]
    words = (
        f"If both ran at this device's limit, K = {k} would have {begin.speedup:.2f} times AR's speed at batch "
        f"{begin.batch:,}"
    )
    if end is begin:
        return words
    falls = []
    for level, name in ((2.0, "below 2"), (1.0, "below 1")):
        under = next((gain.batch for gain in own if gain.speedup < level), None)
        if begin.speedup >= level and under is not None:
            falls.append(f"{name} from batch {under:,}")
    turned = next((gain.batch for gain in own if gain.bound == "arithmetic"), None)
    where = f" (arithmetic bounds it from batch {turned:,})" if turned is not None else ""
    return f"{words}, {', '.join([*falls, f'{end.speedup:.2f} at {end.batch:,}'])}{where}"


def gain_of(values: dict[str, Any]) -> Gain:
    """A gain from its plain values."""
    return from_dict(Gain, {name: value for name, value in values.items() if name != "speedup"})
