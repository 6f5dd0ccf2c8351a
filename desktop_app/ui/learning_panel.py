"""The panel on the right: what was collected, training, and the model's versions."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QFrame, QScrollArea, QTabWidget, QVBoxLayout, QWidget

from desktop_app.errors import UserError, sentence
from desktop_app.services.feedback_service import FeedbackService
from desktop_app.services.learning_service import LearningService
from desktop_app.ui.collected_card import CollectedCard
from desktop_app.ui.controls import Button, TextLabel, confirm
from desktop_app.ui.run_result import FailureCard, OfferCard, ResumeCard
from desktop_app.ui.run_view import RunView
from desktop_app.ui.theme import Theme
from desktop_app.ui.versions_panel import VersionsPanel
from finetune.contract.errors import InputError
from finetune.contract.events import RunDone, RunFailed


class LearningPanel(QFrame):
    """Two tabs: Learning and Versions.

    Signals:
        trial_requested(version id): compare it blind with the active one.
        problem(message, hint).
    """

    trial_requested = Signal(str)
    problem = Signal(str, str)

    def __init__(
        self,
        learning: LearningService,
        feedback: FeedbackService,
        theme: Theme,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("panel")
        self.setMinimumWidth(320)
        self.learning_page = LearningPage(learning, feedback, theme)
        self.versions = VersionsPanel(learning, theme)
        self.tabs = QTabWidget()
        self.tabs.addTab(_scrolling(self.learning_page), "")
        self.tabs.addTab(_scrolling(self.versions), "")
        column = QVBoxLayout(self)
        column.setContentsMargins(1, 0, 0, 0)
        column.addWidget(self.tabs)
        self.learning_page.trial_requested.connect(self.trial_requested)
        self.learning_page.problem.connect(self.problem)
        self.versions.trial_requested.connect(self.trial_requested)
        self.versions.problem.connect(self.problem)
        self._retranslate()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _retranslate(self) -> None:
        self.tabs.setTabText(0, self.tr("Learning"))
        self.tabs.setTabText(1, self.tr("Versions"))
        self.tabs.tabBar().setAccessibleName(self.tr("Learning and versions"))


class LearningPage(QWidget):
    """Collected feedback and the one big button; while a run goes on, the run.

    Signals:
        trial_requested(version id).
        problem(message, hint).
        shown: it came into sight.
    """

    trial_requested = Signal(str)
    problem = Signal(str, str)
    shown = Signal()

    def __init__(
        self,
        learning: LearningService,
        feedback: FeedbackService,
        theme: Theme,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._learning = learning
        self._feedback = feedback
        self.offer = OfferCard()
        self.failure = FailureCard()
        self.failure.hide()
        self.resume = ResumeCard()
        self.run = RunView(learning, theme)
        self.collected = CollectedCard(feedback, theme)
        self.train = Button("primary")
        self.train.setMinimumHeight(40)
        self._about_training = TextLabel("small")
        self._about_training.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 12, 16, 16)
        column.setSpacing(12)
        for widget in (
            self.offer,
            self.failure,
            self.resume,
            self.run,
            self.collected,
            self.train,
            self._about_training,
        ):
            column.addWidget(widget)
        column.addStretch(1)

        self.train.clicked.connect(self._start)
        self.run.stop_requested.connect(learning.stop)
        self.resume.resume_requested.connect(self._resume)
        self.resume.discard_requested.connect(self._discard)
        self.offer.compare_requested.connect(self._compare)
        self.offer.use_requested.connect(self._use)
        self.offer.later_requested.connect(learning.dismiss_offer)
        self.failure.closed.connect(self.failure.hide)
        self.failure.closed.connect(self._show_what_fits)
        learning.state_changed.connect(self._on_state)
        learning.run_ended.connect(self._on_ended)
        feedback.collected_changed.connect(self._show_what_fits)
        self._retranslate()
        self._show_what_fits()

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.shown.emit()

    # --- inside ---

    def _start(self) -> None:
        self._try_to(self._learning.start)

    def _resume(self) -> None:
        self._try_to(self._learning.resume)

    def _discard(self) -> None:
        if confirm(
            self,
            self.tr("Discard this training?"),
            self.tr("It cannot be resumed after that. Your feedback stays, for the next one."),
            self.tr("Discard"),
            self.tr("Keep"),
        ):
            self._try_to(self._learning.discard)

    def _use(self) -> None:
        offered = self._learning.offered
        if offered is not None:
            self._try_to(lambda: self._learning.activate(offered.version_id))

    def _compare(self) -> None:
        offered = self._learning.offered
        if offered is not None:
            self.trial_requested.emit(offered.version_id)

    def _try_to(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (UserError, InputError) as error:
            self.problem.emit(*sentence(error))

    def _on_state(self, state: str) -> None:
        if state != "idle":
            self.failure.hide()
        self._show_what_fits()

    def _on_ended(self, result: RunDone | RunFailed) -> None:
        if isinstance(result, RunFailed) and result.code != "stopped":
            self.failure.show_failure(result)
            self.failure.show()
        self._show_what_fits()

    def _show_what_fits(self) -> None:
        state = self._learning.state
        is_running = state in ("training", "stopping", "installing")
        offered = self._learning.offered
        self.offer.setVisible(offered is not None and state == "offered")
        if offered is not None:
            self.offer.show_version(offered)
        can_resume = self._learning.resumable() is not None
        self.failure.set_resumable(can_resume)
        self.resume.setVisible(can_resume)
        is_told = is_running or state == "offered"
        has_failed = not self.failure.isHidden()
        self.run.show_parts(progress=is_running, samples=is_told, notes=is_told or has_failed)
        self.collected.setVisible(not is_running)
        self.train.setVisible(state == "idle")
        self._about_training.setVisible(state == "idle")
        have = self._feedback.collected()
        self.train.setEnabled(have.is_enough_for_sft or have.is_enough_for_reward)
        self.train.set_kind("plain" if not self.resume.isHidden() else "primary")

    def _retranslate(self) -> None:
        self.train.setText(self.tr("Train my model"))
        self._about_training.setText(
            self.tr("You can go on chatting. Your current model stays until you decide.")
        )


def _scrolling(page: QWidget) -> QScrollArea:
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    page.setObjectName("panelPage")
    page.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
    area.setWidget(page)
    return area
