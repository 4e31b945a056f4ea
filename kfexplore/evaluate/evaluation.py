"""Measures a pair on one text: agreement, the distribution of slot 1, and samples."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version

from kfexplore.evaluate.agreement import agreement, slot_law, text_ids, text_windows
from kfexplore.evaluate.judges import Judge, continued, gen_ppl, load_judge, win_rate
from kfexplore.evaluate.samples import Written, decoders, scored, write_all
from kfexplore.pair import Pair
from kfexplore.results import Evaluation, Ints, SampleQuality

USUAL_PREFIX, USUAL_NEW = 32, 64


@dataclass(frozen=True)
class EvalSettings:
    """Settings of an evaluation."""

    windows: int = 64
    """Number of text windows for the agreement and for the distribution of slot 1."""
    steps: int = 1024
    """Steps of the grid over the noise of slot 1."""
    samples: int = 64
    """Number of held-out prefixes that every decoder continues."""
    prefix: int | None = None
    """Tokens of a prefix; None: 32, or a quarter of a shorter context."""
    new_tokens: int | None = None
    """New tokens per sample; None: 64, or half of a shorter context."""
    penalty: float = 0.5
    """Frequency penalty of the penalised readout at the largest K (published for four slots); 0 omits this readout."""
    dither: int = 6
    """Bits of the dithered readout at the largest K."""
    seed: int = 0
    """Random seed for prefixes and noise."""
    gen_ppl: str | None = None
    """Causal model for Gen-PPL; None: not measured."""
    judge: str | None = None
    """Causal model that compares samples with the teacher's samples; None: not measured."""


def evaluate(pair: Pair, name: str, texts: list[str], text_name: str, settings: EvalSettings) -> Evaluation:
    """Measures a pair on held-out texts.

    Raises:
        KfError: no student or tokenizer; a text too short for the windows or samples; samples longer than the context;
            a judge that cannot be loaded.
    """
    started, student, device = time.perf_counter(), pair.need_student(), pair.teacher.device
    context = student.config.context
    prefix = min(USUAL_PREFIX, context // 4) if settings.prefix is None else settings.prefix
    new = min(USUAL_NEW, context // 2) if settings.new_tokens is None else settings.new_tokens
    ppl_model = load_judge(settings.gen_ppl, device) if settings.gen_ppl else None
    judge = load_judge(settings.judge, device) if settings.judge else None
    prefixes = text_windows(*text_ids(pair, texts), settings.samples, prefix + new)[:, :prefix]
    chosen = decoders(student.config.block, settings.penalty, settings.dither)
    # Samples come first, so that errors in their settings are reported at once.
    written = write_all(pair, prefixes, new, chosen, settings.seed)
    rows = _judged(pair, prefixes, written, ppl_model, judge)
    return Evaluation(
        pair=name,
        text=text_name,
        agreement=agreement(pair, texts, windows=settings.windows, seed=settings.seed),
        slot_1=slot_law(pair, texts, settings.windows, settings.steps, settings.seed),
        samples=rows,
        settings=asdict(replace(settings, samples=len(prefixes), prefix=prefix, new_tokens=new)),
        device=str(device),
        dtype=str(student.dtype).removeprefix("torch."),
        versions={library: version(library) for library in ("torch", "numpy", "tokenizers", "transformers")},
        seconds=time.perf_counter() - started,
    )


def _judged(
    pair: Pair, prefixes: Ints, written: list[Written], ppl_model: Judge | None, judge: Judge | None
) -> list[SampleQuality]:
    """Adds scores by other models; the teacher is not compared with itself."""
    rows = scored(pair.teacher, prefixes, written)
    texts = [continued(pair.need_tokenizer(), prefixes, each.tokens) for each in written]
    if ppl_model is not None:
        rows = [replace(row, gen_ppl=gen_ppl(ppl_model, text)) for row, text in zip(rows, texts, strict=True)]
    if judge is not None:
        found = [win_rate(judge, text, texts[0]) for text in texts[1:]]
        rows[1:] = [
            replace(
                row,
                win_rate=each.win_rate,
                judged_first=each.first_shown.value,
                judged_inconsistent=each.inconsistent / len(prefixes),
            )
            for row, each in zip(rows[1:], found, strict=True)
        ]
    return rows
