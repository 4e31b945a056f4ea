"""Figures of timings: tokens per second of each decoder and the speed-up over AR; and the page of a document."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import plotly.graph_objects as go

from kfexplore.config import from_dict
from kfexplore.decoders import DECODERS
from kfexplore.figures.page import CLEAR, blank, log_axis, page, themed, whiskers
from kfexplore.figures.palette import Colours, Theme, colours, shades
from kfexplore.figures.roofline import LIMIT_NAME, WHAT_A_LIMIT_IS, gain_figure, gain_of
from kfexplore.results import Spread, TimingRow

TITLE: Final = "kfexplore: throughput"
Race = tuple[int, str, int]
"""Batch, decoder and K."""
_GROUP: Final = 0.84
"""Width of a batch's bars, where 1 is the distance between two batches."""
_MARK: Final = 0.46
"""Half the width of a limit's mark, where 1 is the width of a bar."""
_SPARSE: Final = 0.2
_DENSE: Final = 0.6
"""Fraction of a bar covered by the hatching, for the largest K; `_SPARSE`: for the smallest."""
_HUE: Final = 5


class Series(NamedTuple):
    """A decoder at one K: one trace."""

    decoder: str
    """One of `DECODERS`, or another program's name, which is shown unchanged."""
    k: int

    @property
    def name(self) -> str:
        known = DECODERS.get(self.decoder)
        if known is None:
            return self.decoder
        return f"{known.label}, K = {self.k}" if known.takes_k else known.label

    @property
    def place(self) -> tuple[int, int]:
        """Sort key: decoders in the order of `DECODERS`, then other programs."""
        listed = list(DECODERS)
        return (listed.index(self.decoder) if self.decoder in listed else len(listed)), self.k


def series_of(row: TimingRow) -> Series:
    """The series that a row belongs to."""
    return Series(row.decoder, row.k)


def figure_height(races: Sequence[Race]) -> int:
    """Height in pixels at which a legend of all decoders and K leaves room for the bars, also on narrow screens."""
    return 340 + 12 * max(0, len({(decoder, k) for _, decoder, k in races}) - 3)


def race_figure(rows: Sequence[TimingRow], theme: Theme = "light", races: Sequence[Race] | None = None) -> go.Figure:
    """Bars of tokens per second, by batch and decoder, each with a mark of the device's limit.

    `races` are all planned timings, so that every bar has its place from the beginning; None: those of the rows.
    """
    look, layout = colours(theme), _Layout(rows, races)
    timed = [row for row in rows if row.tokens_per_second is not None]
    figure = blank(
        look,
        race_finding(rows),
        "A bar: new tokens of all samples per second, the median of the repeats. Its whisker goes from the slowest to "
        "the fastest repeat: extremes, not a confidence interval. The scale is logarithmic, so equal steps in height "
        f"are equal factors. The line above a bar: that decoder at the device's limit, {WHAT_A_LIMIT_IS}. Denser "
        "hatching means larger K." + (" ✕: it could not be timed." if any(row.error for row in rows) else ""),
    )
    for series in layout.series:
        own = [row for row in timed if series_of(row) == series]
        figure.add_bar(
            x=[layout.x(row) for row in own],
            y=[row.tokens_per_second for row in own],
            width=0.92 * layout.width,
            error_y=whiskers([_rates(row) for row in own], look.muted),
            marker=layout.marker(series, look),
            name=series.name,
            showlegend=True,
            customdata=[[row.batch, row.ms_per_step, row.nfe] for row in own],
            hovertemplate="batch %{customdata[0]}: %{y:,.0f} tokens/s, %{customdata[2]} passes of "
            "%{customdata[1]:.2f} ms<extra>" + series.name + "</extra>",
        )
    limits = [(layout.x(row), _rate_at_limit(row)) for row in timed if _rate_at_limit(row)]
    _mark_limits(figure, layout, limits, look, "%{y:,.0f} tokens/s")
    _mark_failures(figure, layout, rows, look)
    rates = [row.tokens_per_second for row in timed if row.tokens_per_second]
    low, high = (min(rates) / 3, 1.6 * max([*rates, *(rate for _, rate in limits)])) if rates else (1.0, 1000.0)
    _batch_axis(figure, layout.batches)
    return figure.update_layout(
        barmode="overlay", yaxis={"title": {"text": "tokens per second"}, **log_axis(low, high)}
    )


