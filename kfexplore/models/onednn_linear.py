"""Linear layers without gradient on a CPU: weights packed once for oneDNN, the GELU or sum fused with the product.

A decoding step has few rows, for which the plain product reads its weights at half the memory bandwidth (docs/LOG.md).
The packed weights are a second copy, kept until the layer is deleted or its weights change.
"""

from __future__ import annotations

import weakref

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL = 2**20
"""Weights with fewer entries fit into the CPU's caches: a single row is then multiplied faster without packing."""

_packed: weakref.WeakKeyDictionary[nn.Linear, tuple[tuple[int, int], Tensor]] = weakref.WeakKeyDictionary()


def pack(weight: Tensor) -> Tensor:
    """A weight (out, in) in the layout that oneDNN multiplies fastest."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    return packed


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None, gelu: bool = False, add: Tensor | None = None) -> Tensor:
    """x (..., in) by a packed weight -> (..., out), then the tanh-approximated GELU, then a sum with `add`."""
    if add is not None and not gelu:
        return torch.ops.mkldnn._linear_pointwise.binary(x, add, packed, bias, "add")
    name, rule = ("gelu", "tanh") if gelu else ("none", "")
    out = torch.ops.mkldnn._linear_pointwise(x, packed, bias, name, [], rule)
    return out if add is None else out + add


def version(weight: Tensor) -> tuple[int, int]:
    """A value that changes whenever the weight does."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


class Linear(nn.Linear):
    """x W' + b, then optionally the tanh-approximated GELU, then a sum with `add`; the slow twin is `plain`."""

    def forward(self, x: Tensor, gelu: bool = False, add: Tensor | None = None) -> Tensor:
        """x (..., in) -> (..., out); `add` (..., out)."""
        if not self._packs(x):
            return self.plain(x, gelu, add)
        return multiply(x, self.packed(), self.bias, gelu, add)

    def plain(self, x: Tensor, gelu: bool = False, add: Tensor | None = None) -> Tensor:
        """The same with PyTorch's own operations."""
        out = F.linear(x, self.weight, self.bias)
        if gelu:
            out = F.gelu(out, approximate="tanh")
        return out if add is None else add + out

    def _packs(self, x: Tensor) -> bool:
        """Whether to use packed weights for this product."""
        return (
            x.device.type == "cpu"
            and not torch.is_grad_enabled()
            and x.dtype == self.weight.dtype == torch.float32
            and not (x.numel() == self.in_features and self.weight.numel() < SMALL)
            and x.numel() > 0
            and torch.backends.mkldnn.is_available()
            and not torch.is_autocast_enabled("cpu")
        )

    def packed(self) -> Tensor:
        """The weight, packed."""
        state = version(self.weight)
        kept = _packed.get(self)
        if kept is None or kept[0] != state:
            kept = state, pack(self.weight)
            _packed[self] = kept
        return kept[1]
