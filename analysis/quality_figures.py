"""Figures of what decoders write after the same prompts: loss against variety, perplexity, slots, where texts part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import plotly.graph_objects as go

from kfexplore.figures.page import blank, log_axis, titled, whiskers
from kfexplore.figures.palette import Theme, colours
from kfexplore.results import Estimate, SampleQuality


@dataclass(frozen=True)
class Frontier:
    """Decoders that differ in one setting."""

    what: str
    """Which decoder, and over which setting: "AR over temperature"."""
    values: list[str]
    """(n,) the setting of each, in words."""
    rows: list[SampleQuality]
    """(n,) in the order of the setting."""


@dataclass(frozen=True)
class AtVariety:
    """A decoder beside the teacher at the temperature that gives samples of the same unigram entropy."""

    row: SampleQuality
    tau: float | None
    """That temperature; None: the teacher has no such variety at any that was tried."""
    loss: float | None
    """The teacher's loss there, nats a token, interpolated."""
    lost: Estimate | None
    """The decoder's loss less that; its interval takes in those of its loss and of its entropy."""


@dataclass(frozen=True)
class Survival:
    """How long a decoder's text stays the teacher's under the same noise."""

    decoder: str
    k: int
    shares: list[Estimate]
    """(n,) share of samples whose first 1 .. n tokens are all the teacher's."""


@dataclass(frozen=True)
class SlotLosses:
    """What the slots of a decoder's blocks cost the teacher beyond its own samples after the same prompts."""

    decoder: str
    k: int
    excess: list[Estimate]
    """(k,) nats a token."""


@dataclass(frozen=True)
class Leading:
    """The blocks of which just so many slots from the first on are exact."""

    slots: int
    share: Estimate
    """Of all blocks."""
    excess: list[Estimate]
    """(K,) by slot: the teacher's loss of the learned token less that of the exact one under the same noise, nats."""


_SYMBOLS: Final = ("diamond", "circle", "square", "triangle-up", "x", "cross")
_DASHES: Final = ("solid", "solid", "dash", "dot", "dashdot", "longdash")
_LABELLED: Final = 3
"""Lines whose marks are named; those of more would lie on each other."""


def frontier_figure(frontiers: Sequence[Frontier], beside: Sequence[AtVariety], theme: Theme = "light") -> go.Figure:
    """Teacher's loss against unigram entropy, a line a setting.

    Args:
        frontiers: First the teacher's own over temperature.
        beside: Decoders beside the teacher at their entropy; the title tells of the last.
        theme: Colours.
    """
    look, own, last = colours(theme), _own(frontiers[0].rows), beside[-1]
    finding = f"{last.row.decoder} costs the teacher {last.row.teacher_nll.value:.2f} nats a token"
    if last.loss is not None:
        finding += (
            f", its own samples of the same entropy ({last.row.entropy.value:.2f} nats, tau {last.tau:.2f}) "
            f"{last.loss:.2f}"
        )
    figure = blank(
        look,
        f"{finding}; its own at tau 1 cost {own.teacher_nll.value:.2f}",
        "A mark: mean over samples with 95 % intervals; a line: one setting varied. The aim is the teacher's own mark "
        "at tau 1, where the dotted lines cross: neither less loss nor more entropy is better by itself. The height "
        "above the teacher's line is what a decoder loses at its entropy.",
    )
    figure.add_hline(own.teacher_nll.value, line={"color": look.muted, "dash": "dot", "width": 1})
    figure.add_vline(own.entropy.value, line={"color": look.muted, "dash": "dot", "width": 1})
    for n, frontier in enumerate(frontiers):
        colour = look.exact if n == 0 else look.lines[(8 + 5 * (n - 1)) % len(look.lines)]
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
            hovertemplate="%{customdata[0]}: entropy %{x:.2f}, loss %{y:.2f} nats a token, distinct-2 "
            "%{customdata[1]:.1f} %<extra>" + frontier.what + "</extra>",
        )
    figure.update_layout(height=figure.layout.height + 120)
    figure.update_xaxes(title=titled("unigram entropy within a sample (nats)"))
    return figure.update_yaxes(title=titled("teacher's loss (nats a token)"), rangemode="tozero")


