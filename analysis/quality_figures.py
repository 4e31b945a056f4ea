"""Figures and results of decoders' samples after the same prompts under the same noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import plotly.graph_objects as go

from kfexplore.figures.page import add_series, axis_style, blank, dotted, log_axis, titled, whiskers
from kfexplore.figures.palette import Theme, colours
from kfexplore.results import Estimate, SampleQuality

_SYMBOLS: Final = ("diamond", "circle", "square", "triangle-up", "x", "cross")
_DASHES: Final = ("solid", "solid", "dash", "dot", "dashdot", "longdash")
_LABELLED: Final = 3
"""Maximum number of lines with labelled marks; more labels would overlap."""


@dataclass(frozen=True)
class Frontier:
    """Decoders that differ in one setting."""

    what: str  # which decoder, and over which setting: "AR over temperature"
    values: list[str]  # (n,) the setting of each, in words
    rows: list[SampleQuality]  # (n,) in the order of the setting


@dataclass(frozen=True)
class AtVariety:
    """A decoder beside the teacher at the temperature that gives samples of the same unigram entropy."""

    row: SampleQuality
    tau: float | None  # that temperature; None: outside the temperatures tried
    loss: float | None  # the teacher's loss there, nats per token, interpolated
    lost: Estimate | None  # the decoder's loss minus that; the interval includes those of its loss and its entropy


@dataclass(frozen=True)
class ByPosition:
    """Estimates of one decoder for consecutive tokens."""

    decoder: str
    k: int
    values: list[Estimate]


@dataclass(frozen=True)
class Leading:
    """The blocks in which exactly the first `slots` tokens are exact."""

    slots: int
    share: Estimate  # fraction of all blocks
    excess: list[Estimate]  # (K,) the teacher's loss on the learned token minus that on the exact one, nats


def frontier_figure(frontiers: Sequence[Frontier], beside: Sequence[AtVariety], theme: Theme = "light") -> go.Figure:
    """Teacher's loss against unigram entropy, one line per setting.

    Args:
        frontiers: First the teacher's own over temperature.
        beside: Decoders beside the teacher at their entropy; the title states the last.
        theme: light or dark.
    """
    palette, own, last = colours(theme), _own(frontiers[0].rows), beside[-1]
    finding = f"Samples of {last.row.decoder} have a loss of {last.row.teacher_nll.value:.2f} nats per token"
    if last.loss is not None:
        finding += (
            f", the teacher's own of the same entropy ({last.row.entropy.value:.2f} nats, tau {last.tau:.2f}) "
            f"{last.loss:.2f}"
        )
    figure = blank(
        palette,
        f"{finding}, the teacher's at tau 1 {own.teacher_nll.value:.2f}",
        "A mark: mean over samples with 95 % intervals; a line: one setting varied. The target is the teacher's own "
        "mark at tau 1, where the dotted lines cross: neither lower loss nor higher entropy is better by itself. The "
        "height above the teacher's line is the excess loss at that entropy.",
    )
    figure.add_hline(own.teacher_nll.value, line=dotted(palette))
    figure.add_vline(own.entropy.value, line=dotted(palette))
    for n, frontier in enumerate(frontiers):
        colour = palette.exact if n == 0 else palette.series(n - 1)
        figure.add_scatter(
            x=[row.entropy.value for row in frontier.rows],
            y=[row.teacher_nll.value for row in frontier.rows],
            error_x=whiskers([row.entropy for row in frontier.rows], colour),
            error_y=whiskers([row.teacher_nll for row in frontier.rows], colour),
            mode="lines+markers+text",
            line={"color": colour, "width": 2, "dash": _DASHES[n % len(_DASHES)]},
            marker={"symbol": _SYMBOLS[n % len(_SYMBOLS)], "size": 10, "color": colour},
            text=frontier.values if n < _LABELLED else None,
            textposition="bottom right" if n == 0 else "top right",
            textfont={"color": colour, "size": 12},
            cliponaxis=False,
            name=frontier.what,
            customdata=[[v, 100 * r.distinct_2.value] for v, r in zip(frontier.values, frontier.rows, strict=True)],
            hovertemplate="%{customdata[0]}: entropy %{x:.2f}, loss %{y:.2f} nats per token, distinct-2 "
            "%{customdata[1]:.1f} %<extra>" + frontier.what + "</extra>",
        )
    figure.update_layout(height=figure.layout.height + 120)
    figure.update_xaxes(title=titled("unigram entropy within a sample (nats)"))
    return figure.update_yaxes(title=titled("teacher's loss (nats per token)"), rangemode="tozero")


def perplexity_figure(rows: Sequence[SampleQuality], theme: Theme = "light") -> go.Figure:
    """Decoders ranked by perplexity (under another model if measured), beside the similarity of their samples."""
    palette, own = colours(theme), _own(rows)
    ranked = sorted(rows, key=lambda row: _perplexity(row).value, reverse=True)
    exact = [row.decoder.startswith("AR") for row in ranked]
    best, aim = [row for row, teacher in zip(ranked, exact, strict=True) if not teacher][-1], _perplexity(own).value
    alike = "more" if best.self_bleu.value > own.self_bleu.value else "less"
    figure = blank(
        palette,
        f"{best.decoder} has a perplexity of {_perplexity(best).value:,.1f}, the teacher at temperature 1 {aim:,.1f}; "
        f"its samples are {alike} alike, self-BLEU {best.self_bleu.value:.2f} against {own.self_bleu.value:.2f}",
        "A row: one decoder, lowest perplexity on top, with 95 % intervals. All should sample the teacher's "
        "distribution, so the target is the dotted line, its own samples, not the top. Right: self-BLEU of a sample "
        "against the others; high means alike, low means varied or incoherent.",
    )
    judge = "another model" if own.gen_ppl is not None else "the teacher"
    ends = [_perplexity(row).value for row in (ranked[-1], ranked[0])]
    panels = (
        ("x", [_perplexity(row) for row in ranked], aim, ",.1f"),
        ("x2", [row.self_bleu for row in ranked], own.self_bleu.value, ".2f"),
    )
    for axis, estimates, reference, shape in panels:
        figure.add_scatter(
            x=[estimate.value for estimate in estimates],
            error_x=whiskers(estimates, palette.muted),
            y=[row.decoder for row in ranked],
            xaxis=axis,
            mode="markers+text",
            marker={
                "symbol": ["diamond" if teacher else "circle" for teacher in exact],
                "color": [palette.exact if teacher else palette.learned for teacher in exact],
                "size": 10,
            },
            text=[format(estimate.value, shape) for estimate in estimates],
            textposition="top center",
            textfont={"color": palette.muted, "size": 12},
            cliponaxis=False,
            showlegend=False,
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
        place = {"x0": reference, "x1": reference, "y0": 0, "y1": 1, "xref": axis, "yref": "paper"}
        figure.add_shape(type="line", line=dotted(palette), **place)
    first = {"domain": [0, 0.55], "title": titled(f"perplexity under {judge}, logarithmic")}
    second = {"domain": [0.64, 0.97], "rangemode": "tozero", "title": titled("self-BLEU")}
    return figure.update_layout(
        height=figure.layout.height + 18 * len(rows),
        xaxis={**log_axis(ends[0] / 1.3, 1.3 * ends[1]), **first},
        xaxis2={**axis_style(figure, "x"), **second},
        yaxis={"showgrid": False, "dtick": 1},
    )


def survival_figure(found: Sequence[ByPosition], theme: Theme = "light") -> go.Figure:
    """Fraction of samples that still equal the teacher's after n tokens, one line per decoder."""
    palette, first, last = colours(theme), found[0], found[-1]
    at = min(last.k, len(last.values)) - 1
    shown = min(2 * last.k, len(last.values))
    figure = blank(
        palette,
        f"From the same noise, {first.values[0].value:.0%} of the texts begin with the teacher's token; after {at + 1} "
        f"tokens, {last.values[at].value:.0%} still equal the teacher's with {last.decoder}, "
        f"{first.values[at].value:.0%} with {first.decoder}",
        "A line: fraction of samples whose tokens so far are all those that the teacher writes from the same noise, "
        "with 95 % intervals. The exact map would stay at 100 %.",
    )
    for n, each in enumerate(found):
        x = [token + 1 + 0.07 * (n - (len(found) - 1) / 2) for token in range(shown)]
        hover = "%{y:.1f} % are the same so far<extra>" + each.decoder + "</extra>"
        add_series(figure, palette, n, x, each.values[:shown], scale=100, name=each.decoder, hovertemplate=hover)
    figure.update_xaxes(title=titled("new tokens"), dtick=1)
    return figure.update_yaxes(title=titled("samples still equal to the teacher's (%)"), rangemode="tozero")


