"""A student over a transformers model: the teacher's network, read at noise slots, saved and loaded as any student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CAUSAL, distilled
from safetensors.torch import load_file, save_file
from torch import Tensor

from kfexplore.checkpoints.registry import load_model
from kfexplore.checkpoints.saving import save_model
from kfexplore.config import DecodeConfig
from kfexplore.decoding.generate import Networks, generate, reference
from kfexplore.decoding.readout import NearTie
from kfexplore.errors import KfError
from kfexplore.models import CausalLM, CausalStudent, KVCache
from kfexplore.pair import Pair, load_pair

SEEDED = torch.Generator().manual_seed(0)
IDS = torch.randint(0, 24, (3, 12), generator=SEEDED)
NOISE = torch.rand(3, 4, dtype=torch.float64, generator=SEEDED)
ENDS = torch.tensor([[12], [7], [3]])


@pytest.fixture(scope="module", params=[*CAUSAL, "tied llama"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family = request.param.split()[-1]
    changes = {"tie_word_embeddings": True} if request.param.startswith("tied") else {}
    return distilled(tmp_path_factory.mktemp("model"), family, **changes)


def test_logits_before_the_noise_are_the_teachers(pair: Pair) -> None:
    student = pair.need_student()
    before = student(IDS, NOISE, KVCache(), also=12)[:, :12]
    assert torch.allclose(before, pair.teacher(IDS), atol=2e-5)
    assert not torch.equal(student.block_logits(IDS, NOISE), student.block_logits(IDS, 1 - NOISE))


def test_a_group_is_the_block_after_its_prefix(pair: Pair) -> None:
    student = pair.need_student()
    groups = student.group_logits(IDS, NOISE[:, None], ENDS)[:, 0]
    rows = zip(IDS.split(1), NOISE.split(1), ENDS[:, 0].tolist(), strict=True)
    alone = torch.cat([student.block_logits(ids[:, :end], noise) for ids, noise, end in rows])
    assert torch.allclose(groups, alone, atol=5e-5)


def test_decoders_and_maps_agree_with_their_slow_twins(pair: Pair) -> None:
    networks, prompts = Networks(pair.teacher, pair.student), [[3, 1, 4], [2], [7, 7]]
    u = np.random.default_rng(2).random((3, 12))
    for config in (DecodeConfig("pflm"), DecodeConfig("verified")):
        assert np.array_equal(
            generate(config, networks, prompts, u, 12).tokens, reference(config, networks, prompts, u, 12)
        )
    block = pair.block(IDS[:, :5], NOISE)
    assert np.array_equal(block.learned, pair.need_student().block_logits(IDS[:, :5], NOISE).argmax(dim=-1))


@pytest.mark.parametrize("decoder", ["ar", "pflm", "verified", "jacobi"])
def test_every_decoder_fills_the_context_to_its_end(pair: Pair, decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, networks = DecodeConfig(decoder), Networks(pair.teacher, pair.student)
    prompts, u = [IDS[0].tolist() * 3, [2] * 37, [7] * 39], np.random.default_rng(2).random((3, 12))
    expected = reference(config, networks, prompts, u, 9)  # 48 tokens in all; the last block of 4 has room for 1
    assert np.array_equal(generate(config, networks, prompts, u, 9).tokens, expected)
    monkeypatch.setattr("kfexplore.decoding.readout.DECODING", NearTie(1.0, 1e3))
    assert np.array_equal(generate(config, networks, prompts, u, 9).tokens, expected)  # every token decided twice


def test_a_pair_is_saved_pushed_and_loaded_as_any(pair: Pair, tmp_path: Path) -> None:
    pair.save_pretrained(tmp_path / "pair")
    again = load_pair(tmp_path / "pair")
    assert isinstance(again.teacher, CausalLM)
    assert isinstance(again.student, CausalStudent)
    assert (again.teacher.config, again.student.config) == (pair.teacher.config, pair.need_student().config)
    for ours, theirs in ((pair.teacher, again.teacher), (pair.need_student(), again.student)):
        expected = ours.state_dict()
        assert all(torch.equal(weight, expected[name]) for name, weight in theirs.state_dict().items())
    tied = pair.teacher.config.settings["tie_word_embeddings"]
    heads = [name for name in load_file(tmp_path / "pair" / "student" / "model.safetensors") if "lm_head" in name]
    assert len(heads) == (not tied)
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "pair" / "teacher", attn_implementation="eager").eval()
    assert torch.allclose(theirs(IDS).logits, pair.teacher(IDS), atol=2e-4)


def test_a_tied_head_stays_the_embedding_in_training(tmp_path: Path) -> None:
    pair = distilled(tmp_path, tie_word_embeddings=True)
    network = CausalStudent.after(pair.teacher, 2).network  # type: ignore[arg-type]
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight


def edited(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"block": 0}, "block is 0"),
        ({"block": 65}, "block is 65"),
        ({"block": "4"}, "does not describe a student"),
        ({"kind": "teacher"}, "does not describe a student"),
        ({"auto_map": {"AutoModel": "evil.Evil"}}, "does not describe a student"),
        ({"network": []}, "does not describe a student"),
        ({"network": {"model_type": "evil"}}, "of the type 'evil'"),
        ({"network": {"model_type": "llama", "auto_map": {"AutoModel": "evil.Evil"}}}, "code of its own"),
        ({"network": {"model_type": "llama", "hidden_size": 64}}, "of wrong shape|missing"),
    ],
)
def test_a_students_config_is_strict(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    pair = distilled(tmp_path / "teacher")
    folder = edited(save_model(pair.need_student(), tmp_path / "student"), **changes)
    with pytest.raises(KfError, match=says):
        load_model(folder, kind="student")


@pytest.mark.parametrize("change", ["missing", "more", "nan"])
def test_a_students_weights_are_checked(tmp_path: Path, change: str) -> None:
    pair = distilled(tmp_path / "teacher")
    folder = save_model(pair.need_student(), tmp_path / "student")
    file = folder / "model.safetensors"
    weights: dict[str, Tensor] = load_file(file)
    if change == "missing":
        del weights["noise_encoder.norm.bias"]
    elif change == "more":
        weights["network.more"] = torch.ones(1)
    else:
        weights["noise_encoder.norm.bias"][0] = torch.nan
    save_file(weights, file)
    with pytest.raises(KfError, match={"missing": "missing", "more": "unexpected", "nan": "not finite"}[change]):
        load_model(folder)


def test_a_student_of_another_teacher_is_refused(tmp_path: Path) -> None:
    pair = distilled(tmp_path / "one")
    pair.save_pretrained(tmp_path / "pair")
    file = tmp_path / "pair" / "teacher" / "model.safetensors"
    save_file({name: weight * 1.5 for name, weight in load_file(file).items()}, file)
    with pytest.raises(KfError, match="distilled from another teacher"):
        load_pair(tmp_path / "pair")
    with pytest.raises(KfError, match=r"is a student \(push-forward\) checkpoint, not a teacher"):
        load_model(tmp_path / "pair" / "student", kind="teacher")
