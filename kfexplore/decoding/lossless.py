"""Decoders that guess several tokens, check them in one pass of the teacher, and write exactly what AR writes.

One pass of the teacher applies G* to all guesses in parallel, under the noise of their positions. Its tokens are exact
up to and including the position of the first wrong guess. `verified` guesses with the student in each round; `jacobi`
uses the last pass's tokens at the positions not yet kept, and starts a block with the student's tokens. Without a
student it starts with a repeated token.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from kfexplore.decoding.ar import exact_token
from kfexplore.decoding.buffers import PREFILLED, DecodeBatch, Sequences, Step
from kfexplore.decoding.passes import Passes, Tensors
from kfexplore.decoding.readout import draw
from kfexplore.models import AnyStudent, AnyTeacher
from kfexplore.results import Ints


def verified_steps(batch: DecodeBatch) -> Iterator[Step]:
    """The student guesses in every round."""
    return _rounds(batch, anew=True)


def jacobi_steps(batch: DecodeBatch) -> Iterator[Step]:
    """The teacher's last pass is the next guess; the student, if there is one, guesses the first pass of a block."""
    return _rounds(batch, anew=False)


@torch.inference_mode()
def _rounds(batch: DecodeBatch, anew: bool) -> Iterator[Step]:
    """Rounds of k guesses and a check, until every row has a token for each of its noise values.

    Args:
        batch: A teacher and the student that guesses; without a student (`jacobi` only) the first guess repeats the
            row's last token.
        anew: The student guesses in every round, or only after a block of guesses is used up.

    Yields:
        Steps of k + 1 tokens, of which row r keeps `counts[r]`, 1 .. k + 1; none once it is done.
    """
    (teacher, *students), sequences, noise, k = batch.models, batch.sequences, batch.noise, batch.k
    temperature = batch.config.temperature
    size, length = noise.shape
    tail = torch.cat([noise, noise.new_full((size, k + 1), 0.5)], dim=1)  # read beyond the end, never kept
    ahead = torch.arange(k + 1, device=noise.device)
    passes = Passes(teacher, sequences, k, batch.use_cuda_graphs)
    drafts = _Drafts(students[0], sequences, k, batch.use_cuda_graphs) if students else None
    guesses = sequences.tail(1).repeat(1, k)
    used_up = np.full(size, drafts is not None)
    block_ends = sequences.ends.copy()

    def run(tokens: Tensor, guesses: Tensor, u: Tensor) -> Tensors:
        return draw(teacher(torch.cat([tokens, guesses], dim=1), passes.cache), u, temperature)

    yield PREFILLED
    while (sequences.written < length).any():
        at = torch.from_numpy(sequences.written).to(noise.device)[:, None] + ahead
        u, cost = tail.gather(1, at), 1
        if drafts is not None and used_up.any():
            fresh, cost = drafts(u[:, :k])
            cost += 1
            if used_up.all():
                guesses = fresh
            else:
                guesses = torch.where(torch.from_numpy(used_up).to(fresh.device)[:, None], fresh, guesses)
            block_ends = np.where(used_up, sequences.ends + k, block_ends)
        exact, near_tie = passes(("check", temperature), run, 1, k, (guesses, u))
        if passes.use_cuda_graphs:
            exact = exact.clone()
        right = exact[:, :k].cpu().numpy() == guesses.cpu().numpy()
        counts = np.logical_and.accumulate(right, axis=1).sum(axis=1) + 1
        if batch.recheck:
            for row in np.flatnonzero(near_tie.cpu().numpy().any(axis=1) & (sequences.written < length)).tolist():
                left = int(length - sequences.written[row])
                one = exact[row, :left], guesses[row], near_tie[row], u[row]
                counts[row] = _rechecked(teacher, sequences.row(row), *one, temperature)
        kept = np.minimum(counts, length - sequences.written)
        sequences.append(exact, kept)
        if not anew:
            # The next guesses are the pass's tokens after the kept ones, the last of them repeated.
            following = torch.from_numpy(counts).to(exact.device)[:, None] + ahead[:k]
            guesses = exact.gather(1, following.clamp_max(k))
            used_up = sequences.ends >= block_ends
        yield Step(exact, kept, passes=cost)


def _rechecked(
    teacher: AnyTeacher, ids: Tensor, exact: Tensor, guesses: Tensor, near_tie: Tensor, u: Tensor, temperature: float
) -> int:
    """Rechecks the near ties of one row and corrects `exact`; returns the number of tokens that the row keeps.

    `exact` may have fewer tokens than the pass: at most those that the row still needs.
    """
    for position in range(len(exact)):
        if near_tie[position]:
            before = torch.cat([ids, exact[None, :position]], dim=1)
            exact[position] = exact_token(teacher, before, u[position : position + 1], temperature)[0]
        if position == len(guesses) or exact[position] != guesses[position]:
            break
    return position + 1


class _Drafts:
    """Guesses of the student, which first reads the tokens written since its last pass."""

    def __init__(self, student: AnyStudent, sequences: Sequences, k: int, use_cuda_graphs: bool | None) -> None:
        self.sequences, self.k = sequences, k
        self.passes = passes = Passes(student, sequences, k, use_cuda_graphs, allow_bf16=True)
        self.seen: Ints = sequences.prompt_lengths - 1

        def run(tokens: Tensor, u: Tensor) -> Tensors:  # a cycle through self would keep the buffers in use
            return (student(tokens, u, passes.cache).argmax(dim=-1),)

        self._run = run

    def __call__(self, u: Tensor) -> tuple[Tensor, int]:
        """Noise (B, k) -> guesses (B, k), and the passes they took.

        All rows feed the same number of tokens: a row that has grown less feeds some again, with no effect. Recorded
        passes feed as many as a round can add, so that few shapes are recorded.
        """
        missing, shortest = int((self.sequences.ends - self.seen).max()), int(self.sequences.ends.min())
        count, cost = max(missing, min(self.k + 1, shortest)) if self.passes.use_cuda_graphs else missing, 1
        if missing > shortest:  # too few tokens to feed again: prefill anew
            self.passes.prefill()
            count, cost = 1, 2
        (guesses,) = self.passes("draft", self._run, count, self.k, (u,))
        self.seen = self.sequences.ends.copy()
        return guesses, cost
