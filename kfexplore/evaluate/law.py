"""The law that slot 1 pushes uniform noise to, against the teacher's exact one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from kfexplore import noise
from kfexplore.decoding.cdf import cdf, invert
from kfexplore.evaluate import intervals
from kfexplore.evaluate.agreement import FEWEST_BEFORE
from kfexplore.evaluate.text import stretches, text_ids
from kfexplore.pair import Pair
from kfexplore.results import SlotLaw, steps

ROWS_AT_ONCE = 256


@torch.inference_mode()
def slot_law(pair: Pair, texts: list[str], contexts: int = 64, resolution: int = 1024, seed: int = 0) -> SlotLaw:
    """Total variation distance between both laws of the first token, after one random prefix a stretch of text.

    The student's law is counted on a midpoint grid over u, so it has no sampling error; what the grid adds is shown
    by the exact map on the same grid (`tv_exact`). The interval is over contexts.

    Args:
        pair: Teacher, student and tokenizer.
        texts: Should not have been trained on.
        contexts: Stretches, evenly spaced.
        resolution: Steps of the grid.
        seed: Keys the prefixes.

    Raises:
        KfError: as `agreement`.
    """
    student = pair.need_student()
    u = torch.from_numpy(steps(resolution)).to(pair.teacher.device)
    measured = []
    for c, stretch in enumerate(tqdm(stretches(*text_ids(pair, texts), contexts, pair.room), desc="law", leave=False)):
        end = int(noise.generator(seed, "slot law", c).integers(FEWEST_BEFORE, pair.room + 1))
        context = torch.from_numpy(stretch[:end])[None].to(u.device)
        logits = pair.teacher(context, read=1)[0, 0]
        law = logits.double().softmax(dim=-1)
        cache = student.prefill(context)
        learned = [student(None, part[:, None], cache.branch())[:, 0].argmax(dim=-1) for part in u.split(ROWS_AT_ONCE)]
        measured.append([_distance(law, tokens) for tokens in (torch.cat(learned), invert(cdf(logits), u))])
    learned_tv, exact_tv = np.array(measured).T
    return SlotLaw(intervals.mean(learned_tv), float(exact_tv.mean()), len(measured), resolution)


def _distance(law: Tensor, tokens: Tensor) -> float:
    """Total variation distance of the shares of tokens (R,) from a law (V,)."""
    shares = torch.bincount(tokens, minlength=len(law)).double() / len(tokens)
    return float((shares - law).abs().sum() / 2)
