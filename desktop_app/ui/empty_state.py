"""What stands in an empty conversation: a welcome and a few things one could ask."""

from __future__ import annotations

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtWidgets import QVBoxLayout, QWidget

from desktop_app.ui.controls import Button, TextLabel
from desktop_app.ui.theme import Theme


class EmptyState(QWidget):
    """The beginning of a conversation.

    Signals:
        suggestion_chosen(text): a suggestion was clicked.
    """

    suggestion_chosen = Signal(str)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._title = TextLabel("title")
        self._hint = TextLabel("muted")
        self.suggestions = [Button("plain") for _ in range(4)]
        column = QVBoxLayout(self)
        column.setSpacing(8)
        column.addStretch(2)
        for label in (self._title, self._hint):
            label.setAlignment(Qt.AlignmentFlag.AlignHCenter)
            column.addWidget(label)
        column.addSpacing(16)
        for button in self.suggestions:
            button.clicked.connect(self._choose)
            column.addWidget(button, 0, Qt.AlignmentFlag.AlignHCenter)
        column.addStretch(3)
        self._retranslate()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()

    def _choose(self) -> None:
        button = self.sender()
        assert isinstance(button, Button)
        self.suggestion_chosen.emit(button.text())

    def _retranslate(self) -> None:
        self._title.setText(self.tr("What would you like to talk about?"))
        self._hint.setText(
            self.tr("Everything stays on this computer. Rate what you read, and Attune learns.")
        )
        texts = (
            self.tr("Tell me a short story about a lighthouse"),
            self.tr("What can you do?"),
            self.tr("Give me three ideas for a rainy Sunday"),
            self.tr("Say something to cheer me up"),
        )
        for button, text in zip(self.suggestions, texts, strict=True):
            button.setText(text)
