"""A recipe in its work folder: each stage is trained once, after the stages that it builds on.

data/                       tokenizer.json, train.npy, held_out.npy, data.json
teacher/, student1/, ..     model.safetensors, config.json, stage.json, and the loop's state.pt and losses.jsonl
masked/
pair/                       what `load_pair` reads
"""

from __future__ import annotations

import dataclasses
import shlex
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from kfexplore import distributed
from kfexplore.checkpoints.files import TOKENIZER_FILE
from kfexplore.checkpoints.hub import fetch_pair
from kfexplore.checkpoints.registry import (
    PairParts,
    check_pair,
    empty_teacher,
    fingerprint,
    load_model,
    pair_parts,
    usable_device,
)
from kfexplore.checkpoints.saving import save_model, save_pair
from kfexplore.checkpoints.tokenizers import load_tokenizer
from kfexplore.config import ModelConfig
from kfexplore.decoders import Kind
from kfexplore.errors import KfError
from kfexplore.models import AnyModel, CausalLM, CausalStudent, Network, begin_from, build, share_embeddings
from kfexplore.training import losses
from kfexplore.training.config import Recipe, TrainConfig
from kfexplore.training.data import INFO, Corpus, DataInfo, prepare, read_info
from kfexplore.training.documents import sampled
from kfexplore.training.loop import fit, read_curve
from kfexplore.training.memory import check_memory, needs
from kfexplore.training.stories import stories
from kfexplore.training.work_folder import StageInfo, claim, finished, locked

Model = Callable[[], AnyModel]
"""Loads a model."""


