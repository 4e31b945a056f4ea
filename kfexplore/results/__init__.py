"""What is computed, as numpy arrays and plain values; drawn by figures/, written by the command line.

R steps of a slider, K slots, B rows; noise u in [0, 1); token ids as int64.
"""

from __future__ import annotations

from kfexplore.results.laws import (
    BlockLaw,
    Bounded,
    Cells,
    ContextStudy,
    Correlation,
    Distance,
    FullSupport,
    Independence,
    ProductError,
    RankedContext,
    SamplerLaw,
    ToyLaw,
    Unmasking,
    exactly,
)
from kfexplore.results.maps import (
    Band,
    Block,
    Decoded,
    Floats,
    Grid,
    Ints,
    Learned,
    Region,
    Sweep,
    Which,
    no_student,
    steps,
)
from kfexplore.results.quality import (
    PUBLISHED_AGREEMENT,
    Agreement,
    Bin,
    Estimate,
    Evaluation,
    Judged,
    SampleQuality,
    SlotLaw,
)
from kfexplore.results.text import Line, Written
from kfexplore.results.timing import Cost, DevicePeaks, Gain, Spread, TimingRow

__all__ = [
    "PUBLISHED_AGREEMENT",
    "Agreement",
    "Band",
    "Bin",
    "Block",
    "BlockLaw",
    "Bounded",
    "Cells",
    "ContextStudy",
    "Correlation",
    "Cost",
    "Decoded",
    "DevicePeaks",
    "Distance",
    "Estimate",
    "Evaluation",
    "Floats",
    "FullSupport",
    "Gain",
    "Grid",
    "Independence",
    "Ints",
    "Judged",
    "Learned",
    "Line",
    "ProductError",
    "RankedContext",
    "Region",
    "SampleQuality",
    "SamplerLaw",
    "SlotLaw",
    "Spread",
    "Sweep",
    "TimingRow",
    "ToyLaw",
    "Unmasking",
    "Which",
    "Written",
    "exactly",
    "no_student",
    "steps",
]
