"""Gen-PPL and the judge, with a tiny GPT-2 made here and loaded from a folder without a connection."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import save_gpt2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from kfexplore.checkpoints import hub
from kfexplore.checkpoints.tokenizers import load_tokenizer
from kfexplore.errors import KfError
from kfexplore.evaluate.intervals import wilson
from kfexplore.evaluate.judges import TEMPLATE, Continued, Judge, continued, gen_ppl, load_judge, win_rate
from kfexplore.training.data import train_tokenizer

from .synthetic import TEXT

TEXTS = [Continued("The old", " owl said"), Continued("Rain", " fell on the old house, and"), Continued("", "The rain")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    save_gpt2(folder, TEXT, 512)
    return folder


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hub cannot be reached; what was asked of it."""
    asked: list[str] = []

    def unreachable() -> None:
        asked.append("hub")
        raise ConnectionError("no connection")

    monkeypatch.setattr(hub, "check_hub", unreachable)
    return asked


@pytest.fixture
def judge(folder: Path) -> Judge:
    return load_judge(str(folder))


def test_perplexity_is_of_the_new_part_given_the_prefix(judge: Judge) -> None:
    total, count = 0.0, 0
    for text in TEXTS:
        whole, prefix = judge.encode(text.prefix + text.new), judge.encode(text.prefix)
        assert whole[: len(prefix)] == prefix  # no token straddles the boundary here
        law = judge.model(torch.tensor([whole])).logits[0].detach().double().log_softmax(-1)
        scored = [(at, i) for at, i in enumerate(whole) if at >= max(1, len(prefix))]
        total -= sum(float(law[at - 1, i]) for at, i in scored)
        count += len(scored)
    found = gen_ppl(judge, TEXTS)
    assert found.value == pytest.approx(math.exp(total / count), rel=1e-4)
    assert found.low < found.value < found.high


def test_prefix_and_continuation_are_encoded_together_and_a_token_over_the_boundary_is_not_scored(judge: Judge) -> None:
    whole = "The old owl said"
    ids = judge.encode(whole)
    at = next(n for n, piece in enumerate(judge.tokenizer.convert_ids_to_tokens(ids)) if n and len(piece) > 2)
    start = len(judge.tokenizer.decode(ids[:at]))
    cut = start + 1  # inside token `at`
    text = Continued(whole[:cut], whole[cut:])
    assert judge.encode(text.prefix) + judge.encode(text.new) != ids
    assert judge.encode_whole(text) == (ids, len(ids) - at - 1)
    law = judge.model(torch.tensor([ids])).logits[0].detach().double().log_softmax(-1)
    expected = -sum(float(law[n - 1, ids[n]]) for n in range(at + 1, len(ids)))
    assert judge.loss(text) == (pytest.approx(expected, rel=1e-4), len(ids) - at - 1)
    assert judge.encode_whole(Continued(whole[:start], whole[start:])) == (ids, len(ids) - at)
    assert judge.encode_whole(Continued(whole[:-1], whole[-1:]))[1] in (0, 1)


def test_a_judge_whose_tokenizer_hides_where_its_tokens_stand_is_refused(judge: Judge) -> None:
    slow = Judge("slow", judge.model, object())
    with pytest.raises(KfError, match="The tokenizer of slow has no fast version"):
        gen_ppl(slow, TEXTS)


def test_what_the_judge_cannot_hold_is_cut_from_the_beginning(judge: Judge) -> None:
    long = Continued("The old owl said " * 200, " go home!")
    ids, new = judge.encode(long.prefix + long.new), len(judge.encode(long.new))
    law = judge.model(torch.tensor([ids[-512:]])).logits[0].detach().double().log_softmax(-1)
    expected = -sum(float(law[-new - 1 + at, i]) for at, i in enumerate(ids[-new:]))
    assert judge.loss(long) == (pytest.approx(expected, rel=1e-4), new)


