"""The centre of the window: the messages of the open conversation, or a friendly beginning.

It turns what the services tell into rows of a virtual list: a card for each message on the
visible branch, and the pending comparison in place of the completion that will be chosen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from PySide6.QtCore import Signal
from PySide6.QtGui import QAccessible, QAccessibleAnnouncementEvent
from PySide6.QtWidgets import QStackedLayout, QWidget

from desktop_app.services.chat_service import ChatService, PendingComparison
from desktop_app.services.conversation_context import ContextMark
from desktop_app.services.feedback_service import FeedbackService
from desktop_app.storage.chat_store import StoredMessage
from desktop_app.ui.comparison_view import ComparisonView
from desktop_app.ui.context_mark import ContextMarkRow
from desktop_app.ui.empty_state import EmptyState
from desktop_app.ui.message_card import CompletionCard, UserCard, note_of, take_switch
from desktop_app.ui.theme import Theme
from desktop_app.ui.virtual_list import RowWidget, VirtualList

_COMPARISON: Final = "comparison:"
_MARK: Final = "mark:"
_CHROME: Final = 60
"""Height of a card beyond its text."""
Drafts = dict[str, dict[str, str]]
"""Texts of editors left open, by conversation and message."""


class ConversationView(QWidget):
    """Shows the current conversation.

    Signals:
        suggestion_chosen(text): one of the suggestions of the empty state.
        drafts_changed: something was written in an editor of a message, or one was closed.
    """

    suggestion_chosen = Signal(str)
    drafts_changed = Signal()

    def __init__(
        self,
        chat: ChatService,
        feedback: FeedbackService,
        theme: Theme,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._chat = chat
        self._feedback = feedback
        self._theme = theme
        self._messages: dict[str, StoredMessage] = {}
        self._last_id = ""
        self._pending: PendingComparison | None = None
        self._ready: PendingComparison | None = None
        self._mark: ContextMark | None = None
        self._conversation = ""
        self._awaits_answer = False
        self._keys: list[str] = []
        self._drafts: Drafts = {}
        self.list = VirtualList(self._make_row, self._estimate, theme)
        self.empty = EmptyState(theme)
        self.empty.suggestion_chosen.connect(self.suggestion_chosen)
        self._stack = QStackedLayout(self)
        self._stack.addWidget(self.list)
        self._stack.addWidget(self.empty)
        chat.conversation_opened.connect(self._on_opened)
        chat.path_changed.connect(self._on_path_changed)
        chat.text_appended.connect(self._on_text)
        chat.reasoning_appended.connect(self._on_reasoning)
        chat.message_changed.connect(self._on_message_changed)
        chat.busy_changed.connect(self._refresh_rows)
        chat.prompt_progress.connect(self._on_progress)
        chat.summarising_changed.connect(self._on_summarising)
        chat.comparison_ready.connect(self._on_ready)
        feedback.message_changed.connect(self._on_feedback)
        if chat.current_conversation:
            self._on_opened(chat.current_conversation)

    def drafts(self) -> Drafts:
        """Corrections and edits that were begun and not saved."""
        here = self._drafts.get(self._conversation, {}) | self._open_drafts(self._keys)
        drafts = self._drafts | {self._conversation: here}
        return {conversation: dict(texts) for conversation, texts in drafts.items() if texts}

    def restore_drafts(self, drafts: Drafts) -> None:
        """Their editors open again with their messages."""
        self._drafts = {conversation: dict(texts) for conversation, texts in drafts.items()}
        if self._drafts.get(self._conversation):
            self._on_opened(self._conversation)

    def scroll_to_end(self) -> None:
        """Show the newest message and follow it."""
        self.list.scroll_to_end()

    # --- what the services tell ---

    def _on_opened(self, conversation_id: str) -> None:
        self._show_rows([])
        self._awaits_answer = False
        self._conversation = conversation_id
        self._load()
        self.list.scroll_to_end()

    def _on_path_changed(self, conversation_id: str) -> None:
        if conversation_id == self._conversation:
            last = self._last_id
            self._load()
            if self._last_id != last and self._chat.is_busy:
                self.list.scroll_to_end()  # the person has asked for something
            if self._awaits_answer and not self._chat.is_busy and self._pending is None:
                self._announce(self._spoken(self._last_id))
            self._awaits_answer = self._chat.is_busy

    def _on_text(self, message_id: str, text: str) -> None:
        key = self._key_of(message_id)
        row = self.list.row(key)
        if isinstance(row, CompletionCard):
            row.append_text(text)
        elif isinstance(row, ComparisonView):
            row.append_text(message_id, text)
        self.list.row_changed(key)

    def _on_reasoning(self, message_id: str, text: str) -> None:
        """In a comparison nothing is shown of it: what is compared are the answers."""
        row = self.list.row(self._key_of(message_id))
        if isinstance(row, CompletionCard):
            row.append_reasoning(text)
            self.list.row_changed(message_id)

    def _on_message_changed(self, message_id: str) -> None:
        key = self._key_of(message_id)
        row = self.list.row(key)
        if isinstance(row, ComparisonView):
            row.refresh(message_id)
        elif message_id in self._messages:
            message = self._chat.message(message_id)
            self._messages[message_id] = message
            if isinstance(row, CompletionCard):
                row.refresh(message)
        self.list.row_changed(key)

    def _on_progress(self, done: int, total: int) -> None:
        row = self.list.row(self._key_of(self._last_id))
        if isinstance(row, ComparisonView):
            row.set_progress(done, total)
        elif isinstance(row, CompletionCard):
            row.indicator.set_progress(done, total)

    def _on_summarising(self, is_summarising: bool) -> None:
        row = self.list.row(self._key_of(self._last_id))
        if isinstance(row, CompletionCard):
            row.indicator.set_summarising(is_summarising)

    def _on_ready(self, pending: PendingComparison) -> None:
        self._ready = pending
        row = self.list.row(_key_of_comparison(pending))
        if isinstance(row, ComparisonView):
            row.set_ready()
            self.list.row_changed(_key_of_comparison(pending))
        if pending.conversation_id == self._conversation:
            self._announce(self.tr("Two answers wait for your choice."))

    def _on_feedback(self, message_id: str) -> None:
        row = self.list.row(message_id)
        if isinstance(row, CompletionCard):
            row.refresh_feedback()
            self.list.row_changed(message_id)

    def _show_sibling(self, message_id: str, step: int) -> None:
        """Show another version; who goes through them by keyboard stays at the switch."""
        place = list(self._messages).index(message_id)
        row = self.list.row(message_id)
        focused = self.window().focusWidget()
        had_focus = row is not None and focused is not None and row.isAncestorOf(focused)
        self._chat.show_sibling(message_id, step)
        if not had_focus:
            return
        card = self.list.bring_row(list(self._messages)[place])
        if isinstance(card, UserCard | CompletionCard):
            take_switch(card, step)
            self.list.show_widget(card.siblings)

    # --- for those who hear the page ---

    def _spoken(self, message_id: str) -> str:
        row = self.list.row(message_id)
        if isinstance(row, CompletionCard):
            return row.spoken
        message = self._messages[message_id]  # scrolled out of sight
        return note_of(message) or message.content

    def _announce(self, text: str) -> None:
        QAccessible.updateAccessibility(QAccessibleAnnouncementEvent(self, text))

    # --- rows ---

    def _load(self) -> None:
        """Read the visible branch again."""
        messages = self._chat.messages(self._conversation)
        pending = self._chat.pending_comparison
        if pending is not None and pending.conversation_id != self._conversation:
            pending = None
        self._pending = pending
        self._messages = {message.id: message for message in messages}
        self._last_id = messages[-1].id if messages else ""
        keys = [message.id for message in messages]
        if pending is not None and self._last_id in pending.message_ids:
            keys[-1] = _key_of_comparison(pending)
        self._mark = self._chat.context.mark(self._conversation)
        if self._mark is not None and self._mark.before in keys:
            mark = _MARK + self._mark.before
            keys.insert(keys.index(self._mark.before), mark)
            row = self.list.row(mark)
            if isinstance(row, ContextMarkRow):
                row.show_mark(self._mark)
                self.list.row_changed(mark)
        self._show_rows(keys)
        self._refresh_rows()
        self._stack.setCurrentWidget(self.list if messages else self.empty)

    def _show_rows(self, keys: list[str]) -> None:
        """What was begun in an editor of a row that goes is kept until it is made again."""
        staying = set(keys)
        going = [key for key in self._keys if key not in staying]
        self._drafts.setdefault(self._conversation, {}).update(self._open_drafts(going))
        self._keys = keys
        self.list.set_keys(keys)

    def _open_drafts(self, keys: Iterable[str]) -> dict[str, str]:
        """What was changed in the editors of these rows."""
        found = {}
        for key in keys:
            row = self.list.row(key)
            if isinstance(row, UserCard | CompletionCard) and row.draft is not None:
                found[key] = row.draft
        return found

    def _refresh_rows(self) -> None:
        """What is allowed, and where each message stands among its siblings."""
        for message_id, message in self._messages.items():
            row = self.list.row(message_id)
            if isinstance(row, UserCard):
                row.refresh(message, is_last=message_id == self._last_id)
            elif isinstance(row, CompletionCard):
                row.refresh(message)
        self.list.row_changed(*self._messages)

    def _key_of(self, message_id: str) -> str:
        if self._pending is not None and message_id in self._pending.message_ids:
            return _key_of_comparison(self._pending)
        return message_id

    def _make_row(self, key: str) -> RowWidget:
        if key.startswith(_COMPARISON):
            assert self._pending is not None
            comparison = ComparisonView(self._chat, self._feedback, self._theme, self._pending)
            if self._ready == self._pending:
                comparison.set_ready()
            return comparison
        if key.startswith(_MARK):
            assert self._mark is not None
            return ContextMarkRow(self._theme, self._mark)
        card = self._make_card(self._messages[key])
        card.draft_changed.connect(self.drafts_changed)
        card.sibling_wanted.connect(self._show_sibling)
        draft = self._drafts.get(self._conversation, {}).pop(key, None)
        if draft is not None:
            card.open_editor(draft)
        return card

    def _make_card(self, message: StoredMessage) -> UserCard | CompletionCard:
        if message.role == "user":
            card = UserCard(self._chat, self._theme, message)
            card.refresh(message, is_last=message.id == self._last_id)
            return card
        if message.state == "partial":
            message = self._messages[message.id] = self._chat.message(message.id)
        return CompletionCard(self._chat, self._feedback, self._theme, message)

    def _estimate(self, key: str, width: int) -> int:
        """A guess that the first showing replaces."""
        if key.startswith(_COMPARISON):
            return 300
        if key.startswith(_MARK):
            return _CHROME
        text = self._messages[key].content
        metrics = self.fontMetrics()
        characters = max(20, width // max(1, metrics.averageCharWidth()))
        lines = text.count("\n") + len(text) // characters + 1
        return _CHROME + int(lines * metrics.height() * 1.35)


def _key_of_comparison(pending: PendingComparison) -> str:
    return _COMPARISON + pending.message_ids[0]
