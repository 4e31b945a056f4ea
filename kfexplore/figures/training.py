"""Figures of training: the loss of every stage of a run (`kfexplore train curves`), and arms of an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from kfexplore.figures.page import THEMES, blank, half_widths, page, titled
from kfexplore.figures.palette import Theme, colours

Curve = Sequence[Mapping[str, float]]
"""Points of losses.jsonl: `step`, `loss` (nats; of a student also `loss_1` .. by slot) and `tokens_per_second`."""


def curves_figure(curves: Mapping[str, Curve], theme: Theme = "light") -> go.Figure:
    """One line a stage: the mean loss of each 50 steps.

    Args:
        curves: Name of a stage to its points; empty ones are left out.
        theme: light or dark.
    """
    look, drawn = colours(theme), {name: curve for name, curve in curves.items() if curve}
    ends = ", ".join(f"{name} {curve[-1]['loss']:.2f}" for name, curve in drawn.items())
    figure = blank(
        look,
        f"Loss at the end of each stage: {ends} nats",
        "A point: mean loss of 50 steps. Teacher: nats a token of text. Students: nats a slot, 0 being the "
        "exact map. Masked model: a bound, nats a token.",
    )
    for n, (name, curve) in enumerate(drawn.items()):
        figure.add_scatter(
            x=[point["step"] for point in curve],
            y=[point["loss"] for point in curve],
            mode="lines" if len(curve) > 1 else "markers",
            line={"color": look.lines[(8 + 5 * n) % len(look.lines)], "width": 2},
            marker={"color": look.lines[(8 + 5 * n) % len(look.lines)], "size": 9},
            name=name,
            customdata=[[_slots(point), point.get("tokens_per_second")] for point in curve],
            hovertemplate="step %{x:,}: %{y:.3f} nats%{customdata[0]}, %{customdata[1]:,} tokens a second",
        )
    figure.update_layout(showlegend=True)
    figure.update_xaxes(title=titled("optimizer steps"))
    figure.update_yaxes(title=titled("loss (nats)"), rangemode="tozero")
    return figure


def _slots(point: Mapping[str, float]) -> str:
    """The losses of a student's slots, in words; nothing of another model."""
    losses = [point[name] for n in range(1, len(point)) if (name := f"loss_{n}") in point]
    return f" (by slot {' / '.join(f'{loss:.2f}' for loss in losses)})" if losses else ""


def arms_figure(rows: Sequence[Mapping[str, Any]], theme: Theme = "light", blind: float | None = None) -> go.Figure:
    """Agreement in slot 1 of every arm of an ablation, a mark a seed.

    Args:
        rows: `arm`, `what`, `seed`, `agreement_by_slot` and its intervals, as `analysis.ablation` writes them.
        theme: light or dark.
        blind: Share of noise on which a student is exact that knows the teacher's law and never reads its noise.
    """
    look = colours(theme)
    shares: dict[str, list[float]] = {}
    for row in rows:
        shares.setdefault(row["what"], []).append(100 * row["agreement_by_slot"][0])
    means = {what: sum(own) / len(own) for what, own in shares.items()}
    names = sorted(means, key=means.__getitem__, reverse=True)
    finding = f"{means[names[0]]:.0f} % ({names[0]}) to {means[names[-1]]:.0f} % ({names[-1]})"
    if blind is not None:
        finding += f"; knowing the teacher's law and never reading the noise would give {blind:.0%}"
    figure = blank(
        look,
        f"At equal compute slot 1 is exact on {finding}",
        "A mark: one seed, with its 95 % interval over stretches of text; arms stand in the order of their mean over "
        "seeds, and one of a single seed is not told apart from its neighbours. All may spend the same token passes, "
        "their targets included. Dotted: the law known, the noise not read.",
    )
    if blind is not None:
        figure.add_vline(100 * blind, line={"color": look.muted, "dash": "dot", "width": 1})
    figure.add_scatter(
        x=[100 * row["agreement_by_slot"][0] for row in rows],
        y=[row["what"] for row in rows],
        error_x=half_widths([row["agreement_by_slot_interval"][0] for row in rows], look.learned, 100),
        mode="markers",
        marker={"size": 10, "color": look.learned},
        customdata=[[row["arm"], row["seed"]] for row in rows],
        hovertemplate="%{customdata[0]}, seed %{customdata[1]}: %{x:.1f} %<extra></extra>",
    )
    figure.update_xaxes(title=titled("exact tokens of slot 1 (%)"), rangemode="tozero")
    figure.update_yaxes(type="category", categoryarray=names, autorange="reversed", showgrid=False)
    aside = {"xref": "container", "x": 0.012}  # the names leave too little room beside them
    return figure.update_layout(height=figure.layout.margin.t + 110 + 30 * len(names), title=aside)


def curves_page(curves: Mapping[str, Curve], run: str) -> str:
    """The figure as one HTML page; `run` names the work folder."""
    return page([{theme: curves_figure(curves, theme) for theme in THEMES}], f"kfexplore: training of {run}", run)
