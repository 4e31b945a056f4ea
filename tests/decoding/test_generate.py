"""Decoding: the published sampler's tokens, the naive loop's tokens, and no influence of the batch around a sample."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers import DATA, built, student, teacher
from torch import Tensor

from kfexplore import noise
from kfexplore.config import ModelConfig
from kfexplore.decoding.generate import (
    checked_slots,
    collect,
    dithered,
    generate,
    keyed_noise,
    penalised_argmax,
    pflm_steps,
    replayed_noise,
)
from kfexplore.errors import KfError
from kfexplore.models import Student, Teacher

PROMPTS = [[3, 1, 4], [1, 5, 9], [2, 6, 5], [3, 5, 8], [9, 7, 9]]


@pytest.fixture(scope="module")
def parity() -> dict[str, np.ndarray]:
    with np.load(DATA / "parity.npz", allow_pickle=False) as held:
        return dict(held)


@pytest.fixture(scope="module")
def published(parity: dict[str, np.ndarray]) -> Student:
    rows, width, heads, depth, seed = (int(parity[name]) for name in ("V", "H", "nh", "L", "seed"))
    config = ModelConfig("student", rows, width, depth, heads, mask_id=rows - 1, block=4)
    return cast(Student, built(config, seed + 1))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_student_decodes_the_published_tokens(
    published: Student, parity: dict[str, np.ndarray], k: int, penalty: float
) -> None:
    source = replayed_noise(parity["stream"].astype(np.float64), k)
    decoded = generate(published, parity["ctx"].tolist(), source, 21, penalty=penalty)
    assert decoded.tokens.tolist() == parity[f"decode_k{k}_fp{penalty}"].tolist()


def test_teacher_decodes_the_tokens_of_the_naive_loop() -> None:
    network, new = teacher(), 12
    u = noise.uniform(5, range(len(PROMPTS)), 0, new)
    rows = [list(prompt) for prompt in PROMPTS]
    for row, values in zip(rows, u, strict=True):
        for value in values:
            law = network(torch.tensor([row]))[0, -1].double().softmax(0).numpy()
            row.append(int(np.searchsorted(np.cumsum(law), value)))
    decoded = generate(network, PROMPTS, keyed_noise(5, len(PROMPTS), 1), new)
    assert decoded.tokens.tolist() == [row[3:] for row in rows]


@pytest.mark.parametrize("k", [2, 4])
def test_student_decodes_the_tokens_of_the_naive_loop(k: int) -> None:
    network, source = student(), keyed_noise(5, len(PROMPTS), k)
    ids = torch.tensor(PROMPTS)
    for step in range(3):
        ids = torch.cat([ids, network.block_logits(ids, source(step)).argmax(dim=-1)], dim=1)
    assert generate(network, PROMPTS, source, 3 * k).tokens.tolist() == ids[:, 3:].tolist()


@pytest.mark.parametrize(("network", "k"), [(teacher(), 1), (student(), 4)], ids=["ar", "pflm"])
def test_tokens_of_a_sample_do_not_depend_on_the_batch_around_it(network: Teacher | Student, k: int) -> None:
    alone = generate(network, PROMPTS[:1], keyed_noise(3, 1, k), 10).tokens[0].tolist()
    for others in (PROMPTS[1:], PROMPTS[3:], PROMPTS[:1] * 4):
        batch = [PROMPTS[0], *others]
        assert generate(network, batch, keyed_noise(3, len(batch), k), 10).tokens[0].tolist() == alone


def test_samples_of_one_prompt_differ_by_their_noise() -> None:
    decoded = generate(teacher(), [PROMPTS[0]] * 4, keyed_noise(0, 4, 1), 10)
    assert len({tuple(row) for row in decoded.tokens.tolist()}) == 4


def test_keyed_noise_runs_on_from_step_to_step() -> None:
    steps = torch.cat([keyed_noise(9, 3, 4)(step) for step in range(3)], dim=1)
    assert np.array_equal(steps.numpy(), noise.uniform(9, range(3), 0, 12))


def test_temperature_reaches_the_noise_encoder() -> None:
    source, network = keyed_noise(0, 5, 4), student()
    cold, usual = (generate(network, PROMPTS, source, 4, tau=tau).tokens for tau in (0.3, 1.0))
    ids = torch.tensor(PROMPTS)
    assert cold.tolist() == network.block_logits(ids, source(0), tau=0.3).argmax(dim=-1).tolist()
    assert cold.tolist() != usual.tolist()


def test_penalty_counts_grow_within_the_block() -> None:
    logits = torch.tensor([2.0, 1.8, 1.6, 0.0]).expand(1, 4, 4)
    counts = torch.zeros(1, 4)
    # by hand, penalty 0.5: 2.0 wins; then 1.5 < 1.8; then 1.5, 1.3 < 1.6; then 1.5 > 1.3 > 1.1
    assert penalised_argmax(logits, counts, 0.5).tolist() == [[0, 1, 2, 0]]
    assert counts.tolist() == [[2, 1, 1, 0]]


def test_penalty_counts_of_a_row_are_its_own() -> None:
    logits = torch.tensor([[[2.0, 1.8, 0.0]], [[0.0, 1.8, 2.0]]])
    counts = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert penalised_argmax(logits, counts, 0.5).tolist() == [[1], [2]]


class Constant:
    """A student whose every slot has the same logits."""

    config = SimpleNamespace(context=32, block=2, vocab_size=4)

    def __call__(self, _: Tensor, noise: Tensor, *__: Any) -> Tensor:
        return torch.tensor([2.0, 1.8, 1.6, 0.0]).expand(*noise.shape, 4)


def test_penalty_counts_generated_tokens_of_all_blocks_but_not_the_prompt() -> None:
    prompt, source = torch.tensor([[0, 0, 0, 0]]), keyed_noise(0, 1, 2)
    steps = pflm_steps(cast(Student, Constant()), prompt, source, penalty=0.5)
    # as above, and on: counts 2, 1, 1 leave 1.0, 1.3, 1.1
    assert collect(steps, 5).tokens.tolist() == [[0, 1, 2, 0, 1]]
    steps = pflm_steps(cast(Student, Constant()), prompt, source)
    assert collect(steps, 5).tokens.tolist() == [[0] * 5]


def test_dither_draws_by_the_bits_below_the_first() -> None:
    # u = 0.8125 is .1101 in binary: without its first bit .101 = 0.625, without two .01 = 0.25, without three 0.5
    logits = torch.tensor([0.3, 0.3, 0.4]).log().expand(1, 1, 3)
    u = torch.tensor([[0.8125]], dtype=torch.float64)
    assert [dithered(logits, u, bits).item() for bits in (1, 2, 3, 4)] == [2, 0, 1, 0]


def test_dither_changes_nothing_for_a_student_that_knows_its_noise() -> None:
    u = torch.from_numpy(noise.uniform(2, range(500), 0, 4))
    exact = (u * 7).long()  # a map of seven cells, known to the last bit
    sure = 100.0 * torch.nn.functional.one_hot(exact, 7).float()
    assert torch.equal(dithered(sure, u, 6), exact)


def test_dither_gives_a_student_that_ignores_its_noise_the_law_of_its_softmax() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    u = torch.from_numpy((np.arange(2**14) + 0.5) / 2**14)[:, None]
    tokens = dithered(logits.expand(len(u), 1, 4), u, 6)
    shares = torch.bincount(tokens.flatten(), minlength=4) / len(u)
    # 64 rounds of 256 steps each: a cell's edge is off by less than a step
    assert shares.tolist() == pytest.approx(logits.softmax(0).tolist(), abs=1 / 256)
    # within a cell that the student would have had to know, the law is the same: the draw is independent of it
    first = torch.bincount(tokens[: len(u) // 64].flatten(), minlength=4) / (len(u) // 64)
    assert first.tolist() == pytest.approx(logits.softmax(0).tolist(), abs=1 / 256)


def test_dither_reads_the_noise_of_its_own_slot_and_row() -> None:
    logits = torch.zeros(2, 2, 4)
    u = torch.tensor([[0.0, 1 / 8], [2 / 8, 3 / 8]], dtype=torch.float64) + 1 / 16
    assert dithered(logits, u, 1).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("k", [1, 4])
def test_dithered_tokens_are_those_of_the_naive_loop_in_any_batch(k: int) -> None:
    network, source = student(), keyed_noise(5, len(PROMPTS), k)
    ids = torch.tensor(PROMPTS)
    for step in range(2):
        u = source(step)
        ids = torch.cat([ids, dithered(network.block_logits(ids, u), u, 6)], dim=1)
    decoded = generate(network, PROMPTS, source, 2 * k, dither=6).tokens.tolist()
    assert decoded == ids[:, 3:].tolist()
    assert decoded != generate(network, PROMPTS, source, 2 * k).tokens.tolist()
    assert generate(network, PROMPTS[:1], keyed_noise(5, 1, k), 2 * k, dither=6).tokens.tolist() == decoded[:1]


@pytest.mark.parametrize("bits", [0, -1, 17])
def test_dither_with_too_few_or_too_many_bits_is_refused(bits: int) -> None:
    with pytest.raises(KfError, match=f"dither is {bits} bits") as caught:
        generate(student(), PROMPTS, keyed_noise(0, 5, 4), 4, dither=bits)
    assert caught.value.valid == "1 to 16"


def test_penalty_and_dither_exclude_each_other() -> None:
    with pytest.raises(KfError, match=r"penalty \(0.5\) and a dither \(6\)"):
        generate(student(), PROMPTS, keyed_noise(0, 5, 4), 4, penalty=0.5, dither=6)


def test_keyed_noise_of_later_samples_is_their_own() -> None:
    assert torch.equal(keyed_noise(9, 2, 4, first=3)(1), keyed_noise(9, 5, 4)(1)[3:])


@pytest.mark.parametrize(("new", "k", "passes"), [(8, 4, 2), (9, 4, 3), (9, 1, 9), (1, 3, 1)])
def test_every_pass_of_the_student_is_counted(monkeypatch: pytest.MonkeyPatch, new: int, k: int, passes: int) -> None:
    network, calls = student(), []
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda *args, **kw: calls.append(1) or forward(*args, **kw))
    decoded = generate(network, PROMPTS, keyed_noise(0, 5, k), new)
    assert decoded.nfe == len(calls) == passes
    assert decoded.tokens.shape == (5, new)


def test_every_pass_of_the_teacher_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    network, calls = teacher(), []
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda *args, **kw: calls.append(1) or forward(*args, **kw))
    assert generate(network, PROMPTS, keyed_noise(0, 5, 1), 7).nfe == len(calls) == 7


@pytest.mark.parametrize("k", [1, 3, 4])
def test_the_whole_context_can_be_filled(k: int) -> None:
    network = student(context=16)
    assert generate(network, PROMPTS, keyed_noise(0, 5, k), 13).tokens.shape == (5, 13)


def test_slots_are_all_the_trained_ones_unless_fewer_are_asked_for() -> None:
    network = student()
    assert [checked_slots(network, k) for k in (None, 1, 4)] == [4, 1, 4]


@pytest.mark.parametrize("k", [0, 5, -1])
def test_more_or_fewer_slots_than_trained_are_refused(k: int) -> None:
    with pytest.raises(KfError, match=f"k is {k}") as caught:
        checked_slots(student(), k)
    assert "1 to 4" in caught.value.valid


@pytest.mark.parametrize("new", [0, -3, 46])
def test_more_new_tokens_than_the_context_holds_or_none_are_refused(new: int) -> None:
    with pytest.raises(KfError, match=r"asked for|exceed the context"):
        generate(teacher(), PROMPTS, keyed_noise(0, 5, 1), new)


@pytest.mark.parametrize("token", [-1, 24])
def test_prompts_outside_the_vocabulary_are_refused(token: int) -> None:
    with pytest.raises(KfError, match="not in the vocabulary") as caught:
        generate(teacher(), [[1, token, 2]], keyed_noise(0, 1, 1), 3)
    assert caught.value.valid == "0 to 23"


@pytest.mark.parametrize("contexts", [[], [[]]])
def test_no_prompt_is_refused(contexts: list[list[int]]) -> None:
    with pytest.raises(KfError):
        generate(teacher(), contexts, keyed_noise(0, 1, 1), 3)


def test_noise_that_ends_too_early_is_refused_at_the_step_it_lacks() -> None:
    source = replayed_noise(np.full((2, 5, 4), 0.5), 4)
    assert generate(student(), PROMPTS, source, 8).nfe == 2
    with pytest.raises(KfError, match="ends after 2 steps"):
        generate(student(), PROMPTS, source, 9)


def test_noise_with_too_few_slots_is_refused() -> None:
    with pytest.raises(KfError, match="3 slots a step"):
        replayed_noise(np.full((2, 5, 3), 0.5), 4)


def test_replayed_noise_is_the_first_slots_of_each_step() -> None:
    values = noise.uniform(0, range(6), 0, 4).reshape(2, 3, 4)
    assert np.array_equal(replayed_noise(values, 2)(1).numpy(), values[1, :, :2])
