"""Figures of `kfexplore train curves` (losses by stage) and `kfexplore eval` (agreement by slot and by entropy, quality
against diversity of samples).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import plotly.graph_objects as go

from kfexplore.figures.page import add_series, blank, dotted, half_widths, page, themed, titled, whiskers
from kfexplore.figures.palette import Theme, colours
from kfexplore.results import PUBLISHED_AGREEMENT, Agreement, Bin, Evaluation, SampleQuality

Curve = Sequence[Mapping[str, float]]
"""Points of losses.jsonl: `step`, `loss` (nats; for a student also `loss_1` .. by slot) and `tokens_per_second`."""
_MARK: Final = 0.6
"""Thickness of a published pair's mark, in percentage points."""
_FEWEST_DRAWN: Final = 10
"""Bins with fewer blocks are left out of the figure: their intervals would fill it."""


def curves_figure(curves: Mapping[str, Curve], theme: Theme = "light") -> go.Figure:
    """One line per stage: the mean loss of each 50 steps, by stage name. Stages without points are left out."""
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
    """The losses of a student's slots, in words; empty for other models."""
    losses = [point[name] for n in range(1, len(point)) if (name := f"loss_{n}") in point]
    return f" (by slot {' / '.join(f'{loss:.2f}' for loss in losses)})" if losses else ""


def curves_page(curves: Mapping[str, Curve], run: str) -> str:
    """The figure as one HTML page; `run` names the work folder."""
    return page(themed(lambda theme: {"curves": curves_figure(curves, theme)}), f"kfexplore: training of {run}", run)


def agreement_figure(measured: Agreement, theme: Theme = "light") -> go.Figure:
    """Bars of agreement by slot and block, with intervals, and marks of the published pair."""
    palette, shares = colours(theme), measured.agreement_by_slot
    names = [*(f"slot {j + 1}" for j in range(len(shares))), "block"]
    figure = blank(
        palette,
        f"The student gives the exact token for {shares[0]:.1%} of noise vectors in slot 1, "
        f"for {shares[-1]:.1%} in slot {len(shares)}; all {len(shares)} for {measured.agreement_block:.1%}",
        f"Bars: fraction of {measured.blocks:,} noise vectors for which student and teacher agree, with its 95 % "
        "interval. Marks: the published LM1B pair, which has another text and vocabulary.",
    )
    figure.add_bar(
        x=names,
        y=[100 * share for share in (*shares, measured.agreement_block)],
        error_y=half_widths(
            [*measured.agreement_by_slot_interval, measured.agreement_block_interval], palette.ink, 100
        ),
        marker={"color": [palette.learned] * len(shares) + [palette.muted], "line": {"width": 0}},
        width=0.55,
        name="this pair",
        hovertemplate="%{x}: %{y:.1f} %<extra></extra>",
    )
    its_slots = len(PUBLISHED_AGREEMENT) - 1
    published = PUBLISHED_AGREEMENT[: len(shares) + (len(shares) == its_slots)]  # only blocks of equal size compare
    figure.add_bar(
        x=names[: len(published)],
        y=[_MARK] * len(published),
        base=[share - _MARK / 2 for share in published],
        marker={"color": palette.differ, "line": {"width": 0}},
        width=0.75,
        name="published LM1B pair",
        customdata=published,
        hovertemplate="published, %{x}: %{customdata:.1f} %<extra></extra>",
    )
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(showgrid=False)
    return figure.update_yaxes(title=titled("exact tokens (%)"), rangemode="tozero")


