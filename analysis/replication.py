"""The paper's tables on the published checkpoints: `python -m analysis.replication --task lm1b --out runs/replication`.

Agreement under the same noise, Gen-PPL with the diversity of the samples, the win rate against AR (with --judge), and
throughput, each beside the numbers of the paper and of an independent replication. Checkpoints and texts come from the
hub unless they are given. Prints a table and writes replication.json, .csv, .html and one PNG per figure. Measurements
stay in OUT/parts: an interrupted run continues with the same command.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch
from tqdm import tqdm

from analysis import published
from analysis.case import PENALTIES, Case, Settings, decoder_name
from analysis.published import SOURCES, Compared, Part
from analysis.replication_figures import SHOWN, part_figure
from analysis.writing import text_table, write_document, write_figures, write_rows
from kfexplore.bench.setting import environment
from kfexplore.bench.throughput import RaceSettings, bench_throughput
from kfexplore.checkpoints.registry import PairParts, pair_parts, usable_device
from kfexplore.cli.options import numbers, pair_files
from kfexplore.config import from_dict
from kfexplore.decoding.generate import Networks
from kfexplore.errors import KfError, reported
from kfexplore.evaluate import intervals
from kfexplore.evaluate.agreement import agreement
from kfexplore.evaluate.judges import gen_ppl, load_judge, win_rate
from kfexplore.evaluate.samples import scored
from kfexplore.figures.palette import Theme
from kfexplore.results import Estimate, TimingRow

JUDGED_BY = "gpt2-large"
"""The paper's model for Gen-PPL; its judge is a Qwen."""

Found = tuple[list[Compared], list[str]]
"""The rows of a part, and remarks on those left out."""


def agreement_part(case: Case) -> Found:
    """Exact tokens by slot and block."""
    found = agreement(case.pair, case.texts, windows=case.settings.windows, seed=case.settings.seed)
    names = [f"slot {j + 1}" for j in range(len(found.agreement_by_slot))]
    shares = [*found.agreement_by_slot, found.agreement_block]
    halves = [*found.agreement_by_slot_interval, found.agreement_block_interval]
    values = [_per_cent(Estimate(s, s - half, s + half)) for s, half in zip(shares, halves, strict=True)]
    names.append(f"block of {len(names)}")
    return _rows(case, "agreement", {published.AGREEMENT: values}, names, case.unlike("agreement")), []


def quality_part(case: Case) -> Found:
    """Gen-PPL, and the diversity of the samples."""
    model = case.settings.gen_ppl
    judge = load_judge(model, case.device) if model else None
    measured, unlike = scored(case.pair.teacher, case.prefixes, case.written), case.unlike("quality")
    names = [decoder_name(each.decoder) for each in case.written]
    columns = {published.ENTROPY: [row.entropy for row in measured]}
    for n, name in enumerate(published.DISTINCT):
        found = [(row.distinct_1, row.distinct_2, row.distinct_3)[n] for row in measured]
        columns[name] = [_per_cent(each) for each in found]
    variety = _rows(case, "quality", columns, names, unlike)
    if judge is None:
        return variety, ["Gen-PPL: no model was named (--gen-ppl)"]
    other = None if Path(model).name == JUDGED_BY else f"Gen-PPL is under {Path(model).name}, in the paper {JUDGED_BY}"
    perplexities = [gen_ppl(judge, texts) for texts in tqdm(case.continuations, desc="Gen-PPL")]
    return _rows(case, "quality", {published.GEN_PPL: perplexities}, names, unlike or other) + variety, []


def judge_part(case: Case) -> Found:
    """Win rate of every K against AR, with each pair shown in both orders, and how often the order decided."""
    model = case.settings.judge
    if not model:
        return [], ["win rate: no judge was named (--judge MODEL_OR_FOLDER; the paper's is a Qwen)"]
    judge = load_judge(model, case.device)
    unlike = case.unlike("judge") or (None if "qwen" in Path(model).name.lower() else "the paper's judge is a Qwen")
    own, *others = case.continuations
    columns: dict[str, list[Estimate]] = {published.WIN_RATE: [], published.FIRST: [], published.INCONSISTENT: []}
    for texts in tqdm(others, desc="judge"):
        found = win_rate(judge, texts, own)
        columns[published.WIN_RATE].append(_per_cent(found.win_rate))
        columns[published.FIRST].append(_per_cent(found.first_shown))
        order = intervals.wilson(found.inconsistent / len(texts), len(texts))
        columns[published.INCONSISTENT].append(_per_cent(order))
    return _rows(case, "judge", columns, [decoder_name(each.decoder) for each in case.written[1:]], unlike), []


