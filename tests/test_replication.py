"""The replication: what is compared with what, and the whole of it on tiny checkpoints of the published layout."""

from __future__ import annotations

import csv
import json
import re
import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from checkpoints.synthetic import weights, write_config
from helpers import save_gpt2
from tokenizers import Tokenizer

from analysis import case as case_module
from analysis import replication, writing
from analysis.published import (
    AGREEMENT,
    ENTROPY,
    GEN_PPL,
    PUBLISHED,
    SPEED,
    SPEED_UP,
    WIN_RATE,
    Compared,
)
from analysis.replication_figures import part_figure
from kfexplore.checkpoints.registry import PairParts
from kfexplore.errors import KfError
from kfexplore.evaluate.agreement import text_ids
from kfexplore.results import Estimate
from kfexplore.training.data import train_tokenizer

TEXT = "The old owl said: go home! Rain fell on the old house, and the rain went on. " * 40
PERPLEXITY = Compared("lm1b", "quality", GEN_PPL, "K = 4", Estimate(130.0, 120.0, 140.0))
"""The paper has 127.6, the replication 215.7."""


def test_published_speed_ups_are_those_of_the_published_speeds() -> None:
    paper = PUBLISHED["paper"]
    gains = {key: value for key, value in paper.items() if key[1] == SPEED_UP}
    assert len(gains) == 18
    for (task, _, of, batch), gain in gains.items():
        assert gain == pytest.approx(paper[task, SPEED, of, batch] / paper[task, SPEED, "AR", batch], rel=5e-3)


def test_ours_is_compared_with_the_paper_first() -> None:
    assert PERPLEXITY.published == {"paper": 127.6, "replication": 215.7}
    assert PERPLEXITY.difference == pytest.approx(2.4)
    assert PERPLEXITY.verdict == "consistent"
    for low, high in ((128.0, 140.0), (120.0, 127.0)):
        assert replace(PERPLEXITY, ours=Estimate(130.0, low, high)).verdict == "not consistent"
    slot = Compared("lm1b", "agreement", AGREEMENT, "slot 2", Estimate(32.0, 31.0, 33.0))
    assert slot.against == ("replication", 32.7)
    assert slot.difference == pytest.approx(-0.7)
    gain = Compared("owt", "throughput", SPEED_UP, "K = 4", Estimate(2.0, 1.9, 2.1), batch=128)
    assert (gain.against, gain.verdict) == (("paper", 2.38), "not consistent")


def test_what_is_measured_otherwise_has_no_verdict() -> None:
    other = replace(PERPLEXITY, unlike="another model")
    assert (other.difference, other.verdict) == (PERPLEXITY.difference, None)
    row, reason = replication.table([other]).splitlines()[1:]
    assert row.endswith("+2.40  not comparable [1]")
    assert reason == "[1] another model"
    assert replace(PERPLEXITY, of="K = 5").against is None
    assert replace(PERPLEXITY, task="owt", quantity=AGREEMENT, of="slot 1").verdict is None
    line = replication.table([replace(PERPLEXITY, quantity=ENTROPY)]).splitlines()[1]
    assert line.split()[-3:] == ["-", "-", "-"]


