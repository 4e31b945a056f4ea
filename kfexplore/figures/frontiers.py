"""Figures of what decoders write after the same prompts: loss against variety, perplexity, slots, where texts part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import plotly.graph_objects as go

from kfexplore.figures.page import blank, log_axis, whiskers
from kfexplore.figures.palette import Theme, colours
from kfexplore.figures.squares import titled
from kfexplore.results import SampleQuality
from kfexplore.results.frontiers import Frontier, Leading, SlotLosses, Survival

_SYMBOLS: Final = ("diamond", "circle", "square", "triangle-up", "x", "cross")
_DASHES: Final = ("solid", "solid", "dash", "dot", "dashdot", "longdash")
_LABELLED: Final = 3
"""Lines whose marks are named; those of more would lie on each other."""


def frontier_figure(frontiers: Sequence[Frontier], theme: Theme = "light") -> go.Figure:
    """Teacher's loss against unigram entropy, a line a setting: first the teacher's own, then the student's over K."""
    look, own = colours(theme), _own(frontiers[0].rows)
    plain = max(frontiers[1].rows, key=lambda row: row.k)
    near = min(frontiers[0].rows, key=lambda row: abs(row.entropy.value - plain.entropy.value))
    figure = blank(
        look,
        f"K = {plain.k} writes at an entropy of {plain.entropy.value:.2f} nats and costs the teacher "
        f"{plain.teacher_nll.value:.2f} a token; its own samples of nearest entropy ({near.entropy.value:.2f}, tau "
        f"{near.tau:g}) cost {near.teacher_nll.value:.2f}",
        "A mark: mean over samples with 95 % intervals; a line: one setting varied. The aim is the teacher's own mark "
        "at tau 1, where the dotted lines cross: neither less loss nor more entropy is better by itself. The height "
        "above the teacher's line is what the student loses.",
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
    ranked = sorted(rows, key=_perplexity, reverse=True)
    best, better = ranked[-1], sum(_perplexity(row) < _perplexity(own) for row in rows)
    figure = blank(
        look,
        f"By perplexity alone {best.decoder} wins with {_perplexity(best):,.1f} where the teacher's own samples have "
        f"{_perplexity(own):,.1f}; but its samples are more alike, self-BLEU {best.self_bleu.value:.2f} against "
        f"{own.self_bleu.value:.2f}",
        f"A row: one decoder, lowest perplexity on top. {better} of {len(rows)} lie below the teacher's own (dotted), "
        "whose law they are to sample: they leave out what is unlikely. Right: self-BLEU of a sample against the "
        "others; high is all alike, low is varied or disjointed. The aim is the dotted line.",
    )
    exact = [row.decoder.startswith("AR") for row in ranked]
    panels = (
        ("x", [_perplexity(row) for row in ranked], _perplexity(own), ",.1f"),
        ("x2", [row.self_bleu.value for row in ranked], own.self_bleu.value, ".2f"),
    )
    for axis, values, aim, shape in panels:
        figure.add_scatter(
            x=values,
            y=[row.decoder for row in ranked],
            xaxis=axis,
            mode="markers+text",
            marker={
                "symbol": ["diamond" if teacher else "circle" for teacher in exact],
                "color": [look.exact if teacher else look.learned for teacher in exact],
                "size": 10,
            },
            text=[format(value, shape) for value in values],
            textposition="middle right",
            textfont={"color": look.muted, "size": 12},
            cliponaxis=False,
            showlegend=False,
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
        figure.add_shape(
            type="line",
            xref=axis,
            yref="paper",
            x0=aim,
            x1=aim,
            y0=0,
            y1=1,
            line={"color": look.muted, "dash": "dot", "width": 1},
        )
    judge = "another model" if own.gen_ppl is not None else "the teacher"
    ends = [_perplexity(row) for row in (best, ranked[0])]
    first = {**log_axis(ends[0] / 1.3, 1.3 * ends[1]), "domain": [0, 0.55]}
    second = {**figure.layout.xaxis.to_plotly_json(), "domain": [0.64, 0.97], "rangemode": "tozero"}
    return figure.update_layout(
        height=figure.layout.height + 12 * len(rows),
        xaxis={**first, "title": titled(f"perplexity under {judge}, logarithmic")},
        xaxis2={**second, "title": titled("self-BLEU")},
        yaxis={"showgrid": False, "dtick": 1},
    )


def survival_figure(found: Sequence[Survival], theme: Theme = "light") -> go.Figure:
    """Share of samples that are still the teacher's own after so many tokens, a line a decoder."""
    look, last = colours(theme), found[-1]
    at = min(last.k, len(last.shares)) - 1
    whole, block = (each.shares[at] for each in (found[0], last))
    figure = blank(
        look,
        f"After {at + 1} tokens from the same noise {block:.0%} of the texts are still the teacher's with "
        f"{last.decoder}, {whole:.0%} with {found[0].decoder}",
        "A line: share of samples whose tokens so far are all those that the teacher writes from the same noise. The "
        "exact map would stay at 100 %. The scale is logarithmic.",
    )
    for n, each in enumerate(found):
        colour = look.lines[(8 + 5 * n) % len(look.lines)]
        known = [(at + 1, share) for at, share in enumerate(each.shares.tolist()) if share > 0]
        figure.add_scatter(
            x=[at for at, _ in known],
            y=[100 * share for _, share in known],
            mode="lines+markers",
            line={"color": colour, "width": 2, "shape": "hv"},
            marker={"symbol": _SYMBOLS[n % len(_SYMBOLS)], "size": 7},
            name=each.decoder,
            hovertemplate="%{y:.1f} % are the same after %{x} tokens<extra>" + each.decoder + "</extra>",
        )
    figure.update_xaxes(title=titled("new tokens"))
    return figure.update_yaxes(
        title=titled("samples that are still the teacher's (%)"), type="log", dtick=1, range=[-0.5, 2.05]
    )


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
    """Learned and exact blocks' loss, by how many first slots are exact."""
    look, first, last = colours(theme), groups[0], groups[-1]
    figure = blank(
        look,
        f"Where slot 1 is wrong ({first.share.value:.0%} of blocks) the learned block costs "
        f"{first.learned.value - first.exact.value:.1f} nats a token more than the exact one of the same noise; where "
        f"the first {last.slots} are right, {last.learned.value - last.exact.value:.1f}",
        "Pairs of bars: blocks of which just so many first slots are exact, their share below; the teacher's loss of "
        "the learned block and of the exact one under the same noise, with 95 % intervals over contexts.",
    )
    names = [f"{group.slots}<br>{group.share.value:.0%} of blocks" for group in groups]
    for name, colour, pattern, losses in (
        ("exact", look.exact, "", [group.exact for group in groups]),
        ("learned", look.learned, "/", [group.learned for group in groups]),
    ):
        figure.add_bar(
            x=names,
            y=[loss.value for loss in losses],
            error_y=whiskers(losses, look.muted),
            marker={"color": colour, "line": {"width": 0}, "pattern": {"shape": pattern, "fgcolor": look.surface}},
            name=name,
            hovertemplate="%{y:.2f} nats a token<extra>" + name + "</extra>",
        )
    figure.update_layout(barmode="group", bargap=0.35)
    figure.update_xaxes(title=titled("first slots that are exact"), showgrid=False)
    return figure.update_yaxes(title=titled("teacher's loss (nats a token)"), rangemode="tozero")


def _own(rows: Sequence[SampleQuality]) -> SampleQuality:
    """The teacher at temperature 1."""
    return next(row for row in rows if row.decoder == "AR")


def _perplexity(row: SampleQuality) -> float:
    return row.gen_ppl.value if row.gen_ppl is not None else math.exp(row.teacher_nll.value)
