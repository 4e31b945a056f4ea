"""Loads tokenizers safely, and turns text into token ids and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from kfexplore.checkpoints.files import SLOW_FILES, TOKENIZER_FILE, by_hand, given, json_object, read_text, shown
from kfexplore.checkpoints.hub import fetch_file
from kfexplore.checkpoints.tokenizer_checks import check_added, check_pipeline
from kfexplore.errors import KfError

MAX_TOKENIZER_BYTES = 40 << 20
"""Llama 3's file has 17 MB, Gemma 3's 33 MB. The library's tables take up to ten times the file's size."""
FAMILIES = "the tokenizers library, like those of GPT-2, BERT and Llama: BPE, WordPiece or WordLevel"
END_OF_TEXT = "<|endoftext|>"
FRAMES = (
    ("<|begin_of_text|>", "<|end_of_text|>"),
    ("<bos>", "<eos>"),
    ("", END_OF_TEXT),
    ("[CLS]", "[SEP]"),
    ("<s>", "</s>"),
)
"""First and last token of a document in training, by tokenizer family: Llama 3, Gemma, GPT-2, BERT, Llama."""
ENDS_OF_TEXT = tuple(closing for _, closing in FRAMES)
"""Tokens that end a text."""
REVISIONS = {
    "gpt2": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    "bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
}
"""Commits of the published pairs' tokenizers; for any other name, the newest commit is used."""
LONGEST_CHARACTER = 4
"""Most bytes of a UTF-8 character, and so the most tokens that it can be split into."""
REMEMBERED = 2**16
"""Most pieces that a `Spelling` caches."""


def document_frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids before and after a document in training; both empty if the tokenizer has no such tokens."""
    vocabulary = tokenizer.get_vocab()
    for opening, closing in FRAMES:
        if closing in vocabulary and (not opening or opening in vocabulary):
            return [vocabulary[opening]] if opening else [], [vocabulary[closing]]
    return [], []


def load_tokenizer(path_or_name: str | Path) -> Tokenizer:
    """A tokenizer from a tokenizer.json, a folder that has one, or a hub name such as `gpt2`.

    The tokenizer.json of a hub name is looked up in the folder for files downloaded by hand (`files.by_hand`), then
    fetched.

    Raises:
        KfError: the file is missing, too large, not a tokenizer, or refused by `tokenizer_checks`; the hub has none or
            cannot be reached.
    """
    path = given(path_or_name)
    if path.is_dir():
        path = path / TOKENIZER_FILE
        if not path.is_file() and (missing := slow_only(path.parent)):
            raise missing
    name = str(path_or_name)
    if path.is_file():
        return _from_file(path)
    is_name = isinstance(path_or_name, str) and re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name)
    if path.suffix == ".json" or not is_name:
        raise KfError(f"There is no tokenizer file {path}.", f"a {TOKENIZER_FILE} or a hub name", "check the path")
    return _from_file(fetch_file(name, REVISIONS.get(name), TOKENIZER_FILE, by_hand(name), [TOKENIZER_FILE]))


def own_tokenizer(given: Any) -> Tokenizer:
    """Converts a user's tokenizer for the functions here: from a transformers tokenizer, a copy of its fast backend.

    Raises:
        KfError: it has no fast version.
    """
    if isinstance(given, Tokenizer):
        return given
    fast = getattr(given, "backend_tokenizer", None)
    if not isinstance(fast, Tokenizer):
        raise KfError("The tokenizer has no fast version.", f"a tokenizer with a {TOKENIZER_FILE}")
    return _as_used(Tokenizer.from_str(fast.to_str()))


def slow_only(folder: Path) -> KfError | None:
    """The error for a folder that has only a slow transformers tokenizer; None if it has no such files."""
    found = [name for name in SLOW_FILES if (folder / name).is_file()]
    if not found:
        return None
    return KfError(
        f"{folder} has only a slow tokenizer: {', '.join(found)} without a {TOKENIZER_FILE}.",
        f"a {TOKENIZER_FILE} of {FAMILIES}; or token ids instead of text",
        "convert it: transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
    )


def encode_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text, with no special tokens added."""
    try:
        text.encode()
    except UnicodeEncodeError as error:  # an argument in another encoding, or half a surrogate pair
        place = f"character {error.start + 1} is {text[error.start]!a}"
        raise KfError(f"The text is not valid Unicode: {place}.", "text in UTF-8") from None
    with _refused("The tokenizer cannot encode this text", f"another text, or an undamaged {TOKENIZER_FILE}"):
        return tokenizer.encode(text, add_special_tokens=False).ids


