"""The command line in this process, on a small pair."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import masked, student, teacher

from kfexplore import noise
from kfexplore.checkpoints.saving import save_model
from kfexplore.cli import main as cli
from kfexplore.training.data import train_tokenizer

SENTENCES = ["The owl went home.", "The old owl said: go home!", "Rain fell on the old house, and the rain went on."]
STEPS = noise.uniform(0, range(18), 0, 4).reshape(6, 3, 4)
FILES = "--teacher FOLDER/teacher/model.safetensors --student FOLDER/student/model.safetensors"
IDS = "--token-ids 3,1,4"


def write_pair(folder: Path) -> None:
    """A pair with a tokenizer, models apart from it, noise of six steps for three samples, and a text."""
    tokenizer = train_tokenizer(SENTENCES, 270)
    rows = tokenizer.get_vocab_size() + 1
    save_model(teacher(1, vocab_size=rows, context=80), folder / "teacher")
    save_model(student(11, vocab_size=rows, context=80), folder / "student")
    save_model(student(12, vocab_size=rows + 1), folder / "other")
    save_model(masked(13, vocab_size=rows, context=80), folder / "diffusion")
    tokenizer.save(str(folder / "tokenizer.json"))
    np.save(folder / "noise.npy", STEPS.astype(np.float32))
    np.save(folder / "complex.npy", STEPS.astype(np.complex64))
    (folder / "text.txt").write_text(" ".join(SENTENCES * 20), encoding="utf-8")


class Shell:
    """Runs the command line in this process; FOLDER in an argument stands for the pair's."""

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

    def refused(self, line: str) -> str:
        """The one message of a user's error."""
        code, out, err = self.run(line)
        assert (code, out) == (2, ""), err
        assert err.startswith("kfexplore: ")
        assert err.count("kfexplore: ") == 1
        assert "Traceback" not in err
        return err
