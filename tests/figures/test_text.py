"""Texts as HTML: backgrounds by step, marks where texts diverge, underlines of surprisal; no token is markup."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kfexplore.figures.palette import colours
from kfexplore.figures.text import LEVELS, text_css, texts_html
from kfexplore.results import Line, Written


def line(pieces: list[str], steps: list[int] | None = None, **more: Any) -> Line:
    return Line(list(range(len(pieces))), steps or [n + 1 for n in range(len(pieces))], pieces, **more)


def written(*lines: Line, **more: Any) -> Written:
    given: dict[str, Any] = {"decoder": "pflm", "k": 2, "seed": 0, "nfe": 3, "seconds": 0.5, "stage": "done"}
    return Written(lines=list(lines), **{**given, **more})


def drawn(*lines: Line, underlined: bool = False, hints: bool = False, **more: Any) -> str:
    return texts_html([written(*lines, **more)], underlined, hints)


def blocks(html: str) -> list[tuple[str, str]]:
    """Class and text of each background."""
    text = re.search('<p class="kft-text">(.*?)</p>', html, re.DOTALL)
    assert text
    found = re.findall(r'<span class="(\w+)">(.*?)</span>', text[1], re.DOTALL)
    return [(background, re.sub("<[^>]*>", "", inner)) for background, inner in found]


def test_backgrounds_alternate_by_step_and_a_masked_models_grow_stronger() -> None:
    found = drawn(line(["Once", " upon", " a", " time", ","], [1, 1, 2, 3, 3]))
    assert blocks(found) == [("p1", "Once upon"), ("p0", " a"), ("p1", " time,")]
    masked = blocks(drawn(line(list("abcdefgh"), [8, 1, 0, 0, 2, 4, 1, 0]), decoder="mdlm", k=1))
    assert [kind for kind, _ in masked] == ["s7", "s0", "g", "s1", "s3", "s0", "g"]
    assert [text for _, text in masked] == ["a", "b", "__", "e", "f", "g", "_"]


@pytest.mark.parametrize(
    ("piece", "shown"),
    [
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ('"&', "&quot;&amp;"),
        (" a b", " a b"),
        (" ", " "),
        ("\n", "↵\n"),
        ("a\n b", "a↵\n b"),
        ("\t", "⇥"),
        ("\u202e", "‹202e›"),
        ("", ""),
    ],
)
def test_a_tokens_text_is_shown_and_never_markup(piece: str, shown: str) -> None:
    found = drawn(line(["x", piece]), hints=True)
    assert re.findall(r"<i[^>]*>(.*?)</i>", found, re.DOTALL) == ["x", shown]
    assert "<img" not in found


def test_the_mark_stands_before_the_first_token_that_differs() -> None:
    found = drawn(line(["a", " b", " c"], shared=1, diverged=True))
    assert "".join(text for _, text in blocks(found)) == "a≠ b c"
    assert "exact for 1 token, then ≠" in found
    assert "≠ marks" in found
    assert "≠" not in drawn(line(["a", " b"]))  # nothing to compare with
    for stage, said in (("done", "exact throughout"), ("writing", "exact so far")):
        found = drawn(line(["a", " b"], shared=2), decoder="verified", stage=stage)
        assert said in found
        assert "<em" not in found


def test_several_samples_have_captions_and_share_rows() -> None:
    found = drawn(line(["a", "b"], shared=1, diverged=True), line(["a", "b"], shared=2))
    assert "sample 1 · exact for 1, then ≠" in found
    assert "sample 2 · exact<" in found
    assert "exact for 1.5 tokens on average" in found
    assert "--rows: 3" in found


def test_underlines_grow_with_surprise() -> None:
    nats = [LEVELS[0] - 0.1, *LEVELS]
    text = line(list("abcde"), surprise=nats)
    found = drawn(text, underlined=True, hints=True)
    assert re.findall(r'<i(?: class="(\w+)")? title', found) == ["", "u1", "u2", "u3", "u4"]
    assert [float(n) for n in re.findall(r"([\d.]+) nats\"", found)] == pytest.approx(nats)
    assert f"{sum(nats) / 5:.2f}</b> nats per token" in found
    assert "the teacher finds unlikely: 1.5 nats (thin) to 7 or more (thick)." in found
    assert "bits" not in found
    assert "Times are from this one short run; the tab Timing" in found
    for plain in (drawn(text, hints=True), drawn(line(list("abcde")), underlined=True, hints=True)):
        assert not re.search('class="u|</b> nats', plain)


def test_the_end_of_a_text_is_shown() -> None:
    found = drawn(line(["a", "<|endoftext|>"], ended=True))
    assert "end of text" in found
    assert "endoftext" not in found


def test_numbers_of_a_pane() -> None:
    found = re.sub("<[^>]*>", "", drawn(line(["a", "b", "c"]), line(["a", "b"]), nfe=7))
    assert "7 passes (NFE)5 tokens0.50 s10 tokens/s" in found
    assert "<b>1</b> pass (NFE)" in (one := drawn(line(["a"]), nfe=1))
    assert "<b>1</b> token<" in one
    assert "–" in drawn(line([]), seconds=0.0, stage="waiting")


def test_each_pane_says_who_writes_and_whether_it_is_exact() -> None:
    kinds = [("exact", "ar"), ("learned", "pflm"), ("learned", "mdlm"), ("exact", "verified"), ("exact", "jacobi")]
    found = texts_html([written(line(["a"]), decoder=name) for _, name in kinds])
    assert re.findall(r'kft-pane kft-(\w+)" data-decoder="(\w+)"', found) == kinds
    assert "the student, 2 per pass" in found


def test_styles_have_both_themes_and_a_class_for_all_that_is_drawn() -> None:
    css = text_css()
    assert colours("dark").ink in css.split(".dark .kft")[1]
    for name in ("p0", "p1", "g", *(f"s{n}" for n in range(8)), *(f"u{n}" for n in range(1, 5)), "end", "part"):
        assert re.search(rf"\.{name}\b", css), name


def test_a_block_with_a_link_is_one_stop_and_the_others_are_reached_by_arrows() -> None:
    links = [(0, "prompt=a&k=2"), (2, ""), (4, 'prompt="')]
    found = drawn(line(list("abcde"), [1, 1, 2, 2, 3], links=links))
    assert re.findall(r'<a class="kft-block" href="(.*?)" tabindex="(.*?)">', found) == [
        ("?prompt=a&amp;k=2", "0"),
        ("?prompt=&quot;", "-1"),
    ]
    assert blocks(found) == [("p1", "ab"), ("p0", "cd"), ("p1", "e")]
    assert "Press a block" in found
    assert "Press a block" not in drawn(line(list("ab")))


def test_passes_of_the_first_block_are_in_slow_motion_at_the_runs_own_times() -> None:
    ar = written(line(list("abcdef"), [1, 2, 3, 4, 5, 6]), decoder="ar", k=1, nfe=6, seconds=0.06)
    student = written(line(list("abcxef"), [1, 1, 1, 2, 2, 2]), k=3, nfe=2, seconds=0.04)
    found = texts_html([ar, student])
    lanes = re.findall(r'kft-lane kft-(\w+)"><b>(\w+)</b>(.*?)</p>', found)
    assert [(kind, name) for kind, name, _ in lanes] == [("exact", "AR"), ("learned", "PFLM")]
    tokens = [re.findall(r"delay: ([\d.]+)s\">(\w)<small>(\d)<", lane) for *_, lane in lanes]
    assert tokens[0] == [("1.00", "a", "1"), ("2.00", "b", "2"), ("3.00", "c", "3")]  # 10 ms each, 100 times slower
    assert tokens[1] == [("2.00", "a", "1"), ("2.00", "b", "1"), ("2.00", "c", "1")]  # one pass of 20 ms
    assert "3 passes against one" in found
    assert "100 times slower" in found
    assert 'kft-go"' in found
    running = texts_html([ar, written(line([]), k=3, nfe=0, seconds=0.0, stage="writing")])
    assert "3 passes against one" in running
    assert 'kft-go"' not in running
    for alone in ([ar], [student], [ar, written(line(["a"]), k=1)]):
        assert "kft-race" not in texts_html(alone)


def test_passes_do_not_move_for_those_who_ask_for_that() -> None:
    reduced = text_css().split("prefers-reduced-motion: reduce")[1]
    assert ".kft-go .kft-lane i { animation: none; }" in reduced
