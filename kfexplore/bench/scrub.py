"""Times the work behind the scrub tab: prefill, blocks, sweeps and grids, in seconds."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from kfexplore import noise
from kfexplore.bench.setting import environment, timed
from kfexplore.errors import KfError
from kfexplore.maps import block, grid, sweeps
from kfexplore.pair import Pair

Job = tuple[str, dict[str, Any], Callable[[], object]]


def bench_scrub(
    pair: Pair,
    context_length: int = 64,
    repeats: int = 5,
    tables: bool = True,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Times the models' work for one user who drags a slider, after one warm-up each.

    Args:
        context_length: Length of the context in tokens, which are drawn at random.
        tables: Also times sweeps and grids (minutes on a CPU at the published sizes); needs K of at least 2.
        repeats: Timed repeats; the row has median, smallest and largest.
        report: Called with each row.

    Returns:
        The document of `kfexplore bench scrub`: environment, and `rows` with every setting.
    """
    if not 1 <= repeats <= 999:
        raise KfError(f"{repeats} repeats were requested.", "1 to 999")
    ids = noise.generator(0, "prompt").integers(0, pair.teacher.config.vocab_size, size=context_length).tolist()
    points = noise.uniform(0, range(1000), 0, pair.k_max)
    fresh = itertools.cycle(points)  # a repeat must not reuse what the previous one cached in the context
    context = pair.prefill(ids)
    slots = list(range(context.k_max))
    jobs: list[Job] = [
        ("hold", {}, lambda: pair.prefill(ids)),
        ("block", {}, lambda: block(context, next(fresh))),
    ]
    if tables:
        side = (np.arange(128) + 0.5) / 128
        square = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
        jobs += [
            ("sweeps", {"resolution": 256}, lambda: sweeps(context, next(fresh), slots, 256)),
            ("sweeps", {"resolution": 512}, lambda: sweeps(context, next(fresh), slots, 512)),
            *([("grid_student", {"resolution": 128}, lambda: context.learned(square))] if pair.student else []),
            ("grid", {"resolution": 128}, lambda: grid(context, next(fresh), (0, 1), 128)),
        ]
    config = (pair.student or pair.teacher).config
    shape = {"pair": pair.info.get("name"), "context": len(ids), "k": context.k_max}
    shape |= {"width": config.width, "depth": config.depth, "vocab_size": config.vocab_size}
    rows, place = [], pair.teacher.device
    with tqdm(total=len(jobs) * (1 + repeats), unit="run", leave=False, disable=None) as bar:
        for name, settings, job in jobs:
            bar.set_description(name)
            seconds = timed(job, repeats, place, ran=bar.update)
            spread = {"seconds": statistics.median(seconds), "least": min(seconds), "largest": max(seconds)}
            rows.append({"what": name, **shape, **settings, "repeats": repeats, **spread})
            report(rows[-1])
    return {"bench": "scrub", **environment(place), "rows": rows}
