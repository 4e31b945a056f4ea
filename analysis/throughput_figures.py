"""Figures on speed: published passes and their roofline, ragged rounds, tokens until training pays off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import plotly.graph_objects as go

from kfexplore.figures.page import blank, log_axis
from kfexplore.figures.palette import Theme, colours
from kfexplore.results import Ints

SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up")


class StepTime(NamedTuple):
    """A forward pass over a batch: its time, and the shortest possible one."""

    name: str
    batch: int
    ms: float
    least_ms: float


class Payback(NamedTuple):
    """Number of generated tokens after which training pays off."""

    name: str
    batch: int
    tokens: float | None
    """None: nothing is saved, so it never pays off."""


def steps_figure(steps: Sequence[StepTime], theme: Theme = "light") -> go.Figure:
    """Milliseconds per pass over the batch: filled marks as reported, open ones at the device's limit.

    Args:
        steps: At several batches, ascending for each name.
        theme: Colours.
    """
    look = colours(theme)
    shares = [step.least_ms / step.ms for step in steps]
    figure = blank(
        look,
        f"A pass takes {1 / max(shares):,.0f} to {1 / min(shares):,.0f} times what memory and arithmetic need",
        "A filled mark: milliseconds per forward pass, from published tokens per second. The open mark of the same "
        "kind below it: the least that the device's memory and arithmetic allow. Both scales are logarithmic.",
    )
    for n, name in enumerate(dict.fromkeys(step.name for step in steps)):
        own = [step for step in steps if step.name == name]
        colour, symbol = look.lines[(8 + 3 * n) % len(look.lines)], SYMBOLS[n % len(SYMBOLS)]
        for values, mark, dash, label in (
            ([step.ms for step in own], symbol, "solid", name),
            ([step.least_ms for step in own], f"{symbol}-open", "dot", f"{name}, least"),
        ):
            figure.add_scatter(
                x=[step.batch for step in own],
                y=values,
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": dash},
                marker={"symbol": mark, "size": 10, "color": colour, "line": {"width": 2, "color": colour}},
                name=label,
                hovertemplate="batch %{x}: %{y:.3g} ms per pass<extra>" + label + "</extra>",
            )
    _batch_axis(figure, [step.batch for step in steps])
    low, high = min(step.least_ms for step in steps), max(step.ms for step in steps)
    return figure.update_layout(yaxis={"title": {"text": "milliseconds per pass"}, **log_axis(low / 1.5, 1.5 * high)})


def rounds_figure(kept: Ints, fixed: int, theme: Theme = "light") -> go.Figure:
    """Lengths of the rows of a verified batch over the rounds, beside blocks of fixed length.

    Args:
        kept: (rounds, B) tokens that each row keeps per round; 0 once it is finished.
        fixed: Tokens of a fixed block.
        theme: Colours.
    """
    look, busy = colours(theme), (kept > 0).sum(axis=0)
    figure = blank(
        look,
        f"Rows finish after {busy.min()} to {busy.max()} rounds; {(kept == 0).mean():.0%} of all row-rounds are spent "
        "waiting for others",
        "A thin line: the tokens of one sample over the rounds of verified decoding, each a pass of the student and "
        "one of the teacher; a flat end is a row that waits. The dashed line: fixed blocks, one pass of the student "
        "each, not checked.",
    )
    grown = kept.cumsum(axis=0)
    for row in range(kept.shape[1]):
        figure.add_scatter(
            x=list(range(len(kept) + 1)),
            y=[0, *grown[:, row].tolist()],
            mode="lines",
            line={"color": look.exact, "width": 1.5},
            opacity=0.55,
            name="verified, one line per sample",
            legendgroup="verified",
            showlegend=row == 0,
            hovertemplate=f"sample {row + 1}: %{{y}} tokens after %{{x}} rounds<extra></extra>",
        )
    length = int(grown[-1].max())
    blocks = range(-(-length // fixed) + 1)
    figure.add_scatter(
        x=list(blocks),
        y=[min(length, fixed * n) for n in blocks],
        mode="lines+markers",
        line={"color": look.learned, "width": 2.5, "dash": "dash"},
        marker={"size": 7, "color": look.learned},
        name=f"fixed blocks of {fixed}",
        hovertemplate="%{y} tokens after %{x} blocks<extra></extra>",
    )
    figure.update_xaxes(title={"text": "rounds (verified) or blocks (fixed)"}, rangemode="tozero")
    return figure.update_layout(yaxis={"title": {"text": "new tokens per sample"}, "rangemode": "tozero"})


def payback_figure(paybacks: Sequence[Payback], theme: Theme = "light") -> go.Figure:
    """Number of generated tokens at which the time saved equals the training time.

    Args:
        paybacks: At several batches, ascending for each name; at least one pays.
        theme: Colours.
    """
    look = colours(theme)
    paid = [each.tokens for each in paybacks if each.tokens is not None]
    never = any(each.tokens is None for each in paybacks)
    figure = blank(
        look,
        f"Training pays off after {_short(min(paid), 1)} to {_short(max(paid), 1)} tokens"
        + (", or never" if never else ""),
        "A mark: generated tokens after which the time saved over AR at that batch equals the time of training, on "
        "the same kind of device." + (" ✕ at the top: no time is saved." if never else ""),
    )
    low, high = min(paid) / 3, 10 * max(paid)
    for n, name in enumerate(dict.fromkeys(each.name for each in paybacks)):
        own = [each for each in paybacks if each.name == name]
        colour = look.lines[(8 + 3 * n) % len(look.lines)]
        figure.add_scatter(
            x=[each.batch for each in own],
            y=[each.tokens for each in own],
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"symbol": SYMBOLS[n % len(SYMBOLS)], "size": 11, "color": colour},
            name=name,
            hovertemplate="batch %{x}: %{y:.2g} tokens<extra>" + name + "</extra>",
        )
        if missing := [each.batch for each in own if each.tokens is None]:
            figure.add_scatter(
                x=missing,
                y=[high / 2] * len(missing),
                mode="markers",
                marker={"symbol": "x-thin", "size": 11, "line": {"width": 2.5, "color": colour}},
                name=f"{name}: never",
                hovertemplate="batch %{x}: never<extra>" + name + "</extra>",
            )
    _batch_axis(figure, [each.batch for each in paybacks])
    axis = log_axis(low, high)
    axis["ticktext"] = [_short(tick, 0) for tick in axis["tickvals"]]
    return figure.update_layout(yaxis={"title": {"text": "tokens until it pays"}, **axis})


def _short(value: float, digits: int) -> str:
    """A large number in short form, such as 1.5e7."""
    digit, power = f"{value:.{digits}e}".split("e")
    return f"{digit}e{int(power)}"


def _batch_axis(figure: go.Figure, batches: Sequence[int]) -> None:
    shown = sorted(set(batches))
    figure.update_xaxes(
        title={"text": "batch (samples at once)"},
        type="log",
        tickvals=shown,
        ticktext=[f"{batch:,}" for batch in shown],
        showgrid=False,
        zeroline=False,
    )
