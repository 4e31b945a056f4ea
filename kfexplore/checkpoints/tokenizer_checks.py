"""What a tokenizer.json may ask of the tokenizers library, which does whatever a file says.

The library runs no code, but a file of a few lines can make it write 2^40 characters for one, search a text for hours,
or build tables of gigabytes. So a file may have what the families of GPT-2, BERT and Llama have:

- a model with a vocabulary of token to id (BPE, WordPiece, WordLevel), which draws nothing at random;
- steps on the text (normalizer, pre_tokenizer, decoder) of a known kind each, that lengthen it little;
- regular expressions of `PATTERNS` alone, and no compiled tables of characters;
- few added tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from kfexplore.checkpoints.quoting import shown

MAX_STEPS_TEXT = 1 << 14
"""Characters of all steps as JSON; Llama 3's have about 2,500."""
MAX_GROWTH = 64.0
"""Times that all steps together may lengthen a text."""
MAX_ADDED_TEXT = 1 << 18
"""Characters of all added tokens, which the library builds a table of."""

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = frozenset([_WORDS + "{1,3}" + _REST, _WORDS + _REST])
"""Of Llama 3 (and GPT-4) and of Qwen. Any other could search for ever."""

_STEPS = ("normalizer", "pre_tokenizer", "decoder")
_LISTS = ("normalizers", "pretokenizers", "decoders")


def check_pipeline(described: dict[str, Any]) -> None:
    """Raises ValueError that says what a tokenizer.json, as read, has and may not have."""
    model, added = described.get("model"), described.get("added_tokens")
    if isinstance(model, dict) and model.get("type") == "Unigram":
        raise ValueError("its model is of the kind Unigram (SentencePiece)")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or not model["vocab"]:
        raise ValueError("its model has no vocabulary of token to id")
    if model.get("dropout"):
        raise ValueError("its model drops merges at random, so a text has no tokens of its own")
    texts = [token.get("content") for token in added or [] if isinstance(token, dict)]
    if sum(len(text) for text in texts if isinstance(text, str)) > MAX_ADDED_TEXT:
        raise ValueError(f"its added tokens have more than {MAX_ADDED_TEXT:,} characters")
    growth = 1.0
    for section in _STEPS:
        for step in _steps(described.get(section)):
            growth *= _growth(step)
    if growth > MAX_GROWTH:
        raise ValueError(f"its steps can make a text more than {MAX_GROWTH:.0f} times as long")
    steps = {name: described.get(name) for name in (*_STEPS, "post_processor")}
    if len(json.dumps(steps)) > MAX_STEPS_TEXT:
        raise ValueError(f"its steps are described by more than {MAX_STEPS_TEXT:,} characters")


def _steps(section: Any) -> Iterator[dict[str, Any]]:
    """The steps of a section, those of sequences within sequences included."""
    waiting = [] if section is None else [section]
    while waiting:
        step = waiting.pop()
        if not isinstance(step, dict) or not isinstance(step.get("type"), str):
            raise ValueError("one of its steps has no type")
        waiting += [inner for name in _LISTS for inner in step.get(name) or []]
        yield step


def _growth(step: dict[str, Any]) -> float:
    """How many times as long a step makes a text, at most."""
    if step["type"] == "Precompiled":
        raise ValueError("it has a compiled table of characters (Precompiled)")
    if step["type"] == "ByteLevel":
        return 2.0  # a byte beyond ASCII becomes a character of two
    pattern, content = step.get("pattern"), step.get("content")
    if isinstance(pattern, dict) and "Regex" in pattern and pattern["Regex"] not in PATTERNS:
        raise ValueError(f"it has a regular expression of its own, {shown(pattern['Regex'])}")
    if step["type"] != "Replace":
        return 1.0
    least = len(pattern["String"]) if isinstance(pattern, dict) and isinstance(pattern.get("String"), str) else 0
    added = len(content) if isinstance(content, str) else 0
    return max(1.0, added / least) if least else 1.0 + added