def speedup_figure(rows: Sequence[TimingRow], theme: Theme = "light", races: Sequence[Race] | None = None) -> go.Figure:
    """Speed-up over AR at the same batch, with its spread, and the roofline's own ratio; `races` as `race_figure`."""
    look, layout = colours(theme), _Layout(rows, races, without="ar")
    compared = compared_with_ar(rows)
    figure = blank(
        look,
        speedup_finding(rows, layout.decoders),
        "A mark: tokens per second over those of AR at the same batch in the same run; above the line at 1 it is "
        "faster. Whiskers go from the slowest repeat over AR's fastest to the reverse: extremes, not confidence "
        f"intervals. A comparison whose whisker contains 1 is inconclusive. {chance_words(compared)}The short line: "
        f"the ratio if both ran at the device's limit, {WHAT_A_LIMIT_IS}. A mark above it means that AR is further "
        "from its limit: it pays the overhead of a call for every token, not once for K tokens.",
    )
    figure.add_hline(1, line={"color": look.muted, "width": 1.5}, layer="below")
    for series in layout.series:
        own = [row for row in compared if series_of(row) == series]
        spreads = [row.speedup for row in own if row.speedup is not None]
        figure.add_scatter(
            x=[layout.x(row) for row in own],
            y=[spread.value for spread in spreads],
            error_y=whiskers(spreads, look.ink),
            mode="markers",
            marker={
                "symbol": known.symbol if (known := DECODERS.get(series.decoder)) else "star",
                "size": 11,
                "color": layout.marker(series, look)["color"],
            },
            name=series.name,
            showlegend=True,
            customdata=[[row.batch, over_ar(row)] for row in own],
            hovertemplate="batch %{customdata[0]}, × AR: %{customdata[1]}<extra>" + series.name + "</extra>",
        )
    limits = [(layout.x(row), row.roofline_speedup) for row in compared if row.roofline_speedup]
    _mark_limits(figure, layout, limits, look, "%{y:.2f} × AR")
    ends = [value for row in compared if row.speedup for value in (row.speedup.low, row.speedup.high)]
    ends += [ratio for _, ratio in limits]
    _batch_axis(figure, layout.batches)
    return figure.update_layout(
        yaxis={"title": {"text": "speed-up (× AR)"}, **log_axis(min([0.5, *ends]) / 1.2, 1.2 * max([2.0, *ends]))}
    )


def timing_figures(document: dict[str, Any], theme: Theme = "light") -> dict[str, go.Figure]:
    """All figures, by name, of a document of `kfexplore bench throughput`, with --roofline or without.

    The speed-up is left out if nothing was compared with AR; the foot says so.
    """
    if document["bench"] == "roofline":
        gains = [gain_of(values) for values in document.get("curve") or document["gains"]]
        return {"gain": gain_figure(gains, theme)}
    rows = _rows(document)
    drawn = {"race": race_figure(rows, theme)}
    return {**drawn, "speedup": speedup_figure(rows, theme)} if compared_with_ar(rows) else drawn


def timing_foot(document: dict[str, Any]) -> str:
    """Conditions that affect a document's numbers, and what could not be timed."""
    if document["bench"] == "roofline":
        about = f"{document['size']}; {document['keys']:.0f} keys per query"
    else:
        rows = _rows(document)
        about = ", ".join(dict.fromkeys(row.size for row in rows))
        if rows:
            about += f"; {rows[0].prompt} prompt tokens, {rows[0].new_tokens} new tokens, {rows[0].repeats} repeats"
            if not compared_with_ar(rows):
                about += f". {speedup_finding(rows, {row.decoder for row in rows})}"
        failed = [f"{series_of(row).name} at batch {row.batch}: {row.error}" for row in rows if row.error]
        about = ". ".join([about, *(reason.rstrip(".") for reason in failed)])
    return f"{about}. {device_words(document)}"


def timing_page(document: dict[str, Any]) -> str:
    """The figures as one HTML page."""
    return page(themed(partial(timing_figures, document)), TITLE, timing_foot(document))


def _rows(document: dict[str, Any]) -> list[TimingRow]:
    return [from_dict(TimingRow, values) for values in document["rows"]]


# ---- findings in words


def compared_with_ar(rows: Sequence[TimingRow]) -> list[TimingRow]:
    """The rows that have a speed-up; AR has none over itself."""
    return [row for row in rows if row.speedup is not None and row.decoder != "ar"]


