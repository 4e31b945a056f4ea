"""What timings say in words: who is fastest, the speed-up over AR, and whether it is settled; what they hang on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from kfexplore.decoders import DECODERS
from kfexplore.results import TimingRow


class Series(NamedTuple):
    """A decoder at one K: a trace of its own."""

    decoder: str
    """One of `DECODERS`, or another program's name, which is shown as it is."""
    k: int

    @property
    def name(self) -> str:
        known = DECODERS.get(self.decoder)
        if known is None:
            return self.decoder
        return f"{known.label}, K = {self.k}" if known.takes_k else known.label

    @property
    def place(self) -> tuple[int, int]:
        """Decoders as they are listed everywhere, others behind them."""
        listed = list(DECODERS)
        return (listed.index(self.decoder) if self.decoder in listed else len(listed)), self.k


def series_of(row: TimingRow) -> Series:
    """Whose row it is."""
    return Series(row.decoder, row.k)


def held_against_ar(rows: Sequence[TimingRow]) -> list[TimingRow]:
    """The rows that have a speed-up; AR has none over itself."""
    return [row for row in rows if row.speedup is not None and row.decoder != "ar"]


def over_ar(row: TimingRow) -> str:
    """The speed-up with its spread, or that it is not settled; "" of what is not held against AR."""
    if row.speedup is None or row.decoder == "ar":
        return ""
    if row.repeats == 1:
        return f"not settled ({row.speedup.value:.2f} in one repeat)"
    spread = f"({row.speedup.low:.2f} to {row.speedup.high:.2f})"
    return f"{row.speedup.value:.2f} {spread}" if row.is_apart else f"not settled {spread}"


def chance_words(rows: Sequence[TimingRow]) -> str:
    """How often a comparison with AR is settled by chance, with a space behind; "" where no rate is known.

    Documents of races that did not interleave their repeats have none.
    """
    known = {row.repeats: row.false_positive_rate for row in held_against_ar(rows) if row.false_positive_rate}
    rates = [
        f"{100 * rate:.1f}".removesuffix(".0") + f" % with {repeats} repeats"
        for repeats, rate in sorted(known.items())
        if repeats > 1
    ]
    if not rates:
        return ""
    return f"False-positive rate per comparison, if runs are exchangeable: {', '.join(rates)}. "


def per_second(row: TimingRow) -> str:
    """Tokens a second of what was timed, with its slowest and fastest repeat."""
    low, high = _rates(row)
    return f"{row.tokens_per_second:,.0f}" + (f" ({low:,.0f} to {high:,.0f})" if row.repeats > 1 else "")


def race_finding(rows: Sequence[TimingRow]) -> str:
    """Who is fastest at the smallest batch, and at that of the most tokens a second; or that it is not settled."""
    timed = [row for row in rows if row.tokens_per_second]
    if not timed:
        return "No decoder could be timed" if rows else "No decoder is timed yet"
    shown = {min(row.batch for row in timed), max(timed, key=_rate).batch}
    words = "; ".join(f"at batch {size} {_leader([r for r in timed if r.batch == size])}" for size in sorted(shown))
    return words[0].upper() + words[1:]


def _leader(rows: Sequence[TimingRow]) -> str:
    """Who is fastest of one batch, or who may be."""
    ranked = sorted(rows, key=_rate, reverse=True)
    rivals = [row for row in ranked if row.repeats == 1 or _rates(row)[1] >= _rates(ranked[0])[0]]
    if len(rows) > 1 and len(rivals) > 1:
        return f"it is not settled which is fastest, {' or '.join(series_of(row).name for row in rivals)}"
    is_fastest = "is fastest," if len(rows) > 1 else "writes"
    return f"{series_of(ranked[0]).name} {is_fastest} {per_second(ranked[0])} tokens a second"


def _rate(row: TimingRow) -> float:
    return row.tokens_per_second or 0.0


def _rates(row: TimingRow) -> tuple[float, float]:
    """Tokens a second of the slowest and of the fastest repeat."""
    assert row.seconds is not None
    tokens = row.batch * row.new_tokens
    return tokens / row.seconds.high, tokens / row.seconds.low


def speedup_finding(rows: Sequence[TimingRow], decoders: Collection[str]) -> str:
    """The speed-up over AR of the student, at its best K, or of the fastest other; or why there is none.

    Args:
        rows: As many as there are.
        decoders: All that are in the race.
    """
    compared = held_against_ar(rows)
    if not compared:
        if decoders and "ar" not in decoders:
            return "No speed-up without AR in the race: choose it too"
        if set(decoders) == {"ar"}:
            return "No speed-up: nothing but AR is in the race"
        failed = any(row.error for row in rows if row.decoder == "ar")
        return "No speed-up: AR could not be timed" if failed else "Nothing is timed against AR yet"
    learned = [row for row in compared if row.decoder == "pflm"] or compared
    best = series_of(max(learned, key=_times))
    own = sorted((row for row in compared if series_of(row) == best), key=lambda row: row.batch)
    told = [row for row in own if row in (own[0], max(own, key=_times), own[-1])]
    return f"Speed of {best.name} over AR's: " + ", ".join(f"{over_ar(row)} at batch {row.batch}" for row in told)


def _times(row: TimingRow) -> float:
    return row.speedup.value if row.speedup else 0.0


def device_words(document: dict[str, Any]) -> str:
    """What a timing hangs on: device, threads, dtype, what the device can do, and whether others were at work."""
    limits, threads = document["limits"], document["threads"]
    busy = ""
    if document.get("busy"):
        busy = (
            f" The machine was busy: {document['load_during']:.1f} threads ran or waited on average, so times are "
            "longer than they need be, and ratios uncertain."
        )
    elif "busy" in document:
        busy = f" Nothing else of note was running (load {document['load_during']:.1f})."
    return (
        f"{document['device']} ({document['device_name']}), {threads} thread{'' if threads == 1 else 's'}, "
        f"{document['dtype']}, torch {document['versions']['torch']}; measured on it: copies "
        f"{limits['bytes_per_second'] / 1e9:,.1f} GB/s, products {limits['flops_per_second'] / 1e9:,.0f} GFLOP/s.{busy}"
    )
