"""What every decoder is handed: its models, the rows to continue, and their noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kfexplore.config import DecodeConfig
from kfexplore.decoding.rows import Rows
from kfexplore.results import Floats


@dataclass(frozen=True)
class DecodeBatch:
    """A batch to be written."""

    config: DecodeConfig
    """Which decoder, and how."""
    models: tuple[Any, ...]
    """Those of `config.models`, in that order."""
    rows: Rows
    """Prompts."""
    noise: Tensor
    """(B, P) float64; value p is that of new token p, and P tokens are to be written. Where the config draws anew in
    every pass: (B, passes, P)."""
    k: int
    """Tokens, or guesses, a pass; with a student, at most its trained K."""
    order: Floats | None = None
    """(B, P) the order in which positions are filled, least first, for `order` random; None: from left to right."""
    settle: bool = True
    """Decide near choices by the row alone, so that no batch or cache turns a token."""
    use_cuda_graphs: bool | None = None
    """See `Passes`."""
