"""The way back for deleted conversations: one card, however many were deleted while it stands."""

from __future__ import annotations

from PySide6.QtCore import QObject

from desktop_app.services.chat_service import ChatService
from desktop_app.services.feedback_service import FeedbackService
from desktop_app.ui.notices import Action, NoticeArea

_KEY = "deleted"
_SECONDS = 10.0


class TrashNotice(QObject):
    """Tells of deletions and takes them back."""

    def __init__(
        self,
        chat: ChatService,
        feedback: FeedbackService,
        notices: NoticeArea,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._chat = chat
        self._feedback = feedback
        self._notices = notices
        self._deleted: list[str] = []

    def tell(self, conversation_id: str, title: str) -> None:
        """A conversation went to the trash, and its feedback with it."""
        self._feedback.recount()
        if self._notices.notice(_KEY) is None:
            self._deleted.clear()
        self._deleted.append(conversation_id)
        if len(self._deleted) == 1:
            told = self.tr("“{0}” was deleted.").format(title)
        else:
            told = self.tr("%n conversation(s) were deleted.", "", len(self._deleted))
        undo = Action(self.tr("Undo"), self._restore)
        self._notices.show_notice(_KEY, told, actions=[undo], seconds=_SECONDS)

    def _restore(self) -> None:
        deleted, self._deleted = self._deleted, []
        for conversation_id in reversed(deleted):  # the one that was open first comes last
            self._chat.restore_conversation(conversation_id)
        self._feedback.recount()
