"""Held-out text: files in order, and evenly spaced stretches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kfexplore.errors import KfError
from kfexplore.evaluate.text import read_text, stretches

ONE = np.array([0])


def test_texts_of_a_folder_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(f"text of {name} —", encoding="utf-8")
    assert read_text(tmp_path) == ["text of a.txt —", "text of b.txt —"]
    assert read_text(tmp_path / "c.md") == ["text of c.md —"]


def test_missing_and_unreadable_texts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "empty").mkdir()
    for path, message in (("none.txt", "no text"), ("empty", "no text"), ("latin.txt", "not UTF-8")):
        with pytest.raises(KfError, match=message):
            read_text(tmp_path / path)


def test_stretches_reach_from_the_first_token_to_the_last() -> None:
    assert stretches(np.arange(10), ONE, 3, 3).tolist() == [[0, 1, 2], [3, 4, 5], [7, 8, 9]]
    assert stretches(np.arange(10), ONE, 100, 4).tolist() == [
        [0, 1, 2, 3],
        [6, 7, 8, 9],
    ]  # no more than fit side by side


def test_stretches_start_with_texts_that_are_shorter_than_them() -> None:
    begins = np.array([0, 3, 7, 8])
    assert stretches(np.arange(12), begins, 4, 4)[:, 0].tolist() == [0, 3, 8]
    assert stretches(np.arange(12), begins, 4, 3)[:, 0].tolist() == [0, 3, 6, 9]  # texts as long as a stretch


@pytest.mark.parametrize(("count", "length"), [(1, 3), (5, 6)])
def test_fewer_than_two_stretches_are_refused(count: int, length: int) -> None:
    with pytest.raises(KfError, match=f"{count} windows of {length} tokens"):
        stretches(np.arange(10), ONE, count, length)