def throughput_part(case: Case) -> Found:
    """Tokens per second at each batch, and the speed-up over AR."""
    prefix, new = case.lengths
    race = RaceSettings(
        batches=case.settings.batches,
        ks=case.settings.ks,
        prompt=prefix,
        new_tokens=new,
        repeats=case.settings.repeats,
        seed=case.settings.seed,
    )
    networks = Networks(case.pair.teacher, case.pair.student)
    with tqdm(desc=f"throughput, {case.task}", total=len(race.races), leave=False) as bar:
        document = bench_throughput(networks, race, case.task, report=lambda at: bar.update(at.row is not None))
    unlike, remarks = case.unlike("throughput"), []
    speeds: list[Compared] = []
    gains: list[Compared] = []
    for row in (from_dict(TimingRow, values) for values in document["rows"]):
        of = "AR" if row.decoder == "ar" else f"K = {row.k}"
        if row.seconds is None:
            remarks.append(f"throughput of {of} at batch {row.batch}: {row.error}")
            continue
        tokens, took = row.batch * row.new_tokens / 1e3, row.seconds
        speed = Estimate(tokens / took.value, tokens / took.high, tokens / took.low)
        speeds.append(Compared(case.task, "throughput", published.SPEED, of, speed, row.batch, unlike))
        if row.speedup and of != "AR":
            gain = Estimate(row.speedup.value, row.speedup.low, row.speedup.high)
            gains.append(Compared(case.task, "throughput", published.SPEED_UP, of, gain, row.batch, unlike))
    return speeds + gains, remarks


PARTS: dict[Part, tuple[Callable[[Case], Found], Callable[[Case], dict[str, Any]]]] = {
    "agreement": (
        agreement_part,
        lambda case: {"text": case.text_key, "windows": case.settings.windows, "seed": case.settings.seed},
    ),
    "quality": (quality_part, lambda case: {**case.sampling, "ks": case.settings.ks, "model": case.settings.gen_ppl}),
    "judge": (judge_part, lambda case: {**case.sampling, "ks": case.settings.ks, "model": case.settings.judge}),
    "throughput": (
        throughput_part,
        lambda case: {
            "lengths": case.lengths,
            **{name: getattr(case.settings, name) for name in ("ks", "batches", "repeats", "seed")},
        },
    ),
}
"""The function that measures each part, and its settings besides models and device."""


def measured(case: Case, part: Part) -> Found:
    """A part's rows and remarks, from an earlier run or measured now."""
    measure, settings = PARTS[part]

    def plain() -> dict[str, Any]:
        rows, remarks = measure(case)
        return {"rows": [asdict(row) for row in rows], "remarks": remarks}

    found = case.kept(part, settings(case), plain)
    return [from_dict(Compared, values) for values in found["rows"]], found["remarks"]


def table(rows: Sequence[Compared]) -> str:
    """The printed table."""
    reasons = list(dict.fromkeys(row.unlike for row in rows if row.unlike and row.against))
    cells = []
    for row in rows:
        verdict = f"not comparable [{reasons.index(row.unlike) + 1}]" if row.against and row.unlike else row.verdict
        cells.append(
            [
                row.task,
                f"{row.quantity} ({row.unit})" if row.unit else row.quantity,
                row.of,
                str(row.batch or ""),
                f"{row.ours.value:.{row.digits}f}",
                f"{row.ours.low:.{row.digits}f} to {row.ours.high:.{row.digits}f}",
                *(f"{row.published[source]:g}" if source in row.published else "-" for source in SOURCES),
                "-" if row.difference is None else f"{row.difference:+.{row.digits}f}",
                verdict or "",
            ]
        )
    head = ["task", "quantity", "of", "batch", "ours", "interval", "paper", "replication", "difference", ""]
    return "\n".join([text_table(head, cells), *(f"[{n}] {reason}" for n, reason in enumerate(reasons, 1))])


def figures(rows: Sequence[Compared], theme: Theme = "light") -> dict[str, go.Figure]:
    """One figure for each part of each task."""
    parts = dict.fromkeys((row.task, row.part) for row in rows if row.quantity in SHOWN)
    return {
        f"{task}-{part}": part_figure([row for row in rows if (row.task, row.part) == (task, part)], theme)
        for task, part in parts
    }


