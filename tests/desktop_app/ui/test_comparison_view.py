"""Two completions side by side, and what the choice leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtGui import QInputMethodEvent
from pytestqt.qtbot import QtBot

from desktop_app.settings import Settings
from desktop_app.ui.comparison_view import ComparisonView
from desktop_app.ui.controls import Button, TextLabel
from desktop_app.ui.theme import Theme
from finetune.contract.records import Comparison, Verdict
from tests.desktop_app.ui.home import Home
from tests.desktop_app.ui.stage import Stage


@pytest.fixture
def stage(qtbot: QtBot, tmp_path: Path, theme: Theme) -> Iterator[Stage]:
    stage = Stage(qtbot, tmp_path, theme)
    yield stage
    stage.close()


def begin_in_window(home: Home) -> ComparisonView:
    """A comparison is being written, and the keyboard is in the composer."""
    window = home.window
    window.activateWindow()
    window.composer.setFocus()
    home.qtbot.waitUntil(window.composer.field.hasFocus)
    home.chat.send("three four five six", compare=True)
    return next(row for row in window.view.list.rows() if isinstance(row, ComparisonView))


def wait_for_both(home: Home) -> None:
    home.qtbot.waitUntil(lambda: home.chat.pending_comparison is not None and not home.chat.is_busy)


def record(stage: Stage) -> Comparison:
    (only,) = stage.feedback_store.standing()
    assert isinstance(only, Comparison)
    return only


@pytest.mark.parametrize(
    ("key", "place", "verdict", "ranks"),
    [
        (Qt.Key.Key_1, 0, "ordered", (0, 1)),
        (Qt.Key.Key_2, 1, "ordered", (1, 0)),
        (Qt.Key.Key_Equal, 0, "all_good", (0, 0)),
        (Qt.Key.Key_0, 0, "all_bad", (0, 0)),
    ],
)
def test_a_key_keeps_the_choice_and_goes_on_with_it(
    stage: Stage, qtbot: QtBot, key: Qt.Key, place: int, verdict: Verdict, ranks: tuple[int, int]
) -> None:
    stage.turn("Which?", "The first one.", "The second one.")
    pending = stage.chat.pending_comparison
    assert pending is not None
    qtbot.keyClick(stage.comparison(), key)
    assert record(stage).verdict == verdict
    assert record(stage).ranks == ranks
    texts = [stage.chat.message(i).content for i in pending.message_ids]
    assert [c.text for c in record(stage).completions] == texts
    assert stage.messages()[-1].id == pending.message_ids[place]
    assert stage.card().view.raw == texts[place]
    assert stage.messages()[-1].sibling_count == 2
    assert stage.chat.pending_comparison is None


def test_it_is_blind_and_in_the_order_drawn_by_lot(stage: Stage) -> None:
    stage.turn("Which?", "The first one.", "The second one.")
    pending = stage.chat.pending_comparison
    assert pending is not None
    sides = stage.comparison().sides
    assert [s.view.raw for s in sides] == [
        stage.chat.message(i).content for i in pending.message_ids
    ]
    assert [s.letter for s in sides] == ["A", "B"]


def test_both_are_written_at_once_and_can_be_judged_when_both_are_complete(
    stage: Stage, qtbot: QtBot
) -> None:
    stage.chat.send("Which?", compare=True)
    comparison = stage.comparison()
    stage.say("One ", 0)
    stage.say("Two ", 1)
    assert sorted(side.view.raw for side in comparison.sides) == ["One ", "Two "]
    qtbot.keyClick(comparison, Qt.Key.Key_1)
    assert stage.feedback_store.standing() == []
    assert not comparison.both_good.isEnabled()
    stage.engine.finish()
    assert comparison.both_good.isEnabled()
    qtbot.mouseClick(comparison.sides[1].choose, Qt.MouseButton.LeftButton)
    assert record(stage).ranks == (1, 0)


def test_skipping_is_no_judgement(stage: Stage, qtbot: QtBot) -> None:
    stage.turn("Which?", "The first one.", "The second one.")
    qtbot.mouseClick(stage.comparison().skip, Qt.MouseButton.LeftButton)
    assert stage.feedback_store.standing() == []
    assert stage.chat.pending_comparison is None
    assert stage.card().isVisible()


def test_a_stopped_comparison_becomes_a_plain_completion(stage: Stage) -> None:
    stage.chat.send("Which?", compare=True)
    stage.say("Half", 0)
    stage.say("A half", 1)
    stage.chat.stop()
    stage.engine.finish("stopped")
    assert stage.chat.pending_comparison is None
    assert stage.messages()[-1].state == "stopped"
    assert stage.card().isVisible()


@pytest.mark.parametrize("is_left", [False, True])
def test_a_stopped_comparison_goes_on_with_the_whole_side(stage: Stage, is_left: bool) -> None:
    """Whatever the lot says, and also where the conversation was left."""
    conversation = stage.chat.current_conversation
    for whole in (0, 1, 0, 1):
        stage.chat.send("Which?", compare=True)
        stage.say("The whole one.", whole)
        stage.engine.end(whole)
        stage.say("Half", 1 - whole)
        if is_left:
            stage.fill(2)
        stage.chat.stop()
        stage.engine.finish("stopped")
        stage.chat.open_conversation(conversation)
        assert stage.chat.pending_comparison is None
        assert stage.messages()[-1].content == "The whole one."
        assert stage.card().isVisible()


def test_a_side_that_ran_out_of_room_can_be_chosen(stage: Stage, qtbot: QtBot) -> None:
    stage.chat.send("Which?", compare=True)
    stage.say("The whole one.", 0)
    stage.engine.end(0)
    stage.say("A long one that", 1)
    stage.engine.finish("max_tokens")
    qtbot.keyClick(stage.comparison(), Qt.Key.Key_1)
    assert record(stage).verdict == "ordered"


def test_a_side_without_words_that_ran_out_of_room_is_no_choice(stage: Stage) -> None:
    stage.chat.send("Which?", compare=True)
    stage.say("The whole one.", 0)
    stage.engine.end(0)
    stage.engine.finish("context_full")
    assert stage.chat.pending_comparison is None
    assert stage.messages()[-1].content == "The whole one."


def test_a_comparison_that_waits_is_announced(stage: Stage, heard: list[str]) -> None:
    stage.turn("Which?", "The first one.", "The second one.")
    assert heard == ["Two answers wait for your choice."]


def test_an_older_completion_can_be_compared_with_new_ones(stage: Stage, qtbot: QtBot) -> None:
    stage.turn("Hello", "Hi!")
    stage.chat.regenerate(stage.messages()[-1].id, compare=True)
    stage.engine.answer("Good day.", "Good night.")
    qtbot.keyClick(stage.comparison(), Qt.Key.Key_2)
    assert stage.messages()[-1].sibling_count == 3


def test_it_stands_side_by_side_where_there_is_room(stage: Stage) -> None:
    stage.turn("Which?", "The first one.", "The second one.")

    def places() -> tuple[bool, bool]:
        first, second = (side.geometry() for side in stage.comparison().sides)
        return first.top() == second.top(), first.left() == second.left()

    stage.view.resize(1100, 600)
    assert places() == (True, False)
    stage.view.resize(480, 600)
    assert places() == (False, True)


def test_the_keys_do_not_interrupt_somebody_who_writes(stage: Stage, qtbot: QtBot) -> None:
    stage.turn("Hello", "Hi!")
    stage.user_card().begin_edit()
    editor = stage.user_card().editor
    assert editor is not None
    focused = editor.focusWidget() or editor
    stage.turn("Which?", "The first one.", "The second one.")
    qtbot.keyClicks(focused, "1")
    assert stage.chat.pending_comparison is not None
    assert stage.feedback_store.standing() == []


def test_the_keys_go_back_to_the_composer_after_the_choice(qtbot: QtBot, home: Home) -> None:
    comparison = begin_in_window(home)
    wait_for_both(home)
    assert comparison.hasFocus()
    qtbot.keyClick(comparison, Qt.Key.Key_1)
    assert home.chat.pending_comparison is None
    assert home.window.composer.field.hasFocus()


def test_a_syllable_in_composition_is_not_interrupted(home: Home) -> None:
    comparison = begin_in_window(home)
    field = home.window.composer.field
    QCoreApplication.sendEvent(field, QInputMethodEvent("네", []))
    wait_for_both(home)
    assert not comparison.hasFocus()
    assert field.is_composing


def test_large_words_are_not_cut(open_home: Callable[..., Home]) -> None:
    home = open_home(settings=Settings(language="en", font_scale=2.0))
    comparison = begin_in_window(home)
    wait_for_both(home)
    shown = [w for w in comparison.findChildren(Button) if w.isVisible()]
    assert len(shown) == 5
    assert all(button.height() >= button.sizeHint().height() for button in shown)
    for label in comparison.findChildren(TextLabel):
        assert not label.isVisible() or label.height() >= label.fontMetrics().height()
