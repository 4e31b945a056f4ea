"""`kfexplore VERB` on small checkpoints: what it prints, and that a user's error is one message and exit code 2."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from helpers import student, teacher
from torch.distributed.run import get_args_parser
from typer.main import get_command

from kfexplore import cli, noise
from kfexplore.checkpoints.saving import save_model
from kfexplore.config import DecodeConfig, DecoderName
from kfexplore.decoding.generate import Networks, generate, replayed_noise
from kfexplore.laws.study import study
from kfexplore.pair import load_pair
from kfexplore.training.data import train_tokenizer

SENTENCES = ["The owl went home.", "The old owl said: go home!", "Rain fell on the old house, and the rain went on."]
STEPS = noise.uniform(0, range(18), 0, 4).reshape(6, 3, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair with a tokenizer, noise of six steps for three samples, and a text."""
    folder = tmp_path_factory.mktemp("pair")
    tokenizer = train_tokenizer(SENTENCES, 270)
    rows = tokenizer.get_vocab_size() + 1
    save_model(teacher(1, vocab_size=rows, context=80), folder / "teacher")
    save_model(student(11, vocab_size=rows, context=80), folder / "student")
    save_model(student(12, vocab_size=rows + 1), folder / "other")
    tokenizer.save(str(folder / "tokenizer.json"))
    np.save(folder / "noise.npy", STEPS.astype(np.float32))
    np.save(folder / "bad.npy", STEPS + 0.5)
    (folder / "text.txt").write_text(" ".join(SENTENCES * 20), encoding="utf-8")
    return folder