def test_judge_prefers_the_letter_of_the_greater_logit(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    logits = Judge.logits
    monkeypatch.setattr(Judge, "logits", lambda self, ids: asked.append(ids) or logits(self, ids))
    ids = judge.encode(TEMPLATE.format(prefix="The old", a="owl", b="house") + "\nAnswer:")
    first, second = judge.encode(" A"), judge.encode(" B")
    assert first[0] == second[0]  # a space is a token of its own here: the letters differ at the second
    last = judge.model(torch.tensor([[*ids, first[0]]])).logits[0, -1]
    expected = bool(last[first[1]] > last[second[1]])
    assert judge.prefers_first("The old", " owl", " house ") == expected
    with torch.no_grad():
        row = judge.model.transformer.wte.weight
        row[[first[1], second[1]]] = row[[second[1], first[1]]]  # letters change places
    swapped = judge.model(torch.tensor([[*ids, first[0]]])).logits[0, -1]
    assert judge.prefers_first("The old", "owl", "house") == bool(swapped[first[1]] > swapped[second[1]])
    assert asked == [[*ids, first[0]]] * 2


def test_a_chat_model_is_asked_in_its_own_form(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    judge.tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<answer>"
    logits = Judge.logits
    monkeypatch.setattr(Judge, "logits", lambda self, ids: asked.append(ids) or logits(self, ids))
    judge.prefers_first("The old", "owl", "house")
    question = TEMPLATE.format(prefix="The old", a="owl", b="house")
    assert judge.tokenizer.decode(asked[0]) == f"<user>{question}<answer>"


def test_a_question_longer_than_the_judge_reads_is_refused(judge: Judge) -> None:
    with pytest.raises(KfError, match="A question to"):
        judge.prefers_first("The old", "owl " * 300, "house " * 300)


class Longest:
    """Prefers the longer text, or the first of two of one length."""

    name = "longest"

    def prefers_first(self, _: str, a: str, b: str) -> bool:
        return len(a) >= len(b)


def test_every_pair_is_judged_in_both_orders() -> None:
    """30 pairs are won, 8 lost; of the 2 of one length, which is shown first decides."""
    ours = [Continued("", "long enough")] * 30 + [Continued("", "a")] * 8 + [Continued("", "owl")] * 2
    theirs = [Continued("", "short")] * 38 + [Continued("", "old")] * 2
    judge: Any = Longest()
    found = win_rate(judge, ours, theirs)
    assert (found.wins, found.losses, found.inconsistent) == (30, 8, 2)
    assert found.win_rate == wilson(31 / 40, 40)
    assert found.first_shown.value == pytest.approx((38 + 4) / 80)
    swapped = win_rate(judge, theirs, ours)
    assert (swapped.wins, swapped.losses, swapped.inconsistent) == (8, 30, 2)
    assert swapped.win_rate.value == pytest.approx(9 / 40)
    assert swapped.first_shown == found.first_shown


@pytest.mark.parametrize("first", [True, False])
def test_a_judge_of_places_has_no_preference_and_its_bias_is_seen(first: bool) -> None:
    class Place:
        name = "place"

        def prefers_first(self, *_: str) -> bool:
            return first

    judge: Any = Place()
    found = win_rate(judge, TEXTS * 10, TEXTS[::-1] * 10)
    assert (found.wins, found.losses, found.inconsistent) == (0, 0, 30)
    assert found.win_rate == wilson(0.5, 30)
    assert found.first_shown.value == float(first)


def test_texts_are_decoded_with_their_prefix() -> None:
    tokenizer = train_tokenizer(["plain"], 258)
    ids = np.array([tokenizer.encode("aé b").ids])  # é is two tokens
    (text,) = continued(tokenizer, ids[:, :2], ids[:, 2:])
    assert text == Continued("a", "é b")
    (text,) = continued(tokenizer, ids[:, :3], ids[:, 3:])
    assert text == Continued("aé", " b")


def bert(folder: Path) -> Tokenizer:
    """Words and the special tokens of BERT's tokenizers."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "owl", "rain", "fell"]
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.add_special_tokens(words[:5])
    tokenizer.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder)


def test_special_tokens_do_not_reach_a_judge(tmp_path: Path) -> None:
    tokenizer = bert(tmp_path)
    (text,) = continued(tokenizer, np.array([[2, 5, 6]]), np.array([[8, 3, 2, 7, 8, 3]]))
    assert text == Continued("the owl", " fell rain fell")
    (text,) = continued(tokenizer, np.array([[2]]), np.array([[5, 7, 3]]))
    assert text == Continued("", "the rain")
    gpt = train_tokenizer(["plain words"], 270)
    end = gpt.token_to_id("<|endoftext|>")
    ids = gpt.encode("one.").ids, gpt.encode("Two").ids
    (text,) = continued(gpt, np.array([ids[0]]), np.array([[end, *ids[1], end]]))
    assert text == Continued("one.", " Two")


def test_a_model_that_is_not_there_is_one_clear_error(tmp_path: Path, no_hub: list[str]) -> None:
    for name, reason in ((str(tmp_path), ""), ("owner/model", "no connection")):
        with pytest.raises(KfError, match=f"is not here and cannot be loaded: .*{reason}") as caught:
            load_judge(name)
        assert "safetensors" in caught.value.valid
    assert no_hub == ["hub"]  # once, and not for what is a folder


def test_judge_put_into_the_users_folder_is_found_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFEXPLORE_HOME", str(folder.parent))
    assert load_judge(folder.name).model.config.n_embd == 16
