"""A message with what one can do to it.

What the person wrote stands in a bubble and can be edited (as a sibling); a completion stands
plain on the page, with thumbs, copy, regenerate, compare, the way to its siblings, and the
correction that a thumb down offers. The text itself is left to ``message_view``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from PySide6.QtCore import QCoreApplication, QEvent, QRect, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from desktop_app.services.chat_service import ChatService
from desktop_app.services.feedback_service import FeedbackService
from desktop_app.storage.chat_store import StoredMessage
from desktop_app.ui.controls import Button, IconButton, TextLabel
from desktop_app.ui.correction_editor import CorrectionEditor
from desktop_app.ui.message_actions import (
    ROW_HEIGHT,
    SiblingSwitch,
    WritingIndicator,
    action_row,
    small_icon_button,
)
from desktop_app.ui.message_view import MessageView
from desktop_app.ui.reasoning_view import ReasoningView
from desktop_app.ui.theme import Theme
from desktop_app.ui.virtual_list import OUTSET, RowWidget

BUBBLE_PADDING: Final = 12
BUBBLE_SHARE: Final = 0.88
_SPACE: Final = 6


class UserCard(RowWidget):
    """What the person wrote.

    Signals:
        draft_changed: what stands in the editor, or whether there is one.
        sibling_wanted(message id, step): the previous (-1) or the next (+1) version.
    """

    draft_changed = Signal()
    sibling_wanted = Signal(str, int)

    def __init__(self, chat: ChatService, theme: Theme, message: StoredMessage) -> None:
        super().__init__()
        self._chat = chat
        self._theme = theme
        self._message = message
        self._is_unanswered = False
        self.view = MessageView(theme, self)
        self._actions, row = action_row(self)
        self._copy = small_icon_button(theme, "copy")
        self._edit = small_icon_button(theme, "pencil")
        self.siblings = SiblingSwitch(theme)
        self.answer = Button("plain")
        row.addStretch(1)
        for widget in (self.answer, self._copy, self._edit, self.siblings):
            row.addWidget(widget)
        self.editor: CorrectionEditor | None = None
        self._copy.clicked.connect(self.view.copy_all)
        self._edit.clicked.connect(self.begin_edit)
        self.siblings.stepped.connect(self._show_sibling)
        self.answer.clicked.connect(self._answer)
        theme.changed.connect(self.update)
        self.view.set_plain(message.content)
        self._retranslate()
        self.refresh(message, is_last=False)

    @property
    def is_pinned(self) -> bool:
        return self.editor is not None

    def refresh(self, message: StoredMessage, *, is_last: bool) -> None:
        """Its place among siblings, whether it waits for a completion, what is allowed now."""
        self._message = message
        is_free = not self._chat.is_busy
        self._is_unanswered = is_last and is_free
        self.answer.setVisible(self._is_unanswered)
        self._edit.setEnabled(is_free)
        if self.editor is not None:
            self.editor.allow_saving(is_free)
        self.siblings.show_place(message.sibling_index, message.sibling_count, is_enabled=is_free)

    def begin_edit(self) -> None:
        """Change the text in place; saving asks the turn again as a sibling."""
        if self.editor is None:
            self.open_editor(self._message.content).setFocus()
            self.height_changed.emit()

    @property
    def draft(self) -> str | None:
        """What stands in the editor where it is not what it was opened with."""
        if self.editor is None or self.editor.text() == self._message.content:
            return None
        return self.editor.text()

    def open_editor(self, text: str) -> CorrectionEditor:
        """Let the person go on with a changed text."""
        self.editor = editor = CorrectionEditor(self)
        editor.saved.connect(self._save_edit)
        editor.cancelled.connect(self._end_edit)
        editor.height_changed.connect(self.height_changed)
        editor.changed.connect(self.draft_changed)
        editor.open(self._question(), text, self.tr("Send again"))
        editor.allow_saving(not self._chat.is_busy)
        return editor

    def arrange(self, width: int) -> int:
        if self.editor is not None:
            self.view.hide()
            self._actions.hide()
            return _stack([self.editor], width)
        content = width - 2 * OUTSET
        self.view.fit(int(content * BUBBLE_SHARE) - 2 * BUBBLE_PADDING, shrink=True)
        right = width - OUTSET
        self.view.move(right - self.view.width() - BUBBLE_PADDING, BUBBLE_PADDING)
        self.view.show()
        top = self._bubble().bottom() + 4
        height = max(ROW_HEIGHT, self._actions.sizeHint().height())
        self._actions.setGeometry(0, top, width, height)
        self._actions.show()
        self.update()
        return top + height

    def _bubble(self) -> QRect:
        pad = BUBBLE_PADDING
        bubble = self.view.geometry().adjusted(-pad, -pad, pad, pad)
        # The distance between lines is also below the last one.
        bubble.setBottom(bubble.bottom() - int(self.view.fontMetrics().height() * 0.35))
        return bubble

    def paintEvent(self, event: QPaintEvent) -> None:
        if self.editor is not None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(self._theme.tokens.user_bubble))
        radius = self._theme.tokens.radius_large
        painter.drawRoundedRect(QRectF(self._bubble()), radius, radius)

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()

    def _save_edit(self, text: str) -> None:
        self._end_edit()
        if text != self._message.content.strip():
            try:
                self._chat.edit(self._message.id, text)
            except Exception:
                self.open_editor(text).setFocus()  # the words stay
                self.height_changed.emit()
                raise

    def _end_edit(self) -> None:
        if self.editor is not None:
            self.editor.hide()
            self.editor.deleteLater()
            self.editor = None
            self.height_changed.emit()
            self.draft_changed.emit()
            self._edit.setFocus()

    def _show_sibling(self, step: int) -> None:
        self.sibling_wanted.emit(self._message.id, step)

    def _answer(self) -> None:
        self._chat.answer_again(self._message.id)

    def _question(self) -> str:
        return self.tr("Change your message. The old one stays as another version.")

    def _retranslate(self) -> None:
        self.view.setAccessibleName(self.tr("Your message"))
        self._copy.set_name(self.tr("Copy"))
        self._edit.set_name(self.tr("Edit"))
        self.answer.setText(self.tr("Answer this"))
        if self.editor is not None:
            self.editor.rename(self._question(), self.tr("Send again"))


class CompletionCard(RowWidget):
    """What the model wrote, or is writing.

    Signals:
        draft_changed: what stands in the editor, or whether there is one.
        sibling_wanted(message id, step): the previous (-1) or the next (+1) version.
    """

    draft_changed = Signal()
    sibling_wanted = Signal(str, int)

    def __init__(
        self, chat: ChatService, feedback: FeedbackService, theme: Theme, message: StoredMessage
    ) -> None:
        super().__init__()
        self._chat = chat
        self._feedback = feedback
        self._message = message
        self.reasoning = ReasoningView(theme, self)
        self.view = MessageView(theme, self)
        self.indicator = WritingIndicator(theme, self)
        self._note, note_row = action_row(self)
        self._note_text = TextLabel("muted")
        self.go_on = Button("plain")
        self.again = Button("plain")
        note_row.addWidget(self._note_text, 1000)  # up to its own width, see ``arrange``
        note_row.addSpacing(8)
        note_row.addWidget(self.go_on)
        note_row.addSpacing(8)
        note_row.addWidget(self.again)
        note_row.addStretch(1)
        self._actions, row = action_row(self)
        self.up = small_icon_button(theme, "thumb_up")
        self.down = small_icon_button(theme, "thumb_down")
        self._copy = small_icon_button(theme, "copy")
        self._regenerate = small_icon_button(theme, "refresh")
        self._compare = small_icon_button(theme, "columns")
        self.siblings = SiblingSwitch(theme)
        self.corrected = Button("quiet")
        for widget in (
            self.up,
            self.down,
            self._copy,
            self._regenerate,
            self._compare,
            self.siblings,
            self.corrected,
        ):
            row.addWidget(widget)
        row.addStretch(1)
        self._actions.setProperty("is_outset", True)  # icons stand right below the text
        self.editor: CorrectionEditor | None = None

        self.up.clicked.connect(self._like)
        self.down.clicked.connect(self._dislike)
        self._copy.clicked.connect(self.view.copy_all)
        self._regenerate.clicked.connect(self._write_again)
        self.again.clicked.connect(self._write_again)
        self.go_on.clicked.connect(self._go_on)
        self._compare.clicked.connect(self._compare_two)
        self.siblings.stepped.connect(self._show_sibling)
        self.corrected.clicked.connect(self.begin_correction)
        self.reasoning.height_changed.connect(self.height_changed)
        self.view.height_changed.connect(self.height_changed)
        is_partial = message.state == "partial"
        self.reasoning.show_reasoning(
            message.reasoning, is_thinking=is_partial and not message.content
        )
        self.view.set_markdown(message.content, is_complete=not is_partial)
        self._retranslate()
        self.refresh(message)

    @property
    def is_pinned(self) -> bool:
        return self.editor is not None

    def refresh(self, message: StoredMessage) -> None:
        """Another state, another place among siblings, or the final text."""
        self._message = message
        is_partial = message.state == "partial"
        if not is_partial:
            self.reasoning.show_reasoning(message.reasoning, is_thinking=False)
            if message.content != self.view.raw:
                self.view.set_markdown(message.content)
            else:
                self.view.finish()
        self._copy.setVisible(_has_words(message))
        is_free = not self._chat.is_busy
        self.siblings.show_place(message.sibling_index, message.sibling_count, is_enabled=is_free)
        for button in (self._regenerate, self._compare, self.again, self.go_on):
            button.setEnabled(is_free)
        self._retranslate_note()
        self.refresh_feedback()

    def append_text(self, text: str) -> None:
        """More of the completion."""
        if self.reasoning.text and not self.view.raw:  # the first word after the thought
            reasoning = self._chat.message(self._message.id).reasoning
            self.reasoning.show_reasoning(reasoning, is_thinking=False)
        self.view.append_text(text)

    def append_reasoning(self, text: str) -> None:
        """More of what is thought before the completion."""
        self.reasoning.append_text(text)

    @property
    def spoken(self) -> str:
        """What is told to those who hear the page when it is whole: the text as it is shown."""
        if self._message.state == "interrupted":
            return note_of(self._message)
        return " ".join(filter(None, (self.view.toPlainText().strip(), note_of(self._message))))

    def refresh_feedback(self) -> None:
        """What stands against this message now."""
        standing = self._feedback.of_message(self._message.id)
        liked = standing.rating.liked if standing.rating is not None else None
        self.up.setChecked(liked is True)
        self.down.setChecked(liked is False)
        self.up.set_icon(
            "thumb_up_filled" if liked is True else "thumb_up",
            "positive" if liked is True else "text_muted",
        )
        self.down.set_icon(
            "thumb_down_filled" if liked is False else "thumb_down",
            "negative" if liked is False else "text_muted",
        )
        # Only what a model is known to have written can be judged.
        is_judgeable = self._message.origin is not None and _has_words(self._message)
        self.up.setVisible(is_judgeable)
        self.down.setVisible(is_judgeable)
        self.corrected.setVisible(standing.correction is not None)
        # What was judged stays what it was.
        is_judged = standing.rating is not None or standing.correction is not None
        was_cut_off = self._message.state in ("stopped", "interrupted")
        can_go_on = was_cut_off and _was_begun(self._message) and not is_judged
        self.go_on.setVisible(can_go_on and not self._chat.is_answered(self._message.id))

    @property
    def draft(self) -> str | None:
        """What stands in the editor where it is not what it was opened with."""
        if self.editor is None or self.editor.text() == self._text_to_correct():
            return None
        return self.editor.text()

    def begin_correction(self) -> None:
        """Ask what the person would have wanted to read."""
        if self.editor is None:
            self.open_editor(self._text_to_correct()).setFocus()
            self.height_changed.emit()

    def _text_to_correct(self) -> str:
        standing = self._feedback.of_message(self._message.id).correction
        return self._message.content if standing is None else standing.completion.text

    def open_editor(self, text: str) -> CorrectionEditor:
        """Let the person go on with a correction."""
        self.editor = editor = CorrectionEditor(self)
        editor.saved.connect(self._save_correction)
        editor.cancelled.connect(self._end_correction)
        editor.height_changed.connect(self.height_changed)
        editor.changed.connect(self.draft_changed)
        editor.open(self._question(), text, self.tr("Save"))
        return editor

    def arrange(self, width: int) -> int:
        is_partial = self._message.state == "partial"
        has_note = bool(note_of(self._message))
        words = self._note_text.fontMetrics().horizontalAdvance(self._note_text.text())
        self._note_text.setMaximumWidth(words + 2)
        shown: list[QWidget] = []
        for widget, is_shown in (
            (self.reasoning, bool(self.reasoning.text)),
            (self.view, bool(self.view.raw)),
            (self._note, has_note),
            (self.indicator, is_partial),
            (self._actions, not is_partial),
            (self.editor, True),
        ):
            if widget is not None:
                widget.setVisible(is_shown)
                if is_shown:
                    shown.append(widget)
        return _stack(shown, width)

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()

    def _like(self) -> None:
        self._feedback.rate(self._message.id, True if self.up.isChecked() else None)
        self._end_untouched_correction()

    def _dislike(self) -> None:
        is_disliked = self.down.isChecked()
        self._feedback.rate(self._message.id, False if is_disliked else None)
        if is_disliked:
            self.begin_correction()
        else:
            self._end_untouched_correction()

    def _end_untouched_correction(self) -> None:
        """A thumb must not throw away what was written: Cancel and Save do."""
        if self.draft is None:
            self._end_correction()

    def _save_correction(self, text: str) -> None:
        self._feedback.correct(self._message.id, text)
        self._end_correction()

    def _end_correction(self) -> None:
        if self.editor is not None:
            had_focus = self.editor.isAncestorOf(self.window().focusWidget() or self)
            self.editor.hide()
            self.editor.deleteLater()
            self.editor = None
            self.height_changed.emit()
            self.draft_changed.emit()
            if had_focus:
                self.down.setFocus()

    def _go_on(self) -> None:
        self._chat.go_on(self._message.id)

    def _write_again(self) -> None:
        self._chat.regenerate(self._message.id)

    def _compare_two(self) -> None:
        self._chat.regenerate(self._message.id, compare=True)

    def _show_sibling(self, step: int) -> None:
        self.sibling_wanted.emit(self._message.id, step)

    def _question(self) -> str:
        return self.tr("What would you have wanted to read?")

    def _retranslate_note(self) -> None:
        self._note_text.setText(note_of(self._message))
        self.again.setVisible(self._message.state == "interrupted" or not _has_words(self._message))

    def _retranslate(self) -> None:
        self.view.setAccessibleName(self.tr("The model's message"))
        self.up.setCheckable(True)
        self.down.setCheckable(True)
        self.up.set_name(self.tr("Good: write more like this"))
        self.down.set_name(self.tr("Not good: write less like this"))
        self._copy.set_name(self.tr("Copy"))
        self._regenerate.set_name(self.tr("Write it again"))
        self._compare.set_name(self.tr("Write two and compare them"))
        self.again.setText(self.tr("Write it again"))
        self.go_on.setText(self.tr("Go on"))
        self.corrected.setText(self.tr("Your correction is kept"))
        self.corrected.setAccessibleName(self.tr("Your correction is kept. Open it."))
        self._retranslate_note()
        if self.editor is not None:
            self.editor.rename(self._question(), self.tr("Save"))


def note_of(message: StoredMessage) -> str:
    """What is to be said of an answer that is not as it should be; "" where it is."""
    if message.state == "stopped":
        return QCoreApplication.translate("CompletionCard", "The answer is not finished.")
    if message.state == "interrupted" and _was_begun(message):
        return QCoreApplication.translate("CompletionCard", "The model stopped while writing this.")
    if message.state == "interrupted":
        return QCoreApplication.translate(
            "CompletionCard", "The model stopped before it wrote anything."
        )
    if message.state == "done" and not _has_words(message):
        return QCoreApplication.translate("CompletionCard", "The answer is empty.")
    return ""


def take_switch(card: UserCard | CompletionCard, step: int) -> None:
    """Give the keys to a card's way to its versions: to the direction that was gone, if it goes
    on there."""
    back, on = card.siblings.findChildren(IconButton)
    wanted, other = (back, on) if step < 0 else (on, back)
    (wanted if wanted.isEnabled() else other).setFocus(Qt.FocusReason.TabFocusReason)


def _has_words(message: StoredMessage) -> bool:
    return bool(message.content.strip())


def _was_begun(message: StoredMessage) -> bool:
    return _has_words(message) or bool(message.reasoning.text)


def _stack(widgets: Sequence[QWidget], width: int) -> int:
    """Put widgets below each other; returns the height of all."""
    top = 0
    content = width - 2 * OUTSET
    for widget in widgets:
        left, full = OUTSET, content
        if isinstance(widget, MessageView):
            height = widget.fit(content)
        elif isinstance(widget, CorrectionEditor | ReasoningView):
            height = widget.arrange(content)
        else:
            needed = widget.heightForWidth(content)  # -1 where it does not depend on the width
            height = max(ROW_HEIGHT, needed, widget.sizeHint().height() if needed < 0 else 0)
            if widget.property("is_outset"):
                left, full = 0, width
        widget.setGeometry(left, top, full, height)
        top += height + _SPACE
    return max(top - _SPACE, 0)
