"""`kfexplore VERB` on small checkpoints: what it prints, and that a user's error is one message and exit code 2."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from helpers import save_gpt2
from shell import FILES, IDS, SENTENCES, Shell
from torch.distributed.run import get_args_parser
from typer.main import get_command

from kfexplore.cli import main as cli
from kfexplore.laws.study import finished, study_steps
from kfexplore.laws.toy import toy_law
from kfexplore.pair import Pair, load_pair


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_map_prints_both_blocks_of_two_files(shell: Shell, temperature: float) -> None:
    result = shell.json(f"map {FILES} {IDS} --noise 0.1,0.7,0.3 --temperature {temperature}")
    block = load_pair(shell.folder).block([[3, 1, 4]], [[0.1, 0.7, 0.3]], temperature=temperature)
    assert set(result) == {"student", "teacher", "margins", "edges"}  # no texts where there is no tokenizer
    for name in ("student", "teacher", "margins", "edges"):
        assert result[name] == getattr(block, name)[0].tolist()


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


@pytest.mark.parametrize(("encoding", "sign"), [("utf-8", "≠"), ("cp1252", "!"), ("ascii", "!")])
def test_a_sign_that_the_output_cannot_encode_ends_no_command(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, encoding: str, sign: str
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, write_through=True))
    monkeypatch.setattr(Pair, "texts", lambda _, ids: ["猫"] * len(ids))
    code, _, err = shell.run("map --pair FOLDER --prompt 'The old owl' --noise 0.1,0.7,0.3,0.9")
    assert code == 0, err
    lines = written.getvalue().decode(encoding).splitlines()[1:]
    assert sign in {line.split()[3] for line in lines}
    assert all(("猫" if encoding == "utf-8" else r"\u732b") in line for line in lines)


def test_a_prompt_in_another_encoding_is_not_blamed_on_the_tokenizer(shell: Shell) -> None:
    for line in ("map --noise 0.1", "generate --model ar"):
        told = shell.refused(f"{line} --pair FOLDER --prompt 'caf\udce9'")
        assert r"The text is not valid Unicode: character 4 is '\udce9'." in told
        assert "tokenizer" not in told


def test_map_of_a_teacher_alone_has_exact_tokens_alone(shell: Shell) -> None:
    line = f"--teacher FOLDER/teacher {IDS} --noise 0.1,0.7,0.3,0.2,0.9"
    result = shell.json(f"map {line}")
    assert set(result) == {"teacher", "edges"}
    assert result["teacher"][:3] == shell.json(f"map {FILES} {IDS} --noise 0.1,0.7,0.3")["teacher"]
    code, out, _ = shell.run(f"map {line}")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["slot", "1", "2", "3", "4", "5"]
    assert "learned" not in out


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as save_pretrained of transformers leaves it."""
    folder = tmp_path_factory.mktemp("gpt2")
    save_gpt2(folder, " ".join(SENTENCES * 20), 64)
    return folder


def test_a_model_of_transformers_is_asked_by_its_folder(shell: Shell, gpt2: Path) -> None:
    prompt = "--prompt 'The old owl'"
    of_pair = shell.json(f"map --pair {gpt2} {prompt} --noise 0.1,0.7")
    assert set(of_pair) == {"teacher", "edges", "teacher_text"}
    files = f"--teacher {gpt2} --tokenizer {gpt2}/tokenizer.json"
    assert shell.json(f"map {files} {prompt} --noise 0.1,0.7") == of_pair
    laws = shell.json(f"laws --pair {gpt2} {prompt} --blocks 200")
    assert [row["sampler"] for row in laws["samplers"]] == ["teacher", "ideal MDLM"]
    written = [
        shell.json(f"generate --model {model} --pair {gpt2} {prompt} --max-new-tokens 8")["tokens"]
        for model in ("ar", "jacobi --guess nothing")
    ]
    assert len(written[0][0]) == 8
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("eval GPT2 --text FOLDER/text.txt", "This pair has no student"),
        (f"generate --model pflm --pair GPT2 {IDS}", "pflm needs a student, but there is none.\nValid: ar"),
        (f"generate --model verified --pair GPT2 {IDS} --max-new-tokens 4", "verified needs a student"),
        (f"map --teacher GPT2 --student FOLDER/student {IDS} --noise 0.1", "do not fit together"),
        (f"map --pair GPT2 {IDS} --noise 0.1{',0.5' * 8}", "9 noise values"),
    ],
)
def test_what_needs_a_student_says_so(shell: Shell, gpt2: Path, line: str, told: str) -> None:
    assert told in shell.refused(line.replace("GPT2", str(gpt2)))


