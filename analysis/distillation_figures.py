"""Figures of a distillation: a student as it learns, the legs of a long run, versions of a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import plotly.graph_objects as go

from kfexplore.figures.page import blank, half_widths, titled
from kfexplore.figures.palette import Colours, Theme, colours
from kfexplore.results import PUBLISHED_AGREEMENT


class Blind(NamedTuple):
    """Slot 1 of a student that knows the teacher's law and never reads its noise, on some text."""

    share: float
    """Of noise vectors on which it is exact: the mean of the law's largest probability."""
    nats: float
    """Its loss: the mean entropy of the law."""


@dataclass(frozen=True)
class Progress:
    """A student after so many steps."""

    step: int
    losses: list[float]
    """(K,) on the exact tokens, nats a slot; 0 would be the exact map."""
    agreement: list[float]
    """(K,) share of noise vectors on which the slot is exact."""
    agreement_interval: list[float]
    """(K,) half widths of the 95 % intervals, stretches of text taken as the independent units."""


@dataclass(frozen=True)
class Leg:
    """A stretch of a training run under one setting."""

    name: str
    """What was trained, in words."""
    steps: list[int]
    """(P,) counted over all legs."""
    losses: list[list[float]]
    """(P, K) of the training batches, nats a slot."""


@dataclass(frozen=True)
class Version:
    """A published state of the pair, measured on held-out books."""

    what: str
    """What was new in it."""
    teacher_nll: float
    """Nats a token of the held-out text."""
    agreement_by_slot: list[float]
    agreement_block: float
    interval: list[float] | None
    """(K + 1,) half widths of the 95 % intervals, the block's last; None: not kept."""


_SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")


def progress_figure(run: Sequence[Progress], blind: Blind, theme: Theme = "light") -> go.Figure:
    """Loss and agreement of each slot over the steps, side by side.

    Args:
        run: Of one student.
        blind: Slot 1 of a student that knows the teacher's law and never reads its noise, on the same text.
        theme: Colours.
    """
    look, first, last = colours(theme), run[0], run[-1]
    figure = blank(
        look,
        f"In {last.step} steps slot 1 goes from {first.agreement[0]:.0%} to {last.agreement[0]:.0%} exact tokens; a "
        f"student that knew the teacher's law and never read its noise would have {blind.share:.0%}",
        "A point: the student after so many steps, on text that it was not trained on. Left: its loss on the exact "
        "tokens, which the noise determines, so that 0 is the exact map. Right: how often its own token is the exact "
        "one, with 95 % intervals. Dotted: slot 1 if the law is known and the noise not read.",
    )
    dotted = {"line": {"color": look.muted, "dash": "dot", "width": 1}}
    for axis, value in (("", blind.nats), ("2", 100 * blind.share)):
        figure.add_shape(type="line", xref=f"x{axis} domain", yref=f"y{axis}", x0=0, x1=1, y0=value, y1=value, **dotted)
    for slot in range(len(last.losses)):
        for axis, values in (
            ("", [point.losses[slot] for point in run]),
            ("2", [100 * point.agreement[slot] for point in run]),
        ):
            figure.add_scatter(
                x=[point.step for point in run],
                y=values,
                xaxis=f"x{axis}",
                yaxis=f"y{axis}",
                error_y=half_widths([point.agreement_interval[slot] for point in run], _colour(look, slot), 100)
                if axis
                else None,
                showlegend=not axis,
                hovertemplate=f"slot {slot + 1}, step %{{x}}: %{{y:.1f}}<extra></extra>",
                **_line(look, slot),
            )
    second = {name: figure.layout[name].to_plotly_json() for name in ("xaxis", "yaxis")}
    return figure.update_layout(
        xaxis={"domain": [0, 0.46], "title": titled("steps")},
        yaxis={"title": titled("loss (nats a slot)"), "rangemode": "tozero"},
        xaxis2={**second["xaxis"], "domain": [0.56, 1], "title": titled("steps"), "anchor": "y2"},
        yaxis2={**second["yaxis"], "title": titled("exact tokens (%)"), "rangemode": "tozero", "anchor": "x2"},
    )


