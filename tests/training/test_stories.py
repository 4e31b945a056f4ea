"""The language of stories: correct sentences, consistent facts, and the entropy of its choices."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kfexplore.cli.main import app
from kfexplore.errors import KfError
from kfexplore.training.data import train_tokenizer
from kfexplore.training.stories import grammar, stories, write_stories

SOME = [story.text for story in stories(3000, seed=7)]
PRONOUNS = {"girl": {"she", "her"}, "boy": {"he", "him", "his"}}


def test_a_story_is_the_same_on_every_machine_and_in_every_batch() -> None:
    text = "\n".join(story.text for story in stories(50, seed=0))
    assert [s.text for s in stories(3, seed=0)] == text.split("\n")[:3]
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "21cee99c4a3b112b"


def test_seeds_give_different_stories() -> None:
    assert len(set(SOME)) == len(SOME)
    assert not {s.text for s in stories(1000, seed=8)} & set(SOME)


def test_stories_are_written_in_correct_english() -> None:
    for text in SOME:
        assert 60 <= len(text.split()) <= 120
        assert not re.search(r"  | [,.!?;]|[\[\]{}<>|^_]|\.\.|,,|\b[Aa] (?=[aeiou])|\b[Aa]n (?=[^aeiouh])", text), text
        assert text.count('"') % 2 == 0
        for sentence in re.split(r'(?<=[.!?]) (?=[A-Z"])', text):
            assert re.match(r'"?[A-Z]', sentence), sentence
            assert re.search(r'[.!?]"?$', sentence), sentence


def test_no_sentence_of_the_narrator_occurs_twice_in_a_story() -> None:
    for text in SOME:
        sentences = Counter(re.findall(r'(?:^|(?<=[.!?] ))[A-Z][^.!?"]*[.!?]', text))
        assert max(sentences.values()) == 1, text


def test_the_pronoun_of_a_hero_is_that_of_the_name() -> None:
    children = {entry[""]: entry["child"] for entry in grammar().pools["person"]}
    for text in SOME:
        named = [name for name in children if re.search(rf"\b{name}\b", text)]
        assert 1 <= len(named) <= 2
        if len({children[name] for name in named}) == 1 and re.search(r"\b(girl|boy) ", text[:60]):
            child = "girl" if re.search(r"\bgirl\b", text[:80]) else "boy"
            assert {children[name] for name in named} == {child}


def test_what_was_lost_is_what_is_found_where_it_was_left() -> None:
    lost = [text for text in SOME if "see it last" in text or "play last" in text or "have it last" in text]
    assert len(lost) > 50
    for text in lost:
        found = re.search(r"something (\w+) .*?(?:and it was|: it was) the (\w+)", text)
        assert found, text
        assert f"{found[1]} {found[2]}" in text.split("something")[0]


def test_the_language_is_wide_enough() -> None:
    words = Counter(word.lower() for text in SOME for word in re.findall(r"[A-Za-z'-]+", text))
    assert len(words) >= 1200
    assert len(grammar().plots) >= 12


def test_the_entropy_follows_richness_and_bounds_the_entropy_of_the_text() -> None:
    found = []
    for richness in (0.1, 0.3, 1.0, 3.0):
        written = list(stories(500, seed=1, richness=richness))
        found.append(sum(s.nats for s in written) / sum(s.words for s in written))
    assert found == sorted(found)
    assert 0.6 <= found[2] <= 1.0


def test_the_surprisal_of_a_story_is_that_of_its_choices() -> None:
    """At the smallest richness, 1,000 stories are so few that the entropy of the texts can be counted."""
    written = list(stories(4000, seed=2, richness=0.1))
    counts = Counter(story.text for story in written)
    counted = -sum(n / len(written) * math.log(n / len(written)) for n in counts.values())
    bound = sum(story.nats for story in written) / len(written)
    assert counted < bound


@pytest.mark.parametrize(
    ("count", "richness", "message"),
    [
        (0, 1.0, "number of stories is 0"),
        (10**7, 1.0, "number of stories"),
        (1, 0.0, "richness"),
        (1, math.nan, "richness"),
    ],
)
def test_counts_and_richness_out_of_range_are_refused(count: int, richness: float, message: str) -> None:
    with pytest.raises(KfError, match=message):
        list(stories(count, seed=0, richness=richness))


def test_most_words_of_held_out_stories_are_one_token_with_their_blank() -> None:
    tokenizer = train_tokenizer(SOME, 2304)
    words = [word for story in stories(300, seed=1) for word in re.findall(r"(?<= )[A-Za-z]+", story.text)]
    one = [len(tokenizer.encode(" " + word).ids) == 1 for word in words]
    assert sum(one) / len(one) >= 0.97
    assert tokenizer.decode(tokenizer.encode("naïve 🦊 text").ids) == "naïve 🦊 text"


def test_the_command_writes_a_file_per_story_and_reports_the_entropy(tmp_path: Path) -> None:
    arguments = ["train", "corpus", "stories", str(tmp_path / "new"), "--count", "12", "--seed", "3"]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0
    assert re.search(r"12 stories, 1,\d{3} words, entropy at most 0\.\d{3} nats per word", ran.stdout)
    files = sorted((tmp_path / "new").iterdir())
    assert [file.read_text(encoding="utf-8") for file in files] == [s.text for s in stories(12, seed=3)]


def test_stories_are_not_mixed_with_other_texts(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(KfError, match="already holds texts"):
        write_stories(tmp_path, 2, seed=0)
