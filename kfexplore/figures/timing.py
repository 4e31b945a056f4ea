"""Figures of timings: tokens a second of each decoder, and the speed-up over AR; the page of a whole document."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import plotly.graph_objects as go

from kfexplore.config import from_dict
from kfexplore.decoders import DECODERS
from kfexplore.figures.page import blank, log_axis, page, themed, write
from kfexplore.figures.palette import Colours, Theme, colours, shades
from kfexplore.figures.roofline import LIMIT_NAME, WHAT_A_LIMIT_IS, gain_figure, gain_of
from kfexplore.figures.timing_words import (
    Series,
    chance_words,
    device_words,
    held_against_ar,
    over_ar,
    race_finding,
    series_of,
    speedup_finding,
)
from kfexplore.results import TimingRow

TITLE: Final = "kfexplore: throughput"
Race = tuple[int, str, int]
"""Batch, decoder and K."""
_PATTERNS: Final = {"ar": "", "pflm": "/", "mdlm": "-", "verified": "x", "jacobi": "."}
_SYMBOLS: Final = {"ar": "circle", "pflm": "circle", "mdlm": "diamond", "verified": "square", "jacobi": "triangle-up"}
_FILLED: Final = 0.84
"""Of the room between two batches."""
_SPARSE: Final = 0.2
_DENSE: Final = 0.6
"""How much of a bar the hatching of the smallest and of the largest K covers."""
_HUE: Final = 5
_CLEAR: Final = "rgba(0,0,0,0)"


def figure_height(races: Sequence[Race]) -> int:
    """Pixels in which a legend of all decoders and K leaves room for the bars, on narrow screens too."""
    return 340 + 12 * max(0, len({(decoder, k) for _, decoder, k in races}) - 3)


def race_figure(rows: Sequence[TimingRow], theme: Theme = "light", races: Sequence[Race] | None = None) -> go.Figure:
    """Bars of tokens a second, by batch and decoder, each with the mark of the device's limit.

    Args:
        rows: As many as there are.
        theme: Colours.
        races: All that are to come, so that every bar has its place from the beginning; None: those of the rows.
    """
    look, field = colours(theme), _Field(rows, races)
    timed = [row for row in rows if row.tokens_per_second is not None]
    figure = blank(
        look,
        race_finding(rows),
        "A bar: new tokens of all samples a second, the median of the repeats. Its whisker goes from the slowest to "
        "the fastest repeat: extremes, not a confidence interval. The scale is logarithmic, so equal steps in height "
        f"are equal factors. The line above a bar: that decoder at the device's limit, {WHAT_A_LIMIT_IS}. The fuller a "
        "bar, the larger its K." + (" ✕: it could not be timed." if any(row.error for row in rows) else ""),
    )
    for entrant in field.entrants:
        own = field.of(timed, entrant)
        values = [row.tokens_per_second or 0.0 for row in own]
        spreads = [row.seconds for row in own if row.seconds is not None]
        figure.add_bar(
            x=[field.x(row) for row in own],
            y=values,
            width=0.92 * field.width,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [v * (s.value / s.low - 1) for v, s in zip(values, spreads, strict=True)],
                "arrayminus": [v * (1 - s.value / s.high) for v, s in zip(values, spreads, strict=True)],
                "color": look.muted,
                "thickness": 1.6,
                "width": 4,
            },
            marker=field.marker(entrant, look),
            name=entrant.name,
            showlegend=True,
            customdata=[[row.batch, row.ms_per_step, row.nfe] for row in own],
            hovertemplate="batch %{customdata[0]}: %{y:,.0f} tokens/s, %{customdata[2]} passes of "
            "%{customdata[1]:.2f} ms<extra>" + entrant.name + "</extra>",
        )
    marked = [(field.x(row), _roofline(row), row) for row in timed if _roofline(row)]
    if marked:
        half = 0.46 * field.width
        figure.add_scatter(
            x=[x for middle, _, _ in marked for x in (middle - half, middle + half, None)],
            y=[y for _, most, _ in marked for y in (most, most, None)],
            mode="lines",
            line={"color": look.differ, "width": 3},
            name=LIMIT_NAME,
            hovertemplate=LIMIT_NAME + ": %{y:,.0f} tokens/s<extra></extra>",
        )
    _failures(figure, field, rows, look)
    shown = [row.tokens_per_second for row in timed if row.tokens_per_second]
    most = [value for _, value, _ in marked]
    least, top = (min(shown) / 3, 1.6 * max(shown + most)) if shown else (1.0, 1000.0)
    _axes(figure, field)
    return figure.update_layout(
        barmode="overlay",
        yaxis={"title": {"text": "tokens a second"}, **log_axis(least, top)},
    )


def speedup_figure(rows: Sequence[TimingRow], theme: Theme = "light", races: Sequence[Race] | None = None) -> go.Figure:
    """Speed-up over AR at the same batch, with its spread, and the roofline's own ratio.

    Args:
        rows: As many as there are.
        theme: Colours.
        races: As for `race_figure`.
    """
    look, field = colours(theme), _Field(rows, races, without="ar")
    compared = held_against_ar(rows)
    figure = blank(
        look,
        speedup_finding(rows, field.decoders),
        "A mark: tokens a second over those of AR at the same batch in the same run; above the line at 1 it is faster. "
        "Whiskers go from the slowest repeat over AR's fastest to the reverse: extremes, not confidence intervals. A "
        f"comparison whose whisker contains 1 is not settled. {chance_words(compared)}The short line: the ratio if "
        f"both ran at the device's limit, {WHAT_A_LIMIT_IS}. A mark above it says that AR is the further from its "
        "limit: it pays what a call costs besides for every token, not once for K.",
    )
    figure.add_hline(1, line={"color": look.muted, "width": 1.5}, layer="below")
    for entrant in field.entrants:
        own = field.of(compared, entrant)
        spreads = [row.speedup for row in own if row.speedup is not None]
        marker = field.marker(entrant, look)
        figure.add_scatter(
            x=[field.x(row) for row in own],
            y=[spread.value for spread in spreads],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [spread.high - spread.value for spread in spreads],
                "arrayminus": [spread.value - spread.low for spread in spreads],
                "color": look.ink,
                "thickness": 1.2,
                "width": 4,
            },
            mode="markers",
            marker={
                "symbol": _SYMBOLS.get(entrant.decoder, "star"),
                "size": 11,
                "color": marker["color"],
            },
            name=entrant.name,
            showlegend=True,
            customdata=[[row.batch, over_ar(row)] for row in own],
            hovertemplate="batch %{customdata[0]}, × AR: %{customdata[1]}<extra>" + entrant.name + "</extra>",
        )
    marked = [(field.x(row), row.roofline_speedup) for row in compared if row.roofline_speedup]
    if marked:
        half = 0.46 * field.width
        figure.add_scatter(
            x=[x for middle, _ in marked for x in (middle - half, middle + half, None)],
            y=[y for _, most in marked for y in (most, most, None)],
            mode="lines",
            line={"color": look.differ, "width": 3},
            name=LIMIT_NAME,
            hovertemplate=LIMIT_NAME + ": %{y:.2f} × AR<extra></extra>",
        )
    ends = [value for row in compared if row.speedup for value in (row.speedup.low, row.speedup.high)]
    ends += [most for _, most in marked]
    _axes(figure, field)
    return figure.update_layout(
        yaxis={"title": {"text": "speed-up (× AR)"}, **log_axis(min([0.5, *ends]) / 1.2, 1.2 * max([2.0, *ends]))}
    )


def timing_figures(document: dict[str, Any], theme: Theme = "light") -> dict[str, go.Figure]:
    """All figures, by name, of a document of `kfexplore bench throughput`, with --roofline or without.

    Where nothing was timed against AR there is no speed-up to be drawn; the foot says so.
    """
    if document["bench"] == "roofline":
        gains = [gain_of(values) for values in document.get("curve") or document["gains"]]
        return {"gain": gain_figure(gains, theme)}
    rows = _rows(document)
    drawn = {"race": race_figure(rows, theme)}
    return {**drawn, "speedup": speedup_figure(rows, theme)} if held_against_ar(rows) else drawn


def timing_foot(document: dict[str, Any]) -> str:
    """What a document's numbers hang on, and what could not be timed."""
    if document["bench"] == "roofline":
        about = f"{document['size']}; {document['keys']:.0f} keys a query"
    else:
        rows = _rows(document)
        about = ", ".join(dict.fromkeys(row.size for row in rows))
        if rows:
            about += f"; {rows[0].prompt} tokens of prompt, {rows[0].new_tokens} new ones, {rows[0].repeats} repeats"
            if not held_against_ar(rows):
                about += f". {speedup_finding(rows, {row.decoder for row in rows})}"
        failed = [f"{series_of(row).name} at batch {row.batch}: {row.error}" for row in rows if row.error]
        about = ". ".join([about, *(reason.rstrip(".") for reason in failed)])
    return f"{about}. {device_words(document)}"