def over_ar(row: TimingRow) -> str:
    """The speed-up with its spread, or a note that it is inconclusive; "" without a comparison with AR."""
    if row.speedup is None or row.decoder == "ar":
        return ""
    if row.repeats == 1:
        return f"inconclusive ({row.speedup.value:.2f} in one repeat)"
    spread = f"({row.speedup.low:.2f} to {row.speedup.high:.2f})"
    return f"{row.speedup.value:.2f} {spread}" if row.is_conclusive else f"inconclusive {spread}"


def chance_words(rows: Sequence[TimingRow]) -> str:
    """How often a comparison with AR is conclusive by chance, with a trailing space; "" if no rate is known.

    Documents whose repeats were not interleaved have none.
    """
    known = {row.repeats: row.false_positive_rate for row in compared_with_ar(rows) if row.false_positive_rate}
    rates = [
        f"{100 * rate:.1f}".removesuffix(".0") + f" % with {repeats} repeats"
        for repeats, rate in sorted(known.items())
        if repeats > 1
    ]
    if not rates:
        return ""
    return f"False-positive rate per comparison, if runs are exchangeable: {', '.join(rates)}. "


def per_second(row: TimingRow) -> str:
    """Tokens per second of a row that was timed, with its slowest and fastest repeat."""
    rates = _rates(row)
    return f"{rates.value:,.0f}" + (f" ({rates.low:,.0f} to {rates.high:,.0f})" if row.repeats > 1 else "")


def race_finding(rows: Sequence[TimingRow]) -> str:
    """The fastest decoder at the smallest batch and at the batch with the most tokens per second, if there are any."""
    timed = [row for row in rows if row.tokens_per_second]
    if not timed:
        return "No decoder could be timed" if rows else "No decoder is timed yet"
    shown = {min(row.batch for row in timed), max(timed, key=_rate).batch}
    words = "; ".join(f"at batch {size} {_leader([r for r in timed if r.batch == size])}" for size in sorted(shown))
    return words[0].upper() + words[1:]


def _leader(rows: Sequence[TimingRow]) -> str:
    """The fastest decoder at one batch, or the candidates if their spreads overlap."""
    ranked = sorted(rows, key=_rate, reverse=True)
    rivals = [row for row in ranked if row.repeats == 1 or _rates(row).high >= _rates(ranked[0]).low]
    if len(rows) > 1 and len(rivals) > 1:
        return f"the fastest may be {' or '.join(series_of(row).name for row in rivals)} (inconclusive)"
    verb = "is fastest," if len(rows) > 1 else "writes"
    return f"{series_of(ranked[0]).name} {verb} {per_second(ranked[0])} tokens per second"


def speedup_finding(rows: Sequence[TimingRow], decoders: Collection[str]) -> str:
    """The speed-up over AR of the student at its best K, else of the fastest other decoder, or why there is none yet.

    `decoders` are all that are compared, timed or not.
    """
    compared = compared_with_ar(rows)
    if not compared:
        if decoders and "ar" not in decoders:
            return "No speed-up without AR: select it too"
        if set(decoders) == {"ar"}:
            return "No speed-up: only AR is selected"
        failed = any(row.error for row in rows if row.decoder == "ar")
        return "No speed-up: AR could not be timed" if failed else "Nothing is timed against AR yet"
    learned = [row for row in compared if row.decoder == "pflm"] or compared
    best = series_of(max(learned, key=_speedup))
    own = sorted((row for row in compared if series_of(row) == best), key=lambda row: row.batch)
    shown = [row for row in own if row in (own[0], max(own, key=_speedup), own[-1])]
    return f"Speed of {best.name} over AR's: " + ", ".join(f"{over_ar(row)} at batch {row.batch}" for row in shown)


def device_words(document: dict[str, Any]) -> str:
    """Conditions of a timing: device, threads, dtype, measured peaks, and whether other work was running."""
    peaks, threads = document["limits"], document["threads"]
    busy = ""
    if document.get("busy"):
        busy = (
            f" The machine was busy: {document['load_during']:.1f} threads ran or waited on average, so times are too "
            "long and ratios uncertain."
        )
    elif "busy" in document:
        busy = f" The machine was otherwise idle (load {document['load_during']:.1f})."
    return (
        f"{document['device']} ({document['device_name']}), {threads} thread{'' if threads == 1 else 's'}, "
        f"{document['dtype']}, torch {document['versions']['torch']}; measured on it: copies "
        f"{peaks['bytes_per_second'] / 1e9:,.1f} GB/s, products {peaks['flops_per_second'] / 1e9:,.0f} GFLOP/s.{busy}"
    )


