"""Figures of `kfexplore eval`: agreement by slot, agreement against entropy, quality against variety of samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import plotly.graph_objects as go

from kfexplore.figures.page import THEMES, blank, half_widths, page, titled, whiskers, write
from kfexplore.figures.palette import Theme, colours
from kfexplore.results import PUBLISHED_AGREEMENT, Agreement, Bin, Evaluation, SampleQuality

_SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "hexagon")
_MARK: Final = 0.6
"""Thickness of a published pair's mark, in points of per cent."""
_FEWEST_DRAWN: Final = 10
"""A bin of fewer blocks is left out of the figure; its interval would fill it."""


def agreement_figure(measured: Agreement, theme: Theme = "light") -> go.Figure:
    """Bars of agreement by slot and block, with intervals, and marks of the published pair."""
    look, shares = colours(theme), measured.agreement_by_slot
    names = [f"slot {j + 1}" for j in range(len(shares))]
    figure = blank(
        look,
        f"The student gives the exact token on {shares[0]:.1%} of noise vectors in slot 1, "
        f"on {shares[-1]:.1%} in slot {len(shares)}; all {len(shares)} on {measured.agreement_block:.1%}",
        f"Bars: share of {measured.blocks:,} noise vectors on which student and teacher agree, with its 95 % interval. "
        "Marks: the published LM1B pair, which has another text and vocabulary.",
    )
    figure.add_bar(
        x=[*names, "block"],
        y=[*(100 * share for share in shares), 100 * measured.agreement_block],
        error_y=half_widths([*measured.agreement_by_slot_interval, measured.agreement_block_interval], look.ink, 100),
        marker={"color": [look.learned] * len(shares) + [look.muted], "line": {"width": 0}},
        width=0.55,
        name="this pair",
        hovertemplate="%{x}: %{y:.1f} %<extra></extra>",
    )
    slots = len(PUBLISHED_AGREEMENT) - 1
    published = PUBLISHED_AGREEMENT[: len(shares) + (len(shares) == slots)]  # its block is of four
    figure.add_bar(
        x=[*names, "block"][: len(published)],
        y=[_MARK] * len(published),
        base=[share - _MARK / 2 for share in published],
        marker={"color": look.differ, "line": {"width": 0}},
        width=0.75,
        name="published LM1B pair",
        customdata=published,
        hovertemplate="published, %{x}: %{customdata:.1f} %<extra></extra>",
    )
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(title=titled("exact tokens (%)"), rangemode="tozero")
    return figure


def entropy_figure(measured: Agreement, theme: Theme = "light") -> go.Figure:
    """Lines of each slot's agreement over the entropy of the teacher's law at the block's start."""
    look = colours(theme)
    drawn = [[b for b in bins if b.blocks >= _FEWEST_DRAWN] for bins in measured.agreement_by_entropy]
    figure = blank(
        look,
        _entropy_finding(drawn[0]),
        "A point: the noise vectors on which the teacher's law before the block has an entropy within half a nat of "
        "it; bars are 95 % intervals. Slots are drawn slightly apart.",
    )
    for j, bins in enumerate(drawn):
        colour = look.lines[(8 + 5 * j) % len(look.lines)]
        figure.add_scatter(
            x=[(b.low + b.high) / 2 + 0.04 * (j - (len(drawn) - 1) / 2) for b in bins],
            y=[100 * b.share.value for b in bins],
            error_y=whiskers([b.share for b in bins], colour, 100),
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"symbol": _SYMBOLS[j % len(_SYMBOLS)], "size": 9},
            name=f"slot {j + 1}",
            customdata=[[b.low, b.high, b.blocks] for b in bins],
            hovertemplate="%{y:.1f} % of %{customdata[2]} between %{customdata[0]:.0f} and %{customdata[1]:.0f} nats",
        )
    figure.update_xaxes(title=titled("entropy of the teacher's law (nats)"), rangemode="tozero", dtick=1)
    figure.update_yaxes(title=titled("exact tokens (%)"), rangemode="tozero")
    return figure


