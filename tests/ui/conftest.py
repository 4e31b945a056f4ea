"""A small pair with a tokenizer of letters, and a service that offers it, for the tests of the tabs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
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


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    """An event loop of its own thread: the thread of the tests may have one already, of a browser's driver."""
    with start_blocking_portal() as portal:
        yield portal
