"""The cpu_path blocks against the plain ones, and the static cache against no cache at all."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import student, teacher
from torch import nn

from kfexplore.models import KVCache, StaticCache, cpu_blocks, onednn_linear
from kfexplore.models.onednn_linear import SMALL, Linear


@pytest.mark.parametrize("cpu_path", [True, False])
@pytest.mark.parametrize("small", [onednn_linear.SMALL, 0])
def test_passes_over_a_static_cache_give_the_logits_of_whole_rows(
    cpu_path: bool, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kfexplore.models.cpu_fast_path.SMALL", small)
    network, ids = teacher(), torch.randint(0, 20, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = network(ids)
        cache = StaticCache(20)
        cache.blocks = cpu_blocks(network) if cpu_path else None
        cache.place(0, 5)
        assert torch.allclose(network(ids[:, :5], cache), whole[:, :5], atol=1e-5)
        cache.place(5, 1)
        assert torch.allclose(network(ids[:, 5:6], cache), whole[:, 5:6], atol=1e-5)
        cache.place(4, 5)  # some of it again
        assert torch.allclose(network(ids[:, 4:], cache), whole[:, 4:], atol=1e-5)


@pytest.mark.parametrize("cpu_path", [True, False])
def test_tokens_that_are_not_read_are_kept_as_keys_and_values(cpu_path: bool) -> None:
    network, ids = teacher(), torch.randint(0, 20, (3, 9), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        whole = network(ids)
        cache = StaticCache(20)
        cache.blocks = cpu_blocks(network) if cpu_path else None
        cache.place(0, 8)
        assert torch.allclose(network(ids[:, :8], cache, read=2), whole[:, 6:8], atol=1e-5)
        cache.place(8, 1)
        assert torch.allclose(network(ids[:, 8:], cache), whole[:, 8:], atol=1e-5)


@pytest.mark.parametrize("cpu_path", [True, False])
def test_rows_of_different_ends_see_their_own_tokens_only(cpu_path: bool) -> None:
    network, ids = teacher(), torch.randint(0, 20, (3, 9), generator=torch.Generator().manual_seed(1))
    ends = torch.tensor([2, 7, 5])
    with torch.inference_mode():
        cache = StaticCache(20)
        cache.blocks = cpu_blocks(network) if cpu_path else None
        cache.place(0, 8)  # beyond every row's end: filling, to be overwritten
        network(ids[:, :8], cache)
        fresh = torch.tensor([[5, 6], [7, 8], [9, 1]])
        cache.place(ends, 2, 7)
        found = network(fresh, cache)
        for row, end in enumerate(ends.tolist()):
            alone = network(torch.cat([ids[row : row + 1, :end], fresh[row : row + 1]], dim=1), KVCache(), read=2)
            assert torch.allclose(found[row : row + 1], alone, atol=1e-5)


def test_noise_slots_are_overwritten_by_the_tokens_they_became() -> None:
    network, ids = student(), torch.tensor([[3, 1, 4]])
    u = torch.tensor([[0.1, 0.7]], dtype=torch.float64)
    with torch.inference_mode():
        cache = StaticCache(12)
        cache.blocks = cpu_blocks(network)
        cache.place(0, 5)
        network(ids, u, cache)
        cache.place(3, 4)
        found = network(torch.tensor([[9, 2]]), u, cache)
        assert torch.allclose(found, network.block_logits(torch.tensor([[3, 1, 4, 9, 2]]), u), atol=1e-5)


def test_cpu_blocks_follow_their_weights() -> None:
    network, ids = teacher(), torch.tensor([[3, 1, 4]])
    with torch.no_grad():
        for _ in range(2):
            cache = StaticCache(5)
            cache.blocks = cpu_blocks(network)
            cache.place(0, 3)
            assert torch.allclose(network(ids, cache), network(ids), atol=1e-5)
            for parameter in network.blocks.parameters():
                parameter.mul_(1.1)


def test_a_pass_beyond_the_room_of_the_cache_is_an_error() -> None:
    cache = StaticCache(4)
    with pytest.raises(ValueError, match="3 tokens from 2 do not fit a cache of 4"):
        cache.place(2, 3)
    cache.place(0, 3)
    with pytest.raises(ValueError, match="2 tokens in a pass that was placed for 3"):
        cache.positions(2, torch.device("cpu"))


def test_double_precision_has_no_cpu_blocks() -> None:
    assert cpu_blocks(teacher().double()) is None


def test_rough_blocks_are_near_and_not_taken_for_the_exact_ones() -> None:
    network, ids = teacher(), torch.randint(0, 20, (3, 9), generator=torch.Generator().manual_seed(3))
    exact, rough = cpu_blocks(network), cpu_blocks(network, allow_bf16=True)
    assert exact is not rough
    assert (cpu_blocks(network), cpu_blocks(network, allow_bf16=True)) == (exact, rough)
    with torch.inference_mode():
        whole = network(ids)
        cache = StaticCache(20)
        cache.blocks = rough
        cache.place(0, 9)
        found = network(ids, cache)
        assert torch.allclose(found, whole, atol=0.05 * float(whole.abs().max()))
        cache.blocks = exact
        cache.place(0, 9)
        assert torch.allclose(network(ids, cache), whole, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("gelu", "added"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (5, 7)])
def test_a_packed_map_is_the_plain_one(shape: tuple[int, int], gelu: bool, added: bool, bias: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(6, 10, bias=bias)
    x = torch.randn(*shape, 6)
    add = torch.randn(*shape, 10) if added else None
    with torch.no_grad():
        assert torch.allclose(layer(x, gelu, add), layer.plain(x, gelu, add), atol=1e-6)


def test_a_single_row_of_large_weights_is_the_plain_one() -> None:
    torch.manual_seed(0)
    layer = Linear(1024, SMALL // 1024)
    x = torch.randn(1, 1, 1024)
    with torch.inference_mode():
        assert layer._packs(x)
        assert torch.allclose(layer(x), layer.plain(x), atol=1e-5)


def test_weights_that_change_are_packed_anew() -> None:
    layer, x = Linear(6, 10), torch.randn(3, 6)
    with torch.no_grad():
        layer(x)
        layer.weight.mul_(2)
        assert torch.allclose(layer(x), layer.plain(x), atol=1e-6)
        layer.weight = nn.Parameter(torch.randn(10, 6))
        assert torch.allclose(layer(x), layer.plain(x), atol=1e-6)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        assert torch.equal(twin(x), layer(x))


def test_other_precisions_and_autocast_take_the_plain_product() -> None:
    layer, x = Linear(6, 10), torch.randn(3, 6)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
        assert layer.double()(x.double()).dtype == torch.float64