@dataclass(frozen=True)
class Run:
    """A recipe in a work folder. Every method resumes where an earlier call stopped or was interrupted.

    Several processes may train together (`distributed.py`), once one of them has prepared the tokens.
    """

    recipe: Recipe
    folder: Path
    device: str | None = None
    """None: the CPU."""
    init_from: str | Path | None = None
    """A pair, by name, folder or `owner/name`, to continue training from: its teacher is kept, the last student stage
    starts from its student (earlier stages are skipped), and the masked stage from its masked model."""
    given_teacher: str | Path | None = None
    """The teacher for all students of the recipe, named in the same ways: a folder with a transformers model, or a pair
    whose student is ignored. Not together with `init_from`."""

    def __post_init__(self) -> None:
        if self.init_from is not None and self.given_teacher is not None:
            raise KfError("Both --init-from and --teacher were given.", "one of the two")
        if self.recipe.teacher is None and self.init_from is None and self.given_teacher is None:
            raise KfError(
                f"The recipe {self.recipe.name} trains no teacher.",
                "--teacher, the folder of a transformers model, the name or folder of a pair, or owner/name on the hub",
            )

    @cached_property
    def _initial(self) -> PairParts | None:
        """The pair that training continues from, or its teacher alone."""
        name = self.given_teacher if self.init_from is None else self.init_from
        if name is None:
            return None
        parts = pair_parts(fetch_pair(name))
        return parts if self.given_teacher is None else dataclasses.replace(parts, student=None, masked=None)

    @cached_property
    def _empty_teacher(self) -> Network | None:
        """The teacher that training starts from, without its weights; None: the recipe trains it."""
        return None if self._initial is None else empty_teacher(self._initial.teacher)

    @cached_property
    def _fitted(self) -> Recipe:
        """The recipe, with the shape of the given teacher if it has none."""
        teacher = self._empty_teacher
        return self.recipe if teacher is None else self.recipe.fitted(teacher.config)

    def prepare(
        self, text: Path | None = None, dataset: str | None = None, self_generated: int | None = None
    ) -> DataInfo:
        """Prepares the tokens of a folder of texts, a hub dataset, or `self_generated` contexts sampled by the teacher.

        Without any of them: of the recipe's own corpus. A tokenizer of `init_from` or `given_teacher` is kept.

        Raises:
            KfError: as `data.prepare`; or several sources are given.
        """
        sources = {"--text": text, "--dataset": dataset, "--self-generated": self_generated}
        if len(named := [name for name, value in sources.items() if value is not None]) > 1:
            raise KfError(f"Both {' and '.join(named)} were given.", "one of them")
        changed: dict[str, Any] = {"dataset": dataset, "self_generated": self_generated}
        changed = {name: value for name, value in changed.items() if value is not None}
        data, contexts = dataclasses.replace(self.recipe.data, **changed), None
        initial, empty = self._initial, self._empty_teacher
        if initial is not None and empty is not None:
            if not isinstance(initial.tokenizer, Path):
                raise KfError(
                    f"The teacher in {initial.teacher} has no tokenizer.", f"a folder with its {TOKENIZER_FILE}"
                )
            data = dataclasses.replace(data, vocab_size=0, tokenizer=str(initial.tokenizer.parent))
            tokenizer = load_tokenizer(initial.tokenizer)
            check_pair(empty.config, {}, tokenizer)
        longest = max(stage.context for stage in self._fitted.stages().values())
        if data.self_generated and not text and not dataset:
            if initial is None:
                raise KfError("There is no teacher to sample contexts from.", "--teacher, or --text FOLDER")
            teacher: Any = load_model(initial.teacher, device=self._place(), kind="teacher")
            length = min(longest + 1, teacher.config.context)
            contexts = sampled(teacher, self._origin(), tokenizer, data.self_generated, length)
        with locked(self.folder):
            return prepare(data, self.folder / "data", longest + 1, text, contexts)

    def teacher(self) -> AnyModel:
        """Trains the teacher, or loads it if it is finished.

        Raises:
            KfError: no data yet, or data or a teacher from other settings.
        """
        config = self.recipe.teacher
        if self._initial is not None or config is None:
            return self._initial_model("teacher")
        return self._train("teacher", config, StageInfo(self._data(), self._shape("teacher"), config))()

    def students(self) -> AnyModel:
        """Trains all students in order; returns the last one.

        Raises:
            KfError: no teacher yet, or a stage from other settings.
        """
        data, origin, stages = self._data(), self._origin(), self._fitted.students
        self._need("teacher")
        initial = self._initial
        continues = initial is not None and initial.student is not None
        first = len(stages) - 1 if continues else 0
        if initial is not None and not finished(self.folder / f"student{stages[-1].block}"):
            self._check_memory(stages[first:])
        teacher = self.teacher()
        before: Model = partial(self._initial_model, "student") if continues else lambda: teacher
        if continues:
            check_pair(teacher.config, {"student": before().config})
        if first and stages[first].targets == "self":
            raise KfError(
                "Self-forcing needs the student of half the block, which a trained pair no longer has.",
                "targets exact in the last stage of the recipe",
            )
        for n, config in list(enumerate(stages))[first:]:
            shape, frozen = self._shape("student", config.block), before() if config.targets == "self" else None
            info = StageInfo(data, shape, self.recipe.teacher, stages[: n + 1], init_from=origin)
            before = self._train(f"student{config.block}", config, info, before, teacher=teacher, frozen=frozen)
        return before()

    def masked(self) -> AnyModel:
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
        before = partial(self._initial_model, "masked") if initial and initial.masked else self.teacher
        return self._train("masked", config, info, before)()

    def pair(self, text: Path | None = None, dataset: str | None = None, self_generated: int | None = None) -> Path:
        """Runs all stages that are not finished and writes the pair; without prepared data, texts are needed.

        Raises:
            KfError: as the other methods.
        """
        missing = not (self.folder / "data" / INFO).exists()
        if missing and distributed.count() > 1:
            raise KfError("Several processes cannot prepare the tokens.", "prepared tokens", self._command("data"))
        if distributed.count() == 1 and (text is not None or dataset is not None or self_generated or missing):
            self.prepare(text, dataset, self_generated)
        self.teacher()  # trained before the students, which load it themselves
        parts = {"student": self.students(), "teacher": self.teacher()}
        if self.recipe.masked is not None:
            parts["masked"] = self.masked()
        elif (initial := self._initial) and initial.masked:
            parts["masked"] = self._initial_model("masked")
        out = self.folder / "pair"
        if distributed.rank() > 0:
            return out
        save_pair(out, parts, load_tokenizer(self.folder / "data"), {"training": self.facts()})
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
        for name, stage in self._fitted.stages().items():
            if not finished(self.folder / name):
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
        if finished(self.folder / f"student{self.recipe.students[-1].block}"):
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

    def _initial_model(self, role: Kind) -> AnyModel:
        """A model of the pair that training continues from."""
        initial = self._initial
        assert initial is not None
        prepared, original = self.folder / "data" / TOKENIZER_FILE, initial.tokenizer
        if not isinstance(original, Path) or load_tokenizer(original).to_str() != load_tokenizer(prepared).to_str():
            raise KfError(
                f"The tokens in {prepared.parent} are from another tokenizer than that of"
                f" {self.init_from or self.given_teacher}.",
                "tokens made with the pair's own tokenizer, in a new folder",
                self._command("data"),
            )
        model = load_model(getattr(initial, role), device=self._place(), kind=role)
        theirs, ours = model.config, self._shape(role)
        if ours is None:
            return model
        if (theirs.width, theirs.heads) != (ours.width, ours.heads) or theirs.depth > ours.depth:
            raise KfError(
                f"The {role} of {self.init_from} has width {theirs.width}, depth {theirs.depth} and {theirs.heads}"
                f" heads; the recipe {self.recipe.name} has {ours.width}, {ours.depth} and {ours.heads}.",
                "the same width and heads, and at most the recipe's depth",
            )
        return model

    def _check_memory(self, stages: tuple[TrainConfig, ...]) -> None:
        """Prints the memory that the largest of these stages needs, before loading; KfError if less is free."""
        teacher: Any = self._empty_teacher
        with torch.device("meta"):
            found = [
                needs(teacher, _student_after(teacher, stage, self._shape("student", stage.block), teacher), stage)
                for stage in stages
            ]
        line = check_memory(max(found, key=lambda each: each.total), self._place())
        if distributed.rank() == 0:
            print(line)

    def _origin(self) -> str:
        return fingerprint(initial) if (initial := self._initial) else ""

    def _place(self) -> torch.device:
        return usable_device(distributed.device(self.device))

    def _train(
        self, name: str, config: TrainConfig, info: StageInfo, before: Model | None = None, **given: Any
    ) -> Model:
        """Trains and saves a stage unless it is finished; loads its model when called.

        `before` loads the previous stage's model, which is thus in memory only while its weights are copied.

        The result is saved as it will be published, in bf16, so that later stages (above all the student's targets) use
        exactly those weights.
        """
        folder, device = self.folder / name, self._place()
        kind: Any = name.rstrip("0123456789")
        claim(folder, info, self._command(name))
        if not finished(folder):
            model = _fresh(info.model, config, before() if before else None, given.get("teacher")).to(device)
            corpus = Corpus.read(self.folder / "data")
            # A seed for each stage and initial pair, so that no two use the same noise.
            drawn = dataclasses.replace(config, seed=zlib.crc32(f"{config.seed} {name} {info.init_from}".encode()))
            with locked(self.folder):
                loss = getattr(losses, f"{kind}_loss")
                of_batch = partial(loss, model, corpus=corpus, config=drawn, **given)
                fit(model, lambda step, rows: of_batch(step=step, rows=rows), config, folder)
            if distributed.rank() == 0:
                save_model(model, folder, dtype=torch.bfloat16)
            distributed.wait()
        return partial(load_model, folder, device=device, kind=kind)

    def _data(self) -> DataInfo:
        folder = self.folder / "data"
        if not (folder / INFO).exists():
            raise KfError(f"There are no tokens in {folder} yet.", "a prepared folder", self._command("data"))
        # `init_from` only requires that its own tokenizer was used (`_initial_model`).
        return read_info(folder, self.recipe.data if self._initial is None else None)

    def _shape(self, kind: Kind, block: int = 0) -> ModelConfig | None:
        """The shape of a model; None if it is that of a transformers model, for which only students are trained."""
        if isinstance(self._empty_teacher, CausalLM):
            if kind == "masked":
                raise KfError("A masked model needs a teacher in the published layout.", "a recipe without masked")
            return None
        data = self._data()
        return self._fitted.shape(kind, data.vocab_size, data.mask_id, block)

    def _need(self, name: str) -> None:
        if self._initial is None and not finished(self.folder / name):
            raise KfError(f"The {name} in {self.folder} is not trained yet.", f"a finished {name}", self._command(name))

    def _command(self, stage: str) -> str:
        verb = "student" if stage.startswith("student") else stage
        options = {"--recipe": self.recipe.name, "--out": self.folder}
        options |= {"--teacher": self.given_teacher} if self.given_teacher is not None else {}
        options |= {"--init-from": self.init_from} if self.init_from is not None else {}
        options |= {"--text": "FOLDER"} if stage == "data" and self.recipe.data.needs_texts else {}
        return f"kfexplore train {verb} " + " ".join(f"{name} {shlex.quote(str(v))}" for name, v in options.items())


def _fresh(shape: ModelConfig | None, config: TrainConfig, before: AnyModel | None, teacher: Any) -> AnyModel:
    """A model with weights drawn by the seed, replaced by those of the stage before where both have them."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(config.seed)
        return _student_after(before, config, shape, teacher)


def _student_after(before: Any, config: TrainConfig, shape: ModelConfig | None, teacher: Any) -> AnyModel:
    """A new model of a shape, or a student over a transformers model, with the weights of `before`."""
    if shape is None:
        student = CausalStudent.after(before, config.block)
        if not config.train_embeddings:
            share_embeddings(student, teacher)
        return student
    if not config.train_embeddings:
        raise KfError("train_embeddings is false.", "true, where the teacher is not a transformers model")
    model = build(shape)
    if before is not None and before.device.type != "meta":
        begin_from(model, before)
    return model
