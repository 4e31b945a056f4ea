"""Results as NumPy arrays and plain values, drawn by figures/ and written by the command line.

R steps of a slider, K slots, B rows; noise u in [0, 1); token ids as int64.
"""
# ruff: noqa: F403

from kfexplore.results.laws import *
from kfexplore.results.maps import *
from kfexplore.results.quality import *
from kfexplore.results.timing import *
