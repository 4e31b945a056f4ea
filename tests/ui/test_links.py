"""What an address says of the fields of the tabs: values are checked, and a bad one loses nothing else."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from kfexplore.errors import KfError
from kfexplore.ui.links import Link, read_links


def link(field: Any, **widest: Any) -> Link:
    return Link(field, widest)


SLIDER = link(gr.Slider(1, 4, 2, step=1, elem_id="k"))
SEED = link(gr.Number(0, elem_id="seed"))
SAME = link(gr.Checkbox(True, elem_id="same"))
KINDS = link(gr.CheckboxGroup([("AR", "ar"), ("PFLM", "pflm")], elem_id="kinds"))
KS = link(gr.CheckboxGroup([1, 2], elem_id="ks"), choices=[("1", 1), ("2", 2), ("8", 8)])
TOY = link(gr.Radio([("Chain", "chain"), ("XOR", "xor")], elem_id="toy"))
WIDER = link(gr.Slider(1, 4, 2, step=1, elem_id="wider"), maximum=16)


@pytest.mark.parametrize(
    ("link", "text", "value"),
    [
        (SLIDER, "4", 4),
        (SLIDER, "2.5", 2.5),
        (SEED, "-3", -3),
        (SAME, "false", False),
        (KINDS, "pflm,ar", ["pflm", "ar"]),
        (KINDS, "", []),
        (KS, "2,8", [2, 8]),
        (TOY, "xor", "xor"),
        (WIDER, "9", 9),
    ],
)
def test_a_value_is_read_as_its_field_holds_it(link: Link, text: str, value: object) -> None:
    update = link.read(text)
    assert update["value"] == value
    assert type(update["value"]) is type(value)


@pytest.mark.parametrize(
    ("link", "text", "valid"),
    [
        (SLIDER, "5", "a number from 1 to 4"),
        (SLIDER, "nan", "a number from 1 to 4"),
        (SLIDER, "", "a number from 1 to 4"),
        (SEED, "inf", "a number"),
        (SEED, "<b>", "a number"),
        (SAME, "yes", "one of true, false"),
        (KINDS, "ar,none", "any of ar, pflm"),
        (KS, "3", "any of 1, 2, 8"),
        (TOY, "", "one of chain, xor"),
        (TOY, "chain,xor", "one of chain, xor"),
        (WIDER, "17", "a number from 1 to 16"),
    ],
)
def test_a_bad_value_says_which_and_what_would_be_valid(link: Link, text: str, valid: str) -> None:
    with pytest.raises(KfError) as raised:
        link.read(text)
    assert raised.value.failed == f"The link has {text!r} for {link.key}."
    assert raised.value.valid == valid


def test_what_a_pair_decides_grows_with_the_value() -> None:
    assert WIDER.read("9")["maximum"] == 16


def test_a_mistake_leaves_the_other_fields() -> None:
    links = [SLIDER, SEED, SAME]
    updates, mistakes = read_links(links, {"k": "9", "seed": "7", "tab": "nowhere", "other": "1"})
    assert list(updates) == [SEED.field]
    assert [error.failed for error in mistakes] == ["The link has '9' for k.", "There is no tab 'nowhere'."]
