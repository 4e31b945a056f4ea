"""The palette of all figures: one colour per token; exact, learned and "differ" look the same everywhere.

Twelve hues, 30 degrees apart, with one OKLCH lightness and chroma per role, so that no token looks more important than
another. Colour is never the only sign: figures add the token's text and a hairline or a symbol.

OKLCH to sRGB follows Björn Ottosson's definition of Oklab (2020); lightness 0 to 1, chroma 0 to about 0.4,
hue in degrees.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

Theme = Literal["light", "dark"]

HUES: Final = 12
FIRST_HUE: Final = 15.0
_MULTIPLIER: Final = 2654435761
"""Knuth's multiplicative hash: 2^32 over the golden ratio, so that neighbouring ids get distant hues."""


@dataclass(frozen=True)
class Colours:
    """The colours of one theme, as "#rrggbb"; a tuple has one entry per hue index, 0 to 11."""

    fills: tuple[str, ...]  # exact tokens: solid bands, chips, cells; `ink` on them has a contrast of at least 4.5
    tints: tuple[str, ...]  # background of learned tokens, under the hatching
    lines: tuple[str, ...]  # hatching and outlines of learned tokens, underlines, plot lines
    surface: str  # the page behind a figure
    raised: str  # boxes on the page: tooltips, buttons
    ink: str  # text and hairlines
    muted: str  # secondary text; also a contrast of at least 4.5 on `surface`
    rule: str  # borders and axes
    edge: str  # border of inputs and options; a contrast of at least 3 on `surface` and `raised`
    accent: str  # the one accent: focus, chosen options, active controls
    on_accent: str  # text on the accent
    exact: str  # lines and bars that stand for the exact map (teacher)
    learned: str  # lines and bars that stand for the learned map (student)
    differ: str  # where the two differ; always together with the sign of inequality or a hatching

    def series(self, n: int) -> str:
        """The colour of the n-th of several lines, from 0; consecutive lines have distant hues."""
        return self.lines[(8 + 5 * n) % HUES]


def oklch_rgb(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    """Red, green and blue of an OKLCH colour, sRGB-encoded; a component outside [0, 1] is out of gamut."""
    a = chroma * math.cos(math.radians(hue))
    b = chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _transfer(4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short),
        _transfer(-1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short),
        _transfer(-0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short),
    )


def _transfer(linear: float) -> float:
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def oklch_hex(lightness: float, chroma: float, hue: float) -> str:
    """An OKLCH colour as "#rrggbb".

    Raises:
        ValueError: the colour is outside sRGB; clipping it would change its lightness.
    """
    parts = [round(255 * part) for part in oklch_rgb(lightness, chroma, hue)]
    if min(parts) < 0 or max(parts) > 255:
        raise ValueError(f"oklch({lightness} {chroma} {hue}) is outside sRGB")
    return "#" + "".join(f"{part:02x}" for part in parts)


def _wheel(lightness: float, chroma: float) -> tuple[str, ...]:
    return tuple(oklch_hex(lightness, chroma, FIRST_HUE + 360 / HUES * index) for index in range(HUES))


_THEMES: Final[dict[Theme, Colours]] = {
    "light": Colours(
        fills=_wheel(0.84, 0.078),
        tints=_wheel(0.955, 0.02),
        lines=_wheel(0.62, 0.104),
        surface="#ffffff",
        raised="#ffffff",
        ink=oklch_hex(0.24, 0.012, 265),
        muted=oklch_hex(0.51, 0.015, 265),
        rule=oklch_hex(0.89, 0.006, 265),
        edge=oklch_hex(0.64, 0.012, 265),
        accent=oklch_hex(0.48, 0.13, 262),
        on_accent="#ffffff",
        exact=oklch_hex(0.30, 0.02, 265),
        learned=oklch_hex(0.55, 0.14, 262),
        differ=oklch_hex(0.52, 0.15, 32),
    ),
    "dark": Colours(
        fills=_wheel(0.47, 0.078),
        tints=_wheel(0.30, 0.03),
        lines=_wheel(0.66, 0.1),
        surface=oklch_hex(0.20, 0.008, 265),
        raised=oklch_hex(0.25, 0.01, 265),
        ink=oklch_hex(0.95, 0.005, 265),
        muted=oklch_hex(0.72, 0.012, 265),
        rule=oklch_hex(0.36, 0.012, 265),
        edge=oklch_hex(0.57, 0.012, 265),
        accent=oklch_hex(0.76, 0.1, 262),
        on_accent=oklch_hex(0.18, 0.02, 265),
        exact=oklch_hex(0.92, 0.01, 265),
        learned=oklch_hex(0.72, 0.12, 262),
        differ=oklch_hex(0.75, 0.13, 45),
    ),
}


