"""One message on screen: what is typed is shown, and nothing a model writes does anything."""

from __future__ import annotations

import time

import pytest
from PySide6.QtCore import QRect, Qt, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication, QTextCursor
from PySide6.QtWidgets import QMessageBox, QPushButton, QToolButton
from pytestqt.qtbot import QtBot

from desktop_app.ui.message_view import MessageView
from desktop_app.ui.theme import Theme
from tests.desktop_app.ui.markdown_samples import EVERYTHING, HOSTILE, TYPED


@pytest.fixture
def view(qtbot: QtBot, theme: Theme) -> MessageView:
    view = MessageView(theme)
    qtbot.addWidget(view)
    view.fit(600)
    view.show()
    return view


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that were really opened."""
    addresses: list[str] = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: addresses.append(url.toString()))
    return addresses


def links(view: MessageView) -> list[str]:
    found = []
    cursor = QTextCursor(view.document())
    while not cursor.atEnd():
        cursor.movePosition(QTextCursor.MoveOperation.NextCharacter)
        if cursor.charFormat().isAnchor():
            found.append(cursor.charFormat().anchorHref())
    return sorted(set(found))


def question(view: MessageView) -> QMessageBox | None:
    return next(iter(view.window().findChildren(QMessageBox)), None)


@pytest.mark.parametrize("text", TYPED)
def test_tags_are_shown_as_typed(view: MessageView, text: str) -> None:
    view.set_markdown(text)
    assert view.toPlainText() == text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_links_and_pictures_do_nothing(
    view: MessageView, opened: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(MessageView, "loadResource", lambda *a: loaded.append(str(a)))
    view.set_markdown(text)
    view.grab()
    for address in links(view):
        assert QUrl(address).scheme() in ("http", "https")  # a picture's description
    for address in ("file:///etc/passwd", "javascript:alert(1)", "steam://run/1", "x"):
        view.anchorClicked.emit(QUrl(address))
    assert (loaded, opened, question(view)) == ([], [], None)
    assert "￼" not in view.toPlainText()


def test_a_link_opens_only_after_a_question_that_shows_the_real_host(
    view: MessageView, opened: list[str], qtbot: QtBot
) -> None:
    view.set_markdown("[bank.example](https://bank.example@evil.example/login?a=1)")
    view.anchorClicked.emit(QUrl(links(view)[0]))
    box = question(view)
    assert box is not None
    assert "evil.example" in box.text()
    assert "bank.example@" not in box.text()
    assert opened == []
    open_button = next(
        b for b in box.buttons() if box.buttonRole(b) == QMessageBox.ButtonRole.AcceptRole
    )
    qtbot.mouseClick(open_button, Qt.MouseButton.LeftButton)
    assert opened == ["https://bank.example@evil.example/login?a=1"]


def test_a_link_that_is_not_wanted_stays_closed(
    view: MessageView, opened: list[str], qtbot: QtBot
) -> None:
    view.set_markdown("https://xn--e1awd7f.example/")
    view.anchorClicked.emit(QUrl("https://еxample.com"))
    box = question(view)
    assert box is not None
    assert "xn--" in box.text()  # a Cyrillic letter does not pass for a Latin one
    default = box.defaultButton()
    assert isinstance(default, QPushButton)
    qtbot.mouseClick(default, Qt.MouseButton.LeftButton)
    assert opened == []


def test_copying_the_message_gives_the_raw_markdown(view: MessageView) -> None:
    view.set_markdown(EVERYTHING)
    view.copy_all()
    assert QGuiApplication.clipboard().text() == EVERYTHING


def test_each_code_block_has_a_button_that_copies_it(view: MessageView, qtbot: QtBot) -> None:
    for start in range(0, len(EVERYTHING), 7):
        view.append_text(EVERYTHING[start : start + 7])
    view.finish()
    buttons = [b for b in view.findChildren(QToolButton) if b.isVisible()]
    assert len(buttons) == 3
    qtbot.mouseClick(buttons[1], Qt.MouseButton.LeftButton)
    expected = "def double(x):\n    return 2 * x\n\n# the end"
    assert QGuiApplication.clipboard().text() == expected


def test_a_selection_survives_streaming(view: MessageView) -> None:
    view.append_text("First paragraph.\n\nSecond one goes")
    cursor = view.textCursor()
    cursor.setPosition(6)
    cursor.setPosition(25, QTextCursor.MoveMode.KeepAnchor)
    view.setTextCursor(cursor)
    selected = cursor.selectedText()
    for _ in range(30):
        view.append_text(" on and on.\n\n")
    view.finish()
    assert view.textCursor().selectedText() == selected


def test_the_height_is_that_of_the_text_at_each_width(view: MessageView) -> None:
    view.set_markdown(EVERYTHING)
    wide, narrow = view.fit(900), view.fit(300)
    assert narrow > wide > 100
    assert view.height() == narrow
    assert view.verticalScrollBar().maximum() == 0


@pytest.mark.parametrize("letter", ["a", "가"])
def test_an_endless_word_does_not_freeze_the_window(view: MessageView, letter: str) -> None:
    began = time.process_time()
    view.set_markdown(letter * 300_000)
    view.grab(QRect(0, 0, 600, 400))
    assert time.process_time() - began < 2
    assert view.raw == letter * 300_000
    view.selectAll()
    assert view.createMimeDataFromSelection().text() == view.raw


def test_a_very_long_streamed_paragraph_leaves_time_for_other_things(
    view: MessageView, qtbot: QtBot
) -> None:
    piece = "words without an end "
    view.append_text(piece * 3_000)
    began = time.process_time()
    for _ in range(200):
        view.append_text(piece)
    assert time.process_time() - began < 1  # most of it waits for its turn
    view.finish()
    assert view.toPlainText() == (piece * 3_200).rstrip()


def test_another_appearance_keeps_the_text(view: MessageView, theme: Theme) -> None:
    view.append_text(EVERYTHING)
    before = view.toPlainText()
    theme.set_appearance("dark")
    assert view.toPlainText() == before
    view.append_text("\nmore")
    view.finish()
    assert view.toPlainText().endswith("more")
