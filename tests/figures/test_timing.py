"""Figures of timings: they draw the numbers of the rows, from dataclasses and from JSON, and say what failed."""

from __future__ import annotations

import dataclasses
import json
import re
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
import pytest

from figures.test_palette import contrast
from kfexplore.figures.palette import Theme, colours
from kfexplore.figures.roofline import gain_figure, gain_of, gain_words
from kfexplore.figures.timing import (
    chance_words,
    figure_height,
    over_ar,
    race_figure,
    speedup_figure,
    timing_figures,
    timing_page,
)
from kfexplore.results import Gain, Spread, TimingRow


def row(decoder: str, batch: int, k: int, seconds: tuple[float, float, float], **more: Any) -> TimingRow:
    """16 new tokens in 16 / k passes, each of at least 10 ms."""
    value = seconds[0]
    values = {
        "nfe": 16 // k,
        "seconds": Spread(*seconds),
        "ms_per_step": 1e3 * value / (16 // k),
        "tokens_per_second": batch * 16 / value,
        "least_ms": 10.0,
        **more,
    }
    return TimingRow(decoder, batch, k, "small", 3, 16, 2, **values)


AR = [row("ar", 1, 1, (2.0, 1.6, 4.0)), row("ar", 4, 1, (2.0, 2.0, 2.0))]
PFLM = [
    row("pflm", 1, 4, (1.0, 0.8, 2.0), speedup=Spread(2.0, 0.8, 5.0), roofline_speedup=4.0),
    row("pflm", 4, 4, (4.0, 4.0, 4.0), speedup=Spread(0.5, 0.4, 0.6), roofline_speedup=1.5),
]
FAILED = TimingRow("mdlm", 4, 2, "small", 3, 16, 2, error="Out of memory: <b>smaller</b>.")
ROWS = [AR[0], PFLM[0], AR[1], PFLM[1], FAILED]
RACES: list[tuple[int, str, int]] = [(b, d, k) for b in (1, 4) for d, k in (("ar", 1), ("pflm", 4), ("mdlm", 2))]
GAINS = [
    Gain(1, 4, 1.0, 1.0, "memory"),
    Gain(8, 4, 1.0, 2.5, "arithmetic"),
    Gain(64, 4, 2.0, 16.0, "arithmetic"),
    Gain(1, 1, 1.0, 1.0, "memory"),
    Gain(8, 1, 1.0, 1.25, "memory"),
    Gain(64, 1, 2.0, 4.0, "arithmetic"),
]


def traces(figure: go.Figure) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


def drawn(trace: Any) -> list[float]:
    return [value for value in trace.y if value is not None]


def test_bars_are_tokens_per_second_and_whiskers_the_slowest_and_fastest() -> None:
    found = traces(race_figure(ROWS, "light", RACES))
    assert list(found) == ["AR", "PFLM, K = 4", "MDLM, K = 2", "at the device's limit", "✕ could not be timed"]
    assert list(found["AR"].y) == pytest.approx([8, 32])
    bars = found["PFLM, K = 4"]
    assert list(bars.y) == pytest.approx([16, 16])
    assert [bars.y[0] + bars.error_y.array[0], bars.y[0] - bars.error_y.arrayminus[0]] == pytest.approx([20, 8])
    assert list(found["MDLM, K = 2"].y) == []


def test_the_mark_is_the_roofline_and_stands_over_its_bar() -> None:
    found = traces(race_figure(ROWS, "light", RACES))
    mark, bars = found["at the device's limit"], found["PFLM, K = 4"]
    # batch * 16 tokens in 16 (AR) or 4 (PFLM) passes of 10 ms
    assert drawn(mark) == pytest.approx([100, 100, 400, 400, 400, 400, 1600, 1600])
    left, right = mark.x[3], mark.x[4]
    assert (left + right) / 2 == pytest.approx(bars.x[0])
    assert right - left <= bars.width


def test_a_failed_row_has_a_sign_and_its_reason_where_its_bar_would_be() -> None:
    figure = race_figure(ROWS, "light", RACES)
    failed = traces(figure)["✕ could not be timed"]
    assert list(failed.text) == ["✕"]
    assert failed.x[0] > traces(figure)["PFLM, K = 4"].x[1]
    assert failed.customdata[0][1] == FAILED.error
    assert "could not be timed" in figure.layout.title.subtitle.text.replace("<br>", " ")
    assert "✕ could not be timed" not in traces(race_figure(ROWS[:4], "light", RACES))


def test_bars_keep_their_places_while_rows_come_in() -> None:
    whole = traces(race_figure(ROWS, "light", RACES))
    for count in range(len(ROWS)):
        figure = race_figure(ROWS[:count], "light", RACES)
        part = traces(figure)
        assert [name for name in part if "K" in name or name == "AR"] == ["AR", "PFLM, K = 4", "MDLM, K = 2"]
        assert list(figure.layout.xaxis.ticktext) == ["1", "4"]
        for name in ("AR", "PFLM, K = 4"):
            assert list(part[name].x) == list(whole[name].x)[: len(part[name].x)]
    assert "No decoder is timed yet" in race_figure([], "light", RACES).layout.title.text


def test_decoders_differ_without_colour_and_ks_by_strength() -> None:
    rows = [row(d, 1, k, (1.0, 1.0, 1.0)) for d in ("pflm", "mdlm", "verified", "jacobi") for k in (2, 4)]
    found = [t for t in race_figure([AR[0], *rows]).data if t.type == "bar"]
    assert len({t.marker.pattern.shape for t in found}) == 5
    assert len({(t.marker.pattern.shape, t.marker.pattern.solidity) for t in found}) == len(found) == 9


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("decoder", ["pflm", "mdlm", "verified"])
@pytest.mark.parametrize("ks", [(4,), (1, 2), (1, 2, 3, 4)])
def test_values_of_k_differ_in_lightness_and_stand_out_from_the_ground(
    theme: Theme, decoder: str, ks: tuple[int, ...]
) -> None:
    rows = [row(decoder, 1, k, (1.0, 1.0, 1.0), speedup=Spread(2.0, 1.5, 2.5)) for k in ks]
    ground = colours(theme).surface
    for figure in (race_figure(rows, theme), speedup_figure(rows, theme)):
        markers = [trace.marker for trace in figure.data if trace.name and "K = " in trace.name]
        assert [marker.opacity for marker in markers] == [None] * len(ks)
        shades = [marker.color for marker in markers]
        assert min(contrast(shade, ground) for shade in shades) >= 3
        steps = [contrast(darker, lighter) for darker, lighter in pairwise(shades)]
        assert min(steps, default=2) >= 1.4, shades
        assert sorted(shades, key=lambda shade: contrast(shade, ground)) == shades  # the larger K, the stronger


def test_another_program_stands_beside_the_decoders_under_its_own_name() -> None:
    peers = [row(name, 1, 1, (4.0, 4.0, 4.0), least_ms=None) for name in ("plain loop", "another <b>")]
    figure = race_figure([*peers, *ROWS])
    found = traces(figure)
    assert list(found)[:5] == ["AR", "PFLM, K = 4", "MDLM, K = 2", "another <b>", "plain loop"]
    assert list(found["plain loop"].y) == [4]
    assert len({found[name].x[0] for name in ("AR", "PFLM, K = 4", "another <b>", "plain loop")}) == 4
    assert found["plain loop"].marker.color == colours().muted
    assert len(drawn(found["at the device's limit"])) == 8  # no mark where nothing is counted
    assert "plain loop" in json.dumps(page_data(timing_page(documented(bench="throughput", rows=[peers[0].as_json()]))))


def test_speed_ups_have_their_spread_the_rooflines_ratio_and_a_line_at_one() -> None:
    figure = speedup_figure(ROWS, "light", RACES)
    found = traces(figure)
    assert list(found) == ["PFLM, K = 4", "MDLM, K = 2", "at the device's limit"]
    marks = found["PFLM, K = 4"]
    assert list(marks.y) == [2.0, 0.5]
    assert [marks.y[0] + marks.error_y.array[0], marks.y[0] - marks.error_y.arrayminus[0]] == pytest.approx([5, 0.8])
    assert drawn(found["at the device's limit"]) == [4, 4, 1.5, 1.5]
    assert (figure.layout.shapes[0].y0, figure.layout.shapes[0].y1) == (1, 1)
    low, high = figure.layout.yaxis.range
    assert 10**low < 0.4
    assert 10**high > 5


def test_titles_say_the_finding() -> None:
    def title(figure: go.Figure) -> str:
        return figure.layout.title.text.replace("<br>", " ")

    assert title(race_figure(ROWS)) == (
        "At batch 1 the fastest may be PFLM, K = 4 or AR (inconclusive); "
        "at batch 4 AR is fastest, 32 (32 to 32) tokens per second"
    )
    assert title(race_figure([FAILED])) == "No decoder could be timed"
    assert title(race_figure(AR[:1])) == "At batch 1 AR writes 8 (4 to 10) tokens per second"
    assert title(speedup_figure(ROWS)) == (
        "Speed of PFLM, K = 4 over AR's: inconclusive (0.80 to 5.00) at batch 1, 0.50 (0.40 to 0.60) at batch 4"
    )
    once = [dataclasses.replace(each, repeats=1) for each in (AR[1], PFLM[1])]
    assert title(race_figure(once)) == "At batch 4 the fastest may be AR or PFLM, K = 4 (inconclusive)"
    assert title(speedup_figure(once)) == "Speed of PFLM, K = 4 over AR's: inconclusive (0.50 in one repeat) at batch 4"
    alone = [row("pflm", 1, 4, (1.0, 0.8, 2.0))]
    assert title(speedup_figure(alone)) == "No speed-up without AR: select it too"
    assert title(speedup_figure([], "light", [RACES[1]])) == "No speed-up without AR: select it too"
    assert title(speedup_figure(AR)) == "No speed-up: only AR is selected"
    failed = TimingRow("ar", 1, 1, "small", 3, 16, 2, error="Out of memory.")
    assert title(speedup_figure([failed, *alone])) == "No speed-up: AR could not be timed"
    assert title(speedup_figure([AR[0]], "light", RACES)) == "Nothing is timed against AR yet"
    for figure, unit in (
        (race_figure(ROWS), "tokens per second"),
        (speedup_figure(ROWS), "× AR"),
        (gain_figure(GAINS), "× AR"),
    ):
        assert unit in figure.layout.yaxis.title.text
        assert "batch" in figure.layout.xaxis.title.text
        assert figure.layout.yaxis.type == "log"


def test_ar_has_no_ratio_to_itself_also_where_an_older_document_gives_one() -> None:
    old = dataclasses.replace(AR[0], speedup=Spread(1.0, 0.48, 2.1), roofline_speedup=1.0)
    assert [over_ar(each) for each in (AR[0], old)] == ["", ""]
    assert list(traces(speedup_figure([old, PFLM[0]]))) == ["PFLM, K = 4", "at the device's limit"]


def test_a_mark_of_the_roofline_is_said_to_be_a_model_that_a_timing_can_be_above() -> None:
    for figure in (race_figure(ROWS), speedup_figure(ROWS), gain_figure(GAINS)):
        reading = figure.layout.title.subtitle.text.replace("<br>", " ")
        assert "a model of the bytes and FLOPs of a pass" in reading
        assert "allow" not in reading + figure.layout.title.text
    for figure in (speedup_figure(ROWS), gain_figure(GAINS)):
        reading = figure.layout.title.subtitle.text.replace("<br>", " ")
        assert "above it" in reading
        assert "pays the overhead of a call for every token" in reading
    assert gain_figure(GAINS).layout.yaxis.title.text == "speed-up at the device's limit (× AR)"


def test_gains_show_what_bounds_them() -> None:
    figure = gain_figure(GAINS)
    found = traces(figure)
    assert list(found["K = 4"].x) == [1, 8, 64]
    assert list(found["K = 4"].y) == pytest.approx([4, 1.6, 0.5])
    assert list(found["K = 4"].marker.symbol) == ["square", "square-open", "square-open"]
    assert list(found["K = 1"].marker.symbol) == ["circle", "circle", "circle-open"]
    assert list(found["memory, K = 1"].x) == [1, 8, None]
    assert list(found["arithmetic, K = 1"].x) == [8, 64, None]
    assert found["arithmetic, K = 1"].line.dash == "dot"
    assert figure.layout.xaxis.type == "log"


def test_where_the_gain_ends_is_said() -> None:
    assert gain_words(GAINS) == (
        "If both ran at this device's limit, K = 4 would have 4.00 times AR's speed at batch 1, below 2 from batch 8, "
        "below 1 from batch 64, 0.50 at 64 (arithmetic bounds it from batch 8)"
    )
    begins = "If both ran at this device's limit, K = {} would have {} times AR's speed at batch 1"
    assert gain_words(GAINS, 1).startswith(begins.format(1, "1.00"))
    assert begins.format(1, "1.00") in gain_figure(GAINS, k=1).layout.title.text.replace("<br>", " ")
    assert gain_words(GAINS[:1]) == begins.format(4, "4.00")
    assert gain_words(GAINS[3:5]) == begins.format(1, "1.00") + ", below 1 from batch 8, 0.80 at 8"


def test_themes_have_their_own_colours() -> None:
    for theme in ("light", "dark"):
        for figure in (race_figure(ROWS, theme), speedup_figure(ROWS, theme), gain_figure(GAINS, theme)):
            assert figure.layout.paper_bgcolor == colours(theme).surface
            assert figure.layout.font.color == colours(theme).ink
    assert race_figure(ROWS, "dark").data[0].marker.color == colours("dark").exact


def test_more_decoders_have_more_room_for_their_names() -> None:
    assert figure_height(RACES) == figure_height(RACES * 2) == 340
    assert figure_height([*RACES, (1, "verified", 2)]) > 340


def documented(**more: Any) -> dict[str, Any]:
    return json.loads(
        json.dumps(
            {
                "device": "cpu",
                "device_name": "<i>",
                "dtype": "float32",
                "threads": 2,
                "versions": {"torch": "2.x"},
                "limits": {"bytes_per_second": 2e10, "flops_per_second": 1e11},
                **more,
            }
        )
    )


def page_data(text: str) -> Any:
    return json.loads(re.search(r"const figures = (.*);", text)[1])  # type: ignore[index]


def test_the_page_of_a_race_draws_what_its_rows_say() -> None:
    document = documented(
        bench="throughput", rows=[one.as_json() for one in ROWS], busy=True, load_during=5.25, load_average=1.0
    )
    text = timing_page(document)
    body = text[text.index("<body>") :]
    assert [sorted(themes) for themes in page_data(body)] == [["dark", "light"]] * 2
    bars = page_data(body)[0]["light"]["data"][1]
    assert (bars["name"], bars["y"]) == ("PFLM, K = 4", [16, 16])
    assert "MDLM, K = 2 at batch 4: Out of memory: &lt;b&gt;smaller" in body
    assert "2 threads, float32" in body
    assert "copies 20.0 GB/s, products 100 GFLOP/s" in body
    assert "The machine was busy: 5.2 threads" in body
    assert "<i>" not in body
    assert "The machine was busy" not in timing_page({**document, "busy": False})


def test_without_ar_there_is_no_empty_figure_of_a_speed_up() -> None:
    alone = [dataclasses.replace(PFLM[0], speedup=None, roofline_speedup=None).as_json()]
    document = documented(bench="throughput", rows=alone)
    assert list(timing_figures(document)) == ["race"]
    assert "No speed-up without AR: select it too." in timing_page(document)
    assert list(timing_figures(documented(bench="throughput", rows=[each.as_json() for each in ROWS]))) == [
        "race",
        "speedup",
    ]


def test_the_page_of_a_roofline_draws_the_whole_curve() -> None:
    gains = [gain.as_json() for gain in GAINS]
    document = documented(bench="roofline", size="owt", keys=64.0, gains=gains[:1], curve=gains)
    assert gain_of(gains[1]) == GAINS[1]
    (themes,) = page_data(timing_page(document))
    marks = [trace for trace in themes["light"]["data"] if trace["name"] == "K = 4"]
    assert marks[0]["x"] == [1, 8, 64]


def test_whiskers_are_called_extremes_and_each_comparison_states_its_rate() -> None:
    """Rows of races that did not interleave their repeats have no rate, and none is stated."""
    rated = [dataclasses.replace(each, repeats=3, false_positive_rate=0.1) for each in PFLM]
    five = dataclasses.replace(PFLM[0], repeats=5, false_positive_rate=2 / 252)
    assert chance_words([*AR, *PFLM]) == ""
    assert "per comparison, if runs are exchangeable: 10 % with 3 repeats. " in chance_words([*AR, *rated])
    assert "10 % with 3 repeats, 0.8 % with 5 repeats" in chance_words([*rated, five])
    for figure, rate in (
        (race_figure(ROWS), False),
        (speedup_figure(ROWS), False),
        (speedup_figure([*AR, *rated]), True),
    ):
        subtitle = figure.layout.title.subtitle.text.replace("<br>", " ")
        assert "extremes, not" in subtitle
        assert ("10 % with 3 repeats" in subtitle) == rate
