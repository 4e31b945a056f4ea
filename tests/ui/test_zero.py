"""ZeroGPU, with a package `spaces` that stands in for the real one: a GPU is lent to a forked process."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from gradio.context import LocalContext

from kfexplore.errors import KfError
from kfexplore.pair import Pair
from kfexplore.results import Limits
from kfexplore.ui import explorer as explorer_of_page
from kfexplore.ui import threads, zero
from kfexplore.ui.app import make_explorer
from kfexplore.ui.explorer import Explorer
from kfexplore.ui.racing import RaceConfig
from kfexplore.ui.writing import WriteConfig
from kfexplore.ui.zero import LentExplorer, gpu, is_zero

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
            raise gr.Error(refused[0])
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
MEASURED = Limits(1e10, 1e11)


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
def lent(spaces: ModuleType, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Iterator[LentExplorer]:
    """The pair as "small", which counts as large, asked by a visitor."""
    monkeypatch.setattr(threads, "SMALL", 0)
    monkeypatch.setattr(explorer_of_page, "measure_limits", lambda *_: MEASURED)
    assert not spaces.calls
    asking = LocalContext.request.set(object())  # type: ignore[arg-type]
    yield LentExplorer({"small": lambda: pair}, device="cpu")
    LocalContext.request.reset(asking)


@pytest.fixture
def spoken(lent: LentExplorer) -> Iterator[None]:
    """Other threads hold every lock of the explorer, as they may when a process is forked."""
    done, held = threading.Event(), threading.Barrier(5)

    def hold(turns: Any) -> None:
        with turns.held():
            held.wait()
            done.wait()

    locks = [lent._heavy, lent._pointing, lent._timing, lent._loading["small"]]
    assert lent.pair("small").student is not None  # nobody loads it any more
    others = [threading.Thread(target=hold, args=[turns]) for turns in locks]
    for other in others:
        other.start()
    held.wait()
    yield
    done.set()
    for other in others:
        other.join()


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
    spaces.refused.append('You have exceeded your quota. <a href="https://x">Sign up</a>')
    with pytest.raises(KfError) as refused:
        list(ask("all", 2))
    assert refused.value.failed == "No answer from a GPU: You have exceeded your quota. Sign up"
    assert len(spaces.processes) == 1


@pytest.mark.usefixtures("spoken")
@pytest.mark.parametrize(("name", "more"), [("tables", {}), ("tables", {"slots": [2]}), ("grid", {"slots": [0, 1]})])
def test_sliders_are_answered_in_a_process_whose_locks_nobody_holds(
    spaces: ModuleType, lent: LentExplorer, explorer: Explorer, name: str, more: dict[str, Any]
) -> None:
    plain, other = (getattr(each, name)({**ASKED, **more}) for each in (explorer, lent))
    for answer in (plain, other):
        answer.pop("seconds", None)
    assert other["ok"]
    assert other == plain
    assert [seconds for _, seconds in spaces.calls] == [30]


@pytest.mark.usefixtures("spoken")
def test_texts_grow_as_without_it(spaces: ModuleType, lent: LentExplorer, explorer: Explorer) -> None:
    config = WriteConfig("small", "a b c", ("ar", "pflm", "mdlm"), 4, 24)
    texts = {}
    for name, each in (("here", explorer), ("lent", lent)):
        writing = each.writing(config)
        assert writing.is_waiting
        assert [stage for _ in writing.steps() for stage in [writing.is_waiting]].count(True) == 0
        assert writing.is_over
        texts[name] = [dataclasses.replace(written, seconds=0.0) for written in writing.written()]
        assert all(written.seconds > 0 for written in writing.written())
        assert writing.as_json()["environment"]["device"] == "cpu"
    assert texts["lent"] == texts["here"]
    assert spaces.calls == [("texts", 70)]
    assert writing.environment["threads"] == 1, "it tells where the texts were written, which is not here"


def test_a_text_can_be_stopped(spaces: ModuleType, lent: LentExplorer) -> None:
    writing = lent.writing(WriteConfig("small", "a b c", ("ar",), 4, 24))
    steps = writing.steps()
    next(steps)
    writing.stop()
    assert list(steps) == []
    assert writing.is_over
    again = lent.writing(WriteConfig("small", "a b c", ("pflm",), 4, 8))
    assert list(again.steps())
    assert [len(written.lines[0].tokens) for written in again.written()] == [8]
    assert len(spaces.processes) == 1


def test_its_surprises_are_asked_for_here(spaces: ModuleType, lent: LentExplorer) -> None:
    writing = lent.writing(WriteConfig("small", "a b c", ("ar",), 4, 8))
    assert list(writing.steps())
    assert list(writing.surprises())
    assert len(writing.written()[0].lines[0].surprise or []) == 8
    assert [what for what, _ in spaces.calls] == ["texts"]


def test_a_mistake_in_the_other_process_is_told_here(lent: LentExplorer) -> None:
    told = lent.tables({**ASKED, "u": [2.0, 0, 0, 0]})
    assert not told["ok"]
    assert told["failed"]
    assert lent.tables(ASKED)["ok"]


def test_studies_are_the_same_and_kept(spaces: ModuleType, lent: LentExplorer, explorer: Explorer) -> None:
    reports: list[str] = []
    for _ in range(2):
        found, _, _ = lent.study("small", "a b c", 2, 128, 0, report=lambda _, what: reports.append(what))
    plain, _, _ = explorer.study("small", "a b c", 2, 128, 0)
    assert found.law.mutual_information == plain.law.mutual_information
    assert [row.tv for row in found.samplers] == [row.tv for row in plain.samplers]
    assert reports == ["on a GPU that is lent for it"]
    assert spaces.calls == [("laws", 70)]


@pytest.mark.usefixtures("spoken")
def test_a_race_waits_for_no_other(spaces: ModuleType, lent: LentExplorer) -> None:
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


def test_small_models_points_and_what_no_visitor_asks_stay_here(
    spaces: ModuleType, lent: LentExplorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lent.point(ASKED)["ok"]
    asking = LocalContext.request.set(None)
    assert lent.tables(ASKED)["ok"]
    LocalContext.request.reset(asking)
    monkeypatch.setattr(threads, "SMALL", 10**9)
    assert lent.tables(ASKED)["ok"]
    assert list(lent.writing(WriteConfig("small", "a b c", ("ar",), 4, 8)).steps())
    assert spaces.calls == []
    assert spaces.processes == []


@pytest.mark.usefixtures("spaces")
def test_the_app_has_gpus_lent_on_such_a_space_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    explorer, name = make_explorer("tales", device="cuda")
    assert isinstance(explorer, LentExplorer)
    assert explorer.pair(name).teacher.device.type == "cpu"
    monkeypatch.delenv("SPACES_ZERO_GPU")
    assert type(make_explorer("tales")[0]) is Explorer


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
