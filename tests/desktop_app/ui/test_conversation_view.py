"""The centre of the window, with real services: what is shown, what stays, what one can do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QGuiApplication, QWheelEvent
from PySide6.QtWidgets import QAbstractButton, QApplication
from pytestqt.qtbot import QtBot

from desktop_app.ui.controls import IconButton, TextLabel
from desktop_app.ui.correction_editor import CorrectionEditor
from desktop_app.ui.message_card import CompletionCard
from desktop_app.ui.theme import Theme
from desktop_app.ui.virtual_list import ROWS_AROUND
from tests.desktop_app.ui.stage import Stage, click, named


@pytest.fixture
def stage(qtbot: QtBot, tmp_path: Path, theme: Theme) -> Iterator[Stage]:
    stage = Stage(qtbot, tmp_path, theme)
    yield stage
    stage.close()


def scroll(stage: Stage, notches: int) -> None:
    """Turn the wheel; positive is up."""
    viewport = stage.view.list.viewport()
    middle = QPointF(viewport.rect().center())
    event = QWheelEvent(
        middle,
        viewport.mapToGlobal(middle),
        QPoint(),
        QPoint(0, 120 * notches),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(viewport, event)


def is_at_end(stage: Stage) -> bool:
    bar = stage.view.list.verticalScrollBar()
    return bar.value() == bar.maximum()


# --- showing ---


def test_an_empty_conversation_offers_things_to_ask(stage: Stage, qtbot: QtBot) -> None:
    assert stage.view.empty.isVisible()
    button = stage.view.empty.suggestions[0]
    with qtbot.waitSignal(stage.view.suggestion_chosen) as chosen:
        click(qtbot, button)
    assert chosen.args == [button.text()]
    stage.turn("Hello", "Hi!")
    assert not stage.view.empty.isVisible()


def test_a_turn_is_shown_while_it_is_written(stage: Stage) -> None:
    stage.chat.send("안녕하세요 <b>")
    assert stage.user_card().view.toPlainText() == "안녕하세요 <b>"
    indicator = stage.card().indicator
    stage.engine.read_prompt(40, 100)
    assert indicator.isVisible()
    assert "40 %" in indicator.accessibleName()
    stage.engine.read_prompt(100, 100)
    stage.say("**반갑")
    assert "%" not in indicator.accessibleName()
    assert stage.card().view.toPlainText() == "반갑"
    stage.say("습니다**!")
    stage.engine.finish()
    assert stage.card().view.toPlainText() == "반갑습니다!"
    assert not indicator.isVisible()


def test_a_long_conversation_opens_with_few_widgets(stage: Stage) -> None:
    stage.fill(500)
    rows = stage.view.list.rows()
    on_screen = [row for row in rows if not row.visibleRegion().isEmpty()]
    assert len(rows) <= len(on_screen) + 2 * ROWS_AROUND
    assert len(rows) < 20
    assert is_at_end(stage)
    stage.view.list.verticalScrollBar().setValue(0)
    assert stage.user_card(0).view.isVisible()
    assert len(stage.view.list.rows()) < 20


def test_a_message_scrolled_into_sight_while_it_is_written_is_whole(stage: Stage) -> None:
    stage.fill(60)
    stage.chat.send("Go on")
    stage.say("The beginning, ")
    stage.view.list.verticalScrollBar().setValue(0)
    assert stage.view.list.row(stage.messages()[-1].id) is None
    stage.engine.say("the middle, ")
    stage.chat._show_unseen()
    stage.engine.say("not yet shown, ")
    stage.view.scroll_to_end()
    assert stage.card().view.raw == "The beginning, the middle, "
    stage.say("the end")
    assert stage.card().view.raw == "The beginning, the middle, not yet shown, the end"


# --- scrolling ---


def test_the_end_is_followed_only_while_it_is_shown(stage: Stage) -> None:
    stage.fill(20)
    stage.chat.send("More")
    stage.say("line\n\n" * 20)
    assert is_at_end(stage)
    scroll(stage, 2)
    bar = stage.view.list.verticalScrollBar()
    value = bar.value()
    assert not stage.view.list.is_following
    stage.say("line\n\n" * 20)
    assert bar.value() == value
    assert not is_at_end(stage)
    for _ in range(4):  # at most a page each
        scroll(stage, -200)
    assert stage.view.list.is_following
    stage.say("line\n\n" * 5)
    assert is_at_end(stage)


def test_a_text_that_was_clicked_into_does_not_move_while_it_is_written(
    stage: Stage, qtbot: QtBot
) -> None:
    stage.chat.send("Tell me a lot")
    stage.say("line of text\n\n" * 40)
    view = stage.card().view
    in_sight = QPoint(20, view.height() - 20)
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=in_sight)
    assert view.hasFocus()
    stage.say("more of it\n\n" * 5)
    assert is_at_end(stage)


def test_a_button_leads_to_the_latest_message(stage: Stage, qtbot: QtBot) -> None:
    stage.fill(40)
    jump = named_in_list(stage, "Jump to the latest message")
    assert not jump.isVisible()
    scroll(stage, 10)
    click(qtbot, jump)
    assert is_at_end(stage)
    assert not jump.isVisible()


def named_in_list(stage: Stage, name: str) -> QAbstractButton:
    buttons = stage.view.list.findChildren(QAbstractButton)
    return next(b for b in buttons if b.accessibleName() == name)


def test_what_is_read_stays_where_it_is_when_things_above_get_their_real_height(
    stage: Stage,
) -> None:
    ids = stage.fill(80, "# A title\n\n- a\n- b\n\n```\ncode\n```\n")
    bar = stage.view.list.verticalScrollBar()
    bar.setValue(bar.maximum() // 2)
    for _ in range(30):
        seen = {i: y for i in ids if (y := top_of(stage, i)) is not None and 0 <= y < 500}
        scroll(stage, 1)
        moved = {y - seen[i] for i in seen if (y := top_of(stage, i)) is not None}
        assert len(moved) == 1  # everything by the same notch
    resized_from = first_visible(stage, ids)
    stage.view.resize(620, 600)
    assert first_visible(stage, ids) == resized_from


def top_of(stage: Stage, message_id: str) -> int | None:
    row = stage.view.list.row(message_id)
    return None if row is None else row.y()


def first_visible(stage: Stage, ids: list[str]) -> str:
    rows = ((i, stage.view.list.row(i)) for i in ids)
    return next(i for i, row in rows if row is not None and row.geometry().bottom() > 0)


def test_sending_a_message_shows_it(stage: Stage) -> None:
    stage.fill(40)
    scroll(stage, 20)
    stage.chat.send("Here I am")
    assert is_at_end(stage)


# --- doing ---


def test_thumbs_toggle_and_can_be_undone(stage: Stage, qtbot: QtBot) -> None:
    stage.turn("Hello", "Hi!")
    card, message_id = stage.card(), stage.messages()[-1].id

    def standing() -> bool | None:
        rating = stage.feedback.of_message(message_id).rating
        shown = (card.up.isChecked(), card.down.isChecked())
        liked = None if rating is None else rating.liked
        assert shown == (liked is True, liked is False)
        return liked

    click(qtbot, card.up)
    assert standing() is True
    click(qtbot, card.up)
    assert standing() is None
    stage.feedback.undo()
    assert standing() is True
    click(qtbot, card.down)
    assert standing() is False
    stage.feedback.undo()
    assert standing() is True


def test_a_thumb_down_offers_a_correction_which_is_saved(stage: Stage, qtbot: QtBot) -> None:
    stage.turn("Hello", "Go away.")
    click(qtbot, stage.card().down)
    editor = stage.card().editor
    assert isinstance(editor, CorrectionEditor)
    assert editor.text() == "Go away."
    editor.set_text("Good morning!")
    qtbot.keyClick(
        editor.focusWidget() or editor, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier
    )
    qtbot.waitUntil(lambda: stage.card().editor is None)
    correction = stage.feedback.of_message(stage.messages()[-1].id).correction
    assert correction is not None
    assert correction.completion.text == "Good morning!"
    assert correction.corrects is not None
    assert correction.corrects.text == "Go away."
    assert stage.card().corrected.isVisible()


def test_a_correction_is_taken_back_by_the_text_as_it_was(stage: Stage, qtbot: QtBot) -> None:
    stage.turn("Hello", "Go away.")
    answer = stage.messages()[-1].id
    stage.feedback.correct(answer, "Good morning!")
    card = stage.card()
    click(qtbot, card.corrected)
    assert card.editor is not None
    assert card.editor.text() == "Good morning!"
    card.editor.set_text("Go away.")
    qtbot.keyClick(card.editor.focusProxy(), Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: card.editor is None)
    assert stage.feedback.of_message(answer).correction is None
    assert not card.corrected.isVisible()
    stage.feedback.undo()
    assert stage.feedback.of_message(answer).correction is not None
    assert card.corrected.isVisible()


def test_a_correction_can_be_left(stage: Stage, qtbot: QtBot) -> None:
    stage.turn("Hello", "Go away.")
    click(qtbot, stage.card().down)
    editor = stage.card().editor
    assert editor is not None
    qtbot.keyClick(editor.focusWidget() or editor, Qt.Key.Key_Escape)
    assert stage.card().editor is None
    standing = stage.feedback.of_message(stage.messages()[-1].id)
    assert standing.correction is None
    assert standing.rating is not None  # the thumb stays


def test_a_thumb_leaves_a_half_written_correction_open(stage: Stage, qtbot: QtBot) -> None:
    stage.turn("Hello", "Go away.")
    card = stage.card()
    click(qtbot, card.down)
    click(qtbot, card.up)
    assert card.editor is None  # nothing was written in it
    click(qtbot, card.down)
    editor = card.editor
    assert editor is not None
    editor.set_text("Good mor")
    for thumb in (card.up, card.down, card.down):
        click(qtbot, thumb)
        assert card.editor is editor
        assert editor.text() == "Good mor"
    qtbot.keyClick(editor.focusProxy(), Qt.Key.Key_Escape)
    assert card.editor is None


def test_an_open_correction_survives_scrolling_away(stage: Stage, qtbot: QtBot) -> None:
    ids = stage.fill(60)
    click(qtbot, stage.card().down)
    editor = stage.card().editor
    assert editor is not None
    editor.set_text("half writ")
    stage.view.list.verticalScrollBar().setValue(0)
    stage.view.scroll_to_end()
    assert stage.view.list.row(ids[-1]) is not None
    assert stage.card().editor is editor
    assert editor.text() == "half writ"


def test_what_is_being_changed_comes_back_with_its_conversation(stage: Stage, qtbot: QtBot) -> None:
    stage.turn("Helo", "What?")
    first = stage.chat.current_conversation
    click(qtbot, named(stage, 0, "Edit"))
    click(qtbot, stage.card().down)
    for card, text in ((stage.user_card(), "Hell"), (stage.card(), "Good mor")):
        assert card.editor is not None
        card.editor.set_text(text)
    stage.fill(2)
    stage.chat.open_conversation(first)
    for card, text in ((stage.user_card(), "Hell"), (stage.card(), "Good mor")):
        assert card.editor is not None
        assert card.editor.isVisible()
        assert card.editor.text() == text
        qtbot.keyClick(card.editor.focusProxy(), Qt.Key.Key_Escape)
    stage.fill(2)
    stage.chat.open_conversation(first)
    assert (stage.user_card().editor, stage.card().editor) == (None, None)


def test_what_was_changed_and_sent_is_no_draft(stage: Stage, qtbot: QtBot) -> None:
    stage.turn("Helo", "What?")
    click(qtbot, named(stage, 0, "Edit"))
    editor = stage.user_card(0).editor
    assert editor is not None
    editor.saved.emit("Hello")
    stage.engine.answer("Hi!")
    click(qtbot, named(stage, 0, "Previous version"))
    assert stage.user_card(0).view.raw == "Helo"
    assert stage.user_card(0).editor is None


def test_a_correction_half_written_comes_back_with_its_sibling(stage: Stage, qtbot: QtBot) -> None:
    stage.turn("Hello", "First.")
    click(qtbot, stage.card().down)
    editor = stage.card().editor
    assert editor is not None
    editor.set_text("half writ")
    click(qtbot, named(stage, -1, "Write it again"))
    stage.engine.answer("Second.")
    assert stage.card().editor is None
    click(qtbot, named(stage, -1, "Previous version"))
    editor = stage.card().editor
    assert editor is not None
    assert editor.text() == "half writ"


def test_write_it_again_makes_a_sibling_to_switch_to(stage: Stage, qtbot: QtBot) -> None:
    stage.turn("Hello", "First.")
    click(qtbot, named(stage, -1, "Write it again"))
    stage.engine.answer("Second.")
    assert stage.card().view.raw == "Second."
    click(qtbot, named(stage, -1, "Previous version"))
    assert stage.card().view.raw == "First."
    assert not named(stage, -1, "Previous version").isEnabled()
    click(qtbot, named(stage, -1, "Next version"))
    assert stage.card().view.raw == "Second."


def test_an_edited_message_is_a_sibling(stage: Stage, qtbot: QtBot) -> None:
    stage.turn("Helo", "What?")
    click(qtbot, named(stage, 0, "Edit"))
    editor = stage.user_card(0).editor
    assert editor is not None
    assert editor.text() == "Helo"
    editor.set_text("Hello")
    editor.saved.emit(editor.text())
    stage.engine.answer("Hi!")
    assert [m.content for m in stage.messages()] == ["Hello", "Hi!"]
    assert stage.messages()[0].sibling_count == 2


def test_an_edit_stays_open_while_something_is_written(stage: Stage, qtbot: QtBot) -> None:
    stage.turn("Helo", "What?")
    click(qtbot, named(stage, 0, "Edit"))
    editor = stage.user_card(0).editor
    assert editor is not None
    editor.set_text("Hello")
    stage.chat.send("Something else")
    save = next(b for b in editor.findChildren(QAbstractButton) if b.text() == "Send again")
    assert not save.isEnabled()
    stage.engine.answer("Yes?")
    assert stage.user_card(0).editor is editor
    assert editor.text() == "Hello"
    click(qtbot, save)
    qtbot.waitUntil(lambda: stage.chat.is_busy)
    stage.engine.answer("Hi!")
    assert [m.content for m in stage.messages()] == ["Hello", "Hi!"]


def test_copying_a_message_gives_its_markdown(stage: Stage, qtbot: QtBot) -> None:
    stage.turn("Hello", "**Hi** `x`")
    click(qtbot, named(stage, -1, "Copy"))
    assert QGuiApplication.clipboard().text() == "**Hi** `x`"


def test_nothing_can_be_asked_for_while_a_completion_is_written(stage: Stage) -> None:
    stage.turn("Hello", "Hi!")
    stage.chat.send("Again")
    assert not named(stage, 1, "Write it again").isEnabled()
    assert not named(stage, 0, "Edit").isEnabled()
    stage.engine.answer("Yes")
    assert named(stage, 1, "Write it again").isEnabled()


# --- what went wrong ---


def test_an_interrupted_completion_says_so_and_can_be_written_again(
    stage: Stage, qtbot: QtBot
) -> None:
    stage.chat.send("Hello")
    stage.say("Once upon")
    stage.engine.die()
    card = stage.card()
    assert card.view.raw == "Once upon"
    assert not card.up.isVisible()  # not whole: nothing to learn from
    click(qtbot, card.again)
    stage.engine.answer("Once upon a time.")
    assert stage.card().view.raw == "Once upon a time."


def test_the_note_of_an_interrupted_completion_wraps_where_it_is_narrow(stage: Stage) -> None:
    stage.chat.send("Hello")
    stage.say("Once upon")
    stage.engine.die()
    card = stage.card()
    note = next(label for label in card.findChildren(TextLabel) if "stopped" in label.text())

    def needed() -> int:
        return note.heightForWidth(note.width())

    two_lines = 2 * note.fontMetrics().lineSpacing()
    assert needed() < two_lines
    stage.view.resize(300, 600)
    assert two_lines <= needed() <= note.height()
    assert card.again.mapTo(card, card.again.rect().topRight()).x() < card.width()


def test_a_stopped_completion_keeps_its_text(stage: Stage) -> None:
    stage.chat.send("Hello")
    stage.say("Once upon")
    stage.chat.stop()
    stage.engine.finish("stopped")
    assert stage.messages()[-1].state == "stopped"
    card = stage.card()
    assert card.view.raw == "Once upon"
    assert card.up.isVisible()
    assert card.go_on.isVisible()
    card.up.click()  # what was judged stays what it was
    assert not card.go_on.isVisible()
    card.up.click()
    assert card.go_on.isVisible()
    card_id = stage.messages()[-1].id
    stage.turn("And now?", "This.")
    older = stage.view.list.row(card_id)
    assert isinstance(older, CompletionCard)
    assert not older.go_on.isVisible()  # what follows was written to the text as it is


def test_a_message_that_was_never_answered_offers_to_be(stage: Stage, qtbot: QtBot) -> None:
    conversation = stage.store.create_conversation()
    stage.store.add_message(conversation.id, None, "user", "Is anybody there?")
    stage.chat.open_conversation(conversation.id)
    click(qtbot, stage.user_card(-1).answer)
    stage.engine.answer("Yes!")
    assert [m.content for m in stage.messages()] == ["Is anybody there?", "Yes!"]
    assert not stage.user_card().answer.isVisible()


# --- looks ---


def test_icons_below_a_message_are_of_one_size_and_grow_with_the_text(
    stage: Stage, qtbot: QtBot, theme: Theme
) -> None:
    stage.turn("Hello", "Hi!")
    click(qtbot, stage.card().up)

    def sizes() -> set[int]:
        return {button.iconSize().width() for button in stage.card().findChildren(IconButton)}

    assert sizes() == {16}
    theme.set_font_scale(1.5)
    assert sizes() == {24}


def test_tab_goes_through_everything_in_the_order_it_is_seen(stage: Stage, qtbot: QtBot) -> None:
    stage.fill(30)
    scroll(stage, 40)  # rows above are made later than those below
    stage.view.activateWindow()
    stage.view.list.setFocus()
    places = []
    for _ in range(25):
        qtbot.keyClick(QApplication.focusWidget() or stage.view, Qt.Key.Key_Tab)
        focused = QApplication.focusWidget()
        assert focused is not None
        assert focused.accessibleName()
        top = focused.mapTo(stage.view.list.viewport(), QPoint()).y()
        assert -focused.height() < top < stage.view.list.viewport().height()
        places.append(top + stage.view.list.verticalScrollBar().value())
    assert places == sorted(places)
