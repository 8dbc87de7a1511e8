"""The palette meets WCAG 2.2, computed from the style sheet."""

from __future__ import annotations

import re

import pytest

from maintd.web.templates import STATIC

CSS = (STATIC / "style.css").read_text(encoding="utf-8")

TEXTS = ("text", "dim", "link", "good", "warn", "bad", "live")
SURFACES = ("page", "surface")
READABLE = 4.5
"""Minimum contrast of text of normal size; WCAG 2.2, 1.4.3."""
VISIBLE = 3.0
"""Minimum contrast of charts and controls; 1.4.11."""


def palettes() -> dict[str, dict[str, str]]:
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    return {
        name: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        for name, block in (("light", light), ("dark", dark))
    }


def luminance(colour: str) -> float:
    """Relative luminance; https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_the_contrast_formula_gives_known_values() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("text", TEXTS)
def test_text_has_enough_contrast_on_every_surface(scheme: str, surface: str, text: str) -> None:
    palette = palettes()[scheme]

    assert contrast(palette[text], palette[surface]) >= READABLE


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_and_controls_have_enough_contrast(scheme: str) -> None:
    palette = palettes()[scheme]

    assert contrast(palette["chart"], palette["surface"]) >= VISIBLE
    assert contrast(palette["surface"], palette["link"]) >= READABLE  # the text of a button on its background
    assert contrast(palette["dim"], palette["surface"]) >= VISIBLE  # the border of a field


def test_light_and_dark_define_the_same_colours_and_rules_use_only_these() -> None:
    light, dark = palettes()["light"], palettes()["dark"]
    rules = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)

    assert light.keys() == dark.keys()
    assert set(re.findall(r"var\(--([\w-]+)\)", rules)) - {"mono"} <= light.keys()
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b", rules)
