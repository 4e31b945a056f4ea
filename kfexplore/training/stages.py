"""A recipe in its work folder: each stage is trained once, after the stages that it builds on.

data/                       tokenizer.json, train.npy, held_out.npy, data.json
teacher/, student1/, ..     model.safetensors, config.json, stage.json, and the loop's state.pt and losses.jsonl
masked/
pair/                       what `load_pair` reads
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from filelock import FileLock, Timeout

from kfexplore import distributed
from kfexplore.checkpoints.files import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    TRAINING_FILE,
    WEIGHTS_FILE,
    read_json_object,
    write_whole,
)
from kfexplore.checkpoints.registry import PairParts, fingerprint, load_model, pair_parts, usable_device
from kfexplore.checkpoints.saving import save_model
from kfexplore.config import ModelConfig, differences, from_dict
from kfexplore.decoders import Kind
from kfexplore.errors import KfError, writing
from kfexplore.models import Model, begin_from, build
from kfexplore.training import losses
from kfexplore.training.config import Recipe, TrainConfig
from kfexplore.training.data import INFO, DataInfo, document_starts, load_tokens, prepare, read_info
from kfexplore.training.loop import FREE, STATE_FILE, fit, read_curve
from kfexplore.training.stories import stories

STAGE_FILE, LOCK_FILE = "stage.json", ".lock"


@dataclass(frozen=True)
class StageInfo:
    """stage.json: what the weights beside it depend on."""

    RENAMED: ClassVar = {"start": "init_from"}
    """Old name, still read from stage.json."""

    data: DataInfo
    """The tokens."""
    model: ModelConfig
    """The shape."""
    teacher: TrainConfig | None = None
    """Settings of the teacher, or of the teacher that a student learns from."""
    students: tuple[TrainConfig, ...] = ()
    """Settings of the students so far, this stage last."""
    masked: TrainConfig | None = None
    """Settings of the masked model."""
    init_from: str = ""
    """Fingerprint of the pair that training continued from; empty: the stages before."""


@dataclass(frozen=True)
class Run:
    """A recipe in a work folder. Every method resumes where an earlier call stopped, also after a kill.

    Several processes may train together (`distributed.py`), once one of them has prepared the tokens.
    """

    recipe: Recipe
    folder: Path
    device: str | None = None
    """None: the CPU."""
    init_from: str | Path | None = None
    """A pair, by name or folder, to continue training from: its teacher stays, the last student stage starts from its
    student (the earlier stages are skipped), and the masked stage from its masked model."""

    @property
    def _initial(self) -> PairParts | None:
        """The pair that training continues from."""
        return None if self.init_from is None else pair_parts(self.init_from)

    def prepare(self, text: Path | None = None, dataset: str | None = None) -> DataInfo:
        """Prepares the tokens, from a folder of texts or a hub dataset (by default the recipe's).

        The tokenizer of `init_from` is kept.

        Raises:
            KfError: as `data.prepare`; or both are given.
        """
        if text is not None and dataset is not None:
            raise KfError("Both --text and --dataset were given.", "one of the two")
        data = self.recipe.data if dataset is None else dataclasses.replace(self.recipe.data, dataset=dataset)
        if (initial := self._initial) and isinstance(initial.tokenizer, Path):
            data = dataclasses.replace(data, vocab_size=0, tokenizer=str(initial.tokenizer.parent))
        with self._lock():
            return prepare(data, self.folder / "data", max(s.context for s in self.recipe.stages().values()) + 1, text)

    def teacher(self) -> Model:
        """Trains the teacher, or reads it where it is finished.

        Raises:
            KfError: no data yet, or data or a teacher from other settings.
        """
        config = self.recipe.teacher
        if self.init_from is not None:
            return self._initial_model("teacher")
        return self._train("teacher", config, StageInfo(self._data(), self._shape("teacher"), config))

    def students(self) -> Model:
        """Trains all students in their order; returns the last one.

        Raises:
            KfError: no teacher yet, or a stage from other settings.
        """
        data, origin, stages = self._data(), self._origin(), self.recipe.students
        self._need("teacher")
        teacher = self.teacher()
        before = teacher if self.init_from is None else self._initial_model("student")
        first = 0 if self.init_from is None else len(stages) - 1
        if first and stages[first].targets == "self":
            raise KfError(
                "Self-forcing needs the student of half the block, which a trained pair no longer has.",
                "targets exact in the last stage of the recipe",
            )
        for n, config in list(enumerate(stages))[first:]:
            shape, frozen = self._shape("student", config.block), before if config.targets == "self" else None
            info = StageInfo(data, shape, self.recipe.teacher, stages[: n + 1], init_from=origin)
            before = self._train(f"student{config.block}", config, info, before, teacher=teacher, frozen=frozen)
        return before

    def masked(self) -> Model:
        """Trains the masked diffusion model, starting from the teacher's weights.

        Raises:
            KfError: the recipe has none, no teacher yet, or a stage from other settings.
        """
        config = self.recipe.masked
        if config is None:
            raise KfError(f"The recipe {self.recipe.name} has no masked model.", "a recipe with a stage masked")
        self._need("teacher")
        shape, initial = self._shape("masked"), self._initial
        info = StageInfo(self._data(), shape, self.recipe.teacher, masked=config, init_from=self._origin())
        before = self._initial_model("masked") if initial and initial.masked else self.teacher()
        return self._train("masked", config, info, before)

    def pair(self, text: Path | None = None, dataset: str | None = None) -> Path:
        """Runs all stages that are not finished and writes the pair; without prepared data, texts are needed.

        Raises:
            KfError: as the other methods.
        """
        missing = not (self.folder / "data" / INFO).exists()
        if missing and distributed.count() > 1:
            raise KfError(
                "Several processes cannot prepare the tokens.", "prepared tokens", self._command("data") + " --text .."
            )
        if distributed.count() == 1 and (text is not None or dataset is not None or missing):
            self.prepare(text, dataset)
        parts = {"teacher": self.teacher(), "student": self.students()}
        if self.recipe.masked is not None:
            parts["masked"] = self.masked()
        elif (initial := self._initial) and initial.masked:
            parts["masked"] = self._initial_model("masked")
        out = self.folder / "pair"
        if distributed.rank() > 0:
            return out
        for name, model in parts.items():
            save_model(model, out / name, dtype=torch.bfloat16)
        source = self.folder / "data" / TOKENIZER_FILE
        _write(out / TOKENIZER_FILE, lambda path: shutil.copyfile(source, path))
        facts = json.dumps(self.facts(), indent=1) + "\n"
        _write(out / TRAINING_FILE, facts)
        return out

    def facts(self) -> dict[str, Any]:
        """How the pair was trained, for its model card: one line per stage, after those of `init_from`."""
        initial = self._initial
        before = dict(initial.info.get("training", {})) if initial else {}
        data = self._data()
        found = {"recipe": self.recipe.name, "corpus": f"{data.tokens:,} tokens"}
        if (made := data.settings.stories) is not None:
            nats = sum(story.nats for story in stories(made.held_out, made.seed + 1, made.richness))
            found["corpus"] += (
                f" from {made.count:,} generated stories (richness {made.richness:g}); the grammar's choices have an"
                f" entropy of {nats / data.held_out_tokens:.3f} nats per token, an upper bound on the language's"
            )
        for name, stage in self.recipe.stages().items():
            if not _finished(self.folder / name):
                continue  # its weights are those of `init_from`
            what = f"{stage.steps:,} steps of {stage.batch} x {stage.context} tokens"
            if name.startswith("student"):
                what += f", {stage.groups * stage.noises} noise vectors per context, targets {stage.targets}"
            curve = read_curve(self.folder / name)
            end = f", loss at the end of training {curve[-1]['loss']:.3f} nats" if curve else ""
            found[name] = f"{what}, {stage.optimizer}, {stage.precision}{end}"
            if stage.wise_ft_alpha:
                found[name] += f"; weights interpolated with {stage.wise_ft_alpha:.0%} of the initial ones"
        both = {name: f"{before[name]}; then {what}" for name, what in found.items() if name in before}
        known = before | found | both
        if self.recipe.students and _finished(self.folder / f"student{self.recipe.students[-1].block}"):
            known["student_temperatures"] = [self.recipe.students[-1].tau_min, self.recipe.students[-1].tau_max]
        return known

    def curves(self) -> dict[str, list[dict[str, float]]]:
        """The loss of every stage so far, as points of `step`, `loss` and `tokens_per_second`.

        Raises:
            KfError: no stage has a point yet.
        """
        found = {name: read_curve(self.folder / name) for name in self.recipe.stages()}
        if not any(found.values()):
            raise KfError(f"No stage in {self.folder} has a curve yet.", f"one of {', '.join(found)} in training")
        return found

    def _initial_model(self, role: Kind) -> Model:
        """A model of the pair that training continues from."""
        initial = self._initial
        assert initial is not None
        prepared, original = self.folder / "data" / TOKENIZER_FILE, initial.tokenizer
        if not isinstance(original, Path) or json.loads(original.read_bytes()) != json.loads(prepared.read_bytes()):
            raise KfError(
                f"The tokens in {prepared.parent} are from another tokenizer than that of {self.init_from}.",
                "tokens made with the pair's own tokenizer, in a new folder",
                self._command("data") + f" --init-from {self.init_from} --text FOLDER",
            )
        model = load_model(getattr(initial, role), device=self._place(), kind=role)
        theirs, ours = model.config, self._shape(role)
        if (theirs.width, theirs.heads) != (ours.width, ours.heads) or theirs.depth > ours.depth:
            raise KfError(
                f"The {role} of {self.init_from} has width {theirs.width}, depth {theirs.depth} and {theirs.heads}"
                f" heads; the recipe {self.recipe.name} has {ours.width}, {ours.depth} and {ours.heads}.",
                "the same width and heads, and at most the recipe's depth",
            )
        return model

    def _origin(self) -> str:
        return fingerprint(initial) if (initial := self._initial) else ""

    def _place(self) -> torch.device:
        return usable_device(distributed.device(self.device))

    def _train(
        self, name: str, config: TrainConfig, info: StageInfo, before: Model | None = None, **given: Any
    ) -> Model:
        """The model of a stage: loaded if the stage is finished; else trained, saved and loaded.

        It is saved as it will be published, in bf16, so that later stages (above all the student's targets) build on
        exactly those weights.
        """
        folder, device = self.folder / name, self._place()
        self._claim(name, info)
        if not _finished(folder):
            model = _fresh(info.model, config.seed, before).to(device)
            tokens = load_tokens(self.folder / "data")
            given["starts"] = document_starts(self.folder / "data", tokens)
            # A seed for every stage and initial pair, so that none sees the noise of another.
            drawn = dataclasses.replace(config, seed=zlib.crc32(f"{config.seed} {name} {info.init_from}".encode()))
            with self._lock():
                loss = getattr(losses, f"{info.model.kind}_loss")
                of_batch = partial(loss, model, tokens=tokens, config=drawn, **given)
                fit(model, lambda step, rows: of_batch(step=step, rows=rows), config, folder)
            if distributed.rank() == 0:
                save_model(model, folder, dtype=torch.bfloat16)
            distributed.wait()
        return load_model(folder, device=device, kind=info.model.kind)

    def _claim(self, name: str, info: StageInfo) -> None:
        """Refuses a stage that was started with other settings; else records the settings."""
        folder = self.folder / name
        path = folder / STAGE_FILE
        finished, started = _finished(folder), any((folder / f).exists() for f in (STATE_FILE, WEIGHTS_FILE))
        if started:
            stored = from_dict(StageInfo, read_json_object(path, 1 << 24)) if path.exists() else None
            changed = differences(stored, info) if stored else {"": "there is no stage.json"}
            own = name if not info.students else f"students.{len(info.students) - 1}"
            # The loop lets a started run change some settings; how often it was saved never matters.
            free = {f"{own}.{key}" for key in FREE} if not finished else set()
            differ = [text for key, text in changed.items() if key not in free and not key.endswith(".save_every")]
            if differ:
                raise KfError(
                    f"{folder} holds a model from other settings or data: {'; '.join(differ)}.",
                    "the settings it was trained with, or a new folder (--out)",
                    f"remove {folder}, then: {self._command(name)}",
                )
        if not finished and distributed.rank() == 0:
            _write(path, json.dumps(dataclasses.asdict(info), indent=1) + "\n")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Keeps other runs out of the work folder; the processes of one run share the lock of the first."""
        if distributed.rank():
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / LOCK_FILE, timeout=0):
                yield
        except Timeout:
            raise KfError(
                f"Another run is training in {self.folder}.",
                "one run per work folder",
                "another --out, or the same command when that run has ended",
            ) from None

    def _data(self) -> DataInfo:
        folder = self.folder / "data"
        if not (folder / INFO).exists():
            source = "" if self.recipe.data.dataset else " --text FOLDER"
            raise KfError(f"There are no tokens in {folder} yet.", "a prepared folder", self._command("data") + source)
        # `init_from` requires its own tokenizer (`_initial_model`), however the tokens were made.
        return read_info(folder, self.recipe.data if self.init_from is None else None)

    def _shape(self, kind: Kind, block: int = 0) -> ModelConfig:
        data = self._data()
        return self.recipe.shape(kind, data.vocab_size, data.mask_id, block)

    def _need(self, name: str) -> None:
        if self.init_from is None and not _finished(self.folder / name):
            raise KfError(f"The {name} in {self.folder} is not trained yet.", f"a finished {name}", self._command(name))

    def _command(self, stage: str) -> str:
        verb = "student" if stage.startswith("student") else stage
        return f"kfexplore train {verb} --recipe {shlex.quote(self.recipe.name)} --out {shlex.quote(str(self.folder))}"


def _fresh(shape: ModelConfig, seed: int, before: Model | None) -> Model:
    """A model with weights drawn by the seed, then copied from the stage before where both have them."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = build(shape)
    if before is not None:
        begin_from(model, before)
    return model


def _finished(folder: Path) -> bool:
    return (folder / WEIGHTS_FILE).exists() and (folder / CONFIG_FILE).exists()  # the config is written last


def _write(path: Path, content: str | Callable[[Path], object]) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
