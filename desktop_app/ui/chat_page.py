"""The middle of the window: the messages, what there is to tell, and the composer."""

from __future__ import annotations

from typing import Final

from PySide6.QtGui import QFontMetrics
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from desktop_app.services.chat_service import ChatService
from desktop_app.services.feedback_service import FeedbackService
from desktop_app.ui.composer import Composer
from desktop_app.ui.conversation_view import ConversationView
from desktop_app.ui.notices import NoticeArea
from desktop_app.ui.theme import Theme
from desktop_app.ui.virtual_list import CHARACTERS, CODE_WIDTH

COMPOSER_PADDING: Final = 40
"""How much wider than a line of text the composer is."""
LEAST_VIEW: Final = (240, 96)
"""Room for messages that notices and a long text in the composer leave."""


class ChatPage(QWidget):
    """``view`` above ``notices`` above ``composer``."""

    def __init__(
        self,
        chat: ChatService,
        feedback: FeedbackService,
        theme: Theme,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._theme = theme
        self.view = ConversationView(chat, feedback, theme)
        self.view.setMinimumSize(*LEAST_VIEW)
        self.notices = NoticeArea(theme)
        self.composer = Composer(theme)
        self._foot = QWidget()
        foot = QVBoxLayout(self._foot)
        foot.setContentsMargins(0, 0, 0, 0)
        foot.setSpacing(8)
        foot.addWidget(self.notices)
        foot.addWidget(self.composer)
        row = QHBoxLayout()
        row.setContentsMargins(16, 8, 16, 16)
        row.addStretch(1)
        row.addWidget(self._foot, 1000)
        row.addStretch(1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.view, 1)
        column.addLayout(row)
        self.view.suggestion_chosen.connect(self.composer.take_suggestion)
        theme.changed.connect(self._fit_composer)
        self._fit_composer()

    def _fit_composer(self) -> None:
        """As wide as the text above it."""
        line = QFontMetrics(self._theme.font()).averageCharWidth() * CHARACTERS
        code = QFontMetrics(self._theme.monospace_font()).horizontalAdvance(CODE_WIDTH)
        self._foot.setMaximumWidth(max(line, code) + COMPOSER_PADDING)
