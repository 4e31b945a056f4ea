"""MODEL_CARD.md of a pair, and a summary for the terminal. All numbers are generated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kfexplore.models import AnyModel
from kfexplore.pair import Pair
from kfexplore.results import Bin, Estimate, Evaluation, SampleQuality

_LIMITS = "The measurements hold for this text, these settings and this seed. No other text was measured."
_LIMITS_OF = {
    "stories": """\
These models know one generated language: simple stories from a grammar of 19 plots. They continue any other prompt as
if it were such a story. The language is easy on purpose, so the student's results here say little about real prose; for
that, see the pair `tales`.""",
    "tales": """\
Small models trained on old children's books. They write grammatical nonsense, in the language and with the views of
their time. Their purpose is to show the map, not to write.""",
}


def model_card(pair: Pair, measured: Evaluation) -> str:
    """The card, as Markdown; its numbers are measured, read from the tensors, or from the pair's info."""
    found, student = measured.agreement, pair.need_student()
    config, slots = student.config, range(len(found.agreement_by_slot))
    head = ["slot k", "token equals the exact token", "tokens 1 to k all equal"]
    by_slot = [
        [
            str(j + 1),
            f"{found.agreement_by_slot[j]:.1%} ± {found.agreement_by_slot_interval[j]:.1%}",
            f"{found.agreement_by_length[j]:.1%} ± {found.agreement_by_length_interval[j]:.1%}",
            f"{found.student_nll_by_slot[j]:.2f}",
        ]
        for j in slots
    ]
    masked = f" Masked diffusion model: {_size(pair.masked)}." if pair.masked else ""
    with_mask = " with the mask token" if hasattr(config, "mask_id") else ""
    shape = f"context {config.context}, vocabulary {config.vocab_size}{with_mask}"
    return f"""# Pair `{pair.info.get("name", "")}`

A teacher and its push-forward student{_origin(pair.info)}.
`kfexplore eval` writes this card; no number in it is typed by hand.

- Teacher: {_size(pair.teacher)}. Student: {_size(student)}, K = {config.block}.{masked}
- Width {config.width}, {config.heads} heads, {shape}.
{_facts(pair.info)}
## Agreement with the exact map

On `{measured.text}`, {found.tokens:,} tokens not used for training: {found.blocks:,} noise vectors after random
prefixes in {found.windows} text windows of {found.context} tokens, seed {found.seed}. Intervals are 95 %, with windows
as the independent units.

- Teacher's loss on the text: **{found.teacher_nll:.3f}** nats per token.
- With the same context and noise, all {len(slots)} tokens of the student's block equal the exact map's on
  **{found.agreement_block:.1%}** ± {found.agreement_block_interval:.1%} of noise vectors. By slot:

{_table([*head, "student's loss on the exact token (nats; ideal 0)"], *by_slot)}

Where the two differ, the exact map (the teacher's inverse CDF, token by token) is right and the student is wrong.

Agreement by the entropy of the teacher's distribution at the start of the block, with intervals:

{_by_entropy(found.agreement_by_entropy, found.block_by_entropy)}

Agreement by the student's margin at the slot (the difference of its two largest logits), in fifths from lowest to
highest:

{_by_margin(found.agreement_by_margin)}

## Distribution of slot 1

Uniform noise pushed through slot 1 gives a distribution of the next token. Its total variation distance from the
teacher's is **{_plus(measured.slot_1.tv, 3)}** (0: the same distribution; 1: no overlap), over
{measured.slot_1.contexts} contexts, counted on {measured.slot_1.steps:,} steps of u.
On the same steps the exact map has {measured.slot_1.tv_exact:.3f}.

## Samples

{_samples_intro(measured)}

{_table(*_sample_table(measured.samples))}

{_NOTES}

## Limits

{_LIMITS_OF.get(str(pair.info.get("name")), _LIMITS)}

Measured on {measured.device} in {measured.dtype}, torch {measured.versions["torch"]}.
"""


def summary(measured: Evaluation) -> str:
    """The main numbers, for the terminal."""
    found = measured.agreement
    agreement = "  ".join(f"{value:.1%}" for value in found.agreement_by_slot)
    losses = "  ".join(f"{loss:.2f}" for loss in found.student_nll_by_slot)
    rows = _sample_table(measured.samples)
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    table = "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
    return (
        f"teacher: {found.teacher_nll:.3f} nats per token\n"
        f"agreement by slot: {agreement}, block: {found.agreement_block:.1%}\n"
        f"student's loss by slot: {losses} nats\n"
        f"distribution of slot 1: total variation {_plus(measured.slot_1.tv, 3)} "
        f"(exact map on the same grid: {measured.slot_1.tv_exact:.3f})\n\n{table}"
    )


