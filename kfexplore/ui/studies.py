"""A study as the page shows it: texts, tables and figures by name; some are stored beside a bundled pair."""

from __future__ import annotations

import html as markup
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from kfexplore.checkpoints.registry import bundled_folder, bundled_pairs, fingerprint, pair_parts
from kfexplore.config import STUDY_BLOCKS
from kfexplore.figures.hints import hint
from kfexplore.figures.laws import Panel, counts_figure, joint_figure, surprise_figure
from kfexplore.figures.page import THEMES, bare
from kfexplore.figures.palette import Theme, colours, token_colour, token_label
from kfexplore.pair import Pair
from kfexplore.results import EXPLAINED, ContextStudy, SamplerLaw, Surprise, exactly
from kfexplore.ui.components import boxed, cells, heading, quoted, table
from kfexplore.ui.service import Service
from kfexplore.ui.tabs.scrub import Dependence, opening

PANELS: Final[tuple[Panel, ...]] = ("joint", "product", "difference")
STORED: Final = "joint.json"
"""File beside the weights of a bundled pair."""
END_SHOWN: Final = 40
"""Characters shown of a context."""
WORDS_SHOWN: Final = 3
"""Words shown before a wrong token."""
SHOWN_AS_STORED: Final = "Stored with the page. Press Draw to study the prompt above."
READING: Final = f"""<b>TV</b> {hint("total variation", "joint")}: total variation distance from the teacher's
distribution. 0: the same distribution; 1: nothing in common. <b>limits</b>: how the value was found. <i>exact</i>:
both distributions are known. A range: by quadrature over the student's noise, with its error. <b>≥</b>: the 95 %
lower limit from the sampled blocks; the distance may be larger by any amount, so do not compare lower limits with each
other or with exact values. One prompt does not rank samplers: notebook 02 compares them over many contexts. <b>✕</b>:
fraction of blocks as unlikely as the teacher's rarest 0.1 %. <b>p</b>: how often the teacher's own blocks would be at
least this far from its distribution (G-test). <b>KL</b>: KL(teacher ‖ sampler) where it is known; for the ideal
MDLM, that of exact marginals."""
"""How to read the table of samplers."""
POOLED: Final = """ For more than two tokens the G-test counts likely blocks one by one and pools the others by how they
begin, so p does not detect errors within a pool."""
SQUARES: Final = " The three tables show the first two tokens."


def drawn(measured: ContextStudy, models: Pair, note: str = "", theme: Theme = "light") -> dict[str, str]:
    """Everything that the page shows for a study, as HTML or, for figures, as JSON.

    Args:
        measured: The study.
        models: The pair, for the tokens' texts.
        note: Further notes.
        theme: Theme of the page.

    Returns:
        Values by name: status, head, blocks, samplers, and for each figure NAME and NAME-words.
    """

    def text(token: int) -> str:
        return models.texts([token])[0] if models.tokenizer else str(token)

    shown = {
        "status": _status(measured, note),
        "head": boxed(_headline(measured, models)),
        "blocks": _blocks(measured, text, theme),
        "samplers": _samplers(measured),
    }
    figures: dict[str, Any] = {panel: bare(joint_figure(measured.law, panel, text, theme)) for panel in PANELS}
    figures["surprise"] = bare(surprise_figure(measured, theme), 240)
    figures["counts"] = bare(counts_figure(measured, text, theme), 380)
    for name, ((finding, reading), figure) in figures.items():
        shown[f"{name}-words"] = heading("Joint − product" if name == "difference" else finding, reading)
        shown[name] = figure
    return shown


def stored_studies(name: str) -> list[tuple[Dependence, Mapping[Theme, dict[str, str]]]]:
    """The examples of a bundled pair, each with its `drawn` study by theme; [] if none are stored for its weights."""
    file = bundled_folder(name) / STORED if name in bundled_pairs() else None
    if file is None or not file.is_file():
        return []
    stored = json.loads(file.read_text(encoding="utf-8"))
    if stored["weights"] != fingerprint(pair_parts(file.parent)):
        return []
    found = [(Dependence(**each["example"]), each["shown"]) for each in stored["studies"]]
    return found if tuple(example for example, _ in found) == opening(name).dependences else []


def store_studies(service: Service, name: str) -> None:
    """Runs the studies of a bundled pair's examples, if any, and stores them beside its weights."""
    studies = []
    for example in opening(name).dependences:
        job = service.study(name, example.prompt, example.k, STUDY_BLOCKS, 0, example.temperature)
        *_, measured = job.run()
        assert isinstance(measured, ContextStudy)
        pair = service.models.pair(name)
        shown = {theme: drawn(measured, pair, SHOWN_AS_STORED, theme) for theme in THEMES}
        studies.append({"example": vars(example), "shown": shown})
    if studies:
        folder = bundled_folder(name)
        document = {"weights": fingerprint(pair_parts(folder)), "studies": studies}
        (folder / STORED).write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")


def end_of(text: str) -> str:
    """The last `END_SHOWN` characters of a context."""
    return text if len(text) <= END_SHOWN else f"…{text[-END_SHOWN:].lstrip()}"