def test_long_prompt_is_cut_and_the_cut_is_reported(shell: Shell) -> None:
    code, out, err = shell.run(f"map --pair FOLDER --prompt '{' '.join(SENTENCES * 5)}' --noise 0.1 --json")
    assert code == 0
    assert "tokens of the prompt were cut" in err
    assert len(json.loads(out)["teacher"]) == 1


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


def test_laws_of_a_toy(shell: Shell) -> None:
    for line, law in (
        ("noisy-xor --eps 0.1", toy_law("noisy-xor", eps=0.1)),
        ("correlation --rho 0.3", toy_law("correlation", rho=0.3)),
        ("chain --length 4 --eps 0.2", toy_law("chain", length=4, eps=0.2)),
    ):
        assert shell.json(f"laws --toy {line}") == json.loads(json.dumps(law.as_json()))
    code, out, err = shell.run("laws --toy permutation --eps 0.1 --json")
    assert (code, err) == (0, "kfexplore: permutation takes no eps; it is ignored.\n")
    assert json.loads(out)["tv_by_passes"] == {"1": {"best": 0.5, "worst": 0.5}, "2": {"best": 0, "worst": 0}}


def test_laws_for_people_have_a_line_per_split(shell: Shell) -> None:
    code, out, _ = shell.run("laws --toy chain")
    assert code == 0
    assert "     2  1+2            0.0000   0.1440   0.0480\n" in out
    assert out.count("no: x1 and x3 are independent given x2 = 0") == 2
    code, out, _ = shell.run("laws --toy not-all-equal")
    assert code == 0
    assert "     2  2+1            0.1667   0.1667   0.0000\n" in out


def test_laws_of_a_context_are_those_of_its_study(shell: Shell) -> None:
    result = shell.json("laws --pair FOLDER --prompt 'The old owl' --blocks 200 --seed 3 --first 20")
    pair = load_pair(shell.folder)
    expected = finished(study_steps(pair, pair.encode("The old owl")[0], blocks=200, seed=3, first=20)).as_json()
    assert result["pair"] == str(shell.folder)
    assert {key: result[key] for key in expected if key not in ("samplers", "seconds")} == {
        key: value for key, value in expected.items() if key not in ("samplers", "seconds")
    }
    assert {"mutual_information", "tv_product", "uncovered_mass"} <= set(result)
    assert [row["p_value"] for row in result["samplers"]] == [row["p_value"] for row in expected["samplers"]]
    assert {row["blocks"] for row in shell.json(f"laws --pair FOLDER {IDS}")["samplers"]} == {1024}  # as of programs
    line = f"laws --pair FOLDER {IDS} --k 3 --blocks 200"
    code, out, _ = shell.run(line)
    assert code == 0
    assert "total correlation of the next 3" in out
    for tv in (row["tv"] for row in shell.json(line)["samplers"]):
        told = " 0.000  exact " if tv["kind"] == "exact" else f"≥ {tv['low']:.3f}  lower limit "
        assert told in out
    assert "This pair has no masked model" in out


def test_laws_take_a_temperature(shell: Shell) -> None:
    line, pair = f"laws --pair FOLDER {IDS} --blocks 200 --temperature 0.5", load_pair(shell.folder)
    result = shell.json(line)
    expected = finished(study_steps(pair, result["token_ids"], blocks=200, temperature=0.5)).as_json()
    assert (result["temperature"], result["entropy"]) == (0.5, expected["entropy"])
    assert [row["tv"] for row in result["samplers"]] == [row["tv"] for row in expected["samplers"]]
    code, out, _ = shell.run(line)
    assert code == 0
    assert "% uncovered, temperature 0.5\n" in out
    assert "trained at temperature 1 only" in out


