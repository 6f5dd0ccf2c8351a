"""What a model thought is folded away above its answer, and is no part of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from pytestqt.qtbot import QtBot

from desktop_app.storage.chat_store import Reasoning
from desktop_app.ui.reasoning_view import ReasoningView
from desktop_app.ui.theme import Theme
from tests.desktop_app.ui.stage import Stage

THOUGHT = "The person greets me.\n\nI greet *back*."


@pytest.fixture
def stage(qtbot: QtBot, tmp_path: Path, theme: Theme) -> Iterator[Stage]:
    stage = Stage(qtbot, tmp_path, theme)
    yield stage
    stage.close()


def think(stage: Stage, text: str) -> None:
    stage.engine.think(text)
    stage.chat._show_unseen()


def test_a_thought_is_folded_above_the_answer_and_says_how_long_it_took(stage: Stage) -> None:
    stage.chat.send("Hello")
    think(stage, THOUGHT[:10])
    shown = stage.card().reasoning
    assert shown.isVisible()
    assert shown.button.text() == "Thinking…"
    think(stage, THOUGHT[10:])
    stage.say("Hi!")
    assert shown.button.text() == "Thought for a moment"
    stage.engine.finish(thought_for=12.4)
    assert shown.button.text() == "Thought for 12 s"
    assert shown.view is None
    assert stage.card().view.toPlainText() == "Hi!"
    assert shown.geometry().bottom() < stage.card().view.geometry().top()


@pytest.mark.parametrize("key", [Qt.Key.Key_Space, Qt.Key.Key_Return])
def test_keys_unfold_and_fold_it_and_a_screen_reader_hears_which(
    stage: Stage, qtbot: QtBot, key: Qt.Key
) -> None:
    stage.chat.send("Hello")
    think(stage, THOUGHT)
    stage.say("Hi!")
    stage.engine.finish(thought_for=75)
    shown = stage.card().reasoning
    folded = stage.card().height()
    assert shown.button.focusPolicy() & Qt.FocusPolicy.TabFocus
    assert shown.button.accessibleName() == "Thought for 1 min 15 s. Show it"
    qtbot.keyClick(shown.button, key)
    assert shown.button.accessibleName() == "Thought for 1 min 15 s. Hide it"
    assert shown.view is not None
    assert shown.view.isVisible()
    assert "I greet back." in shown.view.toPlainText()
    assert stage.card().height() > folded
    qtbot.keyClick(shown.button, key)
    assert not shown.view.isVisible()
    assert stage.card().height() == folded


def test_an_unfolded_thought_grows_while_it_is_thought(stage: Stage, qtbot: QtBot) -> None:
    stage.chat.send("Hello")
    think(stage, "First.")
    shown = stage.card().reasoning
    shown.button.toggle()
    think(stage, " Second.")
    assert shown.view is not None
    qtbot.waitUntil(lambda: shown.view is not None and "Second" in shown.view.toPlainText())


def test_copying_rating_and_correcting_are_about_the_answer(stage: Stage, qtbot: QtBot) -> None:
    stage.chat.send("Hello")
    think(stage, THOUGHT)
    stage.say("Hi!")
    stage.engine.finish()
    card = stage.card()
    card.view.copy_all()
    assert QGuiApplication.clipboard().text() == "Hi!"
    stage.feedback.rate(stage.messages()[-1].id, True)
    (record,) = stage.feedback_store.standing()
    assert record.completion.text == "Hi!"  # type: ignore[union-attr]
    assert THOUGHT not in str(record)
    card.begin_correction()
    assert card.editor is not None
    assert card.editor.text() == "Hi!"


def test_a_message_that_was_stopped_while_thinking_can_be_gone_on_with(stage: Stage) -> None:
    stage.chat.send("Hello")
    think(stage, "Well")
    stage.engine.finish("stopped")
    card = stage.card()
    assert card.go_on.isVisible()
    assert not card.up.isVisible()  # there is no answer to judge
    stage.chat.go_on(stage.messages()[-1].id)
    assert stage.engine.request is not None
    assert (stage.engine.request.reasoning, stage.engine.request.beginning) == ("Well", "")
    think(stage, ", well")
    stage.say("Hi!")
    stage.engine.finish()
    message = stage.messages()[-1]
    assert (message.reasoning.text, message.content) == ("Well, well", "Hi!")


def test_a_comparison_shows_the_answers_alone(stage: Stage) -> None:
    stage.chat.send("Hello", compare=True)
    stage.engine.think(THOUGHT, 0)
    stage.engine.say("One", 0)
    stage.engine.say("Two", 1)
    stage.engine.finish()
    assert {side.view.raw for side in stage.comparison().sides} == {"One", "Two"}


def test_it_is_told_in_the_language_of_the_window(theme: Theme, qtbot: QtBot) -> None:
    view = ReasoningView(theme)
    qtbot.addWidget(view)
    view.show_reasoning(Reasoning("a", 0.2), is_thinking=False)
    assert view.button.text() == "Thought for a moment"
    view.show_reasoning(Reasoning("a", 59.4), is_thinking=False)
    assert view.button.text() == "Thought for 59 s"
    view.show_reasoning(Reasoning("a", 60.0), is_thinking=False)
    assert view.button.text() == "Thought for 1 min 0 s"
