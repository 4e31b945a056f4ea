"""How well a student knows its teacher's map, on text: same context, same noise, same tokens?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from kfexplore import noise
from kfexplore.checkpoints.tokenizers import encode_ids
from kfexplore.errors import KfError
from kfexplore.pair import Pair
from kfexplore.results import Floats
from kfexplore.training.targets import exact_targets

FEWEST_BEFORE = 8
"""Tokens of a stretch before the first block."""


@dataclass(frozen=True)
class Agreement:
    """What `agreement` measured; shares in 0 .. 1, losses in nats a token."""

    teacher_nll: float
    """Teacher's loss on the text itself."""
    agreement_by_slot: list[float]
    """(K,) share of blocks whose slot has the exact token."""
    agreement_by_slot_interval: list[float]
    """(K,) half width of the 95 % interval, windows of text taken as the independent units."""
    agreement_block: float
    """Share of blocks with all K tokens exact."""
    agreement_block_interval: float
    """As above."""
    student_nll_by_slot: list[float]
    """(K,) student's loss on the exact tokens; the ideal is 0, as the target is determined by the noise."""
    windows: int
    """Stretches of text."""
    context: int
    """Tokens a stretch; a block starts after 8 of them or more."""
    blocks: int
    """Noise vectors, one after a random prefix each."""
    seed: int
    """Keys the prefixes and the noise."""
    tokens: int
    """Tokens of the whole text, of which the stretches are taken evenly spaced."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def read_text(path: Path) -> list[str]:
    """The texts of a file, or of a folder's .txt files in the order of their names.

    Raises:
        KfError: nothing is there, or it is not text.
    """
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files or not all(f.is_file() for f in files):
        raise KfError(f"There is no text in {path}.", "a text file, or a folder of .txt files")
    try:
        return [f.read_text(encoding="utf-8") for f in files]
    except UnicodeDecodeError as error:
        raise KfError(f"{path} has a file that is not UTF-8 text: {error.reason}.", "plain text") from None


@torch.inference_mode()
def agreement(pair: Pair, texts: list[str], windows: int = 64, groups: int = 128, seed: int = 0) -> Agreement:
    """Compares both maps after many prefixes of a text.

    Args:
        pair: Teacher, student and tokenizer.
        texts: Should not have been trained on.
        windows: Stretches of one context length, evenly spaced.
        groups: Prefixes a stretch, drawn without replacement; each gets one noise vector.
        seed: Keys prefixes and noise.

    Raises:
        KfError: no tokenizer, fewer than two windows, or a text shorter than two contexts.
    """
    tokenizer = pair.need_tokenizer()
    ids = np.concatenate([encode_ids(tokenizer, text) for text in texts]).astype(np.int64)
    length, slots = pair.room, pair.student.config.block
    if windows < 2 or length < FEWEST_BEFORE or len(ids) < 2 * length:
        raise KfError(
            f"{windows} windows of {length} tokens were asked for, the text has {len(ids)}.",
            f"at least 2 windows, of at least {FEWEST_BEFORE} tokens each, in the text",
        )
    windows = min(windows, len(ids) // length)
    starts = np.linspace(0, len(ids) - length, windows).astype(int)
    prefixes = np.arange(FEWEST_BEFORE, length + 1)
    groups = min(groups, len(prefixes))
    hits, losses, nll = np.empty((windows, groups, slots), dtype=bool), [], []
    for w, start in enumerate(tqdm(starts, desc="agreement", leave=False)):
        rng = noise.generator(seed, w)
        context = torch.from_numpy(ids[start : start + length])[None].to(pair.teacher.device)
        ends = torch.from_numpy(rng.permutation(prefixes)[:groups])[None].to(context.device)
        u = torch.from_numpy(noise.uniform(seed, range(w * groups, (w + 1) * groups), 0, slots))[None]
        u = u.to(context.device)
        exact = exact_targets(pair.teacher, context, u, ends)
        logits = pair.student.group_logits(context, u, ends)
        hits[w] = (logits.argmax(dim=-1) == exact)[0].cpu().numpy()
        losses.append(_loss(logits[0], exact[0]))
        nll.append(float(F.nll_loss(pair.teacher.log_probs(context)[0, :-1], context[0, 1:])))
    by_slot, block = hits.mean(axis=1), hits.all(axis=2).mean(axis=1)
    return Agreement(
        teacher_nll=float(np.mean(nll)),
        agreement_by_slot=by_slot.mean(axis=0).tolist(),
        agreement_by_slot_interval=_interval(by_slot).tolist(),
        agreement_block=float(block.mean()),
        agreement_block_interval=float(_interval(block)),
        student_nll_by_slot=np.mean(losses, axis=0).tolist(),
        windows=windows,
        context=length,
        blocks=windows * groups,
        seed=seed,
        tokens=len(ids),
    )


def _loss(logits: Tensor, exact: Tensor) -> Floats:
    """Mean loss a slot of logits (G, K, V) on tokens (G, K); (K,)."""
    losses = F.cross_entropy(logits.transpose(1, 2), exact, reduction="none")
    return losses.mean(dim=0).double().cpu().numpy()


def _interval(by_window: Floats) -> Floats:
    """Half width of the 95 % interval of the mean over windows (W, ...)."""
    return 1.96 * by_window.std(axis=0, ddof=1) / np.sqrt(len(by_window))