def _headline(measured: ContextStudy, models: Pair) -> str:
    """The finding, and the tokens that the results are about; it stays when another study runs or fails."""
    law, ids, k, total = measured.law, measured.law.context.tolist(), measured.k, measured.correlation.total
    rows = {row.sampler: f"{100 * row.impossible.value:.1f} %" for row in measured.samplers}
    found = f"{rows['ideal MDLM']} of independent draws are blocks that the teacher almost never writes"
    found += f"; of the student's blocks, {rows['student']}" if "student" in rows else ""
    if k > 2:
        dependence = f"Total correlation: {total.value:.2f} nats ({total.low:.2f} to {total.high:.2f})"
    else:
        distance = exactly(law.tv_product.value).words
        dependence = (
            f"Mutual information of the two tokens: {law.mutual_information.value:.2f} nats. Drawing them "
            f"independently gives a total variation distance of {distance}"
        )
    after = f"{len(ids)} token ids that end with {ids[-1]}"
    if models.tokenizer:
        after = quoted(end_of("".join(models.texts(ids))))
    heat = f" at temperature {measured.temperature:g}" if measured.temperature != 1.0 else ""
    about = f"Everything below: the next {k} tokens after {after}{heat}. {dependence}. {hint('nats', 'joint')}"
    return f'<h2>{markup.escape(found)}.</h2><p class="kf-prose-reading">{about}</p>'


def _status(measured: ContextStudy, note: str) -> str:
    law = measured.law
    known, total = law.mutual_information, measured.correlation.total
    covered = f"all {len(law.first):,} first tokens" if not law.uncovered else f"{len(law.first):,} first tokens"
    limits = ""
    if known.lower < known.upper:
        limits = f" (between {known.lower:.3f} and {known.upper:.3f}, whatever the others do)"
    dependence = f"mutual information of the next two tokens: {known.value:.3f} nats{limits}"
    if measured.k > 2:
        limits = f" ({total.low:.3f} to {total.high:.3f})" if total.low < total.high else ""
        dependence = f"total correlation of the next {measured.k}: {total.value:.3f} nats{limits}"
    facts = (
        f"After {len(law.context)} tokens, over {covered}: {dependence}; "
        f"{measured.seconds:.1f} s for distribution and samplers on {measured.device}, seed {measured.seed}."
    )
    return boxed(f'<p class="kf-prose-reading">{facts} {markup.escape(note)}</p>')


def _blocks(measured: ContextStudy, text: Callable[[int], str], theme: Theme) -> str:
    """The first blocks of each sampler, written out, with what is wrong in those that are almost impossible."""
    before = "".join(map(text, measured.law.context.tolist()))
    cards = "".join(
        f"<div><p><b>{row.sampler}</b>{_passes(row)}: "
        f"<b>{100 * row.impossible.value:.1f} %</b> ✕</p>"
        + "".join(_block(row, n, before, text, theme) for n in range(min(EXPLAINED, row.size)))
        + "</div>"
        for row in measured.samplers
    )
    return boxed(
        f'<div class="kf-prose-cards">{cards}</div><p class="kf-prose-reading">In each row, teacher, student and the '
        "one-pass samplers read the same noise. ✕ marks a block as unlikely as the teacher's rarest 0.1 %, with its "
        "most surprising token.</p>"
    )


def _passes(row: SamplerLaw) -> str:
    """How many passes a sampler takes, unless its name says so."""
    passes = f", {row.nfe} pass{'es' * (row.nfe > 1)}"
    return "" if passes in row.sampler else passes


def _block(row: SamplerLaw, n: int, before: str, text: Callable[[int], str], theme: Theme) -> str:
    tokens = row.blocks[n].tolist()
    chips = "".join(
        f'<span style="background: {token_colour(token, theme)}; color: {colours(theme).ink}">'
        f"{markup.escape(token_label(text(token)))}</span>"
        for token in tokens
    )
    wrong = row.wrong.get(n)
    why = "" if wrong is None else f'<p class="kf-prose-reading kf-prose-why">{_why(wrong, tokens, before, text)}</p>'
    return f'<p class="kf-prose-block">{chips}{" ✕" if row.is_impossible[n] else ""}</p>{why}'


def _why(wrong: Surprise, tokens: list[int], before: str, text: Callable[[int], str]) -> str:
    """The token that does not fit, and the most likely one in its place."""
    words = (before + "".join(map(text, tokens[: wrong.slot]))).split(" ")
    after = ("…" if len(words) > WORDS_SHOWN else "") + " ".join(words[-WORDS_SHOWN:])
    found, likely = (quoted(text(token).strip(" ")) for token in (tokens[wrong.slot], wrong.likely))
    return (
        f"after {quoted(after)}: {found} {_percent(wrong.probability)}; "
        f"most likely: {likely} {_percent(wrong.likely_probability)}"
    )


def _percent(share: float) -> str:
    """A fraction in percent, as HTML with two digits; never 0."""
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %" if percent >= 1e-3 else "&lt; 0.001 %"


def _samplers(measured: ContextStudy) -> str:
    """Each sampler's numbers as a table."""
    columns = ("sampler", "passes", "blocks", "TV", "limits", "✕", "p", "KL (nats)")
    name = '<span style="white-space: normal">{}</span>'
    rows = [cells([name.format(row.sampler), *_numbers(row)]) for row in measured.samplers]
    pooled, squares = (POOLED, SQUARES) if measured.k > 2 else ("", "")
    notes = " ".join(map(markup.escape, measured.notes))
    reading = f'<p class="kf-prose-reading">{notes}</p><p class="kf-prose-reading">{READING}{pooled}{squares}</p>'
    title = "Every sampler against the teacher"
    return boxed(f"<h2>{title}</h2>{table(columns, rows, title)}{reading}")


def _numbers(row: SamplerLaw) -> tuple[str, ...]:
    return (
        f"{row.nfe}",
        f"{row.size:,}",
        row.tv.words,
        row.tv.limits,
        f"{100 * row.impossible.value:.1f} %",
        markup.escape(row.p_words),
        "" if row.kl is None else f"{row.kl:.2f}",
    )
