"""Trainings that were left or have ended, told where the learning tab is not in sight."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject

from desktop_app.services.learning_service import LearningService
from desktop_app.ui.learning_panel import LearningPage
from desktop_app.ui.notices import Action, NoticeArea
from finetune.contract.events import RunDone, RunFailed

_UNFINISHED = "resume"
_ENDED = "run"


class RunNotices(QObject):
    """Tells of a training above the composer, and takes that away where it is no news any more.

    Args:
        show_page: brings the learning tab into sight.
    """

    def __init__(
        self,
        learning: LearningService,
        page: LearningPage,
        notices: NoticeArea,
        show_page: Callable[[], None],
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._learning = learning
        self._page = page
        self._notices = notices
        self._show_page = show_page
        learning.run_ended.connect(self._on_ended)
        learning.state_changed.connect(self._on_state)
        page.shown.connect(self._on_seen)

    def tell_at_start(self) -> None:
        """A training of an earlier time can go on, or its version has not been decided on."""
        if self._learning.resumable() is not None:
            show = Action(self.tr("Show"), self._show_page)
            told = self.tr("A training is unfinished.")
            self._notices.show_notice(_UNFINISHED, told, actions=[show], seconds=0)
        elif self._learning.state == "offered" and not self._page.isVisible():
            self._tell_of_a_version()

    def _on_ended(self, result: RunDone | RunFailed) -> None:
        was_stopped = isinstance(result, RunFailed) and result.code == "stopped"
        if was_stopped or self._page.isVisible():
            return
        if isinstance(result, RunDone):
            self._tell_of_a_version()
        else:
            show = Action(self.tr("Show"), self._show_page)
            told = self.tr("The training ended without a new model.")
            self._notices.show_notice(_ENDED, told, kind="problem", actions=[show])

    def _tell_of_a_version(self) -> None:
        show = Action(self.tr("Show"), self._show_page)
        told = self.tr("Your model has learned.")
        self._notices.show_notice(_ENDED, told, kind="success", actions=[show], seconds=0)

    def _on_state(self, _state: str) -> None:
        self._notices.dismiss(_ENDED)
        is_offered = self._notices.notice(_UNFINISHED) is not None
        if is_offered and self._learning.resumable() is None:
            self._notices.dismiss(_UNFINISHED)

    def _on_seen(self) -> None:
        self._notices.dismiss(_ENDED)