def timing_page(document: dict[str, Any]) -> str:
    """The figures as one HTML page."""
    return page(themed(partial(timing_figures, document)), TITLE, timing_foot(document))


def write_page(document: dict[str, Any], folder: Path) -> Path:
    """Writes throughput.html into a folder, which is made.

    Raises:
        KfError: the folder cannot be written.
    """
    return write(timing_page(document), folder / "throughput.html")


def _rows(document: dict[str, Any]) -> list[TimingRow]:
    return [from_dict(TimingRow, values) for values in document["rows"]]


class _Field:
    """Where every bar stands: groups by batch, a place in each for every entrant."""

    def __init__(self, rows: Sequence[TimingRow], races: Sequence[Race] | None, without: str = "") -> None:
        if races is None:
            races = [(row.batch, row.decoder, row.k) for row in rows]
        kept = [race for race in races if race[1] != without]
        self.decoders = {decoder for _, decoder, _ in races}
        self.batches = sorted({batch for batch, _, _ in races})
        named = sorted({Series(decoder, k) for _, decoder, k in kept})
        self.entrants = sorted(named, key=lambda each: each.place)
        self.width = _FILLED / max(1, len(self.entrants))

    def x(self, row: TimingRow) -> float:
        """The middle of a row's bar."""
        place = self.entrants.index(series_of(row)) - (len(self.entrants) - 1) / 2
        return self.batches.index(row.batch) + place * self.width

    def of(self, rows: Sequence[TimingRow], entrant: Series) -> list[TimingRow]:
        """An entrant's rows."""
        return [row for row in rows if series_of(row) == entrant]

    def marker(self, entrant: Series, look: Colours) -> dict[str, Any]:
        """Exact decoders are dark, learned ones coloured and hatched; the smaller K, the fainter and sparser."""
        known = DECODERS.get(entrant.decoder)
        is_learned = known is not None and not known.exact
        own = {"mdlm": look.lines[_HUE]}
        colour = own.get(entrant.decoder, look.learned if is_learned else look.exact if known else look.muted)
        ks = [each.k for each in self.entrants if each.decoder == entrant.decoder]
        n = ks.index(entrant.k)
        colour = shades(colour, len(ks), look)[n]
        dense = _SPARSE + (_DENSE - _SPARSE) * (n / (len(ks) - 1) if len(ks) > 1 else 0.5)
        return {
            "color": colour,
            "line": {"width": 1, "color": colour},
            "pattern": {
                "shape": _PATTERNS.get(entrant.decoder, "+"),
                "fgcolor": colour if is_learned else look.surface,
                "bgcolor": _CLEAR if is_learned else colour,
                "size": 6,
                "solidity": dense if is_learned else 1 - dense,  # of the ground's colour on an exact bar
            },
        }