def entropy_figure(slots: Sequence[Sequence[Bin]], theme: Theme = "light") -> go.Figure:
    """Lines of each slot's agreement over the teacher's entropy at the block's start, from `agreement_by_entropy`."""
    palette = colours(theme)
    drawn = [[b for b in bins if b.blocks >= _FEWEST_DRAWN] for bins in slots]
    figure = blank(
        palette,
        _entropy_finding(drawn[0]),
        "A point: the noise vectors for which the teacher's distribution before the block has an entropy within half a "
        "nat of it; bars are 95 % intervals. Slots are drawn slightly apart.",
    )
    for j, bins in enumerate(drawn):
        add_series(
            figure,
            palette,
            j,
            [(b.low + b.high) / 2 + 0.04 * (j - (len(drawn) - 1) / 2) for b in bins],
            [b.share for b in bins],
            scale=100,
            size=9,
            name=f"slot {j + 1}",
            customdata=[[b.low, b.high, b.blocks] for b in bins],
            hovertemplate="%{y:.1f} % of %{customdata[2]} between %{customdata[0]:.0f} and %{customdata[1]:.0f} nats",
        )
    figure.update_xaxes(title=titled("entropy of the teacher's distribution (nats)"), rangemode="tozero", dtick=1)
    return figure.update_yaxes(title=titled("exact tokens (%)"), rangemode="tozero")


def _entropy_finding(bins: list[Bin]) -> str:
    if len(bins) < 2:
        return "Agreement by the entropy of the teacher's distribution"
    low, high = bins[0], bins[-1]
    sure = f"between {low.low:.0f} and {low.high:.0f} nats" if low.low else f"below {low.high:.0f} nat"
    return (
        f"Slot 1 is exact for {low.share.value:.0%} of noise vectors where the teacher's entropy is {sure}, "
        f"for {high.share.value:.0%} above {high.low:.0f} nats"
    )


def quality_figure(rows: Sequence[SampleQuality], theme: Theme = "light") -> go.Figure:
    """Every decoder's loss under the teacher against distinct-2, anchored by its own samples (the first row)."""
    palette, anchor = colours(theme), rows[0]
    plain = max((row for row in rows[1:] if not row.penalty and row.dither is None), key=lambda row: row.k)
    figure = blank(
        palette,
        f"At K = {plain.k} samples have {plain.teacher_nll.value:.2f} nats per token under the teacher, its own "
        f"samples {anchor.teacher_nll.value:.2f}; distinct-2 is {plain.distinct_2.value:.0%}, that of the teacher's "
        f"own {anchor.distinct_2.value:.0%}",
        "Each mark: mean over samples with 95 % intervals. The target is the teacher's own mark, where the dotted "
        "lines cross: neither lower loss nor more diversity is better by itself.",
    )
    figure.add_hline(anchor.teacher_nll.value, line=dotted(palette))
    figure.add_vline(100 * anchor.distinct_2.value, line=dotted(palette))
    middle = (min(r.distinct_2.value for r in rows) + max(r.distinct_2.value for r in rows)) / 2
    for n, row in enumerate(rows):
        other = bool(row.penalty) or row.dither is not None
        colour = palette.exact if n == 0 else palette.differ if other else palette.learned
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
            hovertemplate="distinct-2 %{x:.1f} %, %{y:.2f} nats per token",
            showlegend=False,
        )
    figure.update_xaxes(title=titled("distinct-2 within a sample (%)"))
    return figure.update_yaxes(title=titled("teacher's loss (nats per token)"))


def evaluation_page(measured: Evaluation) -> str:
    """All three figures as one self-contained HTML page, light or dark as the reader's system."""

    def draw(theme: Theme) -> dict[str, go.Figure]:
        return {
            "agreement": agreement_figure(measured.agreement, theme),
            "entropy": entropy_figure(measured.agreement.agreement_by_entropy, theme),
            "quality": quality_figure(measured.samples, theme),
        }

    settings = ", ".join(f"{name} {value}" for name, value in measured.settings.items() if value is not None)
    foot = (
        f"Pair {measured.pair} on {measured.text}; {settings}; {measured.device}, {measured.dtype}, "
        f"torch {measured.versions.get('torch', '')}."
    )
    return page(themed(draw), f"kfexplore: {measured.pair}", foot)