def test_the_figure_says_both_numbers_and_draws_each_source() -> None:
    rows = [
        replace(PERPLEXITY, of=of, ours=Estimate(mean, 99.0, 140.0)) for of, mean in (("AR", 100.0), ("K = 4", 130.0))
    ]
    rows += [replace(row, quantity=name) for name in (ENTROPY, "distinct-2") for row in rows]
    figure = part_figure(rows)
    title = figure.layout.title.text.replace("<br>", " ")
    assert "Gen-PPL is 100.00 (the paper: 104.8) for AR and 130.00 (the paper: 127.6) at K = 4" in title
    drawn = {(trace.name, trace.xaxis): list(trace.x) for trace in figure.data if trace.x}
    assert drawn["the paper", "x"] == [104.8, 127.6]
    assert drawn["independent replication", "x"] == [215.7]
    assert drawn["ours", "x3"] == [100.0, 130.0]
    assert not [trace for trace in figure.data if trace.name != "ours" and trace.xaxis == "x2" and trace.x]
    assert "2 of 2 published numbers lie within ours" in figure.layout.title.subtitle.text.replace("<br>", " ")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair as published (a pickle with `backbone.` before every name), a tokenizer, a judge, text and prefixes."""
    folder = tmp_path_factory.mktemp("published")
    tokenizer = train_tokenizer([TEXT], 265)
    tokenizer.save(str(folder / "tokenizer.json"))
    rows = tokenizer.get_vocab_size() + 1
    for name, kind, seed in (("ar", "teacher", 1), ("pflm", "student", 2)):
        state = weights(kind, seed, "backbone.", rows)  # type: ignore[arg-type]
        torch.save({"state_dict": state, "global_step": 500_000}, folder / f"{name}.ckpt")
    write_config(folder, context=40)
    for name in ("gpt2-large", "gpt2-small"):
        save_gpt2(folder / name, TEXT, 1024)
    (folder / "text").mkdir()
    (folder / "text" / "a.txt").write_text(TEXT, encoding="utf-8")
    lines = [json.dumps({"prefix": TEXT[n : n + 40]}) + "\n" for n in range(6)]
    (folder / "prefixes.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


class Script:
    """Runs the script in this process on the tiny pair."""

    def __init__(self, files: Path, out: Path, patch: pytest.MonkeyPatch) -> None:
        self.files, self.out, self.patch = files, out, patch
        patch.setattr(writing, "write_stills", lambda *_: [])

    def run(self, **options: str | None) -> dict[str, Any]:
        given = {
            "task": "lm1b",
            "teacher": f"{self.files}/ar.ckpt",
            "student": f"{self.files}/pflm.ckpt",
            "tokenizer": f"{self.files}/tokenizer.json",
            "text": f"{self.files}/text",
            "gen-ppl": f"{self.files}/gpt2-large",
            "judge": f"{self.files}/gpt2-large",
            "k": "2,4",
            "batch": "1,3",
            "samples": "6",
            "windows": "4",
            "repeats": "1",
            "prefix-len": "6",
            "new-tokens": "10",
            "out": str(self.out),
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        words = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
        self.patch.setattr("sys.argv", ["replication", *words])
        replication.main()
        found: dict[str, Any] = json.loads((self.out / "replication.json").read_text())
        return found


@pytest.fixture
def script(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    return Script(files, tmp_path / "out", monkeypatch)


def test_all_parts_on_a_tiny_published_pair(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    found = script.run()
    parts = {row["part"] for row in found["rows"]}
    assert parts == {"agreement", "quality", "judge", "throughput"}
    assert found["left_out"] == []
    of = {(row["quantity"], row["of"], row["batch"]): row for row in found["rows"]}
    assert {of_ for what, of_, _ in of if what == AGREEMENT} == {*(f"slot {j}" for j in range(1, 5)), "block of 4"}
    assert [of[GEN_PPL, name, None]["paper"] for name in ("AR", "K = 2", "K = 4")] == [104.8, 107.2, 127.6]
    assert of[GEN_PPL, "K = 4", None]["replication"] == 215.7
    assert {name for what, name, _ in of if what == WIN_RATE} == {"K = 2", "K = 4"}
    assert {(name, batch) for what, name, batch in of if what == SPEED_UP} == {
        (f"K = {k}", b) for k in (2, 4) for b in (1, 3)
    }
    assert of[SPEED, "AR", 1]["ours"] > 0
    for row in found["rows"]:
        assert row["low"] <= row["ours"] <= row["high"]
        assert row["verdict"] is None  # the models are tiny
    with (script.out / "replication.csv").open() as file:
        assert [row["quantity"] for row in csv.DictReader(file)] == [row["quantity"] for row in found["rows"]]
    page = (script.out / "replication.html").read_text()
    assert page.count('class="figure"') == 4
    said = capsys.readouterr().out
    assert re.search(r"lm1b +exact tokens \(%\) +slot 1 .* - +59.1 .*not comparable \[1\]", said)


def case(files: Path, folder: Path, tokenizer: Path | None = None, **changes: Any) -> case_module.Case:
    """The tiny pair as a task of the paper."""
    parts = PairParts(files / "ar.ckpt", files / "pflm.ckpt", None, tokenizer or files / "tokenizer.json", {})
    asked = case_module.Settings((2,), (4,), 6, 4, 1, 0, 6, 10, None, None, "", "")
    return case_module.Case("lm1b", parts, replace(asked, **changes), torch.device("cpu"), folder)


def test_a_verdict_needs_the_published_setting(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(part: Any, **changes: Any) -> str | None:
        return case(files, tmp_path, **changes).unlike(part)

    rows = len(json.loads((files / "tokenizer.json").read_text())["model"]["vocab"]) + 1
    assert reason("agreement") == "the models are not of the published size"
    monkeypatch.setitem(case_module.SIZES, "lm1b", (rows, 16, 2, 2, rows - 1, 40))
    assert "not checked on the published checkpoints yet" in str(reason("agreement"))
    monkeypatch.setattr(case_module, "UNCHECKED", ())
    short = "10 tokens after 6, in the paper 122 after 6"
    assert [reason(part) for part in ("agreement", "quality", "throughput")] == [None, short, short]
    monkeypatch.setitem(case_module.TASKS, "lm1b", replace(case_module.TASKS["lm1b"], total=16))
    assert [reason(part) for part in ("quality", "judge")] == [None, None]
    assert reason("throughput") == "timed on another device than the paper's H100"
    other_text = "the text is not the paper's"
    assert {reason(part, text=files / "text") for part in ("agreement", "quality", "judge")} == {other_text}
    prefixes = files / "prefixes.jsonl"
    assert [reason(part, prefixes=prefixes) for part in ("agreement", "quality")] == [None, other_text]
    there = {**case_module.environment(torch.device("cpu")), "device_name": "NVIDIA H100 80GB HBM3"}
    monkeypatch.setattr(case_module, "environment", lambda _: there)
    assert reason("throughput") is None


def test_a_run_that_was_cut_off_continues(script: Script, files: Path) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    parts = "agreement,quality,judge"
    with pytest.raises(KfError, match="is not here"):
        script.run(parts=parts, judge=str(files / "nothing"))
    with script.patch.context() as patch:
        for module, name in ((replication, "agreement"), (replication, "scored"), (case_module, "write")):
            patch.setattr(module, name, never)
        found = script.run(parts=parts)
        assert {row["part"] for row in found["rows"]} == set(parts.split(","))
        with pytest.raises(AssertionError, match="measured again"):
            script.run(parts="agreement", seed="1")
    (script.out / "parts" / "lm1b-agreement.json").write_text("{")
    assert script.run(parts="agreement")["rows"] == [row for row in found["rows"] if row["part"] == "agreement"]


def test_prefixes_of_a_file_and_parts_without_a_model(script: Script, files: Path) -> None:
    found = script.run(parts="quality,judge", prefixes=str(files / "prefixes.jsonl"), judge="", gen_ppl="")
    assert {row["quantity"] for row in found["rows"]} == {ENTROPY, "distinct-1", "distinct-2", "distinct-3"}
    assert [remark.split(":")[0] for remark in found["left_out"]] == ["lm1b, Gen-PPL", "lm1b, win rate"]
    assert {row["unlike"] for row in found["rows"]} == {"the models are not of the published size"}


def test_other_judges_than_the_papers_are_named(script: Script) -> None:
    script.patch.setattr(case_module.Case, "unlike", lambda *_: None)
    for model, reason in (("", None), ("gpt2-large", None), ("gpt2-small", "gpt2-small")):
        rows = script.run(parts="quality", gen_ppl=model and f"{script.files}/{model}")["rows"]
        found = {row["quantity"]: row["unlike"] for row in rows}
        said = found.pop(GEN_PPL, None)
        assert (said is None) if reason is None else (said is not None and reason in said)
        assert set(found.values()) == {None}
    assert {row["unlike"] for row in script.run(parts="judge")["rows"]} == {"the paper's judge is a Qwen"}


def test_prefixes_are_the_beginnings_of_the_hubs_documents(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    texts = [TEXT[n : n + 60] for n in range(9)]

    def rows(config: Any) -> Iterator[tuple[str, str]]:
        asked.append((config.dataset, config.split))
        yield from (("", text) for text in ["a", *texts])  # the first is too short for a prefix

    monkeypatch.setattr(case_module, "hub_rows", rows)
    found = case(files, tmp_path)
    tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
    assert found.prefixes.tolist() == [tokenizer.encode(text).ids[:6] for text in texts[:6]]
    assert asked == [("dvruette/lm1b", "test")]
    assert found.text_name == "the first 5,000 rows of dvruette/lm1b, split test"


def test_documents_are_framed_as_in_training(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tokenizer of BERT's family, whose documents begin with [CLS] and end with [SEP]."""
    values = json.loads((files / "tokenizer.json").read_text())
    for added in values["added_tokens"]:
        added["content"] = "[SEP]"
    vocabulary = values["model"]["vocab"]
    vocabulary["[SEP]"] = vocabulary.pop("<|endoftext|>")
    vocabulary["[CLS]"] = vocabulary.pop("Ā")
    values["added_tokens"].append({**values["added_tokens"][0], "id": vocabulary["[CLS]"], "content": "[CLS]"})
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(values))
    opening, closing = vocabulary["[CLS]"], vocabulary["[SEP]"]
    texts, tokenizer = [TEXT[n : n + 60] for n in range(9)], Tokenizer.from_file(str(path))
    monkeypatch.setattr(case_module, "hub_rows", lambda _: (("", text) for text in texts))
    found = case(files, tmp_path, path)
    assert found.prefixes.tolist() == [[opening, *tokenizer.encode(text).ids[:5]] for text in texts[:6]]
    judged = [text.prefix + text.new for sampled in found.continuations for text in sampled]
    assert not [text for text in judged if "[CLS]" in text or "[SEP]" in text]
    from_file = case(files, tmp_path, path, prefixes=files / "prefixes.jsonl").prefixes
    assert from_file.shape == found.prefixes.shape
    assert set(from_file[:, 0].tolist()) == {opening}
    pair: Any = SimpleNamespace(need_tokenizer=lambda: tokenizer)
    coded = text_ids(pair, texts[:2])[0].tolist()
    assert coded == [i for text in texts[:2] for i in (opening, *tokenizer.encode(text).ids, closing)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"parts": "agreement,speed"}, "no part 'speed'"),
        ({"task": "both"}, "models of one task"),
        ({"batch": "0"}, "batch is 0"),
        ({"samples": "1"}, "--samples is 1"),
        ({"k": "2,5", "parts": "quality"}, "k is 5"),
        ({"k": "two"}, "not a list of whole numbers"),
        ({"teacher": "missing.ckpt"}, "missing.ckpt"),
        ({"prefixes": "missing.jsonl", "parts": "quality"}, "missing.jsonl"),
    ],
)
def test_wrong_options_are_user_errors(script: Script, options: dict[str, str], said: str) -> None:
    with pytest.raises(KfError, match=re.escape(said)):
        script.run(**options)
    assert not (script.out / "parts").exists()


def test_without_files_or_a_connection_one_error_says_what_to_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setattr("kfexplore.checkpoints.hub.check_hub", lambda: None)
    monkeypatch.setenv("KFEXPLORE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["replication", "--task", "lm1b", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(Path(replication.__file__)), run_name="__main__")
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        "kfexplore: ar_best_lm1b.ckpt of zwave/K-Forcing is not here and cannot be fetched: no connection"
    )
    assert "pflm_lm1b_k4.ckpt in the folder" in err
    assert "https://huggingface.co/zwave/K-Forcing" in err
