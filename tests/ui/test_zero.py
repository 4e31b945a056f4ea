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
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
import pytest
from gradio.context import LocalContext

from kfexplore.bench.setting import SIZES
from kfexplore.config import ModelConfig
from kfexplore.decoding import passes
from kfexplore.errors import KfError
from kfexplore.pair import Pair, load_pair
from kfexplore.results import ContextStudy, DevicePeaks
from kfexplore.ui import jobs, zero
from kfexplore.ui import service as service_of_page
from kfexplore.ui import writing as writing_of_page
from kfexplore.ui.app import make_service
from kfexplore.ui.jobs import is_small
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.racing import RaceConfig
from kfexplore.ui.service import LocalExecutor, Service
from kfexplore.ui.tabs.generate import GenerateTab
from kfexplore.ui.tabs.timing import TimingTab
from kfexplore.ui.writing import WriteConfig
from kfexplore.ui.zero import ZeroExecutor, gpu, is_zero, zero_service

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
ASKED: Any = {"seq": 1, "pair": "small", "prompt": "a b c", "u": U, "resolution": 8}
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
def lent(spaces: ModuleType, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The pair as "small", which counts as large, asked by a visitor."""
    monkeypatch.setattr(jobs, "SMALL", 0)
    monkeypatch.setattr(service_of_page, "measure_peaks", lambda *_: MEASURED)
    assert not spaces.calls
    asking = LocalContext.request.set(object())  # type: ignore[arg-type]
    yield zero_service({"small": lambda: pair}, device="cpu")
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
def spoken(lent: Service) -> Iterator[None]:
    """Others hold all workers of this process that work on a prompt asks."""
    lent.models.pair("small")
    workers = [lent.local.work, lent.local.studies, lent.models._loading["small"]]
    with held_by_others([each.turn() for each in workers]):
        yield


@pytest.fixture
def stepwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of a text is a turn of its own."""
    monkeypatch.setattr(writing_of_page, "TURN", 0)


def text(service: Service, *decoders: str, k: int = 4, new_tokens: int = 8) -> Any:
    return service.writing(WriteConfig("small", "a b c", decoders, k, new_tokens))


def race(service: Service, *decoders: str, batches: tuple[int, ...] = (1,), repeats: int = 1) -> Any:
    return service.racing(RaceConfig("small", "a b c", decoders, batches, (4,), 8, repeats))


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
    ("error", "message"),
    [
        (
            gr.Error('You have exceeded your quota. <a href="https://x">Sign up</a>'),
            ": You have exceeded your quota. Sign up",
        ),
        (RuntimeError("ZeroGPU API /schedule error"), "."),
    ],
)
def test_a_refusal_is_given_in_words(spaces: ModuleType, lent: Service, error: Exception, message: str) -> None:
    spaces.refused.append(error)
    answer: Any = lent.tables(ASKED)
    assert not answer["ok"]
    assert answer["failed"] == f"No answer from a GPU{message}"
    assert lent.point(ASKED)["ok"]