def _rows(
    case: Case, part: Part, columns: dict[str, list[Estimate]], names: list[str], unlike: str | None
) -> list[Compared]:
    """One row for each quantity and name."""
    return [
        Compared(case.task, part, quantity, of, value, None, unlike)
        for quantity, values in columns.items()
        for of, value in zip(names, values, strict=True)
    ]


def _per_cent(share: Estimate) -> Estimate:
    """A fraction in per cent; its interval is cut at 0 and 100."""
    return Estimate(100 * share.value, 100 * max(0.0, share.low), 100 * min(1.0, share.high))


def main() -> None:
    """Measures one task of the paper, or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("lm1b", "owt", "both"), default="both")
    parser.add_argument("--teacher", type=Path, default=None, help="a checkpoint, instead of the task's published one")
    parser.add_argument("--student", type=Path, default=None, help="its student")
    parser.add_argument("--tokenizer", type=Path, default=None, help="tokenizer.json; else the task's own")
    parser.add_argument("--text", type=Path, default=None, help="held-out text, a file or folder; else the hub's")
    parser.add_argument("--prefixes", type=Path, default=None, help="JSON lines with prefix; else from the text")
    parser.add_argument("--parts", default=",".join(PARTS), help="parts to measure")
    parser.add_argument("--k", default="2,3,4")
    parser.add_argument("--batch", default=",".join(map(str, published.BATCHES)))
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=256, help="text windows for the agreement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prefix-len", type=int, default=None, help="tokens per prefix; else 6 (lm1b), 64 (owt)")
    parser.add_argument("--new-tokens", type=int, default=None, help="tokens per sample; else 122 (lm1b), 960 (owt)")
    parser.add_argument("--gen-ppl", default=JUDGED_BY, help="model or folder; '' for none")
    parser.add_argument("--judge", default="", help="model or folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/replication"), help="output folder")
    asked = parser.parse_args()
    same = ("samples", "windows", "repeats", "seed", "new_tokens", "text", "prefixes", "gen_ppl", "judge")
    settings = Settings(
        ks=tuple(dict.fromkeys(numbers(asked.k, int, "--k"))),
        batches=tuple(dict.fromkeys(numbers(asked.batch, int, "--batch"))),
        prefix=asked.prefix_len,
        **{name: getattr(asked, name) for name in same},
    )
    chosen, device = asked.parts.split(","), usable_device(asked.device)
    if unknown := [part for part in chosen if part not in PARTS]:
        raise KfError(f"There is no part {unknown[0]!r}.", ", ".join(PARTS))
    files = pair_files(None, asked.teacher, asked.student)
    if files and asked.task == "both":
        raise KfError("--teacher and --student are models of one task.", "--task lm1b, or --task owt")
    rows: list[Compared] = []
    remarks: list[str] = []
    texts: dict[str, str] = {}
    for task in ("lm1b", "owt") if asked.task == "both" else (asked.task,):
        named = PairParts(*files, None, asked.tokenizer, {}) if files else pair_parts(task)
        parts = dataclasses.replace(named, tokenizer=asked.tokenizer or named.tokenizer)
        case = Case(task, parts, settings, device, asked.out / "parts")
        texts[task] = case.text_name
        for part in PARTS:
            if part in chosen:
                found, left = measured(case, part)
                rows += found
                remarks += [f"{task}, {remark}" for remark in left]
    print(table(rows))
    for remark in remarks:
        print(f"Left out: {remark}")
    about = {name: value.name if isinstance(value, Path) else value for name, value in asdict(settings).items()}
    document = {
        "study": "replication",
        **environment(device),
        "settings": {**about, "penalties": PENALTIES},
        "texts": texts,
        "sources": SOURCES,
        "rows": [row.as_json() for row in rows],
        "left_out": remarks,
    }
    write_document("replication", document, asked.out)
    write_rows((row.as_json() for row in rows), asked.out / "replication.csv")
    words = ", ".join(f"{name} {value}" for name, value in about.items() if value not in (None, ""))
    read = "".join(f"; {task} on {text}" for task, text in texts.items())
    foot = f"{words}{read}; {document['device_name']}, float32. "
    foot += ". ".join([*(f"{k.title()}: {v}" for k, v in SOURCES.items()), *(f"Left out: {left}" for left in remarks)])
    write_figures("replication", lambda theme: figures(rows, theme), asked.out, "kfexplore: replication", foot)


if __name__ == "__main__":
    with reported():
        main()
