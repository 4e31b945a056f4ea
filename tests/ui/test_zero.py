"""ZeroGPU, with a package `spaces` that stands in for the real one: a GPU is lent to a forked process."""

from __future__ import annotations

import ast
import copy
import dataclasses
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
import pytest
from gradio.context import LocalContext

from kfexplore.bench.setting import SIZES
from kfexplore.cancel import Cancelled, CancelToken
from kfexplore.config import ModelConfig
from kfexplore.decoding import passes
from kfexplore.errors import KfError
from kfexplore.pair import Pair, load_pair
from kfexplore.results import DevicePeaks
from kfexplore.ui import jobs, zero
from kfexplore.ui import service as service_of_page
from kfexplore.ui import writing as writing_of_page
from kfexplore.ui.app import make_service
from kfexplore.ui.jobs import is_small
from kfexplore.ui.racing import RaceConfig
from kfexplore.ui.service import Service
from kfexplore.ui.tabs.generate import run
from kfexplore.ui.tabs.timing import build_timing_tab
from kfexplore.ui.writing import WriteConfig
from kfexplore.ui.zero import LentService, gpu, is_zero

REPOSITORY = Path(__file__).resolve().parents[2]
STAND_IN = '''
import multiprocessing
import sys

torch_was_first = "torch" in sys.modules
fork = multiprocessing.get_context("fork")
calls, processes, refused = [], [], []


def GPU(task, *, duration):
    """As the real one of a generator function: a process is forked for the first call and lives on; what goes in and
    comes out is pickled, and of an error no more arrives than the name of its class."""
    import gradio as gr

    ours, theirs = fork.Pipe()
    closed = fork.Event()

    def serve():
        while True:
            given = theirs.recv()
            closed.clear()
            try:
                for value in task(*given):
                    if closed.is_set():
                        break
                    theirs.send(("value", value))
                theirs.send(("end", None))
            except Exception as error:
                theirs.send(("error", type(error).__name__))

    def heard():
        if not ours.poll(60):
            raise TimeoutError("the forked process does not answer")
        return ours.recv()

    def lent(*given):
        if refused:
            raise refused[0]
        calls.append((given[0], duration(*given)))
        if not processes:
            processes.append(fork.Process(target=serve, daemon=True))
            processes[0].start()
        ours.send(given)
        kind, value = heard()
        try:
            while kind == "value":
                yield value
                kind, value = heard()
        except GeneratorExit:
            closed.set()
            while kind == "value":
                kind, value = heard()
            raise
        if kind == "error":
            raise gr.Error(value)

    return lent
'''
U = [0.1, 0.7, 0.3, 0.9]
ASKED = {"seq": 1, "pair": "small", "prompt": "a b c", "u": U, "resolution": 8}
MEASURED = DevicePeaks(1e10, 1e11)


@pytest.fixture
def spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The stand-in, installed, in a process that calls itself a ZeroGPU Space."""
    (tmp_path / "spaces.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "spaces", raising=False)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    import spaces

    monkeypatch.setitem(sys.modules, "spaces", spaces)
    yield spaces
    for process in spaces.processes:
        process.kill()


@pytest.fixture
def lent(spaces: ModuleType, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Iterator[LentService]:
    """The pair as "small", which counts as large, asked by a visitor."""
    monkeypatch.setattr(jobs, "SMALL", 0)
    monkeypatch.setattr(service_of_page, "measure_peaks", lambda *_: MEASURED)
    assert not spaces.calls
    asking = LocalContext.request.set(object())  # type: ignore[arg-type]
    yield LentService({"small": lambda: pair}, device="cpu")
    LocalContext.request.reset(asking)


@contextmanager
def held_by_others(locks: Sequence[AbstractContextManager[Any]]) -> Iterator[None]:
    """Within it each lock is held by another thread, as it may be when a process is forked."""
    done, held = threading.Event(), threading.Barrier(len(locks) + 1)

    def hold(lock: AbstractContextManager[Any]) -> None:
        with lock:
            held.wait()
            done.wait()

    others = [threading.Thread(target=hold, args=[lock]) for lock in locks]
    for other in others:
        other.start()
    held.wait()
    try:
        yield
    finally:
        done.set()
        for other in others:
            other.join()


@pytest.fixture
def spoken(lent: LentService) -> Iterator[None]:
    """Others hold all turns of the service that work on a prompt takes."""
    ready = lent._ready("small")
    turns = [lent._heavy, lent._pointing, lent._timing, lent._studying, lent._loading["small"], ready.turn]
    with held_by_others([each.held() for each in turns]):
        yield


@pytest.fixture
def stepwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of a text is a turn of its own."""
    monkeypatch.setattr(writing_of_page, "TURN", 0)