def perplexity_figure(rows: Sequence[SampleQuality], theme: Theme = "light") -> go.Figure:
    """Decoders ranked by perplexity (another model's where it was measured), beside how alike their samples are."""
    look, own = colours(theme), _own(rows)
    ranked = sorted(rows, key=lambda row: _perplexity(row).value, reverse=True)
    students = [row for row in ranked if not row.decoder.startswith("AR")]
    best, aim = students[-1], _perplexity(own).value
    alike = "more" if best.self_bleu.value > own.self_bleu.value else "less"
    figure = blank(
        look,
        f"{best.decoder} has a perplexity of {_perplexity(best).value:,.1f}, the teacher that it imitates {aim:,.1f}; "
        f"its samples are {alike} alike, self-BLEU {best.self_bleu.value:.2f} against {own.self_bleu.value:.2f}",
        "A row: one decoder, lowest perplexity on top, with 95 % intervals. All are to sample the teacher's law, so "
        "the aim is the dotted line, its own samples: not the top. Right: self-BLEU of a sample against the others; "
        "high is all alike, low is varied or disjointed.",
    )
    exact = [row.decoder.startswith("AR") for row in ranked]
    panels = (
        ("x", [_perplexity(row) for row in ranked], aim, ",.1f"),
        ("x2", [row.self_bleu for row in ranked], own.self_bleu.value, ".2f"),
    )
    for axis, estimates, dotted, shape in panels:
        figure.add_scatter(
            x=[estimate.value for estimate in estimates],
            error_x=whiskers(estimates, look.muted),
            y=[row.decoder for row in ranked],
            xaxis=axis,
            mode="markers+text",
            marker={
                "symbol": ["diamond" if teacher else "circle" for teacher in exact],
                "color": [look.exact if teacher else look.learned for teacher in exact],
                "size": 10,
            },
            text=[format(estimate.value, shape) for estimate in estimates],
            textposition="top center",
            textfont={"color": look.muted, "size": 12},
            cliponaxis=False,
            showlegend=False,
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
        figure.add_shape(
            type="line",
            xref=axis,
            yref="paper",
            x0=dotted,
            x1=dotted,
            y0=0,
            y1=1,
            line={"color": look.muted, "dash": "dot", "width": 1},
        )
    judge = "another model" if own.gen_ppl is not None else "the teacher"
    ends = [_perplexity(row).value for row in (ranked[-1], ranked[0])]
    first = {**log_axis(ends[0] / 1.3, 1.3 * ends[1]), "domain": [0, 0.55]}
    second = {**figure.layout.xaxis.to_plotly_json(), "domain": [0.64, 0.97], "rangemode": "tozero"}
    return figure.update_layout(
        height=figure.layout.height + 18 * len(rows),
        xaxis={**first, "title": titled(f"perplexity under {judge}, logarithmic")},
        xaxis2={**second, "title": titled("self-BLEU")},
        yaxis={"showgrid": False, "dtick": 1},
    )


def survival_figure(found: Sequence[Survival], theme: Theme = "light") -> go.Figure:
    """Share of samples that are still the teacher's own after so many tokens, a line a decoder."""
    look, first, last = colours(theme), found[0], found[-1]
    at = min(last.k, len(last.shares)) - 1
    shown = min(2 * last.k, len(last.shares))
    figure = blank(
        look,
        f"From the same noise {first.shares[0].value:.0%} of the texts begin with the teacher's token; after {at + 1} "
        f"tokens {last.shares[at].value:.0%} are still its own with {last.decoder}, {first.shares[at].value:.0%} with "
        f"{first.decoder}",
        "A line: share of samples whose tokens so far are all those that the teacher writes from the same noise, with "
        "95 % intervals. The exact map would stay at 100 %.",
    )
    for n, each in enumerate(found):
        colour = look.lines[(8 + 5 * n) % len(look.lines)]
        figure.add_scatter(
            x=[token + 1 + 0.07 * (n - (len(found) - 1) / 2) for token in range(shown)],
            y=[100 * share.value for share in each.shares[:shown]],
            error_y=whiskers(each.shares[:shown], colour, 100),
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"symbol": _SYMBOLS[n % len(_SYMBOLS)], "size": 8},
            name=each.decoder,
            hovertemplate="%{y:.1f} % are the same so far<extra>" + each.decoder + "</extra>",
        )
    figure.update_xaxes(title=titled("new tokens"), dtick=1)
    return figure.update_yaxes(title=titled("samples that are still the teacher's (%)"), rangemode="tozero")


