"""`kfexplore generate` of a file of prefixes, as the published script takes it, on a small pair."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import masked, student
from shell import FILES, Shell

from kfexplore.batch import report, run
from kfexplore.checkpoints.saving import save_model
from kfexplore.checkpoints.tokenizers import decode_ids, encode_ids
from kfexplore.config import DecodeConfig
from kfexplore.decoding.generate import Networks, generate, keyed_noise
from kfexplore.pair import load_pair

MASKED = "--ckpt_path FOLDER/diffusion --tokenizer FOLDER/tokenizer.json"
TEXTS = [
    "The old owl went home.",
    "Rain fell on the old house.",
    "Home: the owl said\u2028go on!",  # the line separator is no end of a line of JSON
    "said the rain to the owl",
    "on the house, on the owl",
]
PUBLISHED_KEYS = [
    *("model", "task", "batch_size", "num_samples", "max_new_tokens", "K_per_step", "prefix_len", "n_batches"),
    *("n_warmup_batches", "total_elapsed_sec", "avg_batch_time_sec", "throughput_tok_per_sec_total"),
    *("throughput_tok_per_sec_avg_batch", "total_nfe", "nfe_per_token", "device"),
]


@pytest.fixture(scope="module", autouse=True)
def prefixes(folder: Path) -> None:
    """Prefix files, good and bad, beside the pair."""
    good = [json.dumps({"prefix": text}, ensure_ascii=False) for text in TEXTS]
    files = {
        "prefixes": [good[0], "", *good[1:]],  # an empty line is passed over
        "empty": ["", ""],
        "short": [good[0], '{"prefix": "owl"}'],
        "words": [good[0], good[1], "The owl went home."],
        "keyless": [good[0], '{"text": "The owl went home."}'],
        "list": ["[1, 2]"],
        "half": ['{"prefix": "The old owl \\ud83d went home"}'],
    }
    for name, lines in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "latin.jsonl").write_bytes('{"prefix": "Über den Fluß"}'.encode("latin-1"))


class Written:
    """What a run left in its folder."""

    def __init__(self, folder: Path) -> None:
        self.lines = (folder / "samples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        self.samples = [json.loads(line) for line in self.lines]
        self.throughput = json.loads((folder / "throughput.json").read_text())


@pytest.fixture
def complete(shell: Shell, tmp_path: Path) -> Callable[..., Written]:
    """Completes FOLDER/prefixes.jsonl by the pair of the folder, or by other models."""

    def run(options: str, models: str = "--pair FOLDER", out: str = "out", file: str = "prefixes") -> Written:
        if "--max-new-tokens" not in options:
            options += " --max-new-tokens 9"
        line = f"generate {models} --prefix_file FOLDER/{file}.jsonl --output_dir {tmp_path}/{out} {options}"
        code, _, err = shell.run(line)
        assert code == 0, err
        return Written(tmp_path / out)

    return run


def test_a_file_of_prefixes_gets_the_two_files_of_the_published_script(complete: Callable[..., Written]) -> None:
    written = complete("--model pflm --K 4 --batch_size 2 --warmup_steps 2 --seed 3 --prefix-len 6", out="new/out")
    found = written.throughput
    assert list(found)[:16] == PUBLISHED_KEYS
    expected = {"model": "pflm", "batch_size": 2, "num_samples": 5, "max_new_tokens": 9, "K_per_step": 4}
    expected |= {"prefix_len": 6, "n_batches": 3, "n_warmup_batches": 2, "device": "cpu", "nfe_per_token": 3 / 9}
    expected |= {"total_nfe": 15, "seed": 3, "freq_penalty": 0.0, "last_batch_size": 1, "dtype": "float32"}
    assert {key: found[key] for key in expected} == expected
    assert found["throughput_tok_per_sec_total"] == pytest.approx(45 / found["total_elapsed_sec"])
    assert [list(sample) for sample in written.samples] == [["prefix", "completion"]] * 5


def test_completions_are_those_of_their_prefix_and_number(complete: Callable[..., Written], folder: Path) -> None:
    written = complete("--model ar --seed 5 --n_per_prefix 2 --batch_size 3 --prefix-len 4")
    pair = load_pair(folder)
    config, networks = DecodeConfig("ar"), Networks(pair.teacher)
    prompts = [encode_ids(pair.tokenizer, text)[:4] for text in TEXTS] * 2
    result = generate(config, networks, prompts, keyed_noise(5, range(10), config, networks, 9), 9)
    expected = [
        {"prefix": decode_ids(pair.tokenizer, prompt), "completion": decode_ids(pair.tokenizer, row)}
        for prompt, row in zip(prompts, result.tokens, strict=True)
    ]
    assert written.samples == expected


@pytest.mark.parametrize("model", ["ar", "pflm", "mdlm", "verified", "jacobi"])
def test_the_batch_size_changes_no_sample(complete: Callable[..., Written], model: str) -> None:
    models = MASKED if model == "mdlm" else "--pair FOLDER"
    found = [complete(f"--model {model} --batch_size {size}", models) for size in (1, 2, 16)]
    assert found[0].lines == found[1].lines == found[2].lines
    assert [each.throughput["n_batches"] for each in found] == [5, 3, 1]


def test_completions_end_with_the_text_and_what_follows_is_counted_apart(
    complete: Callable[..., Written], folder: Path
) -> None:
    written = complete("--model ar --max-new-tokens 60 --n_per_prefix 3")
    pair = load_pair(folder)
    config, networks = DecodeConfig("ar"), Networks(pair.teacher)
    prompts = [encode_ids(pair.tokenizer, text) for text in TEXTS] * 3
    rows = generate(config, networks, prompts, keyed_noise(0, range(15), config, networks, 60), 60).tokens.tolist()
    end = pair.tokenizer.get_vocab()["<|endoftext|>"]
    cut = [row[: row.index(end) + 1] if end in row else row for row in rows]
    found = written.throughput
    assert [sample["completion"] for sample in written.samples] == [decode_ids(pair.tokenizer, row) for row in cut]
    assert found["tokens_after_eos"] == sum(60 - len(row) for row in cut) > 0
    assert found["throughput_tok_per_sec_total"] == pytest.approx(15 * 60 / found["total_elapsed_sec"])
    until = found["throughput_tok_per_sec_until_eos"] / found["throughput_tok_per_sec_total"]
    assert until == pytest.approx(1 - found["tokens_after_eos"] / (15 * 60))


def test_the_clock_holds_batches_and_no_text(complete: Callable[..., Written], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)

    def decoding(*arguments: Any) -> Any:
        clock.now += 10
        return generate(*arguments)

    def text(*_: Any) -> str:
        clock.now += 1000
        return ""

    monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(run, "generate", decoding)
    for way in ("decode_ids", "continuation"):
        monkeypatch.setattr(report, way, text)
    found = complete("--model ar --batch_size 2 --warmup_steps 1").throughput
    assert clock.now == 40 + 10 * 1000
    assert (found["total_elapsed_sec"], found["avg_batch_time_sec"]) == (30, 10)
    assert found["throughput_tok_per_sec_total"] == found["throughput_tok_per_sec_avg_batch"] == 45 / 30


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "batch of 2 does not fit in memory.*--batch_size 1"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "batch of 2 does not fit in memory"),
    ],
)
def test_a_failure_in_the_middle_leaves_the_folder_as_it_was(
    shell: Shell,
    complete: Callable[..., Written],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    says: str,
) -> None:
    before = complete("--model ar")
    calls = []

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise error
        return generate(*arguments)

    monkeypatch.setattr(run, "generate", failing)
    line = "generate --model ar --pair FOLDER --prefix_file FOLDER/prefixes.jsonl --seed 9 --batch_size 2"
    code, out, err = shell.run(f"{line} --output_dir {tmp_path}/out")
    assert (code, out, len(calls)) == (2, "", 3)
    assert re.search(says, err, re.DOTALL)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"samples.jsonl", "throughput.json"}
    assert Written(tmp_path / "out").lines == before.lines
    assert Written(tmp_path / "out").throughput == before.throughput


def test_a_batch_that_cannot_fit_is_refused_before_its_noise_is_drawn(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "free_bytes", lambda: 2**30)
    monkeypatch.setattr(run, "keyed_noise", lambda *_: pytest.fail("noise was drawn"))
    line = f"generate --model ar --pair FOLDER --prefix_file FOLDER/prefixes.jsonl --output_dir {tmp_path}"
    code, out, err = shell.run(f"{line} --n_per_prefix 100000 --batch_size 500000")
    assert (code, out) == (2, "")
    assert "500,000 samples do not fit in memory" in err
    assert "a smaller --batch_size" in err


def test_samples_are_not_left_where_the_other_file_cannot_be_written(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "throughput.json").mkdir()
    line = "generate --model ar --pair FOLDER --prefix_file FOLDER/prefixes.jsonl --max-new-tokens 2"
    code, _, err = shell.run(f"{line} --output_dir {tmp_path}")
    assert code == 2
    assert "cannot be written" in err
    assert [path.name for path in tmp_path.iterdir()] == ["throughput.json"]


def test_mdlm_fills_four_positions_a_pass_at_random_or_greedily(complete: Callable[..., Written]) -> None:
    random, greedy = complete("--model mdlm", MASKED), complete("--model mdlm --mdlm_greedy", MASKED)
    assert complete("--model mdlm --order confident", MASKED).lines == greedy.lines != random.lines
    assert [each.throughput["order"] for each in (random, greedy)] == ["random", "confident"]
    assert random.throughput["K_per_step"] == 4
    assert random.throughput["nfe_per_token"] == 3 / 9


def test_a_task_has_the_published_penalty_unless_another_readout_is_asked_for(complete: Callable[..., Written]) -> None:
    task = "--task owt --ckpt_path FOLDER/student --tokenizer FOLDER/tokenizer.json"
    usual, same, none = (
        complete(f"--model pflm --max-new-tokens 40 {penalty}", task)
        for penalty in ("", "--freq_penalty 0.5", "--freq_penalty 0")
    )
    assert usual.lines == same.lines != none.lines
    assert complete("--model pflm --dither 4", task).throughput["freq_penalty"] == 0
    assert complete("--model pflm").throughput["freq_penalty"] == 0


@pytest.mark.parametrize("model", ["ar", "pflm", "mdlm"])
def test_whole_prefixes_are_kept_and_fill_the_context(
    complete: Callable[..., Written], folder: Path, model: str
) -> None:
    """Without a task or a length: the longest leaves the least room, and all are continued by as much."""
    written = complete(f"--model {model} --max-new-tokens 60", MASKED if model == "mdlm" else "--pair FOLDER")
    assert [sample["prefix"] for sample in written.samples] == TEXTS
    longest = max(len(encode_ids(load_pair(folder).tokenizer, text)) for text in TEXTS)
    assert (written.throughput["prefix_len"], written.throughput["prefixes_cut"]) == (longest, 0)


def test_cut_prefixes_and_a_penalty_are_reported(shell: Shell, tmp_path: Path) -> None:
    line = f"generate --pair FOLDER --prefix_file FOLDER/prefixes.jsonl --output_dir {tmp_path} --max-new-tokens 2"
    code, out, err = shell.run(f"{line} --model pflm --n_per_prefix 2 --prefix-len 6 --freq_penalty 0.5")
    assert code == 0
    lengths = [len(encode_ids(load_pair(shell.folder).tokenizer, text)) for text in TEXTS]
    cut = sum(length > 6 for length in lengths)
    assert f"kfexplore: {cut} of 5 prefixes were cut to 6 tokens (--prefix-len).\n" in err
    assert Written(tmp_path).throughput["prefixes_cut"] == cut > 0
    assert out.startswith("10 completions of 2 tokens, frequency penalty 0.5 (--freq_penalty): ")
    code, out, err = shell.run(f"{line} --model ar --prefix-len {min(lengths)}")
    assert f"{sum(length > min(lengths) for length in lengths)} of 5 prefixes were cut to {min(lengths)} tokens" in err
    assert out.startswith("5 completions of 2 tokens: ")
    (tmp_path / "one.jsonl").write_text(json.dumps({"prefix": TEXTS[0]}))
    code, _, err = shell.run(f"{line} --model ar --prefix-len {lengths[0]} --prefix_file {tmp_path}/one.jsonl")
    assert code == 0
    assert "were cut" not in err


def test_what_the_published_script_takes_and_ar_does_not_is_left_out_with_a_word(shell: Shell, tmp_path: Path) -> None:
    line = f"generate --model ar --pair FOLDER --prefix_file FOLDER/prefixes.jsonl --output_dir {tmp_path} --json"
    code, out, err = shell.run(f"{line} --K 4 --freq_penalty 0.5 --mdlm_greedy --max-new-tokens 2")
    assert code == 0
    assert json.loads(out)["K_per_step"] == 1
    for option in ("--K", "--freq_penalty", "--mdlm_greedy"):
        assert f"kfexplore: {option} cannot be used with ar; it is ignored.\n" in err


def test_a_task_has_its_published_checkpoints(
    complete: Callable[..., Written], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    monkeypatch.setenv("KFEXPLORE_HOME", str(tmp_path / "home"))
    rows = load_pair(folder).teacher.config.vocab_size
    save_model(masked(13, vocab_size=rows, context=80), tmp_path / "home" / "kuleshov-group" / "mdlm-owt")
    (tmp_path / "home" / "owt").mkdir()
    weights = student(11, vocab_size=rows, context=80).state_dict()
    torch.save({"state_dict": weights}, tmp_path / "home" / "owt" / "pflm_owt_k4.ckpt")
    models = "--task owt --tokenizer FOLDER/tokenizer.json"
    asked = "--prefix-len 6 --freq_penalty 0.5"
    assert complete("--model pflm", models).lines == complete(f"--model pflm {asked}").lines
    assert complete("--model mdlm", models).lines == complete("--model mdlm --prefix-len 6", MASKED).lines


@pytest.mark.slow
def test_two_devices_write_what_one_writes(complete: Callable[..., Written]) -> None:
    one, two = complete("--model ar --batch_size 2"), complete("--model ar --batch_size 2 --devices 2", out="two")
    assert two.lines == one.lines
    assert (two.throughput["devices"], two.throughput["n_batches"]) == (2, 3)


@pytest.mark.full("kfexplore/batch", "kfexplore/cli", "kfexplore/distributed.py")
def test_an_error_in_a_process_is_one_message(shell: Shell, tmp_path: Path) -> None:
    line = "generate --model ar --pair FOLDER --prefix_file FOLDER/short.jsonl --prefix-len 6"
    line += f" --output_dir {tmp_path}/out --devices 2"
    assert "line 2, has a prefix of" in shell.refused(line)
    assert not (tmp_path / "out").exists()


RUN = "--prefix_file FOLDER/prefixes.jsonl --output_dir FOLDER/out"
TASK = "--tokenizer FOLDER/tokenizer.json --prefix_file FOLDER/prefixes.jsonl --output_dir FOLDER/out"
ERRORS = {
    f"generate --model ar --pair FOLDER {RUN} --prompt a": "--prompt cannot be used with a file of prefixes",
    f"generate --model ar --pair FOLDER {RUN} --stop-at-eos": "--stop-at-eos cannot be used with a file",
    f"generate --model xyz --pair FOLDER {RUN}": "no model 'xyz'",
    f"generate --model mdlm --pair FOLDER {RUN} --mdlm_greedy --order random": "--order random was given",
    f"generate --model ar --task wiki {TASK}": "no task 'wiki'",
    f"generate --model verified --task owt --ckpt_path FOLDER/teacher {TASK}": "needs a teacher and a student",
    f"generate --model mdlm --task lm1b {TASK}": "No masked model is published for lm1b",
    f"generate --model ar --task lm1b --ckpt_path FOLDER/teacher {TASK} --max-new-tokens 4": "has no [SEP]",
    f"generate --model ar --task owt --ckpt_path FOLDER/teacher {TASK}": "--max-new-tokens 1 to 74",
    f"generate --model ar --task owt --ckpt_path FOLDER/teacher {TASK} --prefix-len 80": "leaves no room in 80",
    f"generate --model ar --pair FOLDER {RUN} --prefix-len 80": "leaves no room in 80",
    f"generate --model ar --pair FOLDER {RUN} --max-new-tokens 75": "exceed the 80 tokens",
    f"generate --model ar {FILES} {RUN}": "no tokenizer to read prefixes with",
    f"generate --model ar --pair FOLDER {RUN} --batch_size 0": "--batch_size is 0",
    f"generate --model ar --pair FOLDER {RUN} --devices 0": "--devices is 0",
    f"generate --model ar --pair FOLDER {RUN} --devices 2 --device cuda:0": "CUDA",
    "generate --model ar --pair FOLDER --prefix_file FOLDER/none.jsonl": "none.jsonl cannot be read",
    "generate --model ar --pair FOLDER --output_dir FOLDER/out": "prefix_examples.jsonl cannot be read",
    "generate --model ar --pair FOLDER --prefix_file FOLDER/empty.jsonl": "empty.jsonl is empty",
    "generate --model ar --pair FOLDER --prefix_file FOLDER/short.jsonl --prefix-len 6": "line 2, has a prefix of 2 to",
    f"generate --model ar --pair FOLDER {RUN} --n_per_prefix 10000000000": "a smaller --n_per_prefix",
    "generate --model ar --pair FOLDER --prefix_file FOLDER/words.jsonl": "line 3, is not JSON",
    "generate --model ar --pair FOLDER --prefix_file FOLDER/keyless.jsonl": 'line 2, has no text "prefix"',
    "generate --model ar --pair FOLDER --prefix_file FOLDER/list.jsonl": 'line 1, has no text "prefix"',
    "generate --model ar --pair FOLDER --prefix_file FOLDER/half.jsonl": "line 1, has a prefix that is not valid",
    "generate --model ar --pair FOLDER --prefix_file FOLDER/latin.jsonl": "is not UTF-8",
    "generate --model ar --pair FOLDER --prefix_file FOLDER/prefixes.jsonl --output_dir FOLDER/text.txt": "text.txt",
}


@pytest.mark.parametrize("line", ERRORS)
def test_user_error_is_one_message_and_exit_code_2(shell: Shell, line: str) -> None:
    assert ERRORS[line] in shell.refused(line)
