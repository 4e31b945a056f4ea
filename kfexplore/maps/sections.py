"""Sections of the map: one block, one slider's sweep, two sliders' grid; exact and learned under the same noise."""

from __future__ import annotations

import numpy as np

from kfexplore import noise
from kfexplore.errors import KfError
from kfexplore.maps.context import HeldContext
from kfexplore.results import Block, Floats, Grid, Sweep, steps

MAX_RESOLUTION = 1024
"""Most steps of a sweep or of one side of a grid."""


def block(context: HeldContext, u: Floats) -> Block:
    """The tokens of noise vectors u (B, k), 1 <= k <= K.

    Raises:
        KfError: k is 0 or beyond the trained one, or a value is outside [0, 1).
    """
    u = np.atleast_2d(noise.checked(u))
    _check_slots(context, u.shape[1])
    teacher, edges = context.exact(u)
    student, margins = context.learned(u)
    return Block(u, teacher, student, edges, margins)


def sweeps(context: HeldContext, u: Floats, slots: list[int], resolution: int) -> list[Sweep]:
    """One sweep for each of `slots`, all evaluated together; u (k,) is where the sliders stand.

    Raises:
        KfError: as `block`; a slot that u does not have; a resolution outside 1 .. 1024.
    """
    u = noise.checked(u)
    if not slots:
        raise KfError("No slot is named.", f"some of 0 to {len(u) - 1}")
    for slot in slots:
        _check_slot(slot, len(u))
    points = _check_resolution(resolution)
    rows = np.tile(u, (len(slots), resolution, 1))
    for row, slot in enumerate(slots):
        rows[row, :, slot] = points
    whole = block(context, rows.reshape(-1, len(u)))
    starts = range(0, len(rows) * resolution, resolution)
    return [Sweep(slot, u, whole.take(slice(a, a + resolution))) for slot, a in zip(slots, starts, strict=True)]


def sweep(context: HeldContext, u: Floats, slot: int, resolution: int = 512) -> Sweep:
    """What all slots become as the noise of one moves over (r + 1/2) / R; see `sweeps`."""
    return sweeps(context, u, [slot], resolution)[0]


def grid(context: HeldContext, u: Floats, slots: tuple[int, int], resolution: int = 128) -> Grid:
    """The tokens of slots i < j as both move over R x R steps, the other noise of u (k,) held.

    Slots after j cannot matter, by causality, and are not evaluated.
    """
    u = noise.checked(u)
    i, j = slots
    _check_slot(j, len(u))
    if not 0 <= i < j:
        raise KfError(f"The slots of a grid are {i} and {j}.", "two different slots, the earlier one first")
    points = _check_resolution(resolution)
    rows = np.tile(u[: j + 1], (resolution, resolution, 1))
    rows[:, :, i], rows[:, :, j] = points[:, None], points[None, :]
    whole = block(context, rows.reshape(-1, j + 1))
    shape, moved = (resolution, resolution, 2), [i, j]
    return Grid(
        slots=(i, j),
        u=u,
        teacher=whole.teacher[:, moved].reshape(shape),
        student=whole.student[:, moved].reshape(shape),
        margins=whole.margins[:, moved].reshape(shape),
    )


def _check_slots(context: HeldContext, count: int) -> None:
    if not 1 <= count <= context.slots:
        raise KfError(
            f"{count} noise values were given.",
            f"1 to {context.slots}, the block this student was trained on",
        )


def _check_slot(slot: int, count: int) -> None:
    if not 0 <= slot < count:
        raise KfError(f"There is no slot {slot}.", f"0 to {count - 1}")


def _check_resolution(resolution: int) -> Floats:
    if not 1 <= resolution <= MAX_RESOLUTION:
        raise KfError(f"The resolution is {resolution}.", f"1 to {MAX_RESOLUTION} steps")
    return steps(resolution)
