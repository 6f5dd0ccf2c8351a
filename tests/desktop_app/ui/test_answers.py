"""Answers that are not as they should be, the way to their versions, and what is heard of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from desktop_app.inference.engine import StopReason
from desktop_app.ui.controls import TextLabel
from desktop_app.ui.theme import Theme
from tests.desktop_app.ui.stage import Stage, click, named


@pytest.fixture
def stage(qtbot: QtBot, tmp_path: Path, theme: Theme) -> Iterator[Stage]:
    stage = Stage(qtbot, tmp_path, theme)
    yield stage
    stage.close()


# --- what went wrong ---


@pytest.mark.parametrize("reason", ["stopped", "end_of_turn"])
def test_an_answer_without_words_leads_to_its_siblings_and_can_be_written_again(
    stage: Stage, qtbot: QtBot, reason: StopReason
) -> None:
    stage.turn("Hello", "First.")
    click(qtbot, named(stage, -1, "Write it again"))
    stage.engine.finish(reason)
    card = stage.card()
    notes = {"stopped": "The answer is not finished.", "end_of_turn": "The answer is empty."}
    assert next(t.text() for t in card.findChildren(TextLabel) if t.isVisible()) == notes[reason]
    assert not card.up.isVisible()
    assert not card.go_on.isVisible()
    click(qtbot, named(stage, -1, "Previous version"))
    assert stage.card().view.raw == "First."
    assert not stage.card().again.isVisible()
    click(qtbot, named(stage, -1, "Next version"))
    click(qtbot, stage.card().again)
    stage.engine.answer("Third.")
    assert stage.messages()[-1].sibling_count == 3


@pytest.mark.parametrize("reason", ["max_tokens", "context_full"])
def test_an_answer_that_ran_out_of_room_says_so_and_goes_on(
    stage: Stage, qtbot: QtBot, reason: StopReason
) -> None:
    stage.chat.send("Hello")
    stage.say("Once upon")
    stage.engine.finish(reason)
    card = stage.card()
    assert any(t.text() == "The answer is not finished." for t in card.findChildren(TextLabel))
    click(qtbot, card.go_on)
    stage.engine.answer(" a time.")
    assert stage.card().view.raw == "Once upon a time."
    assert not stage.card().go_on.isVisible()


# --- keyboard ---


@pytest.mark.parametrize("place", [0, 1])
def test_who_goes_through_versions_by_keyboard_stays_at_the_switch(
    stage: Stage, qtbot: QtBot, place: int
) -> None:
    stage.turn("Hello", "First.")
    for text in ("Second.", "Third."):
        if place:
            stage.chat.regenerate(stage.messages()[1].id)
        else:
            stage.chat.edit(stage.messages()[0].id, text)
        stage.engine.answer(text)
    stage.view.activateWindow()
    named(stage, place, "Previous version").setFocus(Qt.FocusReason.TabFocusReason)
    for name in ("Previous version", "Next version"):  # at the first one there is no way back
        qtbot.keyClick(stage.view.window().focusWidget() or stage.view, Qt.Key.Key_Space)
        assert stage.view.window().focusWidget() is named(stage, place, name)
    assert stage.messages()[1].content == "First."


def test_the_switch_is_brought_into_sight_where_another_version_is_far_longer(
    stage: Stage, qtbot: QtBot
) -> None:
    stage.fill(60)
    stage.chat.edit(stage.messages()[0].id, "Another beginning")
    stage.engine.answer("Short.")
    stage.view.activateWindow()
    named(stage, 0, "Previous version").setFocus(Qt.FocusReason.TabFocusReason)
    qtbot.keyClick(stage.view.window().focusWidget() or stage.view, Qt.Key.Key_Space)
    focused = stage.view.window().focusWidget()
    assert focused is named(stage, 0, "Next version")
    assert not focused.visibleRegion().isEmpty()


# --- what is heard ---


def test_an_answer_is_announced_when_it_is_whole(stage: Stage, heard: list[str]) -> None:
    stage.chat.send("Hello")
    stage.say("**Good** ")
    assert heard == []
    stage.say("morning!")
    stage.engine.finish()
    assert heard == ["Good morning!"]
    click(stage.qtbot, named(stage, -1, "Write it again"))
    stage.engine.answer("Hi!")
    click(stage.qtbot, named(stage, -1, "Previous version"))
    assert heard == ["Good morning!", "Hi!"]


def test_an_answer_that_is_not_whole_is_announced_as_what_it_is(
    stage: Stage, heard: list[str]
) -> None:
    stage.chat.send("Hello")
    stage.say("Once upon")
    stage.engine.finish("max_tokens")
    stage.turn("And?", "")
    stage.chat.send("Again")
    stage.say("A time")
    stage.engine.die()
    assert heard == [
        "Once upon The answer is not finished.",
        "The answer is empty.",
        "The model stopped while writing this.",
    ]


def test_an_answer_out_of_sight_is_announced_too(stage: Stage, heard: list[str]) -> None:
    stage.fill(60)
    stage.chat.send("More")
    stage.say("Here it is.")
    stage.view.list.verticalScrollBar().setValue(0)
    stage.engine.finish()
    assert heard == ["Here it is."]
