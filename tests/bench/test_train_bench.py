"""The document of training speed has its keys, and its counts are those of the shapes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from kfexplore.bench.train import bench_train, token_passes
from kfexplore.config import ModelConfig
from kfexplore.errors import KfError
from kfexplore.training.config import TrainConfig

SHAPE = ModelConfig("teacher", vocab_size=8, width=16, depth=1, heads=2, mask_id=7, context=16)
DEEPER = dataclasses.replace(SHAPE, kind="student", depth=2)
CONFIG = TrainConfig(steps=1, batch=2, context=16, groups=4)


def test_one_row_a_stage_with_every_setting() -> None:
    reported: list[Any] = []
    document = json.loads(
        json.dumps(bench_train(SHAPE, DEEPER, CONFIG, repeats=3, slots=(1, 2), report=reported.append))
    )
    assert reported == document["rows"]
    assert (document["bench"], document["device"], document["width"]) == ("train", "cpu", 16)
    assert document["peak_flops_per_second"] > 1e6
    rows = document["rows"]
    assert [(row["model"], row["k"], row["depth"], row["groups"]) for row in rows] == [
        ("teacher", None, 1, None),
        ("student", 1, 2, 4),
        ("student", 2, 2, 4),
    ]
    for row, tokens in zip(rows, (32, 8, 16), strict=True):
        assert 0 < row["least_ms"] <= row["ms_per_step"] <= row["largest_ms"]
        assert row["tokens_per_second"] == pytest.approx(1e3 * tokens / row["ms_per_step"])
        assert row["relative"] == pytest.approx(row["tokens_per_second"] / rows[0]["tokens_per_second"])
        assert row["share_of_peak"] == pytest.approx(row["flops_per_second"] / document["peak_flops_per_second"])
    # The teacher's weights: 12 H^2 + 5 H of a block's MLP biases, two norms; norm, head and bias of the output.
    block, output = 12 * 16**2 + 5 * 16 + 2 * 16, 16 + 8 * 16 + 8
    assert rows[0]["flops_per_second"] == pytest.approx(2 * (block + output) * 3 * 32 / (rows[0]["ms_per_step"] / 1e3))
    # The student of one slot: two blocks, and of the noise encoder (2 H + 1) H, a norm, and two layers of 8 H^2 + 5 H.
    encoder = (2 * 16 + 1) * 16 + 2 * 16 + 8 * 16**2 + 5 * 16
    passes = 2 * 3 * (16 + 4) * (2 * block + output + encoder) + 2 * 16 * (block + output)
    assert rows[1]["flops_per_second"] == pytest.approx(2 * passes / (rows[1]["ms_per_step"] / 1e3))


@pytest.mark.parametrize(
    ("changes", "own", "targets"),
    [
        ({"block": 1}, 3 * (16 + 4), 16),  # exact: the first slot's distribution is the context's own
        ({"block": 4}, 3 * (16 + 16), 16 + 12),
        ({"block": 4, "noises": 2}, 3 * (16 + 32), 16 + 24),
        ({"block": 4, "targets": "self"}, 3 * (16 + 16), 16 + 4 * 6),  # 2 slots, then 2 tokens and 2 slots
        ({"block": 4, "targets": "inversion"}, 3 * (16 + 16), 16),
        ({"block": 4, "ntp_loss_weight": 0.5}, 3 * (16 + 16), 16 + 12 + 16),
        ({"block": 4, "on_policy_fraction": 0.5}, 3 * (16 + 16) + 12, 16 + 12),
    ],
)
def test_token_passes_are_counted_from_the_settings(changes: dict[str, Any], own: int, targets: int) -> None:
    config = TrainConfig(**{"steps": 1, "batch": 2, "context": 16, "groups": 4, **changes})
    assert token_passes(config) == (2 * own, 2 * targets)


def test_no_repeats_are_refused() -> None:
    with pytest.raises(KfError, match="0 repeats"):
        bench_train(SHAPE, DEEPER, CONFIG, repeats=0)
