"""The payload of the scrub figure is the app's own reply."""

from __future__ import annotations

import numpy as np
from helpers import student, teacher

from kfexplore.figures.payload import grid_payload, scrub_payload
from kfexplore.maps import block, grid, sweeps
from kfexplore.pair import Pair
from kfexplore.training.data import train_tokenizer
from kfexplore.ui.jobs import few_threads
from kfexplore.ui.service import local_service

PROMPT = "The owl went"


def test_payload_is_what_the_app_answers() -> None:
    tokenizer = train_tokenizer(["The owl went home."], 262)
    rows = tokenizer.get_vocab_size() + 1
    pair = Pair(teacher(1, vocab_size=rows), student(11, vocab_size=rows), tokenizer=tokenizer)
    ids, u = pair.encode(PROMPT)[0], np.array([0.2, 0.4, 0.6, 0.8])
    # The last bits of a margin depend on threads and batch; the app computes two tracks at a time.
    with few_threads(pair):
        held = pair.prefill(ids)
        moved = [*sweeps(held, u, [0, 1], 16), *sweeps(held, u, [2, 3], 16)]
        made = scrub_payload(moved, block(held, u), ids, pair.texts, pair="small")
    app = local_service({"small": lambda: pair})
    request = {"pair": "small", "prompt": PROMPT, "u": u.tolist(), "resolution": 16}
    reply = app.tables(request)
    assert {**made, "seq": None, "seconds": reply["seconds"], "trained": reply["trained"]} == reply
    assert (reply["trained"]["low"], reply["trained"]["high"]) == (1, 1)
    square = app.grid({**request, "slots": [1, 2]})
    assert {**grid_payload(grid(held, u, (1, 2), 16), pair.texts), "ok": True, "seq": None} == square
