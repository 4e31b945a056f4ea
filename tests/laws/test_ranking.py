"""Ranked contexts: our own sentences, prompts that give the same tokens, and a file that knows its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shell import SENTENCES

from kfexplore.errors import KfError
from kfexplore.laws import ranking
from kfexplore.laws.exact import pair_law
from kfexplore.laws.ranking import lines, rank_contexts, store_contexts, stored_contexts
from kfexplore.pair import Pair, load_pair


def test_sixty_sentences_are_ours() -> None:
    sentences = lines()
    assert len(sentences) == 60 == len(set(sentences))
    assert all(20 < len(sentence) < 160 for sentence in sentences)


def test_each_sentence_s_best_context_in_order(folder: Path) -> None:
    pair = load_pair(folder)
    found = rank_contexts(pair, SENTENCES)
    assert len(found) == 3
    values = [context.mutual_information for context in found]
    assert values == sorted(values, reverse=True)
    for context in found:
        sentence = next(s for s in SENTENCES if s.startswith(context.text))
        ids = pair.encode(sentence)[0]
        assert pair.encode(context.text)[0] == context.token_ids == ids[: len(context.token_ids)]
        others = [pair_law(pair, ids[:n]).mutual_information.value for n in range(4, len(ids))]
        assert context.mutual_information == pytest.approx(max(others))
        assert context.example


def test_stored_contexts_are_read_back_only_for_their_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "bundled_folder", lambda _: folder)
    monkeypatch.setattr(ranking, "load_pair", lambda _: load_pair(folder))
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(SENTENCES[1:]))
    own = tmp_path / "own.txt"
    own.write_text(SENTENCES[0])
    monkeypatch.setattr(ranking, "SENTENCES", own)
    assert stored_contexts() == []
    assert store_contexts() == folder / "contexts.json"
    assert stored_contexts() == rank_contexts(load_pair(folder), SENTENCES[:1])
    assert store_contexts("stories", texts) == folder / "contexts.json"
    assert stored_contexts("stories") == rank_contexts(load_pair(folder), SENTENCES[1:])
    stored = json.loads((folder / "contexts.json").read_text())
    (folder / "contexts.json").write_text(json.dumps({**stored, "weights": "other"}))
    assert stored_contexts() == []


def test_nothing_to_rank_is_a_clear_error(folder: Path) -> None:
    pair = load_pair(folder)
    with pytest.raises(KfError, match="No sentence"):
        rank_contexts(pair, ["Go"])
    with pytest.raises(KfError, match="no tokenizer"):
        rank_contexts(Pair(pair.teacher, pair.student), SENTENCES)
