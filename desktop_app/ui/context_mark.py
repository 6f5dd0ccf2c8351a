"""The line in a conversation above which the model sees nothing, or only a summary."""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QEvent, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen

from desktop_app.services.conversation_context import ContextMark
from desktop_app.ui.controls import TextLabel
from desktop_app.ui.theme import Theme
from desktop_app.ui.virtual_list import OUTSET, RowWidget

_SPACE: Final = 8
_BESIDE: Final = 12


class ContextMarkRow(RowWidget):
    """A sentence on a dashed line, and below it the summary."""

    def __init__(self, theme: Theme, mark: ContextMark) -> None:
        super().__init__()
        self._theme = theme
        self._mark = mark
        self.sentence = TextLabel("small", wrap=True, parent=self)
        self.sentence.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.summary = TextLabel("muted", wrap=True, parent=self)
        self.summary.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        theme.changed.connect(self.update)
        self.show_mark(mark)

    def show_mark(self, mark: ContextMark) -> None:
        """Another number of messages, or another summary."""
        self._mark = mark
        self.summary.setText(mark.summary)
        self.summary.setVisible(bool(mark.summary))
        self._retranslate()

    def arrange(self, width: int) -> int:
        content = width - 2 * OUTSET
        widest = int(content * 0.8)
        taken = min(widest, self.sentence.fontMetrics().horizontalAdvance(self.sentence.text()) + 4)
        height = self.sentence.heightForWidth(taken)
        self.sentence.setGeometry(OUTSET + (content - taken) // 2, 0, taken, height)
        if self._mark.summary:
            top = height + _SPACE
            height = top + self.summary.heightForWidth(content)
            self.summary.setGeometry(OUTSET, top, content, height - top)
        self.update()
        return height

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setPen(QPen(QColor(self._theme.tokens.border), 1, Qt.PenStyle.DashLine))
        middle = self.sentence.geometry().center().y()
        left, right = self.sentence.geometry().left(), self.sentence.geometry().right()
        painter.drawLine(OUTSET, middle, left - _BESIDE, middle)
        painter.drawLine(right + _BESIDE, middle, self.width() - OUTSET, middle)

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
            self.height_changed.emit()

    def _retranslate(self) -> None:
        count = self._mark.unseen
        if self._mark.summary:
            text = self.tr("The model reads this summary of the messages above:")
        else:
            text = self.tr("The model no longer sees the %n message(s) above.", "", count)
        self.sentence.setText(text)
        self.setAccessibleName(f"{text} {self._mark.summary}".strip())
