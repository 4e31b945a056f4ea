"""The Hugging Face hub: checks that it answers, fetches files and turns failures into user errors."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants, get_session
from huggingface_hub.errors import LocalEntryNotFoundError

from kfexplore.checkpoints.files import (
    CARD_FILES,
    CONFIG_FILE,
    INDEX_FILE,
    INFO_FILE,
    SLOW_FILES,
    TOKENIZER_FILE,
    TRAINING_FILE,
    WEIGHT_SUFFIXES,
    WEIGHTS_FILE,
    by_hand,
)
from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import KfError, reason

PATIENCE: Final = 5.0
"""Seconds to wait for the hub. By default the libraries retry six times per address, for a minute or two."""
MAX_FILES: Final = 256
"""Most files fetched from a repository when its size is limited: even a small file takes a request."""
ROLES = ("teacher", "student", "masked")
FETCHED = [f"{role}{rest}" for role in ROLES for rest in ("/*", ".*")]
FETCHED += [TOKENIZER_FILE, TRAINING_FILE, INFO_FILE, *CARD_FILES]
FETCHED += [CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE, "model-*-of-*.safetensors", "model.safetensors-*-of-*.safetensors"]
FETCHED += SLOW_FILES
"""Files of a repository that are fetched; from config.json on, those of transformers models."""


class Unreachable(KfError):
    """The file is not in the cache and the hub cannot be reached."""


@contextmanager
def fetching(failed: str, valid: str, run: str, asks: bool = True) -> Iterator[bool]:
    """Turns whatever a download raises into a user error.

    Yields `local_files_only` for the libraries: True if the hub does not answer.

    Args:
        failed: What failed; the reason is appended.
        valid, run: As in KfError.
        asks: False for a local folder: the hub is not contacted.

    Raises:
        Unreachable: there is no connection, and no earlier copy.
        KfError: no such name, no permission, no space on the disk.
    """
    lost = ""
    try:
        if asks:
            check_hub()
    except ConnectionError as error:
        lost = reason(error)
    try:
        yield bool(lost) or not asks
    except KfError:
        raise
    except Exception as error:
        if lost or isinstance(error, ConnectionError | LocalEntryNotFoundError):
            lost = lost or reason(error)
            raise Unreachable(f"{failed}: {hub_name()} could not be reached ({lost})", valid, run) from error
        raise KfError(f"{failed}: {reason(error)}", valid, run) from error


def hub_name() -> str:
    """Host of the hub: huggingface.co, or the mirror in HF_ENDPOINT."""
    return urlsplit(constants.ENDPOINT).hostname or constants.ENDPOINT


def check_hub(patience: float = PATIENCE) -> None:
    """Raises ConnectionError unless the hub answers within `patience` seconds; any HTTP status counts as an answer."""
    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=patience)
            answers.append(None)
        except Exception as error:
            answers.append(error)

    # In a thread: no timeout covers the name lookup, nor all addresses together.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience)
    if not answers:
        raise ConnectionError(f"no answer within {patience:g} s")
    if answers[0] is not None:
        raise ConnectionError(str(answers[0])) from answers[0]


def is_repository(name: str | Path) -> bool:
    """Whether a pair's name means `owner/name` on the hub, rather than a path whose first folder exists."""
    if isinstance(name, Path) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        return False
    return not Path(name.split("/")[0]).exists() and not name.endswith(WEIGHT_SUFFIXES)


def fetch_pair(name: str | Path, max_bytes: int | None = None, **options: Any) -> str | Path:
    """The folder of a pair's repository: downloaded by hand (`files.by_hand`), or else fetched.

    Args:
        name: `owner/name` on the hub (`is_repository`); any other name or path is returned unchanged.
        max_bytes: Largest download, checked before it starts along with `MAX_FILES`. None: no limit on either.
        options: Passed to `huggingface_hub.snapshot_download`: revision, token, cache_dir, force_download, ...

    Raises:
        KfError: it is not stored here and cannot be fetched, is larger than `max_bytes` or has too many files.
    """
    if not is_repository(name):
        return name
    repository = str(name)
    folder = by_hand(repository)
    if folder.is_dir():
        return folder
    with fetching(
        f"There is no folder {repository}, and the hub's repository of that name cannot be fetched",
        f"a folder, a repository of a pair and a connection to the hub, or its files in {folder}",
        f"use the pair {DEFAULT_PAIR}, which needs no download",
    ) as local:
        options |= {"local_files_only": True} if local else {}
        if max_bytes is not None and not local:
            options["revision"] = _revision_within(repository, max_bytes, options.get("revision"))
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=FETCHED, **options))


def _revision_within(repository: str, max_bytes: int, revision: str | None) -> str | None:
    """Checks a repository's size and returns the commit that was checked, so that no other one is fetched."""
    found = huggingface_hub.HfApi().model_info(repository, revision=revision, files_metadata=True)
    fetched = [file for file in found.siblings or [] if any(fnmatch(file.rfilename, pattern) for pattern in FETCHED)]
    if len(fetched) > MAX_FILES:
        raise KfError(f"The repository {repository} has {len(fetched):,} files of models.", f"at most {MAX_FILES} here")
    size = sum(file.size or 0 for file in fetched)
    if size > max_bytes:
        raise KfError(
            f"The repository {repository} has {size / 1e9:.1f} GB of models.", f"at most {max_bytes / 1e9:.1f} GB here"
        )
    return found.sha


def fetch_file(repository: str, revision: str | None, file: str, folder: Path, needed: list[str]) -> Path:
    """A file downloaded by hand into `folder`, else from the hub's cache (if `revision` is a commit), else fetched."""
    if (folder / file).is_file():
        return folder / file
    cached = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision) if revision else None
    if isinstance(cached, str):
        return Path(cached)
    with fetching(
        f"{file} of {repository} is not here and cannot be fetched",
        f"a connection to the hub (or HF_ENDPOINT, a mirror), or the files {', '.join(needed)} in the folder {folder}",
        f"download them by hand from https://huggingface.co/{repository}/tree/{revision or 'main'}",
    ) as local:
        return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision, local_files_only=local))
