"""The attention path and its cache: fast equals slow, and nothing is seen, kept or copied that should not be."""

from __future__ import annotations

import pytest
import torch
from helpers import student, teacher
from torch import Tensor

from kfexplore.models import KVCache, Student, begin_from
from kfexplore.models.attention import attend, attend_reference
from kfexplore.models.kernels import Segment, attend_groups

HEADS, WIDE = 2, 6


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def segment(
    groups: int, length: int, causal: bool = False, visible: list[int] | None = None, alone: bool = False
) -> Segment:
    seen = None if visible is None else torch.tensor(visible)
    keys, values = drawn(groups, HEADS, length, WIDE, seed=length), drawn(groups, HEADS, length, WIDE, seed=length + 1)
    return Segment(keys, values, causal, seen, alone)


def one_query(q: Tensor, segments: list[Segment], row: int, head: int, at: int) -> Tensor:
    """What one query reads, from the definition alone: the keys it may see, one softmax over them all."""
    keys, values = [], []
    for s in segments:
        length, group = s.k.shape[2], row // (q.shape[0] // s.k.shape[0])
        end = length if s.visible is None else int(s.visible[row])
        if s.causal:  # lower right: the last query sees all keys, each one before it one less
            end = length - q.shape[2] + at + 1
        start = length - q.shape[2] + at if s.alone else 0
        end = start + 1 if s.alone else end
        keys.append(s.k[group, head, start:end])
        values.append(s.v[group, head, start:end])
    scores = torch.cat(keys) @ q[row, head, at] / WIDE**0.5
    return scores.softmax(dim=0) @ torch.cat(values)


CASES = {
    "one causal segment": (2, 5, [segment(2, 5, causal=True)]),
    "causal, lower right": (2, 3, [segment(2, 5, causal=True)]),
    "causal, one query": (2, 1, [segment(2, 5, causal=True)]),
    "bidirectional": (2, 5, [segment(2, 5)]),
    "visible alone": (3, 2, [segment(3, 5, visible=[1, 5, 2])]),
    "all rows share one prefix": (6, 3, [segment(1, 7), segment(6, 3, causal=True)]),
    "two prefixes, three rows each": (6, 3, [segment(2, 7), segment(6, 4, causal=True)]),
    "a prefix a row": (3, 2, [segment(3, 4), segment(3, 2, causal=True)]),
    "rows see parts of shared prefixes": (4, 3, [segment(2, 6, visible=[1, 6, 3, 2]), segment(4, 3, causal=True)]),
    "slots that do not see each other": (4, 3, [segment(2, 6, visible=[1, 6, 3, 2]), segment(4, 3, alone=True)]),
    "a shared prefix alone": (4, 2, [segment(2, 6, visible=[1, 6, 3, 2])]),
}


@pytest.mark.parametrize("case", CASES)
def test_attention_is_its_definition_and_its_slow_twin(case: str) -> None:
    batch, count, segments = CASES[case]
    q = drawn(batch, HEADS, count, WIDE, seed=99)
    fast = attend(q, segments)
    torch.testing.assert_close(fast, attend_reference(q, segments), rtol=0, atol=1e-12)
    for row, head, at in torch.cartesian_prod(*map(torch.arange, (batch, HEADS, count))).tolist():
        torch.testing.assert_close(fast[row, head, at], one_query(q, segments, row, head, at), rtol=0, atol=1e-12)


GROUPS = {
    "one slot a group": (4, 1, [segment(2, 6, visible=[1, 6, 3, 2]), segment(4, 1, causal=True)]),
    "after tokens of the group": (4, 2, [segment(2, 6, visible=[1, 6, 3, 2]), segment(4, 5, causal=True)]),
    **{name: CASES[name] for name in ("rows see parts of shared prefixes", "slots that do not see each other")},
}


