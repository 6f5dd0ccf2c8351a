"""Writing: keys, Hangul in composition, drafts, and that no text is ever lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PySide6.QtCore import QCoreApplication, QMimeData, Qt
from PySide6.QtGui import QGuiApplication, QInputMethod, QInputMethodEvent
from PySide6.QtWidgets import QPushButton, QWidget
from pytestqt.qtbot import QtBot

from desktop_app.ui.composer import MOST_LINES, Composer
from desktop_app.ui.correction_editor import CorrectionEditor
from desktop_app.ui.theme import Theme


@pytest.fixture
def composer(qtbot: QtBot, theme: Theme) -> Iterator[Composer]:
    place = QWidget()
    qtbot.addWidget(place)
    place.resize(520, 320)
    composer = Composer(theme, place)
    composer.resize(500, 300)
    place.show()
    composer.show_conversation("one")
    composer.setFocus()
    yield composer
    place.hide()


def compose(composer: Composer, preedit: str, commit: str = "") -> None:
    """What an input method sends while a syllable is put together."""
    event = QInputMethodEvent(preedit, [])
    if commit:
        event.setCommitString(commit)
    QCoreApplication.sendEvent(composer.field, event)


def press_enter(qtbot: QtBot, composer: Composer) -> None:
    qtbot.keyClick(composer.field, Qt.Key.Key_Return)


def test_enter_sends_and_shift_enter_starts_a_line(qtbot: QtBot, composer: Composer) -> None:
    qtbot.keyClicks(composer.field, "one")
    qtbot.keyClick(composer.field, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    qtbot.keyClicks(composer.field, "two")
    with qtbot.waitSignal(composer.submitted) as sent:
        press_enter(qtbot, composer)
    assert sent.args == ["one\ntwo", False]


def test_sending_leaves_the_text_until_it_is_safe(qtbot: QtBot, composer: Composer) -> None:
    composer.set_text("keep me")
    with qtbot.waitSignal(composer.submitted):
        press_enter(qtbot, composer)
    assert composer.text() == "keep me"
    composer.clear()
    assert composer.text() == ""


def test_nothing_but_spaces_is_not_sent(qtbot: QtBot, composer: Composer) -> None:
    composer.set_text("  \n ")
    assert not composer.send.isEnabled()
    with qtbot.assertNotEmitted(composer.submitted, wait=30):
        press_enter(qtbot, composer)


def test_the_syllable_in_composition_is_sent_too(qtbot: QtBot, composer: Composer) -> None:
    compose(composer, "", commit="안녕하세")
    compose(composer, "요")
    assert composer.text() == "안녕하세"  # this is what a naive send would take
    with qtbot.waitSignal(composer.submitted) as sent:
        press_enter(qtbot, composer)
        compose(composer, "", commit="요")  # the input method's answer to commit()
    assert sent.args == ["안녕하세요", False]


def test_a_syllable_that_is_not_given_up_is_not_cut_off(qtbot: QtBot, composer: Composer) -> None:
    compose(composer, "", commit="안녕하세")
    compose(composer, "요")
    with qtbot.assertNotEmitted(composer.submitted, wait=30):
        press_enter(qtbot, composer)  # no input method answers here
    assert composer.text() == "안녕하세"
    assert composer.field.is_composing


def test_a_syllable_alone_can_be_sent_with_the_mouse(qtbot: QtBot, composer: Composer) -> None:
    compose(composer, "네")
    assert composer.send.isEnabled()
    with qtbot.waitSignal(composer.submitted) as sent:
        qtbot.mouseClick(composer.send, Qt.MouseButton.LeftButton)
        compose(composer, "", commit="네")
    assert sent.args == ["네", False]


def test_a_click_never_sends_half_of_a_word(qtbot: QtBot, composer: Composer) -> None:
    compose(composer, "", commit="안녕하세")
    compose(composer, "요")
    with qtbot.assertNotEmitted(composer.submitted, wait=30):
        qtbot.mouseClick(composer.send, Qt.MouseButton.LeftButton)  # no input method answers


def test_a_correction_takes_the_syllable_in_composition_along(qtbot: QtBot) -> None:
    editor = CorrectionEditor()
    qtbot.addWidget(editor)
    editor.open("What?", "", "Save")
    field = editor.focusProxy()
    QCoreApplication.sendEvent(field, QInputMethodEvent("네", []))
    save = next(b for b in editor.findChildren(QPushButton) if b.text() == "Save")
    assert save.isEnabled()
    with qtbot.assertNotEmitted(editor.saved, wait=30):
        save.click()
    with qtbot.waitSignal(editor.saved) as saved:
        qtbot.keyClick(field, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
        event = QInputMethodEvent("", [])
        event.setCommitString("네")
        QCoreApplication.sendEvent(field, event)
    assert saved.args == ["네"]


def test_enter_once_is_enough_after_composition(qtbot: QtBot, composer: Composer) -> None:
    compose(composer, "네")
    compose(composer, "", commit="네")
    with qtbot.waitSignal(composer.submitted) as sent:
        press_enter(qtbot, composer)
    assert sent.args == ["네", False]


def test_two_quick_enters_send_once(qtbot: QtBot, composer: Composer) -> None:
    composer.submitted.connect(composer.clear)
    sent: list[str] = []
    composer.submitted.connect(lambda text, _compare: sent.append(text))
    composer.set_text("once")
    press_enter(qtbot, composer)
    press_enter(qtbot, composer)
    qtbot.wait(20)
    assert sent == ["once"]


def test_while_busy_the_button_stops_and_typing_goes_on(qtbot: QtBot, composer: Composer) -> None:
    composer.set_busy(True)
    qtbot.keyClicks(composer.field, "meanwhile")
    with qtbot.assertNotEmitted(composer.submitted, wait=30):
        press_enter(qtbot, composer)
    with qtbot.waitSignal(composer.stop_requested):
        composer.send.click()
    assert composer.text() == "meanwhile"
    composer.set_busy(False)
    with qtbot.waitSignal(composer.submitted):
        composer.send.click()


def test_without_a_model_the_text_waits(qtbot: QtBot, composer: Composer) -> None:
    composer.set_ready(False)
    composer.set_text("wait")
    assert not composer.send.isEnabled()
    composer.set_ready(True)
    assert composer.send.isEnabled()


def test_each_conversation_keeps_what_was_begun(composer: Composer) -> None:
    composer.set_text("begun in one")
    composer.show_conversation("two")
    assert composer.text() == ""
    composer.set_text("begun in two")
    composer.show_conversation("one")
    assert composer.text() == "begun in one"
    assert composer.drafts() == {"one": "begun in one", "two": "begun in two"}
    composer.clear()
    assert composer.drafts() == {"two": "begun in two"}


def test_the_syllable_in_composition_stays_with_its_conversation(
    composer: Composer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QInputMethod, "commit", lambda _: compose(composer, "", commit="요"))
    compose(composer, "", commit="안녕하세")
    compose(composer, "요")
    composer.show_conversation("two")
    assert composer.text() == ""
    composer.show_conversation("one")
    assert composer.text() == "안녕하세요"


def test_pasting_takes_the_text_alone(composer: Composer) -> None:
    data = QMimeData()
    data.setHtml("<b>bold</b> <img src='file:///x.png'>")
    data.setText("bold")
    QGuiApplication.clipboard().setMimeData(data)
    composer.field.paste()
    assert composer.text() == "bold"
    assert "<b>" not in composer.field.document().toHtml()


def test_the_field_grows_to_eight_lines(composer: Composer) -> None:
    heights = []
    for lines in (1, 3, MOST_LINES, 30):
        composer.set_text("\n".join("x" * lines))
        heights.append(composer.field.height())
    assert heights[0] < heights[1] < heights[2] == heights[3]


def test_comparing_is_asked_for_with_the_message(qtbot: QtBot, composer: Composer) -> None:
    composer.compare.click()
    composer.set_text("two please")
    with qtbot.waitSignal(composer.submitted) as sent:
        press_enter(qtbot, composer)
    assert sent.args == ["two please", True]
