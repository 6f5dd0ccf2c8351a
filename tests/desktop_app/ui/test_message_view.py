"""One message on screen: what is typed is shown, and nothing a model writes does anything."""

from __future__ import annotations

import time

import pytest
from PySide6.QtCore import QRect, Qt, QUrl
from PySide6.QtGui import QDesktopServices, QFontMetricsF, QGuiApplication, QTextCursor
from PySide6.QtWidgets import QMessageBox, QPushButton, QToolButton
from pytestqt.qtbot import QtBot

from desktop_app.ui.message_view import MessageView
from desktop_app.ui.theme import Theme
from tests.desktop_app.ui.home import button
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


def test_the_address_that_is_copied_is_the_one_that_would_be_opened(
    view: MessageView, qtbot: QtBot
) -> None:
    address = "https://xn--pple-43d.com/a%20b?q=%ED%95%9C%20x"
    view.anchorClicked.emit(QUrl(address))
    box = question(view)
    assert box is not None
    qtbot.mouseClick(button(box, "Copy the address"), Qt.MouseButton.LeftButton)
    assert QGuiApplication.clipboard().text() == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("See https://a.example/wiki/Foo_(bar).", "https://a.example/wiki/Foo_(bar)"),
        ("(see https://a.example/wiki/Foo_(bar)).", "https://a.example/wiki/Foo_(bar)"),
        ("(https://a.example/x)", "https://a.example/x"),
        ("[![badge](https://b.example/p.png)](https://a.example/)", "https://a.example/"),
    ],
)
def test_a_link_leads_where_it_says(view: MessageView, text: str, address: str) -> None:
    view.set_markdown(text)
    assert links(view) == [address]


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


def selected(view: MessageView, start: str, end: str) -> str:
    """What is copied from the first ``start`` to the first ``end``."""
    text = view.toPlainText()
    cursor = view.textCursor()
    cursor.setPosition(text.index(start))
    cursor.setPosition(text.index(end) + len(end), QTextCursor.MoveMode.KeepAnchor)
    view.setTextCursor(cursor)
    view.copy()
    return QGuiApplication.clipboard().text()


def test_copying_a_part_keeps_what_marks_items_and_cells(view: MessageView) -> None:
    view.set_markdown(
        "Steps:\n\n1. one\n2. two\n   - sub\n\n     more of it\n\n     ```\n"
        "     if x:\n         y\n     ```\n\n- [x] done\n- [ ] open\n\n"
        "| k | v |\n|---|---|\n| 1 | 2 |\n\nend of it"
    )
    assert selected(view, "ne", "sub") == "ne\n2. two\n    - sub"
    assert selected(view, "two", "y") == "2. two\n    - sub\n        more of it\nif x:\n    y"
    assert selected(view, "more", "it") == "more of it"
    assert selected(view, "ub", "it") == "ub\n    more of it"
    assert selected(view, "done", "open") == "- [x] done\n- [ ] open"
    assert selected(view, "open", "end").startswith("- [ ] open\n")
    assert "\nk\tv\n1\t2\n" in selected(view, "open", "end")
    assert selected(view, "v", "2") == "v\n2"  # a column
    view.selectAll()
    view.copy()
    assert QGuiApplication.clipboard().text() == view.raw


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


def test_a_selection_survives_the_end_of_the_text(view: MessageView) -> None:
    view.set_markdown("", is_complete=False)
    view.append_text("See this page here.\n\nMore.\n\n[1]: https://a.example\n\nThe end")
    cursor = view.textCursor()
    cursor.setPosition(0)
    cursor.setPosition(8, QTextCursor.MoveMode.KeepAnchor)
    view.setTextCursor(cursor)
    view.finish()
    assert view.textCursor().selectedText() == "See this"


@pytest.mark.parametrize(
    ("begun", "stopped", "more"),
    [
        ("See [the page][1].\n\nMore\n\n", "[1]: https://a.example\n\nStopped he", "re"),
        ("```\nx\n", "``", "`\nafter"),
    ],
)
def test_going_on_after_a_stop_is_one_text(
    view: MessageView, begun: str, stopped: str, more: str
) -> None:
    view.set_markdown(begun, is_complete=False)
    view.append_text(stopped)
    view.finish()
    view.append_text(more)
    view.finish()
    gone_on = view.toPlainText()
    view.set_markdown(begun + stopped + more)
    assert gone_on == view.toPlainText()


@pytest.mark.parametrize("scale", [0.8, 1.0, 2.0])
def test_numbers_of_items_have_room(view: MessageView, theme: Theme, scale: float) -> None:
    theme.set_font_scale(scale)
    view.set_markdown("9. nine\n10. ten\n\nx\n\n1000. thousand\n\n      wide")
    document = view.document()
    metrics = QFontMetricsF(document.defaultFont())
    block, numbers, rooms = document.begin(), [], []
    while block.isValid():
        item = block.textList()
        if item is not None:
            numbers.append(item.itemText(block))
            room = block.layout().position().x() + block.layout().lineAt(0).x()
            assert room >= metrics.horizontalAdvance(numbers[-1] + " ")
            rooms.append(room)
        block = block.next()
    assert numbers == ["9.", "10.", "1000."]
    assert rooms[0] == rooms[1] < rooms[2]
    theme.set_font_scale(1.0)


def test_colours_of_code_are_where_the_words_are(view: MessageView, qtbot: QtBot) -> None:
    view.set_markdown('```python\nx = "😀😀"  # note\n```')
    block = view.document().begin()
    qtbot.waitUntil(lambda: bool(block.layout().formats()))
    units = block.text().encode("utf-16-le")
    coloured = [
        units[2 * r.start : 2 * (r.start + r.length)].decode("utf-16-le")
        for r in block.layout().formats()
    ]
    assert coloured == ['"😀😀"', "# note"]


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
