"""Decoding: the published sampler's tokens, the slow twins' tokens, and no influence of the batch around a sample."""

from __future__ import annotations

import gc
import re
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers import DATA, built, masked, student, teacher

from kfexplore import noise
from kfexplore.config import DecodeConfig, ModelConfig, from_dict
from kfexplore.decoders import DECODERS
from kfexplore.decoding import buffers, passes, readout
from kfexplore.decoding.generate import (
    Networks,
    decode,
    generate,
    keyed_noise,
    keyed_order,
    needed_noise,
    reference,
    replayed_noise,
    resolve_k,
)
from kfexplore.errors import KfError
from kfexplore.laws.samplers import masked_blocks
from kfexplore.models import Student
from kfexplore.results import Decoded

FULL = pytest.mark.full("kfexplore/decoding", "kfexplore/models")
LEVEL = [[3, 1, 4], [1, 5, 9], [2, 6, 5], [3, 5, 8], [9, 7, 9]]
RAGGED = [[3, 1, 4, 1, 5, 9, 2], [6], [5, 3, 5, 8], [9, 7], [9, 3, 2, 3, 8, 4, 6, 2, 6]]
ALL = Networks(teacher(), student(), masked())
VALUES = {
    "k": 3,
    "temperature": 0.7,
    "frequency_penalty": 0.5,
    "dither": 6,
    "exact_first": True,
    "order": "confident",
    "guess": "nothing",
}
WAYS = [
    *(DecodeConfig(name, **{option: VALUES[option]}) for name in DECODERS for option in DECODERS[name].options),
    *(DecodeConfig(name) for name in DECODERS),
    DecodeConfig("pflm", 1),
    DecodeConfig("mdlm", 3, order="confident"),
    DecodeConfig("jacobi", 9, guess="nothing"),
]
"""Every decoder of the registry with each of its options."""


def named(config: DecodeConfig) -> str:
    usual = DecodeConfig(config.decoder)
    return "-".join(
        str(value) for name, value in vars(config).items() if name == "decoder" or value != getattr(usual, name)
    )


def write(
    config: DecodeConfig, prompts: list[list[int]], new: int = 11, seed: int = 5, first: int = 0, **options: Any
) -> Decoded:
    samples = range(first, first + len(prompts))
    values = keyed_noise(seed, samples, config, ALL, new)
    return generate(config, ALL, prompts, values, new, keyed_order(seed, samples, new), **options)


def slowly(config: DecodeConfig, prompts: list[list[int]], new: int = 11, networks: Networks = ALL) -> list[list[int]]:
    samples = range(len(prompts))
    values = keyed_noise(5, samples, config, networks, new)
    return reference(config, networks, prompts, values, new, keyed_order(5, samples, new)).tolist()


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
    config, networks = DecodeConfig("pflm", k, frequency_penalty=penalty), Networks(student=published)
    values = replayed_noise(parity["stream"].astype(np.float64), config, networks, 21)
    decoded = generate(config, networks, parity["ctx"].tolist(), values, 21)
    assert decoded.tokens.tolist() == parity[f"decode_k{k}_fp{penalty}"].tolist()


@pytest.mark.parametrize("prompts", [LEVEL, RAGGED], ids=["level", "ragged"])
@pytest.mark.parametrize("config", WAYS, ids=named)
def test_every_decoder_writes_what_its_slow_twin_writes(config: DecodeConfig, prompts: list[list[int]]) -> None:
    assert write(config, prompts).tokens.tolist() == slowly(config, prompts)


@pytest.mark.parametrize("config", WAYS, ids=named)
def test_tokens_of_a_sample_do_not_depend_on_the_batch_around_it(config: DecodeConfig) -> None:
    alone = write(config, RAGGED[:1], first=0).tokens[0].tolist()
    for others in (RAGGED[1:], LEVEL, RAGGED[:1] * 4):
        assert write(config, [RAGGED[0], *others]).tokens[0].tolist() == alone
    last = write(config, RAGGED).tokens[4].tolist()
    assert write(config, RAGGED[4:], first=4).tokens[0].tolist() == last