def legs_figure(legs: Sequence[Leg], theme: Theme = "light") -> go.Figure:
    """The loss of each slot over all steps of a long run, with its legs told apart."""
    look = colours(theme)
    steps, end = legs[-1].steps[-1], legs[-1].losses[-1]
    figure = blank(
        look,
        f"Over {steps:,} steps slot 1 fell to {end[0]:.1f} nats, slot {len(end)} to {end[-1]:.1f}",
        "A line: the loss of one slot on the batches of training, smoothed. A dotted line begins a leg, named above. "
        "Where the learning rate rises anew, the loss rises with it; where a leg ends in a drop, the rate fell to 0.",
    )
    for slot in range(len(end)):
        figure.add_scatter(
            x=[step for leg in legs for step in leg.steps],
            y=[losses[slot] for leg in legs for losses in leg.losses],
            mode="lines",
            line={"color": _colour(look, slot), "width": 2},
            name=f"slot {slot + 1}",
            hovertemplate=f"slot {slot + 1}, step %{{x:,}}: %{{y:.2f}} nats<extra></extra>",
        )
    for leg in legs:
        figure.add_vline(leg.steps[0], line={"color": look.muted, "dash": "dot", "width": 1})
        figure.add_annotation(
            x=leg.steps[0],
            y=1,
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            text=leg.name,
            showarrow=False,
            textangle=-20,
            font={"color": look.muted, "size": 12},
        )
    figure.update_layout(margin={"t": figure.layout.margin.t + 50}, height=figure.layout.height + 50)
    figure.update_xaxes(title=titled("steps of four contexts, all legs"))
    return figure.update_yaxes(title=titled("loss (nats a slot)"), rangemode="tozero")


def versions_figure(found: Sequence[Version], theme: Theme = "light") -> go.Figure:
    """Agreement by slot and block of each version, beside the published pair's."""
    look, first, last = colours(theme), found[0], found[-1]
    figure = blank(
        look,
        f"The bundled student went from {first.agreement_by_slot[0]:.0%} to {last.agreement_by_slot[0]:.0%} exact in "
        f"slot 1, from {first.agreement_by_slot[-1]:.0%} to {last.agreement_by_slot[-1]:.0%} in slot "
        f"{len(last.agreement_by_slot)}, and from {first.agreement_block:.1%} to {last.agreement_block:.1%} of blocks",
        "A bar: share of noise vectors on held-out books whose token is exact, with 95 % intervals where they were "
        "kept. Marks: the published LM1B pair. It has another text and a vocabulary sixty times as large, so that "
        "being above or below it is no merit by itself; the same holds between versions of other teachers.",
    )
    names = [*(f"slot {j + 1}" for j in range(len(last.agreement_by_slot))), "block"]
    for n, version in enumerate(found):
        figure.add_bar(
            x=names,
            y=[100 * share for share in (*version.agreement_by_slot, version.agreement_block)],
            error_y=half_widths(version.interval, look.ink, 100) if version.interval else None,
            marker={"color": look.lines[(8 + 5 * n) % len(look.lines)], "line": {"width": 0}},
            name=version.what,
            hovertemplate="%{x}: %{y:.1f} %<extra>" + version.what + "</extra>",
        )
    figure.add_scatter(
        x=names,
        y=PUBLISHED_AGREEMENT,
        mode="markers",
        marker={"symbol": "line-ew", "size": 44, "line": {"width": 3, "color": look.differ}},
        name="published LM1B pair",
        hovertemplate="published, %{x}: %{y:.1f} %<extra></extra>",
    )
    figure.update_layout(barmode="group", bargap=0.3)
    figure.update_xaxes(showgrid=False)
    return figure.update_yaxes(title=titled("exact tokens (%)"), rangemode="tozero")


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


def _colour(look: Colours, slot: int) -> str:
    return look.lines[(8 + 5 * slot) % len(look.lines)]


def _line(look: Colours, slot: int) -> dict[str, Any]:
    """How a slot looks in every figure here."""
    colour = _colour(look, slot)
    return {
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2},
        "marker": {"symbol": _SYMBOLS[slot % len(_SYMBOLS)], "size": 8, "color": colour},
        "name": f"slot {slot + 1}",
    }
