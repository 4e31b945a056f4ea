"""Other models' opinion of samples: perplexity under a causal model (Gen-PPL), and pairwise forced choice.

Texts are decoded, and encoded again by the judge's own tokenizer. Each text is a pass of its own: no padding, and no
influence of one on another.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kfexplore import noise
from kfexplore.checkpoints.connection import fetching
from kfexplore.checkpoints.places import by_hand
from kfexplore.checkpoints.tokenizers import AnyTokenizer, decode_ids
from kfexplore.errors import KfError
from kfexplore.evaluate import intervals
from kfexplore.results import Estimate, Ints

TEMPLATE = """\
Here is the beginning of a text, and two ways to go on. Which of them reads better: correct, coherent, not repetitive?

Beginning: {prefix}

A: {a}

B: {b}

Answer with A or B."""

_KEY = 2
"""Sets the draw of the order apart from other draws of the same seed."""


@dataclass(frozen=True)
class Continued:
    """A sample as text: its prefix and what the decoder wrote."""

    prefix: str
    new: str


def continued(tokenizer: AnyTokenizer, prefixes: Ints, tokens: Ints) -> list[Continued]:
    """Texts of prefixes (S, N) and new tokens (S, n), decoded together: some tokens are parts of characters."""
    found = []
    for prefix, new in zip(prefixes.tolist(), tokens.tolist(), strict=True):
        whole = decode_ids(tokenizer, prefix + new)
        held = _shared(decode_ids(tokenizer, prefix), whole)
        found.append(Continued(whole[:held], whole[held:]))
    return found


@dataclass(frozen=True)
class Judge:
    """A causal language model of transformers and its tokenizer."""

    name: str
    model: Any
    tokenizer: Any

    @property
    def room(self) -> int:
        """Tokens that it can read."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2**31)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, no special tokens added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> Tensor:
        """(T,) ids -> (T, V) float32."""
        return self.model(torch.tensor([ids], device=self.model.device)).logits[0].float()

    def loss(self, text: Continued) -> tuple[float, int]:
        """Sum of the loss, in nats, on the new part given the prefix, and the number of its tokens.

        Where both exceed the judge's context, the beginning is cut.
        """
        new = self.encode(text.new)
        ids = (self.encode(text.prefix) + new)[-self.room :]
        count = min(len(new), len(ids) - 1)
        if count < 1:
            return 0.0, 0
        law = self.logits(ids)[-count - 1 : -1].double().log_softmax(dim=-1)
        return -float(law.gather(1, torch.tensor(ids[-count:], device=law.device)[:, None]).sum()), count

    def prefers_first(self, prefix: str, a: str, b: str) -> bool:
        """Whether the next token after the question is rather A than B.

        Raises:
            KfError: the question is longer than the judge can read, or its tokenizer has no token for the answers.
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
            raise KfError(f"The tokenizer of {self.name} does not tell A from B.", "another judge")
        ids = self.encode(question) + answers[0][:at]
        if len(ids) > self.room:
            raise KfError(f"A question to {self.name} has {len(ids)} tokens.", f"at most {self.room}: shorter samples")
        last = self.logits(ids)[-1]
        return bool(last[answers[0][at]] >= last[answers[1][at]])


def load_judge(name_or_folder: str, device: str | torch.device = "cpu") -> Judge:
    """A causal model of the hub or of a local folder, in float32, from safetensors and without remote code.

    Raises:
        KfError: it is not here and cannot be fetched, or is no such model.
    """
    transformers = importlib.import_module("transformers")  # slow to import, needed here only
    held = by_hand(name_or_folder)
    place = str(held) if (held / "config.json").is_file() else name_or_folder
    with fetching(
        f"The model {name_or_folder!r} is not here and cannot be loaded",
        "a causal language model of the hub, or a folder with config.json, model.safetensors and a tokenizer",
        f"put these files into {held}",
        asks=not Path(place).exists(),
    ) as local:
        given = {"trust_remote_code": False, "local_files_only": local}
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, **given)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            place, use_safetensors=True, dtype=torch.float32, **given
        )
    return Judge(name_or_folder, model.to(device).eval(), tokenizer)


def gen_ppl(judge: Judge, texts: list[Continued]) -> Estimate:
    """Perplexity of the new parts given their prefixes, a token of the judge; interval over samples.

    Raises:
        KfError: the texts have no token that can be scored.
    """
    losses, counts = np.array([judge.loss(text) for text in texts]).T
    if not counts.any():
        raise KfError(f"The samples have no token for {judge.name} to score.", "longer samples, or a prefix")
    found = intervals.ratio(losses, counts)
    return Estimate(*(float(np.exp(value)) for value in (found.value, found.low, found.high)))


def win_rate(judge: Judge, texts: list[Continued], others: list[Continued], seed: int = 0) -> tuple[Estimate, float]:
    """Share of prefixes on which `texts` is preferred to `others`, and the share on which the first shown was.

    Each pair is shown once, in an order keyed by (seed, sample); the interval is Wilson's.
    """
    wins, firsts = 0, 0
    for i, (ours, theirs) in enumerate(zip(texts, others, strict=True)):
        ours_first = bool(noise.generator(seed, i, _KEY).integers(2))
        a, b = (ours, theirs) if ours_first else (theirs, ours)
        first = judge.prefers_first(ours.prefix, a.new, b.new)
        firsts += first
        wins += first == ours_first
    return intervals.wilson(wins / len(texts), len(texts)), firsts / len(texts)


def _shared(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many first items of both are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