ERRORS = {
    f"map {FILES} {IDS} --noise 0.1,1.0": "outside [0, 1)",
    f"map {FILES} {IDS} --noise 0.1 --temperature 0": "The temperature is 0.0",
    f"map {FILES} {IDS} --noise a,b": "--noise 'a,b' is not a list of numbers",
    f"map {FILES} --token-ids 1,x --noise 0.1": "--token-ids '1,x' is not a list of whole numbers",
    f"map {FILES} --noise 0.1": "The context is missing",
    f"map {FILES} {IDS} --prompt a --noise 0.1": "The context is given twice",
    f"map --pair FOLDER {FILES} {IDS} --noise 0.1": "given twice",
    f"map --student FOLDER/student {IDS} --noise 0.1": "has no teacher",
    f"map --pair talse {IDS} --noise 0.1": "did you mean tales",
    f"map {FILES} {IDS} --noise 0.1 --device tpu": "The device 'tpu' cannot be used.\nValid: cpu",
    "eval FOLDER --text FOLDER/none.txt": "no text in",
    "eval FOLDER --text FOLDER/text.txt --judge FOLDER/student": "cannot be loaded",
    "laws": "Neither a toy nor a context was given",
    "laws --toy noisy-xor --eps 1.5": "eps is 1.5",
    "laws --toy chain --prompt a": "Both a toy and a context were given",
    "laws --toy chain --temperature 0.5": "--temperature cannot be used with --toy",
    f"laws --pair FOLDER {IDS} --eps 0.2": "--eps can only be used with a toy",
    "bench scrub --size huge": "no size 'huge'",
    "bench train --recipe huge": "no recipe 'huge'",
    "bench train --recipe distil": "The recipe distil has the shape of the teacher that it is given",
    "export first-screen --pair FOLDER": "is not a bundled pair.\nValid: stories or tales",
    "train pair --recipe distil --teacher FOLDER/none --out FOLDER/run": "There is no pair",
    "train pair --recipe tales-cpo --out FOLDER/run": "did you mean tales-cpu",
    "train pair --recipe FOLDER/none.yaml --out FOLDER/run": "none.yaml cannot be read",
    "train pair --recipe tales-cpu --out FOLDER/run": "--text FOLDER",
    "train data --recipe tales-cpu --out FOLDER/run --text FOLDER": "0 texts to train on and 1 held-out texts",
    "train data --recipe tales-cpu --out FOLDER/run --text FOLDER --held-out 0": "held-out fraction is 0",
    "train corpus stories FOLDER/new --richness 11": "richness is 11",
    "train pair --recipe stories --out FOLDER/run --text FOLDER": "generates its own stories",
    "train corpus stories FOLDER/new --count 0": "number of stories is 0",
    "train data --recipe owt --out FOLDER/run --text FOLDER --dataset a/b": "Both --text and --dataset were given",
    "train teacher --recipe tales-cpu --out FOLDER/run": "kfexplore train data --recipe tales-cpu",
    "train masked --recipe owt --out FOLDER/run": "has no masked model",
    "train books FOLDER/books --url http://127.0.0.1:1": "Book 11, Alice",
}


@pytest.mark.parametrize("line", ERRORS)
def test_user_error_is_one_message_and_exit_code_2(shell: Shell, line: str) -> None:
    assert ERRORS[line] in shell.refused(line)


@pytest.mark.parametrize(
    "line", ["map", "map --noise 0.1 --nonsense 3", "fly", "generate --model ar --k many", "train corpus poems new"]
)
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


def test_the_package_runs_as_a_module_and_prints_no_traceback(folder: Path) -> None:
    line = [sys.executable, "-m", "kfexplore", "map", "--pair", str(folder), "--token-ids", "1", "--noise", "7"]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("kfexplore: Noise value 7.0 is outside [0, 1).")
    assert "Traceback" not in ended.stderr


def test_no_launcher_takes_an_option_of_ours_for_its_own() -> None:
    """torchrun reads a long option as any of its own that begins with it, and stops where that is not one."""
    launcher = [option for action in get_args_parser()._actions for option in action.option_strings]
    verbs = cast(Any, get_command(cli.app)).commands
    commands = [*verbs["train"].commands.values(), verbs["generate"]]
    options = [option for command in commands for parameter in command.params for option in parameter.opts]
    assert {"--recipe", "--devices"} <= set(options)
    assert not [(option, theirs) for option in options for theirs in launcher if theirs.startswith(option)]