def _roofline(row: TimingRow) -> float:
    """Tokens a second at the least time; 0 where it is not known."""
    if not row.least_ms or not row.nfe:
        return 0.0
    return row.batch * row.new_tokens / (row.least_ms * row.nfe / 1e3)


def _failures(figure: go.Figure, field: _Field, rows: Sequence[TimingRow], look: Colours) -> None:
    if failed := [row for row in rows if row.error]:
        figure.add_scatter(
            x=[field.x(row) for row in failed],
            y=[0.06] * len(failed),
            yaxis="y2",
            mode="text",
            text=["✕"] * len(failed),
            textfont={"color": look.differ, "size": 15},
            name="✕ could not be timed",
            showlegend=False,
            customdata=[[row.batch, row.error, series_of(row).name] for row in failed],
            hovertemplate="batch %{customdata[0]}, %{customdata[2]}: %{customdata[1]}<extra></extra>",
        )
        figure.update_layout(
            yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True, "matches": None}
        )


def _axes(figure: go.Figure, field: _Field) -> None:
    count = len(field.batches)
    figure.update_xaxes(
        title={"text": "batch (samples at once)"},
        tickvals=list(range(count)),
        ticktext=[f"{size:,}" for size in field.batches],
        range=[-0.5, max(1, count) - 0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_layout(legend={"maxheight": 0.6, "font": {"size": 13}})
    for line in range(1, count):
        figure.add_vline(line - 0.5, line={"color": figure.layout.xaxis.linecolor, "width": 1}, layer="below")
