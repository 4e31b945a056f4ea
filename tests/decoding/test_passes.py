"""Recorded passes without a CUDA device: what the guard does with a wrong graph, and what a capture would forbid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from helpers import student, teacher
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kfexplore.config import DecodeConfig
from kfexplore.decoders import DECODERS
from kfexplore.decoding import passes
from kfexplore.decoding.buffers import DecodeBatch, Sequences, TokenBuffer
from kfexplore.decoding.generate import Networks, decode, keyed_noise, resolve_k
from kfexplore.decoding.passes import Tensors
from kfexplore.models import StaticCache
from kfexplore.models.fast_paths import GRAPHS
from kfexplore.models.networks import _radians as frequencies

WAYS = [
    DecodeConfig("ar", temperature=0.7),
    DecodeConfig("pflm"),
    DecodeConfig("pflm", 3, frequency_penalty=0.5),
    DecodeConfig("pflm", dither=6),
    DecodeConfig("pflm", exact_first=True),
    DecodeConfig("verified"),
    DecodeConfig("jacobi", 3),
    DecodeConfig("jacobi", 9, guess="nothing"),
]


LEVEL = [[3, 1, 4], [1, 5, 9], [2, 6, 5]]
RAGGED = [[3, 1, 4, 1, 5, 9, 2], [6], [5, 3, 5, 8]]


def named(value: DecodeConfig | list[list[int]]) -> str:
    if isinstance(value, list):
        return "ragged" if value is RAGGED else "level"
    usual = DecodeConfig(value.decoder)
    return " ".join(str(each) for name, each in vars(value).items() if each != vars(usual)[name]) or value.decoder


FEW = [(WAYS[0], RAGGED), (WAYS[2], LEVEL), (WAYS[5], RAGGED)]
each_way = pytest.mark.parametrize(
    ("config", "prompts"), [*((way, RAGGED) for way in WAYS), (WAYS[2], LEVEL), (WAYS[5], LEVEL)], ids=named
)
a_few_ways = pytest.mark.parametrize(("config", "prompts"), FEW, ids=named)
Recorded = tuple[Callable[[], None], Tensors]


def recorder(run: Callable[[], Tensors], _: torch.device) -> Recorded:
    """A graph that is right: each replay overwrites the same results."""
    out = tuple(each.clone() for each in run())

    def replay() -> None:
        for mine, new in zip(out, run(), strict=True):
            mine.copy_(new)

    return replay, out


def raises(_run: Callable[[], Tensors], _: torch.device) -> Recorded:
    raise RuntimeError("operation not permitted when stream is capturing\nCUDA error 900")


def replay_raises(run: Callable[[], Tensors], _: torch.device) -> Recorded:
    def replay() -> None:
        raise RuntimeError("no such graph")

    return replay, recorder(run, _)[1]


def constant(run: Callable[[], Tensors], _: torch.device) -> Recorded:
    """A graph that kept what it was recorded with."""
    return lambda: None, recorder(run, _)[1]


def wrong_token(run: Callable[[], Tensors], _: torch.device) -> Recorded:
    replay, out = recorder(run, _)

    def changed() -> None:
        replay()
        out[0][-1, -1] ^= 1

    return changed, out


def no_keys(run: Callable[[], Tensors], _: torch.device) -> Recorded:
    """A graph whose results are right, and that leaves no keys."""
    replay, out = recorder(run, _)

    def changed() -> None:
        replay()
        for held in (held for cache in CACHES for held in cache._layers):
            held.zero_()

    return changed, out


CACHES: list[StaticCache] = []
"""All that a test made."""


def texts(networks: Networks, config: DecodeConfig, prompts: list[list[int]], use_cuda_graphs: bool) -> list[list[int]]:
    sheet = TokenBuffer(3, 11)
    values = keyed_noise(5, range(3), config, networks, 11)
    for step in decode(config, networks, prompts, values, 11, recheck=False, use_cuda_graphs=use_cuda_graphs):
        sheet.write(step)
    written: list[list[int]] = sheet.tokens.tolist()
    return written


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GRAPHS, "verdicts", {})
    monkeypatch.setattr(passes, "cpu_blocks", lambda *_: None)  # of the CPU; a GPU has the plain blocks
    CACHES.clear()
    monkeypatch.setattr(passes, "StaticCache", lambda *shape: CACHES.append(StaticCache(*shape)) or CACHES[-1])


@each_way
def test_replays_that_agree_are_used(
    config: DecodeConfig, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    networks, made, replays = Networks(teacher(), student()), [], []

    def counted(run: Callable[[], Tensors], _: torch.device) -> Recorded:
        replay, out = recorder(run, _)
        made.append(run)
        return lambda: (replays.append(1), replay())[1], out

    monkeypatch.setattr(passes, "record", counted)
    plain = texts(networks, config, prompts, use_cuda_graphs=False)
    assert not made
    for _ in range(2):
        assert texts(networks, config, prompts, use_cuda_graphs=True) == plain
    assert len(replays) > len(made) > 0
    assert GRAPHS.state == "active" or not torch.cuda.is_available()
    assert {verdict.reason for verdict in GRAPHS.verdicts.values()} == {""}
    assert not caplog.records


BROKEN = {
    raises: "RuntimeError: operation not permitted when stream is capturing CUDA error 900",
    replay_raises: "no such graph",
    constant: "result",
    wrong_token: "result 1 differ",
    no_keys: "differs by up to",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
@a_few_ways
def test_a_graph_that_fails_is_replaced_by_the_plain_pass_for_good(
    broken: Callable[..., Recorded],
    config: DecodeConfig,
    prompts: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    networks, tried = Networks(teacher(), student()), []
    monkeypatch.setattr(passes, "record", lambda *given: (tried.append(1), broken(*given))[1])
    plain = texts(networks, config, prompts, use_cuda_graphs=False)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert texts(networks, config, prompts, use_cuda_graphs=True) == plain
    models = len(config.models)
    assert len(tried) == models
    assert len(caplog.records) == models, "one line per network"
    line = caplog.records[0].getMessage()
    assert "\n" not in line
    assert BROKEN[broken] in line
    assert "kfexplore doctor" in line
    assert GRAPHS.state == "disabled"
    assert texts(Networks(teacher(), student()), config, prompts, use_cuda_graphs=True) == plain
    assert len(tried) == 2 * models, "another network is checked for itself"


def test_a_graph_that_fails_late_leaves_no_wrong_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass of a text has a good graph; that of the others clears the cache, the prompt included."""
    networks, config, made = Networks(teacher(), student()), DecodeConfig("pflm"), []

    def second_fails(run: Callable[[], Tensors], _: torch.device) -> Recorded:
        made.append(run)
        return (recorder if len(made) == 1 else no_keys)(run, _)

    monkeypatch.setattr(passes, "record", second_fails)
    plain = texts(networks, config, RAGGED, use_cuda_graphs=False)
    assert texts(networks, config, RAGGED, use_cuda_graphs=True) == plain
    assert len(made) == 2
    assert GRAPHS.state == "disabled"


