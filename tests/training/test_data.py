"""Data: texts of a folder or of the hub become a tokenizer and two arrays, all of it or nothing."""

from __future__ import annotations

import json
import resource
import sys
import types
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from kfexplore.errors import KfError
from kfexplore.training.config import DataConfig, StoriesConfig
from kfexplore.training.data import (
    END_OF_TEXT,
    Corpus,
    TokenFile,
    prepare,
    read_info,
)
from kfexplore.training.stories import stories

OWL, RAIN, KEPT = "The owl — went home.\n", "Rain, rain on the old house.\n", "zzzz " * 50
CONFIG = DataConfig(vocab_size=280, held_out=("3-",))
FILES_OF_CORPUS = ["1-owl.txt", "2-rain.txt", "3-kept.txt"]
FILES = ["data.json", "held_out.npy", "tokenizer.json", "train.npy"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "notes.md").write_text("not a text to train on")
    for name, text in {"1-owl.txt": OWL, "2-rain.txt": RAIN, "3-kept.txt": KEPT}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Rows of a dataset that the package `datasets` streams; an exception among them is raised."""
    rows: list[Any] = []

    def load_dataset(name: str, split: str, streaming: bool) -> Iterator[dict[str, Any]]:
        assert (name, split, streaming) == ("some/tales", "train", True)
        for row in rows:
            if isinstance(row, Exception):
                raise row
            yield row

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return rows


@contextmanager
def small_files(most: int) -> Iterator[None]:
    """Writing more than so many bytes into a file fails, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def decoded(out: Path) -> dict[str, str]:
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    return {n: tokenizer.decode(np.load(out / f"{n}.npy"), skip_special_tokens=False) for n in ("train", "held_out")}


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_folder_of_texts_becomes_a_tokenizer_and_two_arrays(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "data"
    info = prepare(CONFIG, out, 9, corpus)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    arrays = {name: np.load(out / f"{name}.npy") for name in ("train", "held_out")}
    assert decoded(out) == {"train": OWL + END_OF_TEXT + RAIN + END_OF_TEXT, "held_out": KEPT + END_OF_TEXT}
    assert {ids.dtype for ids in arrays.values()} == {np.dtype(np.uint16)}
    assert tokenizer.token_to_id(END_OF_TEXT) == 0
    assert tokenizer.get_vocab_size() <= 280
    assert not any("zz" in token for token in tokenizer.get_vocab())  # it never saw the text that is kept back
    assert names(out) == FILES
    assert info == read_info(out, CONFIG)
    assert (info.documents, info.held_out) == (3, ("3-kept.txt",))
    assert (info.tokens, info.held_out_tokens) == (len(arrays["train"]), len(arrays["held_out"]))
    assert (info.vocab_size, info.mask_id) == (tokenizer.get_vocab_size() + 1, tokenizer.get_vocab_size())
    assert np.array_equal(Corpus.read(out).tokens, arrays["train"])


def test_what_is_prepared_stays_as_it_is(corpus: Path, tmp_path: Path) -> None:
    first = prepare(CONFIG, tmp_path / "out", 9, corpus)
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in (tmp_path / "out").iterdir()}
    corpus.rename(tmp_path / "moved")
    assert prepare(CONFIG, tmp_path / "out", 9, tmp_path / "moved") == first
    assert before == {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (DataConfig(vocab_size=290, held_out=("3-",)), r"vocab_size 280 \(now 290\)"),
        (DataConfig(vocab_size=280, held_out=("3-", "2-")), r"held_out.1 None \(now 2-\)"),
    ],
)
def test_a_folder_of_other_settings_is_refused_and_kept(
    corpus: Path, tmp_path: Path, config: DataConfig, named: str
) -> None:
    out = tmp_path / "out"
    prepare(CONFIG, out, 9, corpus)
    before = (out / "train.npy").read_bytes()
    with pytest.raises(KfError, match=named):
        prepare(config, out, 9, corpus)
    with pytest.raises(KfError, match=named):
        read_info(out, config)
    assert (out / "train.npy").read_bytes() == before