_NOTES = """\
± is a 95 % interval over samples. The teacher's loss should be close to that of the teacher's own samples (ratio 1). A
lower loss is not better: a sampler that repeats itself or prefers the most likely words has one too. Entropy, distinct
n-grams and repeated 4-grams are counted within a sample; self-BLEU compares each sample with all others. The dithered
readout draws from the student's own distribution, with the low bits of the noise values."""


def _samples_intro(measured: Evaluation) -> str:
    settings = measured.settings
    text = (
        f"Every decoder continues {settings['samples']} held-out prefixes of {settings['prefix']} tokens by "
        f"{settings['new_tokens']} tokens, with the same noise, keyed by (seed, sample, position).\n"
        "AR is the teacher itself."
    )
    if settings["gen_ppl"]:
        text += f" Gen-PPL is the perplexity under {settings['gen_ppl']}, given the prefix."
    if settings["judge"]:
        text += f" Wins are against AR, by forced choice of {settings['judge']}, each pair in both orders. A pair in "
        text += "which the order decided counts half a win."
    return text


def _sample_table(rows: list[SampleQuality]) -> list[list[str]]:
    """The header row, then one row per decoder."""
    judged = rows[-1].win_rate is not None
    head = ["decoder", "passes", "teacher's loss (nats)", "ratio to AR", "entropy (nats)"]
    head += ["distinct-1", "distinct-2", "distinct-3", "repeated 4-grams", "self-BLEU"]
    table = [head + ["Gen-PPL"] * bool(rows[0].gen_ppl) + ["wins", "first shown chosen", "order decided"] * judged]
    for row in rows:
        cells = [row.decoder, str(row.nfe), _plus(row.teacher_nll), _plus(row.teacher_nll_ratio, 3), _plus(row.entropy)]
        cells += [_percent(s) for s in (row.distinct_1, row.distinct_2, row.distinct_3, row.repeated_4)]
        cells.append(_plus(row.self_bleu, 3))
        if row.gen_ppl is not None:
            cells.append(f"{row.gen_ppl.value:.1f} [{row.gen_ppl.low:.1f}, {row.gen_ppl.high:.1f}]")
        if judged:
            by_place = ("" if each is None else f"{each:.0%}" for each in (row.judged_first, row.judged_inconsistent))
            cells += ["" if row.win_rate is None else _range(row.win_rate), *by_place]
        table.append(cells)
    return table


def _by_entropy(by_slot: list[list[Bin]], block: list[Bin]) -> str:
    head = ["entropy (nats)", "noise vectors", *(f"slot {j + 1}" for j in range(len(by_slot))), "block"]
    rows = [
        [f"{b.low:.0f} to {b.high:.0f}", f"{b.blocks:,}", *(_range(s.share) for s in slots), _range(b.share, 1)]
        for *slots, b in zip(*by_slot, block, strict=True)
    ]
    return _table(head, *rows)


def _by_margin(by_slot: list[list[Bin]]) -> str:
    rows = [
        [f"{j + 1}", *(f"{_range(b.share)} at {b.low:.1f} to {b.high:.1f}" for b in bins)]
        for j, bins in enumerate(by_slot)
    ]
    width = max(map(len, rows))
    fifths = [f"fifth {i + 1}" for i in range(width - 1)]
    return _table(["slot", *fifths], *(row + [""] * (width - len(row)) for row in rows))


def _origin(info: Mapping[str, Any]) -> str:
    training = info.get("training")
    if isinstance(training, Mapping) and "recipe" in training:
        return f", distilled by the recipe `{training['recipe']}`"
    if "repository" in info:
        return f", published as `{info['repository']}` (revision `{info.get('revision', '')}`)"
    return ""


def _facts(info: Mapping[str, Any]) -> str:
    """Data, licence and training, if the pair's info has them."""
    lines = [f"- {name.capitalize()}: {info[name]}." for name in ("data", "licence") if name in info]
    training = info.get("training")
    if isinstance(training, Mapping) and training:
        lines += ["", "## Training", "", *(f"- {key}: {value}" for key, value in training.items())]
    return "\n".join(lines) + ("\n" if lines else "")


def _table(head: list[str], *rows: list[str]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plus(found: Estimate, digits: int = 2) -> str:
    return f"{found.value:.{digits}f} ± {found.half:.{digits}f}"


def _percent(found: Estimate) -> str:
    return f"{found.value:.1%} ± {max(found.high - found.value, found.value - found.low):.1%}"


def _range(found: Estimate, digits: int = 0) -> str:
    return f"{found.value:.{digits}%} [{found.low:.{digits}%}, {found.high:.{digits}%}]"


def _size(model: AnyModel) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters in {model.config.depth} blocks"
