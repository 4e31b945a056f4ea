"""The exact and the learned map over noise: `python -m analysis.noise_maps --pair tales --out runs/noise_maps`.

After random prefixes of held-out texts: where and why the learned map differs from the exact one,
how finely it resolves noise, how far each slot's noise reaches; and after one prompt the areas of the map against the
teacher's probabilities. Prints tables and writes noise_maps.json, .csv, .html and one PNG per figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import entr
from tqdm import tqdm

from analysis import noise_maps_figures as drawing
from analysis.grid_figures import grid_figure
from analysis.writing import prefixes, study_settings, study_texts, text_table, write_study
from kfexplore import noise
from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import reported
from kfexplore.evaluate import intervals
from kfexplore.evaluate.agreement import binned
from kfexplore.figures.palette import Theme
from kfexplore.figures.payload import grid_payload, scrub_payload
from kfexplore.figures.scrub import standalone_html
from kfexplore.laws.exact import TeacherTree, pair_law
from kfexplore.laws.quadrature import block_areas, lattice, tv_of_areas
from kfexplore.maps import block, grid, sweeps
from kfexplore.models import Student
from kfexplore.pair import Pair, load_pair
from kfexplore.results import Block, BlockLaw, Estimate, Floats, Grid, Ints

QUANTITIES = {
    "margin": "student's margin (nats)",
    "edge": "distance of u to the edge of its cell",
    "width": "width of the exact cell",
    "entropy": "entropy of the exact distribution (nats)",
    "frequency": "frequency of the exact token",
}
"""Possible explanations for differences: attributes of `Sample`, in words."""
POINTS = 2**14
"""Number of noise vectors for counting areas."""
APART = 2.0 ** -np.arange(1, 13)
"""Distances between two noise values whose encodings are compared."""


def sample(pair: Pair, ids: Sequence[list[int]], each: int, seed: int) -> drawing.Sample:
    """Both maps for `each` noise vectors after every context."""
    slots = pair.student.config.block
    parts, tokens, laws = [], [], np.zeros(pair.teacher.config.vocab_size)
    for c, context in enumerate(tqdm(ids, desc="both maps", leave=False)):
        u = noise.uniform(seed, range(c * each, (c + 1) * each), 0, slots)
        found = block(pair.prefill(context), u)
        width, entropy = np.empty(u.shape), np.empty(u.shape)
        for rows, law in TeacherTree(pair.teacher, np.array(context)).after(found.exact[:, :-1], every=True):
            exact = torch.from_numpy(found.exact[rows]).to(law.device)
            width[rows] = law.gather(2, exact[..., None])[..., 0].cpu().numpy()
            entropy[rows] = entr(law.cpu().numpy()).sum(axis=-1)
            laws += law.sum(dim=(0, 1)).cpu().numpy()
        tokens.append(found.exact)
        parts.append((u, found.exact, found.learned, found.margins, found.edges, width, entropy))
    arrays = [np.stack(part) for part in zip(*parts, strict=True)]
    return drawing.Sample(*arrays, frequency=(laws / laws.sum())[np.stack(tokens)])


def by_slot(taken: drawing.Sample) -> list[drawing.SlotAgreement]:
    """Agreement of each slot: all, and by whether the slots before it agree; contexts are the independent units."""
    hits, rows = taken.teacher == taken.student, []
    for j in range(hits.shape[2]):
        before = hits[:, :, :j].all(axis=2)
        everywhere, after_exact, after_wrong = (
            intervals.clustered_fraction((hits[:, :, j] & where).sum(axis=1), where.sum(axis=1))
            if where.any()
            else None
            for where in (np.ones_like(before), before, ~before)
        )
        rows.append(drawing.SlotAgreement(j, everywhere, after_exact if j else None, after_wrong))
    return rows


def agreement_by(taken: drawing.Sample, name: str) -> drawing.AgreementBy:
    """Agreement by fifths of a quantity (a key of `QUANTITIES`)."""
    values, hits = getattr(taken, name), taken.teacher == taken.student
    edges = np.unique(np.quantile(values, np.linspace(0, 1, 6)))
    slots = [binned(values[..., j], hits[..., j], edges) for j in range(hits.shape[2])]
    flat = (len(values), -1)
    return drawing.AgreementBy(QUANTITIES[name], slots, binned(values.reshape(flat), hits.reshape(flat), edges))


def areas(law: BlockLaw, found: Block) -> drawing.Areas:
    """Areas of pairs of tokens (slots 1 and 2) by evenly spread noise, beside a distribution of all first tokens."""
    joint = np.zeros((len(law.marginal_1), len(law.marginal_1)))
    joint[law.first] = law.joint
    both = [block_areas(tokens) for tokens in (found.exact, found.learned)]
    distances = [tv_of_areas(share, joint[tuple(tokens.T)]) for tokens, share in both]
    counted = [np.zeros_like(joint), np.zeros_like(joint)]
    for area, (tokens, share) in zip(counted, both, strict=True):
        area[tuple(tokens.T)] = share
    shown = np.argwhere((counted[0] > 0) | (counted[1] > 0))
    shown = shown[np.argsort(-joint[tuple(shown.T)], kind="stable")]
    chosen = [values[tuple(shown.T)] for values in (joint, *counted)]
    return drawing.Areas(shown, *chosen, len(found.u), *distances)


def resolution(pair: Pair, taken: drawing.Sample, ids: Sequence[list[int]], steps: int = 512) -> drawing.Resolution:
    """How finely the student resolves noise: its encoder, agreement by cell width, borders of slot 1."""
    shifts = []
    for context in tqdm(ids, desc="borders", leave=False):
        moved = sweeps(pair.prefill(context), np.array([0.5]), [0], steps)[0].block
        exact, learned = (np.sort(tokens[:, 0]) for tokens in (moved.exact, moved.learned))
        borders = np.unique(exact)[:-1]
        places = [np.searchsorted(tokens, borders, side="right") / steps for tokens in (learned, exact)]
        shifts.append(places[0] - places[1])
    widths, hits = taken.width[..., 0], (taken.teacher == taken.student)[..., 0]
    edges = 2.0 ** np.arange(np.floor(np.log2(widths.min())), 1)
    return drawing.Resolution(
        APART, encoder_distances(pair.student, APART), binned(widths, hits, edges), np.concatenate(shifts)
    )


@torch.inference_mode()
def encoder_distances(student: Student, apart: Floats, count: int = 512) -> Floats:
    """Mean distance between the encodings of u and u + d for each d, relative to that of independent values."""
    rng = noise.generator(0, "encoder distances")
    one, other = (student.noise_encoder(torch.from_numpy(rng.random((1, count)))) for _ in range(2))
    far = (one - other).double().norm(dim=-1).mean()
    found = []
    for distance in apart:
        u = rng.random((1, count)) * (1 - distance)
        pair = (student.noise_encoder(torch.from_numpy(values)) for values in (u, u + distance))
        found.append(float((next(pair) - next(pair)).double().norm(dim=-1).mean() / far))
    return np.array(found)


def reach(pair: Pair, ids: Sequence[list[int]], seed: int, steps: int = 64) -> drawing.Reach:
    """How often a slot's token changes if another slot's noise is redrawn: one noise vector per context."""
    slots = pair.student.config.block
    found = np.zeros((2, slots, slots))
    for c, context in enumerate(tqdm(ids, desc="reach", leave=False)):
        u = noise.uniform(seed, [c], 0, slots)[0]
        for moved in sweeps(pair.prefill(context), u, list(range(slots)), steps):
            for which, tokens in enumerate((moved.block.exact, moved.block.learned)):
                found[which, moved.slot] += [1 - _collision(tokens[:, j]) for j in range(slots)]
    return drawing.Reach(*(found / len(ids)))


def _collision(tokens: Ints) -> float:
    """Probability that two independently drawn steps have the same token."""
    return float(((np.unique(tokens, return_counts=True)[1] / len(tokens)) ** 2).sum())


@dataclass(frozen=True)
class Study:
    """All results for the script and the notebook."""

    prompt: str
    section: Grid
    areas: drawing.Areas
    taken: drawing.Sample
    slots: list[drawing.SlotAgreement]
    by: dict[str, drawing.AgreementBy]  # by the keys of `QUANTITIES`
    resolution: drawing.Resolution
    reach: drawing.Reach

    def as_json(self) -> dict[str, Any]:
        """Plain values without the sample, which is written to the CSV file."""
        offsets = np.abs(self.resolution.shifts)
        return {
            "agreement_by_slot": [asdict(row) for row in self.slots],
            "agreement_by": {name: asdict(found) for name, found in self.by.items()},
            "tv_areas_exact": self.areas.tv_exact,
            "tv_areas_learned": self.areas.tv_learned,
            "section_agreement": self.section.agreement,
            "encoder": dict(zip(map(str, APART), self.resolution.encoded.tolist(), strict=True)),
            "agreement_by_width": [asdict(found) for found in self.resolution.by_width],
            "border_shift_quantiles": {q: float(np.quantile(offsets, float(q))) for q in ("0.1", "0.5", "0.9")},
            "reach_exact": self.reach.exact.tolist(),
            "reach_learned": self.reach.learned.tolist(),
        }


def measure(
    pair: Pair, prompt: str, ids: Sequence[list[int]], each: int, seed: int, side: int = 96, few: int = 16
) -> Study:
    """Runs the whole study.

    Args:
        pair: Teacher, student, tokenizer.
        prompt: Context of the section and its areas.
        ids: Contexts of the sample.
        each: Noise vectors per context.
        seed: Random seed of the noise.
        side: Steps per side of the section.
        few: Number of contexts for which borders and reach are measured.
    """
    context = pair.encode(prompt)[0]
    prefilled = pair.prefill(context)
    section = grid(prefilled, np.full(prefilled.k_max, 0.5), (0, 1), side)
    law = pair_law(pair, context, first=pair.teacher.config.vocab_size)
    taken = sample(pair, ids, each, seed)
    return Study(
        prompt,
        section,
        areas(law, block(prefilled, lattice(POINTS))),
        taken,
        by_slot(taken),
        {name: agreement_by(taken, name) for name in QUANTITIES},
        resolution(pair, taken, ids[:few]),
        reach(pair, ids[:few], seed),
    )


def table(found: Study) -> str:
    """The printed tables."""

    def per_cent(*estimates: Estimate | None) -> list[str]:
        return ["-" if e is None else f"{e.value:.1%}" for e in estimates]

    slots = [[str(row.slot + 1), *per_cent(row.all, row.after_exact, row.after_wrong)] for row in found.slots]
    fifths = [[by.quantity, *per_cent(by.all[0].share, by.all[-1].share)] for by in found.by.values()]
    numbers = {
        "areas against probabilities, exact (TV)": found.areas.tv_exact,
        "areas against probabilities, learned (TV)": found.areas.tv_learned,
        "median shift of a border of slot 1 (u)": float(np.median(np.abs(found.resolution.shifts))),
    }
    tables = (
        text_table(["slot", "exact", "after exact", "after wrong"], slots),
        text_table(["by fifths of", "lowest", "highest"], fifths),
        "\n".join(f"{name:<44}{value:.4f}" for name, value in numbers.items()),
    )
    return "\n\n".join(tables)


def figures(pair: Pair, found: Study, theme: Theme = "light") -> dict[str, Any]:
    """All figures by name."""

    def text(token: int) -> str:
        return pair.texts([token])[0]

    return {
        "section": grid_figure(found.section, text, theme),
        "areas": drawing.areas_figure(found.areas, text, theme),
        "slots": drawing.slots_figure(found.slots, theme),
        "by": drawing.by_figure(list(found.by.values()), theme),
        "resolution": drawing.resolution_figure(found.resolution, theme),
        "reach": drawing.reach_figure(found.reach, theme),
    }


def strip(pair: Pair, prompt: str, u: Sequence[float], steps: int = 128, height: int = 1300) -> str:
    """The app's scrub figure after a prompt as HTML without a server: drag one slider at a time over its track."""
    ids = pair.encode(prompt)[0]
    prefilled, at = pair.prefill(ids), np.array(u)
    moved = sweeps(prefilled, at, list(range(len(at))), steps)
    payload = scrub_payload(moved, block(prefilled, at), ids, pair.texts, pair=pair.info.get("name", ""))
    if len(at) > 1:
        payload["grid"] = grid_payload(grid(prefilled, at, (0, 1), steps // 2), pair.texts)
    return standalone_html(payload, height)


def tidy(taken: drawing.Sample) -> Iterator[dict[str, Any]]:
    """One row per slot: context, noise vector, slot, and every array of the sample."""
    columns = asdict(taken)
    for context, vector, slot in np.ndindex(taken.u.shape):
        values = {name: f"{array[context, vector, slot]:.6g}" for name, array in columns.items()}
        yield {"context": context, "vector": vector, "slot": slot + 1, **values}


def main() -> None:
    """Measures one pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", default=DEFAULT_PAIR)
    parser.add_argument(
        "--prompt", default="Once upon a time, there was a", help="context of the section and its areas"
    )
    parser.add_argument("--text", type=Path, default=None, help="file or folder, one context per line")
    parser.add_argument("--contexts", type=int, default=60)
    parser.add_argument("--each", type=int, default=64, help="noise vectors per context")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/noise_maps"), help="output folder")
    asked = parser.parse_args()
    pair = load_pair(asked.pair)
    ids = prefixes(pair, study_texts(asked.pair, asked.text), asked.seed, asked.contexts)
    found = measure(pair, asked.prompt, ids, asked.each, asked.seed)
    print(table(found))
    write_study(
        "noise_maps",
        "kfexplore: maps over noise",
        study_settings(asked),
        found.as_json(),
        lambda theme: figures(pair, found, theme),
        asked.out,
        pair.teacher.device,
        tidy(found.taken),
    )


if __name__ == "__main__":
    with reported():
        main()
