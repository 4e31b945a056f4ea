"""Forward passes over the last tokens of rows, with one static cache per network.

On CUDA each shape of a pass is recorded once as a graph, including its readout, and replayed, so that the only Python
work of a step is copying its inputs. Elsewhere a pass runs eagerly, which is also the graph's slow twin. Buffers and
graphs outlive a batch: the next batch of the same shape reuses them.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kfexplore.decoding.buffers import Sequences
from kfexplore.models import AnyStudent, AnyTeacher, StaticCache, Student, Teacher, cpu_blocks
from kfexplore.models.fast_paths import GRAPHS, difference

GRAPH_STRIDE = 128
"""The number of keys read by a recorded pass is a multiple of this, so that few shapes are recorded."""
WARM_UPS = 3
KEPT = 2
"""Unused sets of buffers kept per network; the oldest is dropped first."""

Tensors = tuple[Tensor, ...]
Network = AnyTeacher | AnyStudent


@dataclass
class _Buffers:
    """Cache and graphs for batches of one shape on one device."""

    shape: Hashable
    cache: StaticCache
    graphs: dict[Hashable, tuple[Callable[[], None], Tensors, Tensors]] = field(default_factory=dict)
    """Replay, inputs and outputs of each recorded pass."""


_unused: weakref.WeakKeyDictionary[Network, list[_Buffers]] = weakref.WeakKeyDictionary()
_lock = threading.RLock()  # a finalizer may run while the same thread holds it
_recording = threading.Lock()
"""Held during a capture, since captures of all threads share one stream."""


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)  # the owning thread does not exist in the child


class Passes:
    """The passes of one network over one batch of rows.

    Args:
        network: Teacher or student.
        sequences: The samples; all but the last token of each are prefilled here.
        slots: Largest number of noise slots or guesses after a row's end.
        use_cuda_graphs: Whether passes are recorded as CUDA graphs; None: on CUDA, for models of the published layout.
        allow_bf16: Allows bf16 products on a CPU: only for guesses that are checked.
    """

    def __init__(
        self,
        network: Network,
        sequences: Sequences,
        slots: int,
        use_cuda_graphs: bool | None = None,
        allow_bf16: bool = False,
    ) -> None:
        self.network, self.sequences = network, sequences
        ours = network if isinstance(network, Teacher | Student) else None
        on_cuda = ours is not None and network.device.type == "cuda"
        self._use_cuda_graphs = on_cuda if use_cuda_graphs is None else use_cuda_graphs
        self._itself = weakref.ref(network)
        stride = GRAPH_STRIDE if self.use_cuda_graphs else 1
        capacity = -(-(sequences.capacity + slots) // stride) * stride
        shape = (len(sequences), capacity, stride, network.dtype, network.device)
        self._buffers = _taken(network, shape) or _Buffers(shape, StaticCache(capacity, stride))
        weakref.finalize(self, _left, weakref.ref(network), self._buffers)
        self.cache = self._buffers.cache
        self.cache.blocks = None if ours is None else cpu_blocks(ours, allow_bf16)
        self.prefill()

    @property
    def use_cuda_graphs(self) -> bool:
        """Whether passes are recorded and replayed; later passes then overwrite the results."""
        return self._use_cuda_graphs and not GRAPHS.disabled(self._itself)

    def prefill(self) -> None:
        """Reads all but the last token of each row."""
        before = int(self.sequences.ends.max()) - 1
        if before:
            self.cache.place(0, before)
            self.network.fill(self.sequences.ids[:, :before], self.cache)

    def __call__(
        self,
        name: Hashable,
        run: Callable[..., Tensors],
        count: int,
        after: int,
        extra: Tensors,
        tail: Tensor | None = None,
    ) -> Tensors:
        """One pass over the last `count` tokens of each row and `after` positions after them.

        Args:
            name: Identifies `run` and its settings among the recorded passes of this network.
            run: (tokens (B, count), *extra) -> tensors; passes the tokens through the network with `self.cache`. It
                must not change its arguments, and later passes may overwrite its results.
            count: Tokens fed again or for the first time.
            after: Noise slots or guesses fed after them.
            extra: More inputs, of the same shape in every call with this name.
            tail: The last `count` tokens of each row, if already available.
        """
        tokens = self.sequences.tail(count) if tail is None else tail
        if self.use_cuda_graphs:
            out = self._replay(name, run, count, after, (tokens, *extra))
            if out is not None:
                return out
            self.prefill()  # a failed graph may have written anywhere in the cache
        self.cache.place(self.sequences.start(count), count + after, int(self.sequences.ends.max()) - count)
        return run(tokens, *extra)

    def _replay(
        self, name: Hashable, run: Callable[..., Tensors], count: int, after: int, inputs: Tensors
    ) -> Tensors | None:
        """As `__call__`, by a graph; None if this pass cannot be recorded or its graph gives wrong results."""
        graphs, cache, start = self._buffers.graphs, self.cache, self.sequences.start(count)
        if isinstance(start, int):
            start = torch.full((len(self.sequences),), start, device=inputs[0].device)
        fed = count + after
        last = int(self.sequences.ends.max()) - count
        reach = min(cache.capacity, -(-(last + fed) // GRAPH_STRIDE) * GRAPH_STRIDE)
        key, given = (name, count, after, reach), (start, *inputs)

        def placed(start: Tensor, *inputs: Tensor) -> Tensors:
            cache.place(start, fed, reach - fed)
            return run(*inputs)

        def check() -> str:
            # Recorded with other values than it is replayed with, at positions not before any row's, so that a value
            # that the graph captured as a constant shows as a difference.
            fixed = (torch.full_like(start, reach - fed), *map(torch.zeros_like, inputs))
            replay, out = record(lambda: placed(*fixed), self.network.device)
            expected, places = placed(*given), cache.places
            keys = cache.written(places)
            cache.erase(places)
            graphs[key] = replay, fixed, out
            return difference((*self._replayed(key, given), *cache.written(places)), (*expected, *keys))

        if key in graphs:
            return self._replayed(key, given)
        network, dtype = self.network, str(self.network.dtype).removeprefix("torch.")
        shape = f"{type(network).__name__} of width {network.config.width} and depth {network.config.depth}"
        part = f"pass {getattr(name, 'decoder', name)} of {count} + {after} tokens"
        if GRAPHS.judge(self._itself, f"{shape}, {dtype} on {network.device}", check, part):
            return graphs[key][2]
        graphs.clear()
        return None

    def _replayed(self, key: Hashable, inputs: Tensors) -> Tensors:
        replay, fixed, out = self._buffers.graphs[key]
        for mine, given in zip(fixed, inputs, strict=True):
            mine.copy_(given)
        replay()
        return out


def record(run: Callable[[], Tensors], device: torch.device) -> tuple[Callable[[], None], Tensors]:
    """Records a pass on a CUDA device; returns a function that replays it and the results it overwrites."""
    with _recording, torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # By default a capture fails if another thread, such as one serving another request, allocates meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            out = run()
    return graph.replay, out


def _taken(network: Network, shape: Hashable) -> _Buffers | None:
    """Takes unused buffers of this shape; None if there are none."""
    with _lock:
        unused = _unused.get(network, [])
        found = next((buffers for buffers in unused if buffers.shape == shape), None)
        if found is not None:
            unused.remove(found)
    return found


def _left(network: weakref.ref[Network], buffers: _Buffers) -> None:
    """Keeps released buffers for the next batch."""
    with _lock:
        if (alive := network()) is not None:
            unused = _unused.setdefault(alive, [])
            unused.append(buffers)
            del unused[:-KEPT]
