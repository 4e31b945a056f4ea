"""Loss from marginals on real contexts: `python -m analysis.joint_vs_marginal --text runs/held-out --out runs/joint`.

Over contexts of a text that the pair was not trained on (by default, held-out stories or our own sentences): the mutual
information of the next two tokens, by context and by class of the first token; and on some of them the error of every
sampler against its forward passes. Prints a table and writes joint_vs_marginal.json, .html and one PNG per figure.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from scipy.special import rel_entr
from tqdm import tqdm

from analysis import joint_vs_marginal_figures as drawing
from analysis.writing import prefixes, study_settings, study_texts, text_table, write_study
from kfexplore import noise
from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import reported
from kfexplore.evaluate import intervals
from kfexplore.evaluate.agreement import FEWEST_BEFORE, text_ids, text_windows
from kfexplore.figures.palette import Theme
from kfexplore.laws.exact import pair_law
from kfexplore.laws.study import finished, study_steps
from kfexplore.pair import Pair, load_pair
from kfexplore.results import BlockLaw, ContextStudy, Distance
from kfexplore.training.documents import read_text

CLASSES = ("a word's start", "inside a word", "punctuation", "space or line end", "other")
_KEY = 2
"""Separates the random numbers for contexts from those of the evaluation."""


def token_class(text: str, before: str) -> str:
    """The class of a token after a text.

    A word starts at a letter or digit that follows another kind of character, in the token or before it.
    """
    bare = text.lstrip(" \n\t")
    if not bare:
        return "space or line end"
    if bare[0].isalnum():
        inside = bare == text and before[-1:].isalnum()
        return "inside a word" if inside else "a word's start"
    return "other" if "\ufffd" in bare else "punctuation"


def contexts(pair: Pair, texts: list[str], count: int, seed: int) -> list[list[int]]:
    """A random prefix of each of `count` evenly spaced windows."""
    found = []
    for c, window in enumerate(text_windows(*text_ids(pair, texts), count, pair.room)):
        end = int(noise.generator(seed, c, _KEY).integers(FEWEST_BEFORE, pair.room + 1))
        found.append(window[:end].tolist())
    return found


def by_class(pair: Pair, laws: list[BlockLaw]) -> list[drawing.ClassInformation]:
    """Information about the second token from first tokens of each class; intervals over contexts."""
    masses, amounts = (np.zeros((len(laws), len(CLASSES))) for _ in range(2))
    for n, law in enumerate(laws):
        before = "".join(pair.texts(law.context.tolist()[-8:]))
        names = [token_class(text, before) for text in pair.texts(law.first.tolist())]
        index = [CLASSES.index(name) for name in names]
        weights = law.marginal_1[law.first]
        np.add.at(masses[n], index, weights)
        information = rel_entr(law.given.astype(np.float64), law.marginal_2).sum(axis=1)  # KL(p(.|x1) || marginal)
        np.add.at(amounts[n], index, weights * information)
    return [
        drawing.ClassInformation(name, float(mass.mean()), intervals.ratio(amount, mass))
        for name, mass, amount in zip(CLASSES, masses.T, amounts.T, strict=True)
        if mass.mean() > 1e-3
    ]


def over_contexts(studies: list[ContextStudy]) -> list[drawing.SamplerError]:
    """Means of each sampler's results over contexts, with t intervals."""
    rows = []
    for same in zip(*(s.samplers for s in studies), strict=True):
        kl = [row.kl for row in same if row.kl is not None]
        plug_in, expected = (
            float(np.mean([getattr(row, name) for row in same])) for name in ("tv_plug_in", "tv_expected")
        )
        distance = _mean_distance([row.tv for row in same])
        impossible = intervals.fraction(np.array([row.impossible.value for row in same]))
        mean, first = intervals.mean(np.array(kl)) if kl else None, same[0]
        rows.append(drawing.SamplerError(first.sampler, first.nfe, distance, plug_in, expected, mean, impossible))
    return rows


def _mean_distance(found: list[Distance]) -> Distance:
    """The mean over contexts: a lower bound if any of them is one, else with its t interval."""
    mean = intervals.mean(np.array([tv.value for tv in found]))
    kinds = {tv.kind for tv in found}
    low, high = max(0.0, mean.low), min(1.0, mean.high)
    if "lower_bound" in kinds:
        return Distance(mean.value, low, None, "lower_bound")
    return Distance(mean.value, low, high, "quadrature" if "quadrature" in kinds else "exact")


def differences(studies: list[ContextStudy], reference: str = "ideal MDLM") -> list[drawing.SamplerDifference]:
    """TV of each sampler minus that of the reference, paired over contexts, with t intervals.

    Compares only samplers whose distance is known after every context, since lower bounds have different gaps.
    """
    found = []
    for same in zip(*(s.samplers for s in studies), strict=True):
        others = [next(row for row in s.samplers if row.sampler == reference) for s in studies]
        if same[0].sampler in ("teacher", reference) or not all(row.tv.is_known for row in (*same, *others)):
            continue
        apart = np.array([one.tv.value - other.tv.value for one, other in zip(same, others, strict=True)])
        found.append(drawing.SamplerDifference(same[0].sampler, reference, intervals.mean(apart), len(studies)))
    return found


