"""Colours, sizes, icons and the style sheet: the one place that knows how Attune looks.

``Tokens`` are the design language. The style sheet in ``resources/styles`` names them as
``$token``; widgets that paint themselves read them from ``Theme.tokens`` and repaint on
``Theme.changed``. The appearance follows the system live unless the person chose one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import product
from string import Template
from typing import Final, Literal

from PySide6.QtCore import QByteArray, QObject, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFont,
    QFontDatabase,
    QFontInfo,
    QGuiApplication,
    QIcon,
    QPainter,
    QPalette,
    QPixmap,
)
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QApplication

from desktop_app.paths import resources

Appearance = Literal["system", "light", "dark"]

ICON_SIZE: Final = 20
READABLE_POINTS: Final = 10.5
"""Text is at least this large at 100 %: these are pages to read, not buttons to find."""
SEND_PADDING: Final = 12
"""What the round Send button is wider than its icon."""
_ICON_SIZES: Final = (20, 24, 30, 40)
"""An icon is never drawn larger than it was made: one of these for each text size."""
_ICON_RATIOS: Final = (1, 2, 3)
_APP_ICON_SIZES: Final = (16, 24, 32, 48, 64, 128, 256)
_DISABLED_OPACITY: Final = 0.38
MIN_SCALE: Final = 0.7
MAX_SCALE: Final = 2.0

_KOREAN_FALLBACKS: Final = (
    "Pretendard",
    "Apple SD Gothic Neo",
    "Malgun Gothic",
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "NanumGothic",
    "NanumSquare",
)
_BETTER_THAN_DEJAVU: Final = ("Inter", "Noto Sans", "Cantarell", "Ubuntu", "NanumGothic")
"""DejaVu Sans as the system's font means that no desktop has chosen one."""


@dataclass(frozen=True)
class Tokens:
    """The design language: "#rrggbb" colours, sizes in pixels, type in points."""

    window: str
    """Behind everything: side bars."""
    surface: str
    """The page that is read."""
    surface_raised: str
    """Cards, menus, fields."""
    surface_sunken: str
    """Wells and quiet fills."""
    border: str
    text: str
    text_muted: str
    accent: str
    accent_hover: str
    accent_text: str
    """Text on ``accent``."""
    accent_soft: str
    """A selected row, a quiet highlight; ``text`` and ``accent`` are readable on it."""
    user_bubble: str
    code_background: str
    positive: str
    negative: str
    warning: str
    focus: str
    scroll: str
    """The handle of a scroll bar at rest."""
    space: int = 8
    radius_small: int = 6
    radius: int = 10
    radius_large: int = 16
    font_small: float = 9.0
    font_body: float = 10.0
    font_large: float = 11.5
    font_title: float = 13.5
    font_display: float = 17.0


LIGHT: Final = Tokens(
    window="#f2f4f2",
    surface="#fcfdfc",
    surface_raised="#ffffff",
    surface_sunken="#e9ece9",
    border="#d8ddd9",
    text="#1c2320",
    text_muted="#56605b",
    accent="#0b7265",
    accent_hover="#095f55",
    accent_text="#ffffff",
    accent_soft="#dcefeb",
    user_bubble="#e2efec",
    code_background="#f0f3f1",
    positive="#17744a",
    negative="#b0342b",
    warning="#855600",
    focus="#0b7265",
    scroll="#bcc5c0",
)
DARK: Final = Tokens(
    window="#141817",
    surface="#1a1f1d",
    surface_raised="#232927",
    surface_sunken="#2a312e",
    border="#38413d",
    text="#e6ebe8",
    text_muted="#a2aea8",
    accent="#5cc9b7",
    accent_hover="#7ad6c7",
    accent_text="#06231e",
    accent_soft="#1d3a35",
    user_bubble="#213d37",
    code_background="#131716",
    positive="#63c990",
    negative="#f0897f",
    warning="#e0b15a",
    focus="#5cc9b7",
    scroll="#4a5550",
)


