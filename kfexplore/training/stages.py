"""A recipe in its work folder: each stage is trained once, after the stages it builds on.

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
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from kfexplore import distributed
from kfexplore.checkpoints.files import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    TRAINING_FILE,
    WEIGHTS_FILE,
    read_json_object,
    write_whole,
)
from kfexplore.checkpoints.registry import fingerprint, load_model, pair_parts, usable_device
from kfexplore.checkpoints.saving import save_model
from kfexplore.config import ModelConfig, Recipe, TrainConfig, differences, from_dict
from kfexplore.decoders import Kind
from kfexplore.errors import KfError
from kfexplore.models import Model, begin_from, build
from kfexplore.training import losses
from kfexplore.training.data import INFO, DataInfo, Tokens, document_starts, load_tokens, prepare, read_info
from kfexplore.training.loop import FREE, STATE_FILE, fit, read_curve
from kfexplore.training.stories import stories

STAGE_FILE, LOCK_FILE = "stage.json", ".lock"


@dataclass(frozen=True)
class StageInfo:
    """stage.json: what the weights beside it depend on."""

    data: DataInfo
    """The tokens."""
    model: ModelConfig
    """The shape."""
    teacher: TrainConfig | None = None
    """Settings of the teacher: its own, or of the one that a student learns from."""
    students: tuple[TrainConfig, ...] = ()
    """Settings of the students so far, the stage's own last."""
    masked: TrainConfig | None = None
    """Settings of the masked model."""
    start: str = ""
    """Fingerprint of the weights that were trained further; empty: the stages before."""


