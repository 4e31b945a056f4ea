"""Batches shared out over processes, without any: what each would write, brought together."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kfexplore.batch.request import Request, Source
from kfexplore.batch.run import in_team, share_batches
from kfexplore.config import DecodeConfig
from kfexplore.distributed import Team, check_devices
from kfexplore.errors import KfError


@pytest.mark.parametrize(("batches", "count"), [(1, 1), (7, 1), (7, 2), (7, 3), (8, 4), (5, 5)])
def test_every_batch_has_one_process_and_none_has_much_more(batches: int, count: int) -> None:
    shares = [share_batches(batches, 1, rank, count) for rank in range(count)]
    assert sorted(batch.start for each in shares for batch in each) == list(range(batches))
    sizes = [len(each) for each in shares]
    assert max(sizes) - min(sizes) <= 1


def test_a_process_without_work_is_refused() -> None:
    with pytest.raises(KfError, match="3 batches are too few for 4 devices"):
        share_batches(12, 4, 0, 4)


def test_batches_are_shared_whole_and_the_last_may_be_smaller() -> None:
    assert share_batches(10, 4, 0, 2) == [range(4), range(8, 10)]
    assert share_batches(10, 4, 1, 2) == [range(4, 8)]


@dataclass(frozen=True)
class Stand(Team):
    """One process of a team, where the first is run last and has what the others have handed in."""

    handed_in: dict[int, Any]

    def gather(self, found: Any) -> list[Any]:
        self.handed_in[self.rank] = found
        return [self.handed_in[rank] for rank in sorted(self.handed_in)]


def test_three_processes_write_what_one_writes(folder: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"prefix": f"The old owl said {word} to the rain"}) for word in ("a", "the", "on", "go")]
    (tmp_path / "prefixes.jsonl").write_text("\n".join(lines))
    models, decoder = Source(str(folder)), DecodeConfig("ar")
    alone = Request(models, decoder, tmp_path / "prefixes.jsonl", tmp_path / "one", 2, per_prefix=2, new_tokens=5)
    one = in_team(alone, Team(0, 1, "cpu"))
    together = dataclasses.replace(alone, output_dir=tmp_path / "three")
    parts: dict[int, Any] = {}
    answers = [in_team(together, Stand(rank, 3, "cpu", parts)) for rank in (2, 1, 0)]
    assert answers[:2] == [None, None]
    assert (tmp_path / "three" / "samples.jsonl").read_text() == (tmp_path / "one" / "samples.jsonl").read_text()
    found = answers[2]
    assert found is not None
    assert one is not None
    for key in ("num_samples", "n_batches", "total_nfe", "nfe_per_token", "tokens_after_eos", "last_batch_size"):
        assert found[key] == one[key], key
    assert found["devices"] == 3
    assert found["total_elapsed_sec"] == max(part.seconds for part in parts.values())


def test_devices_that_cannot_be_had_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    check_devices(2, "cuda")
    check_devices(3, "cpu")
    with pytest.raises(KfError, match="3 CUDA devices were requested, but 2 are visible"):
        check_devices(3, "cuda")
    with pytest.raises(KfError, match="--device names one: cuda:1"):
        check_devices(2, "cuda:1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_devices(4, "cuda")  # on several machines
    with pytest.raises(KfError, match="--devices is 2, but 4 processes were launched"):
        check_devices(2, "cuda")
