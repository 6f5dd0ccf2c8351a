"""The side bar: days, search, renaming, the trash."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import pytest
from PySide6.QtCore import QEvent, Qt
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QLineEdit
from pytestqt.qtbot import QtBot

from desktop_app.ui.conversation_rows import EXCERPT_ROLE, ID_ROLE
from tests.desktop_app.ui.home import Home, button


def titles(home: Home) -> list[str]:
    model = home.window.conversations.model
    return [str(model.index(row).data()) for row in range(model.rowCount())]


def search(home: Home, words: str) -> list[str]:
    conversations = home.window.conversations
    conversations.search.setText(words)
    conversations.refresh()
    return titles(home)


def test_conversations_stand_under_the_day_they_were_used(home: Home) -> None:
    home.add_conversation("Old one")
    last_week = (datetime.now(UTC) - timedelta(days=30)).isoformat()
    with home.database.transaction() as connection:
        connection.execute("UPDATE conversations SET updated_at = ?", (last_week,))
    home.add_conversation("New one")
    assert titles(home)[:3] == ["Today", "New one", "Earlier"]
    assert "Old one" in titles(home)[3:]


def test_headings_cannot_be_chosen(home: Home) -> None:
    model = home.window.conversations.model
    assert model.flags(model.index(0)) == Qt.ItemFlag.NoItemFlags
    assert not model.index(0).data(ID_ROLE)


def test_search_finds_titles_and_words_inside_messages(home: Home) -> None:
    home.add_conversation("Trip to Busan", "where to go", "Take the beach train.")
    home.add_conversation("저녁 메뉴", "뭐 먹을까?", "김치볶음밥은 어때요?")
    assert search(home, "busan") == ["Trip to Busan"]
    assert search(home, "beach") == ["Trip to Busan"]
    assert search(home, "볶음") == ["저녁 메뉴"]
    model = home.window.conversations.model
    assert "볶음" in str(model.index(0).data(EXCERPT_ROLE))
    assert search(home, 'nowhere "AND" *') == []
    home.window.escape()


def test_escape_leaves_the_search(qtbot: QtBot, home: Home) -> None:
    home.window.activateWindow()
    home.window.search()
    qtbot.waitUntil(home.window.conversations.search.hasFocus)
    home.window.conversations.search.setText("something")
    home.window.escape()
    assert home.window.conversations.search.text() == ""


def test_a_click_opens_a_conversation(qtbot: QtBot, home: Home) -> None:
    home.add_conversation("Open me")
    conversations = home.window.conversations
    row = titles(home).index("Open me")
    place = conversations.view.visualRect(conversations.model.index(row)).center()
    qtbot.mouseClick(
        conversations.view.viewport(), Qt.MouseButton.LeftButton, Qt.KeyboardModifier(0), place
    )
    assert home.window.header.title.text() == "Open me"


def test_arrow_keys_move_without_opening_and_enter_opens(qtbot: QtBot, home: Home) -> None:
    home.add_conversation("Below")
    home.add_conversation("Above")
    conversations = home.window.conversations
    view = conversations.view
    view.setFocus()
    view.setCurrentIndex(conversations.model.index(1))
    before = home.chat.current_conversation
    qtbot.keyClick(view, Qt.Key.Key_Down)
    assert home.chat.current_conversation == before
    assert str(view.currentIndex().data()) == "Below"
    qtbot.keyClick(view, Qt.Key.Key_Return)
    assert home.window.header.title.text() == "Below"


def test_a_click_leaves_the_keys_to_the_composer(qtbot: QtBot, home: Home) -> None:
    home.add_conversation("Open me")
    window, conversations = home.window, home.window.conversations
    window.activateWindow()
    view = conversations.view
    place = view.visualRect(conversations.model.index(titles(home).index("Open me"))).center()
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=place)
    qtbot.waitUntil(window.composer.field.hasFocus)
    view.setFocus()
    qtbot.waitUntil(view.hasFocus)
    qtbot.mouseClick(conversations.new_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(window.composer.field.hasFocus)


def test_the_row_gone_to_by_keys_stays_when_the_list_is_read_again(
    qtbot: QtBot, home: Home
) -> None:
    home.add_conversation("Gone to")
    home.add_conversation("Other")
    home.window.activateWindow()
    conversations = home.window.conversations
    view = conversations.view
    view.setFocus()
    qtbot.waitUntil(view.hasFocus)
    view.setCurrentIndex(conversations.model.index(titles(home).index("Gone to")))
    home.add_conversation("Above")
    assert str(view.currentIndex().data()) == "Gone to"
    home.window.composer.setFocus()
    qtbot.waitUntil(lambda: not view.hasFocus())
    assert view.currentIndex().data(ID_ROLE) == home.chat.current_conversation


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac's key for deleting is Backspace")
def test_backspace_deletes_no_conversation(qtbot: QtBot, home: Home) -> None:
    home.add_conversation("Precious")
    conversations = home.window.conversations
    row = titles(home).index("Precious")
    conversations.view.setCurrentIndex(conversations.model.index(row))
    qtbot.keyClick(conversations.view, Qt.Key.Key_Backspace)
    assert "Precious" in titles(home)


def test_f2_renames_in_the_list(qtbot: QtBot, home: Home) -> None:
    message = home.store.message(home.add_conversation("Wrong"))
    conversations = home.window.conversations
    conversations.rename(message.conversation_id)
    editor = conversations.view.findChild(QLineEdit)
    assert editor is not None
    assert editor.accessibleName()
    editor.setText("  Right  ")
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: "Right" in titles(home))
    assert home.store.conversation(message.conversation_id).title == "Right"


def test_delete_moves_to_the_trash_and_undo_brings_back(qtbot: QtBot, home: Home) -> None:
    message = home.store.message(home.add_conversation("<b>Precious</b>"))
    conversations = home.window.conversations
    row = conversations.model.row_of(message.conversation_id)
    conversations.view.setCurrentIndex(conversations.model.index(row))
    qtbot.keyClick(conversations.view, Qt.Key.Key_Delete)
    assert "<b>Precious</b>" not in titles(home)
    notice = home.window.notices.notice("deleted")
    assert notice is not None
    assert "<b>Precious</b>" in notice.accessibleName()
    button(notice, "Undo").click()
    assert "<b>Precious</b>" in titles(home)
    assert home.window.notices.notice("deleted") is None


def test_several_deletions_come_back_together_and_a_held_key_deletes_one(
    qtbot: QtBot, home: Home
) -> None:
    for name in ("One", "Two", "Three"):
        home.add_conversation(name)
    before = set(titles(home))
    conversations = home.window.conversations
    for name in ("One", "Two"):
        conversations.delete(next(c.id for c in home.chat.conversations() if c.title == name))
    held = QKeyEvent(
        QEvent.Type.KeyPress,
        Qt.Key.Key_Delete,
        Qt.KeyboardModifier.NoModifier,
        autorep=True,
    )
    conversations.view.keyPressEvent(held)
    assert set(titles(home)) == before - {"One", "Two"}
    notice = home.window.notices.notice("deleted")
    assert notice is not None
    assert notice.accessibleName() == "2 conversations were deleted."
    button(notice, "Undo").click()
    assert set(titles(home)) == before


def test_undoing_several_deletions_shows_what_was_open_before_them(home: Home) -> None:
    for name in ("One", "Two", "Three"):
        home.add_conversation(name)
    ids = {c.title: c.id for c in home.chat.conversations()}
    home.chat.open_conversation(ids["Two"])
    for _ in range(2):  # the second one is what was opened instead of the first
        home.window.conversations.delete(home.chat.current_conversation)
    notice = home.window.notices.notice("deleted")
    assert notice is not None
    button(notice, "Undo").click()
    assert home.chat.current_conversation == ids["Two"]


def test_undo_does_not_stop_an_answer_that_is_written_elsewhere(home: Home) -> None:
    home.add_conversation("Precious")
    home.chat.open_conversation(home.chat.conversations()[0].id)
    home.window.conversations.delete(home.chat.current_conversation)
    elsewhere = home.chat.current_conversation
    home.engine.is_held = True
    home.chat.send("one two three")
    notice = home.window.notices.notice("deleted")
    assert notice is not None
    button(notice, "Undo").click()
    assert "Precious" in titles(home)
    assert home.chat.current_conversation == elsewhere
    home.engine.is_held = False
    home.qtbot.waitUntil(lambda: not home.chat.is_busy)
    assert home.chat.messages(elsewhere)[-1].state == "done"


def test_feedback_of_deleted_conversations_is_not_counted(home: Home) -> None:
    home.like(4)
    page = home.window.panel.learning_page
    assert page.train.isEnabled()
    home.window.conversations.delete(home.chat.conversations()[0].id)
    assert not page.train.isEnabled()
    notice = home.window.notices.notice("deleted")
    assert notice is not None
    button(notice, "Undo").click()
    assert page.train.isEnabled()
