"""The palette: equal lightness, readable text, one hue per token, a mark for every invisible character."""

from __future__ import annotations

import colorsys
import re

import pytest

from kfexplore.figures.page import THEMES
from kfexplore.figures.palette import (
    HUES,
    Theme,
    colours,
    hue_index,
    oklch_hex,
    oklch_rgb,
    palette_css,
    token_colour,
    token_label,
)


def rgb(colour: str) -> tuple[float, ...]:
    assert re.fullmatch("#[0-9a-f]{6}", colour)
    return tuple(int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_oklch_of_white_black_and_primary_red() -> None:
    assert oklch_rgb(1, 0, 0) == pytest.approx((1, 1, 1), abs=1e-3)
    assert oklch_rgb(0, 0, 0) == pytest.approx((0, 0, 0), abs=1e-3)
    assert oklch_rgb(0.62796, 0.25768, 29.234) == pytest.approx((1, 0, 0), abs=2e-3)
    with pytest.raises(ValueError, match="outside sRGB"):
        oklch_hex(0.84, 0.2, 15)


@pytest.mark.parametrize("theme", THEMES)
def test_hues_are_equally_light_and_text_is_readable(theme: Theme) -> None:
    palette = colours(theme)
    for wheel in (palette.fills, palette.tints, palette.lines):
        assert len(set(wheel)) == HUES
        levels = [luminance(colour) for colour in wheel]
        assert max(levels) - min(levels) < 0.06
        assert len({round(12 * colorsys.rgb_to_hsv(*rgb(colour))[0]) % 12 for colour in wheel}) >= 8
    for ground in (*palette.fills, *palette.tints, palette.surface, palette.raised):
        assert contrast(palette.ink, ground) >= 4.5
    for ground in (palette.surface, palette.raised):
        assert min(contrast(text, ground) for text in (palette.muted, palette.differ, palette.accent)) >= 4.5
        assert contrast(palette.edge, ground) >= 3
    assert contrast(palette.on_accent, palette.accent) >= 4.5


def test_hue_index_is_the_top_of_the_32_bit_hash() -> None:
    assert [hue_index(token) for token in (0, 1, 2, 3)] == [0, 7, 2, 10]
    indices = [hue_index(token) for token in range(60_000)]
    assert set(indices) == set(range(HUES))
    assert max(indices.count(hue) for hue in range(HUES)) < 1.01 * 60_000 / HUES
    assert token_colour(1, "dark") == colours("dark").fills[7]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" the", "·the"),
        ("a  b ", "a··b·"),
        ("\r\n\t", "␍↵⇥"),
        ("", "∅"),
        ("\ufffd日本", "\ufffd日本"),
        ("\x00\x7f", "␀␡"),
        ("\u00a0", "⍽"),
        ("\u200b", "‹200b›"),
        ("a\u202eb", "a‹202e›b"),
        ("[^]-\\", "[^]-\\"),
    ],
)
def test_every_invisible_character_has_a_mark(text: str, label: str) -> None:
    assert token_label(text) == label


def test_css_has_every_hue_in_both_themes() -> None:
    css = palette_css(".kfs")
    for palette in map(colours, THEMES):
        assert all(colour in css for colour in (*palette.fills, *palette.tints, *palette.lines, palette.ink))
    assert '.dark .kfs [data-hue="11"], .kfs[data-theme="dark"] [data-hue="11"] {' in css
    assert "--kf-on-accent:" in css
