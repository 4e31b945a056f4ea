"""The sub-tab Toy distributions: independent draws compared with the exact map, and what each condition proves."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import gradio as gr

from kfexplore.errors import KfError
from kfexplore.figures.hints import hint
from kfexplore.figures.page import bare
from kfexplore.figures.palette import Theme
from kfexplore.figures.toy import (
    EXACT,
    blocks_figure,
    exact_at_random,
    fewest_exact,
    order_words,
    passes_figure,
    squares_figure,
)
from kfexplore.laws.toy import TOYS, toy_draws, toy_law
from kfexplore.results import ToyLaw, Unmasking
from kfexplore.ui.components import QUIET, boxed, button, failed, heading, html, message, plot, scrolling, sent
from kfexplore.ui.links import Link

INTRO: Final = """A masked diffusion model draws the positions of one pass independently, each from its marginal given
what is visible. Here the marginals are exact, so the only error is that of drawing independently."""
DRAWN: Final = 100
"""Blocks per click."""
ROUNDS: Final = 10
"""Clicks that add draws of one seed; the next click starts with another."""

ABOUT: Final = {
    "permutation": "All orderings of L different tokens, equally likely. With L = 2 it is the paper's own example, "
    "uniform over 01 and 10.",
    "correlation": "Two fair bits, from independent (ρ = 0) to equal (ρ = 1).",
    "noisy-xor": "x1 and x2 are fair bits, and x3 = x1 xor x2, flipped with probability ε.",
    "chain": "A fair bit, then each bit the one before it, flipped with probability ε.",
    "not-all-equal": "The six strings of three bits that are not all equal, equally likely.",
}

LIMITS: Final = """<b>What this does not show.</b> Fixed orders and a uniformly random order are enumerated; orders that
are chosen from the tokens drawn so far are not. A trained masked model also has inexact marginals. The star is the
exact push-forward map, which exists for every distribution; how close a trained student comes to it is a question for
the other tabs."""


@lru_cache(maxsize=1024)
def show(dark: bool, name: str, length: float, links: float, rho: float, eps: float) -> tuple[str, ...]:
    """Everything below the sliders.

    Args:
        dark: Whether the page is dark.
        name: A key of `TOYS`.
        length: Tokens of the permutation.
        links: Tokens of the chain.
        rho: Correlation.
        eps: Probability of a flip.

    Returns:
        Heading and figure of the squares (without drawn blocks), and of the probabilities; a text on the distribution;
        heading and figure of the passes; the conclusions. Text is HTML, figures are JSON.
    """
    toy, theme = _toy(name, length, links, rho, eps), _theme(dark)
    (blocks, first), (passes, second) = (bare(draw(toy, theme)) for draw in (blocks_figure, passes_figure))
    return (
        *drawn(toy, theme),
        heading(*blocks),
        first,
        boxed(_positions(f"<p>{ABOUT[name]} {INTRO}</p>")),
        heading(*passes),
        second,
        meaning(toy),
    )


def drawn(toy: ToyLaw, theme: Theme, clicks: int = 0) -> tuple[str, str]:
    """Heading and figure of the squares after `clicks` clicks."""
    seed, rounds = divmod(max(0, clicks - 1), ROUNDS)
    draws = toy_draws(toy, DRAWN * (rounds + 1) if clicks else 0, seed)
    words, figure = bare(squares_figure(toy, draws, theme))
    return heading(*words), figure


def _toy(name: str, length: float, links: float, rho: float, eps: float) -> ToyLaw:
    given = {"length": links if name == "chain" else length, "rho": rho, "eps": eps}
    return toy_law(name, **{option: given[option] for option in (TOYS[name].parameters if name in TOYS else ())})


def _theme(dark: bool) -> Theme:
    return "dark" if dark else "light"


def meaning(toy: ToyLaw) -> str:
    """Table of distances, answers on each condition, and what follows from them, as HTML."""
    parts = f'<div class="kf-prose-parts">{_table(toy)}{_answers(toy)}</div>'
    return boxed(_positions(f"{parts}<p><b>What this shows.</b> {_shows(toy)}</p><p>{LIMITS}</p>"))


def build_toy_tab() -> list[Link]:
    """Fills the sub-tab, in the Gradio context that is open; returns its fields that a URL stores."""
    with gr.Row(equal_height=True):
        name = gr.Radio(
            [(toy.title, key) for key, toy in TOYS.items()],
            value="permutation",
            label="Distribution",
            elem_id="toy-name",
            scale=4,
            min_width=320,
        )
        with gr.Column(scale=1, min_width=180):
            length = gr.Slider(2, 4, 2, step=1, label="Tokens L", elem_id="toy-length")
            links = gr.Slider(2, 5, 3, step=1, label="Tokens L", elem_id="toy-links", visible=False)
            rho = gr.Slider(0, 1, 0.5, step=0.01, label="Correlation ρ", elem_id="toy-rho", visible=False)
            eps = gr.Slider(0, 0.5, 0.1, step=0.01, label="Probability of a flip ε", elem_id="toy-eps", visible=False)
        draw = button(f"Draw {DRAWN}", "toy-draw", 120, variant="primary")
    dark, clicks = gr.Checkbox(visible=False), gr.State(0)
    words, squares, second_words, blocks, about, third_words, passes, last = show(False, "permutation", 2, 3, 0.5, 0.1)
    with gr.Row(elem_classes="kf-figures"):
        with gr.Column(min_width=320, scale=6):
            shown: list[gr.components.Component] = [message(words, elem_id="toy-squares"), plot(squares)]
        with gr.Column(min_width=320, scale=5):
            shown += [html(second_words), plot(blocks)]
    shown += [html(about), html(third_words), plot(passes), html(last, elem_id="toy-meaning")]
    fields = [name, length, links, rho, eps]
    drawing = {"js": sent(fields), **QUIET}

    def sliders(chosen: str) -> list[dict[str, Any]]:
        takes = TOYS[chosen].parameters
        visible = ("length" in takes and chosen != "chain", chosen == "chain", "rho" in takes, "eps" in takes)
        return [gr.update(visible=one) for one in visible]

    name.change(sliders, name, fields[1:], **QUIET)
    for event in (field.change for field in fields):  # a link changes them as well
        event(_answer, [dark, *fields], [*shown, clicks], **drawing, trigger_mode="always_last")
    draw.click(_draw_more, [dark, *fields, clicks], [*shown[:2], clicks], **drawing)
    if page := gr.context.Context.root_block:
        page.load(_answer, [dark, *fields], [*shown, clicks], **drawing)  # in the page's own theme
    return [Link(field) for field in fields]


def _answer(*fields: Any) -> Any:
    """As `show`, with no blocks drawn; for a value outside the sliders' ranges, only an error."""
    try:
        return [*show(*fields), 0]
    except KfError as error:
        return [gr.skip()] * 4 + [failed(error)] + [gr.skip()] * 4