@pytest.mark.parametrize("case", GROUPS)
def test_the_block_mask_of_the_training_pass_shows_what_the_slow_twin_sees(case: str) -> None:
    batch, count, segments = GROUPS[case]
    q = drawn(batch, HEADS, count, WIDE, seed=99)
    fast = attend_groups(q, segments[0], segments[1], compiled=False)
    torch.testing.assert_close(fast, attend_reference(q, segments), rtol=0, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the compiled kernel has a gradient on CUDA devices only")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("slots", "groups"), [(1, 50), (4, 50), (1, 130), (4, 130)])
def test_the_training_pass_on_a_gpu_has_the_gradient_of_the_slow_twin(
    slots: int, groups: int, dtype: torch.dtype
) -> None:
    draw = torch.Generator("cuda").manual_seed(0)
    own, shared = (2 * groups, 4, slots, 32), (2, 4, 130, 32)
    shapes = {"q": own, "k": shared, "v": shared, "ok": own}
    tensors = {
        n: torch.randn(s, device="cuda", generator=draw).to(dtype).requires_grad_(True) for n, s in shapes.items()
    }
    seen = torch.randint(1, 131, (2 * groups,), device="cuda", generator=draw)
    found = []
    for attention in (attend, attend_reference):
        segments = [Segment(tensors["k"], tensors["v"], visible=seen), Segment(tensors["ok"], tensors["ok"], True)]
        out = attention(tensors["q"], segments)
        found.append((out, *torch.autograd.grad(out.square().sum(), list(tensors.values()))))
    near = 1e-2 if dtype == torch.float32 else 8e-2
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=near, atol=near)


