"""Decoders against each other and against peers: `python -m analysis.throughput --sizes owt --out runs/throughput`.

Random weights of the published sizes, or a pair: our decoders beside `transformers`' generate() with a GPT-2 of the
same size and a plain loop (no packed weights, no static cache), all in one run on one machine. Prints a table and
writes throughput.json, throughput.csv, throughput.html and one PNG per figure.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import torch
from tqdm import tqdm

from analysis.writing import write_document, write_figures, write_rows
from kfexplore import noise
from kfexplore.bench.setting import SIZES, environment, measure_peaks, random_pair, timed
from kfexplore.bench.throughput import RaceSettings, race
from kfexplore.config import DecodeConfig, ModelConfig
from kfexplore.decoding.buffers import Step
from kfexplore.decoding.cdf import inverse_cdf
from kfexplore.decoding.generate import Networks, decode, keyed_noise
from kfexplore.errors import reported
from kfexplore.figures.timing import TITLE, timing_figures, timing_foot
from kfexplore.models import KVCache, Teacher
from kfexplore.models.onednn_linear import Linear
from kfexplore.pair import Pair, load_pair
from kfexplore.results import Spread, TimingRow

GENERATE, PLAIN = "transformers generate()", "plain loop"
PRODUCTS: Final = ("aten::addmm", "aten::mm", "aten::bmm", "mkldnn::_linear_pointwise")


def peer_rows(teacher: Teacher, size: str, settings: RaceSettings, batch: int) -> list[TimingRow]:
    """The same task by `transformers` and the plain loop; their times include prefill.

    Args:
        teacher: Gives the shape of the peers, and the weights of the plain loop.
        size: Name of the models.
        settings: Prompt, new tokens and repeats.
        batch: Samples at once.
    """
    ids = noise.generator(settings.seed, "prompt").integers(0, teacher.config.vocab_size - 1, settings.prompt)
    prompts = torch.from_numpy(ids).expand(batch, -1).contiguous().to(teacher.device)
    u = torch.from_numpy(noise.uniform(settings.seed, range(batch), 0, settings.new_tokens)).to(teacher.device)
    jobs: dict[str, Callable[[], object]] = {PLAIN: lambda: plain_loop(teacher, prompts, u)}
    peer = gpt2(teacher.config, teacher.device)
    if peer is not None:
        jobs = {GENERATE: lambda: peer(prompts, settings.new_tokens), **jobs}
    rows = []
    for name, job in jobs.items():
        seconds = timed(job, settings.repeats, teacher.device)
        took = Spread(statistics.median(seconds), min(seconds), max(seconds))
        row = TimingRow(name, batch, 1, size, settings.prompt, settings.new_tokens, settings.repeats)
        rows.append(
            dataclasses.replace(
                row,
                nfe=settings.new_tokens,
                seconds=took,
                ms_per_step=1e3 * took.value / settings.new_tokens,
                tokens_per_second=batch * settings.new_tokens / took.value,
                tokens_per_pass=1.0,
                load_average=os.getloadavg()[0],
            )
        )
    return rows


def gpt2(shape: ModelConfig, place: torch.device) -> Callable[[torch.Tensor, int], object] | None:
    """Sampling by `generate()` of a GPT-2 of this shape with random weights; None without transformers."""
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError:
        return None
    config = GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.context,
        n_embd=shape.width,
        n_layer=shape.depth,
        n_head=shape.heads,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(config).to(place).eval()

    @torch.inference_mode()
    def write(prompts: torch.Tensor, new_tokens: int) -> object:
        mask = torch.ones_like(prompts)
        options: dict[str, Any] = {"do_sample": True, "top_k": 0, "min_new_tokens": new_tokens}
        return model.generate(prompts, attention_mask=mask, max_new_tokens=new_tokens, **options)

    return write


@torch.inference_mode()
def plain_loop(teacher: Teacher, prompts: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Straightforward AR: concatenated keys and values, PyTorch's own linear layers."""
    with patch.object(Linear, "_packs", lambda *_: False):
        cache, fed, written = KVCache(), prompts, []
        for values in u.t():
            fed = inverse_cdf(teacher(fed, cache, read=1)[:, 0], values)[:, None]
            written.append(fed)
    return torch.cat(written, dim=1)


def measure(pair: Pair, size: str, settings: RaceSettings, peers: bool) -> dict[str, Any]:
    """The document: peaks and rows, peers and decoders batch by batch, so that a ratio compares neighbours in time."""
    networks = Networks(pair.teacher, pair.student, pair.masked)
    peaks = measure_peaks(pair.teacher.device, torch.float32)
    ids = pair.encode("Once upon a time")[0] if pair.tokenizer is not None else None
    rows: list[TimingRow] = []
    for batch in tqdm(settings.batches, desc=size, leave=False):
        here = dataclasses.replace(settings, batches=(batch,))
        if peers:
            rows += peer_rows(pair.teacher, size, here, batch)
        recheck = False if size in SIZES else None
        rows += [p.row for p in race(networks, here, peaks, size, ids, recheck=recheck) if p.row is not None]
    return {
        "bench": "throughput",
        **environment(pair.teacher.device, pair.teacher.dtype),
        "limits": dataclasses.asdict(peaks),
        "rows": [row.as_json() for row in rows],
    }


