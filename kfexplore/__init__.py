"""kfexplore: K uniform noise variables, K tokens, one forward pass; the learned map beside the exact one.

>>> import kfexplore
>>> pair = kfexplore.load_pair("tales")
>>> ids, _ = pair.encode("Once upon a time")
>>> pair.block([ids], [[0.1, 0.7, 0.3, 0.9]]).agreement_by_slot
"""

from kfexplore.checkpoints.registry import load_model
from kfexplore.errors import KfError
from kfexplore.pair import Pair, load_pair, pair_from_files

__all__ = ["KfError", "Pair", "load_model", "load_pair", "pair_from_files"]
__version__ = "0.2.0"
