"""The recipe of the bundled pair: its sizes, its stages, and the run that goes through them."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from kfexplore.checkpoints.registry import load_model
from kfexplore.checkpoints.saving import WEIGHTS_FILE, save_model
from kfexplore.checkpoints.tokenizers import TOKENIZER_FILE
from kfexplore.config import ModelConfig, TrainConfig
from kfexplore.models import Student, Teacher
from kfexplore.training.data import prepare
from kfexplore.training.loop import fit, student_loss, teacher_loss

ModelT = TypeVar("ModelT", Teacher, Student)

HELD_OUT = ("00012", "00289", "07439")
"""Project Gutenberg numbers of the books that are kept back."""
SHAPE = ModelConfig("teacher", vocab_size=2049, width=192, depth=6, heads=6, mask_id=2048, context=256)
"""2,048 tokens and the mask; 3.5 M parameters."""
TEACHER = TrainConfig(steps=9000, batch=4, optimizer="muon", lr=5e-3, decay=0.4, save_every=60)
STUDENTS = (
    TrainConfig(steps=1300, batch=4, groups=256, block=1, optimizer="muon", lr=3e-3, decay=0.0),
    TrainConfig(steps=450, batch=4, groups=128, block=2, optimizer="muon", lr=3e-3, decay=0.0),
    TrainConfig(steps=1200, batch=4, groups=96, block=4, optimizer="muon", lr=3e-3, decay=0.5),
)
"""AR -> PFLM(1) -> PFLM(2) -> PFLM(4), each from the one before; targets are the teacher's own (exact)."""


def train_tales(corpus: Path, out: Path) -> None:
    """Runs every stage that is not finished yet: data, teacher, students; `out/pair` is what `load_pair` reads.

    Args:
        corpus: Folder of plain texts; those named in HELD_OUT are not trained on.
        out: Work folder; run again after a kill, it goes on where it stopped.
    """
    if not (out / "train.npy").exists():
        prepare(corpus, out, SHAPE.vocab_size - 1, HELD_OUT)
    tokens = np.load(out / "train.npy")
    torch.manual_seed(TEACHER.seed)
    teacher = _stage(Teacher(SHAPE), TEACHER, out / "teacher", partial(teacher_loss, tokens=tokens, config=TEACHER))
    previous: Teacher | Student = teacher
    for config in STUDENTS:
        torch.manual_seed(config.seed)
        student = Student(dataclasses.replace(SHAPE, kind="student", block=config.block))
        student.load_state_dict(previous.state_dict(), strict=isinstance(previous, Student))
        loss = partial(student_loss, teacher=teacher, tokens=tokens, config=config)
        previous = _stage(student, config, out / f"student{config.block}", loss)
    save_model(teacher, out / "pair" / "teacher", dtype=torch.bfloat16)
    save_model(previous, out / "pair" / "student", dtype=torch.bfloat16)
    shutil.copy(out / TOKENIZER_FILE, out / "pair")


def _stage(model: ModelT, config: TrainConfig, folder: Path, loss: Callable[..., Tensor]) -> ModelT:
    """A trained model: read from its folder where the stage is finished, trained and saved there where it is not."""
    if not (folder / WEIGHTS_FILE).exists():
        fit(model, lambda step: loss(model, step=step), config, folder)
        save_model(model, folder)
    model.load_state_dict(load_model(folder, kind=model.config.kind).state_dict())
    return model.requires_grad_(False)