def quality_figure(rows: Sequence[SampleQuality], theme: Theme = "light") -> go.Figure:
    """Every decoder's loss under the teacher against distinct-2, anchored by its own samples (the first row)."""
    look, anchor = colours(theme), rows[0]
    plain = max((row for row in rows[1:] if not row.penalty and row.dither is None), key=lambda row: row.k)
    figure = blank(
        look,
        _quality_finding(anchor, plain),
        "Each mark: mean over samples with 95 % intervals. The aim is the teacher's own mark, where the dotted lines "
        "cross: neither lower loss nor more variety is better by itself.",
    )
    figure.add_hline(anchor.teacher_nll.value, line={"color": look.muted, "dash": "dot", "width": 1})
    figure.add_vline(100 * anchor.distinct_2.value, line={"color": look.muted, "dash": "dot", "width": 1})
    middle = (min(r.distinct_2.value for r in rows) + max(r.distinct_2.value for r in rows)) / 2
    for n, row in enumerate(rows):
        other = bool(row.penalty) or row.dither is not None
        colour = look.exact if n == 0 else look.differ if other else look.learned
        figure.add_scatter(
            x=[100 * row.distinct_2.value],
            y=[row.teacher_nll.value],
            error_x=whiskers([row.distinct_2], colour, 100),
            error_y=whiskers([row.teacher_nll], colour),
            mode="markers+text",
            marker={"symbol": "diamond" if n == 0 else "square" if other else "circle", "size": 11, "color": colour},
            text="teacher (AR)" if n == 0 else row.decoder,
            textposition="top left" if row.distinct_2.value > middle else "top right",
            textfont={"color": colour, "size": 13},
            cliponaxis=False,
            name=row.decoder,
            hovertemplate="distinct-2 %{x:.1f} %, %{y:.2f} nats a token",
            showlegend=False,
        )
    figure.update_xaxes(title=titled("distinct-2 within a sample (%)"))
    figure.update_yaxes(title=titled("teacher's loss (nats a token)"))
    return figure


def evaluation_page(measured: Evaluation) -> str:
    """All three figures as one HTML page that needs nothing else; light or dark as the reader's system is."""
    drawn: list[dict[Theme, go.Figure]] = [
        {theme: agreement_figure(measured.agreement, theme) for theme in THEMES},
        {theme: entropy_figure(measured.agreement, theme) for theme in THEMES},
        {theme: quality_figure(measured.samples, theme) for theme in THEMES},
    ]
    settings = ", ".join(f"{name} {value}" for name, value in measured.settings.items() if value is not None)
    foot = (
        f"Pair {measured.pair} on {measured.text}; {settings}; {measured.device}, {measured.dtype}, "
        f"torch {measured.versions.get('torch', '')}."
    )
    return page(drawn, f"kfexplore: {measured.pair}", foot)


def write_page(measured: Evaluation, folder: Path) -> Path:
    """Writes evaluation.html into a folder, which is made.

    Raises:
        KfError: the folder cannot be written.
    """
    return write(evaluation_page(measured), folder / "evaluation.html")


def _entropy_finding(bins: list[Bin]) -> str:
    if len(bins) < 2:
        return "Agreement by the entropy of the teacher's law"
    low, high = bins[0], bins[-1]
    sure = f"between {low.low:.0f} and {low.high:.0f} nats" if low.low else f"below {low.high:.0f} nat"
    return (
        f"Slot 1 is exact on {low.share.value:.0%} of noise vectors where the teacher's entropy is {sure}, "
        f"on {high.share.value:.0%} above {high.low:.0f} nats"
    )


def _quality_finding(anchor: SampleQuality, plain: SampleQuality) -> str:
    return (
        f"At K = {plain.k} a sample costs the teacher {plain.teacher_nll.value:.2f} nats a token, its own samples "
        f"{anchor.teacher_nll.value:.2f}; distinct-2 is {plain.distinct_2.value:.0%}, where its own have "
        f"{anchor.distinct_2.value:.0%}"
    )