def decode_ids(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of token ids with special tokens, spaces unchanged."""
    with _refused("The tokenizer cannot decode its own tokens", f"an undamaged {TOKENIZER_FILE}"):
        return tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)


def continuation(tokenizer: Tokenizer, ids: Iterable[int], before: Sequence[int]) -> str:
    """The text of token ids `ids` after the token ids `before`, with its leading space.

    Decoders of the SentencePiece and BERT families drop the space at the beginning of a text.
    """
    ids, last = list(ids), list(before[-1:])
    start, whole = decode_ids(tokenizer, last), decode_ids(tokenizer, [*last, *ids])
    return whole[len(start) :] if whole.startswith(start) else decode_ids(tokenizer, ids)


def token_texts(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """Each token's own text with its leading space; `<id>` for an unknown one (the mask).

    Part of a character becomes the replacement character U+FFFD.
    """
    return [_token_text(tokenizer, int(i)) for i in ids]


def plain_text(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of token ids without special tokens; documents that these separate are joined by a space."""
    special = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    documents = list[list[int]]([[]])
    for token in map(int, ids):
        if token in special:
            documents.append([])
        else:
            documents[-1].append(token)
    return " ".join(decode_ids(tokenizer, document) for document in documents if document)


def end_of_text(tokenizer: Tokenizer) -> int | None:
    """The id of the first of `ENDS_OF_TEXT` that the tokenizer has, or None."""
    vocabulary = tokenizer.get_vocab()
    return next((vocabulary[name] for name in ENDS_OF_TEXT if name in vocabulary), None)


class Spelling:
    """Each token's part of a running text, which may differ from the token's own text.

    A character may be split into tokens that cannot be read alone, and tokenizers of the BERT family write a space
    before a word only after other text. Pieces are cached: the app spells the same text repeatedly while it grows.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {}

    def pieces(self, ids: list[int], before: list[int]) -> list[str]:
        """One piece per token of `ids` after the token ids `before`; "" if later tokens complete its character."""
        pieces: list[str] = []
        last, open_ids = tuple(before[-1:]), tuple[int, ...]()
        for n, token in enumerate(ids):
            open_ids = (*open_ids, token)
            piece = self._piece(last, open_ids)
            if piece.endswith("\ufffd") and len(open_ids) < LONGEST_CHARACTER and n + 1 < len(ids):
                pieces.append("")
                continue
            pieces.append(piece)
            last, open_ids = open_ids, ()
        return pieces

    def _piece(self, last: tuple[int, ...], ids: tuple[int, ...]) -> str:
        key = last, ids
        if key not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            before, now = (decode_ids(self._tokenizer, each) for each in (last, last + ids))
            piece = now[len(before) :] if now.startswith(before) else ""
            self._known[key] = piece or "".join(_token_text(self._tokenizer, token) for token in ids)
        return self._known[key]


def highest_id(tokenizer: Tokenizer, added: bool = True) -> int:
    """The largest token id of a tokenizer; with `added`, including added tokens such as padding."""
    return max(tokenizer.get_vocab(with_added_tokens=added).values())


def _token_text(tokenizer: Tokenizer, token: int) -> str:
    piece = tokenizer.id_to_token(token)
    if piece is None:
        return f"<{token}>"
    text = decode_ids(tokenizer, [token])
    # SentencePiece decoders drop the space at the beginning of a text.
    return f" {text}" if piece.startswith("\u2581") and not text.startswith(" ") else text


@contextmanager
def _refused(failed: str, valid: str) -> Iterator[None]:
    """Turns whatever the library raises into a KfError, including panics, which are not Exceptions."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise KfError(f"{failed}: {shown(error, 300).rstrip('.')}.", valid) from error


def _from_file(path: Path) -> Tokenizer:
    text = read_text(path, MAX_TOKENIZER_BYTES)
    with _refused(f"{path} is not a tokenizer that can be used", f"a {TOKENIZER_FILE} of {FAMILIES}"):
        check_pipeline(json_object(text))
        tokenizer = Tokenizer.from_str(text)
        check_added(tokenizer)
    return _as_used(tokenizer)


def _as_used(tokenizer: Tokenizer) -> Tokenizer:
    """Turns off padding and truncation: a file can ask for 10^12 tokens of padding."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    decoder: Any = tokenizer.decoder
    if hasattr(decoder, "cleanup"):
        decoder.cleanup = False  # keeps the space before a full stop, in BERT's family; decode has no option for it
    return tokenizer
