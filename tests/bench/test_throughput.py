"""A race's rows are the arithmetic of its clock; what a device allows is counted by hand; failures leave the rest."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import masked, student, teacher

from kfexplore.bench import throughput
from kfexplore.bench.roofline import decode_cost, gains, pass_cost
from kfexplore.bench.setting import LEAST_SECONDS, Load
from kfexplore.bench.throughput import RaceSettings, bench_roofline, bench_throughput, race
from kfexplore.cancel import Cancelled
from kfexplore.config import DecodeConfig, ModelConfig
from kfexplore.decoding.buffers import PREFILLED, Step
from kfexplore.decoding.generate import Networks, generate, keyed_noise
from kfexplore.errors import KfError
from kfexplore.results import DevicePeaks, TimingRow
from kfexplore.results.timing import false_positive_rate

NETWORKS = Networks(teacher(), student(), masked())
PEAKS = DevicePeaks(bytes_per_second=1e9, flops_per_second=1e10)
SHAPE = ModelConfig("teacher", vocab_size=8, width=16, depth=2, heads=2, mask_id=7, context=64)
PROMPT = [3, 1, 4]


def settings(**changes: Any) -> RaceSettings:
    values = {"decoders": ("ar", "pflm"), "batches": (2,), "ks": (2,), "new_tokens": 4, "repeats": 3}
    return RaceSettings(**{**values, **changes})


def clock_of(*seconds: float) -> Callable[[], float]:
    """A clock by which run n takes seconds[n]."""
    times: Iterator[float] = (t for n, s in enumerate(seconds) for t in (100.0 * n, 100.0 * n + s))
    return lambda: next(times)


def rows_of(chosen: RaceSettings, **options: Any) -> list[TimingRow]:
    found = race(NETWORKS, chosen, PEAKS, "small", PROMPT, **options)
    return [progress.row for progress in found if progress.row is not None]


def test_times_and_speed_ups_are_the_clocks_without_the_warm_up() -> None:
    ar, pflm = rows_of(settings(), clock=clock_of(99, 99, 4.0, 1.0, 2.0, 1.5, 3.0, 0.5))
    assert ar.seconds is not None
    assert (ar.seconds.value, ar.seconds.low, ar.seconds.high) == (3.0, 2.0, 4.0)
    assert (ar.decoder, ar.batch, ar.k, ar.prompt, ar.nfe, ar.repeats) == ("ar", 2, 1, 3, 4, 3)
    assert ar.ms_per_step == pytest.approx(750)
    assert ar.tokens_per_second == pytest.approx(2 * 4 / 3)
    assert (pflm.nfe, pflm.tokens_per_pass, pflm.ms_per_step) == (2, 2.0, pytest.approx(500))
    assert pflm.speedup is not None  # with the extremes of both
    assert dataclasses.astuple(pflm.speedup) == pytest.approx((3.0, 2.0 / 1.5, 4.0 / 0.5))
    assert (ar.speedup, ar.roofline_speedup) == (None, None)
    assert pflm.roofline_speedup == pytest.approx(ar.least_ms * ar.nfe / (pflm.least_ms * pflm.nfe))
    assert pflm.is_conclusive
    alone = rows_of(settings(decoders=("pflm",)), clock=clock_of(1, 1, 1, 1))
    assert (alone[0].speedup, alone[0].roofline_speedup) == (None, None)


def test_a_batch_is_compared_with_ar_of_the_same_batch() -> None:
    found = rows_of(settings(batches=(1, 2), repeats=1), clock=clock_of(0, 0, 2.0, 1.0, 0, 0, 9.0, 3.0))
    assert [row.speedup.value for row in found if row.speedup] == pytest.approx([2, 3])


@pytest.mark.parametrize(
    ("seconds", "apart"),
    [
        ((9, 9, 3.0, 1.0, 2.0, 1.5), True),
        ((9, 9, 3.0, 1.0, 2.0, 2.1), False),  # its slowest is slower than the fastest of AR
        ((9, 9, 1.0, 3.0, 1.5, 2.0), True),  # slower
        ((9, 9, 3.0, 1.0), False),  # one repeat
    ],
)
def test_a_speed_up_is_conclusive_where_no_pair_of_repeats_says_otherwise(
    seconds: tuple[float, ...], apart: bool
) -> None:
    _, pflm = rows_of(settings(repeats=len(seconds) // 2 - 1), clock=clock_of(*seconds))
    assert pflm.is_conclusive == apart


def test_a_steadily_growing_load_is_inconclusive() -> None:
    """Run n takes 1 + n / 100 seconds, whichever decoder it is."""
    found = rows_of(
        settings(decoders=("ar", "pflm", "mdlm"), repeats=5), clock=clock_of(*(1 + n / 100 for n in range(18)))
    )
    assert [row.is_conclusive for row in found] == [False] * 3
    assert [row.speedup.value for row in found[1:] if row.speedup] == pytest.approx([1, 1], abs=0.05)


def test_decoders_take_turns_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, ran = settings(batches=(1, 2), repeats=2), []
    decode = throughput.decode

    def noted(config: DecodeConfig, networks: Networks, prompts: list[list[int]], *rest: Any) -> Iterator[Step]:
        ran.append((len(prompts), config.decoder, config.k))
        return decode(config, networks, prompts, *rest)

    monkeypatch.setattr(throughput, "decode", noted)
    found = list(race(NETWORKS, chosen, PEAKS, "small", PROMPT))
    assert ran == chosen.runs == [(1, "ar", 1), (1, "pflm", 2)] * 3 + [(2, "ar", 1), (2, "pflm", 2)] * 3
    assert [(each.done, each.row.decoder) for each in found if each.row] == [
        (6, "ar"),
        (6, "pflm"),
        (12, "ar"),
        (12, "pflm"),
    ]


@pytest.mark.parametrize(("repeats", "rate"), [(1, 1.0), (3, 0.1), (5, 2 / 252)])
def test_equally_fast_decoders_are_conclusive_at_the_stated_rate(repeats: int, rate: float) -> None:
    """Of all orders of the runs of two decoders, those that separate them."""
    orders = list(itertools.combinations(range(2 * repeats), repeats))
    apart = sum(max(own) < repeats or min(own) >= repeats for own in orders)
    assert false_positive_rate(repeats) == pytest.approx(apart / len(orders)) == pytest.approx(rate)
    if repeats > 1:
        ar, pflm = rows_of(settings(repeats=repeats), clock=clock_of(*[1.0] * (2 * repeats + 2)))
        assert (ar.false_positive_rate, pflm.false_positive_rate) == (None, pytest.approx(rate))


def test_the_rates_are_those_of_the_hand_count() -> None:
    ar, pflm = rows_of(settings(repeats=1), clock=clock_of(0, 0, 2.0, 1.0))
    shapes = {"teacher": NETWORKS.teacher.config, "student": NETWORKS.student.config}  # type: ignore[union-attr]
    for row, config, k in ((ar, DecodeConfig("ar"), 1), (pflm, DecodeConfig("pflm", 2), 2)):
        cost = decode_cost(config, shapes, 2, 3, 4, k)
        assert row.bytes_per_second == pytest.approx(cost.bytes / row.seconds.value)  # type: ignore[union-attr]
        assert row.flops_per_second == pytest.approx(cost.flops / row.seconds.value)  # type: ignore[union-attr]
        assert row.least_ms == pytest.approx(1e3 * cost.least_seconds(PEAKS) / row.nfe)
        assert row.share_of_roofline == pytest.approx(cost.least_seconds(PEAKS) / row.seconds.value)  # type: ignore[union-attr]


def test_tokens_after_the_end_are_counted_in_all_samples() -> None:
    config = DecodeConfig("ar")
    values = keyed_noise(0, range(3), config, NETWORKS, 12)
    tokens = generate(config, NETWORKS, [PROMPT] * 3, values, 12).tokens.tolist()
    eos = tokens[1][4]
    after = sum(12 - 1 - row.index(eos) for row in tokens if eos in row)
    (row,) = rows_of(settings(decoders=("ar",), batches=(3,), new_tokens=12, repeats=1), eos=eos)
    assert row.tokens_after_eos == after > 0
    assert row.seconds is not None


def test_rounds_that_keep_and_rows_that_wait_are_counted() -> None:
    verified, jacobi = rows_of(settings(decoders=("verified", "jacobi"), new_tokens=12, batches=(3,), repeats=1))
    for row in (verified, jacobi):
        assert 1 <= (row.kept_per_round or 0) <= 3
        assert 0 <= (row.idle_share or 0) < 1
        assert row.nfe >= 12 / 3
        assert row.tokens_per_pass == pytest.approx(12 / row.nfe)
    assert verified.nfe > jacobi.nfe / 2


@pytest.mark.parametrize(
    ("networks", "ks", "why"),
    [
        (NETWORKS, (9,), "1 to 4, the block this student was trained on"),
        (dataclasses.replace(NETWORKS, student=None), (2,), "needs a student"),
    ],
)
def test_a_decoder_that_fails_says_why_and_the_rest_go_on(networks: Networks, ks: tuple[int, ...], why: str) -> None:
    chosen = settings(decoders=("ar", "pflm", "mdlm"), ks=ks, repeats=1)
    found = list(race(networks, chosen, PEAKS, "small", PROMPT))
    rows = [p.row for p in found if p.row]
    assert [(row.decoder, row.error is None) for row in rows] == [("ar", True), ("pflm", False), ("mdlm", True)]
    assert why in str(rows[1].error)
    assert (rows[1].tokens_per_second, rows[1].speedup, rows[1].nfe) == (None, None, 0)
    assert [p.done for p in found] == sorted(p.done for p in found)
    assert (found[-1].done, found[-1].total) == (6, 6)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        MemoryError(),
    ],
)
def test_a_row_without_memory_says_so_and_the_rest_go_on(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(config: DecodeConfig, *given: Any) -> Iterator[Step]:
        if config.decoder == "ar" and len(given[1]) > 1:
            raise error
        return decode(config, *given)

    decode = throughput.decode
    monkeypatch.setattr(throughput, "decode", scarce)
    found = rows_of(settings(batches=(1, 2), repeats=1))
    assert [(row.decoder, row.batch, row.error is None) for row in found] == [
        ("ar", 1, True),
        ("pflm", 1, True),
        ("ar", 2, False),
        ("pflm", 2, True),
    ]
    assert str(found[2].error).startswith("Out of memory")
    assert found[3].speedup is None  # nothing of another batch stands in for AR


def test_a_bug_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Iterator[Step]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(throughput, "decode", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        rows_of(settings())


def test_a_race_ends_between_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def counted(*_: Any) -> Iterator[Step]:
        yield PREFILLED
        for n in range(100):
            taken.append(n)
            yield Step(torch.zeros(2, 1, dtype=torch.int64))

    monkeypatch.setattr(throughput, "decode", counted)
    with pytest.raises(Cancelled):
        rows_of(settings(), stopped=lambda: len(taken) >= 3)
    assert taken == [0, 1, 2]
    with pytest.raises(Cancelled):
        rows_of(settings(), stopped=lambda: True)
    assert taken == [0, 1, 2]  # no run is begun


def test_the_order_puts_ar_first_and_names_each_race_once() -> None:
    chosen = settings(decoders=("mdlm", "pflm", "ar", "pflm"), batches=(1, 8), ks=(2, 4, 2))
    each = [("ar", 1), ("pflm", 2), ("pflm", 4), ("mdlm", 2), ("mdlm", 4)]
    assert chosen.races == [(batch, *one) for batch in (1, 8) for one in each]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"decoders": ("fast",)}, "no decoder 'fast'"),
        ({"decoders": ()}, "No decoder is chosen"),
        ({"batches": ()}, "No batch is chosen"),
        ({"batches": (0,)}, "batch is 0"),
        ({"ks": ()}, "No K is chosen"),
        ({"repeats": 0}, "repeats is 0"),
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(KfError, match=why):
        settings(**wrong)


def test_the_document_has_limits_load_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "measure_peaks", lambda *_: PEAKS)
    document = json.loads(json.dumps(bench_throughput(NETWORKS, settings(repeats=1), "small", PROMPT), allow_nan=False))
    assert (document["bench"], document["device"], document["dtype"]) == ("throughput", "cpu", "float32")
    assert document["limits"] == {"bytes_per_second": 1e9, "flops_per_second": 1e10}
    assert {"threads", "versions", "load_average", "load_after", "load_during", "busy"} <= set(document)
    assert [(row["decoder"], row["size"]) for row in document["rows"]] == [("ar", "small"), ("pflm", "small")]


@pytest.mark.parametrize(
    ("before", "after", "seconds", "during", "busy"),
    [
        (2.0, 2.0, 60.0, 2.0, False),
        (0.0, 2.0 * (1 - 0.36787944), 60.0, 2.0, False),  # rises to 2 with e^-1 of the past left
        (0.0, 4.0 * (1 - 0.36787944), 60.0, 4.0, True),
        (8.0, 8.0 * 0.36787944 + 2.0 * (1 - 0.36787944), 60.0, 2.0, False),  # what ran before is taken out
        (3.0, 1.0, LEAST_SECONDS / 2, 3.0, True),  # too short to tell: the larger one
    ],
)
def test_other_work_is_separated_from_what_ran_before(
    before: float, after: float, seconds: float, during: float, busy: bool
) -> None:
    load = Load(before, after, seconds, own=2)
    assert load.during == pytest.approx(during, abs=1e-6)
    assert load.busy == busy


def test_a_pass_costs_what_a_hand_count_says() -> None:
    h, layers, v, batch, keys = 16, 2, 8, 3, 5
    found = pass_cost(SHAPE, batch, 1, keys, 1)
    weights = 12 * h * h * layers + h * v
    held = 2 * layers * h * batch * (keys + 1)
    assert found.bytes == 4 * (weights + held + batch * h) + 4 * batch * v
    assert found.flops == 2 * batch * (weights + 2 * layers * h * keys)
    # Two noise slots behind two tokens: the noise encoder, and the head on the slots.
    found = pass_cost(SHAPE, batch, 4, keys, 2, slots=2, width=2)
    blocks, head, encoder = 12 * h * h * layers, h * v, 10 * h * h
    held = 2 * layers * h * batch * (keys + 4)
    assert found.bytes == 2 * (blocks + head + encoder + held + batch * 4 * h) + 4 * batch * 2 * v
    assert found.flops == 2 * batch * (blocks * 4 + head * 2 + encoder * 2 + 2 * layers * h * keys * 4)


def test_a_decoder_costs_its_passes() -> None:
    shapes = {"teacher": SHAPE, "student": SHAPE, "masked": SHAPE}
    keys = 6 + 10 / 2
    ar = decode_cost(DecodeConfig("ar"), shapes, 2, 6, 10, 1)
    assert ar == pass_cost(SHAPE, 2, 1, keys, 1).scaled(10)
    pflm = decode_cost(DecodeConfig("pflm", 4), shapes, 2, 6, 10, 4)
    # 10 tokens are three blocks of 4; before the first there is no block to feed, only the prompt's last token.
    later = pass_cost(SHAPE, 2, 8, keys, 4, slots=4).scaled(2)
    assert pflm == pass_cost(SHAPE, 2, 5, keys, 4, slots=4) + later
    whole = 6 + 10
    for order, read in (("random", (4, 4, 2)), ("confident", (10, 6, 2))):
        found = decode_cost(DecodeConfig("mdlm", 4, order=order), shapes, 2, 6, 10, 4)  # type: ignore[arg-type]
        each = [pass_cost(SHAPE, 2, whole, whole, positions) for positions in read]
        assert found.flops == pytest.approx(sum(cost.flops for cost in each))
        assert found.bytes == pytest.approx(sum(cost.bytes for cost in each))
    checks = decode_cost(DecodeConfig("jacobi", 4), shapes, 2, 6, 10, 4, rounds=5)
    assert checks == pass_cost(SHAPE, 2, 5, keys, 5).scaled(5)
    both = decode_cost(DecodeConfig("verified", 4), shapes, 2, 6, 10, 4, rounds=5, drafts=6)
    assert both.flops == checks.flops + 6 * pass_cost(SHAPE, 2, 9, keys, 4, slots=4).flops
    both = decode_cost(DecodeConfig("verified", 4), shapes, 2, 6, 10, 4, rounds=5, drafts=6, catch_up=1.5)
    assert both.flops == checks.flops + 6 * pass_cost(SHAPE, 2, 5.5, keys, 4, slots=4).flops


def test_the_passes_of_the_student_feed_as_many_tokens_as_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    network, fed = student(), []
    run = network.run_blocks
    monkeypatch.setattr(network, "run_blocks", lambda x, *rest, **kw: fed.append(x.shape[1]) or run(x, *rest, **kw))
    config, networks = DecodeConfig("pflm", 4), Networks(student=network)
    generate(config, networks, [PROMPT] * 2, keyed_noise(0, range(2), config, networks, 10), 10, recheck=False)
    assert fed == [len(PROMPT) - 1, 1 + 4, 4 + 4, 4 + 4]


@pytest.mark.parametrize("batch", [1, 3])
def test_drafts_are_charged_the_tokens_that_they_feed(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fed, charged = [], []
    network = NETWORKS.student
    assert network is not None
    run = network.run_blocks
    monkeypatch.setattr(network, "run_blocks", lambda x, *rest, **kw: fed.append(x.shape[1]) or run(x, *rest, **kw))

    def noted(*given: Any, **options: Any) -> Any:
        charged.append(options)
        return decode_cost(*given, **options)

    monkeypatch.setattr(throughput, "decode_cost", noted)
    rows_of(settings(decoders=("verified",), ks=(4,), new_tokens=12, batches=(batch,), repeats=1), recheck=False)
    drafts = fed[len(fed) // 2 :][1:]  # of the timed run, without its prompt
    assert len(drafts) == charged[0]["drafts"]
    assert sum(drafts) == pytest.approx(charged[0]["drafts"] * (4 + charged[0]["catch_up"]))


def test_the_least_time_is_that_of_the_narrower_limit() -> None:
    cost = pass_cost(SHAPE, 2, 1, 5, 1)
    assert cost.least_seconds(DevicePeaks(1.0, 1e30)) == cost.bytes
    assert cost.least_seconds(DevicePeaks(1e30, 1.0)) == cost.flops


def test_the_gain_is_k_while_weights_are_read_and_ends_below_two() -> None:
    wide = dataclasses.replace(SHAPE, vocab_size=50_000, mask_id=0, width=768, heads=12, depth=12)
    peaks = DevicePeaks(bytes_per_second=2e12, flops_per_second=2e14)
    found = gains(wide, dataclasses.replace(wide, kind="student", block=8), peaks, (1, 4096), (1, 2, 4, 8), 4)
    by = {(gain.batch, gain.k): gain for gain in found}
    for k in (1, 2, 4, 8):
        assert by[1, k].bound == "memory"
        assert 0.85 * k < by[1, k].speedup <= k
        assert by[4096, k].bound == "arithmetic"
        assert 0.4 < by[4096, k].speedup < 2
        fed = pass_cost(wide, 4096, 2 * k, 4, k, slots=k)
        assert by[4096, k].pflm_ms == pytest.approx(1e3 * fed.least_seconds(peaks))
    ends = [by[4096, k].speedup for k in (1, 2, 4, 8)]
    assert max(ends) - min(ends) < 0.05  # whatever K


def test_the_roofline_document_reaches_beyond_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "measure_peaks", lambda *_: PEAKS)
    document = json.loads(json.dumps(bench_roofline(NETWORKS, settings(batches=(3,), ks=(5,)), "small")))
    assert [(gain["batch"], gain["k"]) for gain in document["gains"]] == [(3, 5)]
    gain = document["gains"][0]
    assert gain["speedup"] == pytest.approx(5 * gain["ar_ms"] / gain["pflm_ms"])
    curve = {(gain["batch"], gain["k"]) for gain in document["curve"]}
    assert {(3, 5), (1, 4), (1024, 8)} <= curve
    batches = [gain["batch"] for gain in document["curve"] if gain["k"] == 5]
    assert batches == sorted(batches)
    with pytest.raises(KfError, match="needs a teacher and a student"):
        bench_roofline(dataclasses.replace(NETWORKS, student=None), settings(), "small")
