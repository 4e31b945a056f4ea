"""The whole evaluation, its JSON, its card and its table."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import pytest

from kfexplore.config import DecodeConfig
from kfexplore.errors import KfError
from kfexplore.evaluate import evaluation as module
from kfexplore.evaluate.agreement import agreement, slot_law, text_ids, text_windows
from kfexplore.evaluate.card import model_card, summary
from kfexplore.evaluate.evaluation import EvalSettings, evaluate
from kfexplore.evaluate.samples import scored, write
from kfexplore.pair import Pair
from kfexplore.results import Estimate, Evaluation, Judged

from .synthetic import TEXT

SETTINGS = EvalSettings(windows=2, steps=16, samples=3, prefix=4, new_tokens=8, seed=5)


@pytest.fixture
def measured(pair: Pair) -> Evaluation:
    return evaluate(pair, "P", [TEXT], "T.txt", SETTINGS)


def test_parts_are_those_measured_alone(pair: Pair, measured: Evaluation) -> None:
    assert measured.agreement == agreement(pair, [TEXT], windows=2, seed=5)
    assert measured.slot_1 == slot_law(pair, [TEXT], contexts=2, resolution=16, seed=5)
    prefixes = text_windows(*text_ids(pair, [TEXT]), 3, 12)[:, :4]
    chosen = (DecodeConfig("ar"), DecodeConfig("pflm", 4, dither=6))
    written = [write(pair, prefixes, 8, decoder, seed=5) for decoder in chosen]
    assert [measured.samples[0], measured.samples[-1]] == scored(pair.teacher, prefixes, written)
    assert [row.decoder for row in measured.samples[:3]] == ["AR", "K = 1", "K = 2"]


def test_document_keeps_the_agreement_at_its_top(measured: Evaluation) -> None:
    document = json.loads(json.dumps(measured.as_json(), allow_nan=False))
    assert {"pair", "text", "slot_1", "samples", "settings", "device", "dtype", "versions"} <= set(document)
    assert {field.name for field in dataclasses.fields(measured.agreement)} <= set(document)
    assert document["samples"][0]["teacher_nll"]["value"] == measured.samples[0].teacher_nll.value
    assert (document["pair"], document["text"], document["settings"]["new_tokens"]) == ("P", "T.txt", 8)


def test_lengths_fit_a_short_context_unless_they_are_given(pair: Pair) -> None:
    usual = replace(SETTINGS, prefix=None, new_tokens=None)
    settings = evaluate(pair, "P", [TEXT], "T", usual).settings
    assert (settings["prefix"], settings["new_tokens"]) == (10, 20)  # a context of 40
    with pytest.raises(KfError, match="exceed the context"):
        evaluate(pair, "P", [TEXT], "T", replace(SETTINGS, prefix=30, new_tokens=30))


def test_other_models_are_asked_about_every_decoder(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    monkeypatch.setattr(module, "load_judge", lambda name, _: name)
    monkeypatch.setattr(module, "gen_ppl", lambda judge, text: texts.append((judge, text)) or Estimate(9.0, 8.0, 10.0))
    judged = Judged(1, 1, 1, Estimate(0.5, 0, 1), Estimate(0.25, 0, 1))
    asked = []
    monkeypatch.setattr(module, "win_rate", lambda _, *both: asked.append(both) or judged)
    measured = evaluate(pair, "P", [TEXT], "T", replace(SETTINGS, gen_ppl="G", judge="J"))
    assert len(texts) == len(measured.samples)
    assert {judge for judge, _ in texts} == {"G"}
    assert all(row.gen_ppl == Estimate(9.0, 8.0, 10.0) for row in measured.samples)
    assert measured.samples[0].win_rate is None
    assert all(text != own == texts[0][1] for text, own in asked)  # none is compared with itself
    assert len(asked) == len(measured.samples) - 1
    assert {row.win_rate for row in measured.samples[1:]} == {Estimate(0.5, 0, 1)}
    assert {(row.judged_first, row.judged_inconsistent) for row in measured.samples[1:]} == {(0.25, 1 / 3)}
    for text in (summary(measured), model_card(pair, measured)):
        assert "9.0 [8.0, 10.0]" in text
        assert "first shown chosen" in text
        assert "order decided" in text


def test_card_has_what_was_measured_and_what_the_pair_says(pair: Pair, measured: Evaluation) -> None:
    info = {"name": "N", "licence": "MIT", "folder": "/secret", "training": {"steps": 900}}
    card = model_card(replace(pair, info=info), measured)
    assert "# Pair `N`" in card
    assert "- Licence: MIT." in card
    assert "- steps: 900" in card
    assert "/secret" not in card
    assert f"**{measured.agreement.teacher_nll:.3f}**" in card
    assert f"{measured.slot_1.tv.value:.3f} ±" in card
    for row in measured.samples:
        assert f"| {row.decoder} | {row.nfe} | {row.teacher_nll.value:.2f} ±" in card
    for slot, share in enumerate(measured.agreement.agreement_by_slot):
        assert f"| {slot + 1} | {share:.1%} ±" in card
    for bin in measured.agreement.block_by_entropy:
        assert f"| {bin.low:.0f} to {bin.high:.0f} | {bin.blocks:,} |" in card
    assert "children's books" not in card


def test_card_of_the_bundled_pair_keeps_its_limits(pair: Pair, measured: Evaluation) -> None:
    card = model_card(replace(pair, info={"name": "tales"}), measured)
    assert "views of their time" in card.replace("\n", " ")
    assert "## Training" not in card


def test_rows_of_a_table_have_as_many_cells_as_its_head(pair: Pair, measured: Evaluation) -> None:
    for part in model_card(pair, measured).split("\n\n"):
        if part.startswith("|"):
            assert len({line.count("|") for line in part.splitlines()}) == 1