def count(what: str, end: int) -> Iterator[Any]:
    if what == "mistaken":
        raise KfError("There are too many.", "fewer", "count again")
    if what == "broken":
        raise ZeroDivisionError
    yield from range(end)


@pytest.mark.usefixtures("spaces")
def test_a_zero_space_is_known_by_package_and_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_zero()
    monkeypatch.setenv("SPACES_ZERO_GPU", "false")
    assert not is_zero()
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    monkeypatch.setattr(zero, "find_spec", lambda _: None)
    assert not is_zero()


def test_work_has_a_gpu_for_as_long_as_it_says(spaces: ModuleType) -> None:
    assert list(gpu(count, lambda _, end: 10 + end)("all", 3)) == [0, 1, 2]
    assert spaces.calls == [("all", 13)]


def test_mistakes_come_through_and_the_next_question_is_answered(spaces: ModuleType) -> None:
    ask = gpu(count, lambda *_: 10)
    with pytest.raises(KfError) as mistaken:
        list(ask("mistaken", 1))
    assert mistaken.value.args == ("There are too many.", "fewer", "count again")
    with pytest.raises(KfError, match="No answer from a GPU: ZeroDivisionError"):
        list(ask("broken", 1))
    assert list(ask("all", 2)) == [0, 1]
    assert len(spaces.processes) == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            gr.Error('You have exceeded your quota. <a href="https://x">Sign up</a>'),
            ": You have exceeded your quota. Sign up",
        ),
        (RuntimeError("ZeroGPU API /schedule error"), "."),
    ],
)
def test_a_refusal_is_told_in_words(spaces: ModuleType, lent: LentService, error: Exception, told: str) -> None:
    spaces.refused.append(error)
    answer = lent.tables(ASKED)
    assert not answer["ok"]
    assert answer["failed"] == f"No answer from a GPU{told}"
    assert lent.point(ASKED)["ok"]


def test_few_questions_wait_for_a_gpu(lent: LentService) -> None:
    places = [lent._places.acquire(blocking=False) for _ in range(lent.limits.questions)]
    assert all(places)
    assert lent.tables(ASKED)["busy"]
    lent._places.release()
    assert lent.tables(ASKED)["ok"]


@pytest.mark.usefixtures("spoken")
@pytest.mark.parametrize(("name", "more"), [("tables", {}), ("tables", {"slots": [2]}), ("grid", {"slots": [0, 1]})])
def test_sliders_are_answered_in_a_process_whose_locks_nobody_holds(
    spaces: ModuleType, lent: LentService, service: Service, name: str, more: dict[str, Any]
) -> None:
    plain, other = (getattr(each, name)({**ASKED, **more}) for each in (service, lent))
    for answer in (plain, other):
        answer.pop("seconds", None)
    assert other["ok"]
    assert other == plain
    assert [seconds for _, seconds in spaces.calls] == [30]


@pytest.mark.usefixtures("spoken", "stepwise")
def test_texts_grow_as_without_it(spaces: ModuleType, lent: LentService, service: Service) -> None:
    config = WriteConfig("small", "a b c", ("ar", "pflm", "mdlm"), 4, 24)
    texts = {}
    for name, each in (("here", service), ("lent", lent)):
        writing = each.writing(config)
        assert writing.is_waiting
        grown = [writing.written()[0].lines[0].filled for _ in writing.steps()]
        assert grown[0] < 3 < len(set(grown))
        assert writing.is_over
        texts[name] = [dataclasses.replace(written, seconds=0.0) for written in writing.written()]
        assert all(written.seconds > 0 for written in writing.written())
        assert writing.as_json()["environment"]["device"] == "cpu"
    assert texts["lent"] == texts["here"]
    assert spaces.calls == [("texts", 70)]
    assert writing.environment["threads"] == 1, "it tells where the texts were written, which is not here"


