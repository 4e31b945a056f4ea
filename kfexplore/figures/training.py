"""The figure of a training run: the loss of every stage (`kfexplore train curves`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from kfexplore.figures.page import blank, page, themed, titled
from kfexplore.figures.palette import Theme, colours

Curve = Sequence[Mapping[str, float]]
"""Points of losses.jsonl: `step`, `loss` (nats; of a student also `loss_1` .. by slot) and `tokens_per_second`."""


def curves_figure(curves: Mapping[str, Curve], theme: Theme = "light") -> go.Figure:
    """One line per stage, by its name: the mean loss of each 50 steps. Stages without points are left out."""
    palette, drawn = colours(theme), {name: curve for name, curve in curves.items() if curve}
    ends = ", ".join(f"{name} {curve[-1]['loss']:.2f}" for name, curve in drawn.items())
    figure = blank(
        palette,
        f"Loss at the end of each stage: {ends} nats",
        "A point: mean loss of 50 steps. Teacher: nats per token of text. Students: nats per slot, 0 being the "
        "exact map. Masked model: a bound, nats per token.",
    )
    for n, (name, curve) in enumerate(drawn.items()):
        figure.add_scatter(
            x=[point["step"] for point in curve],
            y=[point["loss"] for point in curve],
            mode="lines" if len(curve) > 1 else "markers",
            line={"color": palette.series(n), "width": 2},
            marker={"color": palette.series(n), "size": 9},
            name=name,
            customdata=[[_slots(point), point.get("tokens_per_second")] for point in curve],
            hovertemplate="step %{x:,}: %{y:.3f} nats%{customdata[0]}, %{customdata[1]:,} tokens per second",
        )
    figure.update_layout(showlegend=True)
    figure.update_xaxes(title=titled("optimizer steps"))
    return figure.update_yaxes(title=titled("loss (nats)"), rangemode="tozero")


def _slots(point: Mapping[str, float]) -> str:
    """The losses of a student's slots, in words; empty for another model."""
    losses = [point[name] for n in range(1, len(point)) if (name := f"loss_{n}") in point]
    return f" (by slot {' / '.join(f'{loss:.2f}' for loss in losses)})" if losses else ""


def curves_page(curves: Mapping[str, Curve], run: str) -> str:
    """The figure as one HTML page; `run` names the work folder."""
    return page(themed(lambda theme: {"curves": curves_figure(curves, theme)}), f"kfexplore: training of {run}", run)
