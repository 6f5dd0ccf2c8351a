"""The line above a conversation: its title, the model's state, the context, the privacy badge."""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QEvent, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QMenu, QVBoxLayout, QWidget

from desktop_app.services.engine_service import EngineState
from desktop_app.ui.controls import Button, ElidedLabel, IconButton, TextLabel, restyle
from desktop_app.ui.theme import Theme

ROOM_FOR_WORDS: Final = (620, 480, 380)
"""Narrower than these, the words of the badge, of the panel's button, and the badge go."""
NEARLY_FULL: Final = 0.85


class ContextMeter(QWidget):
    """How much of what the model can see at once is used."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._used = self._total = self._dropped = 0
        theme.changed.connect(self._fit)
        self._fit()
        self.set_context(0, 0, 0)

    def set_context(self, used: int, total: int, dropped: int) -> None:
        """Tokens of the last prompt, room for tokens, messages that did not fit."""
        self._used, self._total, self._dropped = used, total, dropped
        self.setVisible(total > 0)
        self._retranslate()
        self.update()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        tokens = self._theme.tokens
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(self._theme.font(tokens.font_small))
        painter.setPen(QColor(tokens.warning if self._dropped else tokens.text_muted))
        text = f"{_short(self._used)} / {_short(self._total)}"
        painter.drawText(
            self.rect().adjusted(0, 0, 0, -6),
            Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter,
            text,
        )
        bar = QRectF(0, self.height() - 5, self.width(), 4)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(tokens.surface_sunken))
        painter.drawRoundedRect(bar, 2, 2)
        share = min(1.0, self._used / self._total) if self._total else 0.0
        is_full = self._dropped > 0 or share > NEARLY_FULL
        painter.setBrush(QColor(tokens.warning if is_full else tokens.accent))
        bar.setWidth(bar.width() * share)
        if share > 0:
            painter.drawRoundedRect(bar, 2, 2)

    def _fit(self) -> None:
        metrics = QFontMetrics(self._theme.font(self._theme.tokens.font_small))
        self.setFixedSize(metrics.horizontalAdvance("88.8k / 88.8k"), metrics.height() + 9)
        self.update()

    def _retranslate(self) -> None:
        text = self.tr("The model sees {0} of at most {1} tokens of this conversation.").format(
            f"{self._used:,}", f"{self._total:,}"
        )
        if self._dropped:
            text += " " + self.tr("%n earlier message(s) no longer fit.", "", self._dropped)
        self.setToolTip(text)
        self.setAccessibleName(self.tr("Context"))
        self.setAccessibleDescription(text)


class PrivacyBadge(QWidget):
    """ "On this computer only": no word leaves the machine."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._icon = QLabel()
        self.words = TextLabel("small", wrap=False)
        row = QHBoxLayout(self)
        row.setContentsMargins(8, 2, 8, 2)
        row.setSpacing(4)
        row.addWidget(self._icon)
        row.addWidget(self.words)
        theme.changed.connect(self._redraw)
        self._redraw()
        self._retranslate()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(self._theme.tokens.surface_sunken))
        painter.drawRoundedRect(self.rect(), self.height() / 2, self.height() / 2)

    def _redraw(self) -> None:
        icon = self._theme.icon("lock", self._theme.tokens.text_muted)
        size = self._theme.icon_size * 0.8
        self._icon.setPixmap(icon.pixmap(size, self.devicePixelRatio()))

    def _retranslate(self) -> None:
        text = self.tr("On this computer only")
        self.words.setText(text)
        self.setAccessibleName(text)
        self.setToolTip(
            self.tr("Conversations, feedback and training stay here. Nothing is sent anywhere.")
        )


