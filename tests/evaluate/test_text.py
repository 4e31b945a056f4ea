"""Held-out text: files in order, and evenly spaced windows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from kfexplore.errors import KfError
from kfexplore.evaluate.agreement import text_ids, text_windows
from kfexplore.training.documents import read_text

ONE = np.array([0])


def test_texts_of_a_folder_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(f"text of {name} —", encoding="utf-8")
    (tmp_path / "folder.txt").mkdir()
    assert read_text(tmp_path) == ["text of a.txt —", "text of b.txt —"]
    assert read_text(tmp_path / "c.md") == ["text of c.md —"]


def test_marks_and_upper_case_names_are_read_as_in_training(tmp_path: Path) -> None:
    (tmp_path / "A.TXT").write_text("text", encoding="utf-8-sig")
    (tmp_path / "b.txt").touch()
    assert read_text(tmp_path) == ["text"]


def test_missing_and_unreadable_texts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "empty" / "folder.txt").mkdir(parents=True)
    for path, message in (("none.txt", "no text"), ("empty", "no text"), ("latin.txt", "utf-8")):
        with pytest.raises(KfError, match=message):
            read_text(tmp_path / path)


def test_texts_are_framed_as_documents_are_in_training() -> None:
    words = {"<|endoftext|>": 0, "[CLS]": 1, "[SEP]": 2, "owl": 3, "rain": 4}
    for names, expected in (
        (["<|endoftext|>"], [3, 4, 0, 4, 0]),
        (["[CLS]", "[SEP]"], [1, 3, 4, 2, 1, 4, 2]),
        ([], [3, 4, 4]),
    ):
        kept = {word: n for word, n in words.items() if n > 2 or word in names}
        tokenizer = Tokenizer(models.WordLevel(kept))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        pair: Any = SimpleNamespace(need_tokenizer=lambda tokenizer=tokenizer: tokenizer)
        assert text_ids(pair, ["owl rain", "rain"])[0].tolist() == expected


def test_windows_reach_from_the_first_token_to_the_last() -> None:
    assert text_windows(np.arange(10), ONE, 3, 3).tolist() == [[0, 1, 2], [3, 4, 5], [7, 8, 9]]
    assert text_windows(np.arange(10), ONE, 100, 4).tolist() == [
        [0, 1, 2, 3],
        [6, 7, 8, 9],
    ]  # no more than fit side by side


def test_windows_start_with_texts_that_are_shorter_than_them() -> None:
    begins = np.array([0, 3, 7, 8])
    assert text_windows(np.arange(12), begins, 4, 4)[:, 0].tolist() == [0, 3, 8]
    assert text_windows(np.arange(12), begins, 4, 3)[:, 0].tolist() == [0, 3, 6, 9]  # texts as long as a window


@pytest.mark.parametrize(("count", "length"), [(1, 3), (5, 6)])
def test_fewer_than_two_windows_are_refused(count: int, length: int) -> None:
    with pytest.raises(KfError, match=f"{count} windows of {length} tokens"):
        text_windows(np.arange(10), ONE, count, length)