def slot_losses_figure(found: Sequence[ByPosition], theme: Theme = "light") -> go.Figure:
    """The teacher's excess loss on each slot over that on its own samples, one line per decoder."""
    palette, last = colours(theme), max(found, key=lambda each: each.k)
    figure = blank(
        palette,
        f"In blocks of {last.k}, the excess loss under the teacher is {last.values[0].value:+.2f} nats in slot 1 and "
        f"{last.values[-1].value:+.2f} in slot {last.k}",
        "A point: mean loss of the tokens of one slot minus that of the teacher's own sample from the same prompt, "
        "with its 95 % interval. The dotted line is the teacher. Slot 1 also follows the errors of earlier blocks.",
    )
    for n, each in enumerate(found):
        x = [slot + 1 + 0.03 * (n - (len(found) - 1) / 2) for slot in range(each.k)]
        hover = "%{y:+.2f} nats<extra>" + each.decoder + "</extra>"
        add_series(figure, palette, n, x, each.values, size=9, name=each.decoder, hovertemplate=hover)
    return _over_slots(figure, last.k, dotted(palette), "excess loss (nats per token)")


def leading_figure(groups: Sequence[Leading], theme: Theme = "light") -> go.Figure:
    """The teacher's excess loss on each slot over the exact token, one line per position of the first wrong slot."""
    palette, first, slots = colours(theme), groups[0], len(groups[0].excess)
    figure = blank(
        palette,
        f"Where slot 1 is wrong ({first.share.value:.0%} of blocks), its loss differs from the exact token's by "
        f"{first.excess[0].value:+.1f} nats, that of later slots by {first.excess[1].value:+.1f} to "
        f"{first.excess[-1].value:+.1f}",
        "A line: the blocks whose first wrong slot is the one where it starts; a point: loss of the learned token "
        "minus that of the exact one under the same noise, with 95 % intervals over contexts. Below the dotted line "
        "the learned token is the likelier one.",
    )
    for group in groups:
        if group.slots < slots:
            add_series(
                figure,
                palette,
                group.slots,
                [slot + 1 + 0.03 * (group.slots - (slots - 1) / 2) for slot in range(group.slots, slots)],
                group.excess[group.slots :],
                size=9,
                name=f"slot {group.slots + 1} is the first wrong one ({group.share.value:.0%})",
                hovertemplate="%{y:+.2f} nats<extra></extra>",
            )
    figure.update_layout(showlegend=True)
    return _over_slots(figure, slots, dotted(palette), "learned less exact token (nats)")


def _over_slots(figure: go.Figure, slots: int, line: dict[str, object], title: str) -> go.Figure:
    figure.add_hline(0, line=line)
    figure.update_xaxes(title=titled("slot of the block"), dtick=1, range=[0.7, slots + 0.3])
    return figure.update_yaxes(title=titled(title))


def _own(rows: Sequence[SampleQuality]) -> SampleQuality:
    """The teacher at temperature 1."""
    return next(row for row in rows if row.decoder == "AR")


def _perplexity(row: SampleQuality) -> Estimate:
    """Perplexity under another model if measured, else under the teacher."""
    loss = row.teacher_nll
    return row.gen_ppl or Estimate(math.exp(loss.value), math.exp(loss.low), math.exp(loss.high))
