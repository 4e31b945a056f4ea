"""A distilled pair of transformers models on the page and in its API: as any pair, to the end of its context."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import distilled

from kfexplore.config import DecodeConfig
from kfexplore.decoding.generate import Networks, keyed_noise, reference
from kfexplore.laws.study import finished, study_steps
from kfexplore.pair import Pair, load_pair
from kfexplore.ui.api import Api
from kfexplore.ui.app import fresh_first_payload
from kfexplore.ui.racing import RaceConfig
from kfexplore.ui.service import Service, local_service
from kfexplore.ui.writing import WriteConfig

PROMPT, U = "d b e", [0.2, 0.7, 0.4, 0.9]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("distilled")
    distilled(folder / "model", request.param).save_pretrained(folder / "pair")
    return load_pair(folder / "pair")


@pytest.fixture(scope="module")
def service(pair: Pair) -> Service:
    return local_service({"mine": lambda: pair})


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sliders_and_grids_show_both_maps(service: Service, pair: Pair, temperature: float) -> None:
    ids = pair.encode(PROMPT)[0]
    asked: dict[str, Any] = {"seq": 1, "pair": "mine", "prompt": PROMPT, "u": U, "temperature": temperature}
    expected = pair.block([ids], [U], temperature)
    for answer in (service.point(asked), service.tables({**asked, "resolution": 32})["point"]):
        assert answer["teacher"] == expected.exact[0].tolist()
        assert answer["student"] == expected.learned[0].tolist()
    assert service.grid({**asked, "slots": [0, 1], "resolution": 8})["ok"]
    assert fresh_first_payload(service, "mine")["k_max"] == 4


@pytest.mark.parametrize("decoder", ["ar", "pflm", "verified", "jacobi"])
def test_texts_are_written_to_the_end_of_the_context(service: Service, pair: Pair, decoder: Any) -> None:
    ids, new = pair.encode(PROMPT)[0], 45
    assert len(ids) + new == pair.teacher.config.context
    config, networks = DecodeConfig(decoder), Networks(pair.teacher, pair.student)
    writing = service.writing(WriteConfig("mine", PROMPT, (decoder,), 4, new))
    assert list(writing.job.run())
    noise = keyed_noise(0, range(1), config, networks, new)
    assert writing.written()[0].lines[0].tokens == reference(config, networks, [ids], noise, new)[0].tolist()


def test_decoders_are_raced(service: Service) -> None:
    racing = service.racing(RaceConfig("mine", PROMPT, ("ar", "pflm"), (1, 2), (4,), 16, 1))
    assert list(racing.job.run())
    assert [(row.decoder, row.batch, row.error) for row in racing.now.rows] == [
        ("ar", 1, None),
        ("pflm", 1, None),
        ("ar", 2, None),
        ("pflm", 2, None),
    ]


def test_the_api_answers(service: Service, pair: Pair) -> None:
    api, ids = Api(service), pair.encode(PROMPT)[0]
    found = api.map(PROMPT, U)
    assert [slot["learned"]["id"] for slot in found["slots"]] == pair.block([ids], [U]).learned[0].tolist()
    expected = finished(study_steps(pair, ids, blocks=256)).as_json()
    laws = api.laws(PROMPT, blocks=256)
    assert np.isclose(laws["entropy"], expected["entropy"])
    assert [row["name"] for row in laws["samplers"]] == ["teacher", "student", "ideal MDLM"]
    assert api.generate(PROMPT, new_tokens=45)["passes"] == 12
