"""Everything about the next K tokens after one context as one result: for the app, the command line and analysis."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator

import numpy as np

from kfexplore.config import STUDY_BLOCKS
from kfexplore.errors import KfError
from kfexplore.laws import goodness
from kfexplore.laws.correlation import slot_means
from kfexplore.laws.exact import TeacherTree, pair_law
from kfexplore.laws.quadrature import student_distance
from kfexplore.laws.samplers import (
    FEWEST_BLOCKS,
    MOST_BLOCKS,
    REFERENCE_NOISE,
    Sampler,
    block_samplers,
    check_slots,
    masked_marginals,
    teacher_blocks,
)
from kfexplore.pair import Pair
from kfexplore.results import (
    BlockLaw,
    ContextStudy,
    Correlation,
    Distance,
    Floats,
    ProductError,
    SamplerLaw,
    exactly,
)

StudySteps = Generator[tuple[float, str], None, ContextStudy]
"""A running study: yields the fraction done and the name of the next step, and returns the result."""
REFERENCE_BLOCKS = 4096
"""Number of the teacher's own blocks over which marginals of later slots are averaged."""


def finished(steps: StudySteps) -> ContextStudy:
    """Runs a study to its end and returns its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: ContextStudy = end.value
            return found


def study_steps(
    pair: Pair,
    ids: list[int],
    k: int = 2,
    blocks: int = STUDY_BLOCKS,
    seed: int = 0,
    first: int | None = None,
    temperature: float = 1.0,
) -> StudySteps:
    """The exact distribution of the next two tokens, total correlation of the next k, and every sampler compared.

    `finished(study_steps(...))` returns the result.

    Args:
        pair: Teacher, and optionally student and masked model; `notes` of the result name missing samplers.
        ids: The context.
        k: Slots, 2 to 4 and no more than the pair's.
        blocks: Blocks N per sampler.
        seed: Random seed; noise is keyed by it and the sample number.
        first: M, see `pair_law`.
        temperature: Divides the teacher's logits; an input of the student. The masked model has none, so its samplers
            are left out unless it is 1.

    Yields:
        Fraction done (0 first) and the name of the next step.

    Raises:
        KfError: as `pair_law`; k, N or the temperature out of range.
    """
    started = time.perf_counter()
    check_slots(pair, k)
    if not FEWEST_BLOCKS <= blocks <= MOST_BLOCKS:
        raise KfError(f"{blocks} blocks were requested.", f"{FEWEST_BLOCKS} to {MOST_BLOCKS}")
    pair.check_ids(ids)
    whole, pair = pair, pair if temperature == 1.0 else dataclasses.replace(pair, masked=None)
    yield 0.0, "the exact distribution of two tokens"
    tree = TeacherTree(pair.teacher, np.array(ids, dtype=np.int64), temperature, pair.student)
    law = pair_law(pair, ids, first, tree)
    known = k == 2 and not law.uncovered
    reference = np.empty((0, k), dtype=np.int64)
    if not known:
        yield 0.1, "the teacher's own blocks"
        reference = teacher_blocks(tree, k, seed, range(REFERENCE_BLOCKS), REFERENCE_NOISE)
    means = slot_means(tree, k, reference, law)
    correlation = means.correlation()
    error = means.against(masked_marginals(pair.masked, ids, k)) if pair.masked else None
    own = goodness.log_probs(tree, law, reference)
    tails = goodness.rarest(law, k, own)
    partitions: dict[int, goodness.Partition] = {}
    rows: list[SamplerLaw] = []
    samplers = block_samplers(pair, ids, k, tree, correlation.marginals)
    for sampler in samplers:
        yield 0.3 + 0.7 * len(rows) / len(samplers), sampler.name
        size = min(blocks, sampler.most or blocks)
        if size not in partitions:
            partitions[size] = goodness.partition(tree, law, k, size)
        begun = time.perf_counter()
        drawn = sampler.draw(seed, range(size))
        tv = _distance(sampler, law, k)
        if sampler.name == "student" and k == 2:
            tv = student_distance(tree, law)
        seconds = time.perf_counter() - begun
        rows.append(
            goodness.judged(
                drawn,
                partitions[size],
                tree,
                goodness.log_probs(tree, law, drawn),
                tails,
                tv,
                sampler=sampler.name,
                nfe=sampler.nfe,
                kl=_divergence(sampler, correlation, error),
                seconds=seconds,
            )
        )
    return ContextStudy(
        k=k,
        law=law,
        correlation=correlation,
        error=error,
        samplers=rows,
        impossible_below=tails[0].below,
        impossible_expected=tails[0].fraction,
        seed=seed,
        notes=_notes(whole, law, k, known, blocks, rows, temperature),
        seconds=time.perf_counter() - started,
        device=pair.teacher.device.type,
        temperature=tree.temperature,
    )


def _divergence(sampler: Sampler, correlation: Correlation, error: ProductError | None) -> float | None:
    """KL(teacher || sampler) if the sampler's distribution is known, else None."""
    if sampler.name == "teacher":
        return 0.0
    if sampler.marginals is None:
        return None
    if sampler.name == "ideal MDLM":
        return correlation.total.value
    assert error is not None
    return error.total


def _distance(sampler: Sampler, law: BlockLaw, k: int) -> Distance | None:
    """Total variation distance if both distributions are known (the teacher; products if K = 2), else None."""
    if sampler.name == "teacher":
        return exactly(0.0)
    if sampler.marginals is None or k > 2 or law.uncovered:
        return None
    own: Floats = sampler.marginals
    outside = 1 - float(own[0, law.first].sum())  # first tokens that the teacher never gives
    return exactly(float(np.abs(law.joint - np.outer(own[0, law.first], own[1])).sum() + outside) / 2)


def _notes(
    pair: Pair, law: BlockLaw, k: int, known: bool, blocks: int, rows: list[SamplerLaw], temperature: float
) -> list[str]:
    missing = [name for name, model in (("student", pair.student), ("masked model", pair.masked)) if model is None]
    notes = [f"This pair has no {name}: its samplers are left out." for name in missing]
    if pair.masked is not None and temperature != 1.0:
        notes.append("The masked model has no temperature: its samplers are left out unless the temperature is 1.")
    low, high = pair.temperatures
    if pair.student is not None and not low <= temperature <= high:
        notes.append(pair.untrained)
    if law.uncovered:
        notes.append(
            f"{len(law.first)} first tokens are considered; the others have a total probability of {law.uncovered:.2%}."
        )
    if not known:
        notes.append(f"Marginals of later slots are means over {REFERENCE_BLOCKS:,} blocks of the teacher.")
    if k == 2 and any(row.sampler == "student" and not row.tv.is_known for row in rows):
        notes.append(
            "The distance of the student is a lower bound: a quadrature over its noise would take too long here."
        )
    fewer = [row for row in rows if row.size < blocks]
    if fewer:
        sizes = ", ".join(f"{row.size:,} ({row.sampler})" for row in fewer)
        notes.append(f"Fewer blocks were drawn where each takes passes over the whole context: {sizes}.")
    return notes
