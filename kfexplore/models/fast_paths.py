"""Fast paths, and whether each can be used here: CUDA paths are compared once with the plain path when first used.

A path that raises or differs is disabled for its case (a network, or a device, dtype and head size) until the process
ends, and one line is logged. `kfexplore doctor`, the page and the bench documents report the same states.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

LOGGER = logging.getLogger(__name__)
NEAR: Final = {torch.float64: 1e-6, torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: 8e-2}
"""Relative and absolute tolerance of a check by dtype. Kernels may round to TF32; wrong results differ by far more."""
ATTENTION_VARIABLE = "KFEXPLORE_ATTENTION"
"""Environment variable: `torch` turns flash-attn off."""


@dataclass(frozen=True)
class Verdict:
    """Result of the check of one case."""

    case: str
    """A network, or a device, dtype and head size."""
    reason: str = ""
    """Why the case is disabled; empty if the fast path is active."""


class FastPath:
    """One fast path and the verdicts on it.

    Args:
        name: Its name in documents.
        about: What it does.
        missing: Returns what is missing to use it here; empty if nothing.
        advice: What it needs.
        checked: Whether it is checked at run time. CPU paths are compared with their slow twins in the tests instead.
    """

    def __init__(
        self, name: str, about: str, missing: Callable[[], str], advice: str = "", checked: bool = True
    ) -> None:
        self.name, self.about, self.missing, self.advice, self.checked = name, about, missing, advice, checked
        self.verdicts: dict[Hashable, Verdict] = {}

    def disabled(self, key: Hashable) -> bool:
        """Whether a check of this case has failed."""
        verdict = self.verdicts.get(key)
        return verdict is not None and bool(verdict.reason)

    def judge(self, key: Hashable, case: str, check: Callable[[], str], part: str = "") -> bool:
        """Runs a check, keeps its verdict and logs a failure. A case that is disabled stays disabled.

        Args:
            key: Identifies the case.
            case: The case in words.
            check: Returns how the fast path differs from the plain one; empty if it does not.
            part: Which part of the case is checked, if there are several checks.

        Returns:
            Whether the fast path can be used.
        """
        try:
            reason = check()
        except Exception as error:  # drivers, compilers and other libraries raise any kind
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if reason and not self.disabled(key):
            reason = f"{part}: {reason}" if part else reason
            self.verdicts[key] = Verdict(case, reason)
            LOGGER.warning(
                "%s is disabled for %s (%s). The plain path is used instead. "
                "Please report this line with the output of: kfexplore doctor --json",
                self.name,
                case,
                reason,
            )
        self.verdicts.setdefault(key, Verdict(case))
        return not self.disabled(key)

    def works_for(self, q: Tensor, check: Callable[[], str]) -> bool:
        """Whether this attention path can be used for queries (B, h, t, d); checked once per device, dtype and d."""
        key = (q.device, q.dtype, q.shape[-1])
        if key not in self.verdicts:
            dtype = str(q.dtype).removeprefix("torch.")
            return self.judge(key, f"{dtype} on {q.device}, head size {q.shape[-1]}", check)
        return not self.disabled(key)

    @property
    def state(self) -> str:
        """`unavailable`, `unchecked`, `active`, or `disabled` if a check of any case has failed."""
        verdicts = [*self.verdicts.values()]
        if any(verdict.reason for verdict in verdicts):
            return "disabled"
        if self.missing():
            return "unavailable"
        return "active" if verdicts or not self.checked else "unchecked"

    @property
    def reason(self) -> str:
        """Why the path is unavailable or disabled, each case with its reason; empty otherwise."""
        failed = [f"{verdict.case} ({verdict.reason})" for verdict in [*self.verdicts.values()] if verdict.reason]
        return "; ".join(failed) or self.missing()


def difference(fast: Sequence[Tensor], plain: Sequence[Tensor]) -> str:
    """How the results of two paths differ, in words; empty if they agree.

    Integers must be equal, floating point numbers within `NEAR`.
    """
    for number, (one, other) in enumerate(zip(fast, plain, strict=True), start=1):
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"result {number} is {one.dtype} {tuple(one.shape)}, expected {other.dtype} {tuple(other.shape)}"
        if not other.is_floating_point():
            if not torch.equal(one, other):
                return f"{int((one != other).sum())} of {other.numel()} entries of result {number} differ"
        elif not torch.allclose(one, other, rtol=NEAR[other.dtype], atol=NEAR[other.dtype], equal_nan=True):
            return f"result {number} differs by up to {float((one - other).abs().max()):.3g}"
    return ""


def _no_cuda() -> str:
    if torch.cuda.is_available():
        return ""
    return "no CUDA device" if torch.version.cuda else "this build of PyTorch has no CUDA"


def _no_flash() -> str:
    if missing := _no_cuda():
        return missing
    if os.environ.get(ATTENTION_VARIABLE, "flash") != "flash":
        return f"turned off by {ATTENTION_VARIABLE}"
    return "" if importlib.util.find_spec("flash_attn") else "flash-attn is not installed"


def _no_flex() -> str:
    return _no_cuda() or ("" if importlib.util.find_spec("triton") else "triton is not installed")


def _no_onednn() -> str:
    return "" if torch.backends.mkldnn.is_available() else "this build of PyTorch has no oneDNN"


def _no_bf16() -> str:
    missing = _no_onednn()
    if missing or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return missing
    return "the CPU has no bf16 instructions"


_DEVICE = "a CUDA device, PyTorch built for it, and --device cuda"
GRAPHS = FastPath("cuda_graphs", "decoding passes recorded once, then replayed", _no_cuda, _DEVICE)
FLASH = FastPath(
    "flash_attention",
    "decoding attention in half precision",
    _no_flash,
    f"{_DEVICE}; the package of requirements-gpu.txt; {ATTENTION_VARIABLE} unset",
)
FLEX = FastPath("flex_attention", "training attention without a score matrix", _no_flex, _DEVICE)
ONEDNN = FastPath(
    "onednn_linear", "packed weights on a CPU", _no_onednn, "PyTorch built with oneDNN (its own wheels)", checked=False
)
BF16_DRAFTS = FastPath(
    "bf16_drafts",
    "guesses of `verified` in bf16 on a CPU",
    _no_bf16,
    "a CPU with AVX-512 BF16 or AMX; float32 is used otherwise",
    checked=False,
)
FAST_PATHS: Final = (GRAPHS, FLASH, FLEX, ONEDNN, BF16_DRAFTS)


def summary() -> dict[str, str]:
    """The state of every fast path by name, with the reason if there is one."""
    return {path.name: ": ".join(filter(None, (path.state, path.reason))) for path in FAST_PATHS}
