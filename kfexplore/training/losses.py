"""The loss of one step for each kind of model. All randomness is keyed by the settings' seed and the step.

Random numbers are drawn for the whole batch, whichever `rows` are used, so parts and processes add up to that batch.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kfexplore import noise
from kfexplore.config import DecodeConfig
from kfexplore.decoding import pflm
from kfexplore.decoding.buffers import DecodeBatch, Sequences
from kfexplore.errors import KfError
from kfexplore.models import AnyStudent, AnyTeacher, KVCache, MaskedModel
from kfexplore.training.config import TrainConfig
from kfexplore.training.data import Corpus
from kfexplore.training.targets import exact_targets, in_chunks, inverted_noise, self_targets

ALL = slice(None)
LONGEST_REGION = 64
"""Largest number of tokens after a prefix that a masked model learns to fill."""


def teacher_loss(teacher: AnyTeacher, corpus: Corpus, config: TrainConfig, step: int, rows: slice = ALL) -> Tensor:
    """Next-token cross-entropy, nats per token."""
    ids = corpus.windows(config.batch, config.context + 1, config.seed, step)[rows].to(teacher.device)
    with _precision(config, ids):
        hidden = teacher.run_blocks(teacher.embed(ids[:, :-1]), KVCache())
        return in_chunks(teacher, _losses, hidden.flatten(0, 1), ids[:, 1:].flatten()).mean()


def masked_loss(masked: MaskedModel, corpus: Corpus, config: TrainConfig, step: int, rows: slice = ALL) -> Tensor:
    """Bound on the negative log-likelihood under masked diffusion with the linear schedule (MDLM), nats per token.

    A fraction t of the tokens is masked, with t spread evenly over the batch; their loss is weighted by 1 / t. In a
    fraction `prefix_fraction` of the steps, texts are cut at a random place and only their last tokens are masked.
    """
    ids = corpus.windows(config.batch, config.context, config.seed, step)
    rng = noise.generator(config.seed, "masking", step)
    region = config.context
    if config.prefix_fraction and rng.random() < config.prefix_fraction:
        ids = ids[:, : rng.integers(2, config.context + 1)]
        region = min(ids.shape[1] - 1, int(LONGEST_REGION ** rng.random()))
    fraction = torch.from_numpy((rng.random() + np.arange(config.batch)) / config.batch % 1.0)[:, None].clamp_min(1e-3)
    hidden = torch.from_numpy(rng.random(ids.shape)) < fraction
    hidden[:, : ids.shape[1] - region] = False
    ids, hidden, fraction = (whole[rows].to(masked.device) for whole in (ids, hidden, fraction))
    with _precision(config, ids):
        logits = masked(ids.masked_fill(hidden, masked.config.mask_id))
    losses = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
    return (losses * hidden / fraction)[:, -region:].mean()


def student_loss(
    student: AnyStudent,
    teacher: AnyTeacher,
    corpus: Corpus,
    config: TrainConfig,
    step: int,
    rows: slice = ALL,
    frozen: AnyStudent | None = None,
) -> Tensor:
    """Cross-entropy on the noise's target tokens, nats, by slot (K,); the mean is minimised.

    The ideal is 0 for targets that the noise determines (exact, and self up to its teacher's errors). The term of
    `ntp_loss_weight` is added to every slot.

    Args:
        teacher: Gives the targets, and the cells for noise inversion.
        step: Contexts, positions, noise and temperature are keyed by it.
        rows: Contexts of the batch to use.
        frozen: The student of half the block that gives the targets of self-forcing.

    Raises:
        KfError: self-forcing without a frozen student of half the block, or too few positions for the groups.
    """
    rng = noise.generator(config.seed, "student", step)
    if config.places < config.groups:
        raise KfError(f"groups is {config.groups}.", f"at most {config.places}")
    ids = corpus.windows(config.batch, config.context, config.seed, step)
    order = rng.random((config.batch, config.places)).argsort(axis=1)
    places = np.sort(order[:, : config.groups] + 1)  # sorted: neighbouring groups see nearly the same keys
    ends = torch.from_numpy(np.repeat(places, config.noises, axis=1))
    u = torch.from_numpy(rng.random((*ends.shape, config.block)))
    tau = float(rng.uniform(config.tau_min, config.tau_max))
    own = int((np.arange(config.batch)[rows] < config.on_policy_fraction * config.batch).sum())
    ids, ends, u = (whole[rows].to(student.device) for whole in (ids, ends, u))
    if own:
        new, k = ids.shape[1] - ids.shape[1] // 2, student.config.block
        drawn = noise.generator(config.seed, "own contexts", step).random((config.batch, -(-new // k), k))
        ids[:own] = continued(student, ids[:own], torch.from_numpy(drawn[rows][:own]))
    if config.targets == "inversion":
        u, targets = inverted_noise(teacher, ids, u, ends, tau)
    elif config.targets == "self":
        if frozen is None or 2 * frozen.config.block != config.block:
            raise KfError(f"Self-forcing to {config.block} slots needs a student of {config.block // 2}.")
        targets = self_targets(frozen, ids, u, ends, tau)
    else:
        targets = exact_targets(teacher, ids, u, ends, tau)
    with _precision(config, ids):
        cache = KVCache()
        hidden = student.run_blocks(student.embed(ids), cache, keep=ids.shape[1])
        slots = student.group_slots(cache, u, ends, tau, causal=config.causal)
        losses = in_chunks(student, _losses, slots.flatten(0, 1), targets.flatten())
        loss = losses.view(-1, config.block).mean(dim=0)
        if config.ntp_loss_weight:
            exactly = torch.autocast(ids.device.type, enabled=False)
            with exactly, torch.no_grad():
                theirs = teacher.run_blocks(teacher.embed(ids), KVCache())

            def to_teacher(logits: Tensor, theirs: Tensor) -> Tensor:
                with exactly, torch.no_grad():
                    target = teacher.read(theirs[None])[0].softmax(dim=-1)
                return F.cross_entropy(logits, target, reduction="none")

            next_token = in_chunks(student, to_teacher, hidden.flatten(0, 1), theirs.flatten(0, 1))
            loss = loss + config.ntp_loss_weight * next_token.mean()
    return loss


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy (m,) of logits (m, V)."""
    return F.cross_entropy(logits, targets, reduction="none")


@torch.no_grad()
def continued(student: AnyStudent, ids: Tensor, noise: Tensor) -> Tensor:
    """On-policy contexts: their second half is the student's own continuation of the first.

    Args:
        ids: (B, N) contexts.
        noise: (B, S, K) for its S steps.

    Returns:
        (B, N).
    """
    half = ids.shape[1] // 2
    sequences = Sequences(ids[:, :half].tolist(), noise[0].numel(), ids.device)
    settings = DecodeConfig("pflm"), (student,), sequences, noise.flatten(1), noise.shape[2]
    for _ in pflm.steps(DecodeBatch(*settings, recheck=False, use_cuda_graphs=False)):
        pass
    return sequences.ids[:, : ids.shape[1]].clone()  # outside inference mode


def _precision(config: TrainConfig, ids: Tensor) -> torch.autocast:
    enabled = config.precision == "bf16" or (config.precision == "auto" and has_bf16(ids.device))
    return torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=enabled)


def has_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16 products."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
