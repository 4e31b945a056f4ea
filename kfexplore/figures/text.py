"""Texts as HTML while decoders write them: passes, differences, unlikely tokens, and K passes beside one."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import groupby, pairwise
from typing import Final

from kfexplore.decoders import DECODERS
from kfexplore.figures.hints import hint
from kfexplore.figures.palette import palette_css, token_label
from kfexplore.figures.scripts import asset
from kfexplore.results import Line, Written

SHADES: Final = 8
"""Number of shades for a text that is filled in any order; later tokens have stronger shades."""
LEVELS: Final = (1.5, 3.0, 5.0, 7.0)
"""Surprisal in nats at which the underline gets thicker."""
READING: Final = (
    "Tokens from the same pass share a shade; the two shades alternate (a masked model: later passes are stronger). "
    f"Exact tokens are solid, learned ones have an outline. NFE {hint('NFE', 'texts')} counts passes."
)
DIVERGES: Final = "≠ marks where a text diverges from the exact one under the same noise."
BLOCKS: Final = "Press a block to open its context and its noise in Scrub; arrow keys go from block to block."
SLOW: Final = 3.0
"""Seconds over which the passes of one block of AR are shown."""
CLOCKS: Final = "Times are from this one short run; the tab Timing measures speed."
UNDERLINES: Final = (
    f"Underlines mark tokens the teacher finds unlikely: {LEVELS[0]:g} nats (thin) to {LEVELS[-1]:g} or more (thick). "
    f"{hint('nats', 'texts')}"
)


def texts_html(texts: Sequence[Written], underlined: bool = False, hints: bool = True) -> str:
    """The texts of all decoders side by side.

    Args:
        texts: One per decoder, all with the same number of lines.
        underlined: Draw the surprisal under the teacher, if known.
        hints: Every token shows its number and step on hover; without, the HTML of long texts is half as long.
    """
    rows = max((len(written.lines) for written in texts), default=0)
    linked = any(link for written in texts for line in written.lines for _, link in line.links)
    compared = any(line.shared is not None for written in texts for line in written.lines)
    reading = " ".join([READING, *[DIVERGES] * compared, *[UNDERLINES] * underlined, *[BLOCKS] * linked, CLOCKS])
    panes = "".join(_pane(written, underlined, hints) for written in texts)
    return (
        f'<div class="kft">{_passes(texts)}<div class="kft-panes" style="--rows: {rows + 1}">{panes}</div>'
        f'<p class="kft-read">{reading}</p></div>'
    )


@cache
def text_css() -> str:
    """The style sheet, including the palette; all rules are under `.kft`."""
    return palette_css(".kft") + asset("text.css")


def agreement_words(written: Written) -> str:
    """How long a decoder's texts agree with the exact ones; "" if nothing is compared."""
    lines = [line for line in written.lines if line.shared is not None]
    if not lines or not written.tokens:
        return ""
    if not any(line.diverged for line in lines):
        return "exact so far" if written.stage == "writing" else "exact throughout"
    mean = sum(line.shared or 0 for line in lines) / len(lines)
    if len(lines) == 1:
        return f"exact for {mean:.0f} token{'' if mean == 1 else 's'}, then ≠"
    return f"exact for {mean:.1f} tokens on average"


def _passes(texts: Sequence[Written]) -> str:
    """The first block in slow motion: AR's passes one after another, beside the student's single pass."""
    by_name = {written.decoder: written for written in texts if written.lines}
    if not {"ar", "pflm"} <= set(by_name) or by_name["pflm"].k < 2:
        return ""
    ar, student = by_name["ar"], by_name["pflm"]
    is_done = all(written.stage == "done" and written.nfe for written in (ar, student))
    slower = SLOW / (student.k * ar.seconds / ar.nfe) if is_done and ar.seconds else 0.0
    lanes = "".join(_lane(written, student.k, slower) for written in (ar, student))
    reading = f"The first block in slow motion, at each decoder's mean time per pass, {slower:,.0f} times slower."
    again = '<button type="button" class="kft-again">Play again</button>' if slower else ""
    return (
        f'<section class="kft-race{" kft-go" if slower else ""}"><h2>{student.k} passes against one</h2>{lanes}'
        f'<p class="kft-caption">{reading if slower else "The first block."} {again}</p></section>'
    )


