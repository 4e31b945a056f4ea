"""Components shared by tabs: styled text, messages, tables, figures, and fields that depend on the pair."""

from __future__ import annotations

import html as markup
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import gradio as gr

from kfexplore.decoders import DECODERS, MODELS, Kind, possible
from kfexplore.errors import KfError
from kfexplore.figures.hints import brief
from kfexplore.figures.scripts import calling, inlined
from kfexplore.pair import Pair
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.server import PLOTLY

Shown = dict[gr.blocks.Block, Any]
"""A handler's updates by component; all other components are unchanged."""

CSS: Final = """
.kf-prose { line-height: 1.5; --kf-prose-second: color-mix(in srgb, var(--body-text-color) 72%, transparent); }
.kf-prose h2 { margin: 0 0 .25rem; font-size: 1.05rem; font-weight: 600; line-height: 1.35; }
.kf-prose p { margin: 0 0 .75rem; }
.kf-prose p:last-child { margin: 0; }
.kf-prose + .kf-prose { margin-top: .75rem; }
.kf-prose .kf-prose-reading, .kf-prose caption, .kf-prose th { color: var(--kf-prose-second); font-size: .875rem; }
.kf-prose .kf-prose-parts { display: flex; flex-wrap: wrap; gap: 1rem 3rem; margin-bottom: 1rem; }
.kf-prose .kf-prose-parts > .kf-prose-scroll { flex: 1 1 320px; max-width: 100%; min-width: 0; }
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
/* A fixed shade at each side with more columns; its cover scrolls with the table. */
.kf-prose .kf-prose-scroll {
  --kf-prose-shade: color-mix(in srgb, var(--body-text-color) 30%, transparent);
  overflow-x: auto; contain: inline-size;
  background:
    linear-gradient(to right, var(--body-background-fill) 1rem, transparent) left / 2rem 100% no-repeat local,
    linear-gradient(to left, var(--body-background-fill) 1rem, transparent) right / 2rem 100% no-repeat local,
    linear-gradient(to right, var(--kf-prose-shade), transparent) left / 1rem 100% no-repeat scroll,
    linear-gradient(to left, var(--kf-prose-shade), transparent) right / 1rem 100% no-repeat scroll;
}
.kf-prose .kf-prose-why { margin: -.2rem 0 .45rem; font-size: .8rem; line-height: 1.35; }
@media (max-width: 600px) { .kf-prose :is(th, td) { padding-right: .4rem; font-size: .78rem; } }
.kf-prose .kf-prose-cards { display: flex; flex-wrap: wrap; gap: 1.25rem 2rem; }
.kf-prose .kf-prose-cards > div { flex: 1 1 230px; min-width: 0; }
.kf-prose .kf-prose-block { margin: 0 0 .3rem; font-size: .9rem; line-height: 1.7; overflow-wrap: anywhere; }
.kf-prose .kf-prose-block span { padding: .1rem .25rem; border-radius: 3px; white-space: pre; margin-right: 2px; }
"""

READABLE: Final = "<style>.kf-told .pending { opacity: 1; }</style>"
"""Gradio fades components that wait in its queue; those of class `kf-told` show the reason and stay readable."""

QUIET: Final[dict[str, Any]] = {"queue": False, "show_progress": "hidden"}
"""Options of an event that is answered immediately."""


def html(text: str, **options: Any) -> gr.HTML:
    """A component for HTML from `boxed`."""
    return gr.HTML(text, css_template=CSS, apply_default_css=False, **options)


def message(text: str, **options: Any) -> gr.HTML:
    """As `html`; screen readers announce its changes."""
    return html(text, html_template='<div role="status">${value}</div>', **options)


def button(label: str, elem_id: str | None = None, min_width: int = 100, **options: Any) -> gr.Button:
    """A button beside taller fields."""
    look = {"scale": 0, "min_width": min_width, "elem_id": elem_id, "elem_classes": "kf-beside"}
    return gr.Button(label, **look, **options)