def profile(networks: Networks, decoder: str, size: str, new_tokens: int) -> dict[str, float]:
    """Fractions of a decoder's time at batch 1, by PyTorch's profiler: matrix products, attention, and the rest."""
    config = DecodeConfig(decoder)
    prompt = [1] * 16
    values = keyed_noise(0, range(1), config, networks, new_tokens)

    def steps() -> Iterator[Step]:
        found = decode(config, networks, [prompt], values, new_tokens, recheck=False if size in SIZES else None)
        next(found)
        return found

    list(steps())
    timed_steps = steps()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
        list(timed_steps)
    spent = {event.key: event.self_cpu_time_total for event in watched.key_averages()}
    total = sum(spent.values())
    products = sum(time for name, time in spent.items() if name in PRODUCTS) / total
    attention = sum(time for name, time in spent.items() if name.startswith("aten::_scaled_dot_product")) / total
    return {"products": products, "attention": attention, "other": 1 - products - attention}


def table(document: dict[str, Any]) -> str:
    """Tokens per second, and their ratios to generate(), the plain loop and ar at the same batch."""
    lines = [
        f"{'decoder':<25}{'batch':>6}{'k':>3}{'ms/pass':>9}{'tokens/s':>10}{'/generate':>10}{'/plain':>8}{'/ar':>7}"
        f"{'at limit':>9}{'of it':>7}"
    ]
    for row in document["rows"]:
        if row["seconds"] is None:
            lines.append(f"{row['decoder']:<25}{row['batch']:>6}{row['k']:>3}  {row['error']}")
            continue
        over = [_over(document, row, other) for other in (GENERATE, PLAIN, "ar")]
        limit = row["roofline_speedup"]
        share = over[2] / limit if limit and over[2] else None
        lines.append(
            f"{row['decoder']:<25}{row['batch']:>6}{row['k']:>3}{row['ms_per_step']:>9.2f}"
            f"{row['tokens_per_second']:>10,.0f}{_ratio(over[0]):>10}{_ratio(over[1]):>8}{_ratio(over[2]):>7}"
            f"{_ratio(limit):>9}{_ratio(share):>7}"
        )
    return "\n".join(lines)


def _over(document: dict[str, Any], row: dict[str, Any], other: str) -> float | None:
    for found in document["rows"]:
        if found["decoder"] == other and found["batch"] == row["batch"] and found["tokens_per_second"]:
            return float(row["tokens_per_second"] / found["tokens_per_second"])
    return None


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def tidy(row: dict[str, Any]) -> dict[str, Any]:
    """A row for a table, with the median of each spread."""
    return {name: value["value"] if isinstance(value, dict) else value for name, value in row.items()}


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="owt", help="owt, lm1b, both, or empty")
    parser.add_argument("--pair", default="", help="tales, or a folder: timed beside them")
    parser.add_argument("--decoders", default="ar,pflm")
    parser.add_argument("--batch", default="1,4,16")
    parser.add_argument("--k", default="4")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--prompt", type=int, default=32, help="prompt length in tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/throughput"))
    args = parser.parse_args()
    settings = RaceSettings(
        decoders=tuple(args.decoders.split(",")),
        batches=tuple(map(int, args.batch.split(","))),
        ks=tuple(map(int, args.k.split(","))),
        prompt=args.prompt,
        new_tokens=args.new_tokens,
        repeats=args.repeats,
    )
    names = [name for name in (*args.sizes.split(","), args.pair) if name]
    for name in names:
        pair = random_pair(name, args.device) if name in SIZES else load_pair(name, device=args.device)
        document = measure(pair, name, settings, peers=name in SIZES)
        networks = Networks(pair.teacher, pair.student)
        if pair.teacher.device.type == "cpu":
            document["profile"] = {each: profile(networks, each, name, settings.new_tokens) for each in ("ar", "pflm")}
        print(f"\n{name}\n{table(document)}")
        for decoder, shares in document.get("profile", {}).items():
            print(f"{decoder} at batch 1: " + ", ".join(f"{part} {share:.0%}" for part, share in shares.items()))
        folder = args.out / name
        write_document("throughput", document, folder)
        write_rows(map(tidy, document["rows"]), folder / "throughput.csv")
        write_figures("throughput", partial(timing_figures, document), folder, TITLE, timing_foot(document))


if __name__ == "__main__":
    with reported():
        main()
