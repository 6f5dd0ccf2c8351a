"""Settings: in force at once, kept, and shown as they are."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QWheelEvent
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

from desktop_app.settings import Settings
from desktop_app.ui.settings_dialog import LONGEST_SYSTEM_PROMPT, SettingsDialog
from tests.desktop_app.ui.home import Home


@pytest.fixture
def dialog(home: Home) -> SettingsDialog:
    home.window.show_settings()
    dialog = home.window.findChild(SettingsDialog)
    assert dialog is not None
    return dialog


def choose(dialog: SettingsDialog, name: str, value: object) -> None:
    box = getattr(dialog, name)
    box.setCurrentIndex(box.findData(value))
    box.activated.emit(box.currentIndex())


def turn_wheel(field: QWidget) -> None:
    """One notch down over a field."""
    middle = QPointF(field.rect().center())
    event = QWheelEvent(
        middle,
        field.mapToGlobal(middle),
        QPoint(),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(field, event)


@pytest.mark.parametrize(
    "name", ["language", "appearance", "font_scale", "temperature", "max_tokens", "compare_every"]
)
def test_the_wheel_turns_only_the_field_with_the_focus(
    qtbot: QtBot, home: Home, dialog: SettingsDialog, name: str
) -> None:
    field = getattr(dialog, name)
    before = home.settings
    dialog.activateWindow()
    dialog.close_button.setFocus()
    qtbot.waitUntil(dialog.close_button.hasFocus)
    turn_wheel(field)
    assert home.settings == before
    assert dialog.close_button.hasFocus()
    field.setFocus()
    qtbot.waitUntil(field.hasFocus)
    turn_wheel(field)
    assert home.settings != before


def test_choices_are_in_force_at_once(home: Home, dialog: SettingsDialog) -> None:
    choose(dialog, "appearance", "dark")
    assert home.theme.is_dark
    choose(dialog, "font_scale", 1.25)
    assert home.theme.font_scale == 1.25
    dialog.temperature.setValue(0.3)
    dialog.max_tokens.setValue(256)
    choose(dialog, "compare_every", 5)
    assert home.settings == Settings(
        language="en",
        appearance="dark",
        font_scale=1.25,
        temperature=0.3,
        max_tokens=256,
        compare_every=5,
    )
    choose(dialog, "appearance", "light")
    assert not home.theme.is_dark


def test_the_language_changes_without_a_restart(
    qtbot: QtBot, home: Home, dialog: SettingsDialog
) -> None:
    choose(dialog, "language", "ko")
    qtbot.waitUntil(lambda: dialog.windowTitle() == "설정")
    assert home.window.conversations.new_button.text() == "새 대화"
    assert home.window.panel.learning_page.train.text() == "내 모델 학습하기"
    choose(dialog, "language", "en")
    qtbot.waitUntil(lambda: dialog.windowTitle() == "Settings")


def test_the_system_prompt_is_kept_after_a_pause_or_on_closing(
    qtbot: QtBot, home: Home, dialog: SettingsDialog
) -> None:
    dialog.system_prompt.setPlainText("Be brief.")
    qtbot.waitUntil(lambda: home.settings.system_prompt == "Be brief.")
    assert home.chat.system_prompt == "Be brief."
    dialog.system_prompt.setPlainText("Be kind.")
    qtbot.keyClick(dialog, Qt.Key.Key_Escape)
    assert home.settings.system_prompt == "Be kind."


def test_what_is_not_kept_of_the_system_prompt_is_said_at_once(
    qtbot: QtBot, home: Home, dialog: SettingsDialog
) -> None:
    field, hint = dialog.system_prompt, dialog._hints[0]
    usual = hint.text()
    field.setPlainText("a" * LONGEST_SYSTEM_PROMPT + "\n")  # what is empty at its end is not meant
    assert hint.text() == usual
    field.insertPlainText("b")
    assert hint.text() == "Only the first 4,000 characters are kept."
    dialog.close()
    assert home.settings.system_prompt == "b" + "a" * (LONGEST_SYSTEM_PROMPT - 1)
    home.window.show_settings()
    assert field.toPlainText() == home.settings.system_prompt
    assert hint.text() == usual


def test_what_was_changed_elsewhere_is_shown(home: Home, dialog: SettingsDialog) -> None:
    dialog.close()
    home.window.zoom(1)
    home.window.show_settings()
    assert dialog.font_scale.currentData() == pytest.approx(1.1)


def test_a_size_between_the_choices_stays_when_something_else_is_changed(
    home: Home, dialog: SettingsDialog
) -> None:
    home.window.show_settings()
    home.window.zoom(1)
    home.window.zoom(1)
    dialog.temperature.setValue(0.9)
    assert home.settings.temperature == pytest.approx(0.9)
    assert home.settings.font_scale == pytest.approx(1.2)
