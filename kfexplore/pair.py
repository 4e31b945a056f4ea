"""A teacher, optionally with its push-forward student and tokenizer; gives the exact and the learned map."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from tokenizers import Tokenizer
from torch import Tensor

from kfexplore import noise as noises
from kfexplore.checkpoints.hub import fetch_pair
from kfexplore.checkpoints.registry import check_pair, load_model, pair_parts
from kfexplore.checkpoints.saving import card_text, save_pair, stored_info
from kfexplore.checkpoints.tokenizers import encode_ids, load_tokenizer, own_tokenizer, slow_only, token_texts
from kfexplore.config import DEFAULT_PAIR
from kfexplore.decoders import MODELS, Kind
from kfexplore.errors import KfError
from kfexplore.maps import PrefilledContext, block
from kfexplore.maps.context import block_limit
from kfexplore.models import AnyModel, AnyStudent, AnyTeacher, MaskedModel
from kfexplore.results import Block, needed_student

CARD = "---\n{{ card_data }}\n---\n\n{{ card }}\n"
"""README.md of a pair's repository, as a Jinja template."""
WITHOUT_CARD = "A teacher and its push-forward student (K-Forcing), for kfexplore. Not evaluated."


@dataclass(frozen=True)
class Pair(
    ModelHubMixin,
    library_name="kfexplore",
    tags=["k-forcing"],
    pipeline_tag="text-generation",
    model_card_template=CARD,
):
    """A teacher and, optionally, its student, a masked model and a tokenizer.

    A teacher alone has exact maps, distributions and AR; anything else raises KfError.

    `save_pretrained(folder)` and `push_to_hub("owner/name")` come from huggingface_hub's mixin.
    """

    teacher: AnyTeacher
    student: AnyStudent | None = None
    masked: MaskedModel | None = None
    tokenizer: Tokenizer | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Accepts the tokenizers of transformers as well."""
        if self.tokenizer is not None:
            object.__setattr__(self, "tokenizer", own_tokenizer(self.tokenizer))

    def __new__(cls, *_: Any, **__: Any) -> Pair:
        """Bypasses the mixin, which would store the arguments as a config."""
        return object.__new__(cls)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin's own looks for a config first
        cls, name_or_folder: str | Path, *, device: str | torch.device | None = None, **options: Any
    ) -> Pair:
        """As `load_pair`, with options for the hub.

        Args:
            name_or_folder: As in `load_pair`.
            device: None: the CPU.
            options: For hub repositories: max_bytes, and the options of `huggingface_hub.snapshot_download`.

        Raises:
            KfError: as `load_pair`.
        """
        return load_pair(fetch_pair(name_or_folder, **options), device)

    def _save_pretrained(self, save_directory: Path) -> None:
        models: dict[str, AnyModel | None] = {"teacher": self.teacher, "student": self.student, "masked": self.masked}
        there = {role: model for role, model in models.items() if model is not None}
        save_pair(save_directory, there, self.tokenizer, self.info)

    def generate_model_card(self, **more: Any) -> ModelCard:
        """README.md of the pair's repository: its stored model card, with the hub's header."""
        text = card_text(self.info.get("folder")) or f"# Pair `{self.info.get('name', '')}`\n\n{WITHOUT_CARD}"
        return super().generate_model_card(card=text, **more)

    def block(self, ids: Tensor | npt.ArrayLike, noise: Tensor | npt.ArrayLike, temperature: float = 1.0) -> Block:
        """The k tokens of the exact (G*) and the learned map after each context. Rows do not affect each other.

        Args:
            ids: (B, N) int64 contexts.
            noise: (B, k) in [0, 1), 1 <= k <= `k_max`.
            temperature: Divides the teacher's logits; an input of the student (see `temperatures`).

        Returns:
            Integer arrays `exact` and `learned` (B, k), the student's logit `margins` (B, k), and `edges` (B, k), the
            distance of each u from the nearer edge of its exact cell. Without a student, `learned` and `margins` raise
            KfError.

        Raises:
            KfError: shapes that do not match, an empty or too long context, ids outside the vocabulary, noise outside
                [0, 1), k of 0 or above `k_max`, a temperature outside `kfexplore.config.TEMPERATURES`.
        """
        contexts, u = _whole_numbers(ids), noises.checked(noise)
        if contexts.ndim != 2 or u.ndim != 2 or len(contexts) != len(u) or not len(u):
            raise KfError(
                f"ids have shape {contexts.shape} and noise {u.shape}.",
                "(B, N) and (B, k), with one B of at least 1",
            )
        distinct, member = np.unique(contexts, axis=0, return_inverse=True)
        rows = [np.flatnonzero(member.ravel() == n) for n in range(len(distinct))]
        each = zip(distinct, rows, strict=True)
        parts = [block(self.prefill(context.tolist()), u[at], temperature) for context, at in each]
        return Block.join(parts).take(np.argsort(np.concatenate(rows)))

    def prefill(self, ids: list[int]) -> PrefilledContext:
        """One context (N token ids), prefilled in every model, for sweeps, grids and blocks."""
        self.check_ids(ids)
        return PrefilledContext(self.teacher, self.student, torch.tensor(ids))

    def check_ids(self, ids: list[int]) -> None:
        """Raises KfError unless ids are a valid context that leaves room for a block."""
        config = self.teacher.config
        if not ids:
            raise KfError("The prompt is empty.", "at least one token")
        bad = [i for i in ids if not 0 <= i < config.vocab_size]
        if bad:
            raise KfError(f"Token id {bad[0]} is not in the vocabulary.", f"0 to {config.vocab_size - 1}")
        if len(ids) > self.room:
            raise KfError(f"The prompt has {len(ids)} tokens.", f"1 to {self.room} for this pair")

    @property
    def k_max(self) -> int:
        """The largest k: the student's trained block size, or without a student `maps.context.EXACT_SLOTS`."""
        return block_limit(self.student)

    @property
    def temperatures(self) -> tuple[float, float]:
        """Range of temperatures in the student's training: `student_temperatures` of training.json, or (1, 1)."""
        training = self.info.get("training")
        found = training.get("student_temperatures") if isinstance(training, dict) else None
        if not isinstance(found, list) or len(found) != 2:
            return 1.0, 1.0
        known = all(isinstance(t, int | float) and 0 < t < 1e6 for t in found)
        return (float(found[0]), float(found[1])) if known else (1.0, 1.0)

    @property
    def untrained(self) -> str:
        """A warning for temperatures outside `temperatures`."""
        low, high = self.temperatures
        trained = f"at temperature {low:g} only" if low == high else f"at temperatures {low:g} to {high:g}"
        return f"The student was trained {trained}: expect its tokens to be worse at this one."

    @property
    def room(self) -> int:
        """The longest context, in tokens, that leaves room for a block."""
        reader = self.teacher if self.student is None else self.student
        return reader.config.context - self.k_max

    def need_student(self) -> AnyStudent:
        """The student; raises a KfError that says how to get one."""
        return cast(AnyStudent, needed_student(self.student))

    def encode(self, text: str) -> tuple[list[int], int]:
        """Token ids of a prompt, and how many of its first tokens were cut to fit the context.

        Raises:
            KfError: the prompt is empty, or the pair has no tokenizer.
        """
        if not text:
            raise KfError("The prompt is empty.", "at least one token")
        ids = encode_ids(self.need_tokenizer(), text)
        cut = max(0, len(ids) - self.room)
        return ids[cut:], cut

    def texts(self, ids: list[int]) -> list[str]:
        """The text of each token; [] if the pair has no tokenizer."""
        return token_texts(self.tokenizer, ids) if self.tokenizer is not None else []

    def need_tokenizer(self) -> Tokenizer:
        """The tokenizer; raises a KfError that names the alternative."""
        if self.tokenizer is None:
            folder = self.info.get("folder")
            raise (folder and slow_only(Path(folder))) or KfError(
                "This pair has no tokenizer.", "token ids (--token-ids 1,2,3) instead of text"
            )
        return self.tokenizer


