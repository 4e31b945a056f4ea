"""The models in memory: pairs, loaded once, and their prefilled prompts."""

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
"""Seconds before the same pair is requested again from a hub that could not be reached."""
WAIT_FOR_PAIR: Final = 8
"""Requests that wait while a pair is loaded, which may take long: each holds a thread, and further ones are refused."""


@dataclass(frozen=True)
class Context:
    """A prefilled prompt."""

    prefilled: PrefilledContext
    note: str
    """Message about tokens that were cut."""

    @property
    def nbytes(self) -> int:
        """Estimated bytes of the prompt's keys and values, and of all distributions that may be cached."""
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
    """Pairs by name, each with its prefilled prompts; bounded by the limits.

    Args:
        loaders: Load the offered pairs, on first use. The first pair is never dropped.
        limits: Server limits.
        other: Loads a pair that is not offered, by its folder or hub id; None: such pairs are refused.
        clock: Time in seconds.
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
        first, *others = self.loaders  # all pages ask for the first one at the start; one load does not delay another
        self._loading = {first: Worker(limits.questions), **{name: Worker(WAIT_FOR_PAIR) for name in others}}
        self._loading_other = Worker(WAIT_FOR_PAIR)
        self._missed: LRUCache[str, tuple[float, KfError]] = LRUCache(limits.questions, HUB_RESTS, clock=clock)

    def offers(self, name: str) -> bool:
        """Whether a pair of that name may be requested."""
        return name in self.loaders or bool(name and self.other)

    def holds(self, name: str) -> bool:
        """Whether the pair of that name is loaded."""
        return self._pairs.get(name) is not None

    def pair(self, name: str) -> Pair:
        """The pair of that name, loaded on first use.

        Raises:
            KfError: it is not offered or cannot be loaded; only the log has the reason, which may contain paths.
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
        """The prefilled prompt, from the cache if possible; only one thread may call this at a time.

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
        """Loads the pair; if the hub could not be reached, the next attempt waits for `HUB_RESTS` seconds."""
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
    """Message about tokens that did not fit; "" for none."""
    return f"The first {tokens} tokens of the prompt were cut to fit the context." if tokens else ""


def _load(name: str, load: Callable[[], Pair]) -> Pair:
    """Loads the pair, and checks that its token ids fit the uint16 of the replies."""
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
