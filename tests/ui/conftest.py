"""A small pair with a tokenizer of letters, and a service that offers it, for the tests of the tabs."""

from __future__ import annotations

import dataclasses

import pytest
from helpers import masked, student, teacher
from tokenizers import Tokenizer, models, pre_tokenizers

from kfexplore.pair import Pair
from kfexplore.ui.service import Service, local_service

WORDS = {letter: n for n, letter in enumerate("abcdefghijklmnopqrstuvw")}


@pytest.fixture(scope="session")
def pair() -> Pair:
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Pair(teacher(), student(), masked(), tokenizer)


@pytest.fixture
def service(pair: Pair) -> Service:
    """The pair as "small", and without its masked model as "bare"."""
    return local_service({"small": lambda: pair, "bare": lambda: dataclasses.replace(pair, masked=None)})
