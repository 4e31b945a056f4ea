"""The KV cache of decoding: keys and values of B rows in buffers that are allocated once.

A token's keys are stored at its position, and a query sees the positions up to its own. A pass may therefore write
anywhere: tokens overwrite the noise slots that they replace, rows may end at different positions, padding may follow a
shorter prompt, and nothing has to be cleared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kfexplore.models.kernels import Segment


class StaticCache:
    """Keys and values of up to `capacity` tokens in each row.

    Args:
        capacity: Positions of a row, including noise slots.
        stride: The number of keys read by a pass is a multiple of this, or `capacity`: few shapes for recorded graphs.
    """

    def __init__(self, capacity: int, stride: int = 1) -> None:
        self.capacity, self.stride = capacity, stride
        self.mask: Tensor | None = None
        """(1 or B, 1, t, n) bool, which keys each query of the pass sees; None: all."""
        self.blocks: Callable[[Tensor, StaticCache, int], Tensor] | None = None
        """A faster path through the blocks that fills this cache (models/cpu_fast_path.py)."""
        self._layers: list[Tensor] = []
        self._positions = torch.empty(0)
        self._rows: Tensor | None = None
        self._span = slice(0, 0)
        self._reach = 0

    def place(self, start: int | Tensor, count: int, last: int | None = None) -> None:
        """Sets the positions of the `count` tokens of the next pass.

        Args:
            start: Position of the first, one for all rows or (B,) int64.
            count: Tokens of the pass.
            last: The largest start or an upper bound of it, if `start` is a tensor.
        """
        highest = start if isinstance(start, int) else last
        if highest is None or highest + count > self.capacity:
            raise ValueError(f"{count} tokens from {highest} do not fit a cache of {self.capacity}")
        self._reach = min(self.capacity, -(-(highest + count) // self.stride) * self.stride)
        if isinstance(start, int):
            self._rows, self._span = None, slice(start, start + count)
            self._positions = torch.arange(start, start + count)[None]
        else:
            self._rows = torch.arange(len(start), device=start.device)[:, None]
            self._positions = start[:, None] + torch.arange(count, device=start.device)
        self.mask = None
        if count > 1 or self._rows is not None or self._reach > highest + count:
            keys = torch.arange(self._reach, device=self._positions.device)
            self.mask = (keys <= self._positions[..., None])[:, None]

    def positions(self, count: int, device: torch.device) -> Tensor:
        """Positions of the pass (1 or B, count)."""
        if self._positions.shape[1] != count:
            raise ValueError(f"{count} tokens in a pass that was placed for {self._positions.shape[1]}")
        self._positions = self._positions.to(device)
        if self.mask is not None:
            self.mask = self.mask.to(device)
        return self._positions

    def at(self, table: Tensor) -> Tensor:
        """Entries (1 or B, t, ...) of a table over positions (capacity, ...) for the tokens of the pass."""
        if self._rows is None:
            return table[self._span][None]
        return table[self._positions]

    def store(self, layer: int, keys_and_values: Tensor) -> Tensor:
        """Stores keys and values (B, t, 2, h, d); returns all that the pass may see (B, n, 2, h, d)."""
        if layer == len(self._layers):
            batch, _, _, heads, width = keys_and_values.shape
            self._layers.append(keys_and_values.new_zeros((batch, self.capacity, 2, heads, width)))
        stored = self._layers[layer]
        if self._rows is None:
            stored[:, self._span] = keys_and_values
        else:
            stored[self._rows, self._positions] = keys_and_values
        return stored[:, : self._reach]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> list[Segment]:
        """Stores keys and values (B, h, t, d); returns the segment that the queries see."""
        seen = self.store(layer, torch.stack([k, v], dim=2).permute(0, 3, 2, 1, 4))
        ends = self._positions[:, -1] + 1
        return [Segment(seen[:, :, 0].transpose(1, 2), seen[:, :, 1].transpose(1, 2), mask=self.mask, ends=ends)]

    def written(self, places: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Copies of the keys and values at rows and positions `places`, by layer."""
        return tuple(stored[places] for stored in self._layers)

    def erase(self, places: tuple[Tensor, Tensor]) -> None:
        """Sets the keys and values at rows and positions `places` to zero."""
        for stored in self._layers:
            stored[places] = 0

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """Rows (B, 1) and positions (B, count) of a pass placed by a tensor."""
        assert self._rows is not None
        return self._rows, self._positions

    def commit(self, count: int) -> None:
        """Does nothing: a token is kept unless it is overwritten."""