def measure(
    pair: Pair, ids: list[list[int]], studied: int, k: int, blocks: int, seed: int
) -> tuple[dict[str, Any], list[BlockLaw], list[ContextStudy]]:
    """The document's results over contexts, with the distributions and studies behind them; `studied` contexts."""
    laws = [pair_law(pair, each) for each in tqdm(ids, desc="laws")]
    chosen = [ids[n] for n in np.linspace(0, len(ids) - 1, studied).astype(int)]
    studies = [finished(study_steps(pair, each, k, blocks, seed)) for each in tqdm(chosen, desc="samplers")]
    results = {
        "mutual_information": asdict(intervals.mean(np.array([law.mutual_information.value for law in laws]))),
        "quantiles": _quantiles([law.mutual_information.value for law in laws]),
        "tv_product": asdict(intervals.mean(np.array([law.tv_product.value for law in laws]))),
        "largest_uncovered_mass": max(law.uncovered for law in laws),
        "classes": [asdict(found) for found in by_class(pair, laws)],
        "total_correlation": asdict(intervals.mean(np.array([s.correlation.total.value for s in studies]))),
        "samplers": [asdict(row) for row in over_contexts(studies)],
        "differences": [{**asdict(row), "finding": row.finding} for row in differences(studies)],
        "contexts": [{"tokens": len(law.context), "mutual_information": law.mutual_information.value} for law in laws],
    }
    if all(s.error is not None for s in studies):
        wrong = np.array([sum(s.error.wrong_marginals) for s in studies if s.error])
        results["wrong_marginals"] = asdict(intervals.mean(wrong))
    return results, laws, studies


def table(results: dict[str, Any]) -> str:
    """The printed tables."""
    classes = [[c["name"], f"{c['share']:.1%}", f"{c['information']['value']:.3f}"] for c in results["classes"]]
    classes.append(["all", "", f"{results['mutual_information']['value']:.3f}"])
    samplers = []
    for row in results["samplers"]:
        tv, kl = Distance(**row["tv"]), f"{row['kl']['value']:.3f}" if row["kl"] else "-"
        limits = tv.limits if tv.high is None else f"{tv.low:.3f} to {tv.high:.3f}"
        samplers.append([row["sampler"], str(row["nfe"]), tv.words, limits, kl, f"{row['impossible']['value']:.2%}"])
    differences = [
        f"TV of {row['sampler']} minus that of {row['minus']}, paired over {row['contexts']} contexts: "
        f"{row['tv']['value']:+.3f} ({row['tv']['low']:+.3f} to {row['tv']['high']:+.3f}), {row['finding']}"
        for row in results["differences"]
    ]
    tables = (
        text_table(["first token", "fraction", "nats"], classes),
        text_table(["sampler", "passes", "TV", "95 %", "KL", "impossible"], samplers),
        "\n".join(differences),
    )
    return "\n\n".join(tables)


def figures(
    pair: Pair, laws: list[BlockLaw], studies: list[ContextStudy], theme: Theme = "light"
) -> dict[str, go.Figure]:
    """All figures by name."""
    values = np.array([law.mutual_information.value for law in laws])
    return {
        "information": drawing.information_figure(values, theme),
        "classes": drawing.classes_figure(by_class(pair, laws), theme),
        "passes": drawing.passes_figure(over_contexts(studies), theme),
    }


def _quantiles(values: list[float]) -> dict[str, float]:
    levels = (0.1, 0.25, 0.5, 0.75, 0.9)
    return {f"{level:g}": float(value) for level, value in zip(levels, np.quantile(values, levels), strict=True)}


def main() -> None:
    """Measures one pair on one text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", default=DEFAULT_PAIR)
    parser.add_argument("--text", type=Path, default=None, help="held-out text, a file or folder")
    parser.add_argument("--contexts", type=int, default=200, help="contexts for the distribution of two tokens")
    parser.add_argument("--studies", type=int, default=20, help="contexts among them for the samplers")
    parser.add_argument("--k", type=int, default=2, help="tokens per block")
    parser.add_argument("--blocks", type=int, default=4096, help="blocks per sampler")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("."), help="output folder")
    asked = parser.parse_args()
    if not 2 <= asked.studies <= asked.contexts:
        parser.error(f"--studies is {asked.studies}: 2 to --contexts, {asked.contexts}")
    pair = load_pair(asked.pair)
    if asked.text is None:
        ids = prefixes(pair, study_texts(asked.pair), asked.seed, asked.contexts)
    else:
        ids = contexts(pair, read_text(asked.text), asked.contexts, asked.seed)
    results, laws, studies = measure(pair, ids, min(asked.studies, len(ids)), asked.k, asked.blocks, asked.seed)
    print(table(results))
    write_study(
        "joint_vs_marginal",
        "kfexplore: joint against marginal",
        study_settings(asked) | {"contexts": len(ids)},
        results,
        lambda theme: figures(pair, laws, studies, theme),
        asked.out,
        pair.teacher.device,
    )


if __name__ == "__main__":
    with reported():
        main()