class Theme(QObject):
    """The look in force.

    ``install`` dresses the application and keeps it dressed; without it (in tests) the
    tokens and icons work all the same.

    Signals:
        changed: another appearance or font size.
    """

    changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._appearance: Appearance = "system"
        self._font_scale = 1.0
        self._system_font = QFont(QApplication.font())
        self._app: QApplication | None = None
        self._icons: dict[tuple[str, str], QIcon] = {}
        hints = QGuiApplication.styleHints()
        self._is_dark = hints.colorScheme() == Qt.ColorScheme.Dark
        self._tokens = self._build_tokens()
        hints.colorSchemeChanged.connect(self._follow_system)

    @property
    def tokens(self) -> Tokens:
        return self._tokens

    @property
    def is_dark(self) -> bool:
        return self._is_dark

    @property
    def font_scale(self) -> float:
        return self._font_scale

    @property
    def appearance(self) -> Appearance:
        return self._appearance

    @property
    def icon_size(self) -> QSize:
        """Icons grow with the text."""
        return QSize(ICON_SIZE, ICON_SIZE) * self._font_scale

    def install(self, app: QApplication) -> None:
        """Give the application this look, now and after each change."""
        self._app = app
        app.setStyle("Fusion")
        self._dress()

    def set_appearance(self, appearance: Appearance) -> None:
        """Light, dark, or whatever the system says at any time."""
        self._appearance = appearance
        hints = QGuiApplication.styleHints()
        if appearance == "system":
            hints.unsetColorScheme()
        else:  # also tells the platform, for title bars and file dialogs
            dark = appearance == "dark"
            hints.setColorScheme(Qt.ColorScheme.Dark if dark else Qt.ColorScheme.Light)
        self._refresh()

    def set_font_scale(self, scale: float) -> None:
        """1.0 is the system's own size."""
        scale = round(min(MAX_SCALE, max(MIN_SCALE, scale)), 2)
        if scale != self._font_scale:
            self._font_scale = scale
            self._refresh(force=True)

    def font(self, points: float | None = None, *, bold: bool = False) -> QFont:
        """The system's font with fallbacks for Korean."""
        font = QFont(self._system_font)
        family = QFontInfo(self._system_font).family()  # what "Sans Serif" stands for here
        if family == "DejaVu Sans":
            known = set(QFontDatabase.families())
            family = next((name for name in _BETTER_THAN_DEJAVU if name in known), family)
        font.setFamilies([family, *_KOREAN_FALLBACKS])
        font.setPointSizeF(points or self._tokens.font_body)
        if bold:
            font.setWeight(QFont.Weight.DemiBold)
        return font

    def monospace_font(self, points: float | None = None) -> QFont:
        """The system's fixed-width font, for code."""
        font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
        font.setFamilies([QFontInfo(font).family(), "D2Coding", "NanumGothicCoding"])
        font.setPointSizeF(points or self._tokens.font_body)
        return font

    def icon(self, name: str, colour: str | None = None) -> QIcon:
        """``resources/icons/<name>.svg`` in a colour (the text's, unless given)."""
        key = (name, colour or self._tokens.text)
        if key not in self._icons:
            self._icons[key] = _draw_icon(*key)
        return self._icons[key]

    def app_icon(self) -> QIcon:
        """The application's own mark, in colour."""
        renderer = QSvgRenderer(str(resources() / "icons" / "attune.svg"))
        icon = QIcon()
        for size in _APP_ICON_SIZES:
            icon.addPixmap(_render(renderer, size))
        return icon

    def stylesheet(self) -> str:
        """The application's style sheet with the tokens filled in."""
        path = resources() / "styles" / "attune.qss"
        values = {name: str(value) for name, value in asdict(self._tokens).items()}
        values["send_radius"] = str((self.icon_size.width() + SEND_PADDING) // 2)  # a circle
        values["icons"] = (resources() / "icons").as_posix()
        values["tone"] = "dark" if self._is_dark else "light"
        return Template(path.read_text(encoding="utf-8")).substitute(values)

    def palette(self) -> QPalette:
        """For what the style sheet does not reach: placeholders, selections, links."""
        t = self._tokens
        palette = QPalette(QColor(t.window))
        role = QPalette.ColorRole
        for where, colour in {
            role.Window: t.window,
            role.WindowText: t.text,
            role.Base: t.surface_raised,
            role.AlternateBase: t.surface_sunken,
            role.Text: t.text,
            role.Button: t.surface_raised,
            role.ButtonText: t.text,
            role.BrightText: t.negative,
            role.ToolTipBase: t.surface_raised,
            role.ToolTipText: t.text,
            role.PlaceholderText: t.text_muted,
            role.Highlight: t.accent,
            role.HighlightedText: t.accent_text,
            role.Accent: t.accent,
            role.Link: t.accent,
            role.LinkVisited: t.accent,
        }.items():
            palette.setColor(where, QColor(colour))
        muted = QColor(t.text_muted)
        for where in (role.WindowText, role.Text, role.ButtonText):
            palette.setColor(QPalette.ColorGroup.Disabled, where, muted)
        return palette

    # --- inside ---

    def _follow_system(self, _scheme: Qt.ColorScheme) -> None:
        self._refresh()

    def _refresh(self, *, force: bool = False) -> None:
        if self._appearance == "system":
            dark = QGuiApplication.styleHints().colorScheme() == Qt.ColorScheme.Dark
        else:
            dark = self._appearance == "dark"
        if dark == self._is_dark and not force:
            return
        self._is_dark = dark
        self._tokens = self._build_tokens()
        self._icons.clear()
        self._dress()
        self.changed.emit()

    def _dress(self) -> None:
        if self._app is not None:
            self._app.setPalette(self.palette())
            self._app.setFont(self.font())
            self._app.setStyleSheet(self.stylesheet())

    def _build_tokens(self) -> Tokens:
        base = max(self._system_font.pointSizeF(), READABLE_POINTS) * self._font_scale
        return replace(
            DARK if self._is_dark else LIGHT,
            font_small=round(base * 0.9, 1),
            font_body=round(base, 1),
            font_large=round(base * 1.15, 1),
            font_title=round(base * 1.35, 1),
            font_display=round(base * 1.7, 1),
        )


def _render(renderer: QSvgRenderer, size: int, opacity: float = 1.0) -> QPixmap:
    pixmap = QPixmap(QSize(size, size))
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setOpacity(opacity)
    renderer.render(painter, QRectF(pixmap.rect()))
    painter.end()
    return pixmap


def _draw_icon(name: str, colour: str) -> QIcon:
    path = resources() / "icons" / f"{name}.svg"
    svg = path.read_text(encoding="utf-8").replace("currentColor", colour)
    renderer = QSvgRenderer(QByteArray(svg.encode("utf-8")))
    icon = QIcon()
    for mode, opacity in ((QIcon.Mode.Normal, 1.0), (QIcon.Mode.Disabled, _DISABLED_OPACITY)):
        for size, ratio in product(_ICON_SIZES, _ICON_RATIOS):
            pixmap = _render(renderer, size * ratio, opacity)
            pixmap.setDevicePixelRatio(ratio)
            icon.addPixmap(pixmap, mode)
    return icon