def colours(theme: Theme = "light") -> Colours:
    """All colours of a theme."""
    return _THEMES[theme]


def shades(colour: str, count: int, palette: Colours) -> list[str]:
    """Shades of a colour, the faintest first: mixtures with the surface, then mixtures with the ink.

    Args:
        colour: "#rrggbb".
        count: Number of shades; a single one is the colour itself.
        palette: Colours of its theme.

    Returns:
        Shades with a contrast of at least 3 on the surface, and about equal contrast between neighbours.
    """
    if count == 1:
        return [colour]
    ways = ((palette.surface, colour), (colour, palette.ink))
    path = {mixed: _contrast(mixed, palette.surface) for way in ways for mixed in _between(*way)}
    levels = [_FAINTEST * (_STRONGEST / _FAINTEST) ** (n / (count - 1)) for n in range(count)]
    return [min(path, key=lambda mixed: abs(path[mixed] - level)) for level in levels]


_FAINTEST: Final = 3.2
_STRONGEST: Final = 12.0
"""Contrast on the surface of the strongest of `shades`; `_FAINTEST`: of the faintest."""
_MIXED: Final = 64


def _between(one: str, other: str) -> list[str]:
    ends = list(zip(_parts(one), _parts(other), strict=True))
    return ["#" + "".join(f"{round(a + (b - a) * n / _MIXED):02x}" for a, b in ends) for n in range(_MIXED + 1)]


def _parts(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def _contrast(one: str, other: str) -> float:
    """Contrast ratio by WCAG 2, 1 to 21."""
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in (c / 255 for c in _parts(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def hue_index(token_id: int) -> int:
    """Hue 0 to 11 of a token id >= 0: the top of a 32-bit multiplicative hash.

    `hueOf` in the page's script computes the same.
    """
    return ((token_id * _MULTIPLIER) % 2**32 * HUES) >> 32


def token_colour(token_id: int, theme: Theme = "light") -> str:
    """Fill of a token, "#rrggbb"."""
    return colours(theme).fills[hue_index(token_id)]


_MARKS: Final = {chr(code): chr(0x2400 + code) for code in range(32)} | {
    " ": "·",
    "\n": "↵",
    "\t": "⇥",
    "\u00a0": "⍽",
    "\x7f": "␡",
}
_HIDDEN: Final = "\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff"
"""Characters that are invisible or change the text direction: shown by code point."""
_MARKED: Final = re.compile("[" + re.escape("".join(_MARKS)) + _HIDDEN + "]")


def token_label(text: str) -> str:
    """Visible text of a token: spaces, line ends and control characters are shown as marks, an empty text as "∅".

    Args:
        text: The decoded token; parts that cannot be decoded alone stay "\ufffd".
    """
    return _MARKED.sub(lambda found: _MARKS.get(found[0]) or f"‹{ord(found[0]):x}›", text) or "∅"


def palette_data() -> dict[str, Any]:
    """The palette and the label rules as plain values for a page's script, so that neither is duplicated."""
    return {
        "hues": HUES,
        "multiplier": _MULTIPLIER,
        "marks": _MARKS,
        "hidden": _HIDDEN,
        "empty": "∅",
        "light": asdict(_THEMES["light"]),
        "dark": asdict(_THEMES["dark"]),
    }


def palette_css(scope: str) -> str:
    """CSS custom properties of both themes for elements under a selector.

    `--kf-ink`, `--kf-accent`, ... on the scope itself; `--fill`, `--tint` and `--line` on descendants with
    `data-hue="0"` to `"11"`. The dark theme applies under Gradio's `.dark` or with `data-theme="dark"` on the scope.
    """
    blocks = []
    wheres: dict[Theme, list[str]] = {
        "light": [scope],
        "dark": [f".dark {scope}", f'{scope}[data-theme="dark"]'],
    }
    for theme, scopes in wheres.items():
        values = asdict(_THEMES[theme])
        plain = "".join(
            f" --kf-{name.replace('_', '-')}: {value};" for name, value in values.items() if isinstance(value, str)
        )
        blocks.append(f"{', '.join(scopes)} {{{plain} color-scheme: {theme}; }}")
        for hue in range(HUES):
            selector = ", ".join(f'{one} [data-hue="{hue}"]' for one in scopes)
            roles = " ".join(f"--{role[:-1]}: {values[role][hue]};" for role in ("fills", "tints", "lines"))
            blocks.append(f"{selector} {{ {roles} }}")
    return "\n".join(blocks) + "\n"