def _lane(written: Written, k: int, slower: float) -> str:
    """The tokens of a block, each shown at the end of its pass."""
    line, each = written.lines[0], written.seconds / written.nfe * slower if slower else 0.0
    tokens = "".join(
        f'<i style="animation-delay: {each * step:.2f}s">{_visible(piece) or "…"}<small>{step}</small></i>'
        for piece, step in zip(line.pieces[:k], line.steps[:k], strict=True)
        if step
    )
    decoder = DECODERS[written.decoder]
    kind = "exact" if decoder.exact else "learned"
    return f'<p class="kft-lane kft-{kind}"><b>{decoder.label}</b>{tokens}</p>'


def _pane(written: Written, underlined: bool, hints: bool) -> str:
    decoder = DECODERS[written.decoder]
    kind = "exact" if decoder.exact else "learned"
    several = len(written.lines) > 1
    lines = "".join(
        _line(written, line, f"sample {n}" if several else "", underlined, hints)
        for n, line in enumerate(written.lines, start=1)
    )
    return (
        f'<section class="kft-pane kft-{kind}" data-decoder="{written.decoder}" data-stage="{written.stage}">'
        f"<header><h2>{decoder.label} <span>{decoder.how.format(k=written.k)}</span></h2>"
        f"{_facts(written, underlined)}</header>"
        f"{lines}</section>"
    )


def _facts(written: Written, underlined: bool) -> str:
    speed = f"{written.tokens / written.seconds:,.0f}" if written.seconds else "–"
    facts = [
        f"<b>{written.nfe}</b> {'pass' if written.nfe == 1 else 'passes'} (NFE)",
        f"<b>{written.tokens}</b> {'token' if written.tokens == 1 else 'tokens'}",
        f"<b>{written.seconds:.2f}</b> s",
        f"<b>{speed}</b> tokens/s",
    ]
    if underlined and written.loss is not None:
        facts.append(f"<b>{written.loss:.2f}</b> nats per token")
    if written.stage in ("waiting", "stopped"):
        facts.append({"waiting": "waits", "stopped": "stopped"}[written.stage])
    spread = "".join(f"<li>{fact}</li>" for fact in facts)
    return f'<ul>{spread}</ul><p class="kft-share">{agreement_words(written)}</p>'


def _line(written: Written, line: Line, name: str, underlined: bool, hints: bool) -> str:
    caption = [name] if name else []
    if name and line.shared is not None:
        caption.append(f"exact for {line.shared}, then ≠" if line.diverged else "exact")
    head = f'<p class="kft-caption">{" · ".join(caption)}</p>' if caption else ""
    in_order = DECODERS[written.decoder].in_order
    last = 0 if in_order else max(-(-len(line.tokens) // written.k), *line.steps)
    surprise = line.surprise if underlined else None
    starts = [0, *(first for first, _ in line.links if first), len(line.tokens)]
    links, blocks, stop = dict(line.links), [], "0"
    for first, end in pairwise(starts):
        spans = ""
        for step, members in groupby(range(first, end), key=lambda n: line.steps[n]):
            tokens = "".join(_token(line, n, surprise, hints) for n in members)
            spans += f'<span class="{_background(step, last)}">{tokens}</span>'
        if link := links.get(first):
            spans = f'<a class="kft-block" href="?{html.escape(link)}" tabindex="{stop}">{spans}</a>'
            stop = "-1"
        blocks.append(spans)
    return f'<div class="kft-line">{head}<p class="kft-text">{"".join(blocks)}</p></div>'


def _background(step: int, last: int) -> str:
    """Class of a step's tokens: one of two alternating, or with `last` a shade that is stronger for later steps."""
    if not step:
        return "g"
    return f"s{(step - 1) * SHADES // last}" if last else f"p{step % 2}"


def _token(line: Line, n: int, surprise: list[float] | None, hints: bool) -> str:
    if not line.steps[n]:
        return "_"
    piece = line.pieces[n]
    is_end = line.ended and n == len(line.tokens) - 1
    classes = [*["end"] * is_end, *["part"] * (not piece)]
    nats = "" if surprise is None else f", {surprise[n]:.1f} nats"
    if surprise is not None and (level := sum(surprise[n] >= bound for bound in LEVELS)):
        classes.append(f"u{level}")
    named = f' class="{" ".join(classes)}"' if classes else ""
    title = f' title="token {n + 1}, step {line.steps[n]}{nats}"' if hints else ""
    mark = '<em title="Here the text diverges from the exact one">≠</em>' if line.diverged and n == line.shared else ""
    return f"{mark}<i{named}{title}>{'end of text' if is_end else _visible(piece)}</i>"


@lru_cache(maxsize=2**14)
def _visible(piece: str) -> str:
    """A token's text within a line: spaces are kept, other invisible characters are shown as marks."""
    shown = "".join(sign if sign == " " else token_label(sign) for sign in piece)
    return html.escape(shown.replace("↵", "↵\n"))
