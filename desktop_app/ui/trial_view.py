"""The blind comparison: the person's own prompts, two completions, no names.

Which version wrote which is told only at the end, as a score.
"""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtGui import QKeyEvent, QTextOption
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
from desktop_app.ui.controls import Button, Card, IconButton, TextLabel
from desktop_app.ui.theme import Theme
from finetune.contract.errors import InputError
from finetune.contract.records import Verdict

MOST_PROMPT_LINES: Final = 5
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
    """Loading, a question, the result: one page each.

    Signals:
        finished: the person is done with it, one way or the other.
        problem(message, hint).
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
        column = QVBoxLayout(self)
        column.setContentsMargins(24, 16, 24, 20)
        column.setSpacing(10)
        column.addLayout(top)
        column.addWidget(self._about)
        column.addWidget(self.progress)
        column.addWidget(self.pages, 1)

        self.leave.clicked.connect(self._leave)
        learning.trial_question.connect(self._on_question)
        learning.trial_changed.connect(self._on_score)
        learning.trial_ended.connect(self._on_ended)
        self._retranslate()

    def start(self, version_id: str) -> bool:
        """Begin comparing this version with the active one; False where it cannot be."""
        self._version_id = version_id
        self._number, self._question, self._is_over = 0, None, False
        self._show_page(self.loading_page)
        try:
            self._learning.start_trial(version_id)
        except (UserError, InputError) as error:
            self._is_over = True
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
        self._show_page(self.loading_page)
        self._learning.answer_trial(question, chosen, verdict)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        choice = _KEYS.get(event.key())
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
        card.setMaximumWidth(480)
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
        self.setFocus()

    def _on_ended(self) -> None:
        """Broken off, or left behind: another version is used, a conversation was opened."""
        self._is_over = True
        self._question = None
        self.finished.emit()

    def _on_score(self, score: TrialScore) -> None:
        self._score = score

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
        (self.use_new if is_better else self.keep).setFocus()

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
                "One is from your current model, one from the new version. Which is which is"
                " told at the end."
            )
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
        score = self._score
        if score.new > score.old:
            verdict = self.tr("You preferred the new version")
        elif score.new < score.old:
            verdict = self.tr("You preferred your current model")
        else:
            verdict = self.tr("You found them equally good")
        self.result_title.setText(verdict)
        self.result_text.setText(
            self.tr("New version: {0}. Current model: {1}. No difference: {2}.").format(
                score.new, score.old, score.ties
            )
        )
        self.use_new.setText(self.tr("Use the new version"))
        self.keep.setText(self.tr("Keep the current one"))
