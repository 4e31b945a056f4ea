"""The tab Timing: races of small models, one at a time, that can be called off; and what is told of them."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from kfexplore.bench import throughput
from kfexplore.bench.setting import Load
from kfexplore.bench.throughput import setting, throughput_document
from kfexplore.config import DecodeConfig
from kfexplore.decoding.buffers import Step
from kfexplore.pair import Pair
from kfexplore.results import DevicePeaks
from kfexplore.ui import racing
from kfexplore.ui import service as service_of_page
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.racing import RaceConfig, Racing, rows_csv
from kfexplore.ui.service import Service
from kfexplore.ui.tabs.timing import COUNT, Races

LIMITS = DevicePeaks(bytes_per_second=1e9, flops_per_second=1e10)
STATUS, PART, RACE, SPEEDUP, TABLE, GAIN_PART, GAIN = 0, 1, 3, 5, 6, 7, 9
START, CANCEL, JSON, CSV = 10, 11, 12, 13
ASKED = {"pair": "small", "prompt": "a b c", "decoders": ["ar", "pflm"], "batches": [2, 1], "ks": [2], "new_tokens": 4}
FIRST, SECOND = (SimpleNamespace(session_hash=name) for name in ("first", "second"))


@pytest.fixture(autouse=True)
def _limits_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_of_page, "measure_peaks", lambda *_: LIMITS)


def racing_of(service: Service, **changes: Any) -> Racing:
    values = {"decoders": ("ar", "pflm"), "batches": (1, 2), "ks": (2,), "new_tokens": 4, "repeats": 1, **changes}
    return service.racing(RaceConfig("small", "a b c", **values))


def ticking(step: float = 1.0) -> Callable[[], float]:
    """Each look at this clock takes a step."""
    times = iter(range(10**9))
    return lambda: step * next(times)


def asked(races: Races, request: Any = FIRST, **changes: Any) -> list[Any]:
    return races.start(**{**ASKED, "repeats": 1, "dark": False, "request": request, **changes})


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", text))


def pressable(shown: list[Any]) -> list[bool]:
    return [button["interactive"] for button in shown[START:]]


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event, list[str]]]:
    """Decoders whose second step waits for a gate: (gate, a step waits, what happened)."""
    gate, waits = threading.Event(), threading.Event()
    log: list[str] = []
    decode = throughput.decode

    def slow(config: DecodeConfig, *given: Any) -> Iterator[Step]:
        log.append("begins")
        for n, step in enumerate(decode(config, *given)):
            if n == 2:
                waits.set()
                assert gate.wait(30)
            log.append("step")
            yield step
        log.append("ends")

    monkeypatch.setattr(throughput, "decode", slow)
    yield gate, waits, log
    gate.set()


def test_a_race_brings_its_rows_one_by_one(service: Service) -> None:
    race = racing_of(service)
    assert (race.stage, race.seconds_left, race.document(), race.gains()) == ("waiting", None, None, [])
    seen = [(race.stage, race.progress.done, len(race.rows)) for _ in race.steps(ticking())]
    assert seen[:2] == [("measuring", 0, 0), ("racing", 0, 0)]
    assert [len_ for _, _, len_ in seen if len_] == sorted(len_ for _, _, len_ in seen if len_)
    assert (race.stage, race.progress.done, race.progress.total) == ("done", 8, 8)
    assert [(row.batch, row.decoder, row.k) for row in race.rows] == race.settings.races
    assert all(row.seconds is not None and row.error is None for row in race.rows)
    assert len(race.gains()) > 8


def test_the_rest_is_foreseen_from_the_runs_so_far(service: Service) -> None:
    race = racing_of(service, batches=(1, 4), repeats=2)
    left = {}
    for _ in race.steps(ticking()):
        left[race.progress.done] = race.seconds_left
    # A run holds three steps of the clock here: the whole, and within it the start and end of decoding.
    assert left[0] is None
    assert left[1] == pytest.approx(3 * 5 + 3 * 2 * 6)  # by the one run known; batch 4 takes twice as long
    assert left[7] == pytest.approx(3 * 2 + 3 * 2 * 3)  # AR has now been timed at this batch, the student has not
    assert left[8] == pytest.approx(3 * 4)
    assert left[12] == 0


def test_the_document_is_that_of_the_command(service: Service) -> None:
    race = racing_of(service)
    for _ in race.steps():
        pass
    document = json.loads(json.dumps(race.document(), allow_nan=False))
    expected = throughput_document(setting(race.pair.teacher), LIMITS, race.load, race.rows)
    assert document == json.loads(json.dumps(expected)) | {"load_average": document["load_average"]}
    assert (document["bench"], len(document["rows"])) == ("throughput", 4)
    table = list(csv.DictReader(io.StringIO(rows_csv(race.rows))))
    assert [(row["decoder"], row["batch"]) for row in table] == [("ar", "1"), ("pflm", "1"), ("ar", "2"), ("pflm", "2")]
    assert float(table[1]["speedup_high"]) == race.rows[1].speedup.high  # type: ignore[union-attr]
    assert float(table[1]["seconds"]) == race.rows[1].seconds.value  # type: ignore[union-attr]
    assert rows_csv([]) == "decoder\n"


def test_a_stopped_race_ends_at_the_next_step_and_keeps_its_rows(
    service: Service, gated: tuple[threading.Event, threading.Event, list[str]]
) -> None:
    gate, waits, log = gated
    race = racing_of(service)
    thread = threading.Thread(target=lambda: list(race.steps()))
    thread.start()
    assert waits.wait(30)
    race.stop()
    assert race.is_over
    gate.set()
    thread.join(30)
    assert not thread.is_alive()
    assert log == ["begins", "step", "step", "step"]  # the prompts, the step before, the one under way
    assert (race.stage, race.rows) == ("stopped", [])
    assert race.document() is not None


def test_a_closed_generator_gives_its_turn_back(service: Service) -> None:
    steps = racing_of(service).steps()
    for _ in range(4):
        next(steps)
    steps.close()  # type: ignore[attr-defined]
    other = racing_of(service)
    assert list(other.steps())
    assert other.stage == "done"


def test_two_races_never_overlap(service: Service, gated: tuple[threading.Event, threading.Event, list[str]]) -> None:
    gate, waits, log = gated
    first, second = (racing_of(service, decoders=("ar",), batches=(1,)) for _ in range(2))
    threads = [threading.Thread(target=lambda race=race: list(race.steps())) for race in (first, second)]
    threads[0].start()
    assert waits.wait(30)
    threads[1].start()
    threads[1].join(0.3)
    assert (second.stage, log.count("begins")) == ("waiting", 1)
    gate.set()
    for thread in threads:
        thread.join(30)
    assert (first.stage, second.stage) == ("done", "done")
    assert [word for word in log if word != "step"] == ["begins", "ends"] * 4


def test_a_race_that_waits_can_be_called_off(
    service: Service, gated: tuple[threading.Event, threading.Event, list[str]]
) -> None:
    gate, waits, log = gated
    first = racing_of(service)
    runner = threading.Thread(target=lambda: list(first.steps()))
    runner.start()
    assert waits.wait(30)
    second = racing_of(service)
    thread = threading.Thread(target=lambda: list(second.steps()))
    thread.start()
    second.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert (second.stage, log.count("begins")) == ("stopped", 1)
    first.stop()
    gate.set()
    runner.join(30)


def test_tables_wait_while_a_clock_runs_and_come_between_two_runs(
    service: Service, gated: tuple[threading.Event, threading.Event, list[str]]
) -> None:
    gate, waits, log = gated
    request = {"seq": 0, "pair": "small", "prompt": "a b", "resolution": 8}
    done: list[int] = []
    race = racing_of(service)
    steps = race.steps()
    for _ in range(2):
        next(steps)
    runner = threading.Thread(target=lambda: next(steps))
    runner.start()
    assert waits.wait(30)
    tables = threading.Thread(target=lambda: done.append(service.tables(request)["seq"]))
    tables.start()
    tables.join(0.3)
    assert done == []
    gate.set()
    runner.join(30)
    tables.join(30)  # the race has not ended: it stands between two runs
    assert (done, log.count("ends"), race.stage) == ([0], 1, "racing")
    steps.close()  # type: ignore[attr-defined]


def test_the_tab_shows_rows_as_they_come(service: Service) -> None:
    races = Races(service)
    begun = asked(races)
    assert len(begun) == COUNT
    assert "Waiting for its turn" in begun[STATUS]
    assert begun[PART]["visible"]
    assert pressable(begun) == [False, True, False, False]
    shown = list(races.run(FIRST))
    assert all(len(each) == COUNT for each in shown)
    bars = [json.loads(each[RACE])["data"] for each in shown if isinstance(each[RACE], str)]
    filled = [sum(len(trace.get("y", [])) for trace in data if trace["type"] == "bar") for data in bars]
    assert filled == [1, 2, 3, 4]
    gains = [each for each in shown if isinstance(each[GAIN], str)]
    assert len(gains) == 1
    assert gains[0][GAIN_PART]["visible"]
    assert any("runs, about" in each[STATUS] and 'role="progressbar"' in each[STATUS] for each in shown)
    last = shown[-1]
    assert "Done: 4 of 4 timed." in last[STATUS]
    assert "float32" in last[STATUS]
    assert re.search(r"\d threads?, float32", last[STATUS])
    assert pressable(last) == [True, False, True, True]
    table = plain(next(each[TABLE] for each in reversed(shown) if isinstance(each[TABLE], str)))
    assert table.count("PFLM") == table.count("AR 1 ") == 2
    assert len(json.loads(races.document(FIRST))["rows"]) == 4
    assert races.table(FIRST).count("\n") == 5
    assert list(races.run(FIRST)) == [[gr.skip()] * COUNT]  # it runs once


def test_pages_have_races_of_their_own(service: Service) -> None:
    races = Races(service)
    asked(races)
    asked(races, SECOND, decoders=["ar"])
    list(races.run(FIRST))
    assert races.document(SECOND) == ""
    list(races.run(SECOND))
    assert len(json.loads(races.document(SECOND))["rows"]) == 2
    races.leave(SECOND)
    assert races.document(SECOND) == races.table(SECOND) == ""
    assert races.document(FIRST)


def test_who_leaves_or_starts_anew_stops_the_race(service: Service) -> None:
    races = Races(service)
    for end in (lambda: races.leave(FIRST), lambda: asked(races, repeats=2)):
        asked(races)
        shown = races.run(FIRST)
        for _ in range(3):
            next(shown)
        end()
        rest = list(shown)
        assert "Cancelled after 0 of 4 rows." in rest[-1][STATUS]
    races.leave(FIRST)
    races.leave(FIRST)


def test_cancel_keeps_the_rows_and_frees_the_buttons(service: Service) -> None:
    races = Races(service)
    assert pressable(races.cancel(FIRST)) == [True, False, False, False]
    asked(races)
    shown = races.run(FIRST)
    while not isinstance(next(shown)[TABLE], str):
        pass
    told = races.cancel(FIRST)
    shown.close()  # type: ignore[attr-defined]
    assert len(told) == COUNT
    assert "Cancelled after 1 of 4 rows; they stay." in told[STATUS]
    assert plain(told[TABLE]).count("AR 1 ") == 1
    assert pressable(told) == [True, False, True, True]
    assert len(json.loads(races.document(FIRST))["rows"]) == 1


def test_a_row_that_fails_is_told_beside_the_rest(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = throughput.decode

    def scarce(config: DecodeConfig, *given: Any) -> Iterator[Step]:
        if config.decoder == "pflm":
            raise MemoryError
        return decode(config, *given)

    monkeypatch.setattr(throughput, "decode", scarce)
    races = Races(service)
    asked(races)
    shown = list(races.run(FIRST))
    assert "Done: 2 of 4 timed." in shown[-1][STATUS]
    table = next(each[TABLE] for each in reversed(shown) if isinstance(each[TABLE], str))
    assert table.count("✕ Out of memory") == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pair": "none"}, "There is no pair"),
        ({"prompt": ""}, "empty"),
        ({"decoders": []}, "No decoder is chosen"),
        ({"batches": []}, "No batch is chosen"),
        ({"batches": [3]}, "of 1, 2, 4, 8, 16, 32"),
        ({"batches": [64]}, "of 1, 2, 4, 8, 16, 32"),
        ({"batches": ["x"]}, "batch is"),
        ({"ks": [17]}, "17 tokens a pass"),
        ({"ks": []}, "No K is chosen"),
        ({"new_tokens": 64}, "do not fit the context"),
        ({"new_tokens": 10**6}, "1 to 192 on this page"),
        ({"new_tokens": None}, "new tokens is empty"),
        ({"repeats": 99}, "1 to 5 on this page"),
    ],
)
def test_a_mistake_is_told_and_what_was_shown_stays(service: Service, changes: dict[str, Any], told: str) -> None:
    races = Races(service)
    asked(races)
    list(races.run(FIRST))
    shown = asked(races, **changes)
    assert told in plain(shown[STATUS])
    assert "Valid:" in shown[STATUS]
    assert shown[1:] == [gr.skip()] * (COUNT - 1)
    assert len(json.loads(races.document(FIRST))["rows"]) == 4


def test_ar_alone_needs_no_k(service: Service) -> None:
    races = Races(service)
    asked(races, decoders=["ar"], ks=[])
    assert "Done: 2 of 2 timed." in list(races.run(FIRST))[-1][STATUS]


@pytest.mark.parametrize(
    ("decoders", "told"),
    [(["pflm"], "No speed-up without AR in the race: choose it too"), (["ar"], "nothing but AR is in the race")],
)
def test_a_race_with_nothing_to_compare_says_so_over_the_empty_figure(
    service: Service, decoders: list[str], told: str
) -> None:
    races = Races(service)
    begun = asked(races, decoders=decoders)
    drawn = [each for each in races.run(FIRST) if isinstance(each[TABLE], str)]
    for shown in (begun, *drawn):
        assert told in plain(shown[SPEEDUP - 1])
        assert "Whiskers" not in shown[SPEEDUP - 1]


def test_a_speed_up_is_shown_once_something_is_compared_with_ar(service: Service) -> None:
    races = Races(service)
    asked(races, batches=[1], repeats=2)
    drawn = [each for each in races.run(FIRST) if isinstance(each[TABLE], str)]
    assert ["Whiskers" in each[SPEEDUP - 1] for each in drawn] == [False, True]
    assert "Nothing is timed against AR yet" in drawn[0][SPEEDUP - 1]
    assert "Speed of PFLM, K = 2 over AR" in drawn[1][SPEEDUP - 1]
    ar, pflm = re.findall(r"<tr><td>.*?</tr>", drawn[1][TABLE])
    ratio = re.compile(r"inconclusive \([\d.]+ to [\d.]+\)|[\d.]+ \([\d.]+ to [\d.]+\)")
    assert [len(re.findall(ratio, each.replace(",", ""))) for each in (ar, pflm)] == [1, 2]  # tokens a second have one


@pytest.mark.parametrize(
    ("during", "told"), [(9.0, "The machine was busy: 9.0 threads"), (0.5, "Nothing else of note")]
)
def test_the_page_says_whether_the_machine_was_busy(
    service: Service, monkeypatch: pytest.MonkeyPatch, during: float, told: str
) -> None:
    monkeypatch.setattr(racing, "Load", lambda *_: Load(during, during, 0.0, own=1))
    races = Races(service)
    asked(races)
    assert told in list(races.run(FIRST))[-1][STATUS]


def test_the_page_offers_what_the_pair_has(service: Service) -> None:
    races = Races(service)
    decoders, ks, length = races.fit("bare", ["ar", "mdlm"], [2, 7], 64)
    assert "mdlm" not in [value for _, value in decoders["choices"]]
    assert decoders["value"] == ["ar"]
    assert "no masked model" in decoders["info"]
    assert (ks["choices"], ks["value"]) == ([1, 2, 3, 4], [2])
    assert (length["maximum"], length["value"]) == (47, 47)
    kept = races.fit("small", ["mdlm"], [3], 20)
    assert not any("value" in each for each in kept)  # what a reader may just have changed is not sent back
    assert races.fit("none", [], [], 1) == [gr.skip()] * 3


def test_a_race_stops_when_its_time_is_over(pair: Pair) -> None:
    now = [0.0]
    service = Service({"small": lambda: pair}, ServerLimits(run_seconds=30), clock=lambda: now[0])
    races = Races(service)
    asked(races)
    shown = races.run(FIRST)
    while not isinstance(next(shown)[TABLE], str):
        pass
    now[0] = 31
    assert "Out of time after 1 of 4 rows; they stay." in list(shown)[-1][STATUS]


def test_the_last_races_of_many_pages_are_kept_within_limits(pair: Pair) -> None:
    races = Races(Service({"small": lambda: pair}, ServerLimits(pages=1)))
    asked(races)
    shown = races.run(FIRST)
    next(shown)
    asked(races, SECOND)
    assert "Cancelled" in list(shown)[-1][STATUS]
    assert races.document(FIRST) == ""


def test_a_full_queue_frees_the_buttons(service: Service) -> None:
    races = Races(service)
    asked(races)
    told = races.refuse(FIRST)
    assert "too many pages wait" in told[STATUS]
    assert pressable(told) == [True, False, False, False]
    assert list(races.run(FIRST)) == [[gr.skip()] * COUNT]


def test_the_device_is_measured_until_nobody_else_is_at_work(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [DevicePeaks(2.0, 30.0), DevicePeaks(3.0, 20.0), DevicePeaks(1.0, 10.0)]
    monkeypatch.setattr(service_of_page, "measure_peaks", lambda *_: found.pop(0))
    service = Service({"small": lambda: pair})
    for load, best in ((99.0, DevicePeaks(2.0, 30.0)), (0.0, DevicePeaks(3.0, 30.0)), (99.0, DevicePeaks(3.0, 30.0))):
        monkeypatch.setattr(service_of_page.os, "getloadavg", lambda load=load: (load, load, load))
        race = racing_of(service)
        assert list(race.steps())
        assert race.limits == best
    assert len(found) == 1
    found = [DevicePeaks(float(n), 1.0) for n in range(1, 6)]
    service = Service({"small": lambda: pair})
    for best in (1.0, 2.0, 3.0, 3.0):  # it stays busy: at some time this must do
        race = racing_of(service)
        assert list(race.steps())
        assert race.limits == DevicePeaks(best, 1.0)


def test_a_prompt_is_cut_so_that_the_new_tokens_fit(pair: Pair) -> None:
    service = Service({"small": lambda: pair})
    context = pair.teacher.config.context
    whole, _ = pair.encode("a b c")
    race = racing_of(service, new_tokens=context - 1)
    assert race.ids == whole[-1:]
    assert f"The first {len(whole) - 1} tokens of the prompt were cut" in race.note
    race = racing_of(service, new_tokens=context - len(whole))
    assert (race.ids, race.note) == (whole, "")
