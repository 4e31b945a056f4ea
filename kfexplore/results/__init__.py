"""What is computed, as numpy arrays and plain values; drawn by figures/, written by the command line.

R steps of a slider, K slots, B rows; noise u in [0, 1); token ids as int64.
"""

from __future__ import annotations

from kfexplore.results.laws import (
    BlockLaw,
    Bounded,
    Cells,
    ClassInformation,
    ContextStudy,
    Correlation,
    Independence,
    ProductError,
    RankedContext,
    SamplerError,
    SamplerLaw,
    ToyLaw,
    Unmasking,
)
from kfexplore.results.maps import Band, Block, Decoded, Floats, Grid, Ints, Region, Sweep, Which, steps
from kfexplore.results.quality import Agreement, Bin, Estimate, Evaluation, SampleQuality, SlotLaw

__all__ = [
    "Agreement",
    "Band",
    "Bin",
    "Block",
    "BlockLaw",
    "Bounded",
    "Cells",
    "ClassInformation",
    "ContextStudy",
    "Correlation",
    "Decoded",
    "Estimate",
    "Evaluation",
    "Floats",
    "Grid",
    "Independence",
    "Ints",
    "ProductError",
    "RankedContext",
    "Region",
    "SampleQuality",
    "SamplerError",
    "SamplerLaw",
    "SlotLaw",
    "Sweep",
    "ToyLaw",
    "Unmasking",
    "Which",
    "steps",
]
