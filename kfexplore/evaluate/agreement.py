"""How well a student matches its teacher's map on text: agreement under the same noise, the distribution of slot 1."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from kfexplore import noise
from kfexplore.checkpoints.tokenizers import document_frame, encode_ids
from kfexplore.decoding.cdf import cdf, invert
from kfexplore.errors import KfError
from kfexplore.evaluate import intervals
from kfexplore.pair import Pair
from kfexplore.results import Agreement, Bin, Floats, Ints, SlotLaw, steps
from kfexplore.training.targets import exact_targets

FEWEST_BEFORE = 8
"""Fewest tokens of a window before a block."""
ROWS_AT_ONCE = 256
FIFTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@torch.inference_mode()
def agreement(
    pair: Pair, texts: list[str], windows: int = 64, groups: int = 128, seed: int = 0, temperature: float = 1.0
) -> Agreement:
    """Compares both maps after many prefixes of a text.

    Args:
        texts: Held-out texts.
        windows: Number of text windows of the context length, evenly spaced.
        groups: Prefixes per window, drawn without replacement; each has one noise vector.
        seed: Random seed for prefixes and noise.
        temperature: Temperature of both maps; `teacher_nll` is at temperature 1.

    Raises:
        KfError: no tokenizer, a context too short for a block, fewer than two windows, or too short a text.
    """
    teacher, student = pair.teacher, pair.need_student()
    contexts, places, tokens = drawn(pair, texts, windows, groups, seed)
    (windows, groups), slots = places.shape, student.config.block
    hits, margins = np.empty((windows, groups, slots), dtype=bool), np.empty((windows, groups, slots))
    entropies, losses, nll = np.empty((windows, groups)), [], []
    for w, window in enumerate(tqdm(contexts, desc="agreement", leave=False)):
        context = torch.from_numpy(window)[None].to(pair.teacher.device)
        ends = torch.from_numpy(places[w])[None].to(context.device)
        u = torch.from_numpy(noise.uniform(seed, range(w * groups, (w + 1) * groups), 0, slots))[None]
        u = u.to(context.device)
        exact = exact_targets(teacher, context, u, ends, temperature)
        logits = student.group_logits(context, u, ends, temperature)
        top = logits[0].topk(2, dim=-1).values
        plain = teacher(context)[0]
        hits[w] = (logits.argmax(dim=-1) == exact)[0].cpu().numpy()
        margins[w] = (top[..., 0] - top[..., 1]).cpu().numpy()
        entropies[w] = entropy((plain[ends[0] - 1] / temperature).log_softmax(dim=-1))
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
def slot_law(pair: Pair, texts: list[str], contexts: int = 64, resolution: int = 1024, seed: int = 0) -> SlotLaw:
    """Total variation distance of the two distributions of the first token, after one random prefix per context.

    Contexts are evenly spaced in held-out texts. The student's distribution is counted on a midpoint grid over u of
    `resolution` steps, so it has no sampling error; the exact map on the same grid (`tv_exact`) shows the grid's error.
    The interval is over contexts.

    Raises:
        KfError: as `agreement`.
    """
    student = pair.need_student()
    u = torch.from_numpy(steps(resolution)).to(pair.teacher.device)
    measured = []
    for c, window in enumerate(
        tqdm(text_windows(*text_ids(pair, texts), contexts, pair.room), desc="law", leave=False)
    ):
        end = int(noise.generator(seed, "slot law", c).integers(FEWEST_BEFORE, pair.room + 1))
        context = torch.from_numpy(window[:end])[None].to(u.device)
        logits = pair.teacher(context, read=1)[0, 0]
        probs = logits.double().softmax(dim=-1)
        cache = student.prefill(context)
        learned = [student(None, part[:, None], cache.branch())[:, 0].argmax(dim=-1) for part in u.split(ROWS_AT_ONCE)]
        for tokens in (torch.cat(learned), invert(cdf(logits), u)):
            counted = torch.bincount(tokens, minlength=len(probs)).double() / len(tokens)
            measured.append(float((counted - probs).abs().sum() / 2))
    learned_tv, exact_tv = np.array(measured).reshape(-1, 2).T
    return SlotLaw(intervals.mean(learned_tv), float(exact_tv.mean()), len(learned_tv), resolution)


def text_ids(pair: Pair, texts: list[str]) -> tuple[Ints, Ints]:
    """Token ids of all texts, concatenated (T,) and framed as in training; and where each text begins.

    Raises:
        KfError: the pair has no tokenizer.
    """
    tokenizer = pair.need_tokenizer()
    opening, closing = document_frame(tokenizer)
    coded = [np.array([*opening, *encode_ids(tokenizer, text), *closing], dtype=np.int64) for text in texts]
    return np.concatenate(coded), np.cumsum([0, *map(len, coded[:-1])])


def text_windows(ids: Ints, begins: Ints, count: int, length: int) -> Ints:
    """Evenly spaced windows of a text, `count` or as many as fit without overlap; (count, length).

    If texts are shorter than a window on average, each window starts with a text, as a prompt does.

    Args:
        ids: (T,), from `text_ids`.
        begins: Where each text begins, ascending.

    Raises:
        KfError: fewer than two windows were requested, or fewer than two fit.
    """
    if count < 2 or len(ids) < 2 * length:
        raise KfError(
            f"{count} windows of {length} tokens were requested; the text has {len(ids)} tokens.",
            "at least 2 that fit in the text",
        )
    starts = np.linspace(0, len(ids) - length, min(count, len(ids) // length)).astype(int)
    if len(ids) < length * len(begins):
        starts = np.unique(begins[np.searchsorted(begins, starts, side="right") - 1])
    return np.stack([ids[start : start + length] for start in starts])


def binned(values: Floats, hits: npt.NDArray[np.bool_], edges: Floats) -> list[Bin]:
    """Fraction of hits (W, G) by bins of values (W, G) between edges; windows are the independent units.

    A value on an inner edge belongs to the bin above, one on the last edge to the last bin; empty bins are left out.
    """
    place = np.searchsorted(edges[1:-1], values, side="right")
    found = []
    for b, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = place == b
        if inside.any():
            hit = intervals.clustered_fraction((hits & inside).sum(axis=1), inside.sum(axis=1))
            found.append(Bin(float(low), float(high), int(inside.sum()), hit))
    return found


def drawn(pair: Pair, texts: list[str], windows: int, groups: int, seed: int) -> tuple[Ints, Ints, int]:
    """Text windows (W, N), the ends of their prefixes (W, G), and the number of tokens of the text."""
    (ids, begins), length = text_ids(pair, texts), pair.room
    if length < FEWEST_BEFORE:
        raise KfError(f"The pair's contexts have {length} tokens before a block.", f"at least {FEWEST_BEFORE}")
    contexts = text_windows(ids, begins, windows, length)
    ends = np.arange(FEWEST_BEFORE, length + 1)
    places = [noise.generator(seed, "agreement", w).permutation(ends)[:groups] for w in range(len(contexts))]
    return contexts, np.stack(places), len(ids)


def entropy(log_probs: Tensor) -> Floats:
    """Entropy in nats of log probabilities (G, V); (G,)."""
    log_probs = log_probs.double()
    return -(log_probs.exp() * log_probs).sum(dim=-1).cpu().numpy()


def _loss(logits: Tensor, exact: Tensor) -> Floats:
    """Mean loss by slot of logits (G, K, V) on tokens (G, K); (K,)."""
    losses = F.cross_entropy(logits.transpose(1, 2), exact, reduction="none")
    return losses.mean(dim=0).double().cpu().numpy()


def _interval(by_window: Floats) -> Floats:
    """Half width, on the wider side, of the 95 % interval of mean fractions over windows (W, ...)."""
    windows, mean = len(by_window), by_window.mean(axis=0)
    half = intervals.t(windows) * by_window.std(axis=0, ddof=1) / np.sqrt(windows)
    return np.where((mean == 0) | (mean == 1), intervals.none(windows), half)