@pytest.mark.usefixtures("spaces")
def test_few_questions_wait_for_a_gpu(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SMALL", 0)
    asking = LocalContext.request.set(object())  # type: ignore[arg-type]
    lent = zero_service({"small": lambda: pair}, ServerLimits(questions=1), device="cpu")
    replies: list[Any] = []

    def work(*_: Any) -> Iterator[Any]:
        replies.append(lent.tables(ASKED))
        yield {}

    monkeypatch.setattr(lent.executor, "_lent", work)
    assert lent.tables(ASKED)["ok"]
    assert replies[0]["busy"]
    assert lent.tables(ASKED)["ok"]
    LocalContext.request.reset(asking)


@pytest.mark.usefixtures("spoken")
@pytest.mark.parametrize(("name", "more"), [("tables", {}), ("tables", {"slots": [2]}), ("grid", {"slots": [0, 1]})])
def test_sliders_are_answered_in_a_process_whose_locks_nobody_holds(
    spaces: ModuleType, lent: Service, service: Service, name: str, more: dict[str, Any]
) -> None:
    plain, other = (getattr(each, name)({**ASKED, **more}) for each in (service, lent))
    for answer in (plain, other):
        answer.pop("seconds", None)
    assert other["ok"]
    assert other == plain
    assert [seconds for _, seconds in spaces.calls] == [30]


@pytest.mark.usefixtures("spoken", "stepwise")
def test_texts_grow_as_without_it(spaces: ModuleType, lent: Service, service: Service) -> None:
    texts = {}
    for name, each in (("here", service), ("lent", lent)):
        writing = text(each, "ar", "pflm", "mdlm", new_tokens=24)
        assert writing.job.is_waiting
        grown = [writing.written()[0].tokens for _ in writing.job.run()]
        assert grown[0] < 3 < len(set(grown))
        assert writing.job.state == "done"
        texts[name] = [dataclasses.replace(written, seconds=0.0) for written in writing.written()]
        assert all(written.seconds > 0 for written in writing.written())
    assert texts["lent"] == texts["here"]
    assert spaces.calls == [("texts", 70)]
    assert writing.as_json()["environment"]["threads"] == 1, "where the texts were written, which is not here"


def test_the_tabs_say_that_a_gpu_is_asked_for(lent: Service, service: Service) -> None:
    for each, is_asked in ((lent, True), (service, False)):
        with gr.Blocks(), gr.Tab() as place:
            tab = GenerateTab(each, [], [gr.Textbox(), gr.Textbox()], place, 4)
        shown = list(tab.run(text(each, "ar")))
        assert ("Requesting a GPU." in shown[0][tab.status]) is is_asked
        assert "A GPU" not in shown[-1][tab.status]


def test_no_lock_of_decoding_is_met_there(lent: Service) -> None:
    writing = text(lent, "ar")
    with held_by_others([passes._lock]):
        assert list(writing.job.run())
    assert writing.written()[0].stage == "done"


@pytest.mark.usefixtures("stepwise")
@pytest.mark.parametrize("made", [text, race])
def test_a_job_can_be_stopped_and_the_next_runs(spaces: ModuleType, lent: Service, made: Any) -> None:
    job = made(lent, "ar").job
    steps = job.run()
    next(steps)
    job.stop()
    assert list(steps) == []
    assert job.state == "cancelled"
    again = text(lent, "pflm")
    assert list(again.job.run())
    assert [len(written.lines[0].tokens) for written in again.written()] == [8]
    assert len(spaces.processes) == 1


def test_surprises_are_asked_for_here(spaces: ModuleType, lent: Service) -> None:
    writing = text(lent, "ar")
    assert list(writing.job.run())
    assert list(writing.surprises())
    assert len(writing.written()[0].lines[0].surprise or []) == 8
    assert [what for what, _ in spaces.calls] == ["texts"]


def test_a_mistake_in_the_other_process_is_reported_here(spaces: ModuleType, lent: Service) -> None:
    answer: Any = lent.tables({**ASKED, "u": [2.0, 0, 0, 0]})
    assert not answer["ok"]
    assert answer["failed"]
    assert lent.tables(ASKED)["ok"]
    assert [what for what, _ in spaces.calls] == ["tables", "tables"]


@pytest.mark.usefixtures("stepwise", "lent")
@pytest.mark.parametrize("made", [text, race])
def test_time_is_over_there_and_the_job_is_late_here(pair: Pair, made: Any) -> None:
    ticks = itertools.count()  # of the forked process; here the time never begins
    limits, clock = ServerLimits(run_seconds=1), lambda: 0.05 * next(ticks)
    late = made(zero_service({"small": lambda: pair}, limits, clock=clock, device="cpu"), "ar")
    assert list(late.job.run())
    assert late.job.state == "late"


@pytest.mark.usefixtures("spoken")
def test_studies_are_the_same_and_kept(spaces: ModuleType, lent: Service, service: Service) -> None:
    parts = [list(each.study("small", "a b c", 2, 128, 0).run()) for each in (lent, lent, service)]
    first, again, plain = (found[-1] for found in parts)
    assert isinstance(first, ContextStudy)
    assert isinstance(plain, ContextStudy)
    assert first is again
    assert first.law.mutual_information == plain.law.mutual_information
    assert [row.tv for row in first.samplers] == [row.tv for row in plain.samplers]
    assert parts[0][0] == (0.0, "a GPU that is asked for")
    assert parts[0][1:-1] == parts[2][:-1]
    assert spaces.calls == [("study", 70)]


def test_a_study_can_be_cancelled(spaces: ModuleType, lent: Service) -> None:
    job = lent.study("small", "a b c", 2, 128, 0)
    for share, _ in job.run():  # type: ignore[misc]
        if share:
            job.stop()
    assert job.state == "cancelled"
    assert isinstance(list(lent.study("small", "a b c", 2, 128, 0).run())[-1], ContextStudy)
    assert len(spaces.calls) == 2


@pytest.mark.usefixtures("spoken")
def test_a_race_waits_for_no_work_of_this_process(spaces: ModuleType, lent: Service) -> None:
    found = race(lent, "ar", "pflm", batches=(1, 2))
    assert next(iter(found.job.run())).peaks is None
    found = race(lent, "ar", "pflm", batches=(1, 2))
    assert list(found.job.run())
    assert found.job.state == "done"
    assert [(row.decoder, row.batch) for row in found.now.rows] == [("ar", 1), ("pflm", 1), ("ar", 2), ("pflm", 2)]
    document = found.document()
    assert document["limits"] == dataclasses.asdict(MEASURED)
    assert document["threads"] == 1
    assert spaces.calls == [("race", 70)] * 2


def test_a_race_on_a_gpu_of_its_own_is_let_in_beside_one_that_runs_here(
    lent: Service, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def let_in(of: Service) -> set[int | str | None]:
        with gr.Blocks() as demo, gr.Tab(id="timing") as place:
            TimingTab(of, [], [gr.Textbox("small"), gr.Textbox("a b c")], place, 4)
        return {event.concurrency_limit for event in demo.fns.values() if event.concurrency_id == "timing"}

    assert (let_in(service), let_in(lent)) == ({1}, {zero.RACES})
    monkeypatch.setattr(jobs, "SMALL", 10**9)
    first, second = race(lent, "ar"), race(lent, "ar")
    here = first.job.run()
    next(here)
    waits = threading.Thread(target=lambda: list(second.job.run()))
    waits.start()
    monkeypatch.setattr(jobs, "SMALL", 0)
    assert list(race(lent, "ar").job.run())
    assert second.now.peaks is None  # of two races here, one waits for the end of the other
    second.job.stop()
    here.close()
    waits.join(30)


@pytest.mark.usefixtures("spaces")
def test_a_pair_is_loaded_once_and_moved_in_the_other_process(pair: Pair) -> None:
    loads: list[str] = []
    loaders = {"small": lambda: loads.append("small") or pair}
    models = zero_service(loaders, other=lambda name: loads.append(name) or pair).models
    assert models.other is not None
    for _ in range(2):
        assert models.loaders["small"]() is models.other("else") is pair
    assert loads == ["small", "else"]
    moved = zero._moved(lambda: copy.deepcopy(pair), "meta")
    parts = moved.teacher, moved.need_student(), moved.masked
    assert [model.device.type for model in parts if model is not None] == ["meta"] * 3


def test_which_models_are_large() -> None:
    for shape in SIZES.values():
        assert ModelConfig("teacher", *shape).block_weights > jobs.SMALL
    assert is_small(load_pair("tales"))


def test_small_models_points_and_what_no_visitor_asks_stay_here(
    spaces: ModuleType, lent: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lent.point(ASKED)["ok"]
    asking = LocalContext.request.set(None)
    assert lent.tables(ASKED)["ok"]
    LocalContext.request.reset(asking)
    monkeypatch.setattr(jobs, "SMALL", 10**9)
    assert lent.tables(ASKED)["ok"]
    assert list(text(lent, "ar").job.run())
    assert spaces.calls == []
    assert spaces.processes == []


@pytest.mark.usefixtures("spaces")
def test_the_app_has_gpus_lent_on_such_a_space_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    service, name = make_service("tales", device="cuda")
    assert isinstance(service.executor, ZeroExecutor)
    assert service.models.pair(name).teacher.device.type == "cpu"
    assert service.limits.run_seconds == zero.LONGEST
    monkeypatch.delenv("SPACES_ZERO_GPU")
    assert isinstance(make_service("tales")[0].executor, LocalExecutor)


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
