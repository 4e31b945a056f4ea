"""The study of joint against marginal on a small pair: classes, means over contexts, figures, table and page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import masked, student, teacher
from studies import finding, run

from analysis import joint_vs_marginal as module
from analysis import joint_vs_marginal_figures as drawing
from kfexplore.laws.exact import pair_law
from kfexplore.pair import Pair
from kfexplore.results import Distance, Estimate, exactly
from kfexplore.training.data import train_tokenizer

TEXT = "The old owl said: go home! Rain fell on the old house, and the rain went on. " * 6


@pytest.fixture(scope="module")
def pair() -> Pair:
    tokenizer = train_tokenizer([TEXT], 265)
    rows = tokenizer.get_vocab_size() + 1
    models = (teacher(1, vocab_size=rows), student(11, vocab_size=rows), masked(12, vocab_size=rows))
    return Pair(*models, tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("text", "before", "name"),
    [
        (" owl", "The", "a word's start"),
        ("owl", "“", "a word's start"),
        ("ing", " sing", "inside a word"),
        (",", "owl", "punctuation"),
        (" “", "said", "punctuation"),
        ("\n", "owl", "space or line end"),
        ("7", " ", "a word's start"),
        ("\ufffd", "a", "other"),
    ],
)
def test_classes(text: str, before: str, name: str) -> None:
    assert module.token_class(text, before) == name


def test_classes_take_the_mutual_information_apart(pair: Pair) -> None:
    laws = [pair_law(pair, ids) for ids in module.contexts(pair, [TEXT], 3, 0)]
    found = module.by_class(pair, laws)
    assert sum(c.share for c in found) == pytest.approx(1, abs=0.01)
    whole = np.mean([law.mutual_information.value for law in laws])
    assert sum(c.share * c.information.value for c in found) == pytest.approx(whole, abs=0.01)


def test_measures_add_up_and_the_page_is_written(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results, laws, studies = module.measure(pair, module.contexts(pair, [TEXT], 4, 0), 2, 2, 200, 0)
    assert len(laws) == 4
    rows = module.over_contexts(studies)
    assert rows[0].sampler == "teacher"
    assert rows[2].kl is not None
    both = results["total_correlation"]["value"] + results["wrong_marginals"]["value"]
    assert rows[3].kl is not None
    assert rows[3].kl.value == pytest.approx(both)
    assert "ideal MDLM" in module.table(results)
    assert [row.tv.kind for row in rows] == ["exact", "quadrature", "exact", "exact", "lower_bound", "lower_bound"]
    assert rows[4].tv.high is None
    apart = module.differences(studies)
    assert [row.sampler for row in apart] == ["student", "MDLM, 1 pass"]  # a lower bound is compared with nothing
    by_hand = np.array([s.samplers[1].tv.value - s.samplers[2].tv.value for s in studies])
    assert apart[0].tv.value == pytest.approx(by_hand.mean())
    assert apart[0].tv.half == pytest.approx(12.7062 * by_hand.std(ddof=1) / 2**0.5, rel=1e-4)  # t, one degree
    assert apart[0].finding in module.table(results)
    assert [row["sampler"] for row in results["differences"]] == ["student", "MDLM, 1 pass"]
    (tmp_path / "text.txt").write_text(TEXT)
    words = ("--text", tmp_path / "text.txt", "--contexts", 3, "--studies", 2, "--blocks", 200)
    document = run(module, monkeypatch, pair, tmp_path / "out", *words)
    assert "inside a word" in capsys.readouterr().out
    assert (len(document["contexts"]), document["text"]) == (3, "text.txt")


def test_passes_show_limits_and_which_are_lower_bounds() -> None:
    zero = Estimate(0, 0, 0)
    rows = [
        drawing.SamplerError(name, nfe, tv, 0.2, 0.05, zero, zero)
        for name, nfe, tv in (
            ("teacher", 2, exactly(0.0)),
            ("student", 1, Distance(0.4, 0.3, 0.5, "quadrature")),
            ("ideal MDLM", 1, exactly(0.3)),
            ("MDLM, 2 passes", 2, Distance(0.6, 0.55, None, "lower_bound")),
        )
    ]
    figure = drawing.passes_figure(rows)
    assert [round(mark.x[0]) for mark in figure.data] == [2, 1, 1, 2]
    assert [mark.y[0] for mark in figure.data] == [0, 0.4, 0.3, 0.55]  # a lower bound by its limit
    assert figure.data[1].error_y.array[0] == pytest.approx(0.1)
    bound = figure.data[3]
    assert (bound.error_y.array[0], bound.error_y.arrayminus[0]) == pytest.approx((0, 0))  # no upper end
    assert bound.name == "MDLM, 2 passes (lower bound)"
    assert bound.marker.symbol.endswith("-open")
    assert len(figure.layout.annotations) == 1
    assert "exact marginals are 0.300 from the teacher's distribution, the student 0.400" in finding(figure)


def test_information_and_classes() -> None:
    assert "1.00 nats" in drawing.information_figure(np.linspace(0, 2, 21)).layout.title.text
    classes = [
        drawing.ClassInformation("a", 0.2, Estimate(1, 0.5, 2)),
        drawing.ClassInformation("b", 0.8, Estimate(3, 2, 4)),
    ]
    bars = drawing.classes_figure(classes).data[0]
    assert list(bars.y) == [3, 1]
    assert list(bars.x) == ["b (80%)", "a (20%)"]