@dataclass(frozen=True)
class Run:
    """A recipe in a work folder. Every method goes on where an earlier call stopped, also after a kill.

    Many processes may train together (`distributed.py`), once one of them has prepared the tokens.
    """

    recipe: Recipe
    folder: Path
    device: str | None = None
    """None: the CPU."""
    start: str | Path | None = None
    """A pair, by name or folder, that is trained further: its teacher stays, its student is where the last of the
    student stages begins (the earlier ones are left out), its masked model where that stage begins."""

    def prepare(self, text: Path | None = None, dataset: str | None = None) -> DataInfo:
        """Prepares the tokens, from a folder of texts or a hub dataset (by default the recipe's).

        A pair that is trained further keeps its tokenizer.

        Raises:
            KfError: as `data.prepare`; or both are given.
        """
        if text is not None and dataset is not None:
            raise KfError("The texts are named in two ways.", "--text FOLDER or --dataset NAME")
        data = self.recipe.data if dataset is None else dataclasses.replace(self.recipe.data, dataset=dataset)
        if self.start is not None and isinstance(theirs := pair_parts(self.start).tokenizer, Path):
            data = dataclasses.replace(data, vocab_size=0, tokenizer=str(theirs.parent))
        with self._lock():
            return prepare(data, self.folder / "data", max(s.context for s in self.recipe.stages().values()) + 1, text)

    def teacher(self) -> Model:
        """Trains the teacher, or reads it where it is finished.

        Raises:
            KfError: no data yet, data of other settings, or a teacher of other settings.
        """
        config = self.recipe.teacher
        if self.start is not None:
            return self._further("teacher")
        return self._train("teacher", config, StageInfo(self._data(), self._shape("teacher"), config))

    def students(self) -> Model:
        """Trains all students in their order; the last one.

        Raises:
            KfError: no teacher yet, or a stage of other settings.
        """
        info = StageInfo(self._data(), self._shape("teacher"), self.recipe.teacher, start=self._origin())
        self._need("teacher")
        teacher = self.teacher()
        before = teacher if self.start is None else self._further("student")
        first = 0 if self.start is None else len(self.recipe.students) - 1
        if first and self.recipe.students[first].targets == "self":
            raise KfError(
                "Self-forcing needs the student of half the block, which a pair that is trained further no longer has.",
                "targets exact in the last stage of the recipe",
            )
        for n, config in list(enumerate(self.recipe.students))[first:]:
            shape, so_far = self._shape("student", config.block), self.recipe.students[: n + 1]
            frozen = before if config.targets == "self" else None
            before = self._train(
                f"student{config.block}",
                config,
                dataclasses.replace(info, model=shape, students=so_far),
                before,
                teacher=teacher,
                frozen=frozen,
            )
        return before

    def masked(self) -> Model:
        """Trains the masked diffusion model, from the teacher's weights: they know the words, not yet both sides.

        Raises:
            KfError: the recipe has none, no teacher yet, or a stage of other settings.
        """
        config = self.recipe.masked
        if config is None:
            raise KfError(f"The recipe {self.recipe.name} has no masked model.", "a recipe with a stage masked")
        self._need("teacher")
        info = StageInfo(self._data(), self._shape("masked"), self.recipe.teacher, masked=config, start=self._origin())
        before = self.teacher() if self.start is None or pair_parts(self.start).masked is None else None
        return self._train("masked", config, info, before or self._further("masked"))

    def pair(self, text: Path | None = None, dataset: str | None = None) -> Path:
        """Runs all that is not finished and leaves the pair; the texts are needed where there are no data.

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
        elif self.start is not None and pair_parts(self.start).masked is not None:
            parts["masked"] = self._further("masked")
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
        """How the pair was trained, for its model card: a line a stage, after those of the pair it began with."""
        before = {} if self.start is None else dict(pair_parts(self.start).info.get("training", {}))
        data = self._data()
        found = {"recipe": self.recipe.name, "corpus": f"{data.tokens:,} tokens"}
        if (made := data.settings.stories) is not None:
            nats = sum(story.nats for story in stories(made.held_out, made.seed + 1, made.richness))
            found["corpus"] += (
                f" of {made.count:,} generated stories (richness {made.richness:g}); the grammar's choices have an"
                f" entropy of {nats / data.held_out_tokens:.3f} nats per token, an upper bound on the language's"
            )
        for name, stage in self.recipe.stages().items():
            if not _finished(self.folder / name):
                continue  # its weights are those of the pair that is trained further
            what = f"{stage.steps:,} steps of {stage.batch} x {stage.context} tokens"
            if name.startswith("student"):
                what += f", {stage.groups * stage.noises} noise vectors a context, targets {stage.targets}"
            curve = read_curve(self.folder / name)
            end = f", loss at the end of training {curve[-1]['loss']:.3f} nats" if curve else ""
            kept = (
                f"; then {stage.wise_ft_alpha:.0%} of the weights that it began with, mixed in"
                if stage.wise_ft_alpha
                else ""
            )
            found[name] = f"{what}, {stage.optimizer}, {stage.precision}{end}{kept}"
        both = {name: f"{before[name]}; then {what}" for name, what in found.items() if name in before}
        known = before | found | both
        if self.recipe.students and _finished(self.folder / f"student{self.recipe.students[-1].block}"):
            known["student_temperatures"] = [self.recipe.students[-1].tau_min, self.recipe.students[-1].tau_max]
        return known

    def curves(self) -> dict[str, list[dict[str, float]]]:
        """The loss of every stage so far, as points of `step`, `loss` and `tokens_per_second`.

        Raises:
            KfError: no stage has got as far as a point.
        """
        found = {name: read_curve(self.folder / name) for name in self.recipe.stages()}
        if not any(found.values()):
            raise KfError(f"No stage in {self.folder} has a curve yet.", f"one of {', '.join(found)}, begun")
        return found

    def _further(self, role: Kind) -> Model:
        """A model of the pair that is trained further."""
        assert self.start is not None
        parts = pair_parts(self.start)
        path = getattr(parts, role)
        ours, theirs = self.folder / "data" / TOKENIZER_FILE, parts.tokenizer
        if not isinstance(theirs, Path) or json.loads(theirs.read_bytes()) != json.loads(ours.read_bytes()):
            raise KfError(
                f"The tokens in {ours.parent} are not those of the pair {self.start}.",
                "tokens made with the pair's own tokenizer, in a new folder",
                self._command("data") + f" --from {self.start} --text FOLDER",
            )
        model = load_model(path, device=usable_device(distributed.device(self.device)), kind=role)
        begun, meant = model.config, self._shape(role)
        if (begun.width, begun.heads) != (meant.width, meant.heads) or begun.depth > meant.depth:
            raise KfError(
                f"The {role} of {self.start} has width {begun.width}, depth {begun.depth} and {begun.heads} heads;"
                f" the recipe {self.recipe.name} has {meant.width}, {meant.depth} and {meant.heads}.",
                "the same width and heads, and at most the recipe's depth",
            )
        return model

    def _origin(self) -> str:
        return "" if self.start is None else fingerprint(pair_parts(self.start))

    def _train(
        self, name: str, config: TrainConfig, info: StageInfo, before: Model | None = None, **given: Any
    ) -> Model:
        """A trained model: read where the stage is finished; else trained, saved and read.

        It is saved as it will be published, in bf16: what is built on it, the student's targets above all, is built on
        those weights and no finer ones.
        """
        folder, device = self.folder / name, usable_device(distributed.device(self.device))
        self._claim(name, info)
        if not _finished(folder):
            model = _fresh(info.model, config.seed, before).to(device)
            tokens = load_tokens(self.folder / "data")
            given["starts"] = document_starts(self.folder / "data", tokens)
            drawn = dataclasses.replace(config, seed=_stream(config.seed, name, info.start))
            with self._lock():
                fit(model, _loss(model, drawn, tokens, given), config, folder)
            if distributed.rank() == 0:
                save_model(model, folder, dtype=torch.bfloat16)
            distributed.wait()
        return load_model(folder, device=device, kind=info.model.kind)

    def _claim(self, name: str, info: StageInfo) -> None:
        """Refuses a stage that was begun with other settings; else writes down what it is begun with."""
        folder = self.folder / name
        path = folder / STAGE_FILE
        finished, begun = _finished(folder), any((folder / f).exists() for f in (STATE_FILE, WEIGHTS_FILE))
        if begun:
            held = from_dict(StageInfo, read_json_object(path, 1 << 24)) if path.exists() else None
            changed = differences(held, info) if held else {"": "no settings are written down"}
            own = name if not info.students else f"students.{len(info.students) - 1}"
            # What the loop lets a begun run change; how often it was saved is nobody's matter, in earlier stages too.
            free = {f"{own}.{key}" for key in FREE} if not finished else set()
            differ = [text for key, text in changed.items() if key not in free and not key.endswith(".save_every")]
            if differ:
                raise KfError(
                    f"{folder} holds a model of other settings or data: {'; '.join(differ)}.",
                    "the settings that it was trained with, or a new folder (--out)",
                    f"remove {folder}, then: {self._command(name)}",
                )
        if not finished and distributed.rank() == 0:
            text = json.dumps(dataclasses.asdict(info), indent=1) + "\n"
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                _write(path, text)

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
                "the command with another --out, or again when that run has ended",
            ) from None

    def _data(self) -> DataInfo:
        folder = self.folder / "data"
        if not (folder / INFO).exists():
            source = "" if self.recipe.data.dataset else " --text FOLDER"
            raise KfError(f"There are no tokens in {folder} yet.", "a prepared folder", self._command("data") + source)
        # A pair that is trained further asks for its own tokenizer (`_further`), however the tokens were made.
        return read_info(folder, self.recipe.data if self.start is None else None)

    def _shape(self, kind: Kind, block: int = 0) -> ModelConfig:
        data = self._data()
        return self.recipe.shape(kind, data.vocab_size, data.mask_id, block)

    def _need(self, name: str) -> None:
        if self.start is None and not _finished(self.folder / name):
            raise KfError(f"The {name} in {self.folder} is not trained yet.", f"a finished {name}", self._command(name))

    def _command(self, stage: str) -> str:
        verb = "student" if stage.startswith("student") else stage
        return f"kfexplore train {verb} --recipe {shlex.quote(self.recipe.name)} --out {shlex.quote(str(self.folder))}"


def _fresh(shape: ModelConfig, seed: int, before: Model | None) -> Model:
    """A model with weights drawn by the seed, and those of the stage before where it has them."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = build(shape)
    if before is not None:
        begin_from(model, before)
    return model


def _stream(seed: int, name: str, start: str) -> int:
    """A seed of its own for every stage, and for every pair that is trained further: none sees the noise of another."""
    return zlib.crc32(f"{seed} {name} {start}".encode())


def _loss(model: Any, config: TrainConfig, tokens: Tokens, given: dict[str, Any]) -> Callable[[int, slice], Tensor]:
    """The loss of a step number on rows of its batch."""
    kinds: dict[Kind, Any] = {
        "teacher": losses.teacher_loss,
        "student": losses.student_loss,
        "masked": losses.masked_loss,
    }
    loss = partial(kinds[model.config.kind], model, tokens=tokens, config=config, **given)
    return lambda step, rows: loss(step=step, rows=rows)


def _finished(folder: Path) -> bool:
    return (folder / WEIGHTS_FILE).exists() and (folder / CONFIG_FILE).exists()  # the config is written last


def _write(path: Path, content: str | Callable[[Path], object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise KfError(f"{path} cannot be written: {error}.", "a folder you may write to, with room") from error
