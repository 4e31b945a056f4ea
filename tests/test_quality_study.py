"""The study of samples on a small pair: numbers against their definitions, what the figures draw, and the files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import student, written_pair
from studies import TEXTS, about, finding, run

from analysis import quality as module
from analysis import quality_figures as drawing
from kfexplore import noise
from kfexplore.config import DecodeConfig
from kfexplore.errors import KfError
from kfexplore.evaluate.samples import Written
from kfexplore.figures.page import THEMES
from kfexplore.pair import Pair
from kfexplore.results import Estimate, SampleQuality


@pytest.fixture(scope="module")
def pair() -> Pair:
    return written_pair(TEXTS)


@pytest.fixture(scope="module")
def found(pair: Pair) -> module.Study:
    return module.measure(pair, module.prompts(pair, TEXTS, 5), 8, 0, each=6)


def test_prompts_are_first_tokens_and_short_texts_are_left_out(pair: Pair) -> None:
    assert module.prompts(pair, TEXTS, 5).tolist() == [pair.encode(text)[0][:5] for text in TEXTS[:3]]
    with pytest.raises(KfError, match=r"0 texts have 99 tokens"):
        module.prompts(pair, TEXTS, 99)


def row(entropy: float, loss: float, tau: float = 1.0) -> SampleQuality:
    first, second = Estimate(loss, loss - 0.1, loss + 0.1), Estimate(entropy, entropy - 0.1, entropy + 0.1)
    return SampleQuality("x", 1, 0.0, None, tau, 8, first, first, second, *[first] * 5)


def test_teacher_is_interpolated_between_neighbouring_temperatures_and_not_beyond_its_own() -> None:
    own = [row(3.0, 1.0, 0.5), row(4.0, 3.0, 1.0), row(3.5, 2.0, 0.7), row(3.75, 9.0, 1.5)]  # entropy falls at last
    at = module.at_variety(row(3.25, 9.0), own)
    assert (at.loss, at.tau) == (pytest.approx(1.5), pytest.approx(0.6))
    assert at.lost is not None
    assert at.lost.value == pytest.approx(7.5)
    assert at.lost.half == pytest.approx(np.hypot(0.1, 2 * 0.1))  # its own, and two nats a nat of entropy
    assert module.at_variety(row(3.8, 9.0), own).tau == pytest.approx(0.88)
    assert module.at_variety(row(4.1, 9.0), own).loss is None


def test_texts_survive_until_their_first_other_token() -> None:
    own = Written(DecodeConfig("ar"), np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), 4)
    later = np.array([[1, 2, 9, 4], [5, 9, 7, 8]])  # equal tokens after the first other one do not count
    other = Written(DecodeConfig("pflm", 2), later, 2)
    assert [found.value for found in module.survival(other, own).values] == [1, 0.5, 0, 0]


def test_losses_are_split_by_slot() -> None:
    written = Written(DecodeConfig("pflm", 2), np.zeros((3, 4), dtype=np.int64), 2)
    losses, own = np.array([[1.0, 5, 3, 7]] * 3), np.array([[2.0, 2, 2, 2]] * 3)
    assert [e.value for e in module.slot_losses(written, losses, own).values] == [0, 4]


def test_blocks_are_grouped_by_their_first_exact_slots(pair: Pair) -> None:
    contexts = module.prompts(pair, TEXTS, 5)
    groups = module.leading(pair, contexts, 40, 0)
    assert sum(group.share.value for group in groups) == pytest.approx(1)
    for group in groups:
        assert [e.value for e in group.excess[: group.slots]] == [0] * group.slots  # the same tokens
        assert all(e.value for e in group.excess[group.slots : group.slots + 1])
    blind = Pair(pair.teacher, student(12, vocab_size=pair.teacher.config.vocab_size), tokenizer=pair.tokenizer)
    assert module.leading(blind, contexts, 3, 0)[0].slots == 0


def test_excess_of_a_slot_is_the_teachers_loss_of_the_learned_less_the_exact_token(pair: Pair) -> None:
    contexts, slots = module.prompts(pair, TEXTS, 5), pair.student.config.block
    total, each = np.zeros(slots), 3
    for c, context in enumerate(contexts):
        u = noise.uniform(0, range(c * each, (c + 1) * each), 5, slots)  # beyond the positions of the context's own
        block = pair.block(np.tile(context, (each, 1)), u)
        for sign, rows in ((1, block.student), (-1, block.teacher)):
            for tokens in rows.tolist():
                ids = [*context.tolist(), *tokens]
                law = pair.teacher.log_probs(torch.tensor([ids]))[0]
                total -= sign * np.array([float(law[at - 1, ids[at]]) for at in range(5, len(ids))])
    groups = module.leading(pair, contexts, each, 0)
    assert sum(g.share.value for g in groups) == pytest.approx(1)  # no group was left out
    mean = sum(group.share.value * np.array([e.value for e in group.excess]) for group in groups)
    assert mean == pytest.approx(total / len(contexts) / each, abs=1e-4)


def test_study_has_every_decoder_once_with_the_teacher_first(pair: Pair, found: module.Study) -> None:
    names = [row.decoder for row in found.rows]
    assert names[0] == "AR"
    assert len(set(names)) == len(names) == 18
    assert found.rows[0].teacher_nll_ratio.value == 1
    assert [s.k for s in found.slots] == list(range(1, pair.student.config.block + 1))


def test_table_and_figures_show_the_study(found: module.Study) -> None:
    assert module.table(found).splitlines()[1].startswith("AR ")
    for theme in THEMES:
        drawn = module.figures(found, theme)
        assert set(drawn) == {"frontiers", "perplexity", "survival", "slots", "leading"}
        assert all(figure.layout.title.text and figure.layout.title.subtitle.text for figure in drawn.values())


def test_script_writes_its_files(
    pair: Pair, found: module.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "measure", lambda *_, **__: found)
    document = run(module, monkeypatch, pair, tmp_path, "--prompt-tokens", 5)
    assert len(document["frontiers"]) == 5
    with (tmp_path / "quality.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["decoder"] for row in rows] == [row.decoder for row in found.rows]
    assert float(rows[0]["entropy_low"]) < float(rows[0]["entropy"]) < float(rows[0]["entropy_high"])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "quality.html")


def quality(name: str, loss: float, entropy: float, k: int = 1, tau: float = 1.0) -> SampleQuality:
    found = about(loss)
    return SampleQuality(name, k, 0.0, None, tau, 8, found, found, about(entropy), *[about(0.5)] * 4, about(loss / 10))


OWN = [quality("AR, tau 0.5", 1.0, 3.0, tau=0.5), quality("AR", 2.0, 3.5)]
STUDENT = [quality("K = 1", 1.5, 3.25), quality("K = 2", 4.0, 3.125, k=2)]
FRONTIERS = [
    drawing.Frontier("AR over temperature", ["tau 0.5", "tau 1"], OWN),
    drawing.Frontier("over K", ["K = 1", "K = 2"], STUDENT),
]


def test_frontier_has_one_mark_per_decoder_and_the_aim_is_the_teachers_own() -> None:
    figure = drawing.frontier_figure(FRONTIERS, [drawing.AtVariety(STUDENT[1], 0.6, 1.25, about(2.75))])
    own, student = figure.data
    assert (list(own.x), list(own.y)) == ([3.0, 3.5], [1.0, 2.0])
    assert list(student.text) == ["K = 1", "K = 2"]
    assert (list(student.error_y.array), list(student.error_y.arrayminus)) == ([0.5, 0.5], [0.25, 0.25])
    assert [(shape.y0, shape.x0) for shape in figure.layout.shapes] == [(2.0, 0), (0, 3.5)]
    assert finding(figure) == (
        "Samples of K = 2 have a loss of 4.00 nats per token, the teacher's own of the same entropy (3.12 nats, tau "
        "0.60) 1.25, the teacher's at tau 1 2.00"
    )
    none = drawing.frontier_figure(FRONTIERS, [drawing.AtVariety(STUDENT[1], None, None, None)])
    assert finding(none) == "Samples of K = 2 have a loss of 4.00 nats per token, the teacher's at tau 1 2.00"


def test_perplexity_ranks_and_names_the_best_student() -> None:
    figure = drawing.perplexity_figure([OWN[1], OWN[0], *STUDENT])
    ranked, alike = figure.data
    assert list(ranked.y) == ["K = 2", "AR", "K = 1", "AR, tau 0.5"]  # drawn from below
    assert list(ranked.x) == pytest.approx(np.exp([4, 2, 1.5, 1]))
    assert list(ranked.error_x.array) == pytest.approx(np.exp([4.5, 2.5, 2, 1.5]) - np.exp([4, 2, 1.5, 1]))
    assert list(alike.x) == pytest.approx([0.4, 0.2, 0.15, 0.1])
    assert finding(figure) == (
        "K = 1 has a perplexity of 4.5, the teacher at temperature 1 7.4; its samples are less alike, self-BLEU 0.15 "
        "against 0.20"
    )


def test_lines_by_position_have_intervals_and_their_finding() -> None:
    kept = [[about(1.0), about(0.75)], [about(0.5), about(0.0)]]
    figure = drawing.survival_figure(
        [drawing.ByPosition(f"K = {k}", k, values) for k, values in zip((1, 2), kept, strict=True)]
    )
    assert [list(line.y) for line in figure.data] == [[100, 75], [50, 0]]
    assert list(figure.data[0].error_y.array) == [50, 50]
    assert finding(figure) == (
        "From the same noise, 100% of the texts begin with the teacher's token; after 2 tokens, 0% still equal the "
        "teacher's with K = 2, 75% with K = 1"
    )
    losses = [drawing.ByPosition("K = 1", 1, [about(-0.5)]), drawing.ByPosition("K = 2", 2, [about(0.25), about(1.5)])]
    figure = drawing.slot_losses_figure(losses)
    assert [list(line.y) for line in figure.data] == [[-0.5], [0.25, 1.5]]
    assert finding(figure).startswith("In blocks of 2, the excess loss under the teacher is +0.25 nats in slot 1")


def test_blocks_are_split_by_their_first_wrong_slot() -> None:
    groups = [
        drawing.Leading(0, about(0.75), [about(-0.5), about(2.0)]),
        drawing.Leading(1, about(0.125), [about(0), about(3.0)]),
        drawing.Leading(2, about(0.125), [about(0), about(0)]),  # nothing is wrong: not drawn
    ]
    figure = drawing.leading_figure(groups)
    assert [list(line.y) for line in figure.data] == [[-0.5, 2], [3]]
    assert figure.data[1].name == "slot 2 is the first wrong one (12%)"
    assert finding(figure) == (
        "Where slot 1 is wrong (75% of blocks), its loss differs from the exact token's by -0.5 nats, that of later "
        "slots by +2.0 to +2.0"
    )
