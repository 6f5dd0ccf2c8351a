"""A whole window on real services: the fake engine in this process, the fake trainer beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from PySide6.QtCore import QCoreApplication, QEvent, QObject, QTimer
from PySide6.QtWidgets import QApplication, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from desktop_app.inference import engine
from desktop_app.inference.engine import EngineDied, EngineFailure, ModelRef
from desktop_app.inference.fake_engine import FakeEngine
from desktop_app.inference.model_store import ModelStore
from desktop_app.paths import open_profile
from desktop_app.services.chat_service import ChatService
from desktop_app.services.feedback_service import FeedbackService
from desktop_app.services.learning_service import LearningService
from desktop_app.services.trainer_process import TrainerProcess
from desktop_app.settings import Settings
from desktop_app.storage.chat_store import ChatStore
from desktop_app.storage.database import Database
from desktop_app.storage.feedback_store import FeedbackStore
from desktop_app.ui.language import Language
from desktop_app.ui.main_window import MainWindow
from desktop_app.ui.theme import Theme
from finetune.contract.records import Origin

ORIGIN = Origin("base", "ab" * 32)


class InProcessEngine(QObject):
    """An ``EngineHandle`` without a child: the fake engine, one event each turn of the loop."""

    def __init__(self, receive: Callable[[engine.Event], None]) -> None:
        super().__init__()
        self._receive = receive
        self._fake = FakeEngine()
        self._work: list[Iterator[engine.Event]] = []
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._step)
        self.is_running = False
        self._is_cancelled = False
        self.is_held = False
        """Nothing more comes while this is set."""

    def start(self) -> None:
        self.is_running = True

    def load(self, model: ModelRef, *, anyway: bool = False) -> None:
        self._is_cancelled = False
        self._add(self._fake.load(model, anyway=anyway, is_cancelled=lambda: self._is_cancelled))

    def cancel_load(self) -> None:
        self._is_cancelled = True

    def generate(self, request: engine.Generate) -> None:
        self._add(self._fake.generate(request))

    def stop(self, request: engine.Stop) -> None:
        self._fake.stop(request)

    def forget(self) -> None:
        """Nothing is computed here."""

    def close(self) -> None:
        self._timer.stop()
        self._work.clear()
        self.is_running = False

    def fail(self, message: str) -> None:
        """The model cannot be loaded."""
        self._receive(EngineFailure(message))

    def die(self, message: str) -> None:
        """The child is gone."""
        self.close()
        self._receive(EngineDied(message))

    def _add(self, work: Iterator[engine.Event]) -> None:
        self._work.append(work)
        self._timer.start(0)

    def _step(self) -> None:
        if self.is_held:
            return
        if not self._work:
            self._timer.stop()
            return
        event = next(self._work[0], None)
        if event is None:
            self._work.pop(0)
        else:
            self._receive(event)


class Home:
    """Everything a window stands on, and the window."""

    def __init__(
        self, qtbot: QtBot, folder: Path, model: Path, trainer_mode: str, settings: Settings
    ) -> None:
        self.qtbot = qtbot
        self._undressed = (QApplication.font(), QApplication.palette())
        self.profile = open_profile(folder)
        self.settings = settings
        self.database = Database(self.profile.database)
        self.store = ChatStore(self.database)
        self.feedback_store = FeedbackStore(self.database)
        self.chat = ChatService(self.store)
        self.feedback = FeedbackService(self.store, self.feedback_store)
        self.models = ModelStore(self.profile.models, model)
        script = Path(__file__).resolve().parents[2] / "fake_trainer.py"
        self.trainer = TrainerProcess((sys.executable, str(script), trainer_mode))
        self.learning = LearningService(
            self.profile.runs,
            self.models,
            self.feedback_store,
            self.chat,
            self.feedback,
            self.trainer,
        )
        self.theme = Theme()
        self.language = Language()
        self._apply(settings)
        self.engine = InProcessEngine(self.chat.engine.receive)
        self._windows: list[MainWindow] = []
        self.window = self.open_window()
        self.chat.open_last()
        self.chat.engine.attach(self.engine, self.models.active())
        qtbot.waitUntil(lambda: self.chat.engine.state.status == "ready")

    def open_window(self) -> MainWindow:
        window = MainWindow(
            self.chat,
            self.feedback,
            self.learning,
            self.theme,
            self.settings,
            self._apply,
            self.language,
            self.profile,
        )
        self._windows.append(window)
        window.show()
        self.qtbot.waitExposed(window)
        return window

    def add_conversation(self, title: str, prompt: str = "Hello", answer: str = "Hi!") -> str:
        """A conversation with one turn; the answer's id is returned."""
        conversation = self.store.create_conversation()
        self.store.rename(conversation.id, title)
        asked = self.store.add_message(conversation.id, None, "user", prompt)
        answered = self.store.add_message(
            conversation.id, asked.id, "assistant", answer, origin=ORIGIN
        )
        self.chat.conversations_changed.emit()
        return answered.id

    def like(self, count: int) -> list[str]:
        """Conversations with a liked answer each."""
        first = len(self.chat.conversations())  # the same question again would say nothing new
        numbers = range(first, first + count)
        ids = [self.add_conversation(f"Talk {n}", f"Question {n}") for n in numbers]
        for message_id in ids:
            self.feedback.rate(message_id, True)
        return ids

    def ask(self, text: str) -> None:
        self.chat.send(text)
        self.qtbot.waitUntil(lambda: not self.chat.is_busy)

    def answers(self) -> list[str]:
        path = self.chat.messages(self.chat.current_conversation)
        return [m.content for m in path if m.role == "assistant"]

    def close(self) -> None:
        """First the windows, which read from the rest; then as the application does."""
        for window in self._windows:
            window.hide()
            window.deleteLater()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        self.chat.close()
        self.learning.close()
        self.database.close()
        self.language.set("en")
        self.theme.set_appearance("system")
        self._undress()

    def _undress(self) -> None:
        """Give the application the look it had before."""
        application = QApplication.instance()
        assert isinstance(application, QApplication)
        font, palette = self._undressed
        application.setStyleSheet("")
        application.setFont(font)
        application.setPalette(palette)

    def _apply(self, settings: Settings) -> None:
        self.settings = settings
        self.language.set(settings.language)
        self.theme.set_appearance(settings.appearance)
        self.theme.set_font_scale(settings.font_scale)
        self.chat.system_prompt = settings.system_prompt
        self.chat.sampling = replace(
            self.chat.sampling, temperature=settings.temperature, max_tokens=settings.max_tokens
        )


def button(place: QWidget, text: str) -> QPushButton:
    """The button with this text somewhere in ``place``."""
    return next(b for b in place.findChildren(QPushButton) if b.text() == text)
