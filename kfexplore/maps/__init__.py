"""Both maps over noise: blocks, sweeps, grids."""

from kfexplore.maps.context import HeldContext
from kfexplore.maps.sections import block, grid, sweep, sweeps

__all__ = ["HeldContext", "block", "grid", "sweep", "sweeps"]
