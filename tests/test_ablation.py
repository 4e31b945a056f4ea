"""The ablation: every kind of arm trains within its budget; another order of the CDF leaves the teacher unchanged."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import student, teacher
from studies import run
from tokenizers import Tokenizer, models, pre_tokenizers

from analysis import ablation
from analysis.distillation import blind
from kfexplore.bench.train import token_passes
from kfexplore.checkpoints.tokenizers import encode_ids
from kfexplore.config import DEFAULT_PAIR
from kfexplore.pair import Pair
from kfexplore.training.data import Corpus

TOKENS = np.random.default_rng(0).integers(0, 23, 400).astype(np.uint16)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Pair:
    base = dataclasses.replace(ablation.BASE, context=16, groups=4, batch=1, optimizer="adamw")
    monkeypatch.setattr(ablation, "BASE", base)
    words = {letter: n for n, letter in enumerate("abcdefghijklmnopqrstuvw")}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Pair(teacher(), student(), None, tokenizer)


@pytest.mark.parametrize("name", ["A", "C", "exact progressive", "octaves", "next-token loss", "own words", "deeper"])
def test_every_arm_spends_its_budget_and_starts_from_the_teacher(name: str, small: Pair, tmp_path: Path) -> None:
    arm = ablation.ARMS[name]
    budget = 4 * sum(token_passes(ablation.BASE))
    trained, steps = ablation.train_arm(arm, small, TOKENS, budget, seed=0, folder=tmp_path)
    assert trained.config.block == 4
    stages = sorted(folder.name for folder in tmp_path.iterdir())
    assert stages == (["1", "2", "4"] if arm.progressive else ["4"])
    assert trained.config.depth == small.teacher.config.depth + arm.deeper
    assert (1 if arm.deeper else 3) <= steps <= 8
    moved = (trained.vocab_embed.embedding - small.teacher.vocab_embed.embedding).abs()
    assert 0 < moved.max() < 0.1


def test_independent_slots_do_not_see_each_other(small: Pair) -> None:
    heads = ablation.Heads(small.student.config)
    heads.load_state_dict(small.student.state_dict())
    ids, ends = torch.arange(8)[None], torch.tensor([[8, 5]])
    u = torch.rand(1, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = u.clone()
    other[..., 0] = 1 - u[..., 0]
    for model, seen in ((small.student, True), (heads, False)):
        one, two = (model.group_logits(ids, noise, ends)[:, :, 1:] for noise in (u, other))
        assert torch.allclose(one, two, atol=1e-6) != seen


def test_another_order_renames_tokens_and_nothing_else(small: Pair) -> None:
    pair, corpus = ablation.reordered(small, TOKENS)
    names = np.array(encode_ids(pair.need_tokenizer(), "a b c d e f g h i j k l m n o p q r s t u v w"))
    assert sorted(names) == list(range(23))
    assert (names != np.arange(23)).any()
    assert (corpus == names[TOKENS]).all()
    assert corpus.dtype == np.uint16
    old, new = torch.from_numpy(TOKENS[:9].astype(np.int64))[None], torch.from_numpy(corpus[:9].astype(np.int64))[None]
    laws = pair.teacher.log_probs(new)[..., names], small.teacher.log_probs(old)[..., :23]
    torch.testing.assert_close(*laws)


def test_slot_1_by_the_own_distribution_is_exact_for_the_teacher_s_own_weights(small: Pair) -> None:
    twin = student()
    assert ablation.exact_first(twin, small.teacher, TOKENS) < 0.9
    twin.load_state_dict(small.teacher.state_dict(), strict=False)
    assert ablation.exact_first(twin, small.teacher, TOKENS) == 1.0


def test_a_row_per_slot_and_a_figure_are_written(small: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train.npy", "held_out.npy"):
        np.save(tmp_path / name, TOKENS)
    (tmp_path / "text.txt").write_text("a b c d e f g h " * 200)
    monkeypatch.setattr(Corpus, "read", lambda folder: Corpus(np.load(folder / "train.npy")))
    budget = 2 * sum(token_passes(ablation.BASE))
    words = ("--data", tmp_path, "--text", tmp_path / "text.txt", "--arms", "B,exact", "--budget", budget)
    document = run(ablation, monkeypatch, small, tmp_path / "out", *words)
    assert [row["arm"] for row in document["rows"]] == ["B", "exact"]
    settings = {name: document[name] for name in ("pair", "data", "text", "dtype", "base", "evaluation", "noise_blind")}
    share, nats = blind(small, [(tmp_path / "text.txt").read_text()], 24, 128, 0)
    assert settings == {
        "pair": DEFAULT_PAIR,
        "data": tmp_path.name,
        "text": "text.txt",
        "dtype": "bf16",
        "base": json.loads(json.dumps(dataclasses.asdict(ablation.BASE))),
        "evaluation": {"windows": 24, "groups": 128, "seed": 0, "dtype": "float32"},
        "noise_blind": {"share": share, "nats": nats},
    }
    with (tmp_path / "out" / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["slot"]) for row in rows] == [(arm, str(j)) for arm in ("B", "exact") for j in range(1, 5)]
    assert [float(row["agreement_by_slot"]) for row in rows[:4]] == document["rows"][0]["agreement_by_slot"]
    assert "trained in bf16, measured in float32" in (tmp_path / "out" / "ablation.html").read_text()