def status_line(text: str, elem_id: str) -> gr.HTML:
    """The component for the progress of a tab's job."""
    return message(boxed(text), elem_id=elem_id, elem_classes="kf-told", head=READABLE)


def queued(started: Any, tab: Any, shown: list[gr.blocks.Block], name: str, limit: int, **options: Any) -> Any:
    """Runs a tab's job in the page's queue; returns the event, which can be cancelled.

    Args:
        started: The event that sets up the job.
        tab: Has `run` and `refuse`, which take the value of its `held`, and `status`.
        shown: Components that they may change.
        name: Jobs of one name share a queue.
        limit: Jobs of that name that run at once.
        options: Further options of the event.
    """
    places = {"concurrency_id": name, "concurrency_limit": limit}
    progress = {"show_progress": "full", "show_progress_on": tab.status}
    running = started.then(tab.run, tab.held, shown, **places, **progress, **options)
    running.failure(tab.refuse, tab.held, shown, **QUIET)
    return running


def session_state(limits: ServerLimits) -> gr.State:
    """A session's state in a tab: an object with a `job`, which is stopped when the state is dropped."""
    return gr.State(None, time_to_live=limits.idle_seconds, delete_callback=lambda held: held and held.job.stop())


def progress_bar(done: float, total: float, label: str) -> str:
    """HTML of a progress bar."""
    return (
        f'<div role="progressbar" aria-label="{label}" aria-valuemin="0" aria-valuenow="{done}" '
        f'aria-valuemax="{total}" style="height: 8px; margin: 0 0 .5rem; border-radius: 4px; overflow: hidden; '
        f'background: var(--border-color-primary)"><div style="height: 100%; width: {100 * done / total:.1f}%; '
        'background: var(--button-primary-background-fill)"></div></div>'
    )


def boxed(text: str, more: str = "") -> str:
    """HTML in the page's style; `more` has further classes."""
    return f'<div class="kf-prose {more}">{text}</div>'


def quoted(text: str) -> str:
    """A text as HTML in double quotation marks, or in single ones if it contains double ones."""
    marks = "‘’" if set('"“”') & set(text) else "“”"
    return marks[0] + markup.escape(text) + marks[1]


def mistake(text: str) -> str:
    """An error as HTML that screen readers announce; a separate element, which Gradio inserts as a whole."""
    return boxed(f'<div role="alert">{text}</div>', "kf-prose-failed")


def scrolling(table: str, name: str) -> str:
    """A wide table that scrolls sideways, also by keyboard; `name` is its accessible label."""
    return f'<div class="kf-prose-scroll" role="region" aria-label="{markup.escape(name)}" tabindex="0">{table}</div>'


def cells(values: Sequence[str], tag: str = "td") -> str:
    """The cells of a table's row: a name, then numbers."""
    return "".join(f"<{tag}{' class=kf-prose-number' if n else ''}>{value}</{tag}>" for n, value in enumerate(values))


def table(columns: Sequence[str], rows: Iterable[str], name: str) -> str:
    """A table of rows from `cells`; `name` is its accessible label."""
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return scrolling(f"<table><tr>{cells(columns, 'th')}</tr>{body}</table>", name)


def heading(finding: str, reading: str, place: str = "") -> str:
    """A figure's finding and how to read it; with a `place` as for `hint`, a "?" hides all but the first sentence."""
    finding, reading = map(markup.escape, (finding, reading))
    reading = brief(reading, place) if place else reading
    return boxed(f'<h2>{finding}</h2><p class="kf-prose-reading">{reading}</p>')


def empty_figure(height: int) -> str:
    """An empty figure as JSON, shown before the first answer."""
    axis = {"visible": False}
    return json.dumps({"data": [], "layout": {"height": height, "xaxis": axis, "yaxis": axis}})


def plot(figure: str, **options: Any) -> gr.HTML:
    """A component whose value is a figure as JSON (`go.Figure.to_json`); set another value to redraw it.

    Args:
        figure: The initial figure; its layout has a height.
        options: Further arguments of `gr.HTML`.
    """
    return gr.HTML(
        figure,
        html_template='<div class="kf-plot"></div>',
        js_on_load=f"{inlined('components.js')}mountPlot(element, props, watch, {json.dumps(PLOTLY)});",
        apply_default_css=False,
        **options,
    )


