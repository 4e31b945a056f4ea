"""Figures of joint against marginal over contexts, and their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import plotly.graph_objects as go

from kfexplore.figures.laws import sampler_colour
from kfexplore.figures.page import blank, whiskers
from kfexplore.figures.palette import Theme, colours
from kfexplore.results import Distance, Estimate, Floats

_SYMBOLS: Final = {"teacher": "diamond", "student": "circle", "ideal MDLM": "square-open"}
_OTHER_SYMBOLS: Final = ("square", "triangle-up", "triangle-down", "cross", "x")


@dataclass(frozen=True)
class SamplerError:
    """Mean distance of one sampler from the teacher's distribution, over contexts."""

    sampler: str
    nfe: int  # forward passes per block
    tv: Distance  # with a t interval; a lower bound if it is one after any context
    tv_plug_in: float  # as in `SamplerLaw`, like the next one
    tv_expected: float
    kl: Estimate | None  # KL(teacher || sampler), nats, if the sampler's distribution is known
    impossible: Estimate  # fraction of almost impossible blocks


@dataclass(frozen=True)
class SamplerDifference:
    """Distance of one sampler minus that of another, paired over contexts."""

    sampler: str
    minus: str  # the other sampler
    tv: Estimate  # mean difference with its t interval; below 0: closer to the teacher than the other
    contexts: int

    @property
    def finding(self) -> str:
        """The interval in words."""
        if self.tv.low <= 0 <= self.tv.high:
            return "no difference established"
        return "nearer to the teacher" if self.tv.high < 0 else "farther from the teacher"


@dataclass(frozen=True)
class ClassInformation:
    """Information about the second token from first tokens of one class."""

    name: str
    share: float  # probability of the class, mean over contexts
    information: Estimate  # nats per token of the class: mean of KL(p(. | x1) || marginal)


def passes_figure(rows: Sequence[SamplerError], theme: Theme = "light") -> go.Figure:
    """Distance from the teacher's distribution against forward passes per block."""
    palette = colours(theme)
    ideal = next((row for row in rows if row.sampler.startswith("ideal")), rows[-1])
    student = next((row for row in rows if row.sampler == "student"), None)
    is_known = student is not None and student.tv.is_known and ideal.tv.is_known
    beside = f", the student {student.tv.words}" if student is not None and is_known else ""
    figure = blank(
        palette,
        f"In one pass, exact marginals are {ideal.tv.words} from the teacher's distribution{beside}",
        "A mark: total variation distance from the teacher's distribution, mean over contexts with its 95 % t "
        "interval. An open mark with an arrow is a 95 % lower bound: the true distance may be larger. Compare samplers "
        "by paired differences, not by whiskers. Marks are drawn slightly apart.",
    )
    for n, row in enumerate(rows):
        tv, kl = row.tv, "" if row.kl is None else f", KL {row.kl.value:.3f} nats"
        colour, symbol = sampler_colour(row.sampler, n, palette), _SYMBOLS.get(row.sampler, _OTHER_SYMBOLS[n % 5])
        x, y = row.nfe + 0.05 * (n - (len(rows) - 1) / 2), tv.value if tv.is_known else tv.low
        figure.add_scatter(
            x=[x],
            y=[y],
            error_y=whiskers([Estimate(y, tv.low, y if tv.high is None else tv.high)], colour),
            mode="markers",
            marker={"symbol": symbol if tv.is_known else f"{symbol.removesuffix('-open')}-open", "size": 11}
            | {"color": colour},
            name=row.sampler if tv.is_known else f"{row.sampler} (lower bound)",
            customdata=[f"{row.sampler}: TV {tv.words} ({tv.limits}){kl}"],
            hovertemplate="%{customdata}<extra></extra>",
        )
        if not tv.is_known:
            arrow = {"arrowhead": 2, "arrowwidth": 1.2, "arrowcolor": colour, "ax": 0, "ay": 26, "standoff": 0}
            figure.add_annotation(x=x, y=y, yshift=26, showarrow=True, text="", **arrow)
    figure.update_xaxes(title_text="forward passes per block", dtick=1, range=[0.5, max(row.nfe for row in rows) + 0.5])
    return figure.update_yaxes(title_text="distance from the teacher (TV)", rangemode="tozero")


def information_figure(values: Floats, theme: Theme = "light") -> go.Figure:
    """Histogram of the mutual information of the next two tokens over contexts (n,)."""
    palette = colours(theme)
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    figure = blank(
        palette,
        f"Mutual information of the next two tokens: median {middle:.2f} nats, {high:.2f} or more in one of ten",
        f"A bar: number of the {len(values)} contexts whose mutual information lies there; nine in ten have more than "
        f"{low:.2f} nats.",
    )
    bars = {"color": palette.exact, "line": {"color": palette.surface, "width": 1}}
    figure.add_histogram(x=values, nbinsx=min(30, max(5, len(values) // 3)), marker=bars)
    figure.update_xaxes(title_text="mutual information of the next two tokens (nats)", rangemode="tozero")
    return figure.update_yaxes(title_text="contexts")


def classes_figure(classes: Sequence[ClassInformation], theme: Theme = "light") -> go.Figure:
    """Bars of the first token's information about the second, by class."""
    palette, ranked = colours(theme), sorted(classes, key=lambda c: -c.information.value)
    figure = blank(
        palette,
        f"The class that tells most about the second token is {ranked[0].name}: {ranked[0].information.value:.2f} nats",
        "A bar: mean over the teacher's first tokens of that class of KL(distribution of the second token given it || "
        "marginal), with its 95 % interval over contexts; in parentheses, the probability of the class.",
    )
    figure.add_bar(
        x=[f"{c.name} ({c.share:.0%})" for c in ranked],
        y=[c.information.value for c in ranked],
        error_y=whiskers([c.information for c in ranked], palette.ink),
        marker={"color": palette.exact, "line": {"width": 0}},
        width=0.55,
        hovertemplate="%{x}: %{y:.3f} nats<extra></extra>",
    )
    figure.update_xaxes(showgrid=False)
    return figure.update_yaxes(title_text="information about the second token (nats)", rangemode="tozero")
