"""Samples from the teacher and its student: `python -m analysis.quality --pair tales --out runs/quality`.

After the first tokens of held-out texts, all decoders under the same noise: the teacher's loss
against the diversity of samples, over temperature, K, penalty and dither; the ranking by perplexity alone; where the
texts diverge; and the teacher's loss on a block, by the number of its exact tokens. Prints tables and writes
quality.json, quality.csv, quality.html and one PNG per figure.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from analysis import quality_figures as drawing
from analysis.writing import study_settings, study_texts, text_table, write_study
from kfexplore import noise
from kfexplore.config import DEFAULT_PAIR, DecodeConfig
from kfexplore.errors import KfError, reported
from kfexplore.evaluate import intervals
from kfexplore.evaluate.judges import continued, gen_ppl, load_judge
from kfexplore.evaluate.samples import Written, name, quality, token_losses, write_all
from kfexplore.figures.palette import Theme
from kfexplore.pair import Pair, load_pair
from kfexplore.results import Estimate, Floats, Ints, SampleQuality

TEACHER_TAUS = (0.25, 0.5, 0.7, 0.85, 1.0, 1.15)
STUDENT_TAUS = (0.5, 0.75, 1.0, 1.25)
PENALTIES = (0.0, 0.2, 0.5, 1.0)
DITHERS = (None, 2, 6)


def sweeps(block: int) -> dict[str, list[DecodeConfig]]:
    """Decoders that vary one setting at a time; each sweep of the student includes its plain argmax at K."""
    return {
        "AR over temperature": [DecodeConfig("ar", temperature=tau) for tau in TEACHER_TAUS],
        "student over K": [DecodeConfig("pflm", k) for k in range(1, block + 1)],
        f"K = {block} over the penalty": [DecodeConfig("pflm", block, frequency_penalty=p) for p in PENALTIES],
        f"K = {block} over the dither": [DecodeConfig("pflm", block, dither=dither) for dither in DITHERS],
        f"K = {block} over temperature": [DecodeConfig("pflm", block, temperature=tau) for tau in STUDENT_TAUS],
    }


def prompts(pair: Pair, texts: Sequence[str], length: int) -> Ints:
    """(S, length) first tokens of each text that has at least `length` tokens.

    Raises:
        KfError: fewer than two texts have.
    """
    coded = [pair.encode(text)[0] for text in texts if text]
    long = [ids[:length] for ids in coded if len(ids) >= length]
    if len(long) < 2:
        raise KfError(f"{len(long)} texts have {length} tokens.", "at least two")
    return np.array(long)


def at_variety(row: SampleQuality, own: Sequence[SampleQuality]) -> drawing.AtVariety:
    """The teacher's loss at the entropy of a decoder's samples, interpolated between the teacher's temperatures."""
    for low, high in itertools.pairwise(sorted(own, key=lambda each: each.tau)):
        rise = high.entropy.value - low.entropy.value
        at = (row.entropy.value - low.entropy.value) / rise if rise else -1.0
        if 0 <= at <= 1:
            increase = high.teacher_nll.value - low.teacher_nll.value
            loss = low.teacher_nll.value + at * increase
            half = float(np.hypot(row.teacher_nll.half, increase / rise * row.entropy.half))
            lost = row.teacher_nll.value - loss
            tau = low.tau + at * (high.tau - low.tau)
            return drawing.AtVariety(row, tau, loss, Estimate(lost, lost - half, lost + half))
    return drawing.AtVariety(row, None, None, None)


def survival(written: Written, own: Written) -> drawing.ByPosition:
    """Fractions of samples whose first 1 .. n tokens all equal the teacher's under the same noise."""
    same = np.cumprod(written.tokens == own.tokens, axis=1).mean(axis=0)
    shares = [intervals.wilson(float(share), len(own.tokens)) for share in same]
    return drawing.ByPosition(name(written.decoder), written.decoder.k or 1, shares)


def slot_losses(written: Written, losses: Floats, own: Floats) -> drawing.ByPosition:
    """Excess loss of each slot over the teacher's own sample after the same prompt; losses (S, n), nats."""
    k = written.decoder.k or 1
    excess = [intervals.mean(losses[:, slot::k].mean(axis=1) - own.mean(axis=1)) for slot in range(k)]
    return drawing.ByPosition(name(written.decoder), k, excess)


