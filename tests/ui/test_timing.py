"""The tab Timing: races of small models, one at a time and cancellable, and what is shown of them."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from kfexplore.bench import throughput
from kfexplore.bench.setting import environment
from kfexplore.bench.throughput import throughput_document
from kfexplore.cancel import CancelToken
from kfexplore.config import DecodeConfig
from kfexplore.decoding.buffers import Step
from kfexplore.pair import Pair
from kfexplore.results import DevicePeaks, Spread
from kfexplore.ui import racing as racing_of_page
from kfexplore.ui import service as service_of_page
from kfexplore.ui.components import Shown
from kfexplore.ui.jobs import Job
from kfexplore.ui.limits import ServerLimits
from kfexplore.ui.racing import RaceConfig, Racing, plain_words, rows_csv, run_race
from kfexplore.ui.service import Service, local_service
from kfexplore.ui.tabs import timing as timing_tab
from kfexplore.ui.tabs.timing import TimingTab, document, spreadsheet

LIMITS = DevicePeaks(bytes_per_second=1e9, flops_per_second=1e10)
ASKED = {"pair": "small", "prompt": "a b c", "decoders": ["ar", "pflm"], "batches": [2, 1], "ks": [2], "new_tokens": 4}


@pytest.fixture(autouse=True)
def _limits_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_of_page, "measure_peaks", lambda *_: LIMITS)
    monkeypatch.setattr(timing_tab, "UPDATE_SECONDS", 0.0)


@pytest.fixture
def tab(service: Service) -> TimingTab:
    return tab_of(service)


def tab_of(service: Service) -> TimingTab:
    with gr.Blocks(), gr.Tab() as tab:
        return TimingTab(service, [], [gr.Textbox(), gr.Textbox()], tab, 4)


def racing(service: Service, **changes: Any) -> Racing:
    values = {"decoders": ("ar", "pflm"), "batches": (1, 2), "ks": (2,), "new_tokens": 4, "repeats": 1, **changes}
    return service.racing(RaceConfig("small", "a b c", **values))


def on_a_clock(race: Racing) -> Racing:
    """The same race, on a clock each look at which takes a second."""
    times = iter(range(10**9))
    given = (race.pair, race.ids, race.settings, "small")

    def stream(cancel: CancelToken) -> Iterator[Any]:
        return run_race(*given, cancel, nullcontext, lambda *_: LIMITS, lambda: float(next(times)))

    return Racing(*given[:2], race.config, race.settings, Job(stream, CancelToken(), race.now), race.note)


def press(tab: TimingTab, **changes: Any) -> Shown:
    """What is shown when the button has been pressed."""
    return tab.start(**{**ASKED, "repeats": 1, "held": None, "dark": False, **changes})


def asked(tab: TimingTab, **changes: Any) -> tuple[Any, list[Shown]]:
    """The race, and what is shown from the press of the button to the end."""
    first = press(tab, **changes)
    return first[tab.held], [first, *tab.run(first[tab.held])]


def latest(part: Any, shown: list[Shown]) -> str:
    return str([each[part] for each in shown if part in each][-1])


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", text))


def able(tab: TimingTab, shown: Shown) -> list[bool]:
    return [shown[button]["interactive"] for button in (tab.go, tab.halt, tab.save, tab.spreadsheet)]


Gated = tuple[threading.Event, threading.Event, list[str]]


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gated]:
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


def in_thread(race: Racing) -> threading.Thread:
    thread = threading.Thread(target=lambda: list(race.job.run()))
    thread.start()
    return thread


# The race.


def test_a_race_brings_its_rows_one_by_one(service: Service) -> None:
    race = racing(service)
    assert (race.job.state, race.seconds_left, race.document(), race.gains()) == ("waiting", None, None, [])
    seen = [(now.peaks, now.progress.done, len(now.rows)) for now in race.job.run()]
    assert seen[:2] == [(None, 0, 0), (LIMITS, 0, 0)]
    assert [rows for *_, rows in seen] == sorted(rows for *_, rows in seen)
    assert (race.job.state, race.now.progress.done, race.now.progress.total) == ("done", 8, 8)
    assert [(row.batch, row.decoder, row.k) for row in race.now.rows] == race.settings.races
    assert all(row.seconds is not None and row.error is None for row in race.now.rows)
    assert len(race.gains()) > 8


def test_the_rest_is_foreseen_from_the_runs_so_far(service: Service) -> None:
    race, left = on_a_clock(racing(service, batches=(1, 4), repeats=2)), {}
    for now in race.job.run():
        left[now.progress.done] = race.seconds_left
    # A run holds three steps of the clock here: the whole, and within it the start and end of decoding.
    assert left[0] is None
    assert left[1] == pytest.approx(3 * 5 + 3 * 2 * 6)  # by the one run known; batch 4 takes twice as long
    assert left[7] == pytest.approx(3 * 2 + 3 * 2 * 3)  # AR has now been timed at this batch, the student has not
    assert left[8] == pytest.approx(3 * 4)
    assert left[12] == 0


def test_the_document_is_that_of_the_command(service: Service) -> None:
    race = racing(service)
    assert list(race.job.run())
    found = json.loads(json.dumps(race.document(), allow_nan=False))
    expected = throughput_document(environment(race.pair.teacher.device), LIMITS, race.now.load, race.now.rows)
    assert found == json.loads(json.dumps(expected)) | {"load_average": found["load_average"]}
    assert (found["bench"], len(found["rows"])) == ("throughput", 4)
    rows = list(csv.DictReader(io.StringIO(rows_csv(race.now.rows))))
    assert [(row["decoder"], row["batch"]) for row in rows] == [("ar", "1"), ("pflm", "1"), ("ar", "2"), ("pflm", "2")]
    assert float(rows[1]["speedup_high"]) == race.now.rows[1].speedup.high  # type: ignore[union-attr]
    assert float(rows[1]["seconds"]) == race.now.rows[1].seconds.value  # type: ignore[union-attr]
    assert rows_csv([]) == "decoder\n"
    [row] = csv.DictReader(io.StringIO(rows_csv([replace(race.now.rows[0], error="=1+1")])))
    assert row["error"] == "'=1+1"


def test_a_cancelled_race_ends_at_the_next_step_and_keeps_its_rows(service: Service, gated: Gated) -> None:
    gate, waits, log = gated
    race = racing(service)
    thread = in_thread(race)
    assert waits.wait(30)
    race.job.stop()
    gate.set()
    thread.join(30)
    assert not thread.is_alive()
    assert log == ["begins", "step", "step", "step"]  # the prompts, the step before, the one under way
    assert (race.job.state, race.now.rows) == ("cancelled", ())
    assert race.document() is not None


def test_no_two_runs_overlap_and_what_waits_can_be_cancelled(service: Service, gated: Gated) -> None:
    gate, waits, log = gated
    first, second, third = (racing(service, decoders=("ar",), batches=(1,)) for _ in range(3))
    threads = [in_thread(first)]
    assert waits.wait(30)
    threads += [in_thread(second), in_thread(third)]
    threads[1].join(0.3)
    third.job.stop()
    threads[2].join(30)
    assert (third.job.state, log.count("begins")) == ("cancelled", 1)
    gate.set()
    for thread in threads:
        thread.join(30)
    assert (first.job.state, second.job.state) == ("done", "done")
    assert [word for word in log if word != "step"] == ["begins", "ends"] * 4


@pytest.mark.parametrize("what", ["tables", "study"])
def test_others_wait_while_a_clock_runs_and_come_between_two_runs(service: Service, gated: Gated, what: str) -> None:
    gate, waits, log = gated
    done: list[Any] = []
    steps = racing(service).job.run()
    for _ in range(2):
        next(steps)
    runner = threading.Thread(target=lambda: next(steps))
    runner.start()
    assert waits.wait(30)
    study = service.study("small", "a b c", 2, 128, 0)
    work: dict[str, Callable[[], Any]] = {
        "tables": lambda: service.tables({"seq": 0, "pair": "small", "prompt": "a b", "resolution": 8})["ok"],
        "study": lambda: bool(list(study.run())),
    }
    other = threading.Thread(target=lambda: done.append(work[what]()))
    other.start()
    other.join(0.3)
    assert done == []
    gate.set()
    runner.join(30)
    other.join(30)  # the race has not ended: it stands between two runs
    assert (done, log.count("ends")) == ([True], 1)
    steps.close()


def test_a_race_stops_when_its_time_is_over(pair: Pair) -> None:
    now = [0.0]
    tab = tab_of(local_service({"small": lambda: pair}, ServerLimits(run_seconds=30), clock=lambda: now[0]))
    shown = tab.run(press(tab)[tab.held])
    while tab.table not in next(shown):
        pass
    now[0] = 31
    assert "Out of time after 2 of 4 rows; they stay." in list(shown)[-1][tab.status]


def test_the_device_is_measured_until_nobody_else_is_at_work(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [DevicePeaks(2.0, 30.0), DevicePeaks(3.0, 20.0), DevicePeaks(1.0, 10.0)]
    monkeypatch.setattr(service_of_page, "measure_peaks", lambda *_: found.pop(0))

    def measured(service: Service, load: float) -> DevicePeaks:
        monkeypatch.setattr(service_of_page.os, "getloadavg", lambda: (load, load, load))
        return service.local.measured(pair.teacher.device, pair.teacher.dtype)

    service = local_service({"small": lambda: pair})
    for load, best in ((99.0, DevicePeaks(2.0, 30.0)), (0.0, DevicePeaks(3.0, 30.0)), (99.0, DevicePeaks(3.0, 30.0))):
        assert measured(service, load) == best
    assert len(found) == 1
    found = [DevicePeaks(float(n), 1.0) for n in range(1, 6)]
    service = local_service({"small": lambda: pair})
    assert [measured(service, 99.0).bytes_per_second for _ in range(4)] == [1, 2, 3, 3]  # at some time this must do


@pytest.mark.parametrize(("load", "times"), [(0.0, 1), (99.0, 3)])
def test_no_race_measures_the_device_after_the_start(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, load: float, times: int
) -> None:
    service, measurements = local_service({"small": lambda: pair}), []
    monkeypatch.setattr(service_of_page.os, "getloadavg", lambda: (load,) * 3)
    monkeypatch.setattr(service_of_page, "measure_peaks", lambda *_: measurements.append(1) or DevicePeaks(1, 1))
    service.prepare({"seq": 0, "pair": "small", "prompt": "a", "u": None})
    service.local.measured(pair.teacher.device, pair.teacher.dtype)
    assert len(measurements) == times


def test_a_prompt_is_cut_so_that_the_new_tokens_fit(pair: Pair, service: Service) -> None:
    context, (whole, _) = pair.teacher.config.context, pair.encode("a b c")
    race = racing(service, new_tokens=context - 1)
    assert race.ids == whole[-1:]
    assert f"The first {len(whole) - 1} tokens of the prompt were cut" in race.note
    race = racing(service, new_tokens=context - len(whole))
    assert (race.ids, race.note) == (whole, "")


# The tab.


def test_the_tab_shows_rows_as_they_come(tab: TimingTab) -> None:
    race, shown = asked(tab)
    first, last = shown[0], shown[-1]
    assert "Waiting for its turn" in first[tab.status]
    assert [each[tab.part]["visible"] for each in shown if tab.part in each] == [False, True, True]
    assert able(tab, first) == [False, True, False, False]
    bars = [json.loads(each[tab.race])["data"] for each in shown if tab.race in each]
    filled = [sum(len(trace.get("y", [])) for trace in data if trace["type"] == "bar") for data in bars]
    assert filled == [0, 2, 4]
    (gain,) = [each for each in shown if tab.gain in each]
    assert gain[tab.gain_part]["visible"]
    assert f"K = {max(ASKED['ks'])} would have" in gain[tab.gain_words]
    told = [each[tab.status] for each in shown if tab.status in each]
    assert any("runs, about" in each and 'role="progressbar"' in each for each in told)
    assert "Done: 4 of 4 timed." in last[tab.status]
    assert re.search(r"\d threads?, float32", last[tab.status])
    assert able(tab, last) == [True, False, True, True]
    rows = plain(latest(tab.table, shown))
    assert rows.count("PFLM") == rows.count("AR 1 ") == 2
    assert len(json.loads(document(race))["rows"]) == 4
    assert spreadsheet(race).count("\n") == 5
    assert document(None) == spreadsheet(None) == ""
    assert list(tab.run(race)) == list(tab.run(None)) == [{tab.status: gr.skip()}]  # it runs once


def test_the_progress_is_sent_now_and_then_and_new_rows_at_once(
    tab: TimingTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing_tab, "UPDATE_SECONDS", 1e9)
    _, shown = asked(tab, repeats=5)
    assert [tab.table in each for each in shown] == [True, False, False, False, True, False, True, False]


def test_who_starts_anew_stops_the_race_before(tab: TimingTab) -> None:
    race = press(tab)[tab.held]
    shown = tab.run(race)
    for _ in range(3):
        next(shown)
    press(tab, held=race)
    assert "Cancelled after 0 of 4 rows." in list(shown)[-1][tab.status]


def test_cancel_keeps_the_rows_and_frees_the_buttons(tab: TimingTab) -> None:
    assert able(tab, tab.cancel(None)) == [True, False, False, False]
    race = press(tab)[tab.held]
    shown = tab.run(race)
    while tab.table not in next(shown):
        pass
    cancelled = tab.cancel(race)
    shown.close()  # type: ignore[attr-defined]
    assert "Cancelled after 2 of 4 rows; they stay." in cancelled[tab.status]
    assert plain(cancelled[tab.table]).count("AR 1 ") == 1
    assert able(tab, cancelled) == [True, False, True, True]
    assert len(json.loads(document(race))["rows"]) == 2
    assert tab.refuse(race) == {tab.status: gr.skip()}


def test_a_full_queue_frees_the_buttons(tab: TimingTab) -> None:
    race = press(tab)[tab.held]
    shown = tab.refuse(race)
    assert "too many requests are waiting" in shown[tab.status]
    assert able(tab, shown) == [True, False, False, False]
    assert list(tab.run(race)) == [{tab.status: gr.skip()}]


def test_a_row_that_fails_stands_beside_the_rest(tab: TimingTab, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = throughput.decode

    def scarce(config: DecodeConfig, *given: Any) -> Iterator[Step]:
        if config.decoder == "pflm":
            raise MemoryError
        return decode(config, *given)

    monkeypatch.setattr(throughput, "decode", scarce)
    _, shown = asked(tab)
    assert "Done: 2 of 4 timed." in shown[-1][tab.status]
    assert latest(tab.table, shown).count("✕ Out of memory") == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pair": "none"}, "There is no pair"),
        ({"prompt": ""}, "empty"),
        ({"decoders": []}, "Valid: one or more of AR, PFLM, MDLM, Verified, Jacobi"),
        ({"batches": []}, "No batch is chosen"),
        ({"batches": [3]}, "of 1, 2, 4, 8, 16, 32"),
        ({"batches": [64]}, "of 1, 2, 4, 8, 16, 32"),
        ({"batches": ["x"]}, "batch is"),
        ({"ks": [17]}, "17 tokens per pass"),
        ({"ks": []}, "No K is chosen"),
        ({"new_tokens": 64}, "do not fit the context"),
        ({"new_tokens": 10**6}, "1 to 192 on this page"),
        ({"new_tokens": None}, "new tokens is empty"),
        ({"repeats": 99}, "1 to 5 on this page"),
    ],
)
def test_after_a_mistake_what_was_shown_stays(tab: TimingTab, changes: dict[str, Any], message: str) -> None:
    race = press(tab)[tab.held]
    shown = press(tab, **changes, held=race)
    assert list(shown) == [tab.status]
    assert message in plain(shown[tab.status])
    assert "Valid:" in shown[tab.status]
    assert race.job.is_waiting


def test_ar_alone_needs_no_k(tab: TimingTab) -> None:
    _, shown = asked(tab, decoders=["ar"], ks=[])
    assert "Done: 2 of 2 timed." in shown[-1][tab.status]


@pytest.mark.parametrize(
    ("decoders", "message"),
    [(["pflm"], "No speed-up without AR: select it too"), (["ar"], "only AR is selected")],
)
def test_a_race_with_nothing_to_compare_says_so_and_draws_no_empty_figure(
    tab: TimingTab, decoders: list[str], message: str
) -> None:
    shown = asked(tab, decoders=decoders)[1]
    assert message in plain(latest(tab.words, shown))
    for each in shown:
        if tab.speedup in each:
            assert message in plain(each[tab.speedup_words])
            assert each[tab.speedup]["visible"] is False
            assert "Whiskers" not in each[tab.speedup_words]


def test_the_first_sentence_is_computed_from_the_rows(tab: TimingTab) -> None:
    race, shown = asked(tab, batches=[1, 2], repeats=2, new_tokens=8)
    ar, pflm = race.now.rows[:2]
    first = plain(latest(tab.words, shown))
    assert f"PFLM against AR at batch 1: {ar.nfe / pflm.nfe:.1f} times fewer passes" in first
    assert f"A pass of 2 tokens costs {pflm.ms_per_step / ar.ms_per_step:.1f} AR passes here." in first
    fast, slow, unclear = (Spread(*each) for each in ((2.6, 2.5, 2.7), (0.5, 0.4, 0.6), (1.1, 0.9, 1.3)))
    for spread, said in (
        (fast, "2.6 times the speed"),
        (slow, "0.5 times the speed"),
        (unclear, "no conclusive difference in speed"),
    ):
        assert said in plain_words([ar, replace(pflm, speedup=spread)], ("ar", "pflm"))


def test_a_speed_up_is_shown_once_something_is_compared_with_ar(tab: TimingTab) -> None:
    drawn = [each for each in asked(tab, batches=[1], repeats=2)[1] if tab.table in each]
    assert ["Whiskers" in each[tab.speedup_words] for each in drawn] == [False, True]
    assert "Nothing is timed against AR yet" in drawn[0][tab.speedup_words]
    assert "Speed of PFLM, K = 2 over AR" in drawn[1][tab.speedup_words]
    ar, pflm = re.findall(r"<tr><td>.*?</tr>", drawn[1][tab.table])
    ratio = re.compile(r"inconclusive \([\d.]+ to [\d.]+\)|[\d.]+ \([\d.]+ to [\d.]+\)")
    assert [len(re.findall(ratio, each.replace(",", ""))) for each in (ar, pflm)] == [1, 2]  # tokens/s have one


@pytest.mark.parametrize(
    ("during", "message"), [(9.0, "The machine was busy: 9.0 threads"), (0.5, "The machine was otherwise idle")]
)
def test_the_page_says_whether_the_machine_was_busy(
    tab: TimingTab, monkeypatch: pytest.MonkeyPatch, during: float, message: str
) -> None:
    load = racing_of_page.Load
    monkeypatch.setattr(racing_of_page, "Load", lambda *_: load(during, during, 0.0, own=1))
    assert message in asked(tab)[1][-1][tab.status]


def test_the_tab_offers_what_the_pair_has(tab: TimingTab) -> None:
    shown = tab.fit("bare", ["ar", "mdlm"], [2, 7], 64)
    decoders, ks, length = (shown[part] for part in (tab.decoders, tab.k, tab.length))
    assert "mdlm" not in [value for _, value in decoders["choices"]]
    assert decoders["value"] == ["ar"]
    assert "no masked model" in decoders["info"]
    assert (ks["choices"], ks["value"]) == ([1, 2, 3, 4], [2])
    assert (length["maximum"], length["value"]) == (47, 47)
    kept = tab.fit("small", ["mdlm"], [3], 20)
    assert not any("value" in each for each in kept.values())  # what a reader may just have changed is not sent back
    assert tab.fit("none", [], [], 1) == {tab.k: gr.skip()}
