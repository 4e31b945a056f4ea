"""Hostile and broken inputs by name: what each builds in an empty folder, and what its refusal says."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kfexplore.checkpoints.saving import save_model

from .hostile_causal import CAUSAL, causal
from .hostile_weights import WEIGHTS, Build, Hostile, saved, written
from .synthetic import config, model, tokenizer, weights, write_config

SECRET = "password-of-another-file"

# Folders: links, pipes, config.json.


def beside(**values: Any) -> Build:
    """A sound student beside a config.json."""

    def build(folder: Path) -> Path:
        save_model(model("student"), folder)
        write_config(folder, **values)
        return folder

    return build


def raw_config(data: bytes) -> Build:
    return lambda folder: written(beside()(folder) / "config.json", data).parent


def linked(name: str, target: str, opcode: str = "") -> Build:
    """A link; `opcode` makes the text of secret.txt begin as a pickle does."""

    def build(folder: Path) -> Path:
        (folder / "secret.txt").write_text(f"{opcode}{SECRET}\n")
        (folder / name).symlink_to(target)
        return folder / name

    return build


def no_file(name: str, make: Callable[[Path], None], within: Build = lambda folder: folder) -> Build:
    """Something that is no file, where one is looked for."""

    def build(folder: Path) -> Path:
        found = within(folder)
        (folder / name).unlink(missing_ok=True)
        make(folder / name)
        return found

    return build


def shards(folder: Path) -> Path:
    index = {"weight_map": {"vocab_embed.embedding": "../../../etc/passwd", "x": "/etc/passwd"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def pair(folder: Path) -> Path:
    for role in ("teacher", "student"):
        save_model(model(role), folder / role)
    return folder


def small(**changed: Any) -> Build:
    """A teacher of another shape, alone in a pair."""
    return lambda folder: save_model(model(**changed), folder / "teacher").parent


def mask_alone(folder: Path) -> Path:
    """A model with one row."""
    cut = ("vocab_embed.", "output_layer.linear.")
    state = {name: tensor[:1].clone() if name.startswith(cut) else tensor for name, tensor in weights(rows=2).items()}
    torch.save(state, folder / "m.ckpt")
    return folder / "m.ckpt"


FOLDERS = {
    "a link in a circle": Hostile(linked("m.ckpt", "m.ckpt"), "no file"),
    "a link to nothing": Hostile(linked("m.ckpt", "../gone.ckpt"), "no file"),
    "a link to an endless device": Hostile(linked("m.ckpt", "/dev/zero"), "is empty"),
    "a link to another file": Hostile(linked("m.ckpt", "secret.txt"), "cannot be read"),
    **{
        f"a link to a text that begins with {opcode}": Hostile(linked("m.ckpt", "secret.txt", opcode), "cannot be read")
        for opcode in "FISg"
    },
    "a pipe": Hostile(lambda f: no_file("m.ckpt", os.mkfifo)(f) / "m.ckpt", "is empty"),
    "a pipe in a folder": Hostile(no_file("model.safetensors", os.mkfifo), "no checkpoint file"),
    "a folder named as a file": Hostile(no_file("model.safetensors", Path.mkdir), "no checkpoint file"),
    "shards elsewhere": Hostile(shards, "no checkpoint file"),
    "a path of no user": Hostile(lambda _: Path("~nobody-has-this-name/m.ckpt"), "cannot be a path here"),
    "a path that is too long": Hostile(lambda f: f / ("a" * 5000), "cannot be a path here"),
    "a pipe as config.json": Hostile(no_file("config.json", os.mkfifo, beside()), "is not a file"),
    "a folder as config.json": Hostile(no_file("config.json", Path.mkdir, beside()), "is not a file"),
    "a config.json that links to nothing": Hostile(
        no_file("config.json", lambda path: path.symlink_to("/gone/config.json"), beside()), "is not a file"
    ),
    "a config.json that links elsewhere": Hostile(
        no_file("config.json", lambda path: path.symlink_to("/etc/hostname"), beside()), "cannot be read"
    ),
    "a path in config.json": Hostile(beside(tokenizer="../../../etc/passwd"), "no setting 'tokenizer'"),
    "code in config.json": Hostile(beside(auto_map={"AutoModel": "evil.Model"}), "no setting 'auto_map'"),
    "a context of 10^12": Hostile(beside(context=10**12), "context is 1000000000000"),
    "a context of 2^30": Hostile(beside(context=2**30), "context is 1073741824"),
    "a context of 1e300": Hostile(beside(context=1e300), r"context is 1e\+300"),
    "a block of a million": Hostile(beside(block=10**6), "block is 1000000"),
    "a depth of a million": Hostile(beside(depth=10**6), "depth is 1000000"),
    "a vocabulary that a file can hold and memory cannot": Hostile(
        small(rows=1_000_000, width=2, heads=1, depth=1), "vocab_size is 1000000"
    ),
    "heads by the thousand": Hostile(small(width=1024, heads=512, depth=1), "heads is 512"),
    "a vocabulary of the mask alone": Hostile(mask_alone, "vocab_size is 1"),
    "a context without room": Hostile(small(context=8), "has no room for a prompt"),
    "heads that do not divide": Hostile(beside(heads=3), "does not give 3 heads"),
    "no heads": Hostile(beside(heads=0), "heads is 0"),
    "a truth value": Hostile(beside(width=True), "width is True"),
    "a setting of 4,000 digits": Hostile(beside(mask_id=10**4000), r"mask_id is 1000+\.\.\."),
    "a setting of 5,000 digits": Hostile(raw_config(b'{"context":' + b"9" * 5000 + b"}"), "cannot be read"),
    "no number": Hostile(raw_config(b'{"context": NaN}'), "context is nan"),
    "a setting with a long name": Hostile(beside(**{"\x1b[2J\n" + "x" * 100_000: 1}), "has no setting"),
    "a setting given twice": Hostile(raw_config(b'{"context": 64, "context": 4096}'), "key context twice"),
    "config.json nested a million times": Hostile(raw_config(b'{"a":' + b"[" * 1_000_000), "too deeply"),
    "config.json of two megabytes": Hostile(raw_config(b" " * (2 << 20) + b"{}"), "more than 1048576 bytes"),
    "config.json in no encoding": Hostile(raw_config(b'{"context": "\xff\xfe"}'), "cannot be read"),
}

# Tokenizers.


def json_tokenizer(steps: dict[str, Any] | None = None, **changed: Any) -> Build:
    """A sound tokenizer.json with other steps, and other parts of its model."""

    def build(folder: Path) -> Path:
        described = json.loads(tokenizer().to_str()) | (steps or {})
        described["model"] = {k: v for k, v in (described["model"] | changed).items() if v is not None}
        return written(folder / "tokenizer.json", json.dumps(described).encode())

    return build


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(steps: list[Any]) -> dict[str, Any]:
    return {"normalizer": {"type": "Sequence", "normalizers": steps}}


def nested(depth: int) -> dict[str, Any]:
    step: dict[str, Any] = {"type": "NFC"}
    for _ in range(depth):
        step = {"type": "Sequence", "normalizers": [step]}
    return {"normalizer": step}


def split(pattern: str) -> dict[str, Any]:
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": step}


def decoders(step: dict[str, Any]) -> Build:
    return json_tokenizer({"decoder": {"type": "Sequence", "decoders": [step] * 30}})


def added(count: int, length: int, text: str = "", **changed: bool) -> dict[str, Any]:
    rest = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False} | changed
    return {"added_tokens": [{"id": 12 + i, "content": (text or f"{i}") * length, **rest} for i in range(count)]}


def lengthened(steps: dict[str, Any], string: str, content: str) -> Build:
    """With another section, and one step before all others that replaces a text."""
    return json_tokenizer({"pre_tokenizer": None, **sequence([replace({"String": string}, content)]), **steps})


def in_pair(build: Build) -> Build:
    return lambda folder: build(pair(folder)).parent


TEMPLATE = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}


def copies(*texts: str) -> dict[str, Any]:
    return {"post_processor": {**TEMPLATE, "single": [{"Sequence": {"id": text, "type_id": 0}} for text in texts]}}


TABLE = base64.b64encode(b"\x08\x00\x00\x00" + b"\x01\xff\xff\x7f" * 2 + b"abc").decode()
PARTS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges")
WORDS = {"type": "WordLevel", "unk_token": "?", "merges": None} | dict.fromkeys(PARTS)
WORDPIECE = WORDS | {"type": "WordPiece"}
BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
TOKENIZERS = {
    "a billion laughs": Hostile(json_tokenizer(sequence([replace({"String": "a"}, "aa")] * 40)), "times as long"),
    "laughs when it is decoded": Hostile(
        json_tokenizer({"decoder": {"type": "Sequence", "decoders": [replace({"String": "a"}, "a" * 60)]}}),
        "times as long",
    ),
    "a token that is decoded to four times its length": Hostile(
        json_tokenizer({"decoder": {"type": "Sequence", "decoders": [replace({"String": ""}, "a")] * 2}}),
        "a token more than 2 times as long",
    ),
    "bytes as characters again and again": Hostile(
        json_tokenizer({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 30}}),
        "times as long",
    ),
    "a pattern that searches for ever": Hostile(json_tokenizer(split(r"(\w+\s?)+$")), "unknown regular expression"),
    "such a pattern to replace": Hostile(
        json_tokenizer(sequence([replace({"Regex": "(a|a)*b"}, "")])), "unknown regular expression"
    ),
    "a compiled table": Hostile(
        json_tokenizer(sequence([{"type": "Precompiled", "precompiled_charsmap": TABLE}])), "Precompiled"
    ),
    "a step without a type": Hostile(json_tokenizer(sequence([{"precompiled_charsmap": TABLE}])), "has no type"),
    "steps nested a hundred times": Hostile(json_tokenizer(nested(100)), "more than 16 steps"),
    "steps nested a million times": Hostile(
        lambda f: written(f / "tokenizer.json", b'{"normalizer":' + b"[" * 1_000_000), "too deeply"
    ),
    "a template of 50,000 copies": Hostile(json_tokenizer(copies(*["A"] * 50_000)), "more than 16,384 characters"),
    "a template of 300 copies": Hostile(json_tokenizer(copies(*["A"] * 300)), "does not have the text once"),
    "a template without the text": Hostile(json_tokenizer(copies("B")), "does not have the text once"),
    "long added tokens": Hostile(json_tokenizer(added(2200, 500, "q")), "added tokens can have more than"),
    "added tokens that are lengthened": Hostile(
        lengthened(added(100, 500, "q"), "q", "\U0001f600" * 60), "added tokens can have more than"
    ),
    "an added token of spaces": Hostile(lengthened(added(1, 1, " ", lstrip=True), "a", " " * 60), "nothing but spaces"),
    "an added token that becomes a space": Hostile(
        lengthened(added(1, 1, "q", rstrip=True), "q", " "), "nothing but spaces"
    ),
    "an added token that becomes nothing": Hostile(
        lengthened(added(1, 1, "q", rstrip=True), "q", ""), "nothing but spaces"
    ),
    "an added token that becomes nothing beside a longer one": Hostile(
        json_tokenizer(
            {
                "pre_tokenizer": None,
                **sequence([{"type": "StripAccents"}, replace({"String": ""}, " ##b")]),
                "added_tokens": added(1, 1, "\u0301")["added_tokens"] + added(1, 1, "\u0301ab")["added_tokens"],
            }
        ),
        "nothing but spaces",
    ),
    "bytes of a lengthened text as tokens": Hostile(
        json_tokenizer({"pre_tokenizer": None, **sequence([replace({"String": "a"}, "b" * 40)])}, byte_fallback=True),
        "times as long",
    ),
    "17 steps": Hostile(json_tokenizer(sequence([replace({"String": "a"}, "b")] * 17)), "more than 16 steps"),
    "millions of empty lists in JSON": Hostile(
        lambda f: written(f / "tokenizer.json", b'{"model": [' + b"[]," * 2_600_000 + b"[]]}"), "2,500,000 values"
    ),
    "millions of lists in lists": Hostile(
        lambda f: written(f / "tokenizer.json", b'{"model": [' + (b"[" * 400 + b"]" * 400 + b",") * 7_000 + b"[]]}"),
        "2,500,000 values",
    ),
    "a million tokens": Hostile(
        json_tokenizer(vocab={f"{i}": i for i in range(1_000_000)}, merges=[]), "more than 524,288 tokens"
    ),
    "a tree of long tokens": Hostile(
        json_tokenizer(type="Unigram", unk_id=0, vocab=[[f"{i}" * 20_000, 0.0] for i in range(200)]),
        "of the kind Unigram",
    ),
    "no tokens": Hostile(json_tokenizer(vocab={}, merges=[]), "token to id"),
    "a vocabulary elsewhere": Hostile(json_tokenizer(vocab="../../../etc/passwd"), "token to id"),
    "merges of no tokens": Hostile(json_tokenizer(merges=[["a", "zz"]]), "out of vocabulary"),
    "tokens at random": Hostile(json_tokenizer(dropout=0.5), "drops merges at random"),
    "a token's number below zero": Hostile(json_tokenizer(vocab={"a": -1}, merges=[]), "is not a tokenizer"),
    "a vocabulary given twice": Hostile(
        lambda f: written(f / "tokenizer.json", b'{"model": {"vocab": {"a": 0, "a": 1}}}'), "key a twice"
    ),
    "a step of no family": Hostile(
        json_tokenizer({"pre_tokenizer": {"type": "FixedLength", "length": 0}}), "unknown type FixedLength"
    ),
    "a parameter of no family": Hostile(json_tokenizer(sequence([{"type": "NFC", "x": 1}])), "unknown parameter, x"),
    "a decoder that doubles a text 30 times": Hostile(decoders({"type": "BPEDecoder", "suffix": ""}), "times as long"),
    "a decoder that aborts": Hostile(decoders({"type": "CTC", "pad_token": "", "cleanup": False}), "unknown type CTC"),
    "Chinese spaced 30 times": Hostile(
        json_tokenizer(sequence([replace({"String": "a"}, "\u4e00" * 9)] + [BERT] * 30)), "times as long"
    ),
    "words of any length": Hostile(
        json_tokenizer(**WORDPIECE, max_input_chars_per_word=10**9), "splits words of 1000000000 characters"
    ),
    "long words of a lengthened text": Hostile(
        json_tokenizer(
            {"pre_tokenizer": None, **sequence([replace({"String": "a"}, "b" * 64)])},
            **WORDPIECE,
            max_input_chars_per_word=1024,
        ),
        "splits words of 1024 characters; at most 32",
    ),
    "a token of 600 characters": Hostile(
        json_tokenizer(vocab={"a": 0, "b" * 600: 1}, merges=[]), "a token of more than 512"
    ),
    "a token of 600,000 characters": Hostile(
        json_tokenizer(vocab={"a": 0, "b" * 600_000: 1}, merges=[]), "a token of more than 512"
    ),
    "an added token of 5,000 characters": Hostile(json_tokenizer(added(1, 5_000)), "a token of more than 512"),
    "a parameter of 100 characters": Hostile(
        json_tokenizer(sequence([replace({"String": "a" * 100}, "")])), "more than 64 characters"
    ),
    "no token for what is unknown": Hostile(json_tokenizer(**WORDS), "cannot encode"),
    "41 MiB": Hostile(lambda f: written(f / "tokenizer.json", b" " * (41 << 20)), "more than 41943040 bytes"),
    "a tokenizer in no encoding": Hostile(lambda f: written(f / "tokenizer.json", b'{"a": "\xff"}'), "cannot be read"),
    "a pipe as tokenizer.json": Hostile(
        in_pair(no_file("tokenizer.json", os.mkfifo, lambda f: f / "x")), "no tokenizer"
    ),
    "a token numbered 2^32 - 1": Hostile(in_pair(json_tokenizer(vocab={"a": 2**32 - 1}, merges=[])), "does not fit"),
    "more tokens than the model": Hostile(
        in_pair(json_tokenizer(vocab={f"{i}": i for i in range(50_000)}, merges=[])), "does not fit the model"
    ),
    "a pipe as training.json": Hostile(no_file("training.json", os.mkfifo, pair), "is not a file"),
    "a pair of two vocabularies": Hostile(
        lambda f: save_model(model("student", rows=41), pair(f) / "student").parent, "do not fit together"
    ),
}

HOSTILE = {**WEIGHTS, **FOLDERS, **TOKENIZERS, **CAUSAL}
SOUND: dict[str, Build] = {
    "a zip file": saved(lambda s, _: {"state_dict": s}),
    "the older format": saved(lambda *_: None, zip_format=False),
    "a folder": beside(context=64, block=config("student").block),
    "a tokenizer": json_tokenizer(),
    "a pair": in_pair(json_tokenizer()),
    "a transformers model": causal(),
    "one that turns by position": causal("llama"),
}
"""What all the others were before something was changed."""

SHORT = set(SOUND) - {"a transformers model", "one that turns by position"} | {
    *("a call by REDUCE", "an attack beside weights", "a bare pickle", "a number of millions of digits"),
    *("an empty file", "an empty file", "one number shown many times", "a storage that climbs"),
    *("many aliases of one number", "600 tiny blocks", "logits that overflow", "a name that a terminal obeys"),
    *("a zip bomb", "a bomb of overlapping entries", "two checkpoints in one", "a header of 2^60 bytes"),
    *("two tensors of one name", "a terabyte of nothing", "NaN in safetensors", "a link to an endless device"),
    *("a link to a text that begins with S", "a shape beyond 64 bits without elements"),
    *("a link to another file", "a pipe as config.json", "a context of 10^12", "a setting of 4,000 digits"),
    *("config.json nested a million times", "a billion laughs", "config.json of two megabytes"),
    *("a pattern that searches for ever", "words of any length", "a template of 50,000 copies"),
    *("a template of 300 copies", "added tokens that are lengthened", "an added token that becomes nothing"),
    *("bytes of a lengthened text as tokens", "long words of a lengthened text", "17 steps"),
    *("millions of lists in lists",),
    *("a token numbered 2^32 - 1"),
}
"""Inputs of each class that the short run tries; those of transformers, whose import is slow, in `test_causal`."""
