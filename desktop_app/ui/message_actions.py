"""Small things under a message: the row of buttons, the way to its siblings, the three dots
while it is written."""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QEvent, QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QHideEvent, QPainter, QPaintEvent, QShowEvent
from PySide6.QtWidgets import QHBoxLayout, QWidget

from desktop_app.ui.controls import IconButton, TextLabel
from desktop_app.ui.theme import Theme

ROW_HEIGHT: Final = 30
_SMALL_ICON: Final = 16
_BEAT_MS: Final = 400


class SiblingSwitch(QWidget):
    """``‹ 2/3 ›``: the way to the other versions of a message.

    Signals:
        stepped(int): to the previous (-1) or the next (+1) one.
    """

    stepped = Signal(int)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._previous = small_icon_button(theme, "chevron_left")
        self._place = TextLabel("small", wrap=False)
        self._next = small_icon_button(theme, "chevron_right")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(0)
        for widget in (self._previous, self._place, self._next):
            row.addWidget(widget)
        self._previous.clicked.connect(self._step_back)
        self._next.clicked.connect(self._step_on)
        self._retranslate()

    def show_place(self, index: int, count: int, *, is_enabled: bool) -> None:
        """``index`` counts from 0. Hidden where there is nothing to switch to."""
        self.setVisible(count > 1)
        self._place.setText(f"{index + 1}/{count}")
        self._place.setAccessibleName(self.tr("Version {0} of {1}").format(index + 1, count))
        self._previous.setEnabled(is_enabled and index > 0)
        self._next.setEnabled(is_enabled and index < count - 1)

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()

    def _step_back(self) -> None:
        self.stepped.emit(-1)

    def _step_on(self) -> None:
        self.stepped.emit(1)

    def _retranslate(self) -> None:
        self._previous.set_name(self.tr("Previous version"))
        self._next.set_name(self.tr("Next version"))


class WritingIndicator(QWidget):
    """Three quiet dots and what is being done: reading the message, or writing."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._beat = 0
        self._percent = -1
        self._is_summarising = False
        self._label = TextLabel("small", wrap=False)
        row = QHBoxLayout(self)
        row.setContentsMargins(34, 0, 0, 0)
        row.addWidget(self._label)
        row.addStretch(1)
        self._timer = QTimer(self)
        self._timer.setInterval(_BEAT_MS)
        self._timer.timeout.connect(self._next_beat)
        theme.changed.connect(self.update)
        self._retranslate()

    def set_progress(self, done: int, total: int) -> None:
        """How much of the prompt has been read; all of it means writing."""
        self._percent = -1 if done >= total else 100 * done // total
        self._retranslate()

    def set_summarising(self, is_summarising: bool) -> None:
        """Older messages are being summarised before the answer is written."""
        self._is_summarising = is_summarising
        self._retranslate()

    def sizeHint(self) -> QSize:
        return QSize(200, max(ROW_HEIGHT, self._label.sizeHint().height()))

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._timer.start()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._timer.stop()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        colour = QColor(self._theme.tokens.accent)
        for index in range(3):
            colour.setAlphaF(1.0 if index == self._beat else 0.3)
            painter.setBrush(colour)
            painter.drawEllipse(QRectF(2 + index * 9, self.height() / 2 - 2.5, 5, 5))

    def _next_beat(self) -> None:
        self._beat = (self._beat + 1) % 3
        self.update()

    def _retranslate(self) -> None:
        if self._is_summarising:
            text = self.tr("Summarising earlier messages…")
        elif self._percent >= 0:
            text = self.tr("Reading your message… {0} %").format(self._percent)
        else:
            text = self.tr("Writing…")
        self._label.setText(text)
        self.setAccessibleName(text)


def action_row(parent: QWidget, spacing: int = 0) -> tuple[QWidget, QHBoxLayout]:
    """An empty row for buttons."""
    row = QWidget(parent)
    box = QHBoxLayout(row)
    box.setContentsMargins(0, 0, 0, 0)
    box.setSpacing(spacing)
    return row, box


def small_icon_button(theme: Theme, icon: str) -> IconButton:
    """A quiet button for below a message."""
    return IconButton(theme, icon, size=_SMALL_ICON)
