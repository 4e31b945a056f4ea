"""Tokenizers of both libraries (`tokenizers` and `transformers`) behind a few functions."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer

from kfexplore.checkpoints.places import by_hand
from kfexplore.errors import KfError

TOKENIZER_FILE = "tokenizer.json"
MAX_TOKENIZER_BYTES = 64 << 20


class AnyTokenizer(Protocol):
    """What `tokenizers.Tokenizer` and the tokenizers of transformers have in common."""

    def encode(self, text: Any, /, *, add_special_tokens: bool = True) -> Any: ...

    def decode(self, ids: Any, /, *, skip_special_tokens: bool = True) -> Any: ...

    def get_vocab(self) -> dict[str, int]: ...


def load_tokenizer(path_or_name: str | Path) -> AnyTokenizer:
    """A tokenizer from a tokenizer.json, a folder that has one, or a hub name such as `gpt2`.

    A hub name is looked up in the folder for files put there by hand first (`places.by_hand`), and then
    fetched by transformers, without remote code.

    Raises:
        KfError: the file is missing, larger than 64 MiB or not a tokenizer; the hub has none or cannot be
            reached.
    """
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        path = path / TOKENIZER_FILE
    name = str(path_or_name)
    if path.is_file():
        return _from_file(path)
    is_name = isinstance(path_or_name, str) and re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name)
    if path.suffix == ".json" or not is_name:
        raise KfError(f"There is no tokenizer file {path}.", f"a {TOKENIZER_FILE} or a hub name", "check the path")
    held = by_hand(name) / TOKENIZER_FILE
    return _from_file(held) if held.is_file() else _from_hub(name)


def encode_ids(tokenizer: AnyTokenizer, text: str) -> list[int]:
    """Token ids of a text, with no special tokens added."""
    encoded = tokenizer.encode(text, add_special_tokens=False)
    return [int(i) for i in getattr(encoded, "ids", encoded)]


def decode_ids(tokenizer: AnyTokenizer, ids: Iterable[int]) -> str:
    """The text of token ids, special tokens shown, spaces as they are."""
    options = {"skip_special_tokens": False}
    if not isinstance(tokenizer, Tokenizer):
        options["clean_up_tokenization_spaces"] = False
    return str(tokenizer.decode([int(i) for i in ids], **options))


def token_texts(tokenizer: AnyTokenizer, ids: Iterable[int]) -> list[str]:
    """Each token's own text, leading space included; `<id>` for one that the tokenizer has not (the mask).

    A token that is part of a character has the replacement character U+FFFD for it.
    """
    return [_token_text(tokenizer, int(i)) for i in ids]


def highest_id(tokenizer: AnyTokenizer) -> int:
    """The largest token id, added tokens included."""
    return max(tokenizer.get_vocab().values())


def _token_text(tokenizer: Any, token: int) -> str:
    ours = isinstance(tokenizer, Tokenizer)
    piece = tokenizer.id_to_token(token) if ours else tokenizer.convert_ids_to_tokens(token)
    if piece is None:
        return f"<{token}>"
    text = decode_ids(tokenizer, [token])
    # Decoders of the sentence-piece family drop the space that begins a text.
    return f" {text}" if piece.startswith("\u2581") and not text.startswith(" ") else text


def _from_file(path: Path) -> AnyTokenizer:
    size = path.stat().st_size
    if size > MAX_TOKENIZER_BYTES:
        raise KfError(f"{path} has {size >> 20} MiB.", f"a tokenizer of at most {MAX_TOKENIZER_BYTES >> 20} MiB")
    try:
        return _without_cleanup(Tokenizer.from_file(str(path)))
    except Exception as error:  # the library raises plain Exception for whatever it cannot parse
        raise KfError(
            f"{path} is not a tokenizer: {error}.", f"a {TOKENIZER_FILE} of the tokenizers library"
        ) from error


def _from_hub(name: str) -> AnyTokenizer:
    transformers = importlib.import_module("transformers")  # slow to import, needed for hub names only
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # no connection, no such name, a broken file: there is no tokenizer
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise KfError(
            f"The tokenizer {name!r} is not here and cannot be fetched: {reason}",
            f"a {TOKENIZER_FILE} file, or a hub name",
            f"put https://huggingface.co/{name}/resolve/main/{TOKENIZER_FILE} into {by_hand(name)}",
        ) from error
    return _without_cleanup(tokenizer)


def _without_cleanup(tokenizer: Any) -> AnyTokenizer:
    """Tells the decoder of the BERT family to leave the space before a full stop, which no option of decode does."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", tokenizer), "decoder", None)
    if decoder is not None and hasattr(decoder, "cleanup"):
        decoder.cleanup = False
    found: AnyTokenizer = tokenizer
    return found
