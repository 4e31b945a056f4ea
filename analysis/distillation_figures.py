"""Figures and results of distillation: a student as it learns, long runs, versions of a pair, arms of an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import plotly.graph_objects as go

from kfexplore.figures.page import add_panel, add_series, blank, dotted, half_widths, titled
from kfexplore.figures.palette import Theme, colours
from kfexplore.results import PUBLISHED_AGREEMENT

PUBLISHED_ENTROPY = 3.04
"""Nats per token of the published LM1B teacher on validation text (paper, ablation)."""


class Blind(NamedTuple):
    """Baseline on some text: slot 1 of a student that knows the teacher's distribution but never reads its noise."""

    share: float  # fraction of noise vectors for which it is exact: the mean of the largest probability
    nats: float  # its loss: the mean entropy


@dataclass(frozen=True)
class Progress:
    """A student after `step` steps."""

    step: int
    losses: list[float]  # (K,) on the exact tokens, nats per slot; 0 would be the exact map
    agreement: list[float]  # (K,) fraction of noise vectors for which the slot is exact
    agreement_interval: list[float]  # (K,) half widths of the 95 % intervals, over text windows


@dataclass(frozen=True)
class Leg:
    """A part of a training run under one setting."""

    name: str  # what was trained, in words
    steps: list[int]  # (P,) counted over all legs
    losses: list[list[float]]  # (P, K) of the training batches, nats per slot


@dataclass(frozen=True)
class Version:
    """A published state of the pair, measured on held-out books."""

    what: str  # what it changed
    teacher_nll: float  # nats per token of the held-out text
    agreement_by_slot: list[float]
    agreement_block: float
    interval: list[float] | None  # (K + 1,) half widths of the 95 % intervals, the block's last; None: not stored


def progress_figure(run: Sequence[Progress], blind: Blind, theme: Theme = "light") -> go.Figure:
    """Loss and agreement of each slot over the steps of one student, side by side."""
    palette, first, last = colours(theme), run[0], run[-1]
    figure = blank(
        palette,
        f"In {last.step} steps slot 1 goes from {first.agreement[0]:.0%} to {last.agreement[0]:.0%} exact tokens; a "
        f"student that knew the teacher's distribution and never read its noise would have {blind.share:.0%}",
        "A point: the student after so many steps, on held-out text. Left: its loss on the exact tokens; the noise "
        "determines them, so 0 is the exact map. Right: how often its token is the exact one, with 95 % intervals. "
        "Dotted: slot 1 if the distribution is known and the noise not read.",
    )
    steps = [point.step for point in run]
    for n, (across, title, baseline) in enumerate(
        (((0, 0.46), "loss (nats per slot)", blind.nats), ((0.56, 1), "exact tokens (%)", 100 * blind.share))
    ):
        y_axis = {"title": titled(title), "rangemode": "tozero"}
        axes = add_panel(figure, n, across, {"title": titled("steps")}, y_axis)
        place = {"x0": 0, "x1": 1, "y0": baseline, "y1": baseline}
        figure.add_shape(type="line", xref=f"{axes['xaxis']} domain", yref=axes["yaxis"], line=dotted(palette), **place)
        for slot in range(len(last.losses)):
            values = [(100 * point.agreement[slot] if n else point.losses[slot]) for point in run]
            halves = [point.agreement_interval[slot] for point in run]
            add_series(
                figure,
                palette,
                slot,
                steps,
                values,
                error_y=half_widths(halves, palette.series(slot), 100) if n else None,
                name=f"slot {slot + 1}",
                showlegend=not n,
                hovertemplate=f"slot {slot + 1}, step %{{x}}: %{{y:.1f}}<extra></extra>",
                **axes,
            )
    return figure


def legs_figure(legs: Sequence[Leg], theme: Theme = "light") -> go.Figure:
    """The loss of each slot over all steps of a long training, with its runs (legs) marked."""
    palette, steps, end = colours(theme), legs[-1].steps[-1], legs[-1].losses[-1]
    figure = blank(
        palette,
        f"Over {steps:,} steps slot 1 fell to {end[0]:.1f} nats, slot {len(end)} to {end[-1]:.1f}",
        "A line: the training loss of one slot, smoothed. A dotted line starts a run, named above. Where the learning "
        "rate rises again, the loss rises with it; where a run ends in a drop, the rate fell to 0.",
    )
    for slot in range(len(end)):
        figure.add_scatter(
            x=[step for leg in legs for step in leg.steps],
            y=[losses[slot] for leg in legs for losses in leg.losses],
            mode="lines",
            line={"color": palette.series(slot), "width": 2},
            name=f"slot {slot + 1}",
            hovertemplate=f"slot {slot + 1}, step %{{x:,}}: %{{y:.2f}} nats<extra></extra>",
        )
    for leg in legs:
        figure.add_vline(leg.steps[0], line=dotted(palette))
        figure.add_annotation(
            x=leg.steps[0],
            y=1,
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            text=leg.name,
            showarrow=False,
            textangle=-20,
            font={"color": palette.muted, "size": 12},
        )
    figure.update_layout(margin={"t": figure.layout.margin.t + 50}, height=figure.layout.height + 50)
    figure.update_xaxes(title=titled("steps of four contexts, all runs"))
    return figure.update_yaxes(title=titled("loss (nats per slot)"), rangemode="tozero")


