"""What a model thought before it answered, folded away above the answer.

One line says that it thinks, or for how long it did; a click, Space or Enter unfolds the text.
It is there to be read only: copying, rating and correcting a message are about the answer.
"""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QEvent, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QKeyEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from desktop_app.storage.chat_store import NO_REASONING, Reasoning
from desktop_app.ui.controls import Button
from desktop_app.ui.message_actions import ROW_HEIGHT
from desktop_app.ui.message_view import MessageView
from desktop_app.ui.theme import Theme

_BAR: Final = 2
_INDENT: Final = 14
_SPACE: Final = 4


class ReasoningView(QWidget):
    """A disclosure button and, while it is unfolded, the text under it.

    Attributes:
        button: unfolds and folds; checked while the text is shown.
        view: the text; None until it was unfolded once.

    Signals:
        height_changed: it was unfolded or folded, or the text has more lines.
    """

    height_changed = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._reasoning = NO_REASONING
        self._is_thinking = False
        self.view: MessageView | None = None
        self.button = _DisclosureButton("disclosure", parent=self)
        self.button.setCheckable(True)
        self.button.toggled.connect(self._unfold)
        theme.changed.connect(self._draw_icon)
        self._draw_icon()
        self._retranslate()

    @property
    def text(self) -> str:
        """All that was thought."""
        return self._reasoning.text

    def show_reasoning(self, reasoning: Reasoning, *, is_thinking: bool) -> None:
        """Another text, or the same one now that its time is known."""
        if self.view is not None and reasoning.text != self._reasoning.text:
            self.view.set_markdown(reasoning.text, is_complete=not is_thinking)
        elif self.view is not None and not is_thinking:
            self.view.finish()
        self._reasoning, self._is_thinking = reasoning, is_thinking
        self._retranslate()

    def append_text(self, text: str) -> None:
        """More of the thought."""
        self._reasoning = Reasoning(self._reasoning.text + text)
        if self.view is not None:
            self.view.append_text(text)
        if not self._is_thinking:
            self._is_thinking = True
            self._retranslate()

    def arrange(self, width: int) -> int:
        """Take this width; returns the height."""
        button_height = max(ROW_HEIGHT, self.button.sizeHint().height())
        self.button.setGeometry(0, 0, min(width, self.button.sizeHint().width()), button_height)
        height = button_height
        if self.view is not None:
            self.view.setVisible(self.button.isChecked())
            if self.button.isChecked():
                text_height = self.view.fit(width - _INDENT)
                self.view.move(_INDENT, button_height + _SPACE)
                height += text_height + 2 * _SPACE
        self.update()
        return height

    def paintEvent(self, event: QPaintEvent) -> None:
        if self.view is None or not self.button.isChecked():
            return
        painter = QPainter(self)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(self._theme.tokens.border))
        area = self.view.geometry()
        painter.drawRect(QRectF(0, area.top(), _BAR, area.height()))

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()

    def _unfold(self, is_unfolded: bool) -> None:
        if is_unfolded and self.view is None:
            self.view = MessageView(self._theme, self)
            self.view.setAccessibleName(self.tr("What the model thought"))
            self.view.height_changed.connect(self.height_changed)
            self.view.set_markdown(self._reasoning.text, is_complete=not self._is_thinking)
        self._draw_icon()
        self._retranslate()
        self.height_changed.emit()

    def _draw_icon(self) -> None:
        name = "chevron_down" if self.button.isChecked() else "chevron_right"
        self.button.setIcon(self._theme.icon(name, self._theme.tokens.text_muted))

    def _retranslate(self) -> None:
        seconds = round(self._reasoning.seconds)
        if self._is_thinking:
            text = self.tr("Thinking…")
        elif seconds < 1:
            text = self.tr("Thought for a moment")
        elif seconds < 60:
            text = self.tr("Thought for {0} s").format(seconds)
        else:
            text = self.tr("Thought for {0} min {1} s").format(seconds // 60, seconds % 60)
        self.button.setText(text)
        action = self.tr("Hide it") if self.button.isChecked() else self.tr("Show it")
        self.button.setAccessibleName(f"{text}. {action}")
        self.button.setToolTip(action)
        if self.view is not None:
            self.view.setAccessibleName(self.tr("What the model thought"))


class _DisclosureButton(Button):
    """Enter unfolds as Space does."""

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.toggle()
        else:
            super().keyPressEvent(event)
