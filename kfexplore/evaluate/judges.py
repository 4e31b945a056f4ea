"""Scores of samples by other models: perplexity under a causal model (Gen-PPL), and pairwise forced choice.

Texts are decoded without special tokens, then encoded, prefix and continuation together, by the judge's own tokenizer.
Each text has its own pass, so there is no padding and texts do not affect each other.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from kfexplore.checkpoints.files import by_hand
from kfexplore.checkpoints.hub import fetching
from kfexplore.checkpoints.tokenizers import plain_text
from kfexplore.errors import KfError
from kfexplore.evaluate import intervals
from kfexplore.results import Estimate, Ints, Judged

TEMPLATE = """\
Here is the beginning of a text, and two ways to go on. Which of them reads better: correct, coherent, not repetitive?

Beginning: {prefix}

A: {a}

B: {b}

Answer with A or B."""


@dataclass(frozen=True)
class Continued:
    """A sample as text: its prefix and the new text."""

    prefix: str
    new: str


def continued(tokenizer: Tokenizer, prefixes: Ints, tokens: Ints) -> list[Continued]:
    """Texts of prefixes (S, N) and new tokens (S, n), decoded together, since some tokens are parts of characters.

    Special tokens are removed, since a judge would read them as words.
    """
    found = []
    for prefix, new in zip(prefixes.tolist(), tokens.tolist(), strict=True):
        whole = plain_text(tokenizer, prefix + new)
        start = _shared(plain_text(tokenizer, prefix), whole)
        found.append(Continued(whole[:start], whole[start:]))
    return found


@dataclass(frozen=True)
class Judge:
    """A causal transformers model and its tokenizer."""

    name: str
    model: Any
    tokenizer: Any

    @property
    def room(self) -> int:
        """Longest sequence, in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2**31)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without added special tokens."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> Tensor:
        """(T,) ids -> (T, V) float32."""
        return self.model(torch.tensor([ids], device=self.model.device)).logits[0].float()

    def encode_whole(self, text: Continued) -> tuple[list[int], int]:
        """Ids of prefix and continuation encoded together, and how many of them belong to the continuation.

        Encoded separately, the tokens at the boundary would differ from those that the judge was trained on. A token
        across the boundary belongs to the prefix: it is read, but not scored.

        Raises:
            KfError: the tokenizer does not give the positions of its tokens in the text.
        """
        if not getattr(self.tokenizer, "is_fast", False):
            raise KfError(f"The tokenizer of {self.name} has no fast version.", "a model with a tokenizer.json")
        found = self.tokenizer(text.prefix + text.new, add_special_tokens=False, return_offsets_mapping=True)
        return list(found["input_ids"]), sum(start >= len(text.prefix) for start, _ in found["offset_mapping"])

    def loss(self, text: Continued) -> tuple[float, int]:
        """Total loss in nats on the tokens of the continuation given the prefix, and the number of these tokens.

        If both together exceed the judge's context, tokens are cut from the beginning.
        """
        ids, new = self.encode_whole(text)
        ids = ids[-self.room :]
        count = min(new, len(ids) - 1)
        if count < 1:
            return 0.0, 0
        log_probs = self.logits(ids)[-count - 1 : -1].double().log_softmax(dim=-1)
        return -float(log_probs.gather(1, torch.tensor(ids[-count:], device=log_probs.device)[:, None]).sum()), count

    def prefers_first(self, prefix: str, a: str, b: str) -> bool:
        """Whether A is more likely than B as the next token after the question.

        Raises:
            KfError: the question exceeds the judge's context, or its tokenizer has no token for the answers.
        """
        question = TEMPLATE.format(prefix=prefix.strip(), a=a.strip(), b=b.strip())
        space = " "
        if getattr(self.tokenizer, "chat_template", None):
            messages, space = [{"role": "user", "content": question}], ""
            question = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        else:
            question += "\nAnswer:"
        answers = [self.encode(space + letter) for letter in "AB"]
        at = _shared(*answers)
        if at == min(map(len, answers)):
            raise KfError(f"The tokenizer of {self.name} does not distinguish A from B.", "another judge")
        ids = self.encode(question) + answers[0][:at]
        if len(ids) > self.room:
            raise KfError(f"A question to {self.name} has {len(ids)} tokens.", f"at most {self.room}: shorter samples")
        last = self.logits(ids)[-1]
        return bool(last[answers[0][at]] >= last[answers[1][at]])


def load_judge(name_or_folder: str, device: str | torch.device = "cpu") -> Judge:
    """A causal model from the hub or a local folder, in float32, from safetensors and without remote code.

    Raises:
        KfError: it is neither stored locally nor can be fetched, or is not a causal model.
    """
    transformers = importlib.import_module("transformers")  # slow to import, needed only here
    folder = by_hand(name_or_folder)
    place = str(folder) if (folder / "config.json").is_file() else name_or_folder
    with fetching(
        f"The model {name_or_folder!r} is not here and cannot be loaded",
        "a causal language model on the hub, or a folder with config.json, model.safetensors and a tokenizer",
        f"put these files into {folder}",
        asks=not Path(place).exists(),
    ) as local:
        given = {"trust_remote_code": False, "local_files_only": local}
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, **given)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            place, use_safetensors=True, dtype=torch.float32, **given
        )
    return Judge(name_or_folder, model.to(device).eval(), tokenizer)


def gen_ppl(judge: Judge, texts: list[Continued]) -> Estimate:
    """Perplexity of the continuations given their prefixes, per token of the judge; interval over samples.

    Raises:
        KfError: the texts have no tokens to score.
    """
    losses, counts = np.array([judge.loss(text) for text in texts]).T
    if not counts.any():
        raise KfError(f"The samples have no token for {judge.name} to score.", "longer samples, or a prefix")
    found = intervals.ratio(losses, counts)
    return Estimate(*(float(np.exp(value)) for value in (found.value, found.low, found.high)))


def win_rate(judge: Judge, texts: list[Continued], others: list[Continued]) -> Judged:
    """How often `texts` are preferred to `others`, by forced choice; each pair is shown in both orders.

    A pair counts 1 if the text is preferred in both orders, 0 if the other is, and 1/2 if the answer follows the
    position. The mean is the expectation over one random order per pair. Its interval is Wilson's with one trial per
    pair; halves vary less than wins and losses, so it is conservative.
    """
    first = np.array(
        [
            (
                judge.prefers_first(ours.prefix, ours.new, theirs.new),
                judge.prefers_first(ours.prefix, theirs.new, ours.new),
            )
            for ours, theirs in zip(texts, others, strict=True)
        ]
    )
    preferred = first[:, 0].astype(int) + ~first[:, 1]  # in 0, 1 or 2 orders
    return Judged(
        wins=int((preferred == 2).sum()),
        losses=int((preferred == 0).sum()),
        inconsistent=int((preferred == 1).sum()),
        win_rate=intervals.wilson(float(preferred.mean()) / 2, len(preferred)),
        first_shown=intervals.clustered_fraction(first.sum(axis=1), np.full(len(first), 2)),
    )


def _shared(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Length of the common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
