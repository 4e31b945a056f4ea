"""The exact map of a law that is written down: the worked example of the paper (Appendix B), without any model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from kfexplore.decoding.cdf import invert
from kfexplore.errors import KfError
from kfexplore.results import Ints, steps


def square(first: npt.ArrayLike, given: npt.ArrayLike, resolution: int = 384) -> Ints:
    """Pairs of tokens over the unit square, by inverse CDF in the order of token ids.

    Args:
        first: (V,) law of the first token.
        given: (V, V) law of the second after each first; a row whose first token never comes may be anything.
        resolution: R steps a side, u = (r + 1/2) / R.

    Returns:
        (R, R, 2) tokens; the first axis is u_1.

    Raises:
        KfError: shapes that do not fit, or a law that does not sum to one.
    """
    laws = np.vstack([np.asarray(first, dtype=np.float64)[None], np.asarray(given, dtype=np.float64)])
    if laws.shape != (laws.shape[1] + 1, laws.shape[1]):
        raise KfError(f"There are {len(laws) - 1} laws of {laws.shape[1]} tokens.", "(V,) and (V, V)")
    if (laws < 0).any() or abs(laws[[True, *(laws[0] > 0)]].sum(axis=1) - 1).max() > 1e-9:
        raise KfError("These are not laws.", "probabilities that sum to 1")
    cumulative = torch.from_numpy(laws.cumsum(axis=1))
    u = torch.from_numpy(steps(resolution))
    tokens, after = invert(cumulative[0], u), invert(cumulative[1:], u.expand(len(laws) - 1, -1))
    return torch.stack([tokens[:, None].expand(-1, resolution), after[tokens]], dim=-1).numpy()