class ModelStatus(QWidget):
    """A dot and a few words about the model; a button where it has to be restarted.

    Signals:
        restart_requested.
    """

    restart_requested = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._state = EngineState("starting")
        self._version = ""
        self._is_narrow = False
        self._words = ElidedLabel("small")
        self.restart = Button("quiet")
        self.restart.hide()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self._words, 1)
        row.addWidget(self.restart)
        self.restart.clicked.connect(self.restart_requested)
        self._retranslate()

    def set_state(self, state: EngineState) -> None:
        self._state = state
        self._retranslate()

    def set_narrow(self, narrow: bool) -> None:
        """No room for the button; the notice has one, too."""
        self._is_narrow = narrow
        self.restart.setVisible(self._state.status == "failed" and not narrow)

    def set_version(self, name: str) -> None:
        """The name of the active model version."""
        self._version = name
        self._retranslate()

    def text(self) -> str:
        return self._words.text()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _retranslate(self) -> None:
        name = self._version or self._state.model_name
        tone = ""
        if self._state.status == "ready":
            words = self.tr("{0} · ready").format(name) if name else self.tr("Ready")
        elif self._state.status == "failed":
            words, tone = self.tr("The model is not running"), "negative"
        elif self._state.fraction > 0:
            words = self.tr("Loading the model… {0} %").format(round(self._state.fraction * 100))
        else:
            words = self.tr("Loading the model…")
        self._words.setText(words)
        self._words.setProperty("tone", tone)
        restyle(self._words)
        self.restart.setText(self.tr("Restart model"))
        self.set_narrow(self._is_narrow)


class Header(QFrame):
    """Title and state on the left, context, privacy and the panel's button on the right.

    Signals:
        sidebar_toggled, panel_toggled, rename_requested, delete_requested.
    """

    sidebar_toggled = Signal()
    panel_toggled = Signal()
    rename_requested = Signal()
    delete_requested = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("header")
        self._theme = theme
        self._title_text = ""
        self.sidebar_button = IconButton(theme, "sidebar")
        self.title = ElidedLabel("heading")
        self.status = ModelStatus()
        self.more = IconButton(theme, "more")
        self.meter = ContextMeter(theme)
        self.badge = PrivacyBadge(theme)
        self.panel_button = IconButton(theme, "learn")
        self.panel_button.setCheckable(True)
        self.panel_button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        menu = QMenu(self)
        self._rename = menu.addAction("")
        self._delete = menu.addAction("")
        self.more.setMenu(menu)
        self.more.setPopupMode(IconButton.ToolButtonPopupMode.InstantPopup)

        texts = QVBoxLayout()
        texts.setSpacing(0)
        texts.addWidget(self.title)
        texts.addWidget(self.status)
        row = QHBoxLayout(self)
        row.setContentsMargins(12, 8, 12, 8)
        row.setSpacing(8)
        row.addWidget(self.sidebar_button)
        row.addLayout(texts, 1)
        row.addWidget(self.more)
        row.addWidget(self.meter, 0, Qt.AlignmentFlag.AlignVCenter)
        row.addWidget(self.badge, 0, Qt.AlignmentFlag.AlignVCenter)
        row.addWidget(self.panel_button)

        self.sidebar_button.clicked.connect(self.sidebar_toggled)
        self.panel_button.clicked.connect(self.panel_toggled)
        self._rename.triggered.connect(self.rename_requested)
        self._delete.triggered.connect(self.delete_requested)
        theme.changed.connect(self._make_room)
        self._retranslate()

    def set_title(self, title: str) -> None:
        self._title_text = title
        self.title.setText(title or self.tr("New conversation"))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._make_room()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _make_room(self) -> None:
        badge_words, button_words, badge = (
            self.width() >= width * self._theme.font_scale for width in ROOM_FOR_WORDS
        )
        self.badge.words.setVisible(badge_words)
        self.badge.setVisible(badge)
        style = Qt.ToolButtonStyle
        self.panel_button.setToolButtonStyle(
            style.ToolButtonTextBesideIcon if button_words else style.ToolButtonIconOnly
        )
        self.status.set_narrow(not button_words)

    def _retranslate(self) -> None:
        self.set_title(self._title_text)
        self.sidebar_button.set_name(self.tr("Show or hide the conversations"), "Ctrl+B")
        self.more.set_name(self.tr("More about this conversation"))
        self._rename.setText(self.tr("Rename"))
        self._delete.setText(self.tr("Delete"))
        self.panel_button.setText(self.tr("Learning"))
        self.panel_button.set_name(self.tr("Show or hide the learning panel"), "Ctrl+L")


def _short(number: int) -> str:
    return f"{number / 1000:.1f}k" if number >= 1000 else str(number)