@pytest.mark.parametrize(
    ("seed", "peaky"), [(0, 8.0), *(pytest.param(n, p, marks=FULL) for n in range(1, 4) for p in (1.0, 8.0))]
)
@pytest.mark.parametrize("config", [w for w in WAYS if DECODERS[w.decoder].checks and w.temperature == 1.0], ids=named)
def test_lossless_decoders_write_the_text_of_ar(config: DecodeConfig, seed: int, peaky: float) -> None:
    networks = Networks(teacher(peaky=peaky), student())
    values = noise.uniform(seed, range(5), 0, 17)
    for prompts in (LEVEL, RAGGED, RAGGED[1:2]):
        expected = generate(DecodeConfig("ar"), networks, prompts, values[: len(prompts)], 17)
        decoded = generate(config, networks, prompts, values[: len(prompts)], 17)
        assert decoded.tokens.tolist() == expected.tokens.tolist()
        assert decoded.kept.sum(axis=0).tolist() == [17] * len(prompts)


def test_a_student_that_knows_the_map_is_verified_in_whole_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's own G* stands in for the student's guesses: every round keeps K + 1 tokens."""
    values = noise.uniform(1, range(2), 0, 20)
    exact = generate(DecodeConfig("ar"), ALL, LEVEL[:2], values, 20).tokens
    network = student()

    def knowing(_: torch.Tensor, u: torch.Tensor, *__: Any) -> torch.Tensor:
        at = int(np.flatnonzero(values[0] == float(u[0, 0]))[0])
        ahead = np.concatenate([exact, np.zeros((2, 4), dtype=np.int64)], axis=1)[:, at : at + 4]
        return torch.nn.functional.one_hot(torch.from_numpy(ahead), network.config.vocab_size).float()

    monkeypatch.setattr(network, "forward", knowing)
    decoded = generate(DecodeConfig("verified"), Networks(teacher(), network), LEVEL[:2], values, 20)
    assert decoded.tokens.tolist() == exact.tolist()
    assert decoded.kept.tolist() == [[5, 5]] * 4
    assert decoded.nfe == 8


@pytest.mark.parametrize("config", [way for way in WAYS if way.decoder != "mdlm"], ids=named)
def test_near_ties_are_decided_again_by_the_row_alone(config: DecodeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every choice a near tie and every pass over the cache wrong, the tokens stay the same."""
    expected = slowly(config, RAGGED)
    monkeypatch.setattr(readout, "DECODING", readout.NearTie(2.0, 1e9))
    plain = passes.Passes.__call__

    def erring(*args: Any, **kw: Any) -> Any:
        tokens, *rest = plain(*args, **kw)
        return (tokens + 1) % 40, *rest

    monkeypatch.setattr(passes.Passes, "__call__", erring)
    assert write(config, RAGGED).tokens.tolist() == expected
    if config.frequency_penalty == 0:  # counts of wrong tokens would be carried on
        assert write(config, RAGGED, recheck=False).tokens.tolist() != expected


@pytest.mark.parametrize("k", [1, 3])
def test_noise_of_a_file_is_used_step_by_step(k: int) -> None:
    config = DecodeConfig("pflm", k)
    values = np.arange(5 * 2 * 4).reshape(5, 2, 4) / 64
    told = replayed_noise(values, config, ALL, 2 * k)
    assert told.tolist() == [[*values[0, row, :k], *values[1, row, :k]] for row in (0, 1)]
    assert len(replayed_noise(values, DecodeConfig("ar"), ALL, 3)[0]) == 3
    with pytest.raises(KfError, match="ends after 5 steps"):
        replayed_noise(values, config, ALL, 5 * k + 1)
    with pytest.raises(KfError, match="4 slots per step"):
        replayed_noise(values, DecodeConfig("jacobi", 5, guess="nothing"), ALL, 5)


@pytest.mark.parametrize(("new", "k", "passes"), [(8, 4, 2), (9, 4, 3), (9, 1, 9), (1, 3, 1)])
def test_every_pass_of_the_student_is_counted(monkeypatch: pytest.MonkeyPatch, new: int, k: int, passes: int) -> None:
    network, calls = student(), []
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda *args, **kw: calls.append(1) or forward(*args, **kw))
    config = DecodeConfig("pflm", k)
    values = keyed_noise(0, range(5), config, ALL, new)
    decoded = generate(config, Networks(student=network), LEVEL, values, new, recheck=False)
    assert decoded.nfe == len(calls) == passes
    assert decoded.tokens.shape == (5, new)


@pytest.mark.parametrize("prompts", [LEVEL, RAGGED])
def test_every_pass_of_verified_decoding_is_counted(monkeypatch: pytest.MonkeyPatch, prompts: list[list[int]]) -> None:
    networks, calls = Networks(teacher(), student()), []
    for network in (networks.teacher, networks.student):
        run = cast(Any, network).run_blocks
        monkeypatch.setattr(network, "run_blocks", lambda *args, run=run, **kw: calls.append(1) or run(*args, **kw))
    values = noise.uniform(0, range(5), 0, 9)
    decoded = generate(DecodeConfig("verified"), networks, prompts, values, 9, recheck=False)
    assert decoded.nfe == len(calls) - 2  # the prompts