class Shell:
    """Runs the command line in this process; FOLDER in an argument stands for the fixture's."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.patch, self.capture = folder, patch, capture

    def run(self, line: str) -> tuple[int, str, str]:
        words = [word.replace("FOLDER", str(self.folder)) for word in shlex.split(line)]
        self.patch.setattr(sys, "argv", ["kfexplore", *words])
        self.capture.readouterr()
        try:
            cli.main()
        except SystemExit as end:
            out, err = self.capture.readouterr()
            return int(end.code or 0), out, err
        return (0, *self.capture.readouterr())

    def json(self, line: str) -> dict[str, Any]:
        code, out, err = self.run(line + " --json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def shell(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(folder, monkeypatch, capsys)


FILES = "--teacher FOLDER/teacher/model.safetensors --student FOLDER/student/model.safetensors"
IDS = "--token-ids 3,1,4"


def test_map_prints_both_blocks_of_two_files(shell: Shell) -> None:
    result = shell.json(f"map {FILES} {IDS} --noise 0.1,0.7,0.3")
    block = load_pair(shell.folder).block([[3, 1, 4]], [[0.1, 0.7, 0.3]])
    assert set(result) == {"student", "teacher", "margins", "edges"}  # no texts where there is no tokenizer
    assert result["student"] == block.student[0].tolist()
    assert result["teacher"] == block.teacher[0].tolist()
    assert result["margins"] == block.margins[0].tolist()


def test_map_of_a_pair_with_a_tokenizer_has_the_texts(shell: Shell) -> None:
    result = shell.json("map --pair FOLDER --prompt 'The old owl' --noise 0.1,0.7")
    pair = load_pair(shell.folder)
    block = pair.block([pair.encode("The old owl")[0]], [[0.1, 0.7]])
    assert set(result) == {"student", "teacher", "margins", "edges", "student_text", "teacher_text"}
    assert result["teacher"] == block.teacher[0].tolist()
    assert result["teacher_text"] == [pair.tokenizer.decode([i]) for i in result["teacher"]]
    assert result["student_text"] == [pair.tokenizer.decode([i]) for i in result["student"]]


def test_map_for_people_has_a_line_a_slot(shell: Shell) -> None:
    code, out, _ = shell.run(f"map {FILES} {IDS} --noise 0.1,0.7,0.3")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["slot", "1", "2", "3"]


def test_long_prompt_is_cut_and_the_cut_is_told(shell: Shell) -> None:
    code, out, err = shell.run(f"map --pair FOLDER --prompt '{' '.join(SENTENCES * 5)}' --noise 0.1 --json")
    assert code == 0
    assert "tokens of the prompt were cut" in err
    assert len(json.loads(out)["teacher"]) == 1


@pytest.mark.parametrize(("model", "k"), [("ar", 1), ("pflm", 4), ("pflm", 2)])
def test_generate_replays_the_noise_of_a_file(shell: Shell, model: DecoderName, k: int) -> None:
    slots = f"--k {k}" if model == "pflm" else ""
    result = shell.json(
        f"generate --model {model} {FILES} {IDS} --noise-file FOLDER/noise.npy --max-new-tokens 6 {slots}"
    )
    pair = load_pair(shell.folder)
    config, networks = DecodeConfig(model, k), Networks(pair.teacher, pair.student)
    expected = generate(config, networks, [[3, 1, 4]] * 3, replayed_noise(STEPS, config, networks, 6), 6)
    assert set(result) == {"tokens", "text", "nfe", "seconds"}
    assert result["tokens"] == expected.tokens.tolist()
    assert result["nfe"] == expected.nfe
    assert result["text"] == []


def test_one_checkpoint_generates_as_the_pair_does(shell: Shell) -> None:
    rest = f"{IDS} --noise-file FOLDER/noise.npy --max-new-tokens 6"
    for model, name in (("ar", "teacher"), ("pflm", "student")):
        alone = shell.json(f"generate --model {model} --ckpt_path FOLDER/{name}/model.safetensors {rest}")
        assert alone["tokens"] == shell.json(f"generate --model {model} {FILES} {rest}")["tokens"]


def test_generated_tokens_are_keyed_by_seed_and_sample(shell: Shell) -> None:
    line = "generate --model ar --pair FOLDER --prompt 'The old owl' --max-new-tokens 8"
    one, three = shell.json(line + " --seed 5"), shell.json(line + " --seed 5 --samples 3")
    assert three["tokens"][0] == one["tokens"][0]
    assert three["tokens"][1] != one["tokens"][0]
    assert shell.json(line + " --seed 6")["tokens"] != one["tokens"]
    assert one["text"] == [load_pair(shell.folder).tokenizer.decode(one["tokens"][0])]


def test_frequency_penalty_forbids_repetition(shell: Shell) -> None:
    line = f"generate --model pflm {FILES} {IDS} --max-new-tokens 16"
    free, penalised = shell.json(line), shell.json(line + " --freq-penalty 1000")
    assert len(set(free["tokens"][0])) < 16
    assert len(set(penalised["tokens"][0])) == 16


def test_temperature_is_passed_on(shell: Shell) -> None:
    line = f"generate --model pflm {FILES} {IDS} --max-new-tokens 8"
    assert shell.json(line)["tokens"] != shell.json(line + " --tau 0.1")["tokens"]


def test_eval_writes_what_it_measured(shell: Shell, tmp_path: Path) -> None:
    line = "eval FOLDER --text FOLDER/text.txt --windows 2 --samples 3 --seed 4 --dither 5"
    code, out, err = shell.run(
        f"{line} --json {tmp_path}/new/eval.json --card {tmp_path}/CARD.md --figures {tmp_path}/figures"
    )
    assert code == 0, err
    document = json.loads((tmp_path / "new" / "eval.json").read_text())
    assert len(document["agreement_by_slot"]) == 4
    assert {"agreement_block", "teacher_nll", "windows", "seed", "text", "slot_1", "samples"} <= set(document)
    assert document["seed"] == document["settings"]["seed"] == 4
    assert f"{document['teacher_nll']:.3f}" in out
    assert f"{document['teacher_nll']:.3f}" in (tmp_path / "CARD.md").read_text()
    names = ["AR", *(f"K = {k}" for k in range(1, 5)), "K = 4, penalty 0.5", "K = 4, dither 5 bits"]
    assert [row["decoder"] for row in document["samples"]] == names
    assert all(f"\n{name}  " in out for name in names)
    assert (tmp_path / "figures" / "evaluation.html").is_file()


def test_dither_is_passed_on(shell: Shell) -> None:
    line = f"generate --model pflm {FILES} {IDS} --noise-file FOLDER/noise.npy --max-new-tokens 8"
    config, networks = DecodeConfig("pflm", dither=4), Networks(student=load_pair(shell.folder).student)
    expected = generate(config, networks, [[3, 1, 4]] * 3, replayed_noise(STEPS, config, networks, 8), 8)
    assert shell.json(line + " --dither 4")["tokens"] == expected.tokens.tolist()
    assert shell.json(line)["tokens"] != expected.tokens.tolist()


def test_laws_of_a_toy(shell: Shell) -> None:
    result = shell.json("laws --toy noisy-xor --eps 0.1")
    assert result["tv_by_passes"] == {
        "1": {"best": 0.4, "worst": 0.4},
        "2": {"best": 0, "worst": 0},
        "3": {"best": 0, "worst": 0},
    }
    assert result["by_schedule"]["1+2"] == {"best": 0.4, "worst": 0.4}
    assert (result["paper_irreducible"], result["strongly_irreducible"]) == (True, False)
    assert result["strong_witness"] == "x1 and x2 are independent given nothing"
    code, out, err = shell.run("laws --toy permutation --eps 0.1 --json")
    assert (code, err) == (0, "kfexplore: permutation takes no eps; it is left out.\n")
    result = json.loads(out)
    assert result["tv_by_passes"] == {"1": {"best": 0.5, "worst": 0.5}, "2": {"best": 0, "worst": 0}}
    assert (result["paper_irreducible"], result["strongly_irreducible"]) == (True, True)
    assert shell.json("laws --toy correlation --rho 0.3")["tv_by_passes"]["1"]["best"] == 0.15
    result = shell.json("laws --toy chain --length 4 --eps 0.2")
    assert result["parameters"] == {"length": 4, "eps": 0.2}
    assert list(result["tv_by_passes"]) == ["1", "2", "3", "4"]


def test_laws_for_people_have_a_line_a_split(shell: Shell) -> None:
    code, out, _ = shell.run("laws --toy chain")
    assert code == 0
    assert "     2  1+2            0.0000   0.1440\n" in out
    assert out.count("no: x1 and x3 are independent given x2 = 0") == 2


def test_laws_of_a_context_are_those_of_its_study(shell: Shell) -> None:
    result = shell.json("laws --pair FOLDER --prompt 'The old owl' --blocks 200 --seed 3 --first 20")
    pair = load_pair(shell.folder)
    expected = study(pair, pair.encode("The old owl")[0], blocks=200, seed=3, first=20).as_json()
    assert result["pair"] == str(shell.folder)
    assert {key: result[key] for key in expected if key not in ("samplers", "seconds")} == {
        key: value for key, value in expected.items() if key not in ("samplers", "seconds")
    }
    assert {"mutual_information", "tv_product", "uncovered_mass"} <= set(result)
    assert [row["p_value"] for row in result["samplers"]] == [row["p_value"] for row in expected["samplers"]]
    code, out, _ = shell.run(f"laws --pair FOLDER {IDS} --k 3 --blocks 200")
    assert code == 0
    assert "total correlation of the next 3" in out
    assert "This pair has no masked model" in out


ERRORS = {
    f"map {FILES} {IDS} --noise 0.1,1.0": "outside [0, 1)",
    f"map {FILES} {IDS} --noise nan": "outside [0, 1)",
    f"map {FILES} {IDS} --noise 0.1,0.2,0.3,0.4,0.5": "5 noise values",
    f"map {FILES} {IDS} --noise a,b": "--noise 'a,b' is not a list of numbers",
    f"map {FILES} --token-ids 1,x --noise 0.1": "--token-ids '1,x' is not a list of whole numbers",
    f"map {FILES} --token-ids 1,9999 --noise 0.1": "9999 is not in the vocabulary",
    f"map {FILES} --token-ids 100000000000000000000 --noise 0.1": "whole numbers",
    f"map {FILES} --noise 0.1": "context is missing, or given twice",
    f"map {FILES} {IDS} --prompt a --noise 0.1": "context is missing, or given twice",
    f"map {FILES} --prompt a --noise 0.1": "no tokenizer",
    f"map --pair FOLDER {FILES} {IDS} --noise 0.1": "named in two ways",
    f"map --teacher FOLDER/teacher {IDS} --noise 0.1": "by half",
    f"map --pair talse {IDS} --noise 0.1": "did you mean tales",
    f"map --teacher FOLDER/none.ckpt --student FOLDER/student {IDS} --noise 0.1": "none.ckpt",
    f"map --teacher FOLDER/student --student FOLDER/teacher {IDS} --noise 0.1": "a teacher was asked for",
    f"map --teacher FOLDER/teacher --student FOLDER/other {IDS} --noise 0.1": "do not fit together",
    f"map {FILES} {IDS} --noise 0.1 --device nowhere": "device",
    f"generate --model xyz {FILES} {IDS}": "no model 'xyz'",
    f"generate --model pflm {FILES} {IDS} --k 0": "k is 0",
    f"generate --model pflm {FILES} {IDS} --k 5": "k is 5",
    f"generate --model ar {FILES} {IDS} --max-new-tokens 0": "0 new tokens",
    f"generate --model ar {FILES} {IDS} --max-new-tokens 78": "exceed the context",
    f"generate --model ar {FILES} {IDS} --seed -1": "seed is -1",
    f"generate --model ar {FILES} {IDS} --samples 0": "at least one sample",
    f"generate --model ar {FILES} --token-ids 1,9999": "not in the vocabulary",
    f"generate --model ar {FILES} --token-ids 100000000000000000000": "not in the vocabulary",
    f"generate --model ar {FILES} {IDS} --noise-file FOLDER/none.npy": "none.npy cannot be read",
    f"generate --model ar {FILES} {IDS} --noise-file FOLDER/text.txt": "text.txt cannot be read",
    f"generate --model ar {FILES} {IDS} --noise-file FOLDER/bad.npy": "outside [0, 1)",
    f"generate --model pflm {FILES} {IDS} --noise-file FOLDER/noise.npy --max-new-tokens 30": "ends after 6 steps",
    "generate --model ar --ckpt_path FOLDER/teacher --prompt a": "no tokenizer",
    f"generate --model pflm --ckpt_path FOLDER/teacher {IDS}": "a student was asked for",
    f"generate --model pflm {FILES} {IDS} --dither 6 --freq-penalty 0.5": "Both a penalty (0.5) and a dither (6)",
    f"generate --model pflm {FILES} {IDS} --dither 17": "dither is 17 bits",
    f"generate --model ar {FILES} {IDS} --dither 6": "dither means nothing to ar",
    "eval FOLDER --text FOLDER/none.txt": "no text in",
    "eval FOLDER --text FOLDER/text.txt --samples 1": "1 windows",
    "eval FOLDER --text FOLDER/text.txt --new-tokens 79": "exceed the context",
    "eval FOLDER --text FOLDER/text.txt --judge FOLDER/student": "cannot be loaded",
    "laws": "No law is named",
    "laws --toy xor": "no toy law 'xor'",
    "laws --toy noisy-xor --eps 1.5": "eps is 1.5",
    "laws --toy chain --eps nan": "eps is nan",
    "laws --toy permutation --length 7": "length is 7",
    "laws --toy chain --prompt a": "named in two ways",
    f"laws --pair FOLDER {IDS} --eps 0.2": "Only a toy law takes --eps",
    "laws --pair FOLDER": "context is missing, or given twice",
    f"laws --pair FOLDER {IDS} --k 5": "k is 5",
    f"laws --pair FOLDER {IDS} --first 0": "0 first tokens",
    f"laws --pair FOLDER {IDS} --blocks 1": "1 blocks",
    "laws --pair FOLDER --token-ids 9999": "9999 is not in the vocabulary",
    "bench scrub --size huge": "no size 'huge'",
    "bench train --recipe huge": "no recipe 'huge'",
    "train pair --recipe tales-cpo --out FOLDER/run": "did you mean tales-cpu",
    "train pair --recipe FOLDER/none.yaml --out FOLDER/run": "none.yaml cannot be read",
    "train pair --recipe tales-cpu --out FOLDER/run": "--text FOLDER",
    "train data --recipe tales-cpu --out FOLDER/run --text FOLDER/none": "no texts in",
    "train data --recipe tales-cpu --out FOLDER/run --text FOLDER": "1 texts to train on and 0 to keep back",
    "train data --recipe owt --out FOLDER/run --text FOLDER --dataset a/b": "two ways",
    "train teacher --recipe tales-cpu --out FOLDER/run": "kfexplore train data --recipe tales-cpu",
    "train teacher --recipe tales-cpu --out FOLDER/run --steps 0": "steps is 0",
    "train student --recipe tales-cpu --out FOLDER/run": "no tokens in",
    "train masked --recipe owt --out FOLDER/run": "has no masked model",
    "train books FOLDER/books --url http://127.0.0.1:1": "Book 11, Alice",
}


@pytest.mark.parametrize("line", ERRORS)
def test_user_error_is_one_message_and_exit_code_2(shell: Shell, line: str) -> None:
    code, out, err = shell.run(line)
    assert code == 2
    assert out == ""
    assert err.startswith("kfexplore: ")
    assert err.count("kfexplore: ") == 1
    assert ERRORS[line] in err
    assert "Traceback" not in err


@pytest.mark.parametrize("line", ["map", "map --noise 0.1 --nonsense 3", "fly", "generate --model ar --k many"])
def test_unknown_and_missing_options_exit_with_2(shell: Shell, line: str) -> None:
    code, _, err = shell.run(line)
    assert code == 2
    assert "Traceback" not in err


SMALL_RECIPE = """
about: Small.
data: {vocab_size: 260, held_out: [kept]}
width: 8
depth: 1
heads: 2
context: 8
cond_width: 4
teacher: &stage {steps: 900, batch: 2, context: 8, groups: 4}
students: [{<<: *stage, block: 1}, {<<: *stage, block: 2, targets: self}]
masked: *stage
"""


def test_train_leaves_a_pair_that_map_reads_stage_by_stage_or_at_once(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL_RECIPE)
    (tmp_path / "texts").mkdir()
    for name in ("kept", "owl"):
        (tmp_path / "texts" / f"{name}.txt").write_text(" ".join(SENTENCES))
    rest = f"--recipe {tmp_path}/small.yaml --out {tmp_path}"
    code, out, err = shell.run(f"train pair {rest}/once --text {tmp_path}/texts --steps 2")
    assert (code, out) == (0, f"{tmp_path}/once/pair\n"), err
    code, out, err = shell.run(f"train data {rest}/parts --text {tmp_path}/texts")
    assert code == 0, err
    assert "tokens to train on" in out
    for stage in ("teacher", "student", "masked", "pair"):
        code, _, err = shell.run(f"train {stage} {rest}/parts --steps 2")
        assert code == 0, err
    for part in ("teacher", "student", "masked"):
        first, second = (tmp_path / way / "pair" / part / "model.safetensors" for way in ("once", "parts"))
        assert first.read_bytes() == second.read_bytes()
    result = shell.json(f"map --pair {tmp_path}/once/pair --prompt owl --noise 0.1,0.7")
    assert len(result["student"]) == 2


def test_a_process_of_its_own_prints_no_traceback(folder: Path) -> None:
    line = [sys.executable, "-m", "kfexplore.cli", "map", "--pair", str(folder), "--token-ids", "1", "--noise", "7"]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("kfexplore: Noise value 7.0 is outside [0, 1).")
    assert "Traceback" not in ended.stderr


def test_no_launcher_takes_an_option_of_training_for_its_own() -> None:
    """torchrun reads a long option as any of its own that begins with it, and stops where that is not one."""
    launcher = [option for action in get_args_parser()._actions for option in action.option_strings]
    commands = cast(Any, get_command(cli.app)).commands["train"].commands.values()
    options = [option for command in commands for parameter in command.params for option in parameter.opts]
    assert "--recipe" in options
    assert not [(option, theirs) for option in options for theirs in launcher if theirs.startswith(option)]
