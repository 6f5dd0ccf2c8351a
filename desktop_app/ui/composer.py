"""Where the person writes: a field that grows, Send or Stop, and "Compare two".

Enter sends, Shift+Enter starts a line. Text is only taken away after it has been sent, and
is kept for each conversation while another one is shown.
"""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QEvent, QMimeData, QSize, Qt, Signal
from PySide6.QtGui import QFocusEvent, QFontMetricsF, QKeyEvent, QKeySequence, QTextOption
from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout, QWidget

from desktop_app.ui.controls import IconButton, WritingField, restyle
from desktop_app.ui.theme import SEND_PADDING, Theme

MOST_LINES: Final = 8
_SEND_KEYS: Final = (Qt.Key.Key_Return, Qt.Key.Key_Enter)


class ComposerText(WritingField):
    """A plain text field as high as its text, up to eight lines; Enter submits.

    Signals:
        focus_changed(bool).
    """

    focus_changed = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("composerText")
        self.setTabChangesFocus(True)
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.document().setDocumentMargin(4)
        self.document().documentLayout().documentSizeChanged.connect(self._fit)
        self._fit()

    def event(self, event: QEvent) -> bool:
        """With nothing to undo here, the key belongs to the window: it takes feedback back."""
        if (
            event.type() == QEvent.Type.ShortcutOverride
            and isinstance(event, QKeyEvent)
            and event.matches(QKeySequence.StandardKey.Undo)
            and not self.document().isUndoAvailable()
        ):
            event.ignore()
            return False
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        shift = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        if event.key() not in _SEND_KEYS or shift:
            super().keyPressEvent(event)
            return
        event.accept()
        self.submit()

    def insertFromMimeData(self, source: QMimeData) -> None:
        self.insertPlainText(source.text())
        self.ensureCursorVisible()

    def canInsertFromMimeData(self, source: QMimeData) -> bool:
        return source.hasText()

    def focusInEvent(self, event: QFocusEvent) -> None:
        super().focusInEvent(event)
        self.focus_changed.emit(True)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        self.focus_changed.emit(False)

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.FontChange:
            self._fit()

    def _fit(self) -> None:
        line = QFontMetricsF(self.font()).lineSpacing()
        lines = min(MOST_LINES, max(1, int(self.document().size().height())))
        self.setFixedHeight(int(lines * line + 2 * self.document().documentMargin() + 2))
        too_long = self.document().size().height() > MOST_LINES
        self.setVerticalScrollBarPolicy(
            Qt.ScrollBarPolicy.ScrollBarAsNeeded
            if too_long
            else Qt.ScrollBarPolicy.ScrollBarAlwaysOff
        )


class Composer(QWidget):
    """The field with its buttons.

    Signals:
        submitted(text, compare): send this. Whoever sends it calls ``clear`` when it is safe.
        stop_requested.
    """

    submitted = Signal(str, bool)
    stop_requested = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._is_busy = False
        self._is_ready = True
        self._conversation = ""
        self._drafts: dict[str, str] = {}
        self._box = QFrame()
        self._box.setObjectName("composerBox")
        self.field = ComposerText()
        self.compare = IconButton(theme, "columns")
        self.compare.setCheckable(True)
        self.compare.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.send = IconButton(theme, "send", colour="accent_text")
        self.send.setObjectName("send")

        buttons = QHBoxLayout()
        buttons.setSpacing(8)
        buttons.addWidget(self.compare)
        buttons.addStretch(1)
        buttons.addWidget(self.send)
        column = QVBoxLayout(self._box)
        column.setContentsMargins(12, 8, 8, 8)
        column.setSpacing(4)
        column.addWidget(self.field)
        column.addLayout(buttons)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self._box)

        self.setFocusProxy(self.field)
        self.field.submitted.connect(self._submit)
        self.field.focus_changed.connect(self._show_focus)
        self.field.textChanged.connect(self._update_send)
        self.field.composition_changed.connect(self._update_send)
        self.compare.toggled.connect(self._retranslate)
        self.send.clicked.connect(self._send_or_stop)
        theme.changed.connect(self._fit_send)
        self._fit_send()
        self._retranslate()
        self._update_send()

    def text(self) -> str:
        return self.field.toPlainText()

    def set_text(self, text: str) -> None:
        self.field.setPlainText(text)
        cursor = self.field.textCursor()
        cursor.movePosition(cursor.MoveOperation.End)
        self.field.setTextCursor(cursor)

    def take_suggestion(self, text: str) -> None:
        """Send it where that is possible now; what the person had begun stays, before it."""
        begun = self.text().rstrip()
        self.set_text(f"{begun}\n{text}" if begun else text)
        self.setFocus()
        if not begun:
            self._submit()

    def clear(self) -> None:
        """The text has been sent."""
        self.field.clear()
        self._drafts.pop(self._conversation, None)

    def show_conversation(self, conversation_id: str) -> None:
        """Put the text aside and show what was begun in another conversation."""
        if conversation_id == self._conversation:
            return
        self.field.commit_composition()
        self._keep_draft()
        self._conversation = conversation_id
        self.set_text(self._drafts.get(conversation_id, ""))

    def drafts(self) -> dict[str, str]:
        """What was begun and not sent, by conversation."""
        self._keep_draft()
        return dict(self._drafts)

    def restore_drafts(self, drafts: dict[str, str]) -> None:
        self._drafts = dict(drafts)
        if not self.text():
            self.set_text(self._drafts.get(self._conversation, ""))

    def set_busy(self, busy: bool) -> None:
        """A completion is being written: Stop instead of Send; typing goes on."""
        self._is_busy = busy
        self._retranslate()
        self._update_send()

    def set_ready(self, ready: bool) -> None:
        """Whether there is a model to send to."""
        self._is_ready = ready
        self._update_send()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _submit(self) -> None:
        if self._can_send():
            self.submitted.emit(self.text().strip(), self.compare.isChecked())

    def _send_or_stop(self) -> None:
        if self._is_busy:
            self.stop_requested.emit()
        else:
            self.field.submit()

    def _can_send(self) -> bool:
        return self._is_ready and not self._is_busy and self.field.has_words

    def _fit_send(self) -> None:
        self.send.setFixedSize(self._theme.icon_size + QSize(SEND_PADDING, SEND_PADDING))

    def _update_send(self) -> None:
        can_press = self._is_busy or self._can_send()
        self.send.setEnabled(can_press)
        self.send.set_icon(
            "stop" if self._is_busy else "send", "accent_text" if can_press else "text_muted"
        )

    def _keep_draft(self) -> None:
        if self.text().strip():
            self._drafts[self._conversation] = self.text()
        else:
            self._drafts.pop(self._conversation, None)

    def _show_focus(self, focused: bool) -> None:
        self._box.setProperty("active", focused)
        restyle(self._box)

    def _retranslate(self) -> None:
        self.field.setAccessibleName(self.tr("Your message"))
        self.field.setPlaceholderText(self.tr("Write a message"))
        self.compare.setText(self.tr("Compare two"))
        self.compare.setAccessibleName(self.tr("Compare two"))
        self.compare.setToolTip(
            self.tr("Ask for two answers and choose the better one. It teaches your model most.")
        )
        if self._is_busy:
            self.send.set_name(self.tr("Stop"), "Esc")
        else:
            self.send.set_name(self.tr("Send"), self.tr("Enter"))