def test_every_pass_of_the_confident_order_reads_fresh_noise() -> None:
    config = DecodeConfig("mdlm", 2, order="confident")
    assert needed_noise(config, ALL, 5) == 3 * 5
    values = keyed_noise(5, range(5), config, ALL, 5)
    later = values.copy()
    later[:, 5:] = noise.uniform(6, range(5), 0, 10)
    (one, *rest), (other, *others) = (list(decode(config, ALL, LEVEL, given, 5))[1:] for given in (values, later))
    assert torch.equal(one.tokens, other.tokens)
    assert any(not torch.equal(a.tokens, b.tokens) for a, b in zip(rest, others, strict=True))
    file = np.arange(3 * 2 * 6).reshape(3, 2, 6) / 64
    assert replayed_noise(file, config, ALL, 5).tolist() == [[*file[:, row, :5].ravel()] for row in (0, 1)]
    with pytest.raises(KfError, match="6 slots per step"):
        replayed_noise(file, config, ALL, 7)


def test_without_an_order_the_masked_model_writes_from_left_to_right() -> None:
    config, ranks = DecodeConfig("mdlm", 2), np.tile(np.arange(7.0), (5, 1))
    values = keyed_noise(5, range(5), config, ALL, 7)
    expected = generate(config, ALL, RAGGED, values, 7, ranks).tokens.tolist()
    assert generate(config, ALL, RAGGED, values, 7).tokens.tolist() == expected
    assert reference(config, ALL, RAGGED, values, 7).tolist() == expected