def _rate(row: TimingRow) -> float:
    return row.tokens_per_second or 0.0


def _rates(row: TimingRow) -> Spread:
    """Tokens per second: the median, the slowest and the fastest repeat."""
    assert row.seconds is not None
    tokens = row.batch * row.new_tokens
    return Spread(_rate(row), tokens / row.seconds.high, tokens / row.seconds.low)


def _rate_at_limit(row: TimingRow) -> float:
    """Tokens per second at the roofline's time; 0 if unknown."""
    return row.batch * row.new_tokens / (row.least_ms * row.nfe / 1e3) if row.least_ms and row.nfe else 0.0


def _speedup(row: TimingRow) -> float:
    return row.speedup.value if row.speedup else 0.0


# ---- parts of the figures


class _Layout:
    """Positions of all bars: groups by batch, with one place for each series."""

    def __init__(self, rows: Sequence[TimingRow], races: Sequence[Race] | None, without: str = "") -> None:
        if races is None:
            races = [(row.batch, row.decoder, row.k) for row in rows]
        self.decoders = {decoder for _, decoder, _ in races}
        self.batches = sorted({batch for batch, _, _ in races})
        named = sorted({Series(decoder, k) for _, decoder, k in races if decoder != without})
        self.series = sorted(named, key=lambda each: each.place)
        self.width = _GROUP / max(1, len(self.series))

    def x(self, row: TimingRow) -> float:
        """The middle of a row's bar."""
        place = self.series.index(series_of(row)) - (len(self.series) - 1) / 2
        return self.batches.index(row.batch) + place * self.width

    def marker(self, series: Series, look: Colours) -> dict[str, Any]:
        """Exact decoders are dark, learned ones coloured and hatched; smaller K are fainter and sparser."""
        known = DECODERS.get(series.decoder)
        is_learned = known is not None and not known.exact
        colour = look.learned if is_learned else look.exact if known else look.muted
        if known is not None and "masked" in known.models:
            colour = look.lines[_HUE]
        ks = [each.k for each in self.series if each.decoder == series.decoder]
        n = ks.index(series.k)
        colour = shades(colour, len(ks), look)[n]
        dense = _SPARSE + (_DENSE - _SPARSE) * (n / (len(ks) - 1) if len(ks) > 1 else 0.5)
        return {
            "color": colour,
            "line": {"width": 1, "color": colour},
            "pattern": {
                "shape": known.pattern if known else "+",
                "fgcolor": colour if is_learned else look.surface,
                "bgcolor": CLEAR if is_learned else colour,
                "size": 6,
                "solidity": dense if is_learned else 1 - dense,  # the background's colour on an exact bar
            },
        }


def _mark_limits(
    figure: go.Figure, layout: _Layout, limits: Sequence[tuple[float, float]], look: Colours, hover: str
) -> None:
    """Short lines at (x, y): the device's limit y for the bar or mark at x."""
    if limits:
        half = _MARK * layout.width
        figure.add_scatter(
            x=[x for middle, _ in limits for x in (middle - half, middle + half, None)],
            y=[y for _, limit in limits for y in (limit, limit, None)],
            mode="lines",
            line={"color": look.differ, "width": 3},
            name=LIMIT_NAME,
            hovertemplate=f"{LIMIT_NAME}: {hover}<extra></extra>",
        )


def _mark_failures(figure: go.Figure, layout: _Layout, rows: Sequence[TimingRow], look: Colours) -> None:
    if failed := [row for row in rows if row.error]:
        figure.add_scatter(
            x=[layout.x(row) for row in failed],
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


def _batch_axis(figure: go.Figure, batches: Sequence[int]) -> None:
    figure.update_xaxes(
        title={"text": "batch (samples at once)"},
        tickvals=list(range(len(batches))),
        ticktext=[f"{size:,}" for size in batches],
        range=[-0.5, max(1, len(batches)) - 0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_layout(legend={"maxheight": 0.6, "font": {"size": 13}})
    for line in range(1, len(batches)):
        figure.add_vline(line - 0.5, line={"color": figure.layout.xaxis.linecolor, "width": 1}, layer="below")