REFUSED: Final = mistake(
    "<p>The server could not accept this: too many requests are waiting, or it failed. Try again in a while.</p>"
)


def decoder_field(elem_id: str) -> gr.CheckboxGroup:
    """A choice of decoders."""
    return gr.CheckboxGroup(decoder_choices(), value=["ar", "pflm"], label="Decoders", elem_id=elem_id, min_width=320)


def decoder_choices(missing: Sequence[Kind] = ()) -> list[tuple[str, str]]:
    """Labels and values of the decoders, except those that need a missing model."""
    return [(DECODERS[name].label, name) for name in possible([kind for kind in MODELS if kind not in missing])]


def chosen_decoders(chosen: Sequence[str] | None) -> tuple[str, ...]:
    """The decoders chosen in the field.

    Raises:
        KfError: none is chosen.
    """
    if not chosen:
        raise KfError("No decoder is chosen.", f"one or more of {', '.join(each.label for each in DECODERS.values())}")
    return tuple(chosen)


def takers(option: str) -> str:
    """A sentence that says which decoders an option applies to."""
    those = [decoder.label for decoder in DECODERS.values() if option in decoder.options]
    others = [decoder.label for decoder in DECODERS.values() if option not in decoder.options]
    return f"{', '.join(those)} only." if len(those) < len(others) else f"Ignored by {', '.join(others)}."


def offered_decoders(pair: Pair, held: Sequence[str]) -> dict[str, Any]:
    """The update that limits the field of decoders to those that a pair offers."""
    missing: list[Kind] = [kind for kind in ("student", "masked") if getattr(pair, kind) is None]
    choices = decoder_choices(missing)
    offered = [name for _, name in choices]
    gone = [each.label for name, each in DECODERS.items() if name not in offered]
    without, are = " and no ".join(MODELS[kind] for kind in missing), "is" if len(gone) == 1 else "are"
    return fitted(
        held,
        [name for name in held if name in offered],
        choices=choices,
        info=f"This pair has no {without}, so {', '.join(gone)} {are} not offered." if gone else "",
    )


def fitted(held: object, fitting: object, **changes: Any) -> dict[str, Any]:
    """A field's update; a value that fits is not sent back, as the user may have changed it since."""
    update: dict[str, Any] = gr.update(**changes) if fitting == held else gr.update(value=fitting, **changes)
    return update


def sent(fields: Sequence[gr.Component], tab: str = "") -> str:
    """The `js` of an event whose inputs are a hidden field, set to whether the page is dark, then `fields`.

    Values of sliders are clipped to their ranges. With a tab, another hidden field comes first: whether it is open.
    """
    ends = [[field.minimum, field.maximum] if isinstance(field, gr.Slider) else None for field in fields]
    return calling("fields.js", "ofTab", tab, ends) if tab else calling("fields.js", "withTheme", ends)


def number(what: str, value: object) -> float:
    """The number in a field.

    Raises:
        KfError: it is empty, not a number, or not finite.
    """
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return value
    except OverflowError:  # an integer too large for a float
        pass
    raise KfError(f"{what} is {'empty' if value is None else repr(value)}.", "a number")


def whole(what: str, value: object, least: int = 0) -> int:
    """The whole number in a field.

    Raises:
        KfError: it is not a whole number, or less than `least`.
    """
    valid = f"a whole number, {least} or more"
    try:
        found = number(what, value)
    except KfError as error:
        raise KfError(error.failed, valid) from None
    if found != int(found) or found < least:
        raise KfError(f"{what} is {value}.", valid)
    return int(found)


def failed(error: KfError) -> str:
    """An error as an HTML box: what failed, what would be valid, what to run."""
    return mistake("".join(f"<p>{markup.escape(line)}</p>" for line in str(error).splitlines()))