def _draw_more(dark: bool, *given: Any) -> Any:
    """Draws more blocks in the squares; a value outside the sliders' ranges changes nothing."""
    *fields, clicks = given
    try:
        return [*drawn(_toy(*fields), _theme(dark), clicks + 1), clicks + 1]
    except KfError:
        return [gr.skip()] * 3


def _table(toy: ToyLaw) -> str:
    number, other, least = ' class="kf-prose-number"', ' class="kf-prose-other"', fewest_exact(toy)
    rows = [
        f"<tr{'' if s.even or s is least else other}><td{number}>{len(s.sizes)}</td><td>{s.name}</td>"
        + "".join(f"<td{number}>{_tv(distance)}</td>" for distance in (s.best, s.worst, s.random))
        + "</tr>"
        for s in toy.schedules
    ]
    table = (
        f"<table><caption>Total variation distance {hint('total variation', 'toys')}:<br>"
        "best and worst fixed order, and a random order</caption>"
        f"<tr><th{number}>passes</th><th>sizes</th>"
        f"<th{number}>best</th><th{number}>worst</th><th{number}>random</th></tr>"
        f"{''.join(rows)}"
        f"<tr><td{number}>1</td><td>push-forward</td><td{number}>{_tv(toy.push_forward)}</td><td></td><td></td></tr>"
        "</table>"
    )
    return scrolling(table, "Distance of every schedule")


