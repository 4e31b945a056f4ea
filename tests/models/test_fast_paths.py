"""Checks of flash-attn and FlexAttention without a GPU: stand-ins that raise, differ or agree."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import teacher
from torch import Tensor

from kfexplore.models import StaticCache, attention, kernels
from kfexplore.models.attention import attend, attend_reference
from kfexplore.models.fast_paths import FAST_PATHS, FLASH, FLEX, FastPath, Verdict, difference, summary
from kfexplore.models.kernels import Segment


def stand_in(q: Tensor, k: Tensor, v: Tensor, cache_seqlens: Tensor, causal: bool) -> Tensor:
    """flash_attn_with_kvcache by its documentation: (B, t, h, d), causal from the last key of each row."""
    assert causal
    assert cache_seqlens.dtype == torch.int32
    out = torch.empty_like(q)
    for row, end in enumerate(cache_seqlens.tolist()):
        for i in range(q.shape[1]):
            seen = end - q.shape[1] + i + 1
            scores = torch.einsum("hd,nhd->hn", q[row, i], k[row, :seen]) * q.shape[-1] ** -0.5
            out[row, i] = torch.einsum("hn,nhd->hd", scores.softmax(-1), v[row, :seen])
    return out


@pytest.mark.parametrize("start", [4, torch.tensor([2, 4])], ids=["level", "ragged"])
def test_rows_are_attended_as_without_it(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, ids = teacher(), torch.tensor([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])

    def logits() -> Tensor:
        cache = StaticCache(12)
        cache.place(0, 4)
        network(ids[:, :4], cache)
        cache.place(start, 3, 4)
        return network(ids[:, 4:], cache)

    with torch.inference_mode():
        plain = logits()
        monkeypatch.setattr(attention, "flash_usable", lambda _: True)
        monkeypatch.setattr(kernels, "_flash_attn", lambda: stand_in)
        assert torch.allclose(logits(), plain, atol=1e-5)


def test_without_a_gpu_it_is_not_used() -> None:
    assert not kernels.flash_usable(torch.zeros(1, 1, 1, 8, dtype=torch.bfloat16))


def test_one_switch_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFEXPLORE_ATTENTION", "torch")
    monkeypatch.setattr(kernels.importlib, "import_module", lambda _: pytest.fail("asked for flash-attn"))
    assert kernels._flash_attn.__wrapped__() is None


Q = torch.zeros(1, 1, 1, 16, dtype=torch.bfloat16)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in FAST_PATHS:
        monkeypatch.setattr(path, "verdicts", {})


def fails(*_: object, **__: object) -> Any:
    raise ImportError("undefined symbol:\n_ZN3c10")


def from_the_first_key(q: Tensor, k: Tensor, v: Tensor, cache_seqlens: Tensor, causal: bool) -> Tensor:
    """The mask of flash-attn before 2.1: query i sees keys 0 .. i."""
    return stand_in(q, k, v, torch.full_like(cache_seqlens, q.shape[1]), causal)


@pytest.mark.parametrize(
    ("kernel", "why"), [(stand_in, ""), (fails, "undefined symbol: _ZN3c10"), (from_the_first_key, "differs by up to")]
)
def test_flash_is_used_where_it_agrees(
    kernel: Callable[..., Tensor], why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    called = []
    monkeypatch.setattr(kernels, "_flash_takes", lambda _: True)
    monkeypatch.setattr(kernels, "_flash_attn", lambda: lambda *a, **k: (called.append(1), kernel(*a, **k))[1])
    for _ in range(2):
        assert kernels.flash_usable(Q) is (not why)
    assert len(called) == 1, "one check per device, dtype and head size"
    assert kernels.flash_usable(torch.zeros(1, 1, 1, 8)) is (not why)
    assert len(called) == 2
    check_log(FLASH, why, 2, caplog)


def segments(like: Tensor, groups: int = 3) -> list[Segment]:
    draw = torch.Generator().manual_seed(0)
    shared, own = ((2, 2, 6, like.shape[-1]), (2 * groups, 2, 2, like.shape[-1]))
    k, v = (torch.randn(shared, generator=draw) for _ in range(2))
    return [
        Segment(k, v, visible=torch.tensor([1, 6, 3, 2, 2, 5])),
        Segment(*(torch.randn(own, generator=draw) for _ in range(2)), causal=True),
    ]


def no_gradient(q: Tensor, prefix: Segment, own: Segment) -> Tensor:
    return attend_reference(q.detach(), [prefix, own]).detach()


def no_prefix(q: Tensor, _prefix: Segment, own: Segment) -> Tensor:
    return attend_reference(q, [own])


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        (lambda q, *parts: attend_reference(q, [*parts]), ""),
        (no_gradient, "does not require grad"),
        (no_prefix, "RuntimeError|differs by up to"),
        (fails, "undefined symbol: _ZN3c10"),
    ],
    ids=["agrees", "no gradient", "no prefix", "raises"],
)
def test_flex_is_used_where_it_and_its_gradient_agree(
    kernel: Callable[..., Tensor], why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    called = []
    monkeypatch.setattr(attention, "_flex_takes", lambda _: True)
    monkeypatch.setattr(attention, "attend_groups", lambda *given: (called.append(1), kernel(*given))[1])
    q = torch.randn(6, 2, 2, 16, generator=torch.Generator().manual_seed(1))
    parts = segments(q)
    for _ in range(2):
        torch.testing.assert_close(attend(q, parts), attend_reference(q, parts))
    assert len(called) == (1 if why else 3), "one check, and every call after it unless it failed"
    check_log(FLEX, why, 1, caplog)


def check_log(path: FastPath, why: str, cases: int, caplog: pytest.LogCaptureFixture) -> None:
    records = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(path.verdicts) == cases
    assert len(records) == (cases if why else 0), "one line per case"
    for record in records:
        line = record.getMessage()
        assert "\n" not in line
        assert line.startswith(f"{path.name} is disabled for ")
        assert any(each in line for each in why.split("|"))
        assert "kfexplore doctor" in line
    assert path.state == "disabled" if why else path.state in ("active", "unavailable")


def test_a_case_that_is_disabled_stays_so(caplog: pytest.LogCaptureFixture) -> None:
    assert FLASH.judge("here", "a case", lambda: "")
    assert not FLASH.judge("here", "a case", lambda: "is wrong", "one part")
    assert not FLASH.judge("here", "a case", lambda: "")
    assert not FLASH.judge("here", "a case", lambda: "is wrong again")
    assert FLASH.verdicts == {"here": Verdict("a case", "one part: is wrong")}
    assert len(caplog.records) == 1
    assert summary()["flash_attention"] == "disabled: a case (one part: is wrong)"


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (torch.tensor([1, 2, 3]), torch.tensor([1, 5, 4]), "2 of 3 entries of result 1 differ"),
        (torch.tensor([1.0]), torch.tensor([1.5]), "result 1 differs by up to 0.5"),
        (torch.tensor([1.0]), torch.tensor([float("nan")]), "result 1 differs by up to nan"),
        (torch.tensor([1.0]), torch.tensor([1.0, 1.0]), "result 1 is torch.float32 (1,), expected torch.float32 (2,)"),
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.001, float("nan")]), ""),
        (torch.empty(2, 0), torch.empty(2, 0), ""),
    ],
)
def test_a_difference_is_named(one: Tensor, other: Tensor, found: str) -> None:
    assert difference([one], [other]) == found


def test_states_here_say_why() -> None:
    states = summary()
    assert set(states) == {path.name for path in FAST_PATHS}
    if not torch.cuda.is_available():
        assert states["cuda_graphs"].startswith("unavailable: ")
        assert states["onednn_linear"] in ("active", "unavailable: this build of PyTorch has no oneDNN")