def test_the_tab_says_that_a_gpu_is_asked_for(lent: LentService, service: Service) -> None:
    for each, is_asked in ((lent, True), (service, False)):
        shown = run(each.writing(WriteConfig("small", "a b c", ("ar",), 4, 8)))
        assert ("A GPU is asked for." in next(shown)[0]) is is_asked
        assert "A GPU" not in list(shown)[-1][0]


def test_no_lock_of_decoding_is_met_there(lent: LentService) -> None:
    writing = lent.writing(WriteConfig("small", "a b c", ("ar",), 4, 8))
    with held_by_others([passes._lock]):
        assert list(writing.steps())
    assert writing.written()[0].stage == "done"


@pytest.mark.usefixtures("stepwise")
def test_a_text_can_be_stopped(spaces: ModuleType, lent: LentService) -> None:
    writing = lent.writing(WriteConfig("small", "a b c", ("ar",), 4, 24))
    steps = writing.steps()
    next(steps)
    writing.stop()
    assert list(steps) == []
    assert [written.stage for written in writing.written()] == ["stopped"]
    assert not writing.is_late
    again = lent.writing(WriteConfig("small", "a b c", ("pflm",), 4, 8))
    assert list(again.steps())
    assert [len(written.lines[0].tokens) for written in again.written()] == [8]
    assert len(spaces.processes) == 1


def test_its_surprises_are_asked_for_here(spaces: ModuleType, lent: LentService) -> None:
    writing = lent.writing(WriteConfig("small", "a b c", ("ar",), 4, 8))
    assert list(writing.steps())
    assert list(writing.surprises())
    assert len(writing.written()[0].lines[0].surprise or []) == 8
    assert [what for what, _ in spaces.calls] == ["texts"]


def test_a_mistake_in_the_other_process_is_told_here(spaces: ModuleType, lent: LentService) -> None:
    told = lent.tables({**ASKED, "u": [2.0, 0, 0, 0]})
    assert not told["ok"]
    assert told["failed"]
    assert lent.tables(ASKED)["ok"]
    assert [what for what, _ in spaces.calls] == ["rows", "rows"]


@pytest.mark.usefixtures("stepwise")
def test_time_is_over_there_and_told_here(lent: LentService) -> None:
    lent.limits = dataclasses.replace(lent.limits, run_seconds=1)
    ticks = itertools.count()
    lent._clock = lambda: 0.4 * next(ticks)  # of the forked process; here the time never begins
    writing = lent.writing(WriteConfig("small", "a b c", ("ar",), 4, 24))
    assert list(writing.steps())
    assert writing.is_late
    assert writing.written()[0].stage == "stopped"
    race = lent.racing(RaceConfig("small", "a b c", ("ar",), (1,), (), 24, 5))
    assert list(race.steps())
    assert race.is_late


@pytest.mark.usefixtures("spoken")
def test_studies_are_the_same_and_kept(spaces: ModuleType, lent: LentService, service: Service) -> None:
    reports: list[str] = []
    for _ in range(2):
        found, _, _ = lent.study("small", "a b c", 2, 128, 0, report=lambda _, what: reports.append(what))
    told: list[str] = []
    plain, _, _ = service.study("small", "a b c", 2, 128, 0, report=lambda _, what: told.append(what))
    assert found.law.mutual_information == plain.law.mutual_information
    assert [row.tv for row in found.samplers] == [row.tv for row in plain.samplers]
    assert reports == ["a GPU that is asked for", *told]
    assert spaces.calls == [("laws", 70)]


def test_a_study_can_be_called_off(spaces: ModuleType, lent: LentService) -> None:
    stop = CancelToken()
    with pytest.raises(Cancelled):
        lent.study("small", "a b c", 2, 128, 0, report=lambda share, _: stop.set() if share else None, stop=stop)
    assert lent.study("small", "a b c", 2, 128, 0)[0].samplers
    assert len(spaces.calls) == 2


