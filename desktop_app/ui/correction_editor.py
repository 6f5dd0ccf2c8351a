"""A small editor inside a message: a correction of a completion, or the person's own text again.

It knows no service: whoever opens it says what stands above it and takes the text.
"""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtGui import QKeyEvent, QTextCursor
from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout, QWidget

from desktop_app.ui.controls import Button, TextLabel, WritingField

_FEWEST_LINES: Final = 2
_MOST_LINES: Final = 14
_SPACE: Final = 36
"""Frame, padding and what rounding of the line height takes away."""


class _Field(WritingField):
    """Ctrl+Enter submits, Escape leaves."""

    escaped = Signal()

    def event(self, event: QEvent) -> bool:
        """Escape belongs to the field while it has the focus, not to the window."""
        is_asked_for = event.type() == QEvent.Type.ShortcutOverride
        if is_asked_for and isinstance(event, QKeyEvent) and event.key() == Qt.Key.Key_Escape:
            event.accept()
            return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        is_enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
        if is_enter and event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self.submit()
        elif event.key() == Qt.Key.Key_Escape:
            self.escaped.emit()
        else:
            super().keyPressEvent(event)


class CorrectionEditor(QFrame):
    """A question, a text to change, Save and Cancel.

    Signals:
        saved(text): the person is done.
        cancelled: the person left it.
        height_changed: the text has more or fewer lines.
        changed: the text is another.
    """

    saved = Signal(str)
    cancelled = Signal()
    height_changed = Signal()
    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._is_allowed = True
        self.setProperty("kind", "card")
        self._question = TextLabel("strong")
        self._hint = TextLabel("small")
        self._field = _Field()
        self._field.setProperty("kind", "reading")
        self._field.setTabChangesFocus(True)
        self._save = Button("primary")
        self._cancel = Button("quiet")
        buttons = QHBoxLayout()
        buttons.addWidget(self._hint, 1)
        buttons.addWidget(self._cancel)
        buttons.addWidget(self._save)
        self.setFocusProxy(self._field)
        column = QVBoxLayout(self)
        column.setContentsMargins(14, 12, 14, 12)
        column.addWidget(self._question)
        column.addWidget(self._field)
        column.addLayout(buttons)
        self._save.clicked.connect(self._field.submit)
        self._cancel.clicked.connect(self.cancelled)
        self._field.submitted.connect(self._submit)
        self._field.escaped.connect(self.cancelled)
        self._field.textChanged.connect(self._on_text_changed)
        self._field.composition_changed.connect(self._update_save)
        self._retranslate()

    def open(self, question: str, text: str, save: str) -> None:
        """Show a text to be changed, with the cursor at its end."""
        self._question.setText(question)
        self._field.setAccessibleName(question)
        self._save.setText(save)
        self._field.setPlainText(text)
        self._field.moveCursor(QTextCursor.MoveOperation.End)
        self.show()

    def rename(self, question: str, save: str) -> None:
        """The same in another language."""
        self._question.setText(question)
        self._field.setAccessibleName(question)
        self._save.setText(save)

    def allow_saving(self, is_allowed: bool) -> None:
        """While it is not, the text can be changed, and it stays."""
        self._is_allowed = is_allowed
        self._update_save()

    def text(self) -> str:
        return self._field.toPlainText()

    def set_text(self, text: str) -> None:
        self._field.setPlainText(text)

    def arrange(self, width: int) -> int:
        """Take this width; returns the height for the text that is in it."""
        self.setFixedWidth(width)
        lines = 0
        block = self._field.document().begin()
        while block.isValid() and lines < _MOST_LINES:
            lines += max(1, block.lineCount())
            block = block.next()
        lines = max(_FEWEST_LINES, min(lines, _MOST_LINES))
        self._field.setFixedHeight(lines * self._field.fontMetrics().lineSpacing() + _SPACE)
        box = self.layout()
        assert box is not None
        box.activate()
        height = box.totalHeightForWidth(width) if box.hasHeightForWidth() else -1
        height = max(height, box.totalSizeHint().height())
        self.setFixedHeight(height)
        return height

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()

    def _submit(self) -> None:
        text = self._field.toPlainText().strip()
        if text and self._is_allowed:
            self.saved.emit(text)

    def _on_text_changed(self) -> None:
        self._update_save()
        self.changed.emit()
        if self.isVisible():
            self.height_changed.emit()

    def _update_save(self) -> None:
        self._save.setEnabled(self._is_allowed and self._field.has_words)

    def _retranslate(self) -> None:
        self._cancel.setText(self.tr("Cancel"))
        self._hint.setText(self.tr("Ctrl+Enter saves, Esc cancels"))
