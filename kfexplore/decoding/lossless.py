"""Decoders that guess several tokens, check them in one pass of the teacher, and write exactly what AR writes.

The next tokens are guessed; one pass of the teacher applies G* to all of them in parallel, under the noise of their
positions. As far as the guesses were right, so are the teacher's tokens, and the one after them is right as well.
`verified` guesses with the student, anew in each round; `jacobi` goes on with what the last pass said of the positions
that were not reached, and begins a block with the student's tokens or with nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from kfexplore.decoding.ar import exact_token
from kfexplore.decoding.passes import Passes, Tensors
from kfexplore.decoding.readout import draw
from kfexplore.decoding.rows import PREFILLED, Rows, Step
from kfexplore.decoding.work import DecodeBatch
from kfexplore.models import AnyTeacher, Student
from kfexplore.results import Ints


@torch.inference_mode()
def lossless_steps(work: DecodeBatch, anew: bool) -> Iterator[Step]:
    """Rounds of k guesses and a check, until every row has a token for each value of its noise.

    Args:
        work: A teacher and the student that guesses; without one nothing does, and the row's last token stands in
            (`jacobi` only).
        anew: The student guesses in every round (`verified`), or only where a block of guesses is used up (`jacobi`).

    Yields:
        Steps of k + 1 tokens, of which row r keeps `counts[r]`, 1 .. k + 1; none once it is done.
    """
    (teacher, *students), rows, noise, k, tau = work.models, work.rows, work.noise, work.k, work.config.tau
    batch, length = noise.shape
    tail = torch.cat([noise, noise.new_full((batch, k + 1), 0.5)], dim=1)  # read behind the end, never kept
    ahead = torch.arange(k + 1, device=noise.device)
    passes = Passes(teacher, rows, k, work.use_cuda_graphs)
    drafts = _Drafts(students[0], rows, k, work.use_cuda_graphs) if students else None
    guesses = rows.tail(1).repeat(1, k)
    used_up = np.full(batch, drafts is not None)
    block_ends = rows.ends.copy()

    def run(tokens: Tensor, guesses: Tensor, u: Tensor) -> Tensors:
        return draw(teacher(torch.cat([tokens, guesses], dim=1), passes.cache), u, tau)

    yield PREFILLED
    while (rows.written < length).any():
        at = torch.from_numpy(rows.written).to(noise.device)[:, None] + ahead
        u, cost = tail.gather(1, at), 1
        if drafts is not None and used_up.any():
            fresh, cost = drafts(u[:, :k])
            cost += 1
            if used_up.all():
                guesses = fresh
            else:
                guesses = torch.where(torch.from_numpy(used_up).to(fresh.device)[:, None], fresh, guesses)
            block_ends = np.where(used_up, rows.ends + k, block_ends)
        exact, doubts = passes(("check", tau), run, 1, k, (guesses, u))
        if passes.use_cuda_graphs:
            exact = exact.clone()
        right = exact[:, :k].cpu().numpy() == guesses.cpu().numpy()
        counts = np.logical_and.accumulate(right, axis=1).sum(axis=1) + 1
        if work.settle:
            for row in np.flatnonzero(doubts.cpu().numpy().any(axis=1) & (rows.written < length)).tolist():
                counts[row] = _settled(teacher, rows.text(row), exact[row], guesses[row], doubts[row], u[row], tau)
        kept = np.minimum(counts, length - rows.written)
        rows.append(exact, kept)
        if not anew:
            # What the pass said of the positions behind the kept ones is the next guess; behind those stands the last.
            following = torch.from_numpy(counts).to(exact.device)[:, None] + ahead[:k]
            guesses = exact.gather(1, following.clamp_max(k))
            used_up = rows.ends >= block_ends
        yield Step(exact, kept, passes=cost)


def _settled(
    teacher: AnyTeacher, ids: Tensor, exact: Tensor, guesses: Tensor, doubts: Tensor, u: Tensor, tau: float
) -> int:
    """Tokens of one row that hold, those in doubt among them decided by the row alone; `exact` is put right."""
    for position in range(len(exact)):
        if doubts[position]:
            before = torch.cat([ids, exact[None, :position]], dim=1)
            exact[position] = exact_token(teacher, before, u[position : position + 1], tau)[0]
        if position == len(guesses) or exact[position] != guesses[position]:
            break
    return position + 1


class _Drafts:
    """Guesses of the student, which catches up with what the rows have become since it was last asked."""

    def __init__(self, student: Student, rows: Rows, k: int, use_cuda_graphs: bool | None) -> None:
        self.rows, self.k = rows, k
        self.passes = passes = Passes(student, rows, k, use_cuda_graphs, rough=True)
        self.seen: Ints = rows.begun - 1

        def run(tokens: Tensor, u: Tensor) -> Tensors:  # must not hold self: a cycle would keep the buffers from others
            return (student(tokens, u, passes.cache).argmax(dim=-1),)

        self._run = run

    def __call__(self, u: Tensor) -> tuple[Tensor, int]:
        """Noise (B, k) -> guesses (B, k), and the passes that they took.

        All rows feed equally many tokens: one that has grown less than others feeds some again, to the same effect.
        Recorded passes feed as many as a round can bring, so that few shapes are recorded.
        """
        missing, shortest = int((self.rows.ends - self.seen).max()), int(self.rows.ends.min())
        count, cost = max(missing, min(self.k + 1, shortest)) if self.passes.use_cuda_graphs else missing, 1
        if missing > shortest:  # nothing to feed again: all is read anew
            self.passes.prefill()
            count, cost = 1, 2
        (guesses,) = self.passes("draft", self._run, count, self.k, (u,))
        self.seen = self.rows.ends.copy()
        return guesses, cost
