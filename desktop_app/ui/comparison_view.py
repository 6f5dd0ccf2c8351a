"""Two completions of one prompt side by side, and the choice between them.

Blind: nothing tells which is which, and the order was drawn by lot (``PendingComparison``).
Both are written at once; a choice is possible when both are complete.
"""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QEvent, QRectF, Qt
from PySide6.QtGui import QColor, QKeyEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QApplication, QLineEdit, QWidget

from desktop_app.services.chat_service import ChatService, PendingComparison
from desktop_app.services.feedback_service import FeedbackService
from desktop_app.ui.composer import ComposerText
from desktop_app.ui.controls import Button, TextLabel, WritingField
from desktop_app.ui.message_actions import WritingIndicator, action_row
from desktop_app.ui.message_view import MessageView
from desktop_app.ui.theme import Theme
from desktop_app.ui.virtual_list import RowWidget

LETTERS: Final = "ABCD"
NARROWEST_COLUMN: Final = 300
PADDING: Final = 16
GAP: Final = 16
_LEAST_BUTTON_HEIGHT: Final = 36


class _Side(QWidget):
    """One completion: its letter, its text, its button."""

    def __init__(self, theme: Theme, letter: str, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme
        self.letter = letter
        self._title = TextLabel("strong", wrap=False)
        self._title.setParent(self)
        self.view = MessageView(theme, self)
        self.indicator = WritingIndicator(theme, self)
        self.choose = Button("plain")
        self.choose.setParent(self)
        theme.changed.connect(self.update)

    def natural_height(self, width: int) -> int:
        """Lay the text out; returns the height that all of it needs."""
        inner = width - 2 * PADDING
        line = self._title.sizeHint().height()
        self._title.setGeometry(PADDING, PADDING - 4, inner, line)
        top = PADDING + line + 2
        self.view.fit(inner)
        self.view.move(PADDING, top)
        return top + max(self.view.height(), line) + 12 + _height_of(self.choose) + PADDING

    def place(self, x: int, y: int, width: int, height: int) -> None:
        """Stand here; the button is at the bottom."""
        self.setGeometry(x, y, width, height)
        foot = _height_of(self.choose)
        for widget in (self.choose, self.indicator):
            widget.setGeometry(PADDING, height - PADDING - foot, width - 2 * PADDING, foot)

    def set_ready(self, is_ready: bool, is_written: bool) -> None:
        self.choose.setVisible(is_written)
        self.choose.setEnabled(is_ready)
        self.indicator.setVisible(not is_written)

    def paintEvent(self, event: QPaintEvent) -> None:
        tokens = self._theme.tokens
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QColor(tokens.border))
        painter.setBrush(QColor(tokens.surface_raised))
        rect = QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5)
        painter.drawRoundedRect(rect, tokens.radius, tokens.radius)

    def rename(self, title: str, choose: str, description: str) -> None:
        self._title.setText(title)
        self.view.setAccessibleName(title)
        self.choose.setText(choose)
        self.choose.setAccessibleName(description)


