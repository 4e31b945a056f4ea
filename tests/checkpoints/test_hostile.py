"""Every input of `hostile` is refused with one message: no code runs, and little memory and time is taken.

Without `--full` these are the inputs of SHORT, at least one of each class.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kfexplore.checkpoints import reading
from kfexplore.checkpoints.registry import load_model
from kfexplore.errors import KfError

from .hostile import HOSTILE, SECRET, SHORT, SOUND
from .hostile_weights import RAN
from .synthetic import weights

TESTS = Path(__file__).resolve().parents[1]
MOST_GROWTH = 300 << 20
MOST_SECONDS = 20.0
"""Far above what any takes alone, as others may use the machine; without its limit each bomb takes more, or memory."""

FULL = pytest.mark.full("kfexplore/checkpoints", "kfexplore/models", "requirements.txt")
NAMES = [name if name in SHORT else pytest.param(name, marks=FULL) for name in (*SOUND, *HOSTILE)]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks of memory are read from /proc")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def came_of(home: Path, request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """What came of each input whose test runs, by name."""
    items = (item for item in request.session.items if isinstance(item, pytest.Function) and hasattr(item, "callspec"))
    asked = {item.callspec.params.get("name") for item in items if item.module is request.module}
    builders = {**SOUND, **{name: hostile.build for name, hostile in HOSTILE.items()}}
    paths = {}
    for name, build in builders.items():
        if name in asked:
            (home / name).mkdir()
            paths[name] = str(build(home / name))
    sound, hostile = ({n: paths[n] for n in names if n in paths} for names in (SOUND, HOSTILE))
    place = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    limits = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    ended = subprocess.run(
        [sys.executable, "-m", "checkpoints.child"],
        input=json.dumps([sound, hostile]),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": place, **limits},
        timeout=300,
        check=False,
    )
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, f"it ended after {lines[-1:]}: {ended.stderr[-2000:]}"
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("name", NAMES[: len(SOUND)])
def test_what_was_not_changed_is_loaded(came_of: dict[str, dict[str, Any]], name: str) -> None:
    result = came_of[name]
    assert result["error"] == "", result["message"]
    assert result["seen"] == []


@pytest.mark.parametrize("name", NAMES[len(SOUND) :])
def test_a_hostile_input_is_refused_in_one_plain_line(
    home: Path, came_of: dict[str, dict[str, Any]], name: str
) -> None:
    result = came_of[name]
    assert result["error"] == "KfError", result["message"][:500]
    assert re.search(HOSTILE[name].says, result["message"]), result["message"]
    assert result["seen"] == []
    assert not list(home.rglob(RAN))
    assert result["grown"] < MOST_GROWTH
    assert result["seconds"] < MOST_SECONDS
    message = result["message"].replace(str(home), "")
    assert message.isprintable()
    assert len(message) < 1000
    assert SECRET not in message


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_logits_of_the_largest_weights_are_numbers(tmp_path: Path, kind: Any) -> None:
    """Where they are not, noise chooses a token beyond the vocabulary."""
    state = {
        name: tensor if name == "rotary_emb.inv_freq" else tensor.sign() * reading.MAX_WEIGHT
        for name, tensor in weights(kind).items()
    }
    torch.save(state, tmp_path / "m.ckpt")
    loaded, ids = load_model(tmp_path / "m.ckpt"), torch.tensor([[1, 2, 3]])
    logits = loaded.block_logits(ids, torch.tensor([[0.1, 0.9]])) if kind == "student" else loaded.log_probs(ids)
    assert not logits.isnan().any()
    state["vocab_embed.embedding"][0, 0] *= 1.001
    torch.save(state, tmp_path / "m.ckpt")
    with pytest.raises(KfError, match=r"vocab_embed\.embedding has values that are beyond 10,000"):
        load_model(tmp_path / "m.ckpt")


def test_a_file_that_memory_does_not_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    torch.save({"w": torch.ones(3)}, tmp_path / "m.pt")
    monkeypatch.setattr(reading, "_read", full)
    with pytest.raises(KfError, match="does not fit into memory"):
        load_model(tmp_path / "m.pt")
