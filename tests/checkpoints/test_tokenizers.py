"""Tokenizers are read safely, and give texts and token ids back unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from kfexplore.checkpoints import hub
from kfexplore.checkpoints import tokenizers as ours
from kfexplore.checkpoints.tokenizers import (
    REVISIONS,
    Spelling,
    check_pipeline,
    decode_ids,
    encode_ids,
    end_of_text,
    highest_id,
    load_tokenizer,
    own_tokenizer,
    token_texts,
)
from kfexplore.errors import KfError

from .synthetic import tokenizer


def test_text_goes_to_ids_and_back() -> None:
    ids = encode_ids(tokenizer(), "ab ab c")
    assert ids == [7, 8, 1, 4]
    assert decode_ids(tokenizer(), ids) == "ab ab c"


def test_a_tokenizer_of_transformers_is_used_as_the_one_inside(tmp_path: Path) -> None:
    made = tokenizer()
    made.enable_padding(length=9)
    made.save(str(tmp_path / "tokenizer.json"))
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="<|endoftext|>"
    )
    own = own_tokenizer(wrapped)
    assert encode_ids(own, "ab ab c") == [7, 8, 1, 4]
    assert len(wrapped("ab", padding="max_length", max_length=5).input_ids) == 5  # the user's own is left as it was
    with pytest.raises(KfError, match="has no fast version"):
        own_tokenizer(transformers.ByT5Tokenizer())


def test_special_tokens_stay_visible() -> None:
    assert decode_ids(tokenizer(), [0, 2]) == "<|endoftext|>a"
    assert encode_ids(tokenizer(), "<|endoftext|>a") == [0, 2]


def test_each_token_has_its_own_text() -> None:
    assert token_texts(tokenizer(), [8, 6, 0]) == [" ab", " a", "<|endoftext|>"]


def test_an_id_beyond_the_tokenizer_is_shown_as_a_number() -> None:
    """The mask token of the published models has no text."""
    assert token_texts(tokenizer(), [50257]) == ["<50257>"]


def test_the_highest_id_counts_added_tokens() -> None:
    assert highest_id(tokenizer()) == 11
    extended: Any = tokenizer()
    extended.add_tokens(["new"])
    assert highest_id(extended) == 12


def test_the_end_of_text_is_found_by_name() -> None:
    assert end_of_text(tokenizer()) == 0
    assert end_of_text(Tokenizer(models.WordLevel({"a": 0, "[SEP]": 1}, "a"))) == 1
    assert end_of_text(Tokenizer(models.WordLevel({"a": 0}, "a"))) is None


def test_pieces_of_a_running_text_make_the_text() -> None:
    spelling = Spelling(tokenizer())
    for _ in range(2):  # the second time from what is kept
        assert spelling.pieces([7, 8, 1, 4, 50257], [2]) == ["ab", " ab", " ", "c", "<50257>"]


def test_a_character_spread_over_tokens_comes_with_the_last_of_them() -> None:
    made = Tokenizer(models.BPE(vocab={"â": 0, "Ģ": 1, "ľ": 2, "a": 3}, merges=[]))  # e2 80 9c is a quotation mark
    made.decoder = decoders.ByteLevel()
    spelling = Spelling(made)
    assert spelling.pieces([3, 0, 1, 2, 3], []) == ["a", "", "", "\u201c", "a"]
    assert spelling.pieces([3, 0, 1], []) == ["a", "", "\ufffd"]  # not there yet
    assert spelling.pieces([0, 0, 0, 0, 3], []) == ["", "", "", 4 * "\ufffd", "a"]  # never a character


def test_word_pieces_are_joined_to_what_stands_before(tmp_path: Path) -> None:
    spelling = Spelling(load_tokenizer(word_pieces(tmp_path / "tokenizer.json")))
    assert spelling.pieces([1, 2, 3, 1], [1]) == [" a", "b", " .", " a"]
    assert spelling.pieces([1, 2], []) == ["a", "b"]


def test_no_special_tokens_are_added() -> None:
    made = tokenizer()
    made.post_processor = TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    assert made.encode("a").ids == [0, 2]
    assert encode_ids(made, "a") == [2]


def test_the_leading_space_of_a_sentence_piece_is_kept() -> None:
    made = Tokenizer(models.BPE(vocab={"▁a": 0, "▁.": 1}, merges=[]))
    made.decoder = decoders.Metaspace()
    assert token_texts(made, [0, 1]) == [" a", " ."]


def word_pieces(path: Path) -> Path:
    """A tokenizer.json of the BERT family, whose decoder joins punctuation to the word before it."""
    made = Tokenizer(models.WordPiece(vocab={"[UNK]": 0, "a": 1, "##b": 2, ".": 3}, unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(cleanup=True)
    made.save(str(path))
    assert made.decode([1, 2, 3]) == "ab."
    return path


def test_spaces_are_not_cleaned_up(tmp_path: Path) -> None:
    path = word_pieces(tmp_path / "tokenizer.json")
    assert decode_ids(load_tokenizer(path), [1, 2, 3]) == "ab ."


def test_a_file_or_its_folder_is_loaded(tmp_path: Path) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    for path in (tmp_path, tmp_path / "tokenizer.json", str(tmp_path / "tokenizer.json")):
        assert encode_ids(load_tokenizer(path), "ab") == [7]


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"model": 3}', "x" * 100])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(KfError, match="is not a tokenizer"):
        load_tokenizer(path)


def described(**sections: Any) -> dict[str, Any]:
    """A sound tokenizer.json with other sections."""
    return {**json.loads(tokenizer().to_str()), **sections}


def steps(kind: str, *inside: dict[str, Any]) -> dict[str, Any]:
    name = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}[kind]
    return {kind: {"type": "Sequence", name: list(inside)}}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPACE, MARK = {"String": " "}, {"String": "▁"}
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize("regex", [LLAMA_3, LLAMA_3.replace("{1,3}", "")])
def test_the_steps_of_llama_3_and_qwen_are_taken(regex: str) -> None:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    check_pipeline(described(**steps("pre_tokenizer", split, BYTES), post_processor=BYTES, decoder=BYTES))


def test_the_steps_of_gpt_2_llama_2_and_bert_are_taken() -> None:
    old = described(pre_tokenizer=BYTES, post_processor=BYTES, decoder=BYTES)
    del old["model"]["type"]  # as in GPT-2's published file
    check_pipeline(old)
    marked = steps(
        "normalizer", {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": SPACE, "content": "▁"}
    )
    plain = steps(
        "decoder",
        {"type": "Replace", "pattern": MARK, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    )
    check_pipeline(described(**marked, **plain))
    bert = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
    check_pipeline(described(normalizer=bert, pre_tokenizer={"type": "BertPreTokenizer"}))


def test_a_prompt_is_neither_filled_up_nor_cut(tmp_path: Path) -> None:
    """A file can ask for 10^12 tokens of filling."""
    fill = {"strategy": {"Fixed": 1000}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
    cut = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(described(padding={**fill, "pad_to_multiple_of": None}, truncation=cut)))
    assert len(Tokenizer.from_file(str(path)).encode("ab ab").ids) == 1000
    assert encode_ids(load_tokenizer(path), "ab ab") == [7, 8]


def test_a_hub_tokenizer_is_judged_before_it_is_loaded(
    tmp_path: Path, hub_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    hub_files["someone/sound"] = hub_files["someone/hostile"] = tmp_path / "tokenizer.json"
    assert encode_ids(load_tokenizer("someone/sound"), "ab ab c") == [7, 8, 1, 4]
    made: Any = tokenizer()
    made.normalizer = normalizers.Sequence([normalizers.Replace("a", "aa")] * 7)
    made.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(ours, "Tokenizer", None)
    with pytest.raises(KfError, match="times as long"):
        load_tokenizer("someone/hostile")


def test_a_huge_file_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(ours, "MAX_TOKENIZER_BYTES", 100)
    with pytest.raises(KfError, match="at most"):
        load_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("path", ["gone/tokenizer.json", "tokenizer.json", "/a/b/c", "../x", "a b"])
def test_a_missing_file_is_not_looked_up_on_the_hub(path: str, no_hub: list[str]) -> None:
    with pytest.raises(KfError, match="no tokenizer file"):
        load_tokenizer(path)
    with pytest.raises(KfError, match="no tokenizer file"):
        load_tokenizer(Path("gpt2"))
    assert no_hub == []


@pytest.fixture
def hub_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    """The tokenizer.json of each repository of the hub."""
    files: dict[str, Path] = {}

    def download(name: str, file: str, **_: Any) -> str:
        assert file == "tokenizer.json"
        return str(files[name])

    monkeypatch.setattr(hub.huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "check_hub", lambda: None)
    monkeypatch.setenv("KFEXPLORE_HOME", str(tmp_path / "home"))
    return files


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """No connection; the names that were asked for."""
    asked: list[str] = []

    def download(name: str, file: str, *, revision: str, **_: Any) -> None:
        asked.append(f"{file} of {name} at {revision}")
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(hub.huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(hub.huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(hub, "check_hub", lambda: None)
    monkeypatch.setenv("KFEXPLORE_HOME", str(tmp_path / "home"))
    return asked


def test_a_file_put_there_by_hand_comes_before_the_hub(tmp_path: Path, no_hub: list[str]) -> None:
    (tmp_path / "home" / "gpt2").mkdir(parents=True)
    tokenizer().save(str(tmp_path / "home" / "gpt2" / "tokenizer.json"))
    assert encode_ids(load_tokenizer("gpt2"), "ab") == [7]
    assert no_hub == []


def test_without_a_connection_the_message_says_what_to_put_where(tmp_path: Path, no_hub: list[str]) -> None:
    with pytest.raises(KfError, match="We couldn't connect") as caught:
        load_tokenizer("bert-base-uncased")
    revision = REVISIONS["bert-base-uncased"]
    assert no_hub == [f"tokenizer.json of bert-base-uncased at {revision}"]
    assert f"https://huggingface.co/bert-base-uncased/tree/{revision}" in str(caught.value)
    assert str(tmp_path / "home" / "bert-base-uncased") in str(caught.value)
