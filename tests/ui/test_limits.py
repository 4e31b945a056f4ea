"""What the page allows: read from the environment, checked at once."""

from __future__ import annotations

import dataclasses

import pytest

from kfexplore.errors import KfError
from kfexplore.ui.limits import DEFAULTS, VARIABLE, limits_from


def test_without_a_word_the_defaults_hold() -> None:
    assert limits_from({}) == limits_from({VARIABLE: " "}) == DEFAULTS
    assert not DEFAULTS.other_checkpoints


def test_the_environment_changes_what_it_names() -> None:
    text = "new_tokens=512, pairs=tales+lm1b,other_checkpoints=yes, "
    expected = dataclasses.replace(DEFAULTS, new_tokens=512, pairs=("tales", "lm1b"), other_checkpoints=True)
    assert limits_from({VARIABLE: text}) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("new_token=5", "did you mean new_tokens"),
        ("foo=1", "Valid: one of at_once, client_requests, "),
        ("new_tokens", "name=value"),
        ("new_tokens=", "name=value"),
        ("new_tokens=many", "'many'"),
        ("new_tokens=[", "'['"),
        ("new_tokens=1.5", "1.5"),
        ("new_tokens=0", "at least 1"),
        ("at_once=-2", "at least 1"),
        ("samples=yes", "True"),
        ("other_checkpoints=1", "bool"),
        ("pairs=tales+mine", "no pair 'mine'"),
    ],
)
def test_a_limit_that_is_none_is_refused(text: str, told: str) -> None:
    with pytest.raises(KfError) as caught:
        limits_from({VARIABLE: text})
    assert told in str(caught.value)
