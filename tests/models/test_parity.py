"""Our models give what the published code gives on the same weights: logits to 1e-4 in fp32, tokens exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers import DATA, weights
from torch import Tensor

from kfexplore import load_model
from kfexplore.config import ModelConfig
from kfexplore.decoders import Kind
from kfexplore.maps import PrefilledContext
from kfexplore.models import MaskedModel, Model, Student, Teacher

Arrays = dict[str, np.ndarray]
TOLERANCE = 1e-4


def arrays(name: str) -> Arrays:
    with np.load(DATA / name, allow_pickle=False) as held:
        return dict(held)


def through_a_file(data: Arrays, kind: Kind, seed: int, folder: Path) -> Model:
    """The model as a user has it: from a checkpoint whose keys carry the published prefix."""
    shape = {"vocab_size": "V", "width": "H", "depth": "L", "heads": "nh"} | (
        {"cond_width": "C"} if "C" in data else {}
    )
    config = ModelConfig(kind=kind, mask_id=int(data["V"]) - 1, **{ours: int(data[key]) for ours, key in shape.items()})
    state = {"backbone." + name: tensor for name, tensor in weights(config, seed).items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / f"{kind}.ckpt")
    return load_model(folder / f"{kind}.ckpt")


@pytest.fixture(scope="module")
def data() -> Arrays:
    return arrays("parity.npz")


@pytest.fixture(scope="module")
def teacher(data: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return cast(Teacher, through_a_file(data, "teacher", int(data["seed"]), tmp_path_factory.mktemp("teacher")))


@pytest.fixture(scope="module")
def student(data: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Student:
    return cast(Student, through_a_file(data, "student", int(data["seed"]) + 1, tmp_path_factory.mktemp("student")))


def ids(values: Any) -> Tensor:
    return torch.from_numpy(np.asarray(values))


def assert_near(ours: Tensor, theirs: np.ndarray) -> None:
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=TOLERANCE)


def test_teacher_gives_the_published_distribution_after_the_context(teacher: Teacher, data: Arrays) -> None:
    ours, mask = teacher.log_probs(ids(data["ctx"]))[:, -1], int(data["V"]) - 1
    assert_near(ours[:, :mask], data["ar_logprob_last"][:, :mask])
    assert (ours[:, mask] < -900).all()


def test_exact_map_gives_the_published_tokens(teacher: Teacher, student: Student, data: Arrays) -> None:
    for context, u, expected in zip(data["ctx"], data["u"], data["teacher_tokens"], strict=True):
        tokens, _ = PrefilledContext(teacher, student, ids(context)).exact(u[None].astype(np.float64))
        assert tokens[0].tolist() == expected.tolist()


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_student_gives_the_published_block(student: Student, data: Arrays, k: int) -> None:
    logits = student.block_logits(ids(data["ctx"]), ids(data["u"][:, :k]))
    assert_near(logits, data[f"pflm_logits_k{k}"])
    assert torch.equal(logits.argmax(dim=-1), ids(data[f"pflm_tokens_k{k}"]))


def test_training_pass_gives_the_published_logits_at_all_positions(student: Student, data: Arrays) -> None:
    batch, length = data["ctx"].shape
    ends = torch.arange(1, length + 1).expand(batch, length)
    logits = student.group_logits(ids(data["ctx"]), ids(data["train_noise"][..., 0]), ends)
    assert_near(logits, data["train_logits"])


def test_masked_model_gives_the_published_marginals(tmp_path: Path) -> None:
    data = arrays("parity_mdlm.npz")
    masked = cast(MaskedModel, through_a_file(data, "masked", int(data["seed"]), tmp_path))
    ours, mask = masked.log_probs(ids(data["ids"])), int(data["V"]) - 1
    assert_near(ours[..., :mask], data["logprobs"][..., :mask])
    assert (ours[..., mask] < -1e5).all()
