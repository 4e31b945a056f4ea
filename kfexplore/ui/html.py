"""Text between the figures of a page: headings, tables, and what it looks like."""

from __future__ import annotations

import html as markup
from typing import Any, Final

import gradio as gr

from kfexplore.figures.scripts import calling

CSS: Final = """
.kf-prose { line-height: 1.5; --kf-prose-second: color-mix(in srgb, var(--body-text-color) 72%, transparent); }
.kf-prose h2 { margin: 0 0 .25rem; font-size: 1.05rem; font-weight: 600; line-height: 1.35; }
.kf-prose p { margin: 0 0 .75rem; }
.kf-prose p:last-child { margin: 0; }
.kf-prose + .kf-prose { margin-top: .75rem; }
.kf-prose .kf-prose-reading, .kf-prose caption, .kf-prose th { color: var(--kf-prose-second); font-size: .875rem; }
.kf-prose .kf-prose-parts { display: flex; flex-wrap: wrap; gap: 1rem 3rem; margin-bottom: 1rem; }
.kf-prose .kf-prose-parts > .kf-prose-scroll { max-width: 100%; min-width: 0; }
.kf-prose .kf-prose-parts > dl { flex: 1 1 320px; min-width: 0; margin: 0; }
.kf-prose table { border-collapse: collapse; font-variant-numeric: tabular-nums; height: max-content; }
.kf-prose caption { text-align: left; padding-bottom: .5rem; }
.kf-prose th { text-align: left; font-weight: normal; }
.kf-prose th, .kf-prose td { padding: .2rem 1rem .2rem 0; border-bottom: 1px solid var(--border-color-primary); }
.kf-prose th, .kf-prose td { white-space: nowrap; }
.kf-prose .kf-prose-number { text-align: right; }
.kf-prose .kf-prose-other { color: var(--kf-prose-second); }
.kf-prose dt { margin-top: .5rem; }
.kf-prose dd { margin: 0; font-weight: 600; }
.kf-prose.kf-prose-failed { border-left: 3px solid var(--kf-prose-differ, #b4552d); padding-left: .75rem; }
/* A shade at each side to which there is more; it stays, and its cover moves with the table. */
.kf-prose .kf-prose-scroll {
  --kf-prose-shade: color-mix(in srgb, var(--body-text-color) 30%, transparent);
  overflow-x: auto; contain: inline-size;
  background:
    linear-gradient(to right, var(--body-background-fill) 1rem, transparent) left / 2rem 100% no-repeat local,
    linear-gradient(to left, var(--body-background-fill) 1rem, transparent) right / 2rem 100% no-repeat local,
    linear-gradient(to right, var(--kf-prose-shade), transparent) left / 1rem 100% no-repeat scroll,
    linear-gradient(to left, var(--kf-prose-shade), transparent) right / 1rem 100% no-repeat scroll;
}
@media (max-width: 600px) { .kf-prose :is(th, td) { padding-right: .4rem; font-size: .78rem; } }
.kf-prose .kf-prose-cards { display: flex; flex-wrap: wrap; gap: 1.25rem 2rem; }
.kf-prose .kf-prose-cards > div { flex: 1 1 230px; min-width: 0; }
.kf-prose .kf-prose-block { margin: 0 0 .3rem; font-size: .9rem; line-height: 1.7; overflow-wrap: anywhere; }
.kf-prose .kf-prose-block span { padding: .1rem .25rem; border-radius: 3px; white-space: pre; margin-right: 2px; }
@media (min-width: 800px) { .kf-prose.kf-prose-beside { min-height: 8.4rem; } }
"""

READABLE: Final = "<style>.kf-told .pending { opacity: 1; }</style>"
"""Gradio fades what waits in its queue; what has the class `kf-told` says what it waits for."""

DARK: Final = calling("fields.js", "withTheme")
"""For an event's `js`: the last field says which theme the page has."""


def html(text: str, **options: Any) -> gr.HTML:
    """A component that shows what `boxed` makes."""
    return gr.HTML(text, css_template=CSS, apply_default_css=False, **options)


def told(text: str, **options: Any) -> gr.HTML:
    """As `html`; what is new in it is read out to those who do not see it."""
    return html(text, html_template='<div role="status">${value}</div>', **options)


def boxed(text: str, more: str = "") -> str:
    """HTML in the page's own look; `more` names further classes."""
    return f'<div class="kf-prose {more}">{text}</div>'


def mistake(text: str) -> str:
    """What failed, as HTML that is read out at once; an element of its own, which Gradio inserts as a whole."""
    return boxed(f'<div role="alert">{text}</div>', "kf-prose-failed")


def scrolling(table: str, name: str) -> str:
    """A wide table that is scrolled sideways, by keys too; `name` is read out."""
    return f'<div class="kf-prose-scroll" role="region" aria-label="{markup.escape(name)}" tabindex="0">{table}</div>'


def heading(finding: str, reading: str, beside: bool = False) -> str:
    """What a figure finds, and how to read it; figures beside each other begin at one height."""
    finding, reading = map(markup.escape, (finding, reading))
    words = f'<h2>{finding}</h2><p class="kf-prose-reading">{reading}</p>'
    return boxed(words, "kf-prose-beside" if beside else "")
