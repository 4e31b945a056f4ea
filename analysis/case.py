"""One task of the paper: its models, texts and samples, each loaded on demand; measurements are kept on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from analysis.published import Part
from kfexplore.batch.request import TASKS, read_prefixes
from kfexplore.bench.setting import SIZES, environment
from kfexplore.bench.throughput import RaceSettings
from kfexplore.checkpoints.files import write_whole
from kfexplore.checkpoints.registry import PairParts, fingerprint, locate
from kfexplore.checkpoints.tokenizers import document_frame, encode_ids
from kfexplore.config import DecodeConfig
from kfexplore.decoding.generate import Networks, resolve_k
from kfexplore.errors import KfError, writing
from kfexplore.evaluate.agreement import text_ids, text_windows
from kfexplore.evaluate.judges import Continued, continued
from kfexplore.evaluate.samples import Written, write
from kfexplore.pair import Pair, pair_from_files
from kfexplore.results import Ints
from kfexplore.training.config import DataConfig, load_recipe
from kfexplore.training.documents import hub_rows, read_text

PREFIX = {"lm1b": 6, "owt": 64}
"""Tokens of a prefix in the paper; its script takes 6 for both."""
PENALTIES = {"lm1b": {2: 0.2, 3: 0.4, 4: 0.5}, "owt": {2: 0.3, 3: 0.5, 4: 0.5}}
"""Frequency penalty by K that the published code recommends; the paper does not mention it."""
SPLITS = {"lm1b": "test", "owt": "train"}
"""Split of the recipe's dataset on the hub; OpenWebText has only one."""
UNCHECKED = ("lm1b", "owt")
"""Tasks on whose published checkpoints this study has not been run. The publication specifies neither how documents are
framed in the measured windows and prefixes, nor how special tokens are treated in the judged texts. Remove a task once
its numbers have been reproduced."""
HUB_ROWS = 5_000
TIMED_ON = "H100"
"""The paper's device."""


@dataclass(frozen=True)
class Settings:
    """Settings of a replication."""

    ks: tuple[int, ...]
    batches: tuple[int, ...]
    samples: int
    windows: int
    repeats: int
    seed: int
    prefix: int | None  # tokens; None: the paper's
    new_tokens: int | None  # None: as many as in the paper's samples
    text: Path | None  # None: the hub's dataset
    prefixes: Path | None  # JSON lines; None: from the text
    gen_ppl: str  # a model; empty: none
    judge: str  # a model; empty: none

    def __post_init__(self) -> None:
        RaceSettings(batches=self.batches, ks=self.ks, repeats=self.repeats)  # rejects settings that cannot be timed
        for name, least in {"samples": 2, "windows": 2, "prefix": 1, "new_tokens": 1}.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise KfError(f"--{name.replace('_', '-')} is {value}.", f"at least {least}")


