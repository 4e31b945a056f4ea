"""All limits of the server: sizes, queues, memory, and which pairs it offers.

The defaults suit a public page on two CPU cores, and are wide enough for a private one. An operator overrides them in
the environment, and they are checked when the app starts:

    KFEXPLORE_LIMITS="new_tokens=512,pairs=tales+lm1b,other_checkpoints=yes"
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from kfexplore.checkpoints.registry import NAMED, bundled_pairs
from kfexplore.config import from_dict
from kfexplore.errors import KfError

VARIABLE: Final = "KFEXPLORE_LIMITS"
"""Environment variable: settings separated by commas, names of pairs by +."""


@dataclass(frozen=True)
class ServerLimits:
    """Limits that the server enforces on every request; the bounds of the page's fields are taken from them."""

    prompt_characters: int = 20_000
    """Characters of a prompt; a longer one is refused before it is tokenized."""
    request_bytes: int = 2**18
    """Bytes of a request's body; a longer one is refused as soon as it exceeds them."""
    slots: int = 16
    """Largest K (tokens per pass), also of students that were trained on more."""
    sweep_steps: int = 512
    """Resolution of a slider's track."""
    grid_steps: int = 128
    """Resolution of each side of a grid."""
    new_tokens: int = 1023
    """Generate: new tokens per sample; the context of a pair may allow fewer."""
    samples: int = 8
    """Generate: samples at once."""
    study_blocks: int = 4096
    """Joint vs marginal: blocks per sampler."""
    race_batch: int = 32
    """Timing: samples at once."""
    race_tokens: int = 192
    """Timing: new tokens per sample."""
    race_repeats: int = 5
    """Timing: timed runs per row."""
    run_seconds: int = 300
    """Seconds that a text, a study or a race may run; then it stops and keeps its last snapshot."""
    at_once: int = 1
    """Sessions for which Generate runs at once; studies and races run for one each."""
    queue: int = 16
    """Sessions that may wait for Generate, for a study and for a race, each; one place per session."""
    questions: int = 64
    """Slider requests that may wait for the models, or for one pair to load; more are refused with Busy."""
    client_requests: int = 4
    """Requests of one client that are answered at once; more wait. A client is an address, or a session if the
    address is private: see `clients.client_of`."""
    pages: int = 200
    """Sessions whose last texts, race, study and fields are kept. The least recently used is dropped first, but none
    with running or waiting work: if all have some, a new session is refused."""
    contexts: int = 64
    """Prefilled prompts kept per pair, within `held_bytes`. If there are more sessions than that, prompts are prefilled
    again."""
    studies: int = 16
    """Number of studies kept."""
    held_bytes: int = 2**30
    """Bytes of a pair's contexts (estimated), and of the studies; the newest of each is kept whatever its size."""
    loaded_pairs: int = 2
    """Pairs in memory; the one that the page opens with is never dropped."""
    idle_seconds: int = 3600
    """Idle seconds after which a context, study, pair (not the first) or a session's texts and race are dropped."""
    pairs: tuple[str, ...] = tuple(name for name, pair in NAMED.items() if pair.repository or name in bundled_pairs())
    """Pairs offered besides the one that the page opens with; those that are not bundled are fetched on first use."""
    download_bytes: int = 4 * 2**30
    """Largest download, in bytes, of a repository that a visitor names, if `other_checkpoints` allows it."""
    other_checkpoints: bool = False
    """Whether visitors may load any other pair: a folder on the server or a hub id."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if type(value) is int and value < 1:
                raise KfError(f"The limit {name} is {value}.", "a whole number of at least 1")
        longest = 12 * self.prompt_characters  # JSON escapes a character beyond the basic plane with 12 bytes
        if self.request_bytes < longest:
            raise KfError(
                f"The limit request_bytes is {self.request_bytes}, too few for a prompt.",
                f"at least {longest}, or fewer prompt_characters",
            )
        unknown = [name for name in self.pairs if name not in NAMED]
        if unknown:
            raise KfError(f"There is no pair {unknown[0]!r} to offer.", ", ".join(NAMED))

    def check(self, what: str, value: int, name: str, least: int = 1) -> int:
        """The value, if it is from `least` up to the limit of that name.

        Args:
            what: What is counted, for the message.
            value: The requested number.
            name: Field with the limit.
            least: Lower bound.

        Raises:
            KfError: the value is out of range.
        """
        most = getattr(self, name)
        if not least <= value <= most:
            raise KfError(f"{value:,} {what} were requested.", f"{least} to {most:,} on this page")
        return value

    def check_prompt(self, prompt: object) -> str:
        """The prompt, if it is text and no longer than allowed."""
        if isinstance(prompt, str) and len(prompt) > self.prompt_characters:
            raise KfError(f"The prompt has {len(prompt):,} characters.", f"at most {self.prompt_characters:,}")
        if not isinstance(prompt, str) or any("\ud800" <= sign <= "\udfff" for sign in prompt):
            raise KfError("The prompt is not text.", "whole characters")  # JSON can encode half of a surrogate pair
        return prompt


DEFAULTS: Final = ServerLimits()


def limits_from(environment: Mapping[str, str] = os.environ) -> ServerLimits:
    """The defaults with the environment's overrides.

    Raises:
        KfError: an unknown limit (near ones are suggested), a limit without a value, or an invalid value.
    """
    values: dict[str, Any] = {}
    for setting in filter(None, (part.strip() for part in environment.get(VARIABLE, "").split(","))):
        name, sign, text = (part.strip() for part in setting.partition("="))
        if not sign or not text:
            raise KfError(f"{VARIABLE} has {setting!r}.", "name=value, separated by commas")
        values[name] = text.split("+") if name == "pairs" else _plain(text)
    return from_dict(ServerLimits, values)


def _plain(text: str) -> Any:
    """A value in YAML syntax: a number, yes or no."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
