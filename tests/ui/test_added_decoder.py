"""The decoder of EXTENDING.md: once its module is imported, it is everywhere."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import gradio as gr
import pytest
import torch
from documents import example_source

from kfexplore.bench.throughput import RaceSettings, race
from kfexplore.config import DecodeConfig
from kfexplore.decoders import DECODERS
from kfexplore.decoding.generate import Networks, generate, keyed_noise
from kfexplore.errors import KfError
from kfexplore.figures.text import texts_html
from kfexplore.figures.timing import race_figure, speedup_figure
from kfexplore.pair import Pair
from kfexplore.results import DevicePeaks
from kfexplore.ui.api import add_api
from kfexplore.ui.components import decoder_choices, takers
from kfexplore.ui.service import Service
from kfexplore.ui.writing import WriteConfig

PROMPTS = [[5, 3, 5, 8], [2], [9, 7]]


@pytest.fixture(autouse=True)
def _greedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "greedy.py").write_text(example_source("Greedy"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with patch.dict(DECODERS), patch.dict(sys.modules):
        importlib.import_module("greedy")
        yield


def likeliest(pair: Pair, prompt: list[int], count: int) -> list[int]:
    row = list(prompt)
    for _ in range(count):
        row.append(int(pair.teacher(torch.tensor([row]))[0, -1].argmax()))
    return row[len(prompt) :]


def test_it_writes_the_most_likely_tokens(pair: Pair) -> None:
    config, networks = DecodeConfig("greedy"), Networks(pair.teacher)
    noise = keyed_noise(0, range(3), config, networks, 6)
    found = generate(config, networks, PROMPTS, noise, 6)
    assert found.tokens.tolist() == [likeliest(pair, prompt, 6) for prompt in PROMPTS]
    with pytest.raises(KfError, match="greedy draws one token per pass"):
        DecodeConfig("greedy", 2)
    with pytest.raises(KfError, match="temperature cannot be used with greedy"):
        DecodeConfig("greedy", temperature=0.5)


def test_it_is_timed_beside_what_the_device_allows(pair: Pair) -> None:
    settings = RaceSettings(("greedy", "pflm", "ar"), (2,), (2,), new_tokens=4, repeats=1)
    networks, limits = Networks(pair.teacher, pair.student), DevicePeaks(1e9, 1e10)
    rows = [each.row for each in race(networks, settings, limits, "small", PROMPTS[0]) if each.row]
    ar, _, greedy = rows
    assert (greedy.decoder, greedy.k, greedy.nfe, greedy.error) == ("greedy", 1, 4, None)
    assert greedy.least_ms == ar.least_ms  # one token per pass of the same teacher
    for figure in (race_figure(rows), speedup_figure(rows)):
        (trace,) = (each for each in figure.data if each.name == "Greedy")
        assert len(trace.x) == 1


def test_the_page_offers_writes_and_draws_it(pair: Pair, service: Service) -> None:
    assert decoder_choices()[-1] == decoder_choices(missing=["student", "masked"])[-1] == ("Greedy", "greedy")
    assert (takers("temperature"), takers("frequency_penalty")) == ("Ignored by MDLM, Greedy.", "PFLM only.")
    writing = service.writing(WriteConfig("small", "a b c", ("greedy", "ar"), k=3, new_tokens=6, temperature=0.5))
    assert list(writing.job.run())
    exact, written = writing.written()
    (line,) = written.lines
    assert (exact.decoder, written.decoder, written.nfe) == ("ar", "greedy", 6)
    assert line.tokens == likeliest(pair, writing.ids, 6)
    assert line.shared is not None  # it is held against the exact text
    page = texts_html([exact, written])
    assert "Greedy <span>the teacher's most likely token, one per pass</span>" in page
    assert 'kft-pane kft-learned" data-decoder="greedy"' in page


def test_the_api_names_it(service: Service) -> None:
    with gr.Blocks() as demo:
        add_api(demo, service)
    told = demo.get_api_info()["named_endpoints"]["/generate"]
    (answer,) = told["returns"]
    given = next(each["type"] for each in told["parameters"] if each["parameter_name"] == "decoder")
    assert given == answer["type"]["properties"]["decoder"] == {"enum": [*DECODERS]}
    assert given["enum"][-1] == "greedy"
