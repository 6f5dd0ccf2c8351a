"""A conversation view on real services and a real file; the engine says what a test wants."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QSize, Qt
from PySide6.QtWidgets import QAbstractButton
from pytestqt.qtbot import QtBot

from desktop_app.services.chat_service import ChatService
from desktop_app.services.feedback_service import FeedbackService
from desktop_app.storage.chat_store import ChatStore, StoredMessage
from desktop_app.storage.database import Database
from desktop_app.storage.feedback_store import FeedbackStore
from desktop_app.ui.comparison_view import ComparisonView
from desktop_app.ui.conversation_view import ConversationView
from desktop_app.ui.message_card import CompletionCard, UserCard
from desktop_app.ui.theme import Theme
from finetune.contract.records import Origin
from tests.desktop_app.fake_engine_handle import MODEL, FakeEngineHandle

ORIGIN = Origin("base", "ab" * 32)


class Stage:
    """Everything a conversation view stands on, and the view."""

    def __init__(self, qtbot: QtBot, folder: Path, theme: Theme) -> None:
        self.qtbot = qtbot
        self.database = Database(folder / "attune.db")
        self.store = ChatStore(self.database)
        self.feedback_store = FeedbackStore(self.database)
        self.chat = ChatService(self.store)
        self.feedback = FeedbackService(self.store, self.feedback_store)
        self.engine = FakeEngineHandle(self.chat)
        self.chat.engine.attach(self.engine, MODEL)
        self.view = ConversationView(self.chat, self.feedback, theme)
        self.view.resize(QSize(800, 600))
        qtbot.addWidget(self.view)
        self.view.show()
        qtbot.waitExposed(self.view)
        self.chat.open_last()

    def close(self) -> None:
        self.chat.close()
        self.database.close()

    def turn(self, text: str, *completions: str) -> None:
        """One whole turn; two completions make a comparison."""
        self.chat.send(text, compare=len(completions) > 1)
        self.engine.answer(*completions)

    def say(self, text: str, stream: int = 0) -> None:
        """More of a completion, until it is on screen."""
        before = len(self._shown())
        self.engine.say(text, stream)
        self.qtbot.waitUntil(lambda: len(self._shown()) >= before + len(text))

    def fill(self, count: int, text: str = "Some words. " * 40) -> list[str]:
        """A long conversation that was stored earlier; ids of its messages."""
        conversation = self.store.create_conversation()
        parent = None
        ids: list[str] = []
        for number in range(count):
            is_user = number % 2 == 0
            message = self.store.add_message(
                conversation.id,
                parent,
                "user" if is_user else "assistant",
                f"Message {number}. {text}",
                origin=None if is_user else ORIGIN,
            )
            parent = message.id
            ids.append(message.id)
        self.chat.open_conversation(conversation.id)
        return ids

    def messages(self) -> list[StoredMessage]:
        return self.chat.messages(self.chat.current_conversation)

    def user_card(self, index: int = -2) -> UserCard:
        card = self.view.list.row(self.messages()[index].id)
        assert isinstance(card, UserCard)
        return card

    def card(self, index: int = -1) -> CompletionCard:
        card = self.view.list.row(self.messages()[index].id)
        assert isinstance(card, CompletionCard)
        return card

    def comparison(self) -> ComparisonView:
        return next(row for row in self.view.list.rows() if isinstance(row, ComparisonView))

    def _shown(self) -> str:
        for row in self.view.list.rows():
            if isinstance(row, ComparisonView):
                return "".join(side.view.raw for side in row.sides)
        return self.card().view.raw


def click(qtbot: QtBot, button: QAbstractButton) -> None:
    assert button.isVisible()
    assert button.isEnabled()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def named(stage: Stage, index: int, name: str) -> QAbstractButton:
    """A button of a message by its accessible name."""
    row = stage.view.list.row(stage.messages()[index].id)
    assert row is not None
    return next(b for b in row.findChildren(QAbstractButton) if b.accessibleName() == name)
