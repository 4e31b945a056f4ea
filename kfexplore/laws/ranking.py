"""Contexts from a text, ranked by the mutual information of the next two tokens.

The sentences beside this file were written for this purpose, so no pair was trained on them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kfexplore.checkpoints.registry import bundled_folder, fingerprint, pair_parts
from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import KfError
from kfexplore.laws.exact import pair_law
from kfexplore.pair import Pair, load_pair
from kfexplore.results import BlockLaw, RankedContext
from kfexplore.training.documents import read_text

SENTENCES = Path(__file__).parent / "sentences.txt"
CONTEXTS = "contexts.json"
"""File name, beside the weights of a bundled pair."""
FEWEST_BEFORE = 4
"""Fewest tokens of a context."""


def lines(text: Path | None = None) -> list[str]:
    """The lines of a file or folder of texts; None: our own sixty sentences in the style of old tales.

    Raises:
        KfError: as `read_text`.
    """
    return "\n".join(read_text(text or SENTENCES)).splitlines()


def rank_contexts(pair: Pair, sentences: Sequence[str]) -> list[RankedContext]:
    """The context of each sentence with the largest mutual information of the next two tokens, largest first.

    A context ends inside its sentence, and encoding its text gives the same tokens, so that a prompt can reproduce it.

    Args:
        pair: Needs a tokenizer.
        sentences: At least one.

    Raises:
        KfError: the pair has no tokenizer, or no sentence has a context.
    """
    best = []
    for sentence in tqdm(sentences, desc="contexts", delay=1):
        ids, _ = pair.encode(sentence)
        found = []
        for end in range(FEWEST_BEFORE, len(ids)):
            text = "".join(pair.texts(ids[:end]))
            if pair.encode(text)[0] == ids[:end]:
                found.append(_ranked(pair, text, pair_law(pair, ids[:end])))
        if found:
            best.append(max(found, key=lambda context: context.mutual_information))
    if not best:
        raise KfError("No sentence has a context.", f"sentences of more than {FEWEST_BEFORE} tokens")
    return sorted(best, key=lambda context: -context.mutual_information)


def store_contexts(name: str = DEFAULT_PAIR, text: Path | None = None) -> Path:
    """Writes the ranked contexts of `lines(text)` beside a bundled pair; returns the file."""
    folder = bundled_folder(name)
    ranked = rank_contexts(load_pair(name), lines(text))
    rows = ",\n".join(json.dumps(asdict(context), ensure_ascii=False) for context in ranked)
    document = f'{{"weights": "{fingerprint(pair_parts(folder))}", "contexts": [\n{rows}\n]}}\n'
    (folder / CONTEXTS).write_text(document, encoding="utf-8")
    return folder / CONTEXTS


def stored_contexts(name: str = DEFAULT_PAIR) -> list[RankedContext]:
    """The ranked contexts of a bundled pair; [] if none are stored for its weights."""
    file = bundled_folder(name) / CONTEXTS
    if not file.is_file():
        return []
    stored = json.loads(file.read_text(encoding="utf-8"))
    if stored["weights"] != fingerprint(pair_parts(file.parent)):
        return []
    return [RankedContext(**context) for context in stored["contexts"]]


def _ranked(pair: Pair, text: str, law: BlockLaw) -> RankedContext:
    apart = np.abs(law.joint - law.product)
    row, second = np.unravel_index(int(apart.argmax()), apart.shape)
    return RankedContext(
        text=text,
        token_ids=law.context.tolist(),
        mutual_information=law.mutual_information.value,
        tv_product=law.tv_product.value,
        uncovered_mass=law.uncovered,
        example="".join(pair.texts([int(law.first[row]), int(second)])),
    )
