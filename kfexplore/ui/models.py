"""The models in memory: pairs loaded once, and prompts that they have read."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final

from kfexplore.checkpoints.hub import Unreachable, hub_name
from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import KfError
from kfexplore.maps import PrefilledContext
from kfexplore.maps.context import REMEMBERED
from kfexplore.pair import Pair
from kfexplore.ui.cache import LRUCache
from kfexplore.ui.clients import CLIENT
from kfexplore.ui.jobs import Worker
from kfexplore.ui.limits import DEFAULTS, ServerLimits

HUB_RESTS: Final = 60.0
"""Seconds before a hub that could not be reached is asked for the same pair again."""


@dataclass(frozen=True)
class Context:
    """A prompt that the models have read."""

    prefilled: PrefilledContext
    note: str
    """What was cut."""

    @property
    def nbytes(self) -> int:
        """About: keys and values of the prompt, and all distributions that may be remembered."""
        both = (self.prefilled.teacher, self.prefilled.student)
        models = [model.config for model in both if model is not None]
        keys = sum(2 * 4 * model.depth * model.width for model in models) * len(self.prefilled.ids)
        return keys + REMEMBERED * 8 * models[0].vocab_size


@dataclass(frozen=True)
class _Loaded:
    pair: Pair
    contexts: LRUCache[str, Context]

    def read(self, prompt: str) -> Context:
        ids, cut = self.pair.encode(prompt)
        return Context(self.pair.prefill(ids), cut_note(cut))


class ModelStore:
    """Pairs by name, each with the prompts that it has read; bounded by the limits.

    Args:
        loaders: How to load each pair on offer, on first use. The first one is never let go.
        limits: What may be asked.
        other: Loads a pair that is not on offer, by its folder or hub id; None: there is no other.
        clock: Seconds.
    """

    def __init__(
        self,
        loaders: Mapping[str, Callable[[], Pair]],
        limits: ServerLimits = DEFAULTS,
        other: Callable[[str], Pair] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.loaders, self.limits, self.other, self.clock = dict(loaders), limits, other, clock
        self._pairs: LRUCache[str, _Loaded] = LRUCache(
            limits.loaded_pairs, limits.idle_seconds, pinned=next(iter(self.loaders)), clock=clock
        )
        self._loading = {name: Worker(limits.questions) for name in self.loaders}  # one download delays no other
        self._loading_other = Worker(limits.questions)
        self._missed: LRUCache[str, tuple[float, KfError]] = LRUCache(limits.questions, HUB_RESTS, clock=clock)

    def offers(self, name: str) -> bool:
        """Whether a pair of that name may be asked for."""
        return name in self.loaders or bool(name and self.other)

    def holds(self, name: str) -> bool:
        """Whether the pair of that name is loaded."""
        return self._pairs.get(name) is not None

    def pair(self, name: str) -> Pair:
        """The pair of that name, loaded if it is not yet.

        Raises:
            KfError: it is not on offer or cannot be loaded; only the log says why, with all paths.
        """
        return self._loaded(name).pair

    def slots(self, pair: Pair) -> int:
        """The largest K of a pair on this page."""
        return min(pair.k_max, self.limits.slots)

    def prompt(self, name: str, prompt: str) -> tuple[Pair, list[int], int]:
        """The pair, the prompt's tokens, and how many did not fit the context.

        Raises:
            KfError: as `pair`; the prompt is empty, too long, or not text.
        """
        self.limits.check_prompt(prompt)
        pair = self.pair(name)
        return pair, *pair.encode(prompt)

    def context(self, name: str, prompt: str) -> Context:
        """The prompt, prefilled if it is not yet; for one thread at a time.

        Raises:
            KfError: as `prompt`.
        """
        loaded = self._loaded(name)
        return loaded.contexts.once(prompt, nullcontext(), partial(loaded.read, prompt), CLIENT.get())

    def _loaded(self, name: str) -> _Loaded:
        load = self.loaders.get(name) or (partial(self.other, name) if self.other is not None else None)
        if load is None:
            raise KfError(f"There is no pair {name!r}.", ", ".join(self.loaders))
        turn = self._loading.get(name, self._loading_other).turn()
        return self._pairs.once(name, turn, partial(self._load_unless_missed, name, load))

    def _load_unless_missed(self, name: str, load: Callable[[], Pair]) -> _Loaded:
        """The pair; a hub that could not be reached is not asked for it again at once."""
        until, missed = self._missed.get(name) or (-math.inf, None)
        if missed is not None and self.clock() < until:
            raise KfError(*missed.args)
        try:
            pair = _load(name, load)
        except Unreachable as error:
            self._missed.put(name, (self.clock() + HUB_RESTS, error))
            raise
        limits = self.limits
        contexts: LRUCache[str, Context] = LRUCache(
            limits.contexts, limits.idle_seconds, limits.held_bytes, lambda c: c.nbytes, clock=self.clock
        )
        return _Loaded(pair, contexts)


def cut_note(tokens: int) -> str:
    """What to say about tokens that did not fit; "" for none."""
    return f"The first {tokens} tokens of the prompt were cut to fit the context." if tokens else ""


def _load(name: str, load: Callable[[], Pair]) -> Pair:
    """The pair, if its tokens fit the two bytes in which they travel."""
    try:
        pair = load()
    except KfError as error:
        print(f"kfexplore: the pair {name!r} cannot be loaded: {error}", file=sys.stderr)
        if isinstance(error, Unreachable):
            raise Unreachable(
                f"The pair {name!r} must be downloaded from {hub_name()}, which could not be reached.",
                f"a connection (choose the pair again after a minute), or the pair {DEFAULT_PAIR}, which needs none",
                "see the app's log for where to put the files by hand",
            ) from None
        raise KfError(
            f"The pair {name!r} cannot be loaded.", "another pair", "see the app's log for the reason"
        ) from None
    if pair.teacher.config.vocab_size > 2**16:
        size = pair.teacher.config.vocab_size
        raise KfError(f"The pair's vocabulary has {size} tokens.", f"at most {2**16} on this page")
    return pair
