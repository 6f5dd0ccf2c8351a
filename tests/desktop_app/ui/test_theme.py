"""The design language: readable in both modes, sharp icons, a style sheet without holes."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from PySide6.QtCore import QSize
from PySide6.QtGui import QGuiApplication, QImage
from pytestqt.qtbot import QtBot

from desktop_app.paths import resources
from desktop_app.ui.theme import DARK, LIGHT, MAX_SCALE, Theme, Tokens

COLOURS = [f.name for f in fields(Tokens) if isinstance(getattr(LIGHT, f.name), str)]
BACKGROUNDS = [
    "window", "surface", "surface_raised", "surface_sunken", "accent_soft", "user_bubble",
    "code_background",
]  # fmt: skip
TEXTS = ["text", "text_muted", "accent", "positive", "negative", "warning"]


def luminance(colour: str) -> float:
    """WCAG 2.1, relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG 2.1, contrast ratio: 21 for black on white."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_of_black_on_white_is_21() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)


@pytest.mark.parametrize("tokens", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_all_text_colours_are_readable_on_every_background(tokens: Tokens, background: str) -> None:
    ratios = {t: contrast(getattr(tokens, t), getattr(tokens, background)) for t in TEXTS}
    assert {t: r for t, r in ratios.items() if r < 4.5} == {}


@pytest.mark.parametrize("tokens", [LIGHT, DARK], ids=["light", "dark"])
def test_text_on_the_accent_is_readable_and_the_focus_ring_is_seen(tokens: Tokens) -> None:
    assert contrast(tokens.accent_text, tokens.accent) >= 4.5
    assert contrast(tokens.accent_text, tokens.accent_hover) >= 4.5
    assert contrast(tokens.focus, tokens.surface) >= 3.0


@pytest.mark.parametrize("tokens", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_are_written_out(tokens: Tokens) -> None:
    assert all(re.fullmatch("#[0-9a-f]{6}", getattr(tokens, name)) for name in COLOURS)


def test_the_style_sheet_has_no_holes(theme: Theme) -> None:
    for appearance in ("light", "dark"):
        theme.set_appearance(appearance)  # type: ignore[arg-type]
        assert "$" not in theme.stylesheet()
        assert theme.tokens.accent in theme.stylesheet()


def test_every_icon_is_drawn_in_the_colour_asked_for_and_sharp_at_twice_the_size(
    theme: Theme,
) -> None:
    names = [path.stem for path in (resources() / "icons").glob("*.svg")]
    recoloured = [n for n in names if "currentColor" in _source(n)]
    assert len(recoloured) > 30
    for name in recoloured:
        pixmap = theme.icon(name, "#ff0000").pixmap(QSize(20, 20), 2.0)
        assert pixmap.size() == QSize(40, 40), name
        image = pixmap.toImage().convertToFormat(QImage.Format.Format_ARGB32)
        colours = {
            image.pixelColor(x, y).name()
            for x in range(40)
            for y in range(40)
            if image.pixelColor(x, y).alpha() == 255
        }
        assert colours == {"#ff0000"}, name


def test_the_chosen_appearance_wins_over_the_system(qtbot: QtBot, theme: Theme) -> None:
    with qtbot.waitSignal(theme.changed):
        theme.set_appearance("dark")
    assert theme.is_dark
    assert theme.tokens.window == DARK.window
    theme.set_appearance("light")
    assert not theme.is_dark
    theme.set_appearance("system")
    system = QGuiApplication.styleHints().colorScheme()
    assert theme.is_dark == (system.name == "Dark")


def test_text_grows_with_the_scale_and_stays_within_bounds(qtbot: QtBot, theme: Theme) -> None:
    normal = theme.tokens.font_body
    with qtbot.waitSignal(theme.changed):
        theme.set_font_scale(1.5)
    assert theme.tokens.font_body == pytest.approx(normal * 1.5, abs=0.1)
    assert theme.font().pointSizeF() == pytest.approx(theme.tokens.font_body)
    theme.set_font_scale(99.0)
    assert theme.font_scale == MAX_SCALE


def _source(name: str) -> str:
    return (resources() / "icons" / f"{name}.svg").read_text(encoding="utf-8")