class ComparisonView(RowWidget):
    """Stands where the completion will stand that is chosen."""

    is_wide = True

    def __init__(
        self,
        chat: ChatService,
        feedback: FeedbackService,
        theme: Theme,
        pending: PendingComparison,
    ) -> None:
        super().__init__()
        self._chat = chat
        self._feedback = feedback
        self._pending = pending
        self._is_ready = False
        self._taken_from: ComposerText | None = None
        self._question = TextLabel("strong")
        self._question.setParent(self)
        self._hint = TextLabel("small")
        self._hint.setParent(self)
        self.sides = [_Side(theme, letter, self) for letter in LETTERS[: len(pending.message_ids)]]
        self._row, row = action_row(self, spacing=8)
        self.both_good = Button("plain")
        self.both_bad = Button("plain")
        self.skip = Button("quiet")
        row.addStretch(1)
        for button in (self.both_good, self.both_bad, self.skip):
            row.addWidget(button)
        row.addStretch(1)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        for side in self.sides:
            side.view.height_changed.connect(self.height_changed)
        for side, chooser in zip(
            self.sides, (self._choose_first, self._choose_second), strict=False
        ):
            side.choose.clicked.connect(chooser)
        self.both_good.clicked.connect(self._call_both_good)
        self.both_bad.clicked.connect(self._call_both_bad)
        self.skip.clicked.connect(self._skip)
        for message_id in pending.message_ids:
            self.refresh(message_id)
        self._retranslate()
        self._enable()

    @property
    def pending(self) -> PendingComparison:
        return self._pending

    @property
    def is_pinned(self) -> bool:
        return True

    def side(self, message_id: str) -> _Side:
        return self.sides[self._pending.message_ids.index(message_id)]

    def append_text(self, message_id: str, text: str) -> None:
        """More of one side."""
        side = self.side(message_id)
        side.view.append_text(text)
        side.indicator.set_progress(1, 1)

    def set_progress(self, done: int, total: int) -> None:
        """How much of the prompt has been read."""
        for side in self.sides:
            if not side.view.raw:
                side.indicator.set_progress(done, total)

    def refresh(self, message_id: str) -> None:
        """The text of one side as it is now."""
        message = self._chat.message(message_id)
        view = self.side(message_id).view
        is_complete = message.state != "partial"
        if view.raw != message.content:
            view.set_markdown(message.content, is_complete=is_complete)
        elif is_complete:
            view.finish()
        self._enable()

    def set_ready(self) -> None:
        """Both are complete: take the keys, unless the person is writing something."""
        self._is_ready = True
        for message_id in self._pending.message_ids:
            self.refresh(message_id)
        focused = QApplication.focusWidget()
        if not is_writing(focused) and self.window().isActiveWindow():
            self._taken_from = focused if isinstance(focused, ComposerText) else None
            self.setFocus()
        self.update()

    def arrange(self, width: int) -> int:
        top = 0
        for label in (self._question, self._hint):
            height = label.heightForWidth(width)
            label.setGeometry(0, top, width, height)
            top += height + 2
        top += 10
        is_narrow = width < 2 * NARROWEST_COLUMN + GAP
        count = 1 if is_narrow else len(self.sides)
        column = (width - GAP * (count - 1)) // count
        heights = [side.natural_height(column) for side in self.sides]
        if is_narrow:
            for side, height in zip(self.sides, heights, strict=True):
                side.place(0, top, column, height)
                top += height + GAP
        else:
            for index, side in enumerate(self.sides):
                side.place(index * (column + GAP), top, column, max(heights))
            top += max(heights) + GAP
        foot = _height_of(self._row)
        self._row.setGeometry(0, top, width, foot)
        return top + foot + 4

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if not self._is_ready:
            event.ignore()
            return
        match event.text():
            case "1":
                self._choose_first()
            case "2":
                self._choose_second()
            case "=":
                self._call_both_good()
            case "0":
                self._call_both_bad()
            case _:
                event.ignore()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()

    def _choose_first(self) -> None:
        self._choose(0)

    def _choose_second(self) -> None:
        self._choose(1)

    def _choose(self, index: int) -> None:
        ids = self._pending.message_ids
        self._feedback.compare(ids, ids[index], "ordered")
        self._go_on_with(ids[index])

    def _call_both_good(self) -> None:
        self._feedback.compare(self._pending.message_ids, None, "all_good")
        self._skip()

    def _call_both_bad(self) -> None:
        self._feedback.compare(self._pending.message_ids, None, "all_bad")
        self._skip()

    def _skip(self) -> None:
        """No judgement, or no difference: go on with the one shown first."""
        self._go_on_with(self._pending.message_ids[0])

    def _go_on_with(self, message_id: str) -> None:
        focused = self.window().focusWidget()
        is_here = focused is not None and (focused is self or self.isAncestorOf(focused))
        if is_here and self._taken_from is not None:
            self._taken_from.setFocus()  # before this row goes and the list takes it
        self._chat.choose(message_id)

    def _enable(self) -> None:
        for message_id, side in zip(self._pending.message_ids, self.sides, strict=True):
            is_written = self._chat.message(message_id).state != "partial"
            side.set_ready(self._is_ready, is_written)
        for button in (self.both_good, self.both_bad, self.skip):
            button.setEnabled(self._is_ready)

    def _retranslate(self) -> None:
        self.setAccessibleName(self.tr("Comparison of two messages"))
        self._question.setText(self.tr("Which one do you like better?"))
        self._hint.setText(self.tr("The order is random. Keys: 1, 2, = both good, 0 both bad."))
        for number, side in enumerate(self.sides, start=1):
            side.rename(
                side.letter,
                self.tr("{0} is better ({1})").format(side.letter, number),
                self.tr("{0} is better").format(side.letter),
            )
        self.both_good.setText(self.tr("Both good (=)"))
        self.both_bad.setText(self.tr("Both bad (0)"))
        self.skip.setText(self.tr("Skip"))
        self.skip.setToolTip(self.tr("Go on without a choice"))


def is_writing(focused: QWidget | None) -> bool:
    """Whether the person has begun to write in what has the focus, which is left to them then."""
    if isinstance(focused, WritingField):
        return focused.has_words
    return isinstance(focused, QLineEdit) and bool(focused.text())


def _height_of(widget: QWidget) -> int:
    """Of a button or a row of them: words may be large."""
    return max(_LEAST_BUTTON_HEIGHT, widget.sizeHint().height())