def leading(pair: Pair, contexts: Ints, each: int, seed: int) -> list[drawing.Leading]:
    """Blocks of both maps after contexts (C, N), with `each` noise vectors per context, by leading exact slots."""
    slots = pair.student.config.block
    groups, excess = np.empty((len(contexts), each)), np.empty((len(contexts), each, slots))
    for c, context in enumerate(tqdm(contexts, desc="blocks", leave=False)):
        u = noise.uniform(seed, range(c * each, (c + 1) * each), len(context), slots)  # not the context's noise
        before = np.tile(context, (each, 1))
        block = pair.block(before, u)
        groups[c] = np.cumprod(block.learned == block.exact, axis=1).sum(axis=1)
        learned, exact = (token_losses(pair.teacher, before, tokens) for tokens in (block.learned, block.exact))
        excess[c] = learned - exact
    found = []
    for count in range(slots + 1):
        where = groups == count
        if where.sum(axis=1).astype(bool).sum() < 2:
            continue
        share = intervals.clustered_fraction(where.sum(1), np.full(len(groups), each))
        by_slot = [intervals.ratio((excess[..., j] * where).sum(1), where.sum(1)) for j in range(slots)]
        found.append(drawing.Leading(count, share, by_slot))
    return found


@dataclass(frozen=True)
class Study:
    """All results for the script and the notebook."""

    frontiers: list[drawing.Frontier]
    at_variety: list[drawing.AtVariety]  # of the student's plain argmax at every K
    survival: list[drawing.ByPosition]
    slots: list[drawing.ByPosition]
    leading: list[drawing.Leading]
    texts: dict[str, str]  # by decoder, the text after the first prompt

    @property
    def rows(self) -> list[SampleQuality]:
        """Every decoder once, the teacher at temperature 1 first."""
        rows = {row.decoder: row for frontier in self.frontiers for row in frontier.rows}
        return [rows.pop("AR"), *rows.values()]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "frontiers": [asdict(frontier) for frontier in self.frontiers],
            "at_variety": [{**asdict(a), "row": a.row.decoder} for a in self.at_variety],
            "survival": {s.decoder: [asdict(share) for share in s.values] for s in self.survival},
            "slot_excess": {s.decoder: [asdict(found) for found in s.values] for s in self.slots},
            "leading": [asdict(found) for found in self.leading],
        }