@pytest.mark.parametrize("change", ["text", "name", "another", "boundary"])
def test_a_folder_of_other_texts_is_refused(corpus: Path, tmp_path: Path, change: str) -> None:
    prepare(CONFIG, tmp_path / "out", 9, corpus)
    if change == "text":
        (corpus / "1-owl.txt").write_text(OWL.replace("home", "away"), encoding="utf-8")
    elif change == "name":
        (corpus / "1-owl.txt").rename(corpus / "1-owls.txt")
    elif change == "another":
        (corpus / "4-more.txt").write_text("More.")
    else:
        (corpus / "1-owl.txt").write_text(OWL + RAIN[:4], encoding="utf-8")
        (corpus / "2-rain.txt").write_text(RAIN[4:], encoding="utf-8")
    with pytest.raises(KfError, match=r"3 texts, sha256 .* \(now [34] texts"):
        prepare(CONFIG, tmp_path / "out", 9, corpus)


def test_a_corpus_needs_a_text_in_each_part(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(KfError, match="0 texts to train on and 3 held-out texts"):
        prepare(DataConfig(vocab_size=280, held_out=("1-", "2-", "3-")), tmp_path / "out", 9, corpus)
    for name in FILES_OF_CORPUS[1:]:
        (corpus / name).unlink()
    with pytest.raises(KfError, match="0 texts to train on and 1 held-out texts"):
        prepare(DataConfig(vocab_size=280), tmp_path / "out", 9, corpus)
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("held_out", [(), ("9-",)])
def test_where_no_name_matches_a_fraction_is_held_out(corpus: Path, tmp_path: Path, held_out: tuple[str, ...]) -> None:
    info = prepare(DataConfig(vocab_size=280, held_out=held_out), tmp_path / "out", 9, corpus)
    assert len(info.held_out) == 1  # 5 % of three texts, but at least one
    again = prepare(DataConfig(vocab_size=280, held_out=held_out), tmp_path / "again", 9, corpus)
    assert again.held_out == info.held_out


def test_a_fraction_replaces_the_names_and_need_not_be_repeated(corpus: Path, tmp_path: Path) -> None:
    asked = DataConfig(vocab_size=280, held_out=("3-",), held_out_fraction=0.6)
    info = prepare(asked, tmp_path, 9, corpus)
    assert len(info.held_out) == 2
    assert read_info(tmp_path, CONFIG) == info


def test_a_fraction_of_a_dataset_is_chosen_by_the_numbers_of_its_rows(hub: list[Any], tmp_path: Path) -> None:
    hub += [{"text": f"Row {n} of many rows. "} for n in range(200)]
    info = prepare(DataConfig(vocab_size=280, dataset="some/tales", held_out_fraction=0.25), tmp_path, 9)
    assert 30 < len(info.held_out) < 70


def test_texts_may_have_marks_and_upper_case_names_and_empty_ones_are_skipped(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "1-owl.txt").rename(corpus / "1-owl.TXT")
    (corpus / "2-rain.txt").write_text(RAIN, encoding="utf-8-sig")
    (corpus / "0-empty.txt").touch()
    (corpus / "folder.txt").mkdir()
    assert prepare(CONFIG, tmp_path / "out", 9, corpus).documents == 3
    assert decoded(tmp_path / "out")["train"] == OWL + END_OF_TEXT + RAIN + END_OF_TEXT
    assert "Skipped" in (said := capsys.readouterr().err)
    assert "0-empty.txt: it is empty" in said


def test_stories_need_no_texts_and_are_split_by_seed(tmp_path: Path) -> None:
    config = DataConfig(vocab_size=300, stories=StoriesConfig(count=5, held_out=2, seed=4), whole_documents=True)
    prepare(config, tmp_path / "data", 9)
    for part, count, seed in (("train", 5, 4), ("held_out", 2, 5)):
        assert decoded(tmp_path / "data")[part] == "".join(s.text + END_OF_TEXT for s in stories(count, seed))
    with pytest.raises(KfError, match="generates its own stories"):
        prepare(config, tmp_path / "other", 9, tmp_path)


def test_contexts_of_whole_documents_begin_where_a_document_begins(tmp_path: Path) -> None:
    config = DataConfig(vocab_size=300, stories=StoriesConfig(count=9, held_out=1), whole_documents=True)
    prepare(config, tmp_path, 9)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    drawn = Corpus.read(tmp_path).windows(20, 40, seed=0, step=0)
    begins = {story.text[:20] for story in stories(9, seed=0)}
    assert {tokenizer.decode(row.tolist())[:20] for row in drawn} <= begins
    assert len(np.unique(drawn.numpy(), axis=0)) > 4


def test_a_corpus_too_small_for_the_context_is_refused(corpus: Path, tmp_path: Path) -> None:
    enough = prepare(CONFIG, tmp_path / "out", 9, corpus).tokens
    assert prepare(CONFIG, tmp_path / "just", enough, corpus).tokens == enough
    with pytest.raises(KfError, match=f"have {enough} tokens") as caught:
        prepare(CONFIG, tmp_path / "small", enough + 1, corpus)
    assert f"at least {enough + 1}" in caught.value.valid
    assert names(tmp_path / "small") == []


def test_a_folder_without_texts_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(KfError, match="no texts in"):
            prepare(CONFIG, tmp_path / "out", 9, folder)


def test_a_text_that_is_not_utf8_is_named(corpus: Path, tmp_path: Path) -> None:
    (corpus / "2-rain.txt").write_bytes(b"caf\xe9")
    with pytest.raises(KfError, match=r"2-rain\.txt cannot be read"):
        prepare(CONFIG, tmp_path / "out", 9, corpus)


def test_a_full_disk_leaves_nothing_half_written(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (corpus / "4-long.txt").write_text("Rain and rain. " * 20_000)
    with small_files(30_000), pytest.raises(KfError, match="cannot be written"):
        prepare(CONFIG, out, 9, corpus)
    assert names(out) == []
    prepare(CONFIG, out, 9, corpus)
    assert names(out) == FILES


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"settings": 3}'])
def test_a_data_json_that_is_none_is_an_error(corpus: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(KfError):
        prepare(CONFIG, tmp_path, 9, corpus)
    assert names(tmp_path) == ["data.json", "texts"]


def test_tokens_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(KfError, match=r"train\.npy cannot be read"):
        Corpus.read(tmp_path)
    (tmp_path / "train.npy").write_bytes(b"half")
    with pytest.raises(KfError, match=r"train\.npy cannot be read"):
        Corpus.read(tmp_path)


def test_rows_of_a_hub_dataset_are_named_by_number(hub: list[Any], tmp_path: Path) -> None:
    hub += [{"story": text, "id": n} for n, text in enumerate([KEPT, OWL, RAIN])]
    config = DataConfig(vocab_size=280, dataset="some/tales", column="story", held_out=("00000000",))
    info = prepare(config, tmp_path, 9)
    assert decoded(tmp_path) == {"train": OWL + END_OF_TEXT + RAIN + END_OF_TEXT, "held_out": KEPT + END_OF_TEXT}
    assert (info.documents, info.held_out, info.source) == (3, ("00000000",), "some/tales, train, story")
    hub.clear()
    assert prepare(config, tmp_path, 9) == info  # no connection is needed for what is there


def test_a_dataset_is_refused_in_a_folder_of_another(hub: list[Any], corpus: Path, tmp_path: Path) -> None:
    prepare(CONFIG, tmp_path / "out", 9, corpus)
    with pytest.raises(KfError, match="now some/tales"):
        prepare(DataConfig(vocab_size=280, dataset="some/tales", held_out=("3-",)), tmp_path / "out", 9)
    assert hub == []


def test_without_a_dataset_or_a_folder_the_ways_are_named(tmp_path: Path) -> None:
    with pytest.raises(KfError, match="no dataset") as caught:
        prepare(CONFIG, tmp_path, 9)
    assert "--text FOLDER" in caught.value.valid


def test_a_hub_that_cannot_be_reached_is_an_error_and_nothing_is_left(hub: list[Any], tmp_path: Path) -> None:
    hub += [{"text": OWL}, {"text": RAIN}, ConnectionError("no route to host\nmore")]
    for tokenizer in ({"vocab_size": 280}, {"tokenizer": _word_tokenizer(tmp_path / "named", 50)}):
        config = DataConfig(**tokenizer, dataset="some/tales", held_out=("00000000",))
        with pytest.raises(KfError, match="cannot be read after 2 rows of train: no route to host\n") as caught:
            prepare(config, tmp_path / "out", 2)
        assert "--text FOLDER" in caught.value.valid
        assert names(tmp_path / "out") == []


def test_a_column_that_is_not_there_names_those_that_are(hub: list[Any], tmp_path: Path) -> None:
    hub += [{"story": OWL, "id": 3}]
    with pytest.raises(KfError, match="no column 'text'") as caught:
        prepare(DataConfig(vocab_size=280, dataset="some/tales"), tmp_path, 9)
    assert "story, id" in caught.value.valid


def test_without_the_package_datasets_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(KfError, match="package datasets, which reads some/tales, is not installed") as caught:
        prepare(DataConfig(vocab_size=280, dataset="some/tales"), tmp_path, 9)
    assert caught.value.run == "pip install datasets"


def _word_tokenizer(folder: Path, words: int, *special: str) -> str:
    """A tokenizer of numbers as words, in a folder."""
    vocabulary = {name: n for n, name in enumerate([*(special or (END_OF_TEXT,)), *map(str, range(words))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(3)  # as some published files have it
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


def _numbers(folder: Path, config: DataConfig) -> tuple[list[int], np.dtype[Any], Any]:
    texts = folder / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("1 2 3 4")
    (texts / "b.txt").write_text("5 6")
    info = prepare(config, folder / "out", 2, texts)
    train = np.load(folder / "out" / "train.npy")
    return train.tolist(), train.dtype, info


def test_a_named_tokenizer_is_taken_whole_and_its_mask_is_a_row_more(tmp_path: Path) -> None:
    named = _word_tokenizer(tmp_path / "named", 50)
    train, dtype, info = _numbers(tmp_path, DataConfig(tokenizer=named, held_out=("b",)))
    assert train == [2, 3, 4, 5, 0]
    assert (dtype, info.vocab_size, info.mask_id) == (np.uint16, 52, 51)
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text())["truncation"] is None


def test_a_tokenizer_with_marks_and_a_mask_of_its_own_keeps_them(tmp_path: Path) -> None:
    named = _word_tokenizer(tmp_path / "named", 50, "[MASK]", "[SEP]", "[CLS]")
    train, _, info = _numbers(tmp_path, DataConfig(tokenizer=named, held_out=("b",)))
    assert train == [2, 4, 5, 6, 7, 1]
    assert (info.vocab_size, info.mask_id) == (53, 0)


def test_a_large_vocabulary_takes_four_bytes_a_token(tmp_path: Path) -> None:
    named = _word_tokenizer(tmp_path / "named", 70_000)
    train, dtype, _ = _numbers(tmp_path, DataConfig(tokenizer=named, held_out=("b",)))
    assert train == [2, 3, 4, 5, 0]
    assert dtype == np.uint32


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path: Path) -> None:
    named = _word_tokenizer(tmp_path / "named", 50, "<pad>")
    with pytest.raises(KfError, match="no end-of-text token"):
        _numbers(tmp_path, DataConfig(tokenizer=named, held_out=("b",)))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_a_token_file_is_what_numpy_would_save(tmp_path: Path, dtype: Any) -> None:
    with closing(TokenFile(tmp_path / "grown.npy", dtype)) as file:
        for start in range(0, 3000, 7):
            file.append(list(range(start, start + 7)))
    np.save(tmp_path / "saved.npy", np.arange(3003, dtype=dtype))
    assert (tmp_path / "grown.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_windows_are_stretches_of_the_text_keyed_by_seed_and_step(dtype: Any) -> None:
    corpus = Corpus(np.arange(1000, dtype=dtype))
    drawn = corpus.windows(16, 20, seed=1, step=2)
    assert drawn.shape == (16, 20)
    assert drawn.dtype == torch.int64
    assert (drawn.diff(dim=1) == 1).all()
    assert torch.equal(drawn, corpus.windows(16, 20, seed=1, step=2))
    assert not torch.equal(drawn, corpus.windows(16, 20, seed=1, step=3))
    assert not torch.equal(drawn, corpus.windows(16, 20, seed=2, step=2))
