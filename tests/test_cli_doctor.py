"""`kfexplore doctor`: what it says of this machine, of a GPU whose graphs fail, and of one that runs nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from decoding.test_passes import raises, recorder
from shell import Shell

from kfexplore.bench import setting
from kfexplore.cli import doctor as cli_doctor
from kfexplore.decoding import passes
from kfexplore.models import attention
from kfexplore.models.fast_paths import FAST_PATHS, FLEX, GRAPHS, summary

STATES = {"active", "disabled", "unavailable", "unchecked"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in FAST_PATHS:
        monkeypatch.setattr(path, "verdicts", {})


def test_every_fast_path_has_a_state_and_what_it_needs(shell: Shell) -> None:
    found = shell.json("doctor")
    assert torch.__version__.startswith(found["versions"]["torch"])  # less the build, as +cu130
    assert found["devices"][0]["device"] == "cpu"
    assert [path["name"] for path in found["fast_paths"]] == [path.name for path in FAST_PATHS]
    for path in found["fast_paths"]:
        assert path["state"] in STATES
        assert bool(path["reason"]) == (path["state"] in ("unavailable", "disabled"))
        assert bool(path["advice"]) == (path["state"] == "unavailable")
    code, out, _ = shell.run("doctor")
    assert code == 0
    for path in found["fast_paths"]:
        assert f"{path['name']:<18}{path['state']:<13}" in out
        assert path["reason"] in out
        assert path["advice"] in out


def test_the_probe_checks_graphs_and_training_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "record", recorder)
    monkeypatch.setattr(attention, "_flex_takes", lambda _: torch.is_grad_enabled())
    monkeypatch.setattr(attention, "attend_groups", lambda q, *parts: attention.attend_reference(q, [*parts]))
    assert cli_doctor.probe(torch.device("cpu")) == ""
    cases = [(verdict.case, verdict.reason) for verdict in GRAPHS.verdicts.values()]
    assert cases == [
        (f"{model} of width 128 and depth 2, {dtype} on cpu", "")
        for dtype in ("float32", "bfloat16")
        for model in ("Teacher", "Student")
    ]
    assert [(v.case, v.reason) for v in FLEX.verdicts.values()] == [
        (f"{dtype} on cpu, head size 64", "") for dtype in ("float32", "bfloat16")
    ]


def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    about = SimpleNamespace(major=9, minor=0, name="H200", total_memory=2**37)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)


def test_graphs_that_fail_on_a_gpu_are_reported(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch)
    probe = cli_doctor.probe
    monkeypatch.setattr(cli_doctor, "probe", lambda _: probe(torch.device("cpu")))
    monkeypatch.setattr(passes, "record", raises)
    found = shell.json("doctor")
    assert found["devices"][1] == {"device": "cuda:0", "name": "H200", "capability": "9.0", "bytes": 2**37, "error": ""}
    graphs, flash, flex = found["fast_paths"][:3]
    assert graphs["state"] == "disabled"
    assert len(graphs["cases"]) == 4
    assert all("stream is capturing" in case["reason"] for case in graphs["cases"])
    assert {flash["state"], flex["state"]} <= {"unavailable", "unchecked"}
    _, out, _ = shell.run("doctor")
    assert "Please report this" in out
    assert "stream is capturing" in out
    # the page and the bench documents say the same
    assert setting.environment(torch.device("cpu"))["fast_paths"] == summary()
    assert summary()["cuda_graphs"].startswith("disabled: Teacher of width 128")
    assert "H200" in setting.facts()
    assert "fast paths disabled: cuda_graphs" in setting.facts()


def test_a_gpu_that_runs_no_model_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch)
    monkeypatch.setattr(cli_doctor, "build", lambda _: 1 / 0)
    code, out, _ = shell.run("doctor")
    assert code == 0
    assert "cannot run a model: ZeroDivisionError" in out