def measure(pair: Pair, before: Ints, new_tokens: int, seed: int, each: int = 16, ppl: str | None = None) -> Study:
    """Runs the whole study.

    Args:
        pair: Teacher, student, tokenizer.
        before: (S, N) prompts.
        new_tokens: New tokens per prompt and decoder.
        seed: Random seed of the noise.
        each: Noise vectors per context for single blocks; a context is a prompt and half of the teacher's continuation.
        ppl: Another causal model for the perplexity; None: only the teacher.
    """
    plans = sweeps(pair.student.config.block)
    chosen = list(dict.fromkeys(decoder for plan in plans.values() for decoder in plan))
    chosen.sort(key=lambda decoder: decoder != DecodeConfig("ar"))
    written = write_all(pair, before, new_tokens, chosen, seed)
    losses = [token_losses(pair.teacher, before, each.tokens) for each in written]
    rows = quality(written, losses)
    tokenizer = pair.need_tokenizer()
    if ppl is not None:
        judge = load_judge(ppl, pair.teacher.device)
        texts = (continued(tokenizer, before, each.tokens) for each in written)
        rows = [replace(row, gen_ppl=gen_ppl(judge, text)) for row, text in zip(rows, texts, strict=True)]
    row_of, of = dict(zip(chosen, rows, strict=True)), dict(zip(chosen, written, strict=True))
    frontiers = [
        drawing.Frontier(what, [_value(d) for d in plan], [row_of[d] for d in plan]) for what, plan in plans.items()
    ]
    own, plain = written[0], [of[decoder] for decoder in plans["student over K"]]
    losses_of = dict(zip(chosen, losses, strict=True))
    read = np.concatenate([before, own.tokens[:, : new_tokens // 2]], axis=1)
    return Study(
        frontiers,
        [at_variety(row_of[each.decoder], frontiers[0].rows) for each in plain],
        [survival(each, own) for each in plain],
        [slot_losses(each, losses_of[each.decoder], losses[0]) for each in plain],
        leading(pair, read, each, seed),
        {name(d): "".join(pair.texts(of[d].tokens[0].tolist())) for d in (own.decoder, *(w.decoder for w in plain))},
    )


def _value(decoder: DecodeConfig) -> str:
    """The setting in which a decoder differs from the default of its kind."""
    if decoder.frequency_penalty or decoder.dither is not None:
        return f"penalty {decoder.frequency_penalty:g}" if decoder.frequency_penalty else f"{decoder.dither} bits"
    return f"tau {decoder.temperature:g}" if decoder.decoder == "ar" or decoder.temperature != 1 else f"K = {decoder.k}"


def table(found: Study) -> str:
    """The printed tables."""
    head = ["decoder", "nats", "over AR", "entropy", "dist-2", "rep-4", "self-BLEU"]
    rows = [
        [
            row.decoder,
            *(f"{e.value:.2f}" for e in (row.teacher_nll, row.teacher_nll_ratio, row.entropy)),
            *(f"{e.value:.1%}" for e in (row.distinct_2, row.repeated_4)),
            f"{row.self_bleu.value:.3f}",
        ]
        for row in found.rows
    ]
    beside = []
    for at in found.at_variety:
        known = at.loss is not None and at.lost is not None
        values = [f"{at.loss:.2f}", f"{at.tau:.2f}", f"{at.lost.value:+.2f}"] if known else ["-"] * 3
        beside.append([at.row.decoder, f"{at.row.teacher_nll.value:.2f}", *values])
    groups = [[str(g.slots), f"{g.share.value:.1%}", *(f"{e.value:+.2f}" for e in g.excess)] for g in found.leading]
    slots = [f"slot {j + 1}" for j in range(len(found.leading[0].excess))]
    tables = (
        text_table(head, rows),
        text_table(["at the same entropy", "nats", "AR", "at tau", "lost"], beside),
        "Learned minus exact, nats\n" + text_table(["first slots exact", "fraction", *slots], groups),
    )
    return "\n\n".join(tables)


def figures(found: Study, theme: Theme = "light") -> dict[str, Any]:
    """All figures by name."""
    return {
        "frontiers": drawing.frontier_figure(found.frontiers, found.at_variety, theme),
        "perplexity": drawing.perplexity_figure(found.rows, theme),
        "survival": drawing.survival_figure(found.survival, theme),
        "slots": drawing.slot_losses_figure(found.slots, theme),
        "leading": drawing.leading_figure(found.leading, theme),
    }


def tidy(rows: Sequence[SampleQuality]) -> Iterator[dict[str, Any]]:
    """One row per decoder; an estimate NAME has three columns: NAME, NAME_low and NAME_high."""
    for row in rows:
        columns: dict[str, Any] = {}
        for key, value in asdict(row).items():
            if isinstance(value, dict):
                columns |= {key: value["value"], f"{key}_low": value["low"], f"{key}_high": value["high"]}
            else:
                columns[key] = value
        yield columns


def main() -> None:
    """Measures one pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", default=DEFAULT_PAIR)
    parser.add_argument(
        "--text", type=Path, default=None, help="file or folder; the first tokens per line are a prompt"
    )
    parser.add_argument("--prompt-tokens", type=int, default=12)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gen-ppl", default=None, help="another causal model for the perplexity, a name or folder")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="output folder")
    asked = parser.parse_args()
    pair = load_pair(asked.pair)
    before = prompts(pair, study_texts(asked.pair, asked.text), asked.prompt_tokens)
    found = measure(pair, before, asked.new_tokens, asked.seed, ppl=asked.gen_ppl)
    print(table(found))
    write_study(
        "quality",
        "kfexplore: samples from the teacher and the student",
        study_settings(asked),
        found.as_json(),
        lambda theme: figures(found, theme),
        asked.out,
        pair.teacher.device,
        tidy(found.rows),
    )


if __name__ == "__main__":
    with reported():
        main()