def load_pair(name_or_folder: str | Path = DEFAULT_PAIR, device: str | torch.device | None = None) -> Pair:
    """Loads a named pair (`stories`, `tales`: bundled; `owt`, `lm1b`: from the hub), a folder, or a repository.

    Args:
        name_or_folder: A name, a folder, or `owner/name` of a hub repository with the same layout. A folder without a
            student, or with a causal transformers model, gives a teacher alone.
        device: None: the CPU.

    Raises:
        KfError: an unknown name, missing or unreadable files, or models or a tokenizer that do not match.
    """
    parts = pair_parts(fetch_pair(name_or_folder))
    info = parts.info | stored_info(parts.info.get("folder"))
    return _loaded(parts.teacher, {"student": parts.student, "masked": parts.masked}, parts.tokenizer, device, info)


def pair_from_files(
    teacher: str | Path,
    student: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: str | None = None,
) -> Pair:
    """A pair from two matching checkpoints, or from a teacher alone.

    Raises:
        KfError: as `load_pair`.
    """
    info = {"name": " and ".join(Path(file).stem for file in (teacher, student) if file)}
    return _loaded(teacher, {"student": student}, tokenizer, device, info)


def _whole_numbers(ids: Tensor | npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Token ids as an integer array; KfError for fractions, strings, ragged rows and numbers above 64 bits."""
    try:
        found = np.asarray(ids.detach().cpu() if isinstance(ids, Tensor) else ids)
    except ValueError:
        found = np.array([None])
    if found.size and found.dtype.kind not in "iu":
        raise KfError("The token ids are not an array of whole numbers.", "(B, N) token ids of the vocabulary")
    return found


def _loaded(
    teacher: str | Path,
    others: dict[Kind, str | Path | None],
    tokenizer: str | Path | None,
    device: str | torch.device | None,
    info: dict[str, Any],
) -> Pair:
    """Loads a pair from its files."""
    read = load_tokenizer(tokenizer) if tokenizer else None
    first: Any = load_model(teacher, device=device, kind="teacher")
    rest: dict[str, Any] = {kind: load_model(path, device=device, kind=kind) for kind, path in others.items() if path}
    check_pair(first.config, {MODELS[kind]: rest[kind].config for kind in others if kind in rest}, read)
    pair = Pair(first, tokenizer=read, info=info, **rest)
    if pair.room < 1:
        raise KfError(
            f"The context of {pair.room + pair.k_max} tokens has no room for a prompt and a block of {pair.k_max}.",
            f"models with a context of at least {pair.k_max + 1} tokens",
        )
    return pair