def _answers(toy: ToyLaw) -> str:
    paper, strong, support = (f"no: {found}" if found else "yes" for found in (toy.paper, toy.strong, toy.support))
    return (
        "<dl><dt>Is it conditionally irreducible: are any two groups of positions dependent, given every value of all "
        f"other positions (the paper's definition)?</dt><dd>{paper}</dd>"
        "<dt>And given every value of every visible set (the stronger condition)?</dt>"
        f"<dd>{strong}</dd>"
        "<dt>And is there, given every value of every visible set, always a combination of two tokens that each occur "
        f"but never together (the support condition, which also covers random orders)?</dt><dd>{support}</dd></dl>"
    )


def _shows(toy: ToyLaw) -> str:
    length, least = toy.law.ndim, fewest_exact(toy)
    passes = len(least.sizes)
    if toy.paper is not None:
        taken = "one pass" if passes == 1 else f"{passes} passes" if passes < length else f"all {length} passes"
        return (
            "The distribution meets none of the conditions, so Theorem 1 says nothing about it. By enumeration, exact "
            f"unmasking in a fixed order takes {taken} ({_which(least)}).{_other_way(toy, least)} Failing a condition "
            "does not by itself save a pass: conditions like these can show that passes are needed, not that they can "
            "be spared."
        )
    at_last = (
        "The distribution meets the paper's definition. This proves that every fixed schedule whose <b>last</b> pass "
        "fills two or more positions errs."
    )
    if toy.strong is not None:
        return (
            f"{at_last} But <b>Theorem 1 as literally stated fails here</b>: it concludes that {length} passes are "
            f"needed, yet {passes} can be exact ({_which(least)}). An earlier pass can unmask positions together that "
            f"are independent while little is visible, and here {toy.strong!s}. Ruling out every fixed "
            "schedule with a pass of two or more requires dependence given every visible set, which this distribution "
            f"does not have.{_other_way(toy, least)}"
        )
    always = (
        f"{at_last} It meets the stronger condition too. This proves that every <b>fixed</b> schedule with a pass of "
        f"two or more positions errs: in a fixed order, lossless sampling takes one pass per token, here {length}."
    )
    if toy.support is None:
        return (
            f"{always} It meets the support condition as well: a pass that draws two positions independently gives "
            "some blocks that the distribution never gives, and mixing orders cannot remove them. So a <b>random</b> "
            f"order, or one chosen from the visible tokens, needs {length} passes too."
        )
    mixed, open_case = exact_at_random(toy), "For random or data-dependent orders neither condition proves anything."
    if mixed is None:
        return f"{always} {open_case} The column <i>random</i> shows what a uniformly random order gives here."
    return (
        f"{always} {open_case} Here a uniformly <b>random {mixed.name} order is exact</b>, although every fixed "
        f"{mixed.name} order is off by {_tv(mixed.best)}: the errors of the orders cancel in the mixture. MDLM's usual "
        f"sampler uses a random order, so Theorem 1's conclusion, {length} passes, does not hold for it."
    )


def _which(least: Unmasking) -> str:
    if len(least.sizes) == 1:
        return "everything at once"
    return f"{least.name}, in every order" if least.worst <= EXACT else f"{least.name}: {order_words(least.best_order)}"


def _other_way(toy: ToyLaw, least: Unmasking) -> str:
    """A sentence on a split into as many passes that no order makes exact; "" if there is none."""
    bad = [s for s in toy.schedules if len(s.sizes) == len(least.sizes) and s.best > EXACT]
    if not bad:
        return ""
    return f" The split matters: {bad[0].name} is off by {_tv(bad[0].best)} even in its best order."


def _tv(distance: float) -> str:
    return "0" if distance <= EXACT else f"{distance:.3f}" if distance >= 0.0005 else "< 0.001"


def _positions(text: str) -> str:
    """Sets the numbers of positions as subscripts: x₁ for x1."""
    return re.sub(r"\bx([1-9])\b", lambda found: "x" + chr(0x2080 + int(found[1])), text)