class Values(TorchDispatchMode):
    """Raises where the host reads values or a shape depends on them; with `device`, for tensors that are elsewhere."""

    FORBIDDEN = (
        *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique_consecutive", "unique_dim"),
        *("_unique", "_unique2", "bincount", "repeat_interleave.Tensor", "_pin_memory"),
    )

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.").removesuffix(".default")
        assert name not in self.FORBIDDEN, f"{name} in a recorded pass"
        indices = [each for each in tree_leaves(args[1:2]) if isinstance(each, Tensor)]
        masks = name.startswith("index") and any(each.dtype == torch.bool for each in indices)
        assert not masks, f"{name} by a mask in a recorded pass"
        out = func(*args, **(kwargs or {}))
        places = {each.device for each in tree_leaves((args, kwargs, out)) if isinstance(each, Tensor)}
        assert self.device is None or places <= {self.device}, f"{name} on {places} in a recorded pass"
        return out


class Copies(TorchFunctionMode):
    """Raises where a tensor is made from values of the host: a copy to the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor, torch.from_numpy), f"{func.__name__} in a recorded pass"
        return func(*args, **(kwargs or {}))


@contextmanager
def capture(device: torch.device | None = None) -> Iterator[None]:
    """Raises for what a CUDA graph cannot hold, as far as that shows without a GPU."""
    with Values(device), Copies():
        yield


@each_way
def test_recorded_code_reads_no_value(
    config: DecodeConfig, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def guarded(run: Callable[[], Tensors], _: torch.device) -> Recorded:
        run()  # warm-ups may
        with capture():
            run()
        return recorder(run, _)

    monkeypatch.setattr(passes, "record", guarded)
    texts(Networks(teacher(), student()), config, prompts, use_cuda_graphs=True)
    assert [verdict.reason for verdict in GRAPHS.verdicts.values()] == [""] * len(config.models)


@a_few_ways
def test_recorded_code_stays_on_the_device_of_the_network(
    config: DecodeConfig, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device stands in for an accelerator: tensors made without a device are then elsewhere."""
    meta = torch.device("meta")
    networks, ran = Networks(teacher().to(meta), student().to(meta)), []

    def guarded(self: passes.Passes, name: Any, run: Any, count: int, after: int, extra: Any, _: Any = None) -> Any:
        tokens = torch.zeros(3, count, dtype=torch.int64, device=meta)
        start = torch.zeros(3, dtype=torch.int64, device=meta)
        for guard in (nullcontext(), capture(meta)):
            with guard:
                self.cache.place(start, count + after, self.cache.capacity - count - after)
                out = run(tokens, *extra)
        ran.append(name)
        return out

    monkeypatch.setattr(passes.Passes, "__call__", guarded)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which knows no meta device
    k, values = resolve_k(config, networks), keyed_noise(5, range(3), config, networks, 11)
    u = torch.from_numpy(values).to(meta)
    batch = Sequences(prompts, u.shape[1] + k + 1, meta)
    models = tuple(getattr(networks, name) for name in config.models)
    with suppress(NotImplementedError):  # the host reads the tokens of a check, which have no values here
        for _ in resolve_name(DECODERS[config.decoder].steps)(
            DecodeBatch(config, models, batch, u, k, None, False, False)
        ):
            pass
    assert len({str(name) for name in ran}) == len(config.models)


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: bool((x > 0).all()),
        lambda x: x + torch.tensor(1.0),
        lambda x: x + torch.tensor(1.0, device=x.device),
        lambda x: x.cpu(),
        lambda _: torch.arange(3),
    ],
)
def test_what_a_capture_forbids_is_seen(forbidden: Callable[[Tensor], object]) -> None:
    with pytest.raises((AssertionError, RuntimeError)), capture(torch.device("meta")):
        forbidden(torch.ones(3, device="meta"))