def versions_figure(found: Sequence[Version], theme: Theme = "light") -> go.Figure:
    """Agreement by slot and block of each version, beside the published pair's."""
    palette, first, last = colours(theme), found[0], found[-1]
    figure = blank(
        palette,
        f"The bundled student went from {first.agreement_by_slot[0]:.0%} to {last.agreement_by_slot[0]:.0%} exact in "
        f"slot 1, from {first.agreement_by_slot[-1]:.0%} to {last.agreement_by_slot[-1]:.0%} in slot "
        f"{len(last.agreement_by_slot)}, and from {first.agreement_block:.1%} to {last.agreement_block:.1%} of blocks",
        "A bar: fraction of noise vectors on held-out books whose token is exact, with 95 % intervals where they were "
        "stored. Marks: the published LM1B pair. It has another text and a vocabulary sixty times as large, so being "
        "above or below it is no merit by itself; the same holds between versions of other teachers.",
    )
    names = [*(f"slot {j + 1}" for j in range(len(last.agreement_by_slot))), "block"]
    for n, version in enumerate(found):
        figure.add_bar(
            x=names,
            y=[100 * share for share in (*version.agreement_by_slot, version.agreement_block)],
            error_y=half_widths(version.interval, palette.ink, 100) if version.interval else None,
            marker={"color": palette.series(n), "line": {"width": 0}},
            name=version.what,
            hovertemplate="%{x}: %{y:.1f} %<extra>" + version.what + "</extra>",
        )
    figure.add_scatter(
        x=names,
        y=PUBLISHED_AGREEMENT,
        mode="markers",
        marker={"symbol": "line-ew", "size": 44, "line": {"width": 3, "color": palette.differ}},
        name="published LM1B pair",
        hovertemplate="published, %{x}: %{y:.1f} %<extra></extra>",
    )
    figure.update_layout(barmode="group", bargap=0.3)
    figure.update_xaxes(showgrid=False)
    return figure.update_yaxes(title=titled("exact tokens (%)"), rangemode="tozero")


def arms_figure(rows: Sequence[Mapping[str, Any]], theme: Theme = "light", blind: float | None = None) -> go.Figure:
    """Agreement in slot 1 of every arm of an ablation, one mark per seed.

    Args:
        rows: `arm`, `what`, `seed`, `agreement_by_slot` and its intervals, as `analysis.ablation` writes them.
        theme: light or dark.
        blind: Agreement of the baseline that never reads its noise; see `Blind`.
    """
    palette = colours(theme)
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["what"], []).append(100 * row["agreement_by_slot"][0])
    means = {what: sum(own) / len(own) for what, own in values.items()}
    names = sorted(means, key=means.__getitem__, reverse=True)
    finding = f"{means[names[0]]:.0f} % ({names[0]}) to {means[names[-1]]:.0f} % ({names[-1]})"
    if blind is not None:
        finding += f"; knowing the teacher's distribution without reading the noise would give {blind:.0%}"
    figure = blank(
        palette,
        f"At equal compute slot 1 is exact for {finding}",
        "A mark: one seed, with its 95 % interval over text windows; variants are ordered by their mean over seeds, "
        "and one seed does not separate a variant from its neighbors. All have the same budget of token passes, "
        "targets included. Dotted: the distribution known, the noise not read.",
    )
    if blind is not None:
        figure.add_vline(100 * blind, line=dotted(palette))
    figure.add_scatter(
        x=[100 * row["agreement_by_slot"][0] for row in rows],
        y=[row["what"] for row in rows],
        error_x=half_widths([row["agreement_by_slot_interval"][0] for row in rows], palette.learned, 100),
        mode="markers",
        marker={"size": 10, "color": palette.learned},
        customdata=[[row["arm"], row["seed"]] for row in rows],
        hovertemplate="%{customdata[0]}, seed %{customdata[1]}: %{x:.1f} %<extra></extra>",
    )
    figure.update_xaxes(title=titled("exact tokens of slot 1 (%)"), rangemode="tozero")
    figure.update_yaxes(type="category", categoryarray=names, autorange="reversed", showgrid=False)
    aside = {"xref": "container", "x": 0.012}  # beside the arms' names there is too little room
    return figure.update_layout(height=figure.layout.margin.t + 110 + 30 * len(names), title=aside)


def students_figure(students: Sequence[Mapping[str, Any]], theme: Theme = "light") -> go.Figure:
    """Agreement of slot 1 and of whole blocks against the teacher's entropy per token; see `analysis.entropy`."""
    look = colours(theme)
    ends = sorted(students, key=lambda each: each["entropy"])
    first, last = ends[0], ends[-1]
    figure = blank(
        look,
        f"A block of four is right on {first['agreement_by_length'][3]:.0%} at {first['entropy']:.1f} nats per token, "
        f"on {last['agreement_by_length'][3]:.0%} at {last['entropy']:.1f}",
        "Small students, equal budgets. Bars: 95 % intervals. Diamonds: the published LM1B pair.",
    )
    styles = {1: ("slot 1", "solid"), 4: ("block of 4", "dash"), 8: ("block of 8", "dot")}
    for language, symbol, colour in (("stories", "circle", look.exact), ("tales", "square", look.learned)):
        own = [row for row in ends if row["language"] == language]
        for length, (name, dash) in styles.items():
            figure.add_scatter(
                x=[row["entropy"] for row in own],
                y=[100 * row["agreement_by_length"][length - 1] for row in own],
                error_y={"array": [100 * row["agreement_by_length_interval"][length - 1] for row in own]},
                name=f"{language}, {name}",
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                marker={"symbol": symbol, "size": 8},
            )
    figure.add_scatter(
        x=[PUBLISHED_ENTROPY] * 2,
        y=[PUBLISHED_AGREEMENT[0], PUBLISHED_AGREEMENT[-1]],
        text=["slot 1", "block of 4"],
        name="published",
        mode="markers+text",
        textposition="middle left",
        marker={"symbol": "diamond-open", "size": 11, "color": look.ink},
    )
    figure.update_xaxes(title=titled("teacher's entropy per token (nats)"), rangemode="tozero")
    return figure.update_yaxes(title=titled("equal to the exact map (%)"), range=[0, 102])
