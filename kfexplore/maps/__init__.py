"""Both maps over noise: blocks, sweeps, grids."""

from kfexplore.maps.context import PrefilledContext
from kfexplore.maps.sections import block, grid, sweep, sweeps

__all__ = ["PrefilledContext", "block", "grid", "sweep", "sweeps"]
