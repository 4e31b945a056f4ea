"""What is asked for: a file of prefixes to be completed, by which decoder, into which folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kfexplore import noise
from kfexplore.batch.source import TASKS, Loaded, Source
from kfexplore.checkpoints.tokenizers import AnyTokenizer, end_of_text
from kfexplore.config import DecodeConfig
from kfexplore.errors import KfError


@dataclass(frozen=True)
class Request:
    """Plain values, which another process can be told."""

    source: Source
    """Models and tokenizer."""
    decoder: DecodeConfig
    """Which decoder, and how."""
    prefix_file: Path
    """JSON lines with `prefix`."""
    output_dir: Path
    """Where samples.jsonl and throughput.json go."""
    batch_size: int = 16
    """Samples of a batch; the last one may have fewer."""
    per_prefix: int = 1
    """Completions of each prefix, each with noise of its own."""
    warmup: int = 1
    """Batches written before the clock starts, and thrown away."""
    prefix_length: int | None = None
    """Tokens that are kept of a prefix; None: as in the task, without one all."""
    new_tokens: int | None = None
    """Tokens of a completion; None: as many as the task or the context has room for."""
    seed: int = 0
    """Keys the noise, with sample and position."""
    device: str | None = None
    """cpu or cuda; None: cpu."""
    devices: int | None = None
    """Processes, each with a device of its own; None: as many as were launched."""

    def __post_init__(self) -> None:
        least = {
            "batch_size": ("--batch_size", 1),
            "per_prefix": ("--n_per_prefix", 1),
            "warmup": ("--warmup_steps", 0),
            "prefix_length": ("--prefix-len", 1),
            "new_tokens": ("--max-new-tokens", 1),
            "devices": ("--devices", 1),
        }
        for field, (option, fewest) in least.items():
            value = getattr(self, field)
            if value is not None and value < fewest:
                raise KfError(f"{option} is {value}.", f"at least {fewest}")
        noise.uniform(self.seed, [], 0, 0)  # refuses a seed that keys nothing


@dataclass(frozen=True)
class Shape:
    """Lengths of a sample, in tokens, and where its text ends."""

    prefix: int
    """Of the longest prefix."""
    new: int
    end: int | None
    """Id of the token that ends a text; None: the tokenizer has none."""


def kept_tokens(request: Request) -> int | None:
    """Tokens that are kept of every prefix; None: all."""
    task = TASKS.get(request.source.task or "")
    return request.prefix_length or (task.prefix if task else None)


def shape(request: Request, loaded: Loaded, tokenizer: AnyTokenizer, prefix: int) -> Shape:
    """The lengths that task, models and request give together, for prefixes of at most so many tokens.

    Raises:
        KfError: prefix and completion have no room, or the tokenizer lacks the task's end of a text.
    """
    task = TASKS.get(request.source.task or "")
    total = task.total if task else loaded.context
    room = min(total, loaded.context)
    if prefix >= room:
        raise KfError(f"A prefix of {prefix} tokens leaves no room in {room}.", f"--prefix-len 1 to {room - 1}")
    new = request.new_tokens or total - prefix
    if prefix + new > room:
        holder = "the model" if room < total else "the task" if task else "the models"
        raise KfError(
            f"{prefix} tokens of prefix and {new} new ones exceed the {room} tokens of {holder}.",
            f"--max-new-tokens 1 to {room - prefix}",
        )
    end = tokenizer.get_vocab().get(task.end) if task else end_of_text(tokenizer)
    if task and end is None:
        raise KfError(
            f"The tokenizer has no {task.end}, which ends a text of {request.source.task}.", "the task's own tokenizer"
        )
    return Shape(prefix, new, end)
