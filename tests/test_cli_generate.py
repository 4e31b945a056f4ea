"""`kfexplore generate` of one prompt, by every decoder, on a small pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shell import FILES, IDS, STEPS, Shell
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from kfexplore.checkpoints.registry import load_model
from kfexplore.config import DecodeConfig
from kfexplore.decoding.generate import Networks, generate, keyed_noise, keyed_order, replayed_noise
from kfexplore.pair import load_pair

PROMPT = "generate --pair FOLDER --prompt 'The old owl' --max-new-tokens 12"
MASKED = "generate --model mdlm --ckpt_path FOLDER/diffusion --tokenizer FOLDER/tokenizer.json"


@pytest.mark.parametrize(("model", "k"), [("ar", 1), ("pflm", 4), ("pflm", 2)])
def test_generate_replays_the_noise_of_a_file(shell: Shell, model: str, k: int) -> None:
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


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ("--tau 0.1", DecodeConfig("pflm", temperature=0.1)),
        ("--dither 4", DecodeConfig("pflm", dither=4)),
        ("--exact-first", DecodeConfig("pflm", exact_first=True)),
        ("--freq-penalty 1000", DecodeConfig("pflm", frequency_penalty=1000.0)),
    ],
)
def test_options_are_passed_on(shell: Shell, options: str, config: DecodeConfig) -> None:
    line = f"generate --model pflm {FILES} {IDS} --noise-file FOLDER/noise.npy --max-new-tokens 8"
    networks = Networks(student=load_pair(shell.folder).student)
    expected = generate(config, networks, [[3, 1, 4]] * 3, replayed_noise(STEPS, config, networks, 8), 8)
    assert shell.json(f"{line} {options}")["tokens"] == expected.tokens.tolist()
    assert shell.json(line)["tokens"] != expected.tokens.tolist()


@pytest.mark.parametrize("model", ["verified", "jacobi"])
def test_lossless_decoders_write_what_ar_writes_and_tell_what_they_kept(shell: Shell, model: str) -> None:
    exact, lossless = (
        shell.json(f"{PROMPT} --model ar --samples 2"),
        shell.json(f"{PROMPT} --model {model} --samples 2"),
    )
    assert lossless["tokens"] == exact["tokens"]
    assert lossless["text"] == exact["text"]
    assert set(lossless) == {"tokens", "text", "nfe", "seconds", "kept", "acceptance"}
    assert np.array(lossless["kept"]).sum(axis=0).tolist() == [12, 12]
    assert 0 <= lossless["acceptance"] < 1


@pytest.mark.parametrize("order", ["random", "confident"])
def test_the_order_of_mdlm_is_passed_on(shell: Shell, order: Any) -> None:
    result = shell.json(f"{MASKED} {IDS} --max-new-tokens 12 --k 2 --order {order} --seed 3")
    network = load_model(shell.folder / "diffusion", kind="masked")
    config, networks = DecodeConfig("mdlm", 2, order=order), Networks(masked=network)
    noise = keyed_noise(3, range(1), config, networks, 12)
    expected = generate(config, networks, [[3, 1, 4]], noise, 12, keyed_order(3, range(1), 12))
    assert result["tokens"] == expected.tokens.tolist()
    assert set(result) == {"tokens", "text", "nfe", "seconds"}
    assert result["nfe"] == 6


def test_stop_at_eos_cuts_each_row_behind_its_end(shell: Shell) -> None:
    line = f"generate --pair FOLDER --model ar {IDS} --samples 12 --max-new-tokens 70"
    whole, cut = shell.json(line), shell.json(line + " --stop-at-eos")
    end = load_pair(shell.folder).tokenizer.get_vocab()["<|endoftext|>"]
    expected = [row[: row.index(end) + 1] if end in row else row for row in whole["tokens"]]
    assert [len(row) for row in whole["tokens"]] == [70] * 12
    assert cut["tokens"] == expected != whole["tokens"]
    ended = next(text for text, row in zip(cut["text"], cut["tokens"], strict=True) if len(row) < 70)
    assert ended.endswith("<|endoftext|>")


def test_the_space_that_begins_a_completion_is_kept(shell: Shell, tmp_path: Path) -> None:
    """Decoders of the sentence-piece family drop the space that begins a text, which this is not."""
    pair = load_pair(shell.folder)
    made = Tokenizer(models.WordLevel({f"▁{n}": n for n in range(pair.teacher.config.vocab_size)}, "▁0"))
    made.decoder = decoders.Metaspace()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.save(str(tmp_path / "tokenizer.json"))
    line = f"generate --model ar {FILES} --tokenizer {tmp_path}/tokenizer.json --max-new-tokens 3"
    result = shell.json(f"{line} --prompt '3 1 4'")
    assert result["text"] == ["".join(f" {token}" for token in result["tokens"][0])]
    (tmp_path / "prefixes.jsonl").write_text('{"prefix": "3 1 4"}')
    code, _, err = shell.run(f"{line} --prefix_file {tmp_path}/prefixes.jsonl --output_dir {tmp_path}")
    assert code == 0, err
    written = json.loads((tmp_path / "samples.jsonl").read_text())
    assert written == {"prefix": "3 1 4", "completion": result["text"][0]}


def test_people_see_the_tokens_per_pass(shell: Shell) -> None:
    code, _, err = shell.run(f"generate --model pflm --pair FOLDER {IDS} --max-new-tokens 8 --k 4")
    assert code == 0
    assert err.startswith("[2 passes, 4.00 tokens per pass, ")


ERRORS = {
    f"generate --model xyz {FILES} {IDS}": "no model 'xyz'",
    f"generate --model pflm {FILES} {IDS} --k 0": "k is 0",
    f"generate --model ar {FILES} {IDS} --max-new-tokens 78": "exceed the context",
    f"generate --model ar {FILES} {IDS} --samples 0": "--samples is 0.\nValid: at least 1",
    f"generate --model ar {FILES} {IDS} --noise-file FOLDER/none.npy": "none.npy cannot be read",
    f"generate --model pflm {FILES} {IDS} --noise-file FOLDER/noise.npy --max-new-tokens 30": "ends after 6 steps",
    f"generate --model ar {FILES} {IDS} --noise-file FOLDER/complex.npy": "values of type complex64",
    f"generate --model ar {FILES} {IDS} --samples 100000000": "100,000,000 samples do not fit in memory",
    "generate --model ar --ckpt_path FOLDER/teacher --prompt a": "no tokenizer",
    f"generate --model pflm --ckpt_path FOLDER/teacher {IDS}": "not a student",
    f"generate --model pflm {FILES} {IDS} --dither 6 --freq-penalty 0.5": "(0.5) cannot be used with a dither (6)",
    f"generate --model ar {FILES} {IDS} --dither 6": "dither cannot be used with ar",
    f"generate --model verified --ckpt_path FOLDER/teacher {IDS}": "needs a teacher and a student",
    f"generate --model jacobi --ckpt_path FOLDER/teacher {IDS}": "--guess nothing",
    f"generate --model ar --pair FOLDER --ckpt_path FOLDER/teacher {IDS}": "given twice",
    f"generate --model mdlm --pair FOLDER {IDS}": "mdlm needs a masked model",
    f"generate --model ar {FILES} {IDS} --stop-at-eos": "no tokenizer with an end-of-text token",
    f"generate --model ar {FILES} {IDS} --batch_size 4": "--batch_size cannot be used with one prompt",
    f"generate --model mdlm --ckpt_path FOLDER/diffusion {IDS} --mdlm_greedy": "--mdlm_greedy cannot be used",
}


@pytest.mark.parametrize("line", ERRORS)
def test_user_error_is_one_message_and_exit_code_2(shell: Shell, line: str) -> None:
    assert ERRORS[line] in shell.refused(line)