def slot_losses_figure(found: Sequence[SlotLosses], theme: Theme = "light") -> go.Figure:
    """What each slot of a block costs the teacher beyond its own samples, a line a decoder."""
    look, last = colours(theme), max(found, key=lambda each: each.k)
    figure = blank(
        look,
        f"In blocks of {last.k} the words of slot 1 cost the teacher {last.excess[0].value:+.2f} nats against its own, "
        f"those of slot {last.k} {last.excess[-1].value:+.2f}",
        "A point: mean loss of the tokens of one slot, less that of the teacher's own sample after the same prompt, "
        "with its 95 % interval. The dotted line is the teacher. Slot 1 also reads what the block before it wrote.",
    )
    figure.add_hline(0, line={"color": look.muted, "dash": "dot", "width": 1})
    for n, each in enumerate(found):
        colour = look.lines[(8 + 5 * n) % len(look.lines)]
        figure.add_scatter(
            x=[slot + 1 + 0.03 * (n - (len(found) - 1) / 2) for slot in range(each.k)],
            y=[e.value for e in each.excess],
            error_y=whiskers(each.excess, colour),
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"symbol": _SYMBOLS[n % len(_SYMBOLS)], "size": 9},
            name=each.decoder,
            hovertemplate="%{y:+.2f} nats<extra>" + each.decoder + "</extra>",
        )
    figure.update_xaxes(title=titled("slot of the block"), dtick=1, range=[0.7, last.k + 0.3])
    return figure.update_yaxes(title=titled("loss beyond the teacher's own (nats a token)"))


def leading_figure(groups: Sequence[Leading], theme: Theme = "light") -> go.Figure:
    """What each slot costs beyond the exact token of the same noise, a line for each place of the first wrong slot."""
    look, first, slots = colours(theme), groups[0], len(groups[0].excess)
    wrong = [group for group in groups if group.slots < slots]
    figure = blank(
        look,
        f"Where slot 1 is wrong ({first.share.value:.0%} of blocks), it costs the teacher {first.excess[0].value:+.1f} "
        f"nats against the exact token, and the slots after it {first.excess[1].value:+.1f} to "
        f"{first.excess[-1].value:+.1f}",
        "A line: the blocks whose first wrong slot is the one where it begins; a point: the teacher's loss of the "
        "learned token less that of the exact one under the same noise, with 95 % intervals over contexts. Below the "
        "dotted line the learned token is the likelier one.",
    )
    figure.add_hline(0, line={"color": look.muted, "dash": "dot", "width": 1})
    for group in wrong:
        colour = look.lines[(8 + 5 * group.slots) % len(look.lines)]
        figure.add_scatter(
            x=[slot + 1 + 0.03 * (group.slots - (slots - 1) / 2) for slot in range(group.slots, slots)],
            y=[e.value for e in group.excess[group.slots :]],
            error_y=whiskers(group.excess[group.slots :], colour),
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"symbol": _SYMBOLS[group.slots % len(_SYMBOLS)], "size": 9},
            name=f"slot {group.slots + 1} is the first wrong one ({group.share.value:.0%})",
            hovertemplate="%{y:+.2f} nats<extra></extra>",
        )
    figure.update_layout(showlegend=True)
    figure.update_xaxes(title=titled("slot of the block"), dtick=1, range=[0.7, slots + 0.3])
    return figure.update_yaxes(title=titled("learned less exact token (nats)"))


def _own(rows: Sequence[SampleQuality]) -> SampleQuality:
    """The teacher at temperature 1."""
    return next(row for row in rows if row.decoder == "AR")


def _perplexity(row: SampleQuality) -> Estimate:
    """Under another model where it was measured, else under the teacher."""
    loss = row.teacher_nll
    return row.gen_ppl or Estimate(math.exp(loss.value), math.exp(loss.low), math.exp(loss.high))