@pytest.mark.parametrize(("k", "passes"), [(4, 2), (4, 4), (3, 3)])
def test_the_confident_order_is_the_sampler_that_laws_study(k: int, passes: int) -> None:
    studied = masked_blocks(ALL.masked, LEVEL[0], k, 5, range(200), passes, "confident")
    config = DecodeConfig("mdlm", k // passes, order="confident")
    values = keyed_noise(5, range(200), config, ALL, k)
    assert generate(config, ALL, [LEVEL[0]] * 200, values, k).tokens.tolist() == studied.tolist()


def test_a_text_ends_at_its_end() -> None:
    whole = write(DecodeConfig("ar"), LEVEL)
    eos = int(whole.tokens[0, 3])
    ended = write(DecodeConfig("ar"), LEVEL[:1], eos=eos)
    first = whole.tokens[0].tolist().index(eos)
    assert ended.lengths.tolist() == [first + 1]
    assert ended.nfe == first + 1
    assert write(DecodeConfig("verified"), LEVEL[:1], eos=eos).lengths.tolist() == [first + 1]
    batch = write(DecodeConfig("ar"), LEVEL, eos=eos)
    assert [batch.tokens[r, : batch.lengths[r]].tolist() for r in range(5)] == [
        whole.tokens[r, : batch.lengths[r]].tolist() for r in range(5)
    ]
    assert batch.nfe == batch.lengths.max()


@pytest.mark.parametrize("config", WAYS, ids=named)
def test_the_whole_context_can_be_filled(config: DecodeConfig) -> None:
    small = Networks(*(make(context=16) for make in (teacher, student, masked)))
    values = keyed_noise(0, range(5), config, small, 13)
    assert generate(config, small, LEVEL, values, 13, keyed_order(0, range(5), 13)).tokens.shape == (5, 13)


def test_slots_are_all_the_trained_ones_unless_fewer_are_asked_for() -> None:
    assert [resolve_k(DecodeConfig("pflm", k), ALL) for k in (None, 1, 4)] == [4, 1, 4]
    assert resolve_k(DecodeConfig("ar"), ALL) == resolve_k(DecodeConfig("mdlm"), ALL) == 1
    assert needed_noise(DecodeConfig("pflm", 3), ALL, 7) == 9


REFUSED = {
    "k is 5": (DecodeConfig("pflm", 5), ALL, LEVEL, 8),
    "k is 6": (DecodeConfig("verified", 6), ALL, LEVEL, 8),
    "k is 65": (DecodeConfig("jacobi", 65, guess="nothing"), ALL, LEVEL, 8),
    "mdlm needs a masked model": (DecodeConfig("mdlm"), Networks(teacher(), student()), LEVEL, 8),
    "verified needs a student": (DecodeConfig("verified"), Networks(teacher()), LEVEL, 8),
    "pflm needs a student": (DecodeConfig("pflm", 4), Networks(teacher()), LEVEL, 8),
    "no prompt": (DecodeConfig("ar"), ALL, [[1], []], 8),
    "0 new tokens": (DecodeConfig("ar"), ALL, LEVEL, 0),
    "62 new tokens exceed": (DecodeConfig("ar"), ALL, LEVEL, 62),
    "not in the vocabulary": (DecodeConfig("ar"), ALL, [[1, 99999]], 8),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_decoded_is_refused(message: str) -> None:
    config, networks, prompts, new = REFUSED[message]
    values = np.full((len(prompts), max(new, 1) + 8), 0.5)
    with pytest.raises(KfError, match=message):
        generate(config, networks, prompts, values, new)


def test_old_names_of_settings_are_read() -> None:
    old = {"decoder": "pflm", "tau": 0.5, "penalty": 2.0}
    assert from_dict(DecodeConfig, old) == DecodeConfig("pflm", temperature=0.5, frequency_penalty=2.0)
    with pytest.raises(KfError, match="both tau and temperature"):
        from_dict(DecodeConfig, old | {"temperature": 1.0})


def test_a_masked_model_whose_numbers_overflow_is_refused() -> None:
    loud = masked()
    for parameter in loud.parameters():
        parameter.detach().fill_(1e4)  # what a checkpoint may hold at most
    with pytest.raises(KfError, match="not finite"):
        generate(DecodeConfig("mdlm"), Networks(masked=loud), LEVEL, np.full((5, 8), 0.5), 8)


@pytest.mark.parametrize("shape", [(5, 7), (4, 8)])
def test_noise_that_does_not_reach_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(KfError, match="The noise has the shape"):
        generate(DecodeConfig("ar"), ALL, LEVEL, np.full(shape, 0.5), 8)


@pytest.mark.parametrize("name", ["foo", ["ar"], None])
def test_an_unknown_decoder_is_refused(name: Any) -> None:
    with pytest.raises(KfError, match=f"no decoder {re.escape(repr(name))}"):
        DecodeConfig(name)


@pytest.mark.parametrize("config", WAYS, ids=named)
def test_what_an_earlier_batch_left_in_the_buffers_changes_nothing(config: DecodeConfig) -> None:
    expected = write(config, RAGGED[:3]).tokens.tolist()
    write(config, [prompt[::-1] for prompt in RAGGED[:3]], seed=77)
    assert write(config, RAGGED[:3]).tokens.tolist() == expected


def test_buffers_are_taken_over_and_two_batches_at_once_have_their_own() -> None:
    network = teacher()
    batches = [buffers.Sequences(LEVEL, 4, network.device) for _ in range(3)]
    with torch.inference_mode():
        first = passes.Passes(network, batches[0], 1)
        second = passes.Passes(network, batches[1], 1)
        assert first.cache is not second.cache
        left = second.cache
        del second
        assert passes.Passes(network, batches[2], 1).cache is left


@pytest.mark.parametrize("config", [DecodeConfig("ar"), DecodeConfig("pflm"), DecodeConfig("verified")], ids=named)
def test_buffers_are_free_for_the_next_batch_as_soon_as_a_decoder_is_gone(
    config: DecodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    plain = passes.StaticCache
    monkeypatch.setattr(passes, "StaticCache", lambda *shape: made.append(shape) or plain(*shape))
    networks = Networks(teacher(), student())
    values = keyed_noise(5, range(5), config, networks, 11)
    gc.disable()  # a cycle of references would keep them until the collector comes
    try:
        for _ in range(3):
            generate(config, networks, LEVEL, values, 11)
    finally:
        gc.enable()
    assert len(made) == (2 if config.decoder == "verified" else 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("config", [way for way in WAYS if way.decoder != "mdlm"], ids=named)
def test_recorded_passes_write_what_plain_ones_write(config: DecodeConfig) -> None:
    place = Networks(teacher().cuda(), student().cuda())
    values = keyed_noise(5, range(5), config, place, 11)
    for prompts in (LEVEL, RAGGED):
        both = []
        for use_cuda_graphs in (True, True, False):
            sheet = buffers.TokenBuffer(5, 11)
            for step in decode(config, place, prompts, values, 11, recheck=False, use_cuda_graphs=use_cuda_graphs):
                sheet.write(step)
            both.append(sheet.tokens.tolist())
        assert both[0] == both[1] == both[2]