def text(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 23, (rows, length), generator=torch.Generator().manual_seed(seed))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_near(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_cached_steps_equal_one_uncached_pass() -> None:
    model, ids, cache = teacher(), text(2, 9), KVCache()
    steps = [model(part, cache) for part in ids.split([3, 1, 1, 3, 1], dim=1)]
    assert_near(torch.cat(steps, dim=1), model(ids))


def test_keys_of_noise_are_not_kept() -> None:
    model, ids, cache = student(), text(2, 5), KVCache()
    for step in range(3):
        fed = ids if step == 0 else text(2, 4, seed=step)
        ids = ids if step == 0 else torch.cat([ids, fed], dim=1)
        u = noise(2, 4, seed=step)
        assert_near(model(fed, u, cache), model.block_logits(ids, u))
        assert cache.length == ids.shape[1]


def test_noise_that_is_kept_is_read_by_the_next_slots() -> None:
    model, ids, u = student(), text(1, 5), noise(3, 4)
    branch = model.prefill(ids).branch()
    slots = [model(None, u[:, j : j + 1], branch, keep_noise=1) for j in range(4)]
    assert_near(torch.cat(slots, dim=1), model.block_logits(ids.expand(3, -1), u))


def test_a_branch_does_not_copy_the_prefix() -> None:
    cache = teacher().prefill(text(1, 6))
    branch = cache.branch()
    prefix, own = branch.extend(0, torch.zeros(50, 2, 1, 8), torch.zeros(50, 2, 1, 8))
    held, _ = cache._layers[0]
    assert prefix.k.untyped_storage().data_ptr() == held.untyped_storage().data_ptr()
    assert (len(prefix.k), len(own.k)) == (1, 50)
    branch.commit(1)
    assert branch.select(torch.arange(9)).prefix is cache


def test_a_branch_leaves_its_prefix_as_it_was() -> None:
    model, ids = student(), text(1, 6)
    cache, u = model.prefill(ids), noise(1, 4)
    model(text(8, 3), noise(8, 4, seed=1), cache.branch())
    assert cache.length == 6
    assert_near(model(None, u, cache.branch()), model.block_logits(ids, u))


def grown_branch(model: Student, rows: int) -> tuple[KVCache, Tensor]:
    branch, u = model.prefill(text(1, 6)).branch(), noise(rows, 2)
    for j in range(2):
        model(None, u[:, j : j + 1], branch, keep_noise=1)
    return branch, u


def test_selected_rows_go_on_from_their_own_tokens() -> None:
    model = student()
    branch, u = grown_branch(model, 3)
    rows, then = torch.tensor([2, 0, 2, 1]), noise(4, 1, seed=5)
    chosen = model(None, then, branch.select(rows))
    assert_near(chosen, model.block_logits(text(1, 6).expand(4, -1), torch.cat([u[rows], then], 1))[:, 2:])


def test_joined_branches_are_the_rows_one_after_another() -> None:
    model = student()
    branch, _ = grown_branch(model, 5)
    parts = [branch.select(part) for part in (torch.tensor([0, 1]), torch.tensor([2, 3, 4]))]
    then = noise(5, 1, seed=5)
    assert_near(model(None, then, KVCache.join(parts)), model(None, then, branch))


def test_rows_over_different_prefixes_cannot_be_selected() -> None:
    cache = teacher().prefill(text(2, 6))
    with pytest.raises(ValueError, match="one shared prefix"):
        cache.branch().select(torch.tensor([0]))


def test_a_branch_cannot_branch_again() -> None:
    with pytest.raises(ValueError, match="branch again"):
        teacher().prefill(text(1, 6)).branch().branch()


ENDS = torch.tensor([[1, 4, 7], [7, 2, 2]])


@pytest.mark.parametrize("given", [0, 3])
def test_groups_equal_one_block_a_prefix(given: int) -> None:
    model, ids, u = student(), text(2, 7), noise(2, 3, 2)
    between = text(6, given).view(2, 3, given)
    together = model.group_logits(ids, u, ENDS, given=between if given else None)
    assert together.shape == (2, 3, 2, 24)
    for b, g in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        context = torch.cat([ids[b, : ENDS[b, g]], between[b, g]])
        assert_near(together[b, g], model.block_logits(context[None], u[b, g][None])[0])


def test_gradients_of_a_group_reach_its_prefix_and_nothing_after_it() -> None:
    model, ids = student().requires_grad_(True), torch.arange(7)[None]
    losses = model.group_logits(ids, noise(1, 2, 3), torch.tensor([[4, 2]])).log_softmax(dim=-1)[..., 5].sum()
    losses.backward()
    reached = model.vocab_embed.embedding.grad.abs().sum(dim=1) > 0
    assert reached[:8].tolist() == [True] * 4 + [False] * 4


def test_gradients_through_groups_equal_those_of_single_blocks() -> None:
    ids, u, grads = text(1, 7), noise(1, 3, 2), []
    for together in (True, False):
        model = student().requires_grad_(True)
        if together:
            logits = model.group_logits(ids, u, ENDS[:1])[0]
        else:
            logits = torch.cat([model.block_logits(ids[:, : ENDS[0, g]], u[:, g]) for g in range(3)])
        logits.log_softmax(dim=-1)[..., 5].sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("deeper", [0, 2])
def test_added_blocks_change_nothing_until_they_are_trained(deeper: int) -> None:
    source, ids = student(), torch.tensor([[3, 1, 4, 1, 5]])
    noise = torch.tensor([[0.3, 0.9]], dtype=torch.float64)
    model = student(seed=7, depth=source.config.depth + deeper)
    before = model.block_logits(ids, noise)
    begin_from(model, source)
    torch.testing.assert_close(model.block_logits(ids, noise), source.block_logits(ids, noise))
    assert not torch.allclose(before, model.block_logits(ids, noise))


def test_a_student_keeps_its_own_noise_encoder_after_a_teacher() -> None:
    source, model = teacher(), student()
    own = model.noise_encoder.mlp[0].weight.clone()
    begin_from(model, source)
    assert torch.equal(model.noise_encoder.mlp[0].weight, own)
    assert torch.equal(model.vocab_embed.embedding, source.vocab_embed.embedding)


def test_added_blocks_learn() -> None:
    model = student(seed=7, depth=student().config.depth + 1)
    begin_from(model, student())
    model.requires_grad_()
    model.block_logits(torch.tensor([[3, 1]]), torch.tensor([[0.3]], dtype=torch.float64)).square().sum().backward()
    gradient = model.blocks[-1].attn_out.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0
