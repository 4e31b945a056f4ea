"""What the page allows those who use it, in one place: sizes, waiting, memory, and which pairs.

The defaults suit a public page on two CPU cores, and are wide enough for one's own machine. An operator overrides them
in the environment, and they are checked when the app starts:

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
"""Of the environment: settings with commas between them, names of pairs with + between."""


@dataclass(frozen=True)
class ServerLimits:
    """Every one is held by the server, whatever a request says; a field of the page that has a bound has this one."""

    prompt_characters: int = 20_000
    """Of a prompt; a longer one is refused before it is tokenized."""
    request_bytes: int = 2**18
    """Of the body of a request; a longer one is refused before it is read."""
    slots: int = 16
    """K, tokens per pass, of students that were trained on more."""
    sweep_steps: int = 512
    """Resolution of a slider's track."""
    grid_steps: int = 128
    """Resolution of one side of the map of two slots."""
    new_tokens: int = 1023
    """Generate: of a sample; the context of a pair may allow fewer."""
    samples: int = 8
    """Generate: at once."""
    study_blocks: int = 4096
    """Joint vs marginal: of each sampler."""
    race_batch: int = 32
    """Timing: samples at once."""
    race_tokens: int = 192
    """Timing: new tokens of a sample."""
    race_repeats: int = 5
    """Timing: timed runs of a row."""
    run_seconds: int = 300
    """Of a text, a study or a race once it runs; then it stops, and what there is stays."""
    at_once: int = 1
    """Pages that Generate writes for at once; studies and races have one each."""
    queue: int = 16
    """Pages that wait for Generate, for a study or for a race, each; one place per session."""
    questions: int = 64
    """Questions of sliders that wait for the models, or for one pair to load; more are refused with Busy."""
    client_requests: int = 4
    """Requests of one client that are answered at once; more wait. A client is an address, or a session where the
    address is private: see `clients.client_of`."""
    pages: int = 200
    """Sessions whose last texts, race, study and fields are kept. The least recently used is dropped first, but none
    with running or waiting work: if all have some, a new session is refused."""
    contexts: int = 64
    """Prefilled prompts kept per pair, within `held_bytes`. With fewer than there are pages, prompts are prefilled
    again."""
    studies: int = 16
    """Studies kept."""
    held_bytes: int = 2**30
    """Of the contexts of a pair (as estimated), and of the studies; each keeps its last one whatever its size."""
    loaded_pairs: int = 2
    """Pairs in memory; the one that the page opens with stays."""
    idle_seconds: int = 3600
    """Idle time after which a context, study, pair (except the first) or a page's last texts and race are dropped."""
    pairs: tuple[str, ...] = tuple(name for name, pair in NAMED.items() if pair.repository or name in bundled_pairs())
    """On offer, beside the one that the page opens with; those that are not bundled are fetched on first use."""
    download_bytes: int = 4 * 2**30
    """Largest download of a repository that a visitor names, where `other_checkpoints` lets them."""
    other_checkpoints: bool = False
    """Whether the page may name any other pair: a folder of the server or an id of the hub."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if type(value) is int and value < 1:
                raise KfError(f"The limit {name} is {value}.", "a whole number of at least 1")
        longest = 12 * self.prompt_characters  # a character beyond the first plane, as JSON escapes it
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
            what: Of which there are so many, in words.
            value: How many.
            name: A field.
            least: Lower bound.

        Raises:
            KfError: it is not.
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
            raise KfError("The prompt is not text.", "whole characters")  # JSON can hold halves of them
        return prompt


DEFAULTS: Final = ServerLimits()


def limits_from(environment: Mapping[str, str] = os.environ) -> ServerLimits:
    """The defaults, but for what the environment says.

    Raises:
        KfError: a limit that there is not (near ones are named), one without a value, or a value that is none.
    """
    values: dict[str, Any] = {}
    for setting in filter(None, (part.strip() for part in environment.get(VARIABLE, "").split(","))):
        name, sign, text = (part.strip() for part in setting.partition("="))
        if not sign or not text:
            raise KfError(f"{VARIABLE} has {setting!r}.", "name=value, separated by commas")
        values[name] = text.split("+") if name == "pairs" else _plain(text)
    return from_dict(ServerLimits, values)


def _plain(text: str) -> Any:
    """A number or a yes or no, as YAML writes them."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
