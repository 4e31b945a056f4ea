"""Limits on what a tokenizer.json may ask the tokenizers library to do.

The library runs no code, but it does whatever a file says: a file of a few lines can turn one character into 2^40,
search a text for hours, build tables of gigabytes or abort the process. So a file may use what the families of GPT-2,
BERT and Llama use, and nothing else:

- a model with a vocabulary of token to id (BPE, WordPiece, WordLevel) and without dropout;
- a few steps of the types in `STEPS`, with the parameters listed there, which together lengthen a text little;
- the regular expressions of `PATTERNS`;
- short tokens, and few added ones.

What passes takes a few seconds at most, measured on texts of 20,000 characters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer

from kfexplore.checkpoints.files import shown
from kfexplore.config import MAX_VOCABULARY

MAX_STEPS = 16
"""Steps of all sections; the families have at most 9."""
MAX_STEPS_TEXT = 1 << 14
"""Characters of all steps as JSON; Llama 3's have about 2,500."""
MAX_STEP_STRING = 64
"""Characters of a parameter of a step."""
MAX_GROWTH = 72.0
"""Factor by which all steps together may lengthen a prompt: that of NFKC with ByteLevel, the largest of any family."""
BYTES = 4.0
"""Most bytes of a character; a model with `byte_fallback` can turn each into a token."""
MAX_DECODER_GROWTH = 2.0
"""The same for the decoder's steps on one token: that of WordPiece, the largest of any family."""
MAX_TOKEN = 1 << 9
"""Characters per token; the longest of Llama 3 and GPT-2 have 128. A server stores and sends thousands of tokens."""
MAX_ADDED_TEXT = 1 << 20
"""Characters of all added tokens after normalization; the library's table takes 70 bytes per character."""
MAX_WORD = 1 << 11
"""Characters of a word for WordPiece, whose time is quadratic in them, times the growth by earlier steps; BERT has
100 times 12."""

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = frozenset([_WORDS + "{1,3}" + _REST, _WORDS + _REST])
"""The patterns of Llama 3 (and GPT-4) and of Qwen. Any other could backtrack without end."""

Step = Mapping[str, Any]


def _inserted(step: Step) -> float:
    """Growth by a text inserted before each piece, which has at least one character."""
    return 1.0 + len(step.get("prepend") or "")


def _replaced(step: Step) -> float:
    pattern = step.get("pattern")
    least = len(pattern["String"]) if isinstance(pattern, dict) and isinstance(pattern.get("String"), str) else 0
    added = len(step.get("content") or "")
    return max(1.0, added / least) if least else 1.0 + added


def _subword(step: Step) -> float:
    """BPEDecoder replaces each suffix by a space; an empty suffix matches between all characters."""
    return 1.0 if step.get("suffix") else math.inf


STEPS: dict[str, dict[str, tuple[str, float | Callable[[Step], float]]]] = {
    "normalizer": {
        "Sequence": ("normalizers", 1.0),
        "NFC": ("", 3.0),
        "NFD": ("", 4.0),
        "NFKC": ("", 18.0),
        "NFKD": ("", 18.0),
        "Lowercase": ("", 2.0),
        "Strip": ("strip_left strip_right", 1.0),
        "StripAccents": ("", 1.0),
        "BertNormalizer": ("clean_text handle_chinese_chars strip_accents lowercase", 12.0),
        "Prepend": ("prepend", _inserted),
        "Replace": ("pattern content", _replaced),
    },
    "pre_tokenizer": {
        "Sequence": ("pretokenizers", 1.0),
        "ByteLevel": ("add_prefix_space trim_offsets use_regex", 4.0),
        "BertPreTokenizer": ("", 1.0),
        "Whitespace": ("", 1.0),
        "WhitespaceSplit": ("", 1.0),
        "Metaspace": ("replacement prepend_scheme split str_rep add_prefix_space", 2.0),
        "Split": ("pattern behavior invert", 1.0),
        "Digits": ("individual_digits", 1.0),
        "Punctuation": ("behavior", 1.0),
    },
    "decoder": {
        "Sequence": ("decoders", 1.0),
        "ByteLevel": ("add_prefix_space trim_offsets use_regex", 1.0),
        "WordPiece": ("prefix cleanup", 2.0),
        "Metaspace": ("replacement prepend_scheme split str_rep add_prefix_space", 1.0),
        "ByteFallback": ("", 1.0),
        "Fuse": ("", 1.0),
        "Strip": ("content start stop", 1.0),
        "Replace": ("pattern content", _replaced),
        "BPEDecoder": ("suffix", _subword),
    },
    "post_processor": {
        "Sequence": ("processors", 1.0),
        "ByteLevel": ("add_prefix_space trim_offsets use_regex", 1.0),
        "BertProcessing": ("sep cls", 1.0),
        "RobertaProcessing": ("sep cls trim_offsets add_prefix_space", 1.0),
        "TemplateProcessing": ("single pair special_tokens", 1.0),
    },
}
"""Step types by section: their parameters, and the largest factor by which a step lengthens a text, in characters (NFC
and similar: as Unicode guarantees; BertNormalizer: decomposition, and a space on each side of a Chinese character;
ByteLevel: one character per byte)."""

_MODELS = {
    "BPE": "dropout unk_token continuing_subword_prefix end_of_word_suffix fuse_unk byte_fallback ignore_merges merges",
    "WordPiece": "unk_token continuing_subword_prefix max_input_chars_per_word",
    "WordLevel": "unk_token",
}
"""Parameters by model type, apart from `type` and `vocab`."""


