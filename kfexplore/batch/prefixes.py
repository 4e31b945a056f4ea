"""A file of prefixes: one JSON object a line, `{"prefix": text}`."""

from __future__ import annotations

import json
from pathlib import Path

from kfexplore.checkpoints.tokenizers import AnyTokenizer, encode_ids
from kfexplore.errors import KfError

LINE = '{"prefix": "some words"}'


def read_prefixes(path: Path, tokenizer: AnyTokenizer, length: int | None) -> tuple[list[list[int]], int]:
    """The first `length` tokens of every prefix (None: all), without special tokens, and how many prefixes had more.

    Empty lines are passed over.

    Raises:
        KfError: the file cannot be read or is empty; by its number, a line that is not JSON, has no text `prefix`, or
            one of fewer tokens.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise KfError(
            f"The prefix file {path} cannot be read: {error.strerror}.", f"JSON lines: {LINE}", "--prefix_file FILE"
        ) from None
    except UnicodeDecodeError as error:
        raise KfError(f"The prefix file {path} is not UTF-8: {error.reason}.", f"JSON lines: {LINE}") from None
    found = []
    for number, line in enumerate(text.split("\n"), start=1):  # a JSON text may hold U+2028, where splitlines parts it
        if line.strip():
            found.append(_prefix(f"{path}, line {number}", line, tokenizer, length or 1))
    if not found:
        raise KfError(f"The prefix file {path} is empty.", f"JSON lines: {LINE}")
    return [ids[:length] for ids in found], sum(len(ids) > (length or len(ids)) for ids in found)


def _prefix(where: str, line: str, tokenizer: AnyTokenizer, length: int) -> list[int]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise KfError(f"{where}, is not JSON: {error}.", LINE) from None
    text = value.get("prefix") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise KfError(f'{where}, has no text "prefix".', LINE)
    try:
        ids = encode_ids(tokenizer, text)
    except KfError:  # half a surrogate pair, which JSON can write and no text can hold
        raise KfError(f"{where}, has a prefix that is no text.", LINE) from None
    if len(ids) < length:
        raise KfError(
            f"{where}, has a prefix of {len(ids)} tokens.",
            f"at least {length}",
            f"a longer one, or --prefix-len {len(ids)}" if ids else "a longer one",
        )
    return ids
