"""Everything has a name, plain text stays plain, and the keyboard reaches all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QAccessible
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QLabel,
    QScrollArea,
    QScrollBar,
    QSplitterHandle,
    QTabBar,
    QTabWidget,
    QWidget,
)
from pytestqt.qtbot import QtBot

from desktop_app.settings import Settings
from desktop_app.ui.curve import Curve
from desktop_app.ui.settings_dialog import SettingsDialog
from desktop_app.ui.theme import Theme
from finetune.contract.events import RunFailed, Sample
from tests.desktop_app.ui.home import Home

# Qt's own parts inside other widgets; the outer one has the name.
INNER = (QScrollBar, QSplitterHandle, QScrollArea, QTabWidget)


@pytest.fixture
def full_home(open_home: Callable[..., Home]) -> Home:
    """A window with something in every part of it."""
    home = open_home()
    home.ask("tea is nice")
    home.like(4)
    home.window.show_panel(True)
    page = home.window.panel.learning_page
    page.failure.show_failure(RunFailed("bug", "detail"))
    page.run._on_event(Sample("<b>prompt</b>", "before", "after"))
    home.window.show_problem("A problem", "A hint")
    home.window.show_settings()
    return home


def widgets(home: Home) -> Iterator[QWidget]:
    yield from home.window.findChildren(QWidget)


def name_of(widget: QWidget) -> str:
    interface = QAccessible.queryAccessibleInterface(widget)
    return interface.text(QAccessible.Text.Name) if interface is not None else ""


def test_everything_that_takes_the_focus_has_a_name(full_home: Home) -> None:
    nameless = [
        f"{type(widget).__name__} in {type(widget.parentWidget()).__name__}"
        for widget in widgets(full_home)
        if widget.focusPolicy() != Qt.FocusPolicy.NoFocus
        and not isinstance(widget, INNER)
        and widget.focusProxy() is None
        and not widget.objectName().startswith("qt_")
        and not name_of(widget)
    ]
    assert "\n".join(nameless) == ""


def test_every_button_says_what_it_does(full_home: Home) -> None:
    for button in full_home.window.findChildren(QAbstractButton):
        inner = button.objectName().startswith("qt_") or isinstance(button.parent(), QTabBar)
        if not inner and type(button).__module__.startswith("desktop_app"):
            assert name_of(button), type(button.parent()).__name__
            assert button.text() or button.toolTip(), name_of(button)


def test_labels_show_plain_text_whatever_is_in_it(full_home: Home) -> None:
    rich = [
        label.text()
        for label in full_home.window.findChildren(QLabel)
        if label.textFormat() != Qt.TextFormat.PlainText and label.pixmap().isNull()
    ]
    assert rich == []


def test_names_change_with_the_language(qtbot: QtBot, full_home: Home) -> None:
    window = full_home.window
    before = {id(w): name_of(w) for w in widgets(full_home) if name_of(w)}
    full_home.language.set("ko")
    qtbot.waitUntil(lambda: window.composer.field.accessibleName() == "내 메시지")
    named = [w for w in widgets(full_home) if w.focusPolicy() != Qt.FocusPolicy.NoFocus]
    still_english = [
        name_of(w)
        for w in named
        if w.isVisible() and name_of(w) == before.get(id(w)) and name_of(w).isascii()
    ]
    data = {"English", "Light", "100 %", "Undo"}  # notices leave by themselves
    assert [n for n in still_english if n not in data and not n.startswith("Talk")] == []


def test_tab_goes_round_through_the_whole_window(qtbot: QtBot, home: Home) -> None:
    window = home.window
    window.resize(790, 590)
    window.activateWindow()
    window.composer.field.setFocus()
    qtbot.waitUntil(window.composer.field.hasFocus)
    passed: list[QWidget] = []
    for _ in range(60):
        focused = QApplication.focusWidget()
        if focused is None or focused in passed:
            break
        passed.append(focused)
        qtbot.keyClick(focused, Qt.Key.Key_Tab)
    for wanted in (
        window.composer.compare,
        window.conversations.new_button,
        window.conversations.search,
        window.conversations.view,
        window.header.panel_button,
        window.header.sidebar_button,
    ):
        assert wanted in passed, wanted.accessibleName()


def test_reading_order_begins_with_the_side_bar(home: Home) -> None:
    """Tab from the list goes to the header, then to the messages, then to the composer."""
    order: list[QWidget] = []
    widget: QWidget | None = home.window.conversations.new_button
    while widget is not None and widget not in order:
        order.append(widget)
        widget = widget.nextInFocusChain()
    places = [
        order.index(w)
        for w in (
            home.window.conversations.new_button,
            home.window.conversations.view,
            home.window.header.sidebar_button,
            home.window.header.panel_button,
            home.window.composer.field,
        )
    ]
    assert places == sorted(places)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_settings_fit_their_words(open_home: Callable[..., Home], scale: float) -> None:
    home = open_home(settings=Settings(language="ko", font_scale=scale))
    home.window.show_settings()
    dialog = home.window.findChild(SettingsDialog)
    assert dialog is not None
    for button in dialog.findChildren(QAbstractButton):
        if button.isVisible() and button.text():
            assert button.width() >= button.fontMetrics().horizontalAdvance(button.text())


def test_a_curve_tells_its_last_value(theme: Theme, qtbot: QtBot) -> None:
    curve = Curve(theme)
    qtbot.addWidget(curve)
    curve.set_title("Loss")
    for step in range(5000):
        curve.add(step, 1.0 / (step + 1))
    assert curve.accessibleName() == "Loss 0.00"
    assert len(curve.values) <= 2000
    assert curve.values[-1] == pytest.approx(1 / 5000)
    curve.add(10, 0.5)  # resumed further back
    assert curve.values[-1] == 0.5
    assert not curve.grab().isNull()
    curve.clear()
    assert curve.last_value() == ""
    assert not curve.grab().isNull()
