"""The window: sending, problems, keys, what it remembers, and that it fits small screens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from desktop_app.errors import UserError
from desktop_app.settings import Settings
from desktop_app.ui.main_window import MainWindow
from desktop_app.ui.message_card import CompletionCard
from desktop_app.ui.window_state import FILE_NAME, WindowState, load_window_state, save_window_state
from tests.desktop_app.ui.home import Home, button


def write(home: Home, text: str) -> None:
    home.window.composer.set_text(text)
    home.qtbot.keyClick(home.window.composer.field, Qt.Key.Key_Return)


def press(home: Home, name: str) -> None:
    home.window.shortcuts.actions[name].trigger()


def test_a_message_is_sent_and_answered(qtbot: QtBot, home: Home) -> None:
    write(home, "tea is nice")
    qtbot.waitUntil(lambda: len(home.answers()) == 1 and not home.chat.is_busy)
    assert home.window.composer.text() == ""
    assert home.window.header.title.text() == "tea is nice"
    assert home.window.windowTitle() == "tea is nice — Attune"
    assert home.window.header.meter.isVisible()
    assert "4,096" in home.window.header.meter.toolTip()


def test_a_suggestion_is_sent_at_once(qtbot: QtBot, home: Home) -> None:
    suggestion = home.window.view.empty.suggestions[1]
    qtbot.mouseClick(suggestion, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(home.answers()) == 1 and not home.chat.is_busy)
    path = home.chat.messages(home.chat.current_conversation)
    assert path[0].content == suggestion.text()
    assert home.window.composer.text() == ""


def test_a_suggestion_waits_for_the_model_and_for_what_was_begun(qtbot: QtBot, home: Home) -> None:
    window = home.window
    one, other = window.view.empty.suggestions[:2]
    home.engine.fail("The file is damaged.")
    qtbot.waitUntil(lambda: home.chat.engine.state.status == "failed")
    window.activateWindow()
    qtbot.mouseClick(one, Qt.MouseButton.LeftButton)
    assert window.composer.text() == one.text()
    qtbot.waitUntil(window.composer.field.hasFocus)
    home.chat.engine.restart()
    qtbot.waitUntil(lambda: home.chat.engine.state.status == "ready")
    qtbot.mouseClick(other, Qt.MouseButton.LeftButton)
    qtbot.wait(20)
    assert window.composer.text() == f"{one.text()}\n{other.text()}"
    assert home.answers() == []


def test_text_stays_where_sending_fails(
    qtbot: QtBot, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(text: str, *, compare: bool = False) -> None:
        raise UserError("The disk is full, so this could not be saved.")

    monkeypatch.setattr(home.chat, "send", refuse)
    with qtbot.capture_exceptions() as exceptions:
        write(home, "do not lose me")
        qtbot.waitUntil(lambda: bool(exceptions))
    assert home.window.composer.text() == "do not lose me"


def test_a_second_message_waits_for_the_first(qtbot: QtBot, home: Home) -> None:
    home.engine.is_held = True
    write(home, "first")
    qtbot.waitUntil(lambda: home.chat.is_busy)
    write(home, "second")
    qtbot.wait(20)
    assert home.window.composer.text() == "second"
    home.engine.is_held = False
    qtbot.waitUntil(lambda: not home.chat.is_busy)
    assert home.window.composer.text() == "second"


def test_escape_stops_and_the_text_stays(qtbot: QtBot, home: Home) -> None:
    write(home, "!long story")
    qtbot.waitUntil(lambda: home.chat.is_busy and bool(home.answers()[0]))
    press(home, "stop")
    qtbot.waitUntil(lambda: not home.chat.is_busy)
    path = home.chat.messages(home.chat.current_conversation)
    assert path[-1].state == "stopped"
    assert path[-1].content


def test_escape_in_a_correction_leaves_the_correction(qtbot: QtBot, home: Home) -> None:
    home.ask("Hello")
    rows = home.window.chat_page.view.list.rows()
    row = next(row for row in rows if isinstance(row, CompletionCard))
    qtbot.mouseClick(row.down, Qt.MouseButton.LeftButton)
    home.engine.is_held = True
    home.chat.send("And more")
    assert row.editor is not None
    qtbot.keyClick(row.editor.focusProxy(), Qt.Key.Key_Escape)
    assert row.editor is None
    assert home.chat.is_busy
    home.engine.is_held = False
    qtbot.waitUntil(lambda: not home.chat.is_busy)


def test_regenerating_by_key_makes_a_sibling(qtbot: QtBot, home: Home) -> None:
    home.ask("one two three")
    press(home, "regenerate")
    qtbot.waitUntil(lambda: not home.chat.is_busy)
    assert home.chat.messages(home.chat.current_conversation)[-1].sibling_count == 2


def test_a_model_that_fails_says_so_and_can_be_restarted(qtbot: QtBot, home: Home) -> None:
    home.engine.fail("The file is damaged.")
    qtbot.waitUntil(lambda: home.chat.engine.state.status == "failed")
    window = home.window
    assert "not running" in window.header.status.text()
    assert window.header.status.restart.isVisible()
    window.composer.set_text("waits")
    assert not window.composer.send.isEnabled()
    notice = window.notices.notice("engine")
    assert notice is not None
    assert "The file is damaged." in notice.accessibleName()
    button(notice, "Restart model").click()
    qtbot.waitUntil(lambda: home.chat.engine.state.status == "ready")
    assert window.notices.notice("engine") is None
    assert window.composer.send.isEnabled()
    assert window.composer.text() == "waits"


def test_the_same_problem_again_is_one_notice(home: Home) -> None:
    for _ in range(10):
        home.window.show_problem("The model crashed.", "It is being loaded again.")
    assert home.window.notices.keys() == ["problem"]


def test_a_problem_with_a_way_on_is_the_last_to_make_room(qtbot: QtBot, home: Home) -> None:
    home.engine.fail("The file is damaged.")
    notices = home.window.notices
    qtbot.waitUntil(lambda: notices.keys() == ["engine"])
    notices.show_notice("one", "One")
    notices.show_notice("two", "Two", seconds=0)
    assert notices.keys() == ["engine", "two"]
    home.window.show_problem("This could not be saved.")
    assert notices.keys() == ["engine", "problem"]
    notices.show_notice("three", "Three", kind="problem")
    assert notices.keys() == ["engine", "three"]


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_way_on_is_in_the_header_of_the_smallest_window_too(
    qtbot: QtBot, open_home: Callable[..., Home], language: str
) -> None:
    settings = Settings(language=language, font_scale=2.0)  # type: ignore[arg-type]
    home = open_home(settings=settings)
    window = home.window
    window.resize(window.minimumSize())
    press(home, "panel")
    before = window.size()
    home.engine.fail("The file is damaged.")
    qtbot.waitUntil(window.header.status.restart.isVisible)
    window.notices.dismiss("engine")
    restart = window.header.status.restart
    qtbot.waitUntil(lambda: restart.width() >= restart.sizeHint().width())
    assert window.size() == before
    restart.click()
    qtbot.waitUntil(lambda: home.chat.engine.state.status == "ready")
    assert window.header.meter.isVisible()


def test_a_thumb_can_be_taken_back_by_key_and_by_notice(qtbot: QtBot, home: Home) -> None:
    message = home.add_conversation("Talk")
    home.feedback.rate(message, True)
    assert home.window.notices.notice("feedback") is not None
    press(home, "undo")
    assert home.feedback.of_message(message).rating is None
    assert home.window.notices.notice("feedback") is None
    home.feedback.rate(message, False)
    notice = home.window.notices.notice("feedback")
    assert notice is not None
    button(notice, "Undo").click()
    assert home.feedback.of_message(message).rating is None


def test_undo_belongs_to_the_text_while_one_is_edited(qtbot: QtBot, home: Home) -> None:
    message = home.add_conversation("Talk")
    home.feedback.rate(message, True)
    field = home.window.composer.field
    home.window.activateWindow()
    field.setFocus()
    qtbot.waitUntil(field.hasFocus)
    qtbot.keyClicks(field, "typed")
    qtbot.keyClick(field, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert home.feedback.of_message(message).rating is not None
    assert field.toPlainText() == ""
    qtbot.keyClick(field, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert home.feedback.of_message(message).rating is None  # there was no more to undo in it


def test_in_a_narrow_window_the_panel_comes_before_the_side_bar(home: Home) -> None:
    window = home.window
    window.resize(window.minimumSize())
    assert window.sidebar.isVisible()
    press(home, "panel")
    assert window.panel.isVisible()
    assert not window.sidebar.isVisible()
    press(home, "panel")
    assert window.sidebar.isVisible()
    press(home, "panel")
    window.resize(1400, 800)
    assert window.sidebar.isVisible()


@pytest.mark.parametrize("language", ["en", "ko"])
def test_nothing_is_wider_than_the_smallest_window(
    open_home: Callable[..., Home], language: str
) -> None:
    home = open_home(settings=Settings(language=language))  # type: ignore[arg-type]
    home.window.resize(home.window.minimumSize())
    assert home.window.size() == home.window.minimumSize()
    press(home, "panel")
    assert home.window.size() == home.window.minimumSize()


def test_zoom_is_kept_as_a_setting(home: Home) -> None:
    press(home, "larger")
    press(home, "larger")
    assert home.settings.font_scale == pytest.approx(1.2)
    assert home.theme.font_scale == pytest.approx(1.2)
    press(home, "smaller")
    press(home, "normal")
    assert home.settings.font_scale == 1.0


def test_the_window_comes_back_as_it_was_left(qtbot: QtBot, home: Home) -> None:
    window = home.window
    window.resize(750, 590)
    press(home, "panel")
    window.composer.set_text("not sent yet")
    window.close()
    again = home.open_window()
    assert again.size() == window.size()
    assert again.panel.isVisible()
    assert again.composer.text() == "not sent yet"


def test_a_correction_half_written_is_there_at_the_next_start(qtbot: QtBot, home: Home) -> None:
    home.ask("Hello")
    other = home.add_conversation("Other")
    first = home.chat.current_conversation

    def card_of(window: MainWindow) -> CompletionCard:
        rows = window.view.list.rows()
        return next(row for row in rows if isinstance(row, CompletionCard))

    def kept() -> dict[str, dict[str, str]]:
        return load_window_state(home.profile.root).corrections

    card = card_of(home.window)
    answer = home.chat.messages(first)[-1].id
    qtbot.mouseClick(card.down, Qt.MouseButton.LeftButton)
    assert card.editor is not None
    assert home.window.view.drafts() == {}  # it holds the answer as it was
    card.editor.set_text("half writ")
    qtbot.waitUntil(lambda: kept() == {first: {answer: "half writ"}})  # the app may die now
    home.chat.open_conversation(home.chat.message(other).conversation_id)
    assert card_of(home.window).editor is None
    home.window.close()

    again = home.open_window()
    assert card_of(again).editor is None
    home.chat.open_conversation(first)
    card = card_of(again)
    assert card.editor is not None
    assert card.editor.text() == "half writ"
    again.close()

    again = home.open_window()  # with the conversation in sight at once
    card = card_of(again)
    assert card.editor is not None
    assert card.editor.text() == "half writ"
    qtbot.keyClick(card.editor.focusProxy(), Qt.Key.Key_Escape)
    qtbot.waitUntil(lambda: kept() == {})


def test_what_was_begun_in_a_conversation_goes_with_it(home: Home) -> None:
    state = WindowState(drafts={"": "new", "gone": "old"}, corrections={"gone": {"a": "b"}})
    save_window_state(home.profile.root, state)
    again = home.open_window()
    assert again.composer.drafts() == {"": "new"}
    assert again.view.drafts() == {}


def test_a_damaged_window_state_is_as_good_as_none(home: Home) -> None:
    path = home.profile.root / FILE_NAME
    for damage in ("", "[1]", '{"geometry": 1}', "\x00"):
        path.write_text(damage, encoding="utf-8")
        assert load_window_state(home.profile.root).sidebar_open
    home.open_window()


def test_every_nth_message_is_compared_where_one_wishes(
    qtbot: QtBot, open_home: Callable[..., Home]
) -> None:
    home = open_home(settings=Settings(language="en", compare_every=2))
    write(home, "one two")
    qtbot.waitUntil(lambda: len(home.answers()) == 1 and not home.chat.is_busy)
    assert home.chat.pending_comparison is None
    write(home, "three four five six")
    qtbot.waitUntil(lambda: home.chat.pending_comparison is not None and not home.chat.is_busy)


def test_the_list_of_keys_names_them_all(home: Home) -> None:
    lines = dict(home.window.shortcuts.lines())
    assert {"Ctrl+N", "Ctrl+K", "Ctrl+R", "Esc", "Ctrl+,", "Ctrl+L", "F1", "Ctrl+Z"} <= set(lines)
    assert all(lines.values())
