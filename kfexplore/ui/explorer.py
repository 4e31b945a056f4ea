"""What the page asks of the models: pairs loaded once, contexts held, tables and points as JSON.

Replies carry arrays as base64 little-endian strings: large lists in JSON are slow on both sides.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kfexplore.errors import KfError
from kfexplore.figures.tables import section, tables, token_texts
from kfexplore.laws.study import Report, silent, study
from kfexplore.maps import HeldContext, block, grid, sweeps
from kfexplore.noise import checked
from kfexplore.pair import Pair
from kfexplore.results import ContextStudy, Floats
from kfexplore.ui.racing import RaceConfig, Racing
from kfexplore.ui.writing import WriteConfig, Writing

HELD = 8
"""Contexts of a pair kept ready; the least recently used goes first."""
MOST_HELD_BYTES = 2**30
"""Of the laws of studies; of a large vocabulary each may have this size, and the last one is always kept."""
MAX_PROMPT = 20_000
"""Characters of a prompt; a longer one is refused before it is tokenized."""

Json = dict[str, Any]


class Explorer:
    """Answers the page. Tables and grids are made one at a time, and so are studies; points are not kept waiting.

    Args:
        loaders: Name of each pair on offer -> how to load it; loaded on first use and kept.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], Pair]]) -> None:
        self.loaders = dict(loaders)
        self._pairs: dict[str, Pair] = {}
        self._held: dict[str, OrderedDict[str, tuple[HeldContext, int]]] = {n: OrderedDict() for n in self.loaders}
        self._loading = {name: threading.Lock() for name in self.loaders}  # a download keeps no other pair waiting
        self._holding = {name: threading.Lock() for name in self.loaders}  # nor does a long prompt of it
        self._heavy = threading.Lock()
        self._studying = threading.Lock()  # a study takes seconds; tables of sliders are not kept waiting by it
        self._timing = threading.Lock()
        self._studies: OrderedDict[tuple[str, str, int, int, int], ContextStudy] = OrderedDict()

    def pair(self, name: str) -> Pair:
        """The pair of that name, loaded if it is not yet."""
        if name not in self.loaders:
            raise KfError(f"There is no pair {name!r}.", ", ".join(self.loaders))
        with self._loading[name]:
            if name not in self._pairs:
                self._pairs[name] = _told(self.loaders[name]())
        return self._pairs[name]

    def tables(self, request: Json) -> Json:
        """What every slot becomes as each slider moves, the others held where `u` says.

        Args:
            request: seq, pair, prompt, k (None: the trained K), u (None: the middle), resolution.
        """
        return self._answer(request, self._tables)

    def point(self, request: Json) -> Json:
        """Both maps at exactly `u`; request: seq, pair, prompt, u."""
        return self._answer(request, self._point)

    def grid(self, request: Json) -> Json:
        """A section over two sliders; request: seq, pair, prompt, u, slots (i < j), resolution."""
        return self._answer(request, self._grid)

    def study(
        self,
        name: str,
        prompt: str,
        k: int,
        blocks: int,
        seed: int,
        report: Report = silent,
    ) -> tuple[ContextStudy, Pair, str]:
        """Exact law and samplers after a prompt, the pair, and what was cut; the last few are kept.

        `report` is told how far it is, as by `laws.study`.

        Raises:
            KfError: as `laws.study`, or of the pair or prompt.
        """
        key = (name, prompt, k, blocks, seed)
        pair, context, cut = self._context({"pair": name, "prompt": prompt})
        with self._studying:
            if key not in self._studies:
                self._studies[key] = study(pair, context.ids.tolist(), k, blocks, seed, report=report)
                while len(self._studies) > 1 and (len(self._studies) > HELD or self._held_bytes() > MOST_HELD_BYTES):
                    self._studies.popitem(last=False)
            self._studies.move_to_end(key)
            return self._studies[key], pair, _cut(cut)

    def writing(self, config: WriteConfig) -> Writing:
        """Decoders set to write after a prompt; each has a state of its own, and nothing is kept here.

        Raises:
            KfError: as `Writing`, or of the pair or prompt.
        """
        _check_length(config.prompt)
        pair = self.pair(config.pair)
        ids, cut = pair.encode(config.prompt)
        return Writing(pair, ids, config, _cut(cut))

    def racing(self, config: RaceConfig) -> Racing:
        """A race of decoders after a prompt; no other overlaps it, and tables and studies wait while a clock runs.

        Raises:
            KfError: as `Racing`, or of the pair or prompt.
        """
        _check_length(config.prompt)
        pair = self.pair(config.pair)
        ids, cut = pair.encode(config.prompt)
        return Racing(pair, ids, config, _cut(cut), self._timing, (self._studying, self._heavy))

    def _held_bytes(self) -> int:
        return sum(held.law.given.nbytes for held in self._studies.values())

    def _answer(self, request: Json, question: Callable[[Json], Json]) -> Json:
        seq = request.get("seq") if isinstance(request, dict) else None
        try:
            reply = question(request)
        except KfError as error:
            return {"ok": False, "seq": seq, "failed": error.failed, "valid": error.valid, "run": error.run}
        return {"ok": True, "seq": seq, **reply}

    def _context(self, request: Json) -> tuple[Pair, HeldContext, int]:
        name, prompt = str(request.get("pair")), str(request.get("prompt") or "")
        _check_length(prompt)
        pair = self.pair(name)
        with self._holding[name]:
            held = self._held[name]
            if prompt not in held:
                ids, cut = pair.encode(prompt)
                held[prompt] = pair.hold(ids), cut
                while len(held) > HELD:
                    held.popitem(last=False)
            held.move_to_end(prompt)
            context, cut = held[prompt]
        return pair, context, cut

    def _tables(self, request: Json) -> Json:
        pair, context, cut = self._context(request)
        u = _noise_of(request, context.slots)
        resolution = int(request.get("resolution") or 512)
        with self._heavy:
            start = time.perf_counter()
            moved = sweeps(context, u, list(range(len(u))), resolution)
            seconds = time.perf_counter() - start
        return tables(
            moved,
            block(context, u),
            context.ids.tolist(),
            pair.texts,
            pair=request["pair"],
            prompt=request["prompt"],
            note=_cut(cut),
            k_max=context.slots,
            device=pair.student.device.type,
            seconds=seconds,
        )

    def _point(self, request: Json) -> Json:
        pair, context, _ = self._context(request)
        answer = block(context, checked(request.get("u")))
        return {
            "u": answer.u[0].tolist(),
            "teacher": answer.teacher[0].tolist(),
            "student": answer.student[0].tolist(),
            "margin": answer.margins[0].tolist(),
            "edge": answer.edges[0].tolist(),
            "texts": token_texts(pair.texts, answer.teacher, answer.student),
        }

    def _grid(self, request: Json) -> Json:
        pair, context, _ = self._context(request)
        i, j = request["slots"]
        resolution = int(request.get("resolution") or 128)
        with self._heavy:
            square = grid(context, checked(request["u"]), (int(i), int(j)), resolution)
        return section(square, pair.texts)


def _cut(tokens: int) -> str:
    return f"The first {tokens} tokens of the prompt were cut to fit the context." if tokens else ""


def _noise_of(request: Json, slots: int) -> Floats:
    """The noise that a request holds, its first k values where it names k; the middle of [0, 1) where it has none."""
    asked = request.get("k")
    k = slots if asked is None else int(asked)
    if not 1 <= k <= slots:
        raise KfError(f"K is {k}.", f"1 to {slots}, the block this student was trained on")
    given = request.get("u")
    return np.full(k, 0.5) if given is None else checked(given[:k], None if asked is None else k)


def _told(pair: Pair) -> Pair:
    """The pair, if its tokens fit the two bytes that they travel in."""
    if pair.teacher.config.vocab_size > 2**16:
        raise KfError(f"The pair has {pair.teacher.config.vocab_size} tokens.", f"at most {2**16} on this page")
    return pair


def _check_length(prompt: str) -> None:
    if len(prompt) > MAX_PROMPT:
        raise KfError(f"The prompt has {len(prompt):,} characters.", f"at most {MAX_PROMPT:,}")