def test_a_graph_is_recorded_on_the_device_of_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams and graphs belong to the current device, which is the first unless one says otherwise."""
    current, seen = [torch.device("cuda:0")], []

    @contextmanager
    def device(place: torch.device) -> Iterator[None]:
        current.append(place)
        yield
        current.pop()

    class Stream:
        def wait_stream(self, _: object) -> None:
            seen.append(current[-1])

    class Graph:
        def replay(self) -> None:
            seen.append(torch.device("meta"))

    modes = []

    def graph(_: Graph, capture_error_mode: str) -> Any:
        modes.append(capture_error_mode)
        return nullcontext()

    for name, stand_in in {
        "device": device,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": graph,
        "current_stream": Stream,
        "stream": lambda _: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    replay, out = passes.record(lambda: (torch.ones(1),), torch.device("cuda:1"))
    assert out[0].tolist() == [1]
    assert set(seen) == {torch.device("cuda:1")}
    assert modes == ["thread_local"], "other threads may allocate meanwhile"
    replay()
    assert seen[-1] == torch.device("meta")


def test_what_a_graph_reads_is_never_evicted() -> None:
    """A graph reads the frequencies of the noise encoder at their address, whatever other models run meanwhile."""
    first = frequencies((0.5,), torch.device("cpu"))
    for n in range(40):
        frequencies((float(n),), torch.device("cpu"))
    assert frequencies((0.5,), torch.device("cpu")) is first
