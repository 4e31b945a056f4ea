"""What a user error says, and that only a command is called one."""

from __future__ import annotations

import io
import sys

import pytest

from kfexplore import KfError
from kfexplore.errors import reported


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ("kfexplore app --port 8001", "Run: kfexplore app --port 8001"),
        ("pip install datasets", "Run: pip install datasets"),
        ("make setup", "Run: make setup"),
        ("GRADIO_SERVER_PORT=8001 python app.py", "Run: GRADIO_SERVER_PORT=8001 python app.py"),
        ("remove runs/mine, then: kfexplore train pair", "Try: remove runs/mine, then: kfexplore train pair"),
        ("the same command again", "Try: the same command again"),
        ("--prefix_file FILE", "Try: --prefix_file FILE"),
        ("makes no sense", "Try: makes no sense"),
    ],
)
def test_only_a_command_is_to_be_run(run: str, told: str) -> None:
    error = KfError("It failed.", "this", run)
    assert str(error).splitlines() == ["It failed.", "Valid: this", told]
    assert error.is_command is told.startswith("Run:")


def test_signs_that_an_encoding_lacks_are_written_in_one_character(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    with reported():
        print("a ≠ b ≥ c", "é€", end="")
    assert written.getvalue() == b"a ! b > c \\xe9\\u20ac"


def test_what_is_not_known_is_left_out() -> None:
    assert str(KfError("It failed.")) == "It failed."
