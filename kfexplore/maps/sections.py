"""Sections of the map: one block, one slider's sweep, two sliders' grid; exact and learned under the same noise."""

from __future__ import annotations

import numpy as np

from kfexplore import noise
from kfexplore.config import check_temperature
from kfexplore.errors import KfError
from kfexplore.maps.context import PrefilledContext
from kfexplore.results import Block, Floats, Grid, Sweep, steps

MAX_RESOLUTION = 1024
"""Maximum number of steps of a sweep or of one side of a grid."""


def block(context: PrefilledContext, u: Floats, temperature: float = 1.0) -> Block:
    """The tokens of noise vectors u (B, k), 1 <= k <= K; `temperature` divides the teacher's logits and is an input of
    the student.

    Raises:
        KfError: k is 0 or beyond `context.k_max`, a value is outside [0, 1), or the temperature outside `TEMPERATURES`.
    """
    temperature = check_temperature(temperature)
    u = np.atleast_2d(noise.checked(u))
    if not 1 <= u.shape[1] <= context.k_max:
        raise KfError(f"{u.shape[1]} noise values were given.", f"1 to {context.k_max} for this pair")
    return Block(u, *context.exact(u, temperature), context.learned(u, temperature))


def sweeps(
    context: PrefilledContext, u: Floats, slots: list[int], resolution: int, every: int = 1, temperature: float = 1.0
) -> list[Sweep]:
    """One sweep for each of `slots`, all evaluated together.

    Args:
        context: The prefilled context.
        u: (k,) noise, the sliders' values.
        slots: Slot numbers from 0; they may repeat.
        resolution: Steps R of a slider.
        every: Evaluates only the middle one of each `every` steps, R / every in total.
        temperature: As for `block`.

    Raises:
        KfError: as `block`; no slot, or one beyond u; a resolution outside 1 .. 1024, or not a multiple of `every`.
    """
    u = noise.checked(u)
    if not slots:
        raise KfError("No slot is named.", f"some of 0 to {len(u) - 1}")
    for slot in slots:
        _check_slot(slot, len(u))
    points = _check_resolution(resolution)
    if every < 1 or resolution % every:
        raise KfError(f"Every {every} of {resolution} steps were requested.", f"a divisor of {resolution}")
    points = points[every // 2 :: every]
    rows = np.tile(u, (len(slots), len(points), 1))
    for row, slot in enumerate(slots):
        rows[row, :, slot] = points
    whole = block(context, rows.reshape(-1, len(u)), temperature)
    starts = range(0, len(slots) * len(points), len(points))
    return [Sweep(slot, u, whole.take(slice(a, a + len(points)))) for slot, a in zip(slots, starts, strict=True)]


def sweep(context: PrefilledContext, u: Floats, slot: int, resolution: int = 512, temperature: float = 1.0) -> Sweep:
    """The tokens of all slots as the noise of one takes the values (r + 1/2) / R; see `sweeps`."""
    return sweeps(context, u, [slot], resolution, temperature=temperature)[0]


def grid(
    context: PrefilledContext, u: Floats, slots: tuple[int, int], resolution: int = 128, temperature: float = 1.0
) -> Grid:
    """The tokens of slots i < j as their noise takes R x R values and the other noise of u (k,) is fixed.

    Slots after j have no effect, by causality, and are not evaluated.
    """
    u = noise.checked(u)
    i, j = slots
    _check_slot(j, len(u))
    if not 0 <= i < j:
        raise KfError(f"The slots of a grid are {i} and {j}.", "two different slots, the earlier one first")
    points = _check_resolution(resolution)
    rows = np.tile(u[: j + 1], (resolution, resolution, 1))
    rows[:, :, i], rows[:, :, j] = points[:, None], points[None, :]
    whole = block(context, rows.reshape(-1, j + 1), temperature)
    at = np.arange(resolution**2).reshape(resolution, resolution, 1), np.array([i, j])
    return Grid((i, j), u, whole.exact[at], whole.of_student.take(at) if whole.of_student else None)


def _check_slot(slot: int, count: int) -> None:
    if not 0 <= slot < count:
        raise KfError(f"There is no slot {slot}.", f"0 to {count - 1}")


def _check_resolution(resolution: int) -> Floats:
    if not 1 <= resolution <= MAX_RESOLUTION:
        raise KfError(f"The resolution is {resolution}.", f"1 to {MAX_RESOLUTION} steps")
    return steps(resolution)