def check_pipeline(described: dict[str, Any]) -> None:
    """Checks the parsed content of a tokenizer.json.

    Raises:
        ValueError: the file has something that is not allowed; the message completes "FILE is not a tokenizer ...:".
    """
    model = _checked_model(described.get("model"))
    sections = {name: described.get(name) for name in STEPS}
    if len(json.dumps(sections)) > MAX_STEPS_TEXT:
        raise ValueError(f"its steps are described by more than {MAX_STEPS_TEXT:,} characters")
    growth = {name: math.prod(_growth(name, step) for step in _steps(sections[name])) for name in STEPS}
    before = growth["normalizer"] * growth["pre_tokenizer"]
    if before * (BYTES if model.get("byte_fallback") else 1.0) > MAX_GROWTH:
        raise ValueError(f"its steps can make a text more than {MAX_GROWTH:.0f} times as long")
    longest = model.get("max_input_chars_per_word", 100)
    if model.get("type") == "WordPiece" and not 0 < longest * before <= MAX_WORD:
        most = f"{MAX_WORD / before:,.0f}"
        raise ValueError(f"its model splits words of {longest} characters; at most {most} are allowed")
    if growth["decoder"] > MAX_DECODER_GROWTH:
        raise ValueError(f"its decoder can make a token more than {MAX_DECODER_GROWTH:.0f} times as long")
    if sum(1 for section in sections.values() for _ in _steps(section)) > MAX_STEPS:
        raise ValueError(f"it has more than {MAX_STEPS} steps")
    added = [token.get("content") for token in described.get("added_tokens") or [] if isinstance(token, dict)]
    _check_tokens(added)
    if sum(len(text) for text in added if isinstance(text, str)) * growth["normalizer"] > MAX_ADDED_TEXT:
        raise ValueError(f"its added tokens can have more than {MAX_ADDED_TEXT:,} characters")


def check_added(tokenizer: Tokenizer) -> None:
    """Checks the added tokens of a tokenizer that passed `check_pipeline`.

    Raises:
        ValueError: after normalization, a token is empty, or is only spaces and strips those around it: the library
            would search a text for ever, or in quadratic time.
    """
    for token in tokenizer.get_added_tokens_decoder().values():
        normalizer = tokenizer.normalizer if token.normalized else None
        text = normalizer.normalize_str(token.content) if normalizer else token.content
        if not (text.strip() if token.lstrip or token.rstrip else text):
            raise ValueError(
                f"its added token {shown(ascii(token.content))} is nothing but spaces once it is normalized"
            )


def _checked_model(model: Any) -> dict[str, Any]:
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if kind == "Unigram":
        raise ValueError("its model is of the kind Unigram (SentencePiece)")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or not model["vocab"]:
        raise ValueError("its model has no vocabulary of token to id")
    if len(model["vocab"]) > MAX_VOCABULARY:
        raise ValueError(f"its model has more than {MAX_VOCABULARY:,} tokens")
    if kind not in _MODELS:
        raise ValueError(f"its model is of the unknown kind {shown(kind)}")
    _check_names(f"its model, {kind},", model, {"type", "vocab", *_MODELS[kind].split()})
    if model.get("dropout"):
        raise ValueError("its model drops merges at random, so a text's tokens are not fixed")
    longest = model.get("max_input_chars_per_word", 100)
    if type(longest) is not int:
        raise ValueError(f"its model splits words of {shown(longest)} characters; a whole number is needed")
    affixes = [model.get(name) or "" for name in ("continuing_subword_prefix", "end_of_word_suffix")]
    if not all(isinstance(text, str) and len(text) <= MAX_STEP_STRING for text in affixes):
        raise ValueError(f"a prefix or suffix of its words is not a text of at most {MAX_STEP_STRING} characters")
    _check_tokens(model["vocab"])
    return model


def _check_tokens(texts: Any) -> None:
    if any(isinstance(text, str) and len(text) > MAX_TOKEN for text in texts):
        raise ValueError(f"it has a token of more than {MAX_TOKEN:,} characters")


def _check_names(what: str, found: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(found.keys() - known)
    if unknown:
        raise ValueError(f"{what} has an unknown parameter, {shown(unknown[0])}")


def _steps(section: Any) -> Iterator[dict[str, Any]]:
    """The steps of a section, including those of nested sequences."""
    waiting = [] if section is None else [section]
    while waiting:
        step = waiting.pop()
        if not isinstance(step, dict) or not isinstance(step.get("type"), str):
            raise ValueError("one of its steps has no type")
        yield step
        if step["type"] == "Sequence":
            waiting += [inner for name, inside in step.items() if name != "type" for inner in inside or []]


def _growth(section: str, step: Step) -> float:
    """Checks a step; returns the largest factor by which it lengthens a text."""
    kind = step["type"]
    if kind == "Precompiled":
        raise ValueError("it has a compiled table of characters (Precompiled)")
    if kind not in STEPS[section]:
        raise ValueError(f"its {section} has a step of the unknown type {shown(kind)}")
    parameters, growth = STEPS[section][kind]
    _check_names(f"its step {kind}", step, {"type", *parameters.split()})
    if kind == "TemplateProcessing":  # its special tokens are never added to a prompt here
        if [piece["Sequence"]["id"] for piece in step["single"] if "Sequence" in piece] != ["A"]:
            raise ValueError("its template does not have the text once")
        return 1.0
    for name, value in step.items():
        texts = [value] if isinstance(value, str) else list(value.values()) if name == "pattern" else []
        for text in texts:
            if isinstance(text, str) and len(text) > MAX_STEP_STRING and text not in PATTERNS:
                raise ValueError(f"a parameter of its step {kind} has more than {MAX_STEP_STRING} characters")
    pattern = step.get("pattern")
    if isinstance(pattern, dict) and "Regex" in pattern and pattern["Regex"] not in PATTERNS:
        raise ValueError(f"it has an unknown regular expression, {shown(pattern['Regex'])}")
    return growth(step) if callable(growth) else growth
