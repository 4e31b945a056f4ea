"""Forward passes over the ends of rows, with one static cache a network.

On CUDA every shape of a pass is recorded once as a graph, its readout included, and replayed: a step then costs no
more Python than copying its inputs. Elsewhere a pass is run as it is written, which is also the graph's slow twin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kfexplore.decoding.rows import Rows
from kfexplore.models import StaticCache, Student, Teacher, lean_blocks

GRAPH_STRIDE = 128
"""Keys read by a recorded pass are a multiple of this, so that few shapes are recorded."""
WARM_UPS = 3

Tensors = tuple[Tensor, ...]


class Passes:
    """The passes of one network over one batch of rows.

    Args:
        network: Teacher or student.
        rows: The samples; all but the last token of each is read at once here.
        slots: The most noise slots, or guesses, that follow a row's end.
        recorded: Whether passes are recorded as CUDA graphs; None: where the network is on CUDA.
    """

    def __init__(self, network: Teacher | Student, rows: Rows, slots: int, recorded: bool | None = None) -> None:
        self.network, self.rows = network, rows
        self.recorded = network.device.type == "cuda" if recorded is None else recorded
        capacity = rows.capacity + slots
        if self.recorded:
            capacity = -(-capacity // GRAPH_STRIDE) * GRAPH_STRIDE
        self.cache = StaticCache(capacity, GRAPH_STRIDE if self.recorded else 1)
        self.cache.blocks = lean_blocks(network)
        self._graphs: dict[tuple[Any, ...], tuple[torch.cuda.CUDAGraph, Tensors, Tensors]] = {}
        self.prefill()

    def prefill(self) -> None:
        """Reads all but the last token of each row."""
        before = int(self.rows.ends.max()) - 1
        if before:
            self.cache.place(0, before)
            self.network.run_blocks(self.network.vocab_embed(self.rows.ids[:, :before]), self.cache)

    def __call__(
        self, name: str, run: Callable[..., Tensors], count: int, after: int, extra: Tensors, tail: Tensor | None = None
    ) -> Tensors:
        """One pass over the last `count` tokens of each row and `after` positions behind them.

        Args:
            name: Tells `run` from others in what is recorded.
            run: (tokens (B, count), *extra) -> tensors; passes the tokens through the network with `self.cache`. It
                changes none of its arguments, and gives no tensor that a later pass may not overwrite.
            count: Tokens fed again or for the first time.
            after: Noise slots or guesses fed behind them.
            extra: More inputs, of one shape at each call by this name.
            tail: The last tokens of each row, where they are at hand.
        """
        start, highest = self.rows.start(count), int(self.rows.ends.max()) - count
        tokens = self.rows.tail(count) if tail is None else tail
        if not self.recorded:
            self.cache.place(start, count + after, highest)
            return run(tokens, *extra)
        if isinstance(start, int):
            start = torch.full((len(self.rows),), start, device=tokens.device)
        reach = min(self.cache.capacity, -(-(highest + count + after) // GRAPH_STRIDE) * GRAPH_STRIDE)

        def placed(start: Tensor, *inputs: Tensor) -> Tensors:
            self.cache.place(start, count + after, reach - count - after)
            return run(*inputs)

        return self._replay((name, count, after, reach), placed, (start, tokens, *extra))

    def _replay(self, key: tuple[Any, ...], run: Callable[..., Tensors], inputs: Tensors) -> Tensors:
        if key not in self._graphs:
            held = tuple(each.clone() for each in inputs)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    run(*held)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = run(*held)
            self._graphs[key] = graph, held, out
        graph, held, out = self._graphs[key]
        for mine, given in zip(held, inputs, strict=True):
            mine.copy_(given)
        graph.replay()
        return out
