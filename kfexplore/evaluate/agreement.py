"""How well a student knows its teacher's map, on text: same context, same noise, same tokens?"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from kfexplore import noise
from kfexplore.errors import KfError
from kfexplore.evaluate import intervals
from kfexplore.evaluate.text import stretches, text_ids
from kfexplore.models import Teacher
from kfexplore.pair import Pair
from kfexplore.results import Agreement, Bin, Floats, Ints
from kfexplore.training.targets import exact_targets

FEWEST_BEFORE = 8
"""Tokens of a stretch before the first block."""
FIFTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@torch.inference_mode()
def agreement(
    pair: Pair, texts: list[str], windows: int = 64, groups: int = 128, seed: int = 0, temperature: float = 1.0
) -> Agreement:
    """Compares both maps after many prefixes of a text.

    Args:
        pair: Teacher, student and tokenizer.
        texts: Should not have been trained on.
        windows: Stretches of one context length, evenly spaced.
        groups: Prefixes a stretch, drawn without replacement; each gets one noise vector.
        seed: Keys prefixes and noise.
        temperature: Of both maps; `teacher_nll` is that of the text at temperature 1.

    Raises:
        KfError: no tokenizer, a context too short for a block, fewer than two windows, or a text shorter than that.
    """
    teacher, student = pair.teacher, pair.need_student()
    assert isinstance(teacher, Teacher)  # a student shares the mask token of its teacher
    contexts, places, tokens = _drawn(pair, texts, windows, groups, seed)
    (windows, groups), slots = places.shape, student.config.block
    hits, margins = np.empty((windows, groups, slots), dtype=bool), np.empty((windows, groups, slots))
    entropies, losses, nll = np.empty((windows, groups)), [], []
    for w, stretch in enumerate(tqdm(contexts, desc="agreement", leave=False)):
        context = torch.from_numpy(stretch)[None].to(pair.teacher.device)
        ends = torch.from_numpy(places[w])[None].to(context.device)
        u = torch.from_numpy(noise.uniform(seed, range(w * groups, (w + 1) * groups), 0, slots))[None]
        u = u.to(context.device)
        exact = exact_targets(teacher, context, u, ends, temperature)
        logits = student.group_logits(context, u, ends, temperature)
        top = logits[0].topk(2, dim=-1).values
        plain = teacher(context)[0]
        hits[w] = (logits.argmax(dim=-1) == exact)[0].cpu().numpy()
        margins[w] = (top[..., 0] - top[..., 1]).cpu().numpy()
        entropies[w] = _entropy((plain[ends[0] - 1] / temperature).log_softmax(dim=-1))
        losses.append(_loss(logits[0], exact[0]))
        nll.append(float(F.cross_entropy(plain[:-1], context[0, 1:])))
    lengths = np.logical_and.accumulate(hits, axis=2)
    by_slot, by_length, block = hits.mean(axis=1), lengths.mean(axis=1), lengths[..., -1]
    by_block = by_length[:, -1]
    nats = np.arange(np.ceil(np.log(pair.teacher.config.vocab_size)) + 1)
    return Agreement(
        teacher_nll=float(np.mean(nll)),
        agreement_by_slot=by_slot.mean(axis=0).tolist(),
        agreement_by_slot_interval=_interval(by_slot).tolist(),
        agreement_block=float(by_block.mean()),
        agreement_block_interval=float(_interval(by_block)),
        student_nll_by_slot=np.mean(losses, axis=0).tolist(),
        agreement_by_entropy=[binned(entropies, hits[..., j], nats) for j in range(slots)],
        block_by_entropy=binned(entropies, block, nats),
        agreement_by_margin=[
            binned(margins[..., j], hits[..., j], np.quantile(margins[..., j], FIFTHS)) for j in range(slots)
        ],
        windows=windows,
        context=contexts.shape[1],
        blocks=windows * groups,
        seed=seed,
        tokens=tokens,
        teacher_entropy=float(entropies.mean()),
        agreement_by_length=by_length.mean(axis=0).tolist(),
        agreement_by_length_interval=_interval(by_length).tolist(),
    )


@torch.inference_mode()
def noise_blind(
    pair: Pair, texts: list[str], windows: int = 64, groups: int = 128, seed: int = 0
) -> tuple[float, float]:
    """What slot 1 would reach after the same prefixes if it never read its noise.

    Args:
        pair, texts, windows, groups, seed: As `agreement` has them.

    Returns:
        The mean of the teacher's largest next-token probability: the agreement of who always names that token; and the
        mean entropy of its law in nats: the least loss on the exact tokens.

    Raises:
        KfError: as `agreement`.
    """
    contexts, places, _ = _drawn(pair, texts, windows, groups, seed)
    shares, nats = np.empty(places.shape), np.empty(places.shape)
    for w, (stretch, ends) in enumerate(zip(contexts, places, strict=True)):
        law = pair.teacher.log_probs(torch.from_numpy(stretch)[None].to(pair.teacher.device))[0, ends - 1]
        shares[w] = law.amax(dim=-1).exp().cpu().numpy()
        nats[w] = _entropy(law)
    return float(shares.mean()), float(nats.mean())


def binned(values: Floats, hits: npt.NDArray[np.bool_], edges: Floats) -> list[Bin]:
    """Share of hits (W, G) by bins of values (W, G) between edges, windows being the independent units.

    A value on an inner edge belongs to the bin above, one on the last edge to the last; empty bins are left out.
    """
    place = np.searchsorted(edges[1:-1], values, side="right")
    found = []
    for b, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = place == b
        if inside.any():
            share = intervals.share((hits & inside).sum(axis=1), inside.sum(axis=1))
            found.append(Bin(float(low), float(high), int(inside.sum()), share))
    return found


def _drawn(pair: Pair, texts: list[str], windows: int, groups: int, seed: int) -> tuple[Ints, Ints, int]:
    """Stretches of the text (W, N), the ends of each one's prefixes (W, G), and the tokens of the text."""
    (ids, begins), length = text_ids(pair, texts), pair.room
    if length < FEWEST_BEFORE:
        raise KfError(f"The pair's contexts have {length} tokens before a block.", f"at least {FEWEST_BEFORE}")
    contexts = stretches(ids, begins, windows, length)
    ends = np.arange(FEWEST_BEFORE, length + 1)
    places = [noise.generator(seed, "agreement", w).permutation(ends)[:groups] for w in range(len(contexts))]
    return contexts, np.stack(places), len(ids)


def _entropy(log_law: Tensor) -> Floats:
    """Entropy in nats of laws (G, V) given as natural logs; (G,)."""
    log_law = log_law.double()
    return -(log_law.exp() * log_law).sum(dim=-1).cpu().numpy()


def _loss(logits: Tensor, exact: Tensor) -> Floats:
    """Mean loss a slot of logits (G, K, V) on tokens (G, K); (K,)."""
    losses = F.cross_entropy(logits.transpose(1, 2), exact, reduction="none")
    return losses.mean(dim=0).double().cpu().numpy()


def _interval(by_window: Floats) -> Floats:
    """Width of the 95 % interval of mean fractions over windows (W, ...), to its farther side."""
    windows, mean = len(by_window), by_window.mean(axis=0)
    half = intervals.t(windows) * by_window.std(axis=0, ddof=1) / np.sqrt(windows)
    return np.where((mean == 0) | (mean == 1), intervals.none(windows), half)
