"""The student's distribution of two tokens under uniform noise, by quadrature over the unit square of noise.

The learned map is piecewise constant, so the probability of a block of tokens is its area in the unit square. Areas are
counted at the points of a lattice; the teacher's probability of a block is exact. `EACH` points share each value of
u_1, so that the map evaluates slot 1 once for all of them.
"""

from __future__ import annotations

import numpy as np

from kfexplore.laws.exact import TeacherTree
from kfexplore.laws.goodness import log_probs
from kfexplore.laws.samplers import LARGEST_WORK
from kfexplore.results import BlockLaw, Distance, Floats, Ints, needed_student

FEWEST_POINTS, MOST_POINTS = 2**13, 2**15
EACH = 8
"""Points with the same u_1. The map evaluates 9 noise values for them instead of 16."""
CONVERGED = 0.01
"""Change of the TV from half of the points to all of them up to which a quadrature has converged."""
LEAST_ERROR = 0.005
"""The stated error is that change, but at least this. The error falls at least as 1 / points (measured on six contexts
of `tales`: at most 0.0022 with 2^13 points, 0.005 to 0.008 with half of them)."""


def lattice(points: int, each: int = 1) -> Floats:
    """(N, 2) noise spread evenly over the unit square.

    Args:
        points: N.
        each: Consecutive points that share one u_1; 1: no value of either slot occurs twice.
    """
    n = np.arange(points)
    first = (n // each + 0.5) * (each / points)
    return np.stack([first, (n * (np.sqrt(5) - 1) / 2 + 0.5) % 1], axis=1)


def block_areas(tokens: Ints) -> tuple[Ints, Floats]:
    """Distinct blocks (P, k) among the tokens (N, k) at evenly spread points, and the area of each (P,)."""
    distinct, count = np.unique(tokens, axis=0, return_counts=True)
    return distinct, count / len(tokens)


def tv_of_areas(area: Floats, probability: Floats) -> float:
    """TV of areas (P,) from a distribution that gives these blocks the probabilities (P,); other blocks have area 0."""
    return float(np.abs(area - probability).sum() + 1 - probability.sum()) / 2


def student_distance(tree: TeacherTree, law: BlockLaw) -> Distance | None:
    """TV of the student's distribution of the next two tokens from the teacher's; None if it would take too long.

    The points are doubled until the distance has converged, `MOST_POINTS` are reached or, on a CPU, the work would
    exceed `LARGEST_WORK`.

    Args:
        tree: With a student of at least two slots.
        law: The exact distribution of two tokens, from the same tree.
    """
    student = needed_student(tree.context.student)
    per_token = student.config.block_weights + student.config.vocab_size * student.config.width
    left = LARGEST_WORK if student.device.type == "cpu" else np.inf
    points, found = FEWEST_POINTS, None
    while points <= MOST_POINTS and (left := left - per_token * points * (1 + 1 / EACH)) >= 0:
        tokens = needed_student(tree.context.learned(lattice(points, EACH), tree.temperature)).tokens
        half = tokens.reshape(-1, 2, EACH, 2)[:, 0].reshape(-1, 2)  # at every second value of u_1
        value, of_half = (_distance(tree, law, each) for each in (tokens, half))
        error = max(LEAST_ERROR, abs(value - of_half))
        found = Distance(value, max(0.0, value - error), min(1.0, value + error), "quadrature")
        if error <= CONVERGED:
            break
        points *= 2
    return found


def _distance(tree: TeacherTree, law: BlockLaw, tokens: Ints) -> float:
    distinct, area = block_areas(tokens)
    return tv_of_areas(area, np.exp(log_probs(tree, law, distinct)))