@dataclass(frozen=True)
class Case:
    """One task of the paper: its models, loaded on demand, and the folder of its measurements."""

    task: str
    parts: PairParts
    settings: Settings
    device: torch.device
    folder: Path

    @cached_property
    def pair(self) -> Pair:
        tokenizer = self.parts.tokenizer or TASKS[self.task].tokenizer
        return pair_from_files(self.parts.teacher, self.parts.student, tokenizer, str(self.device))

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """Conditions of every number: weights, device, versions."""
        about = environment(self.device)
        if not all(locate(part).is_file() for part in (self.parts.teacher, self.parts.student)):
            _ = self.pair  # raises if something is missing
        return {"weights": fingerprint(self.parts), **{name: about[name] for name in ("device_name", "versions")}}

    @cached_property
    def texts(self) -> list[str]:
        if self.settings.text:
            return read_text(self.settings.text)
        return [text for _, text in islice(hub_rows(self.hub), HUB_ROWS)]

    @property
    def hub(self) -> DataConfig:
        """The dataset and split used if no text is given."""
        return dataclasses.replace(load_recipe(self.task).data, split=SPLITS[self.task])

    @property
    def text_name(self) -> str:
        """Description of the text."""
        named = f"the first {HUB_ROWS:,} rows of {self.hub.dataset}, split {self.hub.split}"
        return self.settings.text.resolve().name if self.settings.text else named

    @property
    def text_key(self) -> str:
        """Identifies the text."""
        return _digest("".join(self.texts).encode()) if self.settings.text else self.text_name

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of a prefix, and of the sample after it."""
        prefix = self.settings.prefix or PREFIX[self.task]
        return prefix, self.settings.new_tokens or TASKS[self.task].total - prefix

    @cached_property
    def prefixes(self) -> Ints:
        """(S, N) from the file, the beginnings of the hub's documents, or evenly spaced positions in the text.

        As in training, a document starts with its opening token ([CLS] in BERT's tokenizer), which counts as one of N.
        """
        (length, new), count = self.lengths, self.settings.samples
        tokenizer = self.pair.need_tokenizer()
        opening, _ = document_frame(tokenizer)
        if self.settings.prefixes:
            read, _ = read_prefixes(self.settings.prefixes, tokenizer, max(1, length - len(opening)))
            found = np.array([[*opening, *ids][:length] for ids in read[:count]])
        elif self.settings.text:
            found = text_windows(*text_ids(self.pair, self.texts), count, length + new)[:, :length]
        else:
            coded = ([*opening, *encode_ids(tokenizer, text)][:length] for text in self.texts)
            found = np.array(list(islice((ids for ids in coded if len(ids) == length), count)))
        if len(found) < 2:
            raise KfError(f"There are {len(found)} prefixes of {length} tokens.", "at least two")
        return found

    @cached_property
    def sampling(self) -> dict[str, Any]:
        """Settings of the samples."""
        file = self.settings.prefixes
        after = self.text_key if file is None else _digest(file.read_bytes()) if file.is_file() else str(file)
        names = ("samples", "seed")
        return {"after": after, "lengths": self.lengths, **{name: getattr(self.settings, name) for name in names}}

    @cached_property
    def written(self) -> list[Written]:
        """Samples from AR and every K, each saved when it is complete."""
        penalties = PENALTIES[self.task]
        plans = [DecodeConfig("pflm", k, frequency_penalty=penalties.get(k, 0.0)) for k in self.settings.ks]
        for decoder in plans:
            resolve_k(decoder, Networks(student=self.pair.student))  # rejects a too large K at once
        found = []
        for decoder in tqdm([DecodeConfig("ar"), *plans], desc=f"samples, {self.task}", leave=False):

            def sample(decoder: DecodeConfig = decoder) -> dict[str, Any]:
                new = write(self.pair, self.prefixes, self.lengths[1], decoder, self.settings.seed)
                return {"tokens": new.tokens.tolist(), "nfe": new.nfe}

            settings = {**self.sampling, "decoder": asdict(decoder)}
            saved = self.kept(f"samples-{decoder.decoder}{decoder.k or ''}", settings, sample)
            found.append(Written(decoder, np.array(saved["tokens"]), saved["nfe"]))
        return found

    @cached_property
    def continuations(self) -> list[list[Continued]]:
        """All samples as texts without special tokens."""
        return [continued(self.pair.need_tokenizer(), self.prefixes, each.tokens) for each in self.written]

    def kept(self, name: str, settings: dict[str, Any], measure: Callable[[], Any]) -> Any:
        """The saved result for the same settings, or else that of `measure`, which is then saved."""
        path = self.folder / f"{self.task}-{name}.json"
        key = json.loads(json.dumps({**self.conditions, **settings}))
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["settings"] == key:
                return saved["found"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # missing, or not written by this script
        found = measure()
        text = json.dumps({"settings": key, "found": found})
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        return found

    def unlike(self, part: Part) -> str | None:
        """Why a part does not measure the same as the publication; None: no reason is known."""
        config, task, settings = self.pair.teacher.config, self.task, self.settings
        names = ("vocab_size", "width", "depth", "heads", "mask_id", "context")
        if tuple(getattr(config, name) for name in names) != SIZES[task]:
            return "the models are not of the published size"
        usual = PREFIX[task], TASKS[task].total - PREFIX[task]
        if part != "agreement" and self.lengths != usual:
            return "{} tokens after {}, in the paper {} after {}".format(*self.lengths[::-1], *usual[::-1])
        if part == "throughput":
            here = self.conditions["device_name"]
            return None if TIMED_ON in here else f"timed on another device than the paper's {TIMED_ON}"
        if settings.text or (settings.prefixes and part != "agreement"):
            return "the text is not the paper's"
        if task in UNCHECKED:
            return (
                "framing of documents and handling of special tokens are not published, and ours is not checked on the "
                "published checkpoints yet"
            )
        return None


def decoder_name(decoder: DecodeConfig) -> str:
    """Name in the paper's tables, without the penalty."""
    return "AR" if decoder.decoder == "ar" else f"K = {decoder.k}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
