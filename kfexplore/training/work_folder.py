"""The folder of each stage: what its weights depend on, whether it is finished, and a lock for one run at a time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from filelock import FileLock, Timeout

from kfexplore import distributed
from kfexplore.checkpoints.files import CONFIG_FILE, WEIGHTS_FILE, read_json_object, write_whole
from kfexplore.config import ModelConfig, differences, from_dict
from kfexplore.errors import KfError, writing
from kfexplore.training.config import TrainConfig
from kfexplore.training.data import DataInfo
from kfexplore.training.loop import FREE, STATE_FILE

STAGE_FILE, LOCK_FILE = "stage.json", ".lock"


@dataclass(frozen=True)
class StageInfo:
    """stage.json: what the weights beside it depend on."""

    RENAMED: ClassVar = {"start": "init_from"}
    """Old name, still read from stage.json."""

    data: DataInfo
    """The tokens."""
    model: ModelConfig | None
    """The shape; None: that of the transformers model in `init_from`."""
    teacher: TrainConfig | None = None
    """Settings of the teacher, or for a student those of its teacher."""
    students: tuple[TrainConfig, ...] = ()
    """Settings of the students so far, this stage last."""
    masked: TrainConfig | None = None
    """Settings of the masked model."""
    init_from: str = ""
    """Fingerprint of the pair that training continued from; empty: the stages before."""


def finished(stage: Path) -> bool:
    """Whether the model of a stage is complete."""
    return (stage / WEIGHTS_FILE).exists() and (stage / CONFIG_FILE).exists()  # the config is written last


def claim(stage: Path, info: StageInfo, command: str) -> None:
    """Checks that a stage was not started with other settings, and records these in its folder.

    Raises:
        KfError: other settings or data; `command` trains the stage anew.
    """
    path = stage / STAGE_FILE
    done, started = finished(stage), any((stage / file).exists() for file in (STATE_FILE, WEIGHTS_FILE))
    if started:
        stored = from_dict(StageInfo, read_json_object(path, 1 << 24)) if path.exists() else None
        changed = differences(stored, info) if stored else {"": "there is no stage.json"}
        own = stage.name if not info.students else f"students.{len(info.students) - 1}"
        # Some settings may change when a run resumes; the interval between saved states never matters.
        free = {f"{own}.{key}" for key in FREE} if not done else set()
        differ = [text for key, text in changed.items() if key not in free and not key.endswith(".save_every")]
        if differ:
            raise KfError(
                f"{stage} holds a model from other settings or data: {'; '.join(differ)}.",
                "the settings it was trained with, or a new folder (--out)",
                f"remove {stage}, then: {command}",
            )
    if not done and distributed.rank() == 0:
        with writing(path):
            stage.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(dataclasses.asdict(info), indent=1) + "\n")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a work folder; the processes of one run share the lock of the first.

    Raises:
        KfError: another run is training in it.
    """
    if distributed.rank():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            yield
    except Timeout:
        raise KfError(
            f"Another run is training in {folder}.",
            "one run per work folder",
            "another --out, or the same command when that run has ended",
        ) from None
