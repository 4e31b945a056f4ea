"""MODEL_CARD.md of a pair, written from what `kfexplore eval` measured."""

from __future__ import annotations

from kfexplore.evaluate.agreement import Agreement
from kfexplore.models import Model
from kfexplore.pair import Pair


def model_card(pair: Pair, measured: Agreement, text_name: str) -> str:
    """The card, as Markdown; every number in it is measured or told from the tensors."""
    slots = range(len(measured.agreement_by_slot))
    rows = "\n".join(
        f"| {j + 1} | {measured.agreement_by_slot[j]:.1%} ± {measured.agreement_by_slot_interval[j]:.1%} "
        f"| {measured.student_nll_by_slot[j]:.2f} |"
        for j in slots
    )
    config = pair.teacher.config
    return f"""# Pair `{pair.info.get("name", "")}`

A teacher and its push-forward student, distilled by the recipe in `kfexplore/training/recipes.py`. This card is
written by `kfexplore eval`; no number in it is typed by hand.

- Teacher: {_size(pair.teacher)}. Student: {_size(pair.student)}, K = {pair.student.config.block}.
- {config.depth} blocks, width {config.width}, {config.heads} heads, context {config.context} tokens,
  {config.vocab_size} tokens with the mask.

## Measured

On `{text_name}`, {measured.tokens:,} tokens that were not trained on: {measured.blocks:,} noise vectors after random
prefixes in {measured.windows} stretches of {measured.context} tokens, seed {measured.seed}.
± is a 95 % interval over stretches.

- Loss of the teacher: **{measured.teacher_nll:.3f}** nats a token.
- Same context and same noise: the whole block of {len(slots)} equals the exact map's on
  **{measured.agreement_block:.1%}** ± {measured.agreement_block_interval:.1%} of noise vectors. By slot:

| slot | token equals the exact one | student's loss on the exact token (nats; ideal 0) |
|---|---|---|
{rows}

Where the two differ, the exact map (the teacher's inverse CDF, token by token) is the truth and the student is wrong.

## Limits

Small models of old children's books: they write grammatical nonsense, in the language and with the views of their
time. They are here to show the map, not to write.
"""


def _size(model: Model) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
