"""Takes the screenshots of the README: the real window, the bundled model, a real training.

    python packaging/screenshots.py [FOLDER]

Nothing is arranged by hand: a person is simulated who asks, rates and compares, and the
pictures show what the window shows then. Needs the set-up of ``bootstrap.py test`` and a
Korean font.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[0] = str(REPOSITORY)  # not this folder: its name is that of a library

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QElapsedTimer, QEventLoop, QTimer  # noqa: E402
from PySide6.QtWidgets import QApplication  # noqa: E402

from desktop_app.app import App, Options  # noqa: E402
from desktop_app.paths import open_profile  # noqa: E402
from desktop_app.services.learning_service import LearningService, Progress  # noqa: E402
from desktop_app.settings import Settings  # noqa: E402
from finetune.contract.recipe import PpoRecipe, Recipe  # noqa: E402

SIZE = (1200, 800)
ENGLISH = ("Hi", "How are you?", "I feel sad.", "Thank you")
KOREAN = ("안녕하세요", "잘 지내요?", "오늘 좀 피곤해요", "고마워요")
MORE = (
    "What is your name?", "Thank you!", "I like music.", "It is raining.", "I feel sad.",
    "What should I eat tonight?", "Good morning!", "Tell me about cats.", "Can you help me?",
    "비가 와요", "고마워요", "심심해", "이름이 뭐예요?", "저녁 뭐 먹지?", "주말에 뭐 할까?",
)  # fmt: skip


class Photographer:
    """One window, used and photographed."""

    def __init__(self, profile: Path, folder: Path) -> None:
        self._folder = folder
        self.app = App(open_profile(profile), Options())
        self.app.window.resize(*SIZE)
        self.app.start()
        self.wait(lambda: self.app.chat.engine.state.status == "ready")

    def wait(self, condition: Callable[[], bool], seconds: float = 900.0) -> None:
        """Let the window live until something has happened."""
        clock = QElapsedTimer()
        clock.start()
        while not condition():
            self.rest(30)
            if clock.elapsed() > seconds * 1000:
                raise TimeoutError("The window did not come to the awaited state.")

    def rest(self, milliseconds: int) -> None:
        loop = QEventLoop()
        QTimer.singleShot(milliseconds, loop.quit)
        loop.exec()

    def dress(self, appearance: str, language: str) -> None:
        settings = replace(Settings(), appearance=appearance, language=language)  # type: ignore[arg-type]
        self.app._change_settings(settings)

    def picture(self, name: str) -> None:
        self.rest(400)
        self.app.window.grab().save(str(self._folder / f"{name}.png"))

    def ask(self, text: str, *, compare: bool = False) -> None:
        self.app.chat.send(text, compare=compare)
        self.wait(lambda: not self.app.chat.is_busy)

    def talk(self, prompts: tuple[str, ...]) -> None:
        """A conversation in which every answer gets a thumb."""
        self.app.chat.new_conversation()
        for prompt in prompts:
            self.ask(prompt)
            answer = self.app.chat.messages(self.app.chat.current_conversation)[-1]
            self.app.feedback.rate(answer.id, len(answer.content) < 80)

    def prefer_the_shorter(self, prompt: str) -> None:
        self.app.chat.new_conversation()
        self.ask(prompt, compare=True)
        pending = self.app.chat.pending_comparison
        if pending is not None:
            shorter = min(pending.message_ids, key=lambda i: len(self.app.chat.message(i).content))
            self.app.feedback.compare(pending.message_ids, shorter, "ordered")
            self.app.chat.choose(shorter)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    application = QApplication(["attune"])
    application.setQuitOnLastWindowClosed(False)
    with tempfile.TemporaryDirectory() as profile:
        camera = Photographer(Path(profile), folder)
        app = camera.app
        camera.dress("light", "en")
        camera.picture("empty-light-en")
        camera.talk(ENGLISH)
        camera.picture("chat-light-en")
        camera.dress("dark", "ko")
        camera.talk(KOREAN)
        camera.picture("chat-dark-ko")
        camera.dress("light", "en")
        for prompt in MORE * 3:
            camera.prefer_the_shorter(prompt)
        app.chat.new_conversation()
        camera.ask("What is your favourite season?", compare=True)
        camera.picture("comparison-light-en")

        app.window.show_panel(True)
        camera.picture("feedback-light-en")
        train(camera, app.learning)
        app.close()


def train(camera: Photographer, learning: LearningService) -> None:
    """Press the button; a picture in the middle of PPO, and the result."""
    progress: list[Progress] = []
    ended: list[object] = []
    learning.progress_changed.connect(progress.append)
    learning.run_ended.connect(ended.append)
    learning.start(Recipe(ppo=replace(PpoRecipe(), steps=16, learning_rate=1e-3)))
    camera.wait(
        lambda: (
            bool(ended)
            or (bool(progress) and progress[-1].stage == "ppo" and progress[-1].step >= 8)
        )
    )
    camera.dress("dark", "en")
    camera.picture("learning-dark-en")
    camera.wait(lambda: bool(ended))
    print(ended[0])
    camera.dress("light", "ko")
    camera.picture("offer-light-ko")
    if learning.offered is not None:
        questions: list[object] = []
        learning.trial_question.connect(questions.append)
        camera.app.window.panel.trial_requested.emit(learning.offered.version_id)
        camera.wait(lambda: bool(questions))
        camera.dress("light", "en")
        camera.picture("trial-light-en")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "resources" / "screenshots")
