"""What ZeroGPU does to a function, with a package `spaces` that stands in for the real one."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kfexplore.config import DecoderName
from kfexplore.pair import Pair
from kfexplore.ui.explorer import Explorer
from kfexplore.ui.zero import gpu

REPOSITORY = Path(__file__).resolve().parents[2]
STAND_IN = '''
import inspect, pickle, sys
from functools import wraps

torch_was_first = "torch" in sys.modules
calls = []

def GPU(task=None, *, duration=60):
    """As the real one: what goes to the worker and comes back is pickled."""
    def sent(value):
        return pickle.loads(pickle.dumps(value))

    @wraps(task)
    def run(*args, **kwargs):
        calls.append((task.__name__, duration))
        args, kwargs = sent((args, kwargs))
        return sent(task(*args, **kwargs))

    @wraps(task)
    def stream(*args, **kwargs):
        calls.append((task.__name__, duration))
        args, kwargs = sent((args, kwargs))
        for value in task(*args, **kwargs):
            yield sent(value)

    return stream if inspect.isgeneratorfunction(task) else run
'''


@pytest.fixture
def spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The stand-in, installed."""
    (tmp_path / "spaces.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "spaces", raising=False)
    import spaces

    monkeypatch.setitem(sys.modules, "spaces", spaces)
    return spaces


def double(values: list[int]) -> list[int]:
    return [2 * value for value in values]


def count(end: int) -> Iterator[int]:
    yield from range(end)


def test_without_the_package_a_function_is_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kfexplore.ui.zero.find_spec", lambda _: None)
    assert gpu(double) is double
    assert gpu(count) is count


def test_with_it_a_function_is_lent_a_gpu_for_so_long(spaces: ModuleType) -> None:
    assert gpu(double, 15)([1, 2]) == [2, 4]
    assert list(gpu(count)(3)) == [0, 1, 2]
    assert spaces.calls == [("double", 15), ("count", 60)]


@pytest.mark.usefixtures("spaces")
def test_what_cannot_be_sent_is_seen_here(pair: Pair) -> None:
    for value in (threading.Lock(), (n for n in range(3)), lambda: pair):
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            gpu(double)(value)


def answers(explorer: Explorer) -> dict[str, tuple[Callable[[Any], Any], Any]]:
    """The page's questions that are worth a GPU, as plain functions of what the browser sends."""
    u = [0.1, 0.7, 0.3, 0.9]
    asked = {"seq": 1, "pair": "small", "prompt": "a b c", "u": u, "resolution": 8}
    return {
        "tables": (lambda question: explorer.tables(question), asked),
        "grid": (lambda question: explorer.grid(question), {**asked, "slots": [0, 1]}),
    }


@pytest.mark.parametrize("name", ["tables", "grid"])
def test_questions_and_answers_of_the_sliders_can_be_sent(spaces: ModuleType, explorer: Explorer, name: str) -> None:
    function, asked = answers(explorer)[name]
    plain, lent = function(asked), gpu(function)(asked)
    for answer in (plain, lent):
        answer.pop("seconds", None)
    assert lent == plain
    assert lent["ok"]
    assert len(spaces.calls) == 1


@pytest.mark.usefixtures("spaces")
def test_texts_and_studies_can_be_sent_but_not_what_writes_them(explorer: Explorer) -> None:
    from kfexplore.ui.writing import WriteConfig

    decoders: tuple[DecoderName, ...] = ("ar", "pflm")

    def texts(config: WriteConfig) -> Iterator[Any]:
        writing = explorer.writing(config)
        for _ in writing.steps():
            yield writing.written()

    config = WriteConfig("small", "a b c", decoders, 4, 6)
    last = list(gpu(texts)(config))[-1]
    assert [len(written.lines[0].tokens) for written in last] == [6, 6]
    measured = gpu(lambda: explorer.study("small", "a b c", 2, 128, 0)[0])()
    assert measured.law.mutual_information == explorer.study("small", "a b c", 2, 128, 0)[0].law.mutual_information
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        gpu(explorer.writing)(config)


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
