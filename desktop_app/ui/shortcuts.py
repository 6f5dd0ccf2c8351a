"""The keys: one table that makes the actions, the menu and the list on F1."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from PySide6.QtCore import QEvent, QObject, Qt
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QDialog, QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from desktop_app.ui.controls import Button, TextLabel

if TYPE_CHECKING:
    from desktop_app.ui.main_window import MainWindow

# Name, keys; the first keys are the ones that are shown.
_KEYS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("new", ("Ctrl+N",)),
    ("search", ("Ctrl+K", "Ctrl+F")),
    ("regenerate", ("Ctrl+R",)),
    ("stop", ("Esc",)),
    ("undo", ("Ctrl+Z",)),
    ("panel", ("Ctrl+L",)),
    ("sidebar", ("Ctrl+B",)),
    ("larger", ("Ctrl+=", "Ctrl++")),
    ("smaller", ("Ctrl+-",)),
    ("normal", ("Ctrl+0",)),
    ("settings", ("Ctrl+,",)),
    ("help", ("F1",)),
)


class Shortcuts(QObject):
    """The window's actions; ``actions`` holds them by name."""

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self._window = window
        self._dialog: ShortcutsDialog | None = None
        runs: dict[str, Callable[[], None]] = {
            "new": window.new_conversation,
            "search": window.search,
            "regenerate": window.regenerate,
            "stop": window.escape,
            "undo": window.undo_feedback,
            "panel": window.toggle_panel,
            "sidebar": window.toggle_sidebar,
            "larger": lambda: window.zoom(1),
            "smaller": lambda: window.zoom(-1),
            "normal": lambda: window.zoom(0),
            "settings": window.show_settings,
            "help": self.show_list,
        }
        self.actions: dict[str, QAction] = {}
        for name, keys in _KEYS:
            action = QAction(window)
            action.setShortcuts([QKeySequence(key) for key in keys])
            action.setShortcutContext(Qt.ShortcutContext.WindowShortcut)
            action.triggered.connect(runs[name])
            window.addAction(action)
            self.actions[name] = action
        self.retranslate()

    def show_list(self) -> None:
        """F1."""
        if self._dialog is None:
            self._dialog = ShortcutsDialog(self._window)
        self._dialog.show_keys(self.lines())
        self._dialog.show()

    def lines(self) -> list[tuple[str, str]]:
        """(keys, what they do), in the order of the table and then those of single places."""
        native = QKeySequence.SequenceFormat.NativeText
        lines = [
            (QKeySequence(keys[0]).toString(native), self.actions[name].text())
            for name, keys in _KEYS
        ]
        return [
            (self.tr("Enter"), self.tr("Send the message")),
            (self.tr("Shift+Enter"), self.tr("Start a new line")),
            *lines,
            ("F2", self.tr("Rename the conversation (in the list)")),
            (self.tr("Delete"), self.tr("Delete the conversation (in the list)")),
            ("1, 2", self.tr("Choose an answer (when comparing)")),
            ("=, 0", self.tr("Both are good, both are bad (when comparing)")),
        ]

    def retranslate(self) -> None:
        texts = {
            "new": self.tr("New conversation"),
            "search": self.tr("Search in all conversations"),
            "regenerate": self.tr("Write the last answer again"),
            "stop": self.tr("Stop writing"),
            "undo": self.tr("Take the last feedback back"),
            "panel": self.tr("Show or hide the learning panel"),
            "sidebar": self.tr("Show or hide the conversations"),
            "larger": self.tr("Larger text"),
            "smaller": self.tr("Smaller text"),
            "normal": self.tr("Normal text size"),
            "settings": self.tr("Settings"),
            "help": self.tr("Keyboard shortcuts"),
        }
        for name, text in texts.items():
            self.actions[name].setText(text)


class ShortcutsDialog(QDialog):
    """The list of keys."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(32)
        self._grid.setVerticalSpacing(8)
        self._close = Button("primary")
        self._close.clicked.connect(self.close)
        row = QHBoxLayout()
        row.addStretch(1)
        row.addWidget(self._close)
        column = QVBoxLayout(self)
        column.setContentsMargins(24, 20, 24, 20)
        column.setSpacing(16)
        column.addLayout(self._grid)
        column.addLayout(row)
        self._retranslate()

    def show_keys(self, lines: list[tuple[str, str]]) -> None:
        while self._grid.count():
            item = self._grid.takeAt(0)
            widget = item.widget() if item else None
            if widget is not None:
                widget.deleteLater()
        for number, (keys, text) in enumerate(lines):
            for column, (role, words) in enumerate((("strong", keys), ("body", text))):
                label = TextLabel("strong" if role == "strong" else "body", wrap=False)
                label.setText(words)
                self._grid.addWidget(label, number, column)

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def _retranslate(self) -> None:
        self.setWindowTitle(self.tr("Keyboard shortcuts"))
        self._close.setText(self.tr("Done"))