@pytest.mark.usefixtures("spoken")
def test_a_race_waits_for_no_other(spaces: ModuleType, lent: LentService) -> None:
    race = lent.racing(RaceConfig("small", "a b c", ("ar", "pflm"), (1, 2), (4,), 8, 1))
    stages = [race.stage for _ in race.steps()]
    assert stages[0] == "measuring"
    assert race.stage == "done"
    assert [(row.decoder, row.batch) for row in race.rows] == [("ar", 1), ("pflm", 1), ("ar", 2), ("pflm", 2)]
    document = race.document()
    assert document is not None
    assert document["limits"] == dataclasses.asdict(MEASURED)
    assert document["threads"] == 1
    assert spaces.calls == [("race", 70)]


def test_a_race_on_a_gpu_of_its_own_is_let_in_beside_one_that_runs_here(lent: LentService, service: Service) -> None:
    def let_in(of: Service) -> set[int | str | None]:
        with gr.Blocks() as demo:
            fields: list[gr.components.Component] = [gr.Textbox("small"), gr.Textbox("a b c")]
            build_timing_tab(of, fields, gr.Tab("Timing"), 4)
        return {event.concurrency_limit for event in demo.fns.values() if event.concurrency_id == "timing"}

    assert (let_in(service), let_in(lent)) == ({1}, {zero.RACES})
    settings: tuple[Any, ...] = ("small", "a b c", ("ar",), (1,), (), 4, 1)
    here = service.racing(RaceConfig(*settings)).steps()
    next(here)  # it has its turn
    other = service.racing(RaceConfig(*settings))
    waits = threading.Thread(target=lambda: list(other.steps()))
    waits.start()
    assert list(lent.racing(RaceConfig(*settings)).steps())
    assert other.stage == "waiting"
    other.stop()
    here.close()  # type: ignore[attr-defined]
    waits.join(30)


def test_a_race_can_be_stopped(lent: LentService) -> None:
    race = lent.racing(RaceConfig("small", "a b c", ("ar", "pflm"), (1, 2), (4,), 8, 3))
    steps = race.steps()
    next(steps)
    race.stop()
    assert list(steps) == []
    assert race.stage == "stopped"
    assert not race.is_late


@pytest.mark.usefixtures("spaces")
def test_a_pair_is_loaded_once_and_moved_in_the_other_process(pair: Pair) -> None:
    loads: list[str] = []
    lent = LentService({"small": lambda: loads.append("small") or pair}, other=lambda name: loads.append(name) or pair)
    for _ in range(2):
        for load in (lent.loaders["small"], partial(lent._other, "else")):  # type: ignore[arg-type]
            assert load() is pair
    assert loads == ["small", "else"]
    moved = zero._moved(lambda: copy.deepcopy(pair), "meta")
    models = moved.teacher, moved.need_student(), moved.masked
    assert [model.device.type for model in models if model is not None] == ["meta"] * 3


def test_which_models_are_large() -> None:
    for shape in SIZES.values():
        assert ModelConfig("teacher", *shape).block_weights > jobs.SMALL
    assert is_small(load_pair("tales"))


def test_small_models_points_and_what_no_visitor_asks_stay_here(
    spaces: ModuleType, lent: LentService, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lent.point(ASKED)["ok"]
    asking = LocalContext.request.set(None)
    assert lent.tables(ASKED)["ok"]
    LocalContext.request.reset(asking)
    monkeypatch.setattr(jobs, "SMALL", 10**9)
    assert lent.tables(ASKED)["ok"]
    assert list(lent.writing(WriteConfig("small", "a b c", ("ar",), 4, 8)).steps())
    assert spaces.calls == []
    assert spaces.processes == []


@pytest.mark.usefixtures("spaces")
def test_the_app_has_gpus_lent_on_such_a_space_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    service, name = make_service("tales", device="cuda")
    assert isinstance(service, LentService)
    assert service.pair(name).teacher.device.type == "cpu"
    monkeypatch.delenv("SPACES_ZERO_GPU")
    assert type(make_service("tales")[0]) is Service


def test_the_app_imports_it_before_torch(tmp_path: Path) -> None:
    (tmp_path / "spaces.py").write_text(STAND_IN)
    whole = ast.parse((REPOSITORY / "app.py").read_text())
    ours = next(
        n for n, part in enumerate(whole.body) if isinstance(part, ast.ImportFrom) and "kfex" in str(part.module)
    )
    head = ast.unparse(ast.Module(whole.body[:ours], []))
    told = "assert 'spaces' in sys.modules and not sys.modules['spaces'].torch_was_first"
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{head}\n{told}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
