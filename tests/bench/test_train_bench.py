"""The document of training speed has its keys, and its counts are those of the shapes."""

from __future__ import annotations

import json

import pytest

from kfexplore.bench.train import bench_train, token_passes
from kfexplore.config import ModelConfig, TrainConfig
from kfexplore.errors import KfError

SHAPE = ModelConfig("teacher", vocab_size=8, width=16, depth=1, heads=2, mask_id=7, context=16)
CONFIG = TrainConfig(steps=1, batch=2, context=16, groups=4)


def test_one_row_a_stage_with_every_setting() -> None:
    document = json.loads(json.dumps(bench_train(SHAPE, CONFIG, repeats=3, slots=(1, 2))))
    assert (document["bench"], document["device"], document["width"]) == ("train", "cpu", 16)
    assert document["peak_flops_per_second"] > 1e6
    rows = document["rows"]
    assert [(row["model"], row["k"], row["groups"]) for row in rows] == [
        ("teacher", None, None),
        ("student", 1, 4),
        ("student", 2, 4),
    ]
    for row, tokens in zip(rows, (32, 8, 16), strict=True):
        assert 0 < row["least_ms"] <= row["ms_per_step"] <= row["largest_ms"]
        assert row["tokens_per_second"] == pytest.approx(1e3 * tokens / row["ms_per_step"])
        assert row["relative"] == pytest.approx(row["tokens_per_second"] / rows[0]["tokens_per_second"])
        assert row["share_of_peak"] == pytest.approx(row["flops_per_second"] / document["peak_flops_per_second"])
    # The teacher's weights: 12 H^2 + 5 H of a block's MLP biases, two norms; norm, head and bias of the output.
    weights = 12 * 16**2 + 5 * 16 + 2 * 16 + 16 + 8 * 16 + 8
    assert rows[0]["flops_per_second"] == pytest.approx(2 * weights * 3 * 32 / (rows[0]["ms_per_step"] / 1e3))


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"block": 1}, 3 * (16 + 4) + 16),  # exact: the first slot's law is the context's own
        ({"block": 4}, 3 * (16 + 16) + 16 + 12),
        ({"block": 4, "noises": 2}, 3 * (16 + 32) + 16 + 24),
        ({"block": 4, "targets": "self"}, 3 * (16 + 16) + 16 + 4 * 6),  # 2 slots, then 2 tokens and 2 slots
        ({"block": 4, "targets": "inversion"}, 3 * (16 + 16) + 16),
    ],
)
def test_token_passes_are_counted_from_the_settings(changes: dict[str, int], passes: int) -> None:
    assert token_passes(TrainConfig(**{"steps": 1, "batch": 2, "context": 16, "groups": 4, **changes})) == 2 * passes


def test_no_repeats_are_refused() -> None:
    with pytest.raises(KfError, match="0 repeats"):
        bench_train(SHAPE, CONFIG, repeats=0)
