"""The blind comparison: the person's own prompts, two completions, no names.

Which version was preferred is told only at the end, as a score.
"""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtGui import QAccessible, QAccessibleAnnouncementEvent, QKeyEvent, QTextOption
from PySide6.QtWidgets import (
    QHBoxLayout,
    QPlainTextEdit,
    QProgressBar,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from desktop_app.errors import UserError, sentence
from desktop_app.services.learning_service import LearningService, TrialQuestion, TrialScore
from desktop_app.ui.comparison_view import is_writing
from desktop_app.ui.controls import Button, Card, IconButton, TextLabel
from desktop_app.ui.notices import NoticeArea
from desktop_app.ui.sentences import in_our_language
from desktop_app.ui.theme import Theme
from finetune.contract.errors import InputError
from finetune.contract.records import Verdict

MOST_PROMPT_LINES: Final = 5
CARD_WIDTH: Final = 480
NAME_WIDTH: Final = 280
"""Of a version's name on a button; what is longer is shortened."""
_KEYS: dict[int, tuple[int | None, Verdict]] = {
    Qt.Key.Key_1: (0, "ordered"),
    Qt.Key.Key_2: (1, "ordered"),
    Qt.Key.Key_Equal: (None, "all_good"),
    Qt.Key.Key_0: (None, "all_bad"),
}


class ReadingText(QPlainTextEdit):
    """Text to read and select, never to edit."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("kind", "reading")
        self.setReadOnly(True)
        self.setTabChangesFocus(True)
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse
            | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )

    def show_all(self, text: str) -> None:
        """Show a text and be as high as it is, up to a few lines."""
        self.setPlainText(text)
        lines = min(MOST_PROMPT_LINES, max(1, text.count("\n") + 1 + len(text) // 90))
        self.setFixedHeight(lines * self.fontMetrics().lineSpacing() + 28)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in _KEYS:
            event.ignore()  # the choice belongs to the trial
        else:
            super().keyPressEvent(event)


class TrialView(QWidget):
    """Loading, a question, the result: one page each, and ``notices`` below all of them.

    Signals:
        finished: the person is done with it, one way or the other.
        problem(message, hint): what is to be told where the trial is not on view any more.
    """

    finished = Signal()
    problem = Signal(str, str)

    def __init__(
        self, learning: LearningService, theme: Theme, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("trial")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._learning = learning
        self._version_id = ""
        self._new_name = self._old_name = ""
        self._question: TrialQuestion | None = None
        self._number = 0
        self._length = 0
        self._score = TrialScore()
        self._is_over = True

        self._title = TextLabel("title")
        self._about = TextLabel("muted")
        self.leave = IconButton(theme, "close")
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.place = TextLabel("small", wrap=False)
        top = QHBoxLayout()
        top.addWidget(self._title)
        top.addStretch(1)
        top.addWidget(self.place)
        top.addWidget(self.leave)
        self.pages = QStackedWidget()
        self.loading_page = self._build_loading()
        self.question_page = self._build_question()
        self.result_page = self._build_result()
        for page in (self.loading_page, self.question_page, self.result_page):
            self.pages.addWidget(page)
        self.notices = NoticeArea(theme)
        column = QVBoxLayout(self)
        column.setContentsMargins(24, 16, 24, 20)
        column.setSpacing(10)
        column.addLayout(top)
        column.addWidget(self._about)
        column.addWidget(self.progress)
        column.addWidget(self.pages, 1)
        column.addWidget(self.notices)

        self.leave.clicked.connect(self._leave)
        learning.trial_question.connect(self._on_question)
        learning.trial_changed.connect(self._on_score)
        learning.trial_ended.connect(self._on_ended)
        learning.problem.connect(self._on_problem)
        self._retranslate()

    def start(self, version_id: str) -> bool:
        """Begin comparing this version with the active one; False where it cannot be."""
        self._version_id = version_id
        self._number, self._question, self._is_over = 0, None, False
        self.notices.dismiss("problem")
        self._show_page(self.loading_page)
        try:
            self._read_names()
            self._learning.start_trial(version_id)
        except (UserError, InputError) as error:
            self._leave()  # another trial may be on view
            self.problem.emit(*sentence(error))
            return False
        self._length = self._learning.trial_length
        self._retranslate()
        return not self._is_over

    def answer(self, chosen: int | None, verdict: Verdict) -> None:
        """The person's choice: 0 or 1, or None where both are good or bad."""
        question, self._question = self._question, None
        if question is None:
            return
        self.notices.dismiss("problem")
        self._show_page(self.loading_page)
        try:
            self._learning.answer_trial(question, chosen, verdict)
        except (UserError, InputError) as error:  # it was not kept, so it is still to be chosen
            self._question = question
            self._show_page(self.question_page)
            self._on_problem(*sentence(error))
            self._take_focus(self)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        choice = None if event.isAutoRepeat() else _KEYS.get(event.key())
        if choice is not None and self._question is not None:
            self.answer(*choice)
        else:
            super().keyPressEvent(event)

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    # --- building ---

    def _build_loading(self) -> QWidget:
        page = QWidget()
        self._loading_text = TextLabel("muted")
        self._loading_text.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self._busy = QProgressBar()
        self._busy.setRange(0, 0)
        self._busy.setTextVisible(False)
        self._busy.setFixedWidth(240)
        column = QVBoxLayout(page)
        column.addStretch(1)
        column.addWidget(self._loading_text)
        column.addWidget(self._busy, 0, Qt.AlignmentFlag.AlignHCenter)
        column.addStretch(1)
        return page

    def _build_question(self) -> QWidget:
        page = QWidget()
        self._prompt_title = TextLabel("small", wrap=False)
        self.prompt = ReadingText()
        self.texts = (ReadingText(), ReadingText())
        self.choose = (Button("plain"), Button("plain"))
        self.both_good = Button("quiet")
        self.both_bad = Button("quiet")
        self._side_titles = (TextLabel("strong", wrap=False), TextLabel("strong", wrap=False))
        sides = QHBoxLayout()
        sides.setSpacing(16)
        for title, text, button in zip(self._side_titles, self.texts, self.choose, strict=True):
            side = QVBoxLayout()
            side.setSpacing(8)
            side.addWidget(title)
            side.addWidget(text, 1)
            side.addWidget(button)
            sides.addLayout(side, 1)
        ties = QHBoxLayout()
        ties.addStretch(1)
        ties.addWidget(self.both_good)
        ties.addWidget(self.both_bad)
        ties.addStretch(1)
        column = QVBoxLayout(page)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        column.addWidget(self._prompt_title)
        column.addWidget(self.prompt)
        column.addLayout(sides, 1)
        column.addLayout(ties)
        self.choose[0].clicked.connect(lambda: self.answer(0, "ordered"))
        self.choose[1].clicked.connect(lambda: self.answer(1, "ordered"))
        self.both_good.clicked.connect(lambda: self.answer(None, "all_good"))
        self.both_bad.clicked.connect(lambda: self.answer(None, "all_bad"))
        return page

    def _build_result(self) -> QWidget:
        page = QWidget()
        card = Card("accent")
        card.setMaximumWidth(CARD_WIDTH)
        self.result_title = TextLabel("title")
        self.result_text = TextLabel()
        self.use_new = Button("primary")
        self.keep = Button("plain")
        for widget in (self.result_title, self.result_text, self.use_new, self.keep):
            card.column.addWidget(widget)
        card.column.setSpacing(12)
        row = QHBoxLayout()
        row.addStretch(1)
        row.addWidget(card, 3)
        row.addStretch(1)
        column = QVBoxLayout(page)
        column.addStretch(1)
        column.addLayout(row)
        column.addStretch(2)
        self.use_new.clicked.connect(self._use_new)
        self.keep.clicked.connect(self._leave)
        return page

    # --- inside ---

    def _on_question(self, question: TrialQuestion | None) -> None:
        if self._is_over:
            return
        self._question = question
        if question is None:
            self._show_result()
            return
        self._number += 1
        self._length = self._learning.trial_length
        self.prompt.show_all(question.prompt[-1].content)
        for text, completion in zip(self.texts, question.completions, strict=True):
            text.setPlainText(completion.text)
        self._show_page(self.question_page)
        self._retranslate()
        self._take_focus(self)
        self._announce(self.progress.accessibleName())

    def _on_ended(self) -> None:
        """Broken off, or left behind: another version is used, a conversation was opened."""
        self._is_over = True
        self._question = None
        self.finished.emit()

    def _on_score(self, score: TrialScore) -> None:
        self._score = score

    def _on_problem(self, message: str, hint: str) -> None:
        """Tell it here: the window's own notices are behind this view."""
        if not self._is_over:
            self.notices.show_notice(
                "problem", in_our_language(message), in_our_language(hint), kind="problem"
            )

    def _show_result(self) -> None:
        self._is_over = True
        judged = self._score.new + self._score.old + self._score.ties
        if judged == 0:
            self._leave()
            return
        is_better = self._score.new > self._score.old
        self.use_new.set_kind("primary" if is_better else "plain")
        self.keep.set_kind("plain" if is_better else "primary")
        self._show_page(self.result_page)
        self._retranslate()
        self._take_focus(self.use_new if is_better else self.keep)
        self._announce(self.result_title.text())

    def _use_new(self) -> None:
        try:
            self._learning.activate(self._version_id)
        except (UserError, InputError) as error:
            self.problem.emit(*sentence(error))
        self.finished.emit()

    def _leave(self) -> None:
        self._is_over = True
        self._question = None
        self._learning.end_trial()
        self.finished.emit()

    def _read_names(self) -> None:
        """What the versions are called; an identifier where one has no name here."""
        names = {version.version_id: version.name for version in self._learning.versions()}
        active = self._learning.active_version()
        self._old_name = names.get(active, active)
        self._new_name = names.get(self._version_id, self._version_id)

    def _take_focus(self, widget: QWidget) -> None:
        """Take the keys, unless the person is writing something elsewhere."""
        if not is_writing(self.window().focusWidget()):
            widget.setFocus()

    def _announce(self, text: str) -> None:
        QAccessible.updateAccessibility(QAccessibleAnnouncementEvent(self, text))

    def _show_page(self, page: QWidget) -> None:
        self.pages.setCurrentWidget(page)
        is_result = page is self.result_page
        self._title.setVisible(not is_result)
        self._about.setVisible(not is_result)
        self.progress.setVisible(not is_result)
        self.place.setVisible(not is_result and self._number > 0)

    def _retranslate(self) -> None:
        self._title.setText(self.tr("Which answer is better?"))
        self.setAccessibleName(self.tr("Which answer is better?"))
        self._about.setText(
            self.tr(
                "One is from “{0}”, one from “{1}”. How often you preferred each is told at the"
                " end."
            ).format(self._old_name, self._new_name)
        )
        self.leave.set_name(self.tr("Leave the comparison"))
        self._loading_text.setText(self.tr("Both versions are answering…"))
        self._busy.setAccessibleName(self.tr("Both versions are answering…"))
        self._prompt_title.setText(self.tr("You wrote"))
        self.prompt.setAccessibleName(self.tr("You wrote"))
        for title, text, button, letter, key in zip(
            self._side_titles, self.texts, self.choose, "AB", "12", strict=True
        ):
            title.setText(letter)
            text.setAccessibleName(self.tr("Answer {0}").format(letter))
            button.setText(self.tr("{0} is better ({1})").format(letter, key))
        self.both_good.setText(self.tr("Both are good (=)"))
        self.both_bad.setText(self.tr("Both are bad (0)"))
        self.place.setText(self.tr("{0} of {1}").format(self._number, self._length))
        self.progress.setRange(0, max(1, self._length))
        self.progress.setValue(max(0, self._number - 1))
        self.progress.setAccessibleName(
            self.tr("Question {0} of {1}").format(self._number, self._length)
        )
        self._retranslate_result()

    def _retranslate_result(self) -> None:
        score, new, old = self._score, self._new_name, self._old_name
        if score.new == score.old:
            verdict = self.tr("You found no difference")
        else:
            verdict = self.tr("You preferred “{0}”").format(new if score.new > score.old else old)
        self.result_title.setText(verdict)
        self.result_text.setText(
            self.tr("“{0}”: {1}. “{2}”: {3}. No difference: {4}.").format(
                new, score.new, old, score.old, score.ties
            )
        )
        for button, text, name in (
            (self.use_new, self.tr("Use “{0}”"), new),
            (self.keep, self.tr("Keep “{0}”"), old),
        ):
            short = self.fontMetrics().elidedText(name, Qt.TextElideMode.ElideMiddle, NAME_WIDTH)
            button.setText(text.format(short))
            button.setAccessibleName(text.format(name))
